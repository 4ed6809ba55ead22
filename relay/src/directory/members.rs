//! Who is let in, under which key, and who is put out.
//!
//! A node's key comes by a join token, or by the cluster's word where the name has none. It is changed by the node itself
//! ([`Directory::rekey`]): for [`OVERLAP_SECS`] both keys are its own. It is lost by revocation, which makes every record
//! with it void for ever; a token of `rejoin` lets the name in again with another key.

use super::tokens::TokenError;
use super::{Admission, Directory, Entry, NewToken, Node, Overlap, Token};
use blake2::digest::Digest;
use edgemesh_core::rng::Rng;
use edgemesh_core::wire::control::{Refusal, Revocation, mesh_capacity};
use edgemesh_host::state::StateError;
use edgemesh_host::token;

/// What a node is told: that it is let in, or why not.
type Answer = Result<Admission, (Refusal, String)>;

/// How long a node answers to its key before the present one.
pub(crate) const OVERLAP_SECS: u64 = 3_600;

/// Why an order about a node is not carried out.
#[derive(Debug)]
pub(crate) enum NodeError {
    /// The directory has no node of this name, or it has not joined.
    Unknown(String),
    /// It is revoked already.
    Revoked(String),
    /// It is not revoked.
    Member(String),
    /// There is no token for it.
    Token(TokenError),
    /// The directory cannot be written.
    State(StateError),
}

impl From<StateError> for NodeError {
    fn from(error: StateError) -> Self {
        Self::State(error)
    }
}

impl std::fmt::Display for NodeError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Unknown(node) => {
                write!(f, "--node: no node {node:?} has joined; accepted: a name of `edgemesh-server nodes`")
            }
            Self::Revoked(node) => write!(f, "--node: {node:?} is revoked already"),
            Self::Member(node) => write!(
                f,
                "--node: {node:?} is not revoked; a machine that was installed anew joins with `edgemesh-server token`"
            ),
            Self::Token(error) => error.fmt(f),
            Self::State(error) => error.fmt(f),
        }
    }
}

impl Directory {
    /// Puts a node out, for good as far as its key goes, and voids the tokens that are out for its name. Its index.
    ///
    /// # Errors
    /// [`NodeError`]; nothing is changed.
    pub(crate) fn revoke(&mut self, name: &str) -> Result<u32, NodeError> {
        let (index, node) = self.joined(name)?;
        if node.revoked {
            return Err(NodeError::Revoked(name.to_owned()));
        }
        let revocation = Revocation { index, serial: node.serial };
        let node = Node { revoked: true, ..node.clone() };
        let tokens = self.tokens.iter().filter(|(_, token)| token.node == name && token.key.is_none());
        let void = tokens.map(|(hash, _)| Entry::Void(*hash));
        let entries = [Entry::Node(index, node), Entry::Overlap(index, None), Entry::Revocation(revocation)];
        self.commit(entries.into_iter().chain(void).collect())?;
        Ok(index)
    }

    /// Makes a token that lets a revoked node's name in again, with another key.
    ///
    /// # Errors
    /// [`NodeError`]; nothing is changed.
    pub(crate) fn rejoin(
        &mut self,
        new: NewToken,
        now: u64,
        rng: &mut Rng,
    ) -> Result<token::Token, NodeError> {
        let (_, node) = self.joined(&new.node)?;
        if !node.revoked {
            return Err(NodeError::Member(new.node));
        }
        self.make_token(new, now, rng).map_err(NodeError::Token)
    }

    /// A node that is connected under `key` takes `fresh` in its place; whether it has that key now. Saying it again
    /// changes nothing.
    ///
    /// # Errors
    /// When the directory cannot be written.
    pub(crate) fn rekey(
        &mut self,
        index: u32,
        key: [u8; 32],
        fresh: [u8; 32],
        now: u64,
    ) -> Result<bool, StateError> {
        let Some(node) = self.nodes.get(&index).filter(|node| !node.revoked) else { return Ok(false) };
        if node.key == Some(fresh) {
            return Ok(true);
        }
        let overlaps = self.overlaps.get(&index).is_some_and(|overlap| overlap.is_on(now));
        if node.key != Some(key) || self.by_key.contains_key(&fresh) || overlaps {
            return Ok(false);
        }
        let node = Node { key: Some(fresh), serial: node.serial.saturating_add(1), ..node.clone() };
        let overlap = Overlap { key, until: now.saturating_add(OVERLAP_SECS), seen: false };
        self.commit(vec![Entry::Node(index, node), Entry::Overlap(index, Some(overlap))])?;
        Ok(true)
    }

    fn joined(&self, name: &str) -> Result<(u32, &Node), NodeError> {
        let index = self.index_of(name);
        let node = index.and_then(|index| Some((index, self.nodes.get(&index)?)));
        node.filter(|(_, node)| node.key.is_some()).ok_or_else(|| NodeError::Unknown(name.to_owned()))
    }

    /// Whether `key` was the node's and is no more. The key before counts until the overlap is over, and after that
    /// until the node was seen with its present one: the answer that it has that may have been lost.
    fn is_outdated(&mut self, index: u32, key: &[u8; 32], now: u64) -> Result<bool, StateError> {
        let Some(overlap) = self.overlaps.get(&index).copied() else { return Ok(false) };
        if overlap.key == *key {
            return Ok(overlap.seen && !overlap.is_on(now));
        }
        let news = match (overlap.is_on(now), overlap.seen) {
            (true, true) => return Ok(false),
            (true, false) => Some(Overlap { seen: true, ..overlap }),
            (false, _) => None,
        };
        self.commit(vec![Entry::Overlap(index, news)])?;
        Ok(false)
    }

    /// Lets a node in, enrolling its key when the token's secret allows it. The inner error is the answer for the
    /// node; the outer one means that the directory cannot be written.
    pub(crate) fn admit(
        &mut self,
        name: &str,
        key: [u8; 32],
        secret: &[u8],
        now: u64,
    ) -> Result<Answer, StateError> {
        let refuse = |reason, detail: String| Ok(Err((reason, detail)));
        if let Some(known) = self.known(name, &key, now)? {
            return Ok(known);
        }
        if secret.is_empty() {
            if let Some(taken) = self.taken(name) {
                return Ok(Err(taken));
            }
            return refuse(Refusal::NotEnrolled, format!("node {name} is unknown and shows no join token"));
        }
        let hash: [u8; 32] = blake2::Blake2s256::digest(secret).into();
        let Some(token) = self.tokens.get(&hash).filter(|token| token.node == name) else {
            return refuse(Refusal::WrongToken, format!("no join token for node {name} has this secret"));
        };
        if token.key.is_some() {
            return refuse(Refusal::UsedByAnotherKey, "the join token has enrolled another key".to_owned());
        }
        if now > token.expires {
            let ago = now.saturating_sub(token.expires);
            return refuse(Refusal::Expired, format!("the join token expired {ago} s ago"));
        }
        let token = Token { key: Some(key), ..token.clone() };
        self.enrol(name, key, vec![Entry::Token(hash, token)])
    }

    /// Lets a node in whose name the cluster itself vouches for. A name that has a key keeps it: the cluster knows
    /// where a pod runs, not that the machine is the one that joined; that is the operator's word, a join token.
    /// Results as in [`Directory::admit`].
    pub(crate) fn admit_vouched(
        &mut self,
        name: &str,
        key: [u8; 32],
        now: u64,
    ) -> Result<Answer, StateError> {
        if let Some(known) = self.known(name, &key, now)? {
            return Ok(known);
        }
        match self.taken(name) {
            Some(taken) => Ok(Err(taken)),
            None => self.enrol(name, key, Vec::new()),
        }
    }

    /// What there is to say to a node whose key is in the directory.
    fn known(&mut self, name: &str, key: &[u8; 32], now: u64) -> Result<Option<Answer>, StateError> {
        let Some(index) = self.by_key.get(key).copied() else { return Ok(None) };
        let Some(node) = self.nodes.get(&index) else { return Ok(None) };
        if node.revoked {
            let detail =
                format!("node {name} was revoked; a token of `edgemesh-server rejoin` lets it in again");
            return Ok(Some(Err((Refusal::Revoked, detail))));
        }
        if node.name != name {
            return Ok(Some(Err((Refusal::NameTaken, format!("this key belongs to node {}", node.name)))));
        }
        if self.is_outdated(index, key, now)? {
            return Ok(Some(Err((Refusal::NameTaken, format!("node {name} has changed its key since")))));
        }
        Ok(Some(Ok(Admission { index, enrolled: false })))
    }

    /// The answer to a node that shows no join token, when its name has a key that is not the node's.
    fn taken(&self, name: &str) -> Option<(Refusal, String)> {
        let node = self.index_of(name).and_then(|index| self.nodes.get(&index));
        node.filter(|node| node.key.is_some()).map(|_| {
            let how = "was it installed anew? A new join token for it makes it known again";
            (Refusal::NameTaken, format!("node {name} has another key; {how}"))
        })
    }

    /// Gives `key` to `name`, durable together with `more`.
    fn enrol(&mut self, name: &str, key: [u8; 32], more: Vec<Entry>) -> Result<Answer, StateError> {
        let Some((index, old)) = self.slot(name) else {
            return Ok(Err((Refusal::NotEnrolled, "the mesh prefix has no address left".to_owned())));
        };
        let serial = old.map_or(1, |node| node.serial.saturating_add(1));
        // Whoever still has the key before is no member any more.
        let replaced = old.filter(|node| node.key.is_some() && !node.revoked);
        let replaced = replaced.map(|node| Entry::Revocation(Revocation { index, serial: node.serial }));
        let node = Node { name: name.to_owned(), key: Some(key), serial, revoked: false };
        let entries = [Entry::Node(index, node), Entry::Overlap(index, None)].into_iter();
        self.commit(entries.chain(replaced).chain(more).collect())?;
        Ok(Ok(Admission { index, enrolled: true }))
    }

    /// The index that `name` has or would get, and the node if there is one.
    fn slot(&self, name: &str) -> Option<(u32, Option<&Node>)> {
        match self.index_of(name) {
            Some(index) => Some((index, self.nodes.get(&index))),
            None => self.free_index(0).map(|index| (index, None)),
        }
    }

    /// The next unused index after `taken` more.
    pub(super) fn free_index(&self, taken: u32) -> Option<u32> {
        let last = self.nodes.last_key_value().map_or(0, |(index, _)| *index);
        let index = last.checked_add(taken)?.checked_add(1)?;
        let capacity = mesh_capacity(&self.settings.as_ref()?.network);
        (index <= capacity).then_some(index)
    }
}
