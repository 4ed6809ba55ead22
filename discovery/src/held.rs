//! The last word on endpoints whose Node is not ready.
//!
//! When a site loses its uplink, the cloud calls its Nodes not ready, then their pods, and in the end has them deleted,
//! while all of them run. So what an endpoint was when its Node was last ready stands until the Node is ready again; the
//! node itself finds out whether it answers ([`feed::ENDPOINT_HELD`]). A pod that is deleted while its Node is ready is
//! gone.
//!
//! Life cycle: [`Held::note`] remembers an endpoint that stops being ready, or is heard of first as one that is not.
//! If its Node is not ready, or is called so within [`LATELY`] (the two come by two watches, in any order),
//! [`Held::of`] names it. Once the Node is ready again, the cloud is given [`LATELY`] to hear of its pods, then its
//! word counts. An endpoint that was never ready before is held as well when this process began after the
//! Node was lost. What is held outlives the process, whose owner stores it ([`Held::take`], [`Held::restore`]): the cloud
//! may have deleted it long ago. Once the source has told everything, what is on no Node that is known goes
//! ([`Held::settle`]).
//!
//! Bounds: [`LOST_MAX`] endpoints; what is lost beyond that is not held.

use crate::object::{Endpoint, EndpointGroup, Node, ServicePort};
use crate::table::Key;
use blake2::Blake2s256;
use blake2::digest::Digest;
use edgemesh_core::wire::feed::{self, Protocol};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// What is called one moment apart by two watches is together within this time.
const LATELY: Duration = Duration::from_secs(30);
/// Endpoints remembered.
const LOST_MAX: usize = 16_384;

/// What an endpoint does that is held.
const SERVES: u8 = feed::ENDPOINT_READY | feed::ENDPOINT_SERVING;

/// An endpoint that is not ready any more, in the cloud's eyes.
#[derive(Clone, Debug)]
struct Lost {
    /// With the ports of its slice, and the conditions that it had.
    group: EndpointGroup,
    since: Instant,
    state: State,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    /// Its Node is ready, as far as is known.
    Obeyed,
    /// Its Node is not.
    Held,
    /// Its Node is ready again, its pods may not have been heard of yet.
    Until(Instant),
}

/// See the module's documentation.
#[derive(Clone, Debug, Default)]
pub(crate) struct Held {
    lost: BTreeMap<Arc<Key>, Vec<Lost>>,
    count: usize,
    /// No endpoint is to be forgotten earlier.
    due: Option<Instant>,
    /// What is held may be other than when it was taken last, which has this digest; zero while nothing was held.
    changed: bool,
    taken: [u8; 32],
}

/// An endpoint that is held, as it is stored.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
struct Stored {
    namespace: String,
    name: String,
    ports: Vec<(String, Protocol, u16)>,
    address: IpAddr,
    node: String,
    hostname: String,
    conditions: u8,
    zones: Vec<u32>,
}

impl Held {
    /// An object with endpoints of a Service changes: from `before`, if it was there, to `after`. `listed`: the
    /// conditions under which any object of the Service has an endpoint now.
    pub(crate) fn note(
        &mut self,
        now: Instant,
        key: &Arc<Key>,
        [before, after]: [Option<&[EndpointGroup]>; 2],
        listed: impl Fn(&EndpointGroup) -> Option<u8>,
        nodes: &BTreeMap<String, Node>,
    ) {
        let mut lost = self.lost.remove(key).unwrap_or_default();
        self.count -= lost.len();
        self.changed |= !lost.is_empty();
        lost.retain(|lost| match listed(&lost.group) {
            Some(conditions) if conditions & feed::ENDPOINT_READY != 0 => false,
            Some(conditions) if conditions & feed::ENDPOINT_TERMINATING == 0 => true,
            // Deleted, and its Node is there to see to it.
            _ => !matches!(lost.state, State::Until(_)),
        });
        let known: HashSet<_> = lost.iter().map(|lost| identity(&lost.group)).collect();
        let ready = |group: &EndpointGroup| listed(group).is_some_and(|c| c & feed::ENDPOINT_READY != 0);
        let room = LOST_MAX.saturating_sub(self.count + lost.len());
        let new =
            candidates(before, after).filter(|group| !known.contains(&identity(group)) && !ready(group));
        let new: Vec<_> = new.take(room).collect();
        for group in new {
            let state = if is_down(nodes, &group) { State::Held } else { State::Obeyed };
            lost.push(Lost { group, since: now, state });
            self.due = self.due.or(Some(now + LATELY));
        }
        if !lost.is_empty() {
            self.changed = true;
            self.count += lost.len();
            self.lost.insert(key.clone(), lost);
        }
    }

    /// The Service is gone.
    pub(crate) fn forget(&mut self, key: &Key) {
        if let Some(lost) = self.lost.remove(key) {
            self.count -= lost.len();
            self.changed = true;
        }
    }

    /// What is held, to be stored, if that may have changed since it was taken last.
    pub(crate) fn take(&mut self) -> Option<Vec<u8>> {
        if !std::mem::take(&mut self.changed) {
            return None;
        }
        let all = self.lost.iter().flat_map(|(key, lost)| lost.iter().map(move |lost| (key, lost)));
        let held = all.filter(|(_, lost)| lost.state == State::Held);
        let stored =
            held.flat_map(|(key, lost)| lost.group.endpoints.iter().map(|e| stored(key, &lost.group, e)));
        let bytes = postcard::to_allocvec(&stored.collect::<Vec<_>>()).ok()?;
        let digest = digest(&bytes);
        (std::mem::replace(&mut self.taken, digest) != digest).then_some(bytes)
    }

    /// Holds what an earlier process held, until the source says otherwise.
    ///
    /// # Errors
    /// When the bytes are not what [`Held::take`] made.
    pub(crate) fn restore(&mut self, now: Instant, bytes: &[u8]) -> Result<(), postcard::Error> {
        let all: Vec<Stored> = postcard::from_bytes(bytes)?;
        self.taken = digest(bytes);
        for stored in all.into_iter().take(LOST_MAX.saturating_sub(self.count)) {
            let key = Arc::new(Key { namespace: stored.namespace.clone(), name: stored.name.clone() });
            let lost = Lost { group: stored.group(), since: now, state: State::Held };
            self.lost.entry(key).or_default().push(lost);
            self.count += 1;
        }
        Ok(())
    }

    /// The source has told everything: what was restored for Services and Nodes that are no more goes.
    pub(crate) fn settle(
        &mut self,
        is_service: impl Fn(&Key) -> bool,
        nodes: &BTreeMap<String, Node>,
    ) -> BTreeSet<Arc<Key>> {
        let mut changed = BTreeSet::new();
        self.retain(|key, lost| {
            let stays = lost.state != State::Held || is_service(key) && is_down(nodes, &lost.group);
            if !stays {
                changed.insert(key.clone());
            }
            stays
        });
        changed
    }

    /// A Node is or is not ready any more, or is gone. `listed`: whether the cloud still lists an endpoint of a Service,
    /// and does not delete it. The Services that may differ.
    pub(crate) fn node(
        &mut self,
        now: Instant,
        name: &str,
        node: Option<&Node>,
        listed: impl Fn(&Key, &EndpointGroup) -> bool,
    ) -> BTreeSet<Arc<Key>> {
        let (down, mut changed) = (node.map(Node::is_down), BTreeSet::new());
        self.retain(|key, lost| {
            if lost.group.endpoints.iter().all(|endpoint| *endpoint.node != *name) {
                return true;
            }
            changed.insert(key.clone());
            match (down, lost.state) {
                (None, _) => return false,
                (Some(true), State::Obeyed) if now.duration_since(lost.since) > LATELY => return false,
                (Some(true), _) => lost.state = State::Held,
                (Some(false), State::Held) if listed(key, &lost.group) => {
                    lost.state = State::Until(now + LATELY)
                }
                (Some(false), State::Held) => return false,
                (Some(false), _) => {}
            }
            true
        });
        changed
    }

    /// The endpoints of a Service that stand although the cloud says otherwise.
    pub(crate) fn of(&self, key: &Key) -> impl Iterator<Item = &EndpointGroup> {
        let held = self.lost.get(key).into_iter().flatten().filter(|lost| lost.state != State::Obeyed);
        held.map(|lost| &lost.group)
    }

    /// When [`Held::expire`] has something to do.
    pub(crate) fn due(&self) -> Option<Instant> {
        self.due
    }

    /// Forgets what stood for long enough, and what it was not held for; the Services that may differ.
    pub(crate) fn expire(&mut self, now: Instant) -> BTreeSet<Arc<Key>> {
        let mut changed = BTreeSet::new();
        if self.due.is_some_and(|due| due <= now) {
            self.retain(|key, lost| {
                let stays = lost.due().is_none_or(|due| due > now);
                if !stays && lost.state != State::Obeyed {
                    changed.insert(key.clone());
                }
                stays
            });
        }
        changed
    }

    fn retain(&mut self, mut keep: impl FnMut(&Arc<Key>, &mut Lost) -> bool) {
        self.changed |= !self.lost.is_empty();
        self.lost.retain(|key, lost| {
            lost.retain_mut(|lost| keep(key, lost));
            !lost.is_empty()
        });
        self.count = self.lost.values().map(Vec::len).sum();
        self.due = self.lost.values().flatten().filter_map(Lost::due).min();
    }
}

impl Lost {
    /// When it is to be forgotten.
    fn due(&self) -> Option<Instant> {
        match self.state {
            State::Obeyed => Some(self.since + LATELY),
            State::Until(at) => Some(at),
            State::Held => None,
        }
    }
}

fn digest(bytes: &[u8]) -> [u8; 32] {
    if bytes == [0] { [0; 32] } else { Blake2s256::digest(bytes).into() }
}

impl Stored {
    fn group(self) -> EndpointGroup {
        let port = |(name, protocol, port)| ServicePort { name, protocol, port };
        let endpoint = Endpoint {
            address: self.address,
            node: self.node.into(),
            hostname: self.hostname.into(),
            conditions: self.conditions,
            zones: self.zones.into(),
        };
        EndpointGroup { ports: self.ports.into_iter().map(port).collect(), endpoints: vec![endpoint] }
    }
}

fn stored(key: &Key, group: &EndpointGroup, endpoint: &Endpoint) -> Stored {
    let port = |port: &ServicePort| (port.name.clone(), port.protocol, port.port);
    Stored {
        namespace: key.namespace.clone(),
        name: key.name.clone(),
        ports: group.ports.iter().map(port).collect(),
        address: endpoint.address,
        node: endpoint.node.to_string(),
        hostname: endpoint.hostname.to_string(),
        conditions: endpoint.conditions,
        zones: endpoint.zones.to_vec(),
    }
}

/// The endpoints that may have been lost, each with the ports of its slice, as they are to stand: those that were
/// ready, or those of an object that was not heard of before which are not.
fn candidates<'g>(
    before: Option<&'g [EndpointGroup]>,
    after: Option<&'g [EndpointGroup]>,
) -> impl Iterator<Item = EndpointGroup> + 'g {
    let known = before.is_some();
    let groups = before.or(after).unwrap_or_default();
    let all = groups.iter().flat_map(|group| group.endpoints.iter().map(move |endpoint| (group, endpoint)));
    let ready = |e: &Endpoint| e.conditions & feed::ENDPOINT_READY != 0;
    all.filter(move |(_, e)| !e.node.is_empty() && ready(e) == known).map(|(group, endpoint)| {
        let conditions = endpoint.conditions & !feed::ENDPOINT_TERMINATING | SERVES | feed::ENDPOINT_HELD;
        let endpoint = Endpoint { conditions, ..endpoint.clone() };
        EndpointGroup { ports: group.ports.clone(), endpoints: vec![endpoint] }
    })
}

/// What tells the group's endpoint from others.
fn identity(group: &EndpointGroup) -> (&[ServicePort], Option<(&str, IpAddr)>) {
    (&group.ports, group.endpoints.first().map(|endpoint| (&*endpoint.node, endpoint.address)))
}

/// Whether the group's endpoint is on a Node that is not ready.
fn is_down(nodes: &BTreeMap<String, Node>, group: &EndpointGroup) -> bool {
    group.endpoints.iter().any(|e| nodes.get(&*e.node).is_some_and(Node::is_down))
}

#[cfg(test)]
#[path = "held_tests.rs"]
mod tests;
