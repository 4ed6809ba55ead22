//! The table's plain-data slots. All-zero is empty; links are ids, 0 is none.

use super::names::Name;
use crate::storage::link::{id, link};
use crate::storage::{Link, Slot};
use crate::wire::feed::{
    ENDPOINT_EXIT, ENDPOINT_FOR_NODE, ENDPOINT_HELD, ENDPOINT_READY, ENDPOINT_SERVING, ENDPOINT_TERMINATING,
    FLAG_INTERNAL_LOCAL, FLAG_NEAREST, FLAG_NO_PROXY,
};
use crate::wire::ip::Address;

macro_rules! linked {
    ($slot:ty) => {
        impl Slot for $slot {
            const EMPTY: Self = Self::ZERO;
            fn link(&self) -> u32 {
                id(self.next)
            }
            fn set_link(&mut self, next: u32) {
                self.next = link(next);
            }
        }
    };
}

/// VIPs that a service may have: one of each family.
pub const VIPS: usize = if cfg!(feature = "compact") { 1 } else { 2 };

/// What kind of service a slot holds; 0 is a free slot.
pub(super) const CLUSTER_IP: u8 = 1;
pub(super) const HEADLESS: u8 = 2;
pub(super) const EXTERNAL_NAME: u8 = 3;

/// A service.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct ServiceSlot {
    pub(super) next: Link,
    pub(super) namespace: Link,
    pub(super) name: Name,
    pub(super) external: Name,
    pub(super) vips: [Address; VIPS],
    /// Changes when the service is deleted and made anew, or gets another VIP.
    pub(super) uid: u32,
    /// The full list that named it last.
    pub(super) list: u32,
    pub(super) affinity_secs: u32,
    pub(super) ports: Link,
    pub(super) targets: Link,
    pub(super) endpoints: Link,
    /// Ready endpoints; they have the numbers 0 to this in the ordinal index.
    pub(super) ready: Link,
    pub(super) kind: u8,
    pub(super) flags: u8,
}

impl ServiceSlot {
    /// A free slot.
    pub const ZERO: Self = Self {
        next: 0,
        namespace: 0,
        name: Name::NONE,
        external: Name::NONE,
        vips: [Address::NONE; VIPS],
        uid: 0,
        list: 0,
        affinity_secs: 0,
        ports: 0,
        targets: 0,
        endpoints: 0,
        ready: 0,
        kind: 0,
        flags: 0,
    };

    pub(super) fn live(&self) -> bool {
        self.kind != 0
    }

    pub(super) fn proxied(&self) -> bool {
        self.kind == CLUSTER_IP && self.flags & FLAG_NO_PROXY == 0
    }
}

/// Conditions of the table's own: the endpoint is hinted for zones, and for this node's zone.
pub(super) const FOR_ZONE: u8 = 0x40;
pub(super) const FOR_OWN_ZONE: u8 = 0x80;
/// Conditions that a source may set.
pub(super) const CONDITIONS: u8 = ENDPOINT_READY
    | ENDPOINT_SERVING
    | ENDPOINT_TERMINATING
    | ENDPOINT_FOR_NODE
    | ENDPOINT_HELD
    | ENDPOINT_EXIT;

/// What the zones of a definition mean in the zone `own`.
pub(super) fn zone_conditions(zones: &[u8], own: u32) -> u8 {
    let mut zones = zones.chunks_exact(4).filter_map(|zone| zone.try_into().ok().map(u32::from_le_bytes));
    let Some(first) = zones.next() else { return 0 };
    let is_own = own != 0 && core::iter::once(first).chain(zones).any(|zone| zone == own);
    if is_own { FOR_ZONE | FOR_OWN_ZONE } else { FOR_ZONE }
}

const _: () = assert!(CONDITIONS & (FOR_ZONE | FOR_OWN_ZONE) == 0);

/// Flags that a source may set; the others are the table's own.
pub(super) const FLAGS: u8 = FLAG_NO_PROXY | FLAG_INTERNAL_LOCAL | FLAG_NEAREST;
/// Every ready endpoint of a family is hinted for a node, or for a zone: otherwise such hints count for nothing
/// (row T8).
const ALL_FOR_NODE: [u8; 2] = [0x10, 0x20];
const ALL_FOR_ZONE: [u8; 2] = [0x40, 0x80];
pub(super) const ALL_HINTS: u8 = 0xf0;

/// The flags that a service cannot have because of this ready endpoint.
pub(super) fn missing_hints(endpoint: &EndpointSlot) -> u8 {
    let family = usize::from(endpoint.address.ip_or_unspecified().is_ipv6());
    let bit =
        |missing, bits: [u8; 2]| if missing { bits.get(family).copied().unwrap_or_default() } else { 0 };
    bit(!endpoint.has(ENDPOINT_FOR_NODE), ALL_FOR_NODE) | bit(!endpoint.has(FOR_ZONE), ALL_FOR_ZONE)
}

impl ServiceSlot {
    /// Whether hints for nodes, and those for zones, count.
    pub(super) fn hinted(&self, v6: bool) -> (bool, bool) {
        let has = |bits: [u8; 2]| bits.get(usize::from(v6)).is_some_and(|bit| self.flags & bit != 0);
        (has(ALL_FOR_NODE), has(ALL_FOR_ZONE))
    }
}

/// A service port.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct PortSlot {
    pub(super) next: Link,
    pub(super) name: Name,
    pub(super) port: u16,
    /// IP protocol number.
    pub(super) protocol: u8,
    /// Its place among the service's ports.
    pub(super) index: u8,
}

impl PortSlot {
    /// A free slot.
    pub const ZERO: Self = Self { next: 0, name: Name::NONE, port: 0, protocol: 0, index: 0 };
}

/// Ports that one [`TargetSlot`] holds.
pub(super) const TARGETS: usize = 4;

/// Port numbers of a group of endpoints, four to a slot.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct TargetSlot {
    /// The next four ports of the group.
    pub(super) next: Link,
    /// The service's next group; only in a group's first slot.
    pub(super) next_group: Link,
    pub(super) ports: [u16; TARGETS],
}

impl TargetSlot {
    /// A free slot.
    pub const ZERO: Self = Self { next: 0, next_group: 0, ports: [0; TARGETS] };
}

/// An endpoint.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct EndpointSlot {
    pub(super) next: Link,
    pub(super) service: Link,
    /// First slot of its group's ports.
    pub(super) targets: Link,
    pub(super) node: u32,
    pub(super) address: Address,
    pub(super) vip: Address,
    pub(super) hostname: Name,
    /// Its number among the service's ready endpoints, plus one; 0 when it is not ready.
    pub(super) ordinal: Link,
    pub(super) conditions: u8,
    /// Its node is of this node's domain, or reached as if it were.
    pub(super) in_domain: bool,
}

impl EndpointSlot {
    /// A free slot.
    pub const ZERO: Self = Self {
        next: 0,
        service: 0,
        targets: 0,
        node: 0,
        address: Address::NONE,
        vip: Address::NONE,
        hostname: Name::NONE,
        ordinal: 0,
        conditions: 0,
        in_domain: false,
    };

    pub(super) fn has(&self, conditions: u8) -> bool {
        self.conditions & conditions == conditions
    }

    /// Whether the kernel of the node `own` reaches it by itself.
    pub(super) fn is_direct(&self, own: u32) -> bool {
        self.reached_by(own) == own
    }

    /// The node whose kernel a packet of the node `own` is given to for it.
    pub(super) fn reached_by(&self, own: u32) -> u32 {
        if self.in_domain { own } else { self.node }
    }
}

/// A namespace.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct NamespaceSlot {
    pub(super) next: Link,
    pub(super) name: Name,
    /// Services in it.
    pub(super) services: u32,
    /// The full list that named the namespace itself, plus one; 0 when none did.
    pub(super) list: u32,
}

impl NamespaceSlot {
    /// A free slot.
    pub const ZERO: Self = Self { next: 0, name: Name::NONE, services: 0, list: 0 };

    pub(super) fn live(&self) -> bool {
        self.services != 0 || self.list != 0
    }
}

linked!(ServiceSlot);
linked!(PortSlot);
linked!(TargetSlot);
linked!(EndpointSlot);
linked!(NamespaceSlot);

const _: () = assert!(size_of::<ServiceSlot>() <= 96);
const _: () = assert!(size_of::<PortSlot>() <= 16);
const _: () = assert!(size_of::<TargetSlot>() <= 16);
const _: () = assert!(size_of::<EndpointSlot>() <= 64);
const _: () = assert!(size_of::<NamespaceSlot>() <= 20);
