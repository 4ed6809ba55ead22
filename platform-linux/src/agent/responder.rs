//! DNS of a node that is online: its sockets, where other names are asked, and the file that says so.
//!
//! Life cycle: [`Responder::start`] when the device has its addresses; it serves until the process ends. When the
//! configuration file changes, upstreams and stub domains are taken from it again (row U8), by the same rules as at
//! the start; a file with a mistake changes nothing. Other settings wait for the next start.

use super::cluster_dns::ClusterDns;
use super::command::Handle;
use super::resolver::EngineResolver;
use super::status::Shared;
use crate::cli::{self, Cli, Run};
use crate::dns::cache::Keeping;
use crate::dns::forward::{self, Forwarder};
use crate::dns::{Routes, Server, Sockets, Source, Stats};
use edgemesh_core::rng::Rng;
use edgemesh_host::{config, entropy};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tokio::sync::Notify;
use tokio::task::{JoinHandle, spawn_local};
use tokio::time::{Instant, sleep};

/// How long an address may take to be usable.
const PATIENCE: Duration = Duration::from_secs(5);
/// How often the configuration file is looked at.
const LOOK: Duration = Duration::from_secs(5);

/// The running responder.
pub struct Responder {
    changed: Rc<Notify>,
}

impl Responder {
    /// Listens at `settings.dns`, and at the cluster's own DNS address when that is to be answered here.
    ///
    /// # Errors
    /// What is in the way, named.
    pub async fn start(settings: &Run, handle: Handle, status: Arc<Shared>) -> Result<Self, String> {
        let address = SocketAddr::new(settings.dns, 53);
        let sockets = bind(address).await.map_err(|error| format!("--dns {address}: {error}"))?;
        let seed = entropy::seed().map_err(|error| error.to_string())?;
        let stats = Arc::new(Stats::default());
        status.dns(stats.clone());
        let names = &settings.names;
        let forwarding = forward::Settings {
            keeping: Keeping { stale: names.dns_serve_stale, prefetch: names.dns_prefetch },
            ..forward::Settings::new(Routes {
                source: source(settings),
                stubs: names.stub_domain.clone(),
                own: vec![settings.dns],
            })
        };
        let forwarder = Forwarder::new(forwarding, Rng::new(seed), stats);
        let resolver = EngineResolver { handle: handle.clone(), status: status.clone() };
        let server = Server::new(resolver, forwarder.clone());
        Serving::start(&server, &handle, sockets, settings.dns).await;
        if let Some(path) = settings.config.clone() {
            spawn_local(follow_file(path, forwarder.clone()));
        }
        let changed = Rc::new(Notify::new());
        let cluster = ClusterDns::new(names.dns_vip, settings.dns, handle, server, forwarder, status);
        spawn_local(cluster.run(changed.clone()));
        Ok(Self { changed })
    }

    /// The Service table has changed.
    pub fn table_changed(&self) {
        self.changed.notify_one();
    }
}

/// Sockets at `address`, once the device has it: an address may be tentative for a moment.
pub(super) async fn bind(address: SocketAddr) -> io::Result<Sockets> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match Sockets::bind(&[address]) {
            Err(error) if error.kind() == io::ErrorKind::AddrNotAvailable && Instant::now() < deadline => {
                sleep(Duration::from_millis(20)).await;
            }
            bound => return bound,
        }
    }
}

/// DNS at one address, until it is ended or the process is.
pub(super) struct Serving {
    address: IpAddr,
    rest: JoinHandle<()>,
}

impl Serving {
    /// Serves: datagrams on the data thread, the rest on this one.
    pub(super) async fn start(
        server: &Server<EngineResolver>,
        handle: &Handle,
        sockets: Sockets,
        address: IpAddr,
    ) -> Self {
        let (listeners, rest) = server.clone().serve(sockets);
        for listener in listeners {
            let _ = handle.inspect(move |data| data.listen(address, listener)).await;
        }
        let rest = spawn_local(async move {
            if let Err(error) = rest.await {
                tracing::error!(%error, "DNS has ended");
            }
        });
        Self { address, rest }
    }

    /// It has failed.
    pub(super) fn has_ended(&self) -> bool {
        self.rest.is_finished()
    }

    /// Serves no more; the address is free.
    pub(super) async fn end(self, handle: &Handle) {
        let address = self.address;
        let _ = handle.inspect(move |data| data.unlisten(address)).await;
        self.rest.abort();
        // Aborted, or failed before: either way it is over.
        let _ = self.rest.await;
    }
}

/// Where the node's upstreams come from.
fn source(settings: &Run) -> Source {
    match settings.upstream_dns.as_slice() {
        [] => Source::File("/etc/resolv.conf".into()),
        servers => Source::Fixed(servers.to_vec()),
    }
}

/// Takes upstreams and stub domains from the configuration file whenever it changes.
async fn follow_file(path: PathBuf, forwarder: Rc<Forwarder>) {
    let mut seen = stamp(&path);
    loop {
        sleep(LOOK).await;
        let found = stamp(&path);
        // While it is being replaced there may be none.
        if found == seen || found.is_none() {
            continue;
        }
        seen = found;
        match config::try_parse::<Cli>(std::env::args_os()) {
            Ok(Cli { command: cli::Command::Run(settings) }) => {
                tracing::info!(file = %path.display(), "upstream DNS servers and stub domains are read again");
                forwarder.reroute(|routes| reroute(routes, &settings));
            }
            Ok(_) => {}
            Err(error) => tracing::warn!("the settings before stay: {error}"),
        }
    }
}

fn reroute(routes: &mut Routes, settings: &Run) {
    routes.source = source(settings);
    routes.stubs.clone_from(&settings.names.stub_domain);
}

fn stamp(path: &Path) -> Option<(SystemTime, u64)> {
    let metadata = std::fs::metadata(path).ok()?;
    Some((metadata.modified().ok()?, metadata.len()))
}

/// The addresses that are ours.
pub(super) fn own(link_local: IpAddr, others: impl Iterator<Item = IpAddr>) -> Vec<IpAddr> {
    std::iter::once(link_local).chain(others).collect()
}
