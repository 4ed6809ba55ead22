//! The directory's end: who came by which relay, and what that relay has to know.
//!
//! Nothing is kept here: who is connected by whom is the hub's, who is bound where the switch's. A relay that has just
//! connected is told everything, then what changes. What does not fit into its queue is lost: a node whose session its
//! relay does not know looks up again.

use super::{ToDirectory, ToRelay, VIA_REST, read_via};
use crate::control::{Origin, Sender, Shared, push};
use crate::counters::Loss;
use crate::forward::Met;
use blake2::Blake2sMac;
use blake2::digest::consts::U32;
use blake2::digest::{KeyInit, Mac};
use edgemesh_core::wire::control::ToNode;
use std::io;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;

/// What names of relays begin with; no node's name has a slash.
pub(crate) const PREFIX: &str = "relay/";

/// No node's binds get so far. A relay that lies about them leaves the node room to go on above.
const EPOCH_MAX: u64 = 1 << 62;

/// Reads by whom a control connection is passed on.
pub(crate) async fn accept(shared: &Shared, stream: &mut TcpStream) -> io::Result<Origin> {
    let mut rest = [0; VIA_REST];
    stream.read_exact(&mut rest).await?;
    let directory = shared.directory();
    let is_relay =
        |index: &u32| directory.nodes().get(index).is_some_and(|node| node.name.starts_with(PREFIX));
    let key = |index| Some(index).filter(is_relay).and_then(|index| directory.relay_key(index));
    let (relay, peer) = read_via(&rest, key).ok_or(io::ErrorKind::PermissionDenied)?;
    Ok(Origin { peer, via: Some(relay) })
}

/// The key of a node's binds with the server that its control connection comes by.
pub(crate) fn key_by(key: [u8; 32], via: Option<u32>) -> [u8; 32] {
    let Some(relay) = via else { return key };
    let mut mac = <Blake2sMac<U32> as KeyInit>::new((&key).into());
    mac.update(&relay.to_le_bytes());
    mac.finalize().into_bytes().into()
}

/// The node's control connection comes by this relay, if by any.
pub(crate) fn attached(shared: &Shared, index: u32, via: Option<u32>) {
    let Some(relay) = via else { return };
    for message in about(shared, relay, index) {
        tell(shared, relay, &message);
    }
}

/// These are the relay sessions between two nodes.
pub(crate) fn sessions(shared: &Shared, a: u32, b: u32, (there, back): (u32, u32)) {
    let [one, other] = [a, b].map(|index| shared.hub.get(index).and_then(|connected| connected.via));
    for relay in one.into_iter().chain(other.filter(|relay| one != Some(*relay))) {
        tell(shared, relay, &ToRelay::Session { session: there, from: a, to: b });
        tell(shared, relay, &ToRelay::Session { session: back, from: b, to: a });
    }
}

/// The node is no concern of this relay's any more.
pub(crate) fn gone(shared: &Shared, relay: u32, index: u32) {
    tell(shared, relay, &ToRelay::Gone { index });
}

/// Tells a relay that has connected all that it has to know.
pub(crate) async fn tell_all(shared: &Shared, sender: &mut Sender, relay: u32) -> io::Result<()> {
    let nodes = shared.hub.by(relay);
    let all: Vec<ToRelay> = nodes.into_iter().flat_map(|index| about(shared, relay, index)).collect();
    for message in all {
        let body = postcard::to_allocvec(&message).map_err(io::Error::other)?;
        sender.message(&ToNode::Relay(&body)).await?;
    }
    Ok(())
}

fn about(shared: &Shared, relay: u32, index: u32) -> Vec<ToRelay> {
    let Some(key) = shared.directory().relay_key(index) else { return Vec::new() };
    let mut all = vec![ToRelay::Node { index, key: key_by(key, Some(relay)) }];
    for other in shared.switch.partners(index) {
        let (there, back) = shared.switch.sessions(index, other, &mut shared.rng());
        all.push(ToRelay::Session { session: there, from: index, to: other });
        all.push(ToRelay::Session { session: back, from: other, to: index });
    }
    all
}

/// A relay says something; it is told where it is wrong. What has to be told to a node is returned.
pub(crate) fn heard(shared: &Shared, relay: u32, body: &[u8]) -> Option<Met> {
    match postcard::from_bytes(body) {
        Ok(ToDirectory::Bound { index, epoch }) if epoch <= EPOCH_MAX && speaks_for(shared, relay, index) => {
            shared.switch.bound_via(relay, index, epoch);
        }
        Ok(ToDirectory::Bound { index, .. }) => {
            shared.counters.count(Loss::Relay, 1);
            gone(shared, relay, index);
        }
        Ok(ToDirectory::Unbound { index }) => shared.switch.unbound_via(relay, index),
        Ok(ToDirectory::Met { from, to }) if [from, to].iter().any(|n| speaks_for(shared, relay, *n)) => {
            return Some(Met { from, to });
        }
        Ok(ToDirectory::Met { .. }) => shared.counters.count(Loss::Relay, 1),
        // Of the future.
        Err(_) => {}
    }
    None
}

/// Whether the node came by this relay; while it has no control connection, whether it is bound there, or nowhere.
fn speaks_for(shared: &Shared, relay: u32, index: u32) -> bool {
    match shared.hub.get(index) {
        Some(connected) => connected.via == Some(relay),
        None => {
            let is_member = shared.directory().relay_key(index).is_some();
            is_member && (shared.switch.is_via(relay, index) || shared.switch.binding(index).is_none())
        }
    }
}

fn tell(shared: &Shared, relay: u32, message: &ToRelay) {
    if let Ok(body) = postcard::to_allocvec(message) {
        push(shared, relay, &ToNode::Relay(&body));
    }
}
