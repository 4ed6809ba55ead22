//! NAT boxes after RFC 4787: mapping and filtering, each independent of, or dependent on, address or port too.

use crate::time::{Duration, Instant};
use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Depends {
    Nothing,
    Address,
    Port,
}

pub(super) const KINDS: [(Depends, Depends); 9] = [
    (Depends::Nothing, Depends::Nothing),
    (Depends::Nothing, Depends::Address),
    (Depends::Nothing, Depends::Port),
    (Depends::Address, Depends::Nothing),
    (Depends::Address, Depends::Address),
    (Depends::Address, Depends::Port),
    (Depends::Port, Depends::Nothing),
    (Depends::Port, Depends::Address),
    (Depends::Port, Depends::Port),
];

const UNREPLIED: Duration = Duration::from_secs(30);

type Key = (IpAddr, u16);

impl Depends {
    fn key(self, remote: SocketAddr) -> Key {
        match self {
            Self::Nothing => (IpAddr::from([0; 4]), 0),
            Self::Address => (remote.ip(), 0),
            Self::Port => (remote.ip(), remote.port()),
        }
    }
}

pub(super) struct Nat {
    pub(super) public: IpAddr,
    mapping: Depends,
    filtering: Depends,
    lifetime: Duration,
    /// An unsolicited datagram becomes a flow of the box itself, and while it lasts (30 s) the inside is mapped
    /// elsewhere towards that remote.
    pub(super) spoilable: bool,
    spoiled: HashMap<(u16, SocketAddr), Instant>,
    /// (inside, key) to public port.
    out: HashMap<(SocketAddr, Key), u16>,
    /// Public port to (inside, when each remote was last sent to).
    back: HashMap<u16, (SocketAddr, HashMap<Key, Instant>)>,
    next: u16,
}

impl Nat {
    pub(super) fn new(public: IpAddr, kind: (Depends, Depends)) -> Self {
        Self {
            public,
            mapping: kind.0,
            filtering: kind.1,
            lifetime: Duration::from_secs(60),
            spoilable: false,
            spoiled: HashMap::new(),
            out: HashMap::new(),
            back: HashMap::new(),
            next: 30_000,
        }
    }

    /// Everything is forgotten, as after a power cycle; new mappings get new ports.
    pub(super) fn reboot(&mut self) {
        self.out.clear();
        self.back.clear();
    }

    pub(super) fn outbound(&mut self, now: Instant, inside: SocketAddr, remote: SocketAddr) -> SocketAddr {
        let mut key = (inside, self.mapping.key(remote));
        let usual = self.out.get(&key).copied();
        let own = (inside, Depends::Port.key(remote));
        // Unreplied as it is, the flow lives 30 s.
        let unreplied = |port: &&u16| self.back[*port].1.values().any(|last| now.since(*last) < UNREPLIED);
        if self.is_spoiled(now, usual, remote) || self.out.get(&own).as_ref().is_some_and(unreplied) {
            key = own;
        }
        let fresh = |last: &Instant| now.since(*last) < self.lifetime;
        let known = self.out.get(&key).copied();
        let port = known.filter(|port| self.back[port].1.values().any(fresh)).unwrap_or_else(|| {
            self.next = 30_000 + (self.next - 30_000 + 7_919) % 30_011;
            self.out.insert(key, self.next);
            self.back.insert(self.next, (inside, HashMap::new()));
            self.next
        });
        self.back.get_mut(&port).unwrap().1.insert(self.filtering.key(remote), now);
        SocketAddr::new(self.public, port)
    }

    fn is_spoiled(&self, now: Instant, port: Option<u16>, remote: SocketAddr) -> bool {
        let since = port.and_then(|port| self.spoiled.get(&(port, remote)));
        since.is_some_and(|at| now.since(*at) < UNREPLIED)
    }

    pub(super) fn inbound(&mut self, now: Instant, port: u16, remote: SocketAddr) -> Option<SocketAddr> {
        let (inside, seen) = self.back.get(&port)?;
        let alive = seen.values().any(|last| now.since(*last) < self.lifetime);
        let open = match self.filtering {
            Depends::Nothing => alive,
            filter => seen.get(&filter.key(remote)).is_some_and(|last| now.since(*last) < self.lifetime),
        };
        let inside = *inside;
        if !open && self.spoilable {
            self.spoiled.insert((port, remote), now);
        }
        open.then_some(inside)
    }
}
