//! Entry points: addresses and ports of this node, or routed to it, that lead to Services (NodePorts, external IPs,
//! addresses of load balancers).
//!
//! [`Entries`] says what ought to be; [`script`] writes it as an nftables table of its own, [`TABLE`], so that a
//! change of entry points never touches the rules that keep the mesh working. A connection to an entry point is
//! translated to the Service's ClusterIP before anything else of this node sees it (priority -110: kube-proxy has
//! -100), and goes from there like any other: to the TUN device, where the engine chooses. Only what keeps the
//! client's address, `externalTrafficPolicy: Local` for a client that comes from elsewhere, is translated by the
//! kernel straight to an endpoint of this node.
//!
//! Stateless; the keeper loads the table when it differs and removes it when there is no entry point. Bounds: as
//! many elements as Services have entry points; one chain for each distinct list of endpoints or source ranges.
//! It does not accept or reject anything: a Service without endpoints is refused by the engine. What the kernel
//! translated before a change goes on, but for datagrams whose way has ended: [`stale`] has those forgotten.

mod script;
mod stale;
mod table;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use crate::prefix::Prefix;

pub(super) use script::MARKED;
pub use script::{MARK, TABLE};
pub(super) use table::Kept;

/// Where connections come in.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct EntryPoint {
    /// The address that the client connects to.
    pub address: IpAddr,
    /// IP protocol number: TCP, UDP or SCTP.
    pub protocol: u8,
    /// The port that the client connects to.
    pub port: u16,
}

/// Where they go.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Way {
    /// The Service's ClusterIP, or what stands for it on this node, and its port.
    pub to: SocketAddr,
    /// Where clients from off this node go instead, with their own address; to none of none: they are dropped.
    pub outside: Option<Vec<SocketAddr>>,
    /// Endpoints of this node that new clients may not get, and those that have one keep: they still serve.
    pub keep: Vec<SocketAddr>,
    /// The same client goes to the same of those.
    pub sticky: bool,
    /// Whom it is open to, wherever they are; everybody else is dropped.
    pub sources: Option<Vec<Prefix>>,
}

/// Every entry point of this node.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Entries {
    /// Devices that clients from off this node come by.
    pub outside: Vec<String>,
    /// The ways in.
    pub ways: BTreeMap<EntryPoint, Way>,
}

impl Entries {
    /// Has the ways to these ClusterIPs lead to what stands for them.
    pub fn lead(&mut self, stand_ins: &BTreeMap<&IpAddr, &IpAddr>) {
        for way in self.ways.values_mut() {
            if let Some(stand_in) = stand_ins.get(&way.to.ip()) {
                way.to.set_ip(**stand_in);
            }
        }
    }

    /// Leaves the ways to other ClusterIPs to another service proxy.
    pub fn retain(&mut self, is_ours: impl Fn(&IpAddr) -> bool) {
        self.ways.retain(|_, way| is_ours(&way.to.ip()));
    }
}
