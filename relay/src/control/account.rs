//! Joining with a ServiceAccount token: the node shows it, the cluster says which node it is of.
//!
//! Bounds: [`PROOF_MAX`] bytes a token, [`REVIEWS_MAX`] questions to the API server at a time, all within the time of
//! the handshake. A token is in memory until its question is answered and nowhere else.

use super::Shared;
use super::frames::Reader;
use super::session::Sender;
use edgemesh_core::wire::control::{PROOF_MAX, Refusal, ToNode, ToServer};
#[cfg(feature = "kubernetes")]
pub(crate) use edgemesh_discovery::kubernetes::Reviewer;
use std::io;
use tokio::sync::Semaphore;
use zeroize::Zeroizing;

/// Whoever connects may show a token: what that asks of the API server is bounded.
const REVIEWS_MAX: usize = 8;

/// Stands for the client that this build does not have.
#[cfg(not(feature = "kubernetes"))]
pub(crate) enum Reviewer {}

#[cfg(not(feature = "kubernetes"))]
impl Reviewer {
    #[allow(clippy::unused_async)]
    async fn node_of(&self, _: &str) -> Result<String, String> {
        match *self {}
    }
}

/// Whether and how ServiceAccount tokens are judged.
pub(crate) struct Accounts {
    reviewer: Option<Reviewer>,
    permits: Semaphore,
}

impl Accounts {
    /// Asks `reviewer`; without one no token counts.
    pub(crate) fn new(reviewer: Option<Reviewer>) -> Self {
        Self { reviewer, permits: Semaphore::new(REVIEWS_MAX) }
    }

    async fn node_of(&self, reviewer: &Reviewer, token: &str) -> Result<String, String> {
        // Only a closed semaphore has no permit, and nobody closes this one.
        let _permit = self.permits.acquire().await;
        reviewer.node_of(token).await
    }
}

/// Asks a node that is unknown for its ServiceAccount token, and the cluster about it. The inner error is the answer
/// for the node.
pub(super) async fn vouched(
    shared: &Shared,
    reader: &mut Reader,
    sender: &mut Sender,
    name: &str,
) -> io::Result<Result<(), (Refusal, String)>> {
    let Some(reviewer) = &shared.accounts.reviewer else {
        return Ok(Err((
            Refusal::NotEnrolled,
            format!(
                "node {name} is unknown and shows no join token; ServiceAccount tokens do not count, as the server \
                 runs without --service-account"
            ),
        )));
    };
    sender.message(&ToNode::Prove).await?;
    let token = token(reader, sender).await?;
    let refused = |detail: String| Ok(Err((Refusal::Account, detail)));
    if token.is_empty() {
        return refused(format!(
            "node {name} is unknown and shows neither a join token nor a ServiceAccount token"
        ));
    }
    let Ok(text) = std::str::from_utf8(&token) else {
        return refused("what the node shows is no ServiceAccount token".to_owned());
    };
    match shared.accounts.node_of(reviewer, text.trim()).await {
        Ok(node) if node == name => Ok(Ok(())),
        Ok(node) => refused(format!("the ServiceAccount token is of a pod on node {node}, not on {name}")),
        Err(why) => refused(why),
    }
}

async fn token(reader: &mut Reader, sender: &mut Sender) -> io::Result<Zeroizing<Vec<u8>>> {
    let mut token = Zeroizing::new(Vec::with_capacity(PROOF_MAX));
    loop {
        match sender.open(reader.next().await?)? {
            Some(ToServer::Proof { part, last }) => {
                if token.len() + part.len() > PROOF_MAX || (part.is_empty() && !last) {
                    return Err(io::ErrorKind::InvalidData.into());
                }
                token.extend_from_slice(part);
                if last {
                    return Ok(token);
                }
            }
            None => {}
            Some(_) => return Err(io::ErrorKind::InvalidData.into()),
        }
    }
}
