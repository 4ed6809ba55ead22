//! What a box lets in: RFC 4787 section 5's filtering, shared by NAT boxes and firewalls.

use edgemesh_core::time::{Duration, Instant};
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

/// How far a mapping or a filter looks at the remote side (RFC 4787, sections 4.1 and 5).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Behaviour {
    /// Not at all.
    EndpointIndependent,
    /// At its address.
    AddressDependent,
    /// At its address and port.
    AddressAndPortDependent,
}

impl Behaviour {
    /// All three, mildest first.
    pub const ALL: [Self; 3] =
        [Self::EndpointIndependent, Self::AddressDependent, Self::AddressAndPortDependent];

    /// What of `remote` counts.
    pub(crate) fn scope(self, remote: SocketAddr) -> Scope {
        match self {
            Self::EndpointIndependent => Scope::Any,
            Self::AddressDependent => Scope::Address(remote.ip()),
            Self::AddressAndPortDependent => Scope::Endpoint(remote),
        }
    }
}

/// A set of remotes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Scope {
    Any,
    Address(IpAddr),
    Endpoint(SocketAddr),
}

/// Who may send to one internal endpoint, because it sent there not long ago.
#[derive(Clone, Default, Debug)]
pub(crate) struct Permissions {
    sent: BTreeMap<Scope, Instant>,
}

impl Permissions {
    /// The endpoint sent to `remote`.
    pub(crate) fn grant(&mut self, now: Instant, filtering: Behaviour, remote: SocketAddr) {
        self.sent.insert(filtering.scope(remote), now);
    }

    /// Whether `remote` may send now.
    pub(crate) fn allows(
        &self,
        now: Instant,
        filtering: Behaviour,
        expiry: Duration,
        remote: SocketAddr,
    ) -> bool {
        self.sent.get(&filtering.scope(remote)).is_some_and(|sent| now < sent.after(expiry))
    }
}
