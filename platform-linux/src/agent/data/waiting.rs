//! DNS queries that wait for the server's answer about a name: kept here, asked again when the engine says so.
//!
//! At most [`QUERIES`]; beyond that, and when no answer comes, the asker is told of a failure.

use crate::agent::command::QueryReply;
use edgemesh_core::dns::{Transport, Verdict};
use tokio::sync::oneshot;

const QUERIES: usize = 1_024;

/// A query and who asked it.
pub(super) struct Query {
    pub(super) transport: Transport,
    pub(super) query: Vec<u8>,
    pub(super) reply: oneshot::Sender<QueryReply>,
    /// It has waited for an answer of the server.
    pub(super) waited: bool,
}

impl Query {
    /// There is no answer in time.
    pub(super) fn fail(self, key: u32) {
        let _ = self.reply.send(QueryReply { verdict: Verdict::Wait(key), answer: Vec::new(), learnt: 0 });
    }
}

/// All that wait, with what for.
#[derive(Default)]
pub(super) struct Waiting(Vec<(u32, Query)>);

impl Waiting {
    /// Keeps the query until the answer about `key`.
    pub(super) fn keep(&mut self, key: u32, query: Query) {
        if self.0.len() >= QUERIES {
            query.fail(key)
        } else {
            self.0.push((key, Query { waited: true, ..query }))
        }
    }

    /// Those that wait for `key`.
    pub(super) fn take(&mut self, key: u32) -> Vec<Query> {
        self.0.extract_if(.., |(wants, _)| *wants == key).map(|(_, query)| query).collect()
    }
}
