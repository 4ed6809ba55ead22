//! DNS queries, asked of the data thread.

use super::command::Handle;
use super::status::Shared;
use crate::dns::{Resolve, Resolved, Transport};
use std::net::SocketAddr;
use std::sync::Arc;

/// The engine behind the DNS sockets.
pub struct EngineResolver {
    /// Its thread.
    pub handle: Handle,
    /// What is known of the kernel.
    pub status: Arc<Shared>,
}

impl Resolve for EngineResolver {
    async fn resolve(
        &self,
        _: SocketAddr,
        query: &[u8],
        transport: Transport,
        out: &mut Vec<u8>,
    ) -> Resolved {
        let Some(reply) = self.handle.query(transport, query.to_vec()).await else { return Resolved::Drop };
        // The client connects as soon as it has the answer.
        self.status.settled(reply.learnt).await;
        *out = reply.answer;
        reply.verdict.into()
    }
}
