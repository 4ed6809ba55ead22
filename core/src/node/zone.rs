//! What the responder sees of the Service table.

use crate::dns::{Endpoint, Kind, Label, NameText, Owner, Port, Zone};
use crate::service::view::{self, EndpointView};
use crate::service::{Table, Text};
use crate::wire::ip::Mesh;
use core::net::IpAddr;
use core::str::from_utf8;

/// The table as a zone, seen from one node.
pub(super) struct TableZone<'t, 'a> {
    pub(super) table: &'t Table<'a>,
    /// This node's index.
    pub(super) own: u32,
    pub(super) mesh: Mesh,
}

impl TableZone<'_, '_> {
    /// Pods of this node by their own address, others by the one that stands for them cluster-wide.
    fn address(&self, endpoint: &EndpointView<'_>) -> IpAddr {
        match endpoint.vip() {
            Some(vip) if endpoint.node() != self.own => vip,
            _ => endpoint.address(),
        }
    }
}

impl Zone for TableZone<'_, '_> {
    fn synced(&self) -> bool {
        self.table.is_complete()
    }

    fn serial(&self) -> u32 {
        self.table.generation()
    }

    fn namespace(&self, namespace: &[u8]) -> bool {
        from_utf8(namespace).is_ok_and(|name| self.table.has_namespace(name))
    }

    fn service(&self, namespace: &[u8], name: &[u8]) -> Option<u32> {
        self.table.service(from_utf8(namespace).ok()?, from_utf8(name).ok()?).map(|s| s.id())
    }

    fn kind(&self, service: u32) -> Kind {
        match self.table.service_by_id(service).map(|s| s.kind()) {
            Some(view::Kind::Headless) => Kind::Headless,
            Some(view::Kind::ExternalName) => Kind::ExternalName,
            Some(view::Kind::ClusterIp) | None => Kind::ClusterIp,
        }
    }

    fn name(&self, service: u32) -> (Label, Label) {
        let names = self.table.service_by_id(service).map(|s| (copy(s.namespace()), copy(s.name())));
        names.unwrap_or_default()
    }

    fn external_name(&self, service: u32) -> NameText {
        self.table.service_by_id(service).map(|s| copy(s.external_name())).unwrap_or_default()
    }

    fn addresses(&self, service: u32) -> impl Iterator<Item = IpAddr> {
        self.table.service_by_id(service).into_iter().flat_map(|s| s.vips())
    }

    fn ports(&self, service: u32) -> impl Iterator<Item = Port> {
        self.table.service_by_id(service).into_iter().flat_map(|s| s.ports()).map(|port| Port {
            name: copy(port.name()),
            protocol: port.protocol(),
            number: port.port(),
        })
    }

    fn endpoints(&self, service: u32) -> impl Iterator<Item = Endpoint> {
        self.table.service_by_id(service).into_iter().flat_map(|s| s.endpoints()).map(|endpoint| Endpoint {
            id: endpoint.id(),
            address: self.address(&endpoint),
            ready: endpoint.ready(),
        })
    }

    fn hostname(&self, _: u32, endpoint: u32) -> Label {
        self.table.endpoint_by_id(endpoint).map(|e| copy(e.hostname())).unwrap_or_default()
    }

    fn target(&self, _: u32, endpoint: u32, port: u16) -> Option<u16> {
        self.table.endpoint_by_id(endpoint)?.target(u8::try_from(port).ok()?)
    }

    fn owners(&self, address: IpAddr) -> impl Iterator<Item = Owner> {
        let service = self.table.service_of_vip(address).map(|s| Owner::Service(s.id()));
        let endpoint = || {
            let endpoint =
                self.table.endpoint_of_vip(address).or_else(|| self.table.endpoint_at(self.own, address))?;
            Some(Owner::Endpoint { service: endpoint.service()?.id(), endpoint: endpoint.id() })
        };
        service.or_else(endpoint).into_iter()
    }

    fn is_ours(&self, address: IpAddr) -> bool {
        self.mesh.contains(address)
    }
}

/// Copies a name as far as there is room; names that the table holds are no longer than their places.
fn copy<const N: usize>(text: Text<'_>) -> heapless::Vec<u8, N> {
    text.bytes().take(N).collect()
}
