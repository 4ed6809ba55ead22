//! `edgemesh-server run`: how the parts are put together.

use crate::Failure;
use crate::admin::{Admin, VERSION};
use crate::cli::{MeshPrefix, Role, Run};
use crate::control::{self, Accounts, Shared};
use crate::counters::Counters;
use crate::directory::{Directory, Settings};
use crate::feed::Feed;
use crate::forward::{Switch, spawn_udp};
use crate::{accept, relays, source};
use edgemesh_core::rng::Rng;
use edgemesh_core::wire::control::Network;
use edgemesh_host::admin::{self, Address, Listener};
use edgemesh_host::{entropy, registers, signal, state, tcp};
use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::net::TcpListener;
use tokio::sync::mpsc;

/// The privileged admin socket, in the state directory.
pub(crate) const ADMIN_SOCKET: &str = "admin.sock";
/// News on their way from the relay to the control connections.
const NEWS_MAX: usize = 1_024;

/// Runs the server until SIGTERM or SIGINT.
pub(crate) fn run(args: &Run) -> Result<(), Failure> {
    check(args)?;
    raise_file_limit();
    if !args.role.contains(&Role::Directory) {
        return relays::run(args);
    }
    let failed = |e: &dyn std::fmt::Display| Failure::Failed(e.to_string());
    let mut state = state::Directory::open(&args.common.state_dir).map_err(|e| failed(&e))?;
    state.lock().map_err(|e| failed(&e))?;
    let mut rng = Rng::new(entropy::seed().map_err(|e| failed(&e))?);
    let directory = Directory::open(state, &mut rng).map_err(|e| failed(&e))?;
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|e| failed(&e))?;
    runtime.block_on(serve(args, directory, rng))
}

async fn serve(args: &Run, mut directory: Directory, mut rng: Rng) -> Result<(), Failure> {
    let Sockets { listener, listen, udp } = Sockets::open(args.listen)?;
    let settings = settings(args, listen, directory.settings(), &mut rng)?;
    directory.set_settings(settings).map_err(|e| Failure::Failed(e.to_string()))?;
    let held = directory.held().map_err(|e| Failure::Failed(e.to_string()))?;
    let directory = Arc::new(Mutex::new(directory));
    // Its keys have come to where they stay; from here on threads are made.
    registers::forget();
    let counters = Arc::new(Counters::default());
    let sender = udp.try_clone().map_err(|e| named("UDP socket", e))?;
    let keys = directory.clone();
    let relay_key = move |index| keys.lock().unwrap_or_else(PoisonError::into_inner).relay_key(index);
    let (news, news_out) = mpsc::channel(NEWS_MAX);
    let switch = Switch::new(sender, counters.clone(), news, &mut rng, relay_key, None);
    let switch = Arc::new(switch.map_err(|e| named("UDP socket", e))?);
    let relays = args.role.contains(&Role::Relay);
    if relays {
        spawn_udp(switch.clone(), udp).map_err(|e| named("relay thread", e))?;
    }
    let feed = Arc::new(Feed::new(args.exit.clone()));
    held.iter().for_each(|bytes| feed.restore_held(bytes));
    tokio::spawn(feed.clone().follow_nodes(directory.clone()));
    let accounts = Accounts::new(source::reviewer(args)?);
    let _source = source::follow(args, &directory, &feed, &counters)?;
    let shared = Arc::new(Shared::new(directory, switch, relays, feed, accounts, counters.clone(), rng));
    serve_admin(args, &shared).await?;
    tokio::spawn(control::follow_switch(news_out, shared.clone()));
    let nodes = shared.clone();
    let connection = move |stream, peer, what| control::connection(nodes.clone(), stream, peer, what);
    tokio::spawn(accept::serve(listener, counters, connection));
    tracing::info!(version = VERSION, %listen, state = %args.common.state_dir.display(), "server is up");
    let again = tokio::select! {
        signal = signal::shutdown() => {
            let signal = signal.map_err(|e| named("signals", e))?;
            tracing::info!(signal, "server ends");
            false
        }
        () = shared.restart.notified() => true,
    };
    // Everything that matters is on disk already; sockets in the state directory go with their listeners.
    args.remove_sockets();
    if again {
        tracing::info!("server starts again");
        return Err(start_again());
    }
    Ok(())
}

/// What errors of the system are reported with.
pub(crate) fn named(what: &str, error: io::Error) -> Failure {
    Failure::Failed(format!("{what}: {error}"))
}

/// Where nodes reach this server.
pub(crate) struct Sockets {
    pub(crate) listener: TcpListener,
    pub(crate) listen: SocketAddr,
    pub(crate) udp: UdpSocket,
}

impl Sockets {
    /// UDP and TCP at one address. Port 0 is one of the system's choice: it is free for TCP, and where another process
    /// has it for UDP the system chooses again.
    pub(crate) fn open(listen: SocketAddr) -> Result<Self, Failure> {
        let mut choices = if listen.port() == 0 { 16 } else { 1 };
        loop {
            let listener = tcp::listen(listen).map_err(|e| named(&format!("--listen {listen} (TCP)"), e))?;
            let bound = listener.local_addr().map_err(|e| named("--listen", e))?;
            choices -= 1;
            match UdpSocket::bind(bound) {
                Ok(udp) => return Ok(Self { listener, listen: bound, udp }),
                Err(e) if choices > 0 && e.kind() == io::ErrorKind::AddrInUse => {}
                Err(e) => return Err(named(&format!("--listen {bound} (UDP)"), e)),
            }
        }
    }
}

impl Run {
    /// Removes the admin sockets.
    pub(crate) fn remove_sockets(&self) {
        let _ = std::fs::remove_file(self.common.state_dir.join(ADMIN_SOCKET));
        if let Address::Unix(path) = &self.admin {
            let _ = std::fs::remove_file(path);
        }
    }
}

/// Becomes the same program anew, with the same words; nothing of this life is kept but the state directory. Returns
/// only when that fails.
fn start_again() -> Failure {
    let mut words = std::env::args_os();
    let name = words.next().unwrap_or_default();
    let error = Command::new("/proc/self/exe").arg0(name).args(words).exec();
    Failure::Failed(format!("cannot start again: {error}"))
}

async fn serve_admin(args: &Run, shared: &Arc<Shared>) -> Result<(), Failure> {
    let private = Address::Unix(args.common.state_dir.join(ADMIN_SOCKET));
    for (address, privileged) in [(&private, true), (&args.admin, false)] {
        let listener = Listener::bind(address).await.map_err(|e| Failure::Failed(e.to_string()))?;
        let handler = Admin {
            shared: shared.clone(),
            has_source: args.manifests.is_some() || args.kubernetes,
            privileged,
        };
        tokio::spawn(admin::serve(listener, Arc::new(handler)));
    }
    Ok(())
}

/// What clap cannot see.
fn check(args: &Run) -> Result<(), Failure> {
    if !args.role.contains(&Role::Directory) {
        return check_relay(args);
    }
    if args.join.is_some() {
        return Err(Failure::Config(
            "--join: this server is the directory that others join; accepted: only with --role relay"
                .to_owned(),
        ));
    }
    if args.kubernetes && args.manifests.is_some() {
        return Err(Failure::Config(
            "--kubernetes: there are --manifests as well; accepted: one of the two".to_owned(),
        ));
    }
    if let Some(path) = &args.manifests {
        std::fs::read_dir(path).map_err(|e| {
            Failure::Config(format!("--manifests: {}: {e}; accepted: a readable directory", path.display()))
        })?;
    }
    Ok(())
}

/// What a server without a directory has no use for is refused, not ignored: it does not do what it says.
fn check_relay(args: &Run) -> Result<(), Failure> {
    let useless = [
        ("--manifests", args.manifests.is_some()),
        ("--kubernetes", args.kubernetes),
        ("--service-account", args.service_account.is_some()),
        ("--exit", !args.exit.is_empty()),
        ("--advertise", !args.advertise.is_empty()),
        ("--mesh-cidr", args.mesh_cidr.is_some()),
    ];
    match useless.into_iter().find(|(_, given)| *given) {
        Some((flag, _)) => Err(Failure::Config(format!(
            "{flag}: this server only relays (--role relay); accepted: at the directory's server"
        ))),
        None => Ok(()),
    }
}

/// The settings of this run; the network is the one of the first.
fn settings(
    args: &Run,
    listen: SocketAddr,
    stored: Option<&Settings>,
    rng: &mut Rng,
) -> Result<Settings, Failure> {
    let network = match stored {
        Some(stored) => {
            let prefix = MeshPrefix::of(&stored.network);
            if let Some(wanted) = args.mesh_cidr.filter(|wanted| *wanted != prefix) {
                return Err(Failure::Config(format!(
                    "--mesh-cidr: value {wanted}; accepted: {prefix}, which this cluster's nodes have addresses in"
                )));
            }
            stored.network
        }
        None => {
            let prefix = args.mesh_cidr.unwrap_or(MeshPrefix::DEFAULT);
            // RFC 4193: fd, 40 random bits, a subnet, and here 64 bits for us.
            let [a, b, c, d, e] = rng.bytes();
            let mesh_v6 = [0xFD, a, b, c, d, e, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
            Network { mesh_v4: prefix.address, mesh_v4_len: prefix.len, mesh_v6 }
        }
    };
    Ok(Settings { network, domain: args.cluster_domain.clone(), servers: advertised(args, listen) })
}

/// What join tokens name: as told, or where the server listens, or the address that this machine sends from.
fn advertised(args: &Run, listen: SocketAddr) -> Vec<String> {
    if !args.advertise.is_empty() {
        return args.advertise.clone();
    }
    if !listen.ip().is_unspecified() {
        return vec![listen.to_string()];
    }
    let found = own_address(listen.is_ipv4());
    if let Some(ip) = found {
        tracing::warn!(%ip, "no --advertise: join tokens will name this machine's own address");
    }
    found.map(|ip| SocketAddr::new(ip, listen.port()).to_string()).into_iter().collect()
}

/// The address that a packet to far away would have; nothing is sent.
fn own_address(v4: bool) -> Option<IpAddr> {
    let (local, far) = if v4 { ("0.0.0.0:0", "192.0.2.1:9") } else { ("[::]:0", "[2001:db8::1]:9") };
    let socket = UdpSocket::bind(local).ok()?;
    socket.connect(far).ok()?;
    socket.local_addr().ok().map(|address| address.ip())
}

/// A control connection is an open file: as many as the system allows.
fn raise_file_limit() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
}
