//! What a server without a directory keeps: who it is and whom it believes.
//!
//! Written at the first start, from the token; again when it has joined, and when the directory has another key or epoch.
//! The key never leaves this machine.

use crate::Failure;
use edgemesh_core::control::Authority;
use edgemesh_core::noise::StaticSecret;
use edgemesh_core::rng::Rng;
use edgemesh_host::state::{Directory, StateError};
use edgemesh_host::token::{Invitation, Token, from_argument};
use serde::{Deserialize, Serialize};
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use super::PREFIX;

const FILE: &str = "relay";
const VERSION: u8 = 1;

#[derive(Clone, Serialize, Deserialize, Zeroize, ZeroizeOnDrop)]
struct Stored {
    version: u8,
    name: String,
    identity: [u8; 32],
    root: [u8; 32],
    servers: Vec<String>,
    /// The token's secret until it has joined.
    secret: Option<[u8; 16]>,
    directory: [u8; 32],
    epoch: u32,
}

/// The open state.
pub(super) struct State {
    directory: Directory,
    stored: Stored,
}

impl State {
    /// Reads the state, or makes it from the token.
    ///
    /// # Errors
    /// When there is neither, when they do not belong together, or when the file cannot be read or written.
    pub(super) fn open(directory: Directory, join: Option<&str>, rng: &mut Rng) -> Result<Self, Failure> {
        let token = join.map(relay_token).transpose().map_err(|e| Failure::Config(format!("--join: {e}")))?;
        let failed = |e: StateError| Failure::Failed(e.to_string());
        let found = directory.read_secret(FILE).map_err(failed)?;
        let found = found.map(|bytes| parse(&directory, &bytes)).transpose().map_err(failed)?;
        let stored = match (found, token) {
            (Some(stored), None) => stored,
            (Some(stored), Some(token)) => stored.with(&token)?,
            (None, Some(token)) => Stored::from(&token, rng),
            (None, None) => {
                return Err(Failure::Config(
                    "--join: this relay has not joined yet; accepted: a token of `edgemesh-server token --relay NAME`, or \
                     @FILE that holds one"
                        .to_owned(),
                ));
            }
        };
        let state = Self { directory, stored };
        state.write().map_err(failed)?;
        Ok(state)
    }

    pub(super) fn name(&self) -> &str {
        &self.stored.name
    }

    pub(super) fn servers(&self) -> &[String] {
        &self.stored.servers
    }

    pub(super) fn identity(&self) -> StaticSecret {
        StaticSecret::from_bytes(self.stored.identity)
    }

    pub(super) fn secret(&self) -> Option<[u8; 16]> {
        self.stored.secret
    }

    pub(super) fn authority(&self) -> Authority {
        let Stored { root, directory, epoch, .. } = self.stored;
        Authority { root, directory, epoch }
    }

    /// The directory has accepted this relay, under these keys.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub(super) fn joined(&mut self, authority: &Authority) -> Result<(), StateError> {
        if self.stored.secret.is_none() && self.authority() == *authority {
            return Ok(());
        }
        self.stored.secret.zeroize();
        self.stored.secret = None;
        (self.stored.directory, self.stored.epoch) = (authority.directory, authority.epoch);
        self.write()
    }

    fn write(&self) -> Result<(), StateError> {
        // Plain data always has a postcard form.
        let bytes = Zeroizing::new(postcard::to_allocvec(&self.stored).unwrap_or_default());
        self.directory.write(FILE, &bytes)
    }
}

fn parse(directory: &Directory, bytes: &[u8]) -> Result<Stored, StateError> {
    let stored = postcard::from_bytes::<Stored>(bytes).ok().filter(|stored| stored.version == VERSION);
    stored.ok_or_else(|| {
        StateError::invalid(directory.path(FILE), "this is no state of a relay of this version")
    })
}

/// The token of an argument, if it is one for a relay.
fn relay_token(argument: &str) -> Result<Token, String> {
    let accepted = "accepted: a token of `edgemesh-server token --relay NAME`";
    match from_argument(argument)? {
        Invitation::Token(token) if token.node.starts_with(PREFIX) => Ok(token),
        Invitation::Token(token) => Err(format!("this token is for the node {:?}; {accepted}", token.node)),
        Invitation::Cluster(_) => Err(format!("this is a cluster's address; {accepted}")),
    }
}

impl Stored {
    fn from(token: &Token, rng: &mut Rng) -> Self {
        Self {
            version: VERSION,
            name: token.node.clone(),
            identity: rng.bytes(),
            root: token.root,
            servers: token.servers.clone(),
            secret: Some(token.secret),
            directory: [0; 32],
            epoch: 0,
        }
    }

    /// The same relay, told again where the directory's servers are.
    fn with(mut self, token: &Token) -> Result<Self, Failure> {
        if (&token.node, token.root) != (&self.name, self.root) {
            let own = self.name.strip_prefix(PREFIX).unwrap_or_default();
            return Err(Failure::Config(format!(
                "--join: the token is for another relay or another cluster than the state directory, which is that of {own:?}; \
                 accepted: a token for {own:?}, or none"
            )));
        }
        self.servers.clone_from(&token.servers);
        if self.secret.is_some() {
            self.secret = Some(token.secret);
        }
        Ok(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::PathBuf;

    fn directory(name: &str) -> Directory {
        let path: PathBuf =
            std::env::temp_dir().join(format!("edgemesh-relay-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        Directory::open(path).unwrap()
    }

    fn token(node: &str, root: u8) -> String {
        let servers = vec!["192.0.2.1:20004".to_owned()];
        Token { servers, root: [root; 32], node: node.to_owned(), secret: [9; 16], expires: 0 }.to_string()
    }

    fn message(result: Result<State, Failure>) -> String {
        match result {
            Err(Failure::Config(text) | Failure::Failed(text)) => text,
            Ok(_) => panic!("accepted"),
        }
    }

    #[test]
    fn a_relay_stays_who_it_is_and_shows_its_token_once() {
        let mut rng = Rng::new([1; 32]);
        let mut open = |join: Option<&str>| State::open(directory_again("once"), join, &mut rng);
        drop(directory("once"));
        assert!(message(open(None)).contains("has not joined yet"));
        let mut state = open(Some(&token("relay/eu", 1))).unwrap_or_else(|_| panic!());
        let key = state.identity().public().0;
        assert_eq!((state.name(), state.secret()), ("relay/eu", Some([9; 16])));
        state.joined(&Authority { root: [1; 32], directory: [2; 32], epoch: 3 }).unwrap();
        let state = open(None).unwrap_or_else(|_| panic!());
        assert_eq!((state.identity().public().0, state.secret()), (key, None));
        assert_eq!(state.authority(), Authority { root: [1; 32], directory: [2; 32], epoch: 3 });
        let again = open(Some(&token("relay/eu", 1))).unwrap_or_else(|_| panic!());
        assert_eq!((again.identity().public().0, again.secret()), (key, None));
        for other in [token("relay/us", 1), token("relay/eu", 2)] {
            assert!(message(open(Some(&other))).contains("accepted: a token for \"eu\""));
        }
        assert!(message(open(Some(&token("edge-1", 1)))).contains("for the node \"edge-1\""));
    }

    fn directory_again(name: &str) -> Directory {
        Directory::open(std::env::temp_dir().join(format!("edgemesh-relay-{name}-{}", std::process::id())))
            .unwrap()
    }
}
