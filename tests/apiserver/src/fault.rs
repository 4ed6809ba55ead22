//! What can go wrong with a request, on order.

use crate::resource::Resource;
use std::time::Duration;

/// Which requests of a resource.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verb {
    /// Lists, and each page of one.
    List,
    /// Starts of watches.
    Watch,
    /// Both.
    Any,
}

/// What happens to a request instead of its answer.
#[derive(Clone, Debug)]
pub enum Fault {
    /// An HTTP status with a `Status` body of this reason and message, perhaps with `Retry-After` in seconds.
    Status(u16, &'static str, Option<u32>),
    /// A watch that starts as it should and then tells this as its first event.
    ErrorEvent(u16, &'static str),
    /// The connection closes without an answer.
    Close,
    /// The connection closes after this many bytes of the body.
    Cut(usize),
    /// The answer comes after this time.
    Slow(Duration),
    /// The body comes in pieces of this many bytes with a pause before each.
    Trickle(usize, Duration),
    /// Nothing ever comes, not even a head.
    Silence,
    /// An empty list without a resource version (row K4).
    Empty,
    /// These bytes as the body, with status 200.
    Body(Vec<u8>),
}

/// An order for faults.
pub(crate) struct Planned {
    pub(crate) resource: Option<Resource>,
    pub(crate) verb: Verb,
    pub(crate) times: usize,
    pub(crate) fault: Fault,
}

/// The faults that are still to happen, first ordered first.
#[derive(Default)]
pub(crate) struct Plan(Vec<Planned>);

impl Plan {
    pub(crate) fn add(&mut self, planned: Planned) {
        self.0.push(planned);
    }

    pub(crate) fn clear(&mut self) {
        self.0.clear();
    }

    /// The fault for a request, which counts as done.
    pub(crate) fn take(&mut self, resource: Resource, verb: Verb) -> Option<Fault> {
        let hit =
            |p: &Planned| p.resource.is_none_or(|r| r == resource) && (p.verb == Verb::Any || p.verb == verb);
        let place = self.0.iter().position(hit)?;
        let planned = self.0.get_mut(place)?;
        planned.times = planned.times.saturating_sub(1);
        if planned.times == 0 { Some(self.0.remove(place).fault) } else { Some(planned.fault.clone()) }
    }
}
