//! Read-only views of services, ports and endpoints, for DNS, listings and `explain`.

use super::names::Text;
use super::slots::{CLUSTER_IP, CONDITIONS, EndpointSlot, FLAGS, HEADLESS, PortSlot, ServiceSlot};
use super::{Table, protocol_number};
use crate::storage::link::id;
use crate::wire::feed::{ENDPOINT_READY, Protocol};
use core::net::IpAddr;

/// The kinds of service.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// With ClusterIPs.
    ClusterIp,
    /// `clusterIP: None`.
    Headless,
    /// A CNAME.
    ExternalName,
}

/// A service.
#[derive(Clone, Copy)]
pub struct ServiceView<'t> {
    table: &'t Table<'t>,
    id: u32,
    slot: &'t ServiceSlot,
}

impl<'t> ServiceView<'t> {
    pub(super) fn new(table: &'t Table<'_>, id: u32) -> Option<Self> {
        let slot = table.services.get(id).filter(|slot| slot.live())?;
        Some(Self { table, id, slot })
    }

    /// Its handle, for [`Table::service_by_id`]; another service may have it after the next change of the table.
    pub fn id(&self) -> u32 {
        self.id
    }

    /// `metadata.namespace`.
    pub fn namespace(&self) -> Text<'t> {
        let name =
            self.table.namespaces.get(id(self.slot.namespace)).map_or(super::names::Name::NONE, |n| n.name);
        self.table.names.text(name)
    }

    /// `metadata.name`.
    pub fn name(&self) -> Text<'t> {
        self.table.names.text(self.slot.name)
    }

    /// What kind of service it is.
    pub fn kind(&self) -> Kind {
        match self.slot.kind {
            CLUSTER_IP => Kind::ClusterIp,
            HEADLESS => Kind::Headless,
            _ => Kind::ExternalName,
        }
    }

    /// The CNAME's target; empty for other kinds.
    pub fn external_name(&self) -> Text<'t> {
        self.table.names.text(self.slot.external)
    }

    /// Its ClusterIPs.
    pub fn vips(&self) -> impl Iterator<Item = IpAddr> + use<'t> {
        self.slot.vips.iter().filter_map(|vip| vip.ip())
    }

    /// `FLAG_*` bits of the feed.
    pub fn flags(&self) -> u8 {
        self.slot.flags & FLAGS
    }

    /// Client affinity timeout in seconds; 0 without affinity.
    pub fn affinity_secs(&self) -> u32 {
        self.slot.affinity_secs
    }

    /// Its ports.
    pub fn ports(&self) -> impl Iterator<Item = PortView<'t>> + use<'t> {
        let table = self.table;
        self.table.service_ports(self.slot).map(move |slot| PortView { table, slot })
    }

    /// Its endpoints, usable or not.
    pub fn endpoints(&self) -> impl Iterator<Item = EndpointView<'t>> + use<'t> {
        let (table, mut at) = (self.table, id(self.slot.endpoints));
        core::iter::from_fn(move || {
            let endpoint = EndpointView::new(table, at)?;
            at = id(endpoint.slot.next);
            Some(endpoint)
        })
    }
}

/// A service port.
#[derive(Clone, Copy)]
pub struct PortView<'t> {
    table: &'t Table<'t>,
    slot: &'t PortSlot,
}

impl<'t> PortView<'t> {
    /// Its name; empty without one.
    pub fn name(&self) -> Text<'t> {
        self.table.names.text(self.slot.name)
    }

    /// Its number.
    pub fn port(&self) -> u16 {
        self.slot.port
    }

    /// Its protocol.
    pub fn protocol(&self) -> Protocol {
        let is = |p: &Protocol| protocol_number(*p) == self.slot.protocol;
        [Protocol::Udp, Protocol::Sctp].into_iter().find(is).unwrap_or(Protocol::Tcp)
    }

    /// Its place among the service's ports.
    pub fn index(&self) -> u8 {
        self.slot.index
    }
}

/// An endpoint.
#[derive(Clone, Copy)]
pub struct EndpointView<'t> {
    table: &'t Table<'t>,
    id: u32,
    slot: &'t EndpointSlot,
}

impl<'t> EndpointView<'t> {
    pub(super) fn new(table: &'t Table<'_>, id: u32) -> Option<Self> {
        Some(Self { table, id, slot: table.endpoints.get(id)? })
    }

    /// Its handle, for [`Table::endpoint_by_id`], as passing as a service's.
    pub fn id(&self) -> u32 {
        self.id
    }

    /// The service that it belongs to.
    pub fn service(&self) -> Option<ServiceView<'t>> {
        ServiceView::new(self.table, id(self.slot.service))
    }

    /// Index of its node, 0 when no node of ours has it.
    pub fn node(&self) -> u32 {
        self.slot.node
    }

    /// Its address on that node.
    pub fn address(&self) -> IpAddr {
        self.slot.address.ip_or_unspecified()
    }

    /// Its cluster-wide stand-in.
    pub fn vip(&self) -> Option<IpAddr> {
        self.slot.vip.ip()
    }

    /// Its hostname; empty without one.
    pub fn hostname(&self) -> Text<'t> {
        self.table.names.text(self.slot.hostname)
    }

    /// `ENDPOINT_*` bits of the feed.
    pub fn conditions(&self) -> u8 {
        self.slot.conditions & CONDITIONS
    }

    /// Whether the kernel of the node `own` reaches it: it is there, or in the domain of that node.
    pub fn is_direct(&self, own: u32) -> bool {
        self.slot.is_direct(own)
    }

    /// Whether connections to it may be handed over to this node's kernel: it is direct, and behind no exit.
    pub fn is_plain(&self) -> bool {
        self.table.is_plain(self.slot)
    }

    /// Whether it is ready.
    pub fn ready(&self) -> bool {
        self.slot.has(ENDPOINT_READY)
    }

    /// The port number that it serves the service's port `index` at.
    pub fn target(&self, index: u8) -> Option<u16> {
        Some(self.table.target(id(self.slot.targets), index)).filter(|port| *port != 0)
    }
}
