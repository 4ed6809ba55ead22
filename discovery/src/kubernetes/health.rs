//! How current the table is, and what it took.

use crate::object::Kind;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

/// Readable from any thread while the source runs.
#[derive(Debug, Default)]
pub struct Health(Mutex<Inner>);

#[derive(Debug, Default)]
struct Inner {
    services: Option<u64>,
    endpoints: Option<u64>,
    counters: Counters,
}

/// Counted since the start.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Counters {
    /// Whole lists heard.
    pub lists: u64,
    /// Requests that came to nothing, and watches that broke.
    pub failures: u64,
    /// Objects that do not apply, each counted once per version.
    pub refused_objects: u64,
}

impl Health {
    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// When Services and endpoints were last known to be current, in Unix seconds; `None` before the first time.
    pub fn current(&self) -> Option<u64> {
        let inner = self.inner();
        Some(inner.services?.min(inner.endpoints?))
    }

    /// The counters.
    pub fn counters(&self) -> Counters {
        self.inner().counters
    }

    pub(super) fn heard(&self, kind: Kind) {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
        let mut inner = self.inner();
        match kind {
            Kind::Service => inner.services = Some(now),
            Kind::EndpointSlice | Kind::Endpoints => inner.endpoints = Some(now),
            Kind::Namespace | Kind::Node | Kind::ServiceCidr | Kind::Pod => {}
        }
    }

    pub(super) fn listed(&self) {
        self.inner().counters.lists += 1;
    }

    pub(super) fn failed(&self) {
        self.inner().counters.failures += 1;
    }

    pub(super) fn refused(&self) {
        self.inner().counters.refused_objects += 1;
    }
}
