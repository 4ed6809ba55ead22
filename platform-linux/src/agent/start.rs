//! From settings to a running agent, and from a signal to its end.

use super::admin::Admin;
use super::command::{Command, Handle};
use super::data::{Data, Outputs};
use super::join::{self, Join};
use super::state::{Membership, State};
use super::{control, domain, kept, locals, privileges, prober, psk, source};
use crate::cli::{self, DnsPods, Run, Source};
use crate::clock;
use crate::interception;
use crate::poll::Poller;
use crate::sys::mapping;
use crate::tun::{DEFAULT_MTU, DEFAULT_NAME, Tun};
use crate::udp::Socket;
use edgemesh_core::control::{Authority, Credentials, Feed};
use edgemesh_core::node::{Config, Engine};
use edgemesh_core::service::Reached;
use edgemesh_core::wire::control::Revocation;
use edgemesh_core::{dns, path};
use edgemesh_host::{admin, entropy, memory, registers, signal, token};
use std::io;
use std::net::{Ipv6Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

edgemesh_core::memory! {
    /// All of it is `.bss`: what is not used costs no memory. Replay windows are of 8,128 counters.
    struct AgentMemory {
        peers: 1_024,
        window: 128,
        handshakes: 1_024,
        flows: FLOWS,
        admitted: FLOWS,
        services: 16_384,
        ports: 32_768,
        endpoints: 65_536,
        names: 49_152,
        namespaces: 8_192,
        side: 1_024,
    }
}
const FLOWS: usize = 65_536;
static MEMORY: Mutex<AgentMemory> = Mutex::new(AgentMemory::ZERO);
static REACHED: Mutex<[Reached; 1_024]> = Mutex::new([Reached::EMPTY; 1_024]);
static REVOKED: Mutex<[Revocation; join::NAMED]> = Mutex::new([Revocation::NONE; join::NAMED]);

/// Why the agent cannot run.
#[derive(Debug)]
pub enum RunError {
    /// A setting is wrong; the text names it.
    Usage(String),
    /// Something else is in the way; the text names it.
    Failed(String),
}

fn failed(error: impl std::fmt::Display) -> RunError {
    RunError::Failed(error.to_string())
}

/// Runs the agent until a signal ends it.
///
/// # Errors
/// What is in the way of starting, or the loss of the TUN device.
pub fn run(settings: Run) -> Result<(), RunError> {
    check(&settings).map_err(RunError::Usage)?;
    memory::keep_private().map_err(failed)?;
    let state = State::open(&settings.state_dir).map_err(failed)?;
    let invitation = settings.join.as_deref().map(token::from_argument).transpose();
    let invitation = invitation.map_err(|error| RunError::Usage(format!("--join: {error}")))?;
    let membership = state.membership(&settings.node, invitation).map_err(RunError::Usage)?;
    privileges::check().map_err(RunError::Failed)?;
    if let Some(joined) = &membership.joined {
        interception::check(&join::plan(&settings, joined, interception::Wanted::default()))
            .map_err(failed)?;
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(failed)?;
    runtime.block_on(run_async(settings, state, membership))
}

/// What clap cannot see.
fn check(settings: &Run) -> Result<(), String> {
    if !settings.entry.node_ports && !settings.entry.nodeport_addresses.is_empty() {
        let text = "--nodeport-addresses: nothing has NodePorts here; accepted: with --node-ports only";
        return Err(text.to_owned());
    }
    let on_demand = settings.feed == cli::Feed::OnDemand;
    if on_demand && settings.source != Source::Server {
        return Err(format!(
            "--feed: on-demand with --source {}; accepted: --source server",
            settings.source
        ));
    }
    if on_demand && settings.service_cidr.is_empty() {
        // A VIP that is not known yet would have no route, and its first packets would go elsewhere.
        return Err(
            "--feed: on-demand without --service-cidr; accepted: the cluster's Service CIDRs".to_owned()
        );
    }
    Ok(())
}

async fn run_async(settings: Run, state: State, membership: Membership) -> Result<(), RunError> {
    let listener = admin::Listener::bind(&settings.admin).await.map_err(failed)?;
    let sockets = bind(settings.listen)?;
    let tun = Tun::open(DEFAULT_NAME, DEFAULT_MTU).map_err(failed)?;
    let engine = engine(&settings, &state, &membership)?;
    let key = token::fingerprint(&engine.tunnels().public().0);

    let poller = Poller::new().map_err(failed)?;
    let (handle, inputs) = Handle::new(poller.waker());
    let (frames, frames_out) = mpsc::unbounded_channel();
    let (relay, relay_wanted) = watch::channel(None);
    let (notes, mut notes_in) = mpsc::unbounded_channel();
    let outputs = Outputs { frames, relay, notes };
    let data = Data::new(engine, poller, tun, sockets, outputs);
    // The node's keys have come to where they stay; threads begin with the registers of this one.
    registers::forget();
    let thread =
        std::thread::Builder::new().name("data".into()).spawn(move || data.run(&inputs)).map_err(failed)?;

    let servers = membership.servers.clone();
    let local = tokio::task::LocalSet::new();
    let ended = local
        .run_until(async {
            let mut join = Join::new(&settings, state, membership, handle.clone());
            join.status().key(key);
            join.restore().await;
            // Beside the rest of the start: what an earlier run left in the kernel serves already.
            tokio::task::spawn_local(control::keep_relay(handle.clone(), relay_wanted));
            tokio::task::spawn_local(control::keep_connected(handle.clone(), servers, frames_out));
            tokio::task::spawn_local(locals::keep_told(handle.clone(), settings.listen.port()));
            if let Some(path) = &settings.mesh_psk {
                tokio::task::spawn_local(psk::keep_current(handle.clone(), path.clone()));
            }
            if let Err(error) = join.go_online().await {
                let _ = handle.inspect(Data::withdraw_device).await;
                return Err(failed(error));
            }
            let private = matches!(settings.admin, admin::Address::Unix(_));
            let rotations = private.then(|| join.rotations());
            let admin = Arc::new(Admin::new(handle.clone(), join.status(), rotations));
            tokio::task::spawn_local(admin::serve(listener, admin));
            let prober = prober::keep_probing(handle.clone(), join.status(), settings.source.clone());
            tokio::task::spawn_local(prober);
            if let Some((heard, found)) = join.domain() {
                let proving = domain::keep_proving(handle.clone(), join.status(), heard, found);
                tokio::task::spawn_local(proving);
            }
            let _source = source::follow(&settings, &join)?;
            let shutdown = signal::shutdown();
            tokio::pin!(shutdown);
            let mut stop_at = None;
            let ended = loop {
                tokio::select! {
                    signal = &mut shutdown, if stop_at.is_none() => {
                        tracing::info!(signal = signal.map_err(failed)?, "stopping; device, routes and state stay for the next run");
                        join.status().stopping();
                        stop_at = Some(Instant::now() + settings.names.lameduck.unwrap_or_default());
                    }
                    () = join::until(stop_at) => break Ok(()),
                    work = join.next() => join.work(work).await,
                    note = notes_in.recv() => match note {
                        Some(note) => if let Err(error) = join.take(note).await {
                            break Err(failed(error));
                        },
                        None => break Err(failed("the data thread has ended")),
                    },
                }
            };
            join.finish().await;
            if !join.is_online() {
                let _ = handle.inspect(Data::withdraw_device).await;
            }
            ended
        })
        .await;
    handle.send(Command::Stop);
    match thread.join() {
        Ok(Ok(_)) => ended,
        Ok(Err(error)) => Err(failed(format!("data thread: {error}"))),
        Err(_) => Err(failed("the data thread panicked")),
    }
}

/// The tunnel sockets. When every IPv4 address is listened on, every IPv6 address is too, if the machine has any.
fn bind(listen: SocketAddr) -> Result<[Option<Socket>; 2], RunError> {
    let open = |address: SocketAddr| {
        Socket::bind(address).map_err(|error| failed(format!("--listen {address} (UDP): {error}")))
    };
    let first = open(listen)?;
    if listen.is_ipv6() {
        return Ok([None, Some(first)]);
    }
    let second = match Socket::bind((Ipv6Addr::UNSPECIFIED, listen.port()).into()) {
        Ok(socket) if listen.ip().is_unspecified() => Some(socket),
        Ok(_) => None,
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
            return Err(failed(format!("--listen [::]:{} (UDP): {error}", listen.port())));
        }
        Err(_) => None,
    };
    Ok([Some(first), second])
}

fn engine(settings: &Run, state: &State, membership: &Membership) -> Result<Engine<'static>, RunError> {
    let seed = || entropy::seed().map_err(failed);
    let fresh = seed()?;
    let identity = state.identity(|| fresh).map_err(failed)?;
    let domain = super::status::domain(membership);
    let domain =
        dns::Domain::new(domain).map_err(|_| failed(format!("cluster domain {domain:?} is no name")))?;
    let name = heapless::String::try_from(settings.node.as_str())
        .map_err(|_| RunError::Usage("--node: longer than 253 characters".into()))?;
    let joined = membership.joined.as_ref();
    let memory = Box::leak(Box::new(MEMORY.lock().unwrap_or_else(PoisonError::into_inner)));
    // The keys of all sessions are in it.
    mapping::undumped(&**memory).map_err(failed)?;
    let reached = Box::leak(Box::new(REACHED.lock().unwrap_or_else(PoisonError::into_inner)));
    let revoked = Box::leak(Box::new(REVOKED.lock().unwrap_or_else(PoisonError::into_inner)));
    let config = Config {
        identity,
        credentials: Credentials {
            name,
            secret: membership.secret.as_slice().try_into().ok(),
            account: true,
            agent: crate::BUILD,
            feed: match (settings.source == Source::Server, settings.feed) {
                (true, cli::Feed::Whole) => Feed::Whole,
                (true, cli::Feed::OnDemand) => Feed::OnDemand,
                (false, _) => Feed::None,
            },
        },
        authority: Authority {
            root: membership.root,
            directory: joined.map_or([0; 32], |j| j.directory_key),
            epoch: joined.map_or(0, |j| j.epoch),
        },
        dns: dns::Settings {
            domain,
            ttl: settings.names.dns_ttl,
            negative_ttl: settings.names.dns_ttl,
            address: Some(settings.dns),
            pods: match settings.names.dns_pods {
                DnsPods::Insecure => dns::PodRecords::Insecure,
                DnsPods::Verified => dns::PodRecords::Verified,
                DnsPods::Disabled => dns::PodRecords::Disabled,
            },
            recursion: true,
        },
        paths: path::Config { inner_mtu_max: DEFAULT_MTU as u16 },
        stamp: state.stamp(),
        seed: seed()?,
    };
    let resources = match kept::open(state.root(), FLOWS, FLOWS) {
        Ok((flows, admitted)) => memory.lend().with_flows(flows, admitted),
        Err(error) => {
            tracing::warn!(%error, "connections will not survive a restart of the agent: no RAM disk to keep them on");
            memory.lend()
        }
    };
    let resources = resources.with_reached(reached.as_mut_slice()).with_revoked(revoked.as_mut_slice());
    let mut engine = Engine::new(clock::now(), resources, config);
    if settings.feed == cli::Feed::OnDemand {
        engine.hold_on_demand();
    }
    let before =
        state.key_before().filter(|before| !before.left(clock::wall().secs, Duration::MAX).is_zero());
    if let Some(before) = before {
        engine.answer_to(before.secret());
    }
    if let Some(path) = &settings.mesh_psk {
        engine.set_psk(psk::read(path).map_err(|why| RunError::Usage(format!("--mesh-psk: {why}")))?);
    }
    Ok(engine)
}
