//! DNS queries, asked of the data thread.

use super::command::{Command, Handle};
use crate::dns::{Resolve, Resolved, Transport};
use std::net::SocketAddr;
use tokio::sync::oneshot;

/// The engine behind the DNS sockets.
pub struct EngineResolver(pub Handle);

impl Resolve for EngineResolver {
    async fn resolve(
        &self,
        _: SocketAddr,
        query: &[u8],
        transport: Transport,
        out: &mut Vec<u8>,
    ) -> Resolved {
        let (reply, answered) = oneshot::channel();
        self.0.send(Command::Query { transport, query: query.to_vec(), reply });
        match answered.await {
            Ok(reply) => {
                *out = reply.answer;
                reply.verdict.into()
            }
            Err(_) => Resolved::Drop,
        }
    }
}
