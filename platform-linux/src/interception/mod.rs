//! Making the kernel bring the node's Service traffic to the TUN device, keeping it so, and undoing it.
//!
//! Two ways lead there. A VIP is *routed* to the device as it is, or, beside another service proxy ([`Proxy`]), it is
//! *shadowed*: our table gives packets the VIP's stand-in as destination before that proxy sees them, and the mesh
//! prefix, in which stand-ins lie, is routed to the device anyway.
//!
//! A [`Plan`] says what ought to be there: addresses, routes, settings, our nftables table, accepts in the chains
//! of others. [`check`] refuses a plan that collides with the machine's own routes. [`Keeper::start`] makes it
//! so and [`Keeper::spawn`] keeps it so: what others delete is back within a second. [`cleanup()`] removes all of
//! it, without an agent too, from the [`Ledger`] and from what can be recognised as ours (the device's alias, the
//! table's name, the routes' protocol number).
//!
//! Every step looks before it acts, so each may run any number of times. The state stays when the agent stops:
//! established connections outlive a restart. It never touches resolv.conf or the INPUT chain, nor rp_filter of any
//! device but its own.

mod cleanup;
mod connections;
pub mod entry;
mod error;
mod firewall;
mod keeper;
mod ledger;
mod look;
mod nft;
mod overlap;
mod proxy;
mod report;
mod sysctl;
mod tool;

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use crate::netlink::Scope;
use crate::prefix::Prefix;

pub use cleanup::{Cleaned, cleanup};
pub use error::SetupError;
pub use keeper::{Keeper, KeeperHandle};
pub use ledger::{Ledger, Touched};
pub use nft::TABLE;

/// Our own tables.
const TABLES: [&str; 2] = [TABLE, entry::TABLE];

pub use overlap::check;
pub use proxy::{IPVS_DEVICES, Proxy, find as find_proxy, socket_balancer};
pub use report::{Report, Restored};
pub use sysctl::is_strict;
pub use tool::ToolError;

/// The mesh in one address family.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Mesh {
    /// This node's own address.
    pub address: IpAddr,
    /// All nodes' addresses.
    pub prefix: Prefix,
}

/// What the kernel ought to do for us.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Plan {
    /// The TUN device, which exists while the plan is applied.
    pub device: String,
    /// Its MTU in bytes.
    pub mtu: u32,
    /// One entry per address family in use.
    pub mesh: Vec<Mesh>,
    /// Link-local addresses that the node's DNS listens on.
    pub dns: Vec<IpAddr>,
    /// What follows the Services.
    pub services: Wanted,
}

/// The part of a plan that changes with the Services.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Wanted {
    /// Comes back when all of it is in place ([`Report::Programmed`]).
    pub number: u64,
    /// What is routed to the device beside the mesh: ranges of Service addresses or single ones.
    pub routed: Vec<Prefix>,
    /// VIPs that another service proxy claims too, each with the address of the mesh that stands for it: they are
    /// translated before that proxy sees them.
    pub shadowed: BTreeMap<IpAddr, IpAddr>,
    /// Addresses outside the mesh that other nodes reach through this one: to them this node's own address is
    /// the source, for nobody else knows the way back into the mesh.
    pub exits: Vec<IpAddr>,
    /// UDP endpoints at addresses of this node itself: a server that is bound to none of them answers other nodes from
    /// the mesh address, as the way there says, and its client would not know the answer.
    pub answering: BTreeSet<SocketAddr>,
    /// Endpoints that the kernel itself may lead connections to, by VIP, protocol and port: see
    /// [`crate::agent`]. Only what it has forget leads elsewhere.
    pub handed: BTreeMap<entry::EntryPoint, BTreeSet<SocketAddr>>,
    /// Where clients come in besides; none unless the node is asked to serve entry points.
    pub entries: entry::Entries,
}

impl Plan {
    /// The device's addresses. The mesh address comes first: it is the source of the host's own connections, and
    /// while one address is left the kernel keeps the routes.
    fn addresses(&self) -> impl Iterator<Item = (IpAddr, Scope)> + '_ {
        let mesh = self.mesh.iter().map(|mesh| (mesh.address, Scope::Global));
        mesh.chain(self.dns.iter().map(|dns| (*dns, Scope::Host)))
    }

    /// The routes to the device, each with the source that the host's own connections take.
    fn routes(&self) -> BTreeMap<Prefix, Option<IpAddr>> {
        let mesh = self.mesh.iter().map(|mesh| (mesh.prefix, Some(mesh.address)));
        let services = self.services.routed.iter().filter_map(|service| {
            // Without a mesh address of its family nothing could answer: leave such Services to others.
            let mesh = self.mesh.iter().find(|mesh| mesh.prefix.is_ipv6() == service.is_ipv6())?;
            Some((*service, Some(mesh.address)))
        });
        mesh.chain(services).collect()
    }
}
