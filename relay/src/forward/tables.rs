//! Who is bound where and which session leads where, by number.
//!
//! Bounds: [`SESSIONS_MAX`] sessions, the ones unused for longest making room; one binding a node.

use super::missed::Missed;
use super::{From, SESSIONS_MAX, Way};
use std::collections::HashMap;
use std::net::SocketAddr;

/// How many are looked at to find the one unused for longest.
const EVICT_SAMPLE: usize = 8;

/// Where a node is bound.
pub(super) enum Place {
    Here(Way),
    /// At the server without a directory that is the member of this index, which is bound itself.
    Via(u32),
}

/// A node's binding.
pub(super) struct Binding {
    pub(super) epoch: u64,
    pub(super) place: Place,
}

impl Binding {
    /// Whether the node is bound where a datagram came from.
    pub(super) fn is_at(&self, from: From<'_>) -> bool {
        matches!(&self.place, Place::Here(way) if from.is(way))
    }

    /// Whether it is bound at this server without a directory.
    pub(super) fn is_via(&self, relay: u32) -> bool {
        matches!(self.place, Place::Via(other) if other == relay)
    }
}

/// From which node to which.
#[derive(Clone, Copy)]
pub(super) struct Session {
    pub(super) from: u32,
    pub(super) to: u32,
    pub(super) used: u32,
}

/// See the module's documentation.
#[derive(Default)]
pub(super) struct Tables {
    pub(super) sessions: HashMap<u32, Session>,
    pub(super) pairs: HashMap<(u32, u32), u32>,
    pub(super) bindings: HashMap<u32, Binding>,
    pub(super) missed: Missed,
    /// Where the directory's server is, when this one has none.
    pub(super) upstream: Option<SocketAddr>,
}

impl Tables {
    /// Where what is for a node is sent, and comes from.
    pub(super) fn way(&self, index: u32) -> Option<&Way> {
        let place = match &self.bindings.get(&index)?.place {
            Place::Via(relay) => &self.bindings.get(relay)?.place,
            here => here,
        };
        match place {
            Place::Here(way) => Some(way),
            Place::Via(_) => None,
        }
    }

    /// Enters a session.
    pub(super) fn enter(&mut self, id: u32, session: Session) {
        if !self.sessions.contains_key(&id) {
            self.make_room();
        }
        if let Some(old) = self.pairs.insert((session.from, session.to), id).filter(|old| *old != id) {
            self.sessions.remove(&old);
        }
        self.sessions.insert(id, session);
    }

    fn make_room(&mut self) {
        if self.sessions.len() < SESSIONS_MAX {
            return;
        }
        // The map's order is random enough for a sample.
        let oldest =
            self.sessions.iter().take(EVICT_SAMPLE).min_by_key(|(_, s)| s.used).map(|(id, s)| (*id, *s));
        if let Some((id, session)) = oldest {
            self.sessions.remove(&id);
            self.pairs.remove(&(session.from, session.to));
        }
    }
}
