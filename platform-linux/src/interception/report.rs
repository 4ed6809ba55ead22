//! What the keeper tells of its work, and what of it is no news: the agent's own doing.

use super::SetupError;
use super::ledger::Touched;
use super::proxy::Proxy;
use crate::prefix::Prefix;
use std::collections::HashSet;
use std::net::IpAddr;

/// Something that was missing or wrong and was put right.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Restored {
    /// The device was down or had another MTU.
    Device,
    /// An address of the device.
    Address(IpAddr),
    /// A route to the device.
    Route(Prefix),
    /// A route of an earlier plan was taken away.
    StaleRoute(Prefix),
    /// Our nftables table.
    Table,
    /// The one of entry points.
    Entries,
    /// An accept in a chain of others.
    Rule(Touched),
}

/// News of the keeper.
#[derive(Debug)]
pub enum Report {
    /// Others had taken this away.
    Restored(Restored),
    /// It could not be put right; told once until it changes.
    Failed(SetupError),
    /// The device does not exist: open it anew.
    DeviceGone,
    /// The failure before has passed.
    Recovered,
    /// Another service proxy has appeared on this node, or changed, or gone.
    Proxy(Option<Proxy>),
    /// What was asked for last is in place, with its number.
    Programmed(u64),
    /// What takes connections to Services before they reach this node's network, in words; or it is gone.
    Balancer(Option<String>),
    /// Devices, addresses or routes have changed, of whatever kind.
    Ways,
    /// Connections that the kernel translated otherwise than the plan says begin anew.
    Forgotten(usize),
}

/// What a change of the plan brings about, which is nobody else's doing.
#[derive(Default)]
pub(super) struct Changed {
    /// The number of what was asked for.
    pub(super) asked: Option<u64>,
    pub(super) routes: HashSet<Prefix>,
    pub(super) table: bool,
    /// There are entry points now, or none any more: other rules let their clients through.
    pub(super) firewall: bool,
}

impl Changed {
    pub(super) fn explains(&self, restored: &Restored) -> bool {
        match restored {
            Restored::Route(to) | Restored::StaleRoute(to) => self.routes.contains(to),
            Restored::Table => self.table,
            Restored::Rule(_) => self.firewall,
            _ => false,
        }
    }
}
