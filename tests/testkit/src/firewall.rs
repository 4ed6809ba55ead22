//! A firewall that translates nothing, as in front of IPv6 networks and in companies that block UDP.
//!
//! Stateless but for [`Inbound::Replies`]. Sans-IO. TCP-like pipes pass from inside to outside whatever it says.

use crate::filter::{Behaviour, Permissions};
use edgemesh_core::time::{Duration, Instant};
use std::collections::BTreeMap;
use std::net::SocketAddr;

/// Which UDP datagrams come in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Inbound {
    /// All.
    Open,
    /// None.
    Closed,
    /// Those from where the inside sent to not longer than `expiry` ago.
    Replies {
        /// How closely the remote must match.
        filtering: Behaviour,
        /// How long after the last packet out.
        expiry: Duration,
    },
}

/// A firewall.
#[derive(Clone, Debug)]
pub struct Firewall {
    /// Whether UDP leaves at all.
    pub udp_out: bool,
    /// Which UDP comes in.
    pub inbound: Inbound,
    sent: BTreeMap<SocketAddr, Permissions>,
}

impl Firewall {
    /// Lets everything out, and in what `inbound` says.
    pub fn new(inbound: Inbound) -> Self {
        Self { udp_out: true, inbound, sent: BTreeMap::new() }
    }

    /// What home routers do with IPv6: replies from the same address and port, for 30 s.
    pub fn home() -> Self {
        Self::new(Inbound::Replies {
            filtering: Behaviour::AddressAndPortDependent,
            expiry: Duration::from_secs(30),
        })
    }

    /// Drops all UDP in both directions.
    pub fn no_udp() -> Self {
        Self { udp_out: false, ..Self::new(Inbound::Closed) }
    }

    /// Whether a datagram from inside passes.
    pub fn outbound(&mut self, now: Instant, from: SocketAddr, to: SocketAddr) -> bool {
        if let Inbound::Replies { filtering, .. } = self.inbound
            && self.udp_out
        {
            self.sent.entry(from).or_default().grant(now, filtering, to);
        }
        self.udp_out
    }

    /// Whether a datagram from outside passes.
    pub fn inbound(&self, now: Instant, from: SocketAddr, to: SocketAddr) -> bool {
        match self.inbound {
            Inbound::Open => true,
            Inbound::Closed => false,
            Inbound::Replies { filtering, expiry } => {
                self.sent.get(&to).is_some_and(|sent| sent.allows(now, filtering, expiry, from))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    fn secs(n: u64) -> Instant {
        Instant::ZERO.after(Duration::from_secs(n))
    }

    #[test]
    fn replies_come_in_for_a_while_and_nothing_else_does() {
        let mut wall = Firewall::home();
        let (inside, remote) = (at("[2001:db8:1::1]:5"), at("[2001:db8:2::1]:6"));
        assert!(!wall.inbound(secs(0), remote, inside));
        assert!(wall.outbound(secs(0), inside, remote));
        assert!(wall.inbound(secs(29), remote, inside));
        assert!(!wall.inbound(secs(29), at("[2001:db8:2::1]:7"), inside));
        assert!(!wall.inbound(secs(29), remote, at("[2001:db8:1::1]:6")));
        assert!(!wall.inbound(secs(30), remote, inside));
    }

    #[test]
    fn open_closed_and_no_udp_keep_no_state() {
        let (inside, remote) = (at("[2001:db8:1::1]:5"), at("[2001:db8:2::1]:6"));
        let mut closed = Firewall::new(Inbound::Closed);
        assert!(closed.outbound(secs(0), inside, remote) && !closed.inbound(secs(0), remote, inside));
        let mut open = Firewall::new(Inbound::Open);
        assert!(open.outbound(secs(0), inside, remote) && open.inbound(secs(0), remote, inside));
        let mut none = Firewall::no_udp();
        assert!(!none.outbound(secs(0), inside, remote) && !none.inbound(secs(0), remote, inside));
    }
}
