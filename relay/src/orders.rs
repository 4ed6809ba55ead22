//! What an operator orders of a server: carried out by the one that runs, which everybody concerned then hears of, or else
//! on the state directory itself.

use crate::directory::{Directory, Invite, NewToken, NodeError, TokenError};
use edgemesh_core::rng::Rng;
use edgemesh_host::state::StateError;
use edgemesh_host::token::Invitation;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

/// An order.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) enum Order {
    /// Make what lets nodes join.
    Invite(Invite),
    /// Put a node out.
    Revoke(String),
    /// Make what lets a revoked node in again.
    Rejoin(NewToken),
    /// Give the directory another key.
    RotateKey,
    /// Make a backup.
    Backup,
    /// Start again: a backup was restored.
    Restart,
}

/// What has been done.
pub(crate) struct Done {
    /// What the operator gets: text, or a file.
    pub(crate) output: Zeroizing<Vec<u8>>,
    /// What follows from it in a server that runs.
    pub(crate) news: News,
}

/// What others are to hear of.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum News {
    /// Nothing.
    None,
    /// A join token was made, for this node.
    Token(String),
    /// The node of this name and index is out.
    Revoked(String, u32),
    /// Everything is signed by another key.
    Rotated,
    /// The server is to start again.
    Restart,
}

/// Why an order is not carried out.
#[derive(Debug)]
pub(crate) enum OrderError {
    Node(NodeError),
    Token(TokenError),
    State(StateError),
}

impl std::fmt::Display for OrderError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Node(e) => e.fmt(f),
            Self::Token(e) => e.fmt(f),
            Self::State(e) => e.fmt(f),
        }
    }
}

impl Order {
    /// Carries the order out on a directory.
    ///
    /// # Errors
    /// [`OrderError`]; nothing is changed then.
    pub(crate) fn carry_out(
        self,
        directory: &mut Directory,
        now: u64,
        rng: &mut Rng,
    ) -> Result<Done, OrderError> {
        let token = |invitation: Invitation, news| Done::new(format!("{invitation}\n"), news);
        Ok(match self {
            Self::Invite(invite) => {
                let news = match &invite {
                    Invite::Token(new) => News::Token(new.node.clone()),
                    Invite::Cluster(_) => News::None,
                };
                token(directory.invite(invite, now, rng).map_err(OrderError::Token)?, news)
            }
            Self::Rejoin(new) => {
                let news = News::Token(new.node.clone());
                let made = directory.rejoin(new, now, rng).map_err(OrderError::Node)?;
                token(Invitation::Token(made), news)
            }
            Self::Revoke(node) => {
                let index = directory.revoke(&node).map_err(OrderError::Node)?;
                Done::new(format!("node {node} is revoked\n"), News::Revoked(node, index))
            }
            Self::RotateKey => {
                directory.rotate_key(now, rng).map_err(OrderError::State)?;
                let epoch = directory.listed().epoch;
                Done::new(format!("the directory has a new key, from epoch {epoch} on\n"), News::Rotated)
            }
            Self::Backup => Done { output: directory.backup().map_err(OrderError::State)?, news: News::None },
            Self::Restart => Done::new(String::new(), News::Restart),
        })
    }
}

impl Done {
    fn new(text: String, news: News) -> Self {
        Self { output: Zeroizing::new(text.into_bytes()), news }
    }
}
