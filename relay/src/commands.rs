//! The commands for operators: each asks the running server over the socket in its state directory, or works on that
//! directory itself when none runs.

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
/// How often it is looked for meanwhile.
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
    let address = existing(&args.common.state_dir)?;
    match admin::post(&address, ORDER_PATH, &serde_json::to_vec(&Order::Restart).map_err(failed)?) {
        Err(ClientError::Unreachable(..)) => drop(open(&args.common.state_dir)?),
        Err(e @ ClientError::Refused(..)) => return Err(failed(e)),
        // It may have gone before its answer had.
        Ok(_) | Err(ClientError::Broken(..)) => wait_for_epoch(&address, epoch)?,
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
    let address = existing(&args.common.state_dir)?;
    let nodes: Vec<NodeView> = match admin::get(&address, "/nodes") {
        Ok(bytes) => serde_json::from_slice(&bytes).map_err(failed)?,
        Err(ClientError::Unreachable(..)) => {
            let (directory, _) = open(&args.common.state_dir)?;
            directory.nodes().iter().map(|(index, node)| NodeView::offline(*index, node)).collect()
        }
        Err(e) => return Err(failed(e)),
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
    let address = existing(state_dir)?;
    let body = serde_json::to_vec(order).map_err(failed)?;
    match admin::post(&address, ORDER_PATH, &body) {
        Ok(output) => Ok(Zeroizing::new(output)),
        Err(ClientError::Unreachable(..)) => {
            let (mut directory, mut rng) = open(state_dir)?;
            let done = order.clone().carry_out(&mut directory, clock::wall().secs, &mut rng);
            done.map(|done| done.output).map_err(failed)
        }
        Err(e) => Err(failed(e)),
    }
}

fn open(state_dir: &Path) -> Result<(Directory, Rng), Failure> {
    let mut state = state::Directory::open(state_dir).map_err(failed)?;
    state.lock().map_err(failed)?;
    let mut rng = Rng::new(entropy::seed().map_err(failed)?);
    let directory = Directory::open(state, &mut rng).map_err(failed)?;
    Ok((directory, rng))
}
