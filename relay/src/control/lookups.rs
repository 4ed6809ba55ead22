//! Who is told of whom: a node that looks another up, the one that is looked up, and both when they can be reached again.

use super::Shared;
use super::session::Sender;
use crate::counters::Loss;
use crate::forward::{Met, News};
use crate::relays;
use edgemesh_core::wire::control::{PLAINTEXT_MAX, Peer, SignedRecord, ToNode};
use edgemesh_host::token::fingerprint;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use tokio::sync::mpsc;

/// Answers with the record of `found`, and gives the record of the asking node to it.
pub(super) async fn lookup(
    shared: &Shared,
    sender: &mut Sender,
    found: Option<u32>,
    asked_index: u32,
    asked_name: &str,
) -> io::Result<()> {
    shared.counters.lookups.fetch_add(1, Relaxed);
    let asker = sender.index;
    let records = {
        let directory = shared.directory();
        if directory.record(asker).is_none() {
            return Err(io::ErrorKind::PermissionDenied.into()); // revoked meanwhile
        }
        found.and_then(|index| Some((index, directory.record(index)?, directory.record(asker)?)))
    };
    let Some((index, theirs, own)) = records else {
        return sender.message(&ToNode::NoPeer { index: asked_index, name: asked_name }).await;
    };
    let (there, back) = if index == asker { (0, 0) } else { sessions(shared, asker, index) };
    if index != asker {
        push(shared, index, &peer(&own, back, there));
    }
    sender.message(&peer(&theirs, there, back)).await
}

/// Gives the node the key that it asks for, and tells it and those that it has relay sessions with.
pub(super) async fn rekey(shared: &Shared, sender: &mut Sender, key: [u8; 32]) -> io::Result<()> {
    let (index, now) = (sender.index, edgemesh_host::clock::wall().secs);
    let (changed, record) = {
        let mut directory = shared.directory();
        let changed = directory.rekey(index, sender.key, key, now).map_err(io::Error::other)?;
        (changed, directory.record(index).ok_or(io::ErrorKind::PermissionDenied)?)
    };
    if changed {
        tracing::info!(index, key = fingerprint(&key), "node has another key");
        for other in shared.switch.partners(index) {
            let (there, back) = sessions(shared, other, index);
            push(shared, other, &peer(&record, there, back));
        }
    } else {
        tracing::warn!(
            index,
            "a node asked for another key and keeps its own: it was changed less than an hour ago"
        );
    }
    sender.message(&ToNode::Rekeyed(SignedRecord { record: &record.0, signature: &record.1 })).await
}

/// Hears what the relay has to say, for ever.
pub(crate) async fn follow_switch(mut news: mpsc::Receiver<News>, shared: Arc<Shared>) {
    while let Some(news) = news.recv().await {
        match news {
            News::Met(met) => introduce(&shared, met),
            News::Left { relay, index } => relays::gone(&shared, relay, index),
            // Nobody else is to know.
            News::Bound { .. } | News::Unbound { .. } => {}
        }
    }
}

/// Tells a node of another that it could not reach and can now.
pub(super) fn introduce(shared: &Shared, Met { from, to }: Met) {
    let record = shared.directory().record(to);
    if let Some(record) = record {
        let (there, back) = sessions(shared, from, to);
        push(shared, from, &peer(&record, there, back));
    }
}

/// The relay sessions between two nodes, there and back, which their relays know as well.
fn sessions(shared: &Shared, a: u32, b: u32) -> (u32, u32) {
    let sessions = shared.switch.sessions(a, b, &mut shared.rng());
    relays::sessions(shared, a, b, sessions);
    sessions
}

/// Says something to a node that did not ask, if it is connected.
pub(crate) fn push(shared: &Shared, index: u32, message: &ToNode<'_>) {
    let mut out = [0; PLAINTEXT_MAX];
    if let Ok(len) = message.encode(&mut out)
        && shared.hub.push(index, out.get(..len).unwrap_or_default().to_vec()) == Some(false)
    {
        shared.counters.count(Loss::Push, 1);
    }
}

fn peer(signed: &(Vec<u8>, [u8; 64]), send_session: u32, receive_session: u32) -> ToNode<'_> {
    let record = SignedRecord { record: &signed.0, signature: &signed.1 };
    ToNode::Peer(Peer { record, send_session, receive_session })
}
