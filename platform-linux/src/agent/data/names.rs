//! DNS queries: those in datagrams, read here, and those that the async thread passes on.

use super::Data;
use super::ready::{NAMES, Ready};
use super::waiting::Query;
use crate::agent::command::QueryReply;
use crate::agent::pod_names::PodNames;
use crate::clock;
use crate::dns::Listener;
use crate::poll::Interest;
use edgemesh_core::dns::{Transport, Verdict};
use edgemesh_core::node::Engine;
use edgemesh_core::time::Instant;
use std::net::IpAddr;

/// The link-local address and the cluster's own, of each family.
pub(super) const LISTENERS: usize = 4;
/// Queries of one socket in one turn.
const QUERIES: usize = 32;

impl Data {
    /// Reads queries there from now on. Beyond [`LISTENERS`] nobody reads.
    pub fn listen(&mut self, address: IpAddr, listener: Listener) {
        let free = (NAMES..).zip(&mut self.names).find(|(_, place)| place.is_none());
        let Some((token, place)) = free else { return };
        match self.poller.add(&listener, Interest::Read, token) {
            Ok(()) => *place = Some((address, listener)),
            Err(error) => tracing::error!(%address, %error, "names are not answered"),
        }
    }

    /// Reads none for this address any more.
    pub fn unlisten(&mut self, address: IpAddr) {
        for place in &mut self.names {
            if place.as_ref().is_some_and(|(known, _)| *known == address)
                && let Some((_, listener)) = place.take()
            {
                // The async thread may hold it for an answer still.
                let _ = self.poller.remove(&listener);
            }
        }
    }

    /// Answers what waits at the ready sockets, up to a turn of each.
    pub(super) fn read_names(&mut self, ready: Ready) {
        for (place, _) in self.names.iter_mut().zip(ready.names).filter(|(_, ready)| *ready) {
            let Some((_, listener)) = place else { continue };
            let now = clock::now();
            let (engine, pods) = (&mut self.engine, &self.pods);
            listener.read(QUERIES, |query, out| resolve(engine, pods, now, Transport::Udp, query, out));
        }
        if ready.names.contains(&true) {
            self.drain(clock::now());
        }
    }

    /// Answers a query of the async thread's, or keeps it until it can be answered.
    pub(super) fn query(&mut self, now: Instant, query: Query) {
        let mut answer = vec![0; usize::from(u16::MAX)];
        let (engine, pods) = (&mut self.engine, &self.pods);
        let verdict = resolve(engine, pods, now, query.transport, &query.query, &mut answer);
        match verdict {
            Verdict::Wait(key) if self.engine.link().is_up() => return self.waiting.keep(key, query),
            Verdict::Answer { len, .. } | Verdict::Chase { len } => answer.truncate(len),
            _ => {}
        }
        let learnt = if query.waited { self.answers } else { 0 };
        let _ = query.reply.send(QueryReply { verdict, answer, learnt });
    }
}

/// Answers a query into `out`, with what is known of pods.
fn resolve(
    engine: &mut Engine<'static>,
    pods: &Option<PodNames>,
    now: Instant,
    transport: Transport,
    query: &[u8],
    out: &mut [u8],
) -> Verdict {
    if let Some(pods) = pods {
        engine.answer_pods(pods.records(query));
    }
    engine.query(now, transport, query, out)
}
