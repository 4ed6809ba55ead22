//! The commands for operators: each asks the running server over the socket in its state directory, or works on that
//! directory itself when none runs. One that starts holds the directory before it answers, as another command does for a
//! moment: both are waited for.

use crate::Failure;
use crate::admin::{NodeView, ORDER_PATH};
use crate::cli;
use crate::directory::{Backup, Directory, Invite, NewToken};
use crate::orders::Order;
use crate::relays::PREFIX;
use crate::run::ADMIN_SOCKET;
use edgemesh_core::rng::Rng;
use edgemesh_host::admin::{self, Address, ClientError};
use edgemesh_host::{clock, entropy, state};
use std::io::Write;
use std::path::Path;
use std::time::{Duration, Instant};
use zeroize::Zeroizing;

/// How long a server may take to start again.
const RESTART_WITHIN: Duration = Duration::from_secs(30);
/// How often a server, or the directory without one, is looked for.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

fn failed(error: impl std::fmt::Display) -> Failure {
    Failure::Failed(error.to_string())
}

/// Prints a join token or the cluster's address, and nothing else, to standard output.
pub(crate) fn token(args: cli::Token) -> Result<(), Failure> {
    let relay = args.relay.map(|name| format!("{PREFIX}{name}"));
    let order = Order::Invite(match args.node.or(relay) {
        Some(node) => Invite::Token(NewToken { node, ttl: args.terms.ttl, servers: args.terms.advertise }),
        None => Invite::Cluster(args.terms.advertise),
    });
    print(&order_of(&args.common.state_dir, &order)?)
}

/// Puts a node out.
pub(crate) fn revoke(args: &cli::Revoke) -> Result<(), Failure> {
    print(&order_of(&args.common.state_dir, &Order::Revoke(args.node.clone()))?)
}

/// Prints a token that lets a revoked node in again.
pub(crate) fn rejoin(args: cli::Rejoin) -> Result<(), Failure> {
    let new = NewToken { node: args.node, ttl: args.terms.ttl, servers: args.terms.advertise };
    print(&order_of(&args.common.state_dir, &Order::Rejoin(new))?)
}

/// Gives the directory another key.
pub(crate) fn rotate_key(args: &cli::Common) -> Result<(), Failure> {
    print(&order_of(&args.state_dir, &Order::RotateKey)?)
}

/// Writes a backup.
pub(crate) fn backup(args: &cli::Backup) -> Result<(), Failure> {
    let file = order_of(&args.common.state_dir, &Order::Backup)?;
    state::write_private(&args.file, &file).map_err(failed)
}

/// Restores one; a server that runs starts again with it.
pub(crate) fn restore(args: &cli::Backup) -> Result<(), Failure> {
    let path = &args.file;
    let named = |e: &dyn std::fmt::Display| Failure::Config(format!("{}: {e}", path.display()));
    let file = state::read_secret(path).map_err(|e| Failure::Config(e.to_string()))?;
    let backup = Backup::parse(&file).map_err(|e| named(&e))?;
    let directory = state::Directory::open(&args.common.state_dir).map_err(failed)?;
    let epoch = backup.restore(&directory, clock::wall().secs).map_err(|e| named(&e))?;
    let order = serde_json::to_vec(&Order::Restart).map_err(failed)?;
    let reached = reach(&args.common.state_dir, |address| match admin::post(address, ORDER_PATH, &order) {
        // It may have gone before its answer had.
        Err(ClientError::Broken(..)) => Ok(Vec::new()),
        answer => answer,
    })?;
    if let Reached::Server(_) = reached {
        wait_for_epoch(&existing(&args.common.state_dir)?, epoch)?;
    }
    print(format!("restored; epoch {epoch} begins\n").as_bytes())
}

/// Waits until the server that starts again is there.
fn wait_for_epoch(address: &Address, epoch: u32) -> Result<(), Failure> {
    let deadline = Instant::now() + RESTART_WITHIN;
    loop {
        let status = admin::get(address, "/status").ok();
        let status = status.and_then(|bytes| serde_json::from_slice::<serde_json::Value>(&bytes).ok());
        if status.is_some_and(|status| status["epoch"] == epoch) {
            return Ok(());
        }
        if Instant::now() > deadline {
            return Err(failed(
                "the backup is in place, but the server did not start again with it: see its log",
            ));
        }
        std::thread::sleep(LOOK_AGAIN);
    }
}

/// Lists the nodes.
pub(crate) fn nodes(args: &cli::Nodes) -> Result<(), Failure> {
    let nodes: Vec<NodeView> = match reach(&args.common.state_dir, |address| admin::get(address, "/nodes"))? {
        Reached::Server(bytes) => serde_json::from_slice(&bytes).map_err(failed)?,
        Reached::Directory(directory, _) => {
            directory.nodes().iter().map(|(index, node)| NodeView::offline(*index, node)).collect()
        }
    };
    if args.json {
        let text = serde_json::to_vec_pretty(&nodes).map_err(failed)?;
        return print(&[text.as_slice(), b"\n"].concat());
    }
    let now = clock::wall().secs;
    let lines: String = nodes.iter().map(|node| node.line(now)).collect();
    print(format!("{}{lines}", NodeView::HEAD).as_bytes())
}

fn print(output: &[u8]) -> Result<(), Failure> {
    std::io::stdout().write_all(output).map_err(failed)
}

/// The running server's socket.
fn existing(state_dir: &Path) -> Result<Address, Failure> {
    if !state_dir.is_dir() {
        return Err(Failure::Config(format!(
            "--state-dir: {}: no such directory; accepted: the state directory of a server that has been started",
            state_dir.display()
        )));
    }
    Ok(Address::Unix(state_dir.join(ADMIN_SOCKET)))
}

fn order_of(state_dir: &Path, order: &Order) -> Result<Zeroizing<Vec<u8>>, Failure> {
    let body = serde_json::to_vec(order).map_err(failed)?;
    match reach(state_dir, |address| admin::post(address, ORDER_PATH, &body))? {
        Reached::Server(output) => Ok(Zeroizing::new(output)),
        Reached::Directory(mut directory, mut rng) => {
            let done = order.clone().carry_out(&mut directory, clock::wall().secs, &mut rng);
            done.map(|done| done.output).map_err(failed)
        }
    }
}

/// Who does what a command asks for.
enum Reached {
    /// The running server: its answer.
    Server(Vec<u8>),
    /// The command itself, as no server runs.
    Directory(Box<Directory>, Rng),
}

fn reach(
    state_dir: &Path,
    ask: impl Fn(&Address) -> Result<Vec<u8>, ClientError>,
) -> Result<Reached, Failure> {
    let address = existing(state_dir)?;
    let deadline = Instant::now() + state::LOCK_WITHIN;
    loop {
        match ask(&address) {
            Ok(answer) => return Ok(Reached::Server(answer)),
            Err(ClientError::Unreachable(..)) => {}
            Err(e) => return Err(failed(e)),
        }
        let mut state = state::Directory::open(state_dir).map_err(failed)?;
        match state.try_lock() {
            Ok(()) => {
                let mut rng = Rng::new(entropy::seed().map_err(failed)?);
                let directory = Directory::open(state, &mut rng).map_err(failed)?;
                return Ok(Reached::Directory(Box::new(directory), rng));
            }
            Err(e) if e.is_held() && Instant::now() < deadline => std::thread::sleep(LOOK_AGAIN),
            Err(e) => return Err(failed(e)),
        }
    }
}
