//! Join tokens as the directory keeps them: a hash of the secret, and whom it is for.

use super::{Directory, Entry};
use blake2::digest::Digest;
use edgemesh_core::rng::Rng;
use edgemesh_host::state::StateError;
use edgemesh_host::token::{self, Cluster, Invitation};
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// Tokens that are out or were used, at most.
const TOKENS_MAX: usize = 100_000;
/// Expired tokens are remembered this long, so that a late one is refused for the right reason.
const REMEMBER_SECS: u64 = 30 * 86_400;

/// A token that was given out.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) struct Token {
    pub(super) node: String,
    /// Unix time in seconds.
    pub(super) expires: u64,
    /// The key that it enrolled.
    pub(super) key: Option<[u8; 32]>,
}

impl Token {
    pub(super) fn is_forgotten(&self, now: u64) -> bool {
        now > self.expires.saturating_add(REMEMBER_SECS)
    }
}

/// What the operator asks for.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) enum Invite {
    /// A join token.
    Token(NewToken),
    /// The cluster's address, with these servers, or those of the settings when empty.
    Cluster(Vec<String>),
}

/// A join token to be made.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct NewToken {
    pub(crate) node: String,
    pub(crate) ttl: Duration,
    /// Servers to name; those of the settings when empty.
    pub(crate) servers: Vec<String>,
}

/// Why there is no token.
#[derive(Debug)]
pub(crate) enum TokenError {
    State(StateError),
    Full,
    NoServers,
    Revoked(String),
}

impl std::fmt::Display for TokenError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::State(e) => e.fmt(f),
            Self::Full => write!(f, "{TOKENS_MAX} join tokens are out already: wait until some have expired"),
            Self::Revoked(node) => write!(
                f,
                "--node: {node:?} was revoked; `edgemesh-server rejoin --node {node}` makes a token that lets it in again"
            ),
            Self::NoServers => f.write_str(
                "--advertise: missing; accepted: HOST:PORT at which nodes reach this server (it has not run yet)",
            ),
        }
    }
}

impl Directory {
    /// Makes what lets nodes join.
    pub(crate) fn invite(
        &mut self,
        invite: Invite,
        now: u64,
        rng: &mut Rng,
    ) -> Result<Invitation, TokenError> {
        match invite {
            Invite::Token(new) => self.new_token(new, now, rng).map(Invitation::Token),
            Invite::Cluster(servers) => {
                Ok(Invitation::Cluster(Cluster { servers: self.servers(servers)?, root: self.keys.root() }))
            }
        }
    }

    /// `wanted`, or what the server advertises.
    fn servers(&self, wanted: Vec<String>) -> Result<Vec<String>, TokenError> {
        let stored = || self.settings.as_ref().map(|s| s.servers.clone());
        let servers = if wanted.is_empty() { stored().unwrap_or_default() } else { wanted };
        if servers.is_empty() { Err(TokenError::NoServers) } else { Ok(servers) }
    }

    /// Makes a join token for a name that is not revoked.
    pub(crate) fn new_token(
        &mut self,
        new: NewToken,
        now: u64,
        rng: &mut Rng,
    ) -> Result<token::Token, TokenError> {
        let node = self.index_of(&new.node).and_then(|index| self.nodes.get(&index));
        if node.is_some_and(|node| node.revoked) {
            return Err(TokenError::Revoked(new.node));
        }
        self.make_token(new, now, rng)
    }

    pub(super) fn make_token(
        &mut self,
        new: NewToken,
        now: u64,
        rng: &mut Rng,
    ) -> Result<token::Token, TokenError> {
        self.tokens.retain(|_, token| !token.is_forgotten(now));
        if self.tokens.len() >= TOKENS_MAX {
            return Err(TokenError::Full);
        }
        let servers = self.servers(new.servers)?;
        let secret: [u8; 16] = rng.bytes();
        let hash: [u8; 32] = blake2::Blake2s256::digest(secret).into();
        let expires = now.saturating_add(new.ttl.as_secs());
        let token = Token { node: new.node.clone(), expires, key: None };
        self.commit(vec![Entry::Token(hash, token)]).map_err(TokenError::State)?;
        Ok(token::Token { servers, root: self.keys.root(), node: new.node, secret, expires })
    }
}
