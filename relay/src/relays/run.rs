//! `edgemesh-server run --role relay`: how its parts are put together.

use super::PREFIX;
use super::admin::Admin;
use super::link::{Keys, Upward};
use super::pass::pass_on;
use super::state::State;
use crate::admin::VERSION;
use crate::cli::Run;
use crate::counters::Counters;
use crate::forward::{Membership, Switch, Upstream, serve_tcp, spawn_udp};
use crate::run::{Sockets, named};
use crate::{Failure, accept};
use edgemesh_core::rng::Rng;
use edgemesh_core::wire::control::Preamble;
use edgemesh_host::admin::{self, Listener};
use edgemesh_host::{entropy, registers, signal, state};
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use tokio::net::TcpStream;
use tokio::sync::{OwnedSemaphorePermit, mpsc, watch};

/// What waits to be told to the directory's server.
const NEWS_MAX: usize = 8_192;

/// Runs the relay until SIGTERM or SIGINT.
pub(crate) fn run(args: &Run) -> Result<(), Failure> {
    let failed = |e: &dyn std::fmt::Display| Failure::Failed(e.to_string());
    let mut directory = state::Directory::open(&args.common.state_dir).map_err(|e| failed(&e))?;
    directory.lock().map_err(|e| failed(&e))?;
    let mut rng = Rng::new(entropy::seed().map_err(|e| failed(&e))?);
    let state = State::open(directory, args.join.as_deref(), &mut rng)?;
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|e| failed(&e))?;
    runtime.block_on(serve(args, state, rng))
}

async fn serve(args: &Run, state: State, mut rng: Rng) -> Result<(), Failure> {
    let Sockets { listener, listen, udp } = Sockets::open(args.listen)?;
    registers::forget();
    let counters = Arc::new(Counters::default());
    let (news, news_out) = mpsc::channel(NEWS_MAX);
    let keys = Arc::new(Keys::default());
    let key_of = keys.clone();
    let sender = udp.try_clone().map_err(|e| named("UDP socket", e))?;
    let relay_key = move |index| key_of.get(index);
    let switch = Switch::new(sender, counters.clone(), news, &mut rng, relay_key, Some(Upstream::new()));
    let switch = Arc::new(switch.map_err(|e| named("UDP socket", e))?);
    spawn_udp(switch.clone(), udp).map_err(|e| named("relay thread", e))?;
    let (membership, member) = watch::channel(None);
    let name = state.name().strip_prefix(PREFIX).unwrap_or_default().to_owned();
    let admin = Admin {
        name: name.clone(),
        switch: switch.clone(),
        counters: counters.clone(),
        membership: member.clone(),
    };
    let admin_listener = Listener::bind(&args.admin).await.map_err(|e| Failure::Failed(e.to_string()))?;
    tokio::spawn(admin::serve(admin_listener, Arc::new(admin)));
    tokio::spawn(stay_bound(switch.clone(), member.clone()));
    let news = news_out;
    let upward = Upward { state, switch: switch.clone(), keys, news, membership, rng, report_again: None };
    tokio::spawn(upward.run());
    tokio::spawn(accept::serve(listener, counters, move |stream, peer, what| {
        connection(switch.clone(), member.clone(), (stream, peer), what)
    }));
    tracing::info!(version = VERSION, %listen, relay = name, "relay is up");
    let signal = signal::shutdown().await.map_err(|e| named("signals", e))?;
    tracing::info!(signal, "relay ends");
    args.remove_sockets();
    Ok(())
}

/// Keeps the relay bound wherever it is a member.
async fn stay_bound(switch: Arc<Switch>, mut member: watch::Receiver<Option<Membership>>) {
    loop {
        let membership = *member.borrow_and_update();
        let changed = match membership {
            Some(membership) => tokio::select! {
                () = switch.stay_bound(&membership) => Ok(()),
                changed = member.changed() => changed,
            },
            None => member.changed().await,
        };
        if changed.is_err() {
            return;
        }
    }
}

async fn connection(
    switch: Arc<Switch>,
    member: watch::Receiver<Option<Membership>>,
    (stream, peer): (TcpStream, SocketAddr),
    (preamble, handshake): (Preamble, OwnedSemaphorePermit),
) -> io::Result<()> {
    // Whose they are is the directory's to find out.
    drop(handshake);
    let membership = *member.borrow();
    match preamble {
        Preamble::Control => pass_on(membership, stream, peer).await,
        Preamble::Relay => serve_tcp(&switch, stream, peer).await,
        Preamble::Via => Err(io::Error::other("another relay takes this one for the directory's server")),
    }
}
