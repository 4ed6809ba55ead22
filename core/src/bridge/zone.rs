//! What the responder sees of the Service table.

use crate::dns::{Endpoint, Kind, Label, NameText, Owner, Port, Zone};
use crate::peer::Lookups;
use crate::service::view::{self, EndpointView};
use crate::service::{Table, Text};
use crate::wire::ask;
use crate::wire::ip::Mesh;
use core::cell::Cell;
use core::net::IpAddr;
use core::str::from_utf8;

/// The table as a zone, seen from one node.
pub(crate) struct TableZone<'t, 'a> {
    pub(crate) table: &'t Table<'a>,
    /// This node's index.
    pub(crate) own: u32,
    pub(crate) mesh: Mesh,
    /// With a table on demand: what the server was asked about, and the first thing that it was not.
    pub(crate) asked: Option<&'t Lookups<'a>>,
    pub(crate) missed: Cell<Option<u32>>,
}

impl<'t, 'a> TableZone<'t, 'a> {
    /// The table as seen from node `own`.
    pub(crate) fn new(table: &'t Table<'a>, asked: &'t Lookups<'a>, own: u32, mesh: Mesh) -> Self {
        Self { table, own, mesh, asked: table.is_on_demand().then_some(asked), missed: Cell::new(None) }
    }

    /// Something is not in the table: nobody knows whether it exists before the server was asked.
    fn miss(&self, key: impl FnOnce() -> u32) {
        if let (Some(asked), None) = (self.asked, self.missed.get()) {
            self.missed.set(Some(key()).filter(|key| !asked.is_settled(*key)));
        }
    }

    /// Pods that this node's kernel reaches by their own address, others by the one that stands for them cluster-wide.
    fn address(&self, endpoint: &EndpointView<'_>) -> IpAddr {
        match endpoint.vip() {
            Some(vip) if !endpoint.is_direct(self.own) => vip,
            _ => endpoint.address(),
        }
    }

    /// A pod of another node is named by what stands for it; its own address is somebody else's here. Addresses
    /// of no node are those that a user wrote down for the world outside.
    fn is_reachable(&self, endpoint: &EndpointView<'_>) -> bool {
        let here = endpoint.is_direct(self.own) || endpoint.node() == 0;
        here || endpoint.vip().is_some()
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
        let found = from_utf8(namespace).is_ok_and(|name| self.table.has_namespace(name));
        if !found {
            self.miss(|| ask::namespace(namespace.iter().copied()));
        }
        found
    }

    fn service(&self, namespace: &[u8], name: &[u8]) -> Option<u32> {
        let found = self.table.service(from_utf8(namespace).ok()?, from_utf8(name).ok()?).map(|s| s.id());
        if found.is_none() {
            self.miss(|| ask::service(namespace.iter().copied(), name.iter().copied()));
        }
        found
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
            ready: endpoint.ready() && self.is_reachable(&endpoint),
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
        let stand_in = self.table.endpoint_of_vip(address).filter(|e| e.ready());
        let own = self.table.endpoints_at(self.own, address);
        let endpoints = stand_in.into_iter().chain(own).filter_map(|endpoint| {
            Some(Owner::Endpoint { service: endpoint.service()?.id(), endpoint: endpoint.id() })
        });
        if service.is_none() && self.table.endpoint_of_vip(address).is_none() {
            self.miss(|| ask::address(address));
        }
        let shadowed = service.is_some();
        service.into_iter().chain(endpoints.filter(move |_| !shadowed))
    }

    fn is_ours(&self, address: IpAddr) -> bool {
        self.mesh.contains(address)
    }
}

/// Copies a name as far as there is room; names that the table holds are no longer than their places.
fn copy<const N: usize>(text: Text<'_>) -> heapless::Vec<u8, N> {
    text.bytes().take(N).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dns::{Domain, PodRecords, Responder, Settings, Transport, Verdict};
    use crate::rng::Rng;
    use crate::wire::control::Network;
    use crate::wire::dns::{Header, Records};
    use crate::wire::feed::{ENDPOINT_READY, ENDPOINT_SERVING, ENDPOINT_TERMINATING};
    use crate::wire::feed::{EndpointDef, ServiceDef, ServiceKind, Update};
    use std::boxed::Box;
    use std::vec::Vec;

    crate::memory! {
        struct SmallMemory {
            peers: 2,
            window: 2,
            handshakes: 2,
            flows: 16,
            admitted: 16,
            services: 4,
            ports: 8,
            endpoints: 8,
            names: 16,
            namespaces: 4,
            side: 4,
        }
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn endpoint(node: u32, address: &str, vip: Option<&str>) -> EndpointDef<'static> {
        EndpointDef {
            node,
            address: ip(address),
            vip: vip.map(ip),
            hostname: "",
            conditions: ENDPOINT_READY,
            zones: &[],
        }
    }

    #[test]
    fn a_pod_of_another_node_is_never_answered_by_its_own_address() {
        let mut memory = Box::new(SmallMemory::ZERO);
        let mut table = Table::new(memory.lend().services, &mut Rng::new([1; 32]));
        let head =
            ServiceDef { namespace: "d", name: "s", kind: ServiceKind::Headless, affinity_secs: 0, flags: 0 };
        let endpoints = [
            endpoint(1, "172.17.0.2", Some("242.128.0.1")),
            endpoint(2, "172.17.0.3", Some("242.128.0.2")),
            endpoint(2, "172.17.0.4", None),
            endpoint(0, "198.51.100.9", None),
        ];
        let updates = [Update::Service(head), Update::Targets(&[])];
        for update in updates.into_iter().chain(endpoints.map(Update::Endpoint)).chain([Update::Commit]) {
            table.apply(&update).unwrap();
        }
        let network = Network { mesh_v4: [242, 0, 0, 0], mesh_v4_len: 8, mesh_v6: [0xFD; 16] };
        let asked = Lookups::new(&mut []);
        let zone = TableZone::new(&table, &asked, 1, Mesh::new(network, 1));
        let service = zone.service(b"d", b"s").unwrap();
        let ready = zone.endpoints(service).filter(|e| e.ready).map(|e| e.address);
        let mut ready: Vec<_> = ready.collect();
        ready.sort();
        assert_eq!(ready, [ip("172.17.0.2"), ip("198.51.100.9"), ip("242.128.0.2")]);
        assert_eq!(zone.owners(ip("172.17.0.2")).count(), 1);
        assert_eq!(zone.owners(ip("242.128.0.2")).count(), 1);
        assert_eq!(zone.owners(ip("172.17.0.3")).count(), 0);
    }

    /// The table of a node of index 1, changed step by step, and what its responder says of it.
    struct Node<'a> {
        table: Table<'a>,
    }

    impl Node<'_> {
        fn set(&mut self, kind: ServiceKind<'_>, endpoints: &[EndpointDef<'_>]) {
            let head = ServiceDef { namespace: "d", name: "s", kind, affinity_secs: 0, flags: 0 };
            let updates = [Update::Service(head), Update::Targets(&[])];
            let endpoints = endpoints.iter().cloned().map(Update::Endpoint);
            for update in updates.into_iter().chain(endpoints).chain([Update::Commit]) {
                self.table.apply(&update).unwrap();
            }
        }

        /// Response code, and type and data of each answer, to a question for `s.d.svc.cluster.local`.
        fn ask(&self, rtype: u8) -> (u16, Vec<(u16, Vec<u8>)>) {
            let network = Network { mesh_v4: [242, 0, 0, 0], mesh_v4_len: 8, mesh_v6: [0xFD; 16] };
            let asked = Lookups::new(&mut []);
            let zone = TableZone::new(&self.table, &asked, 1, Mesh::new(network, 1));
            let settings = Settings {
                domain: Domain::new("cluster.local").unwrap(),
                ttl: 30,
                negative_ttl: 30,
                address: None,
                pods: PodRecords::Insecure,
                recursion: true,
            };
            let mut query = b"\x00\x01\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00".to_vec();
            query.extend(b"\x01s\x01d\x03svc\x07cluster\x05local\x00\x00");
            query.extend([rtype, 0, 1]);
            let mut out = [0; 512];
            let verdict = Responder::new(settings).query(&zone, &query, Transport::Udp, 0, &mut out);
            let (Verdict::Answer { len, .. } | Verdict::Chase { len }) = verdict else {
                panic!("{verdict:?}")
            };
            let header = Header::parse(&out).unwrap();
            let records = Records::new(&out[..len]).unwrap().take(header.counts[1].into());
            let records = records.map(|r| r.unwrap()).map(|r| (r.rtype.0, out[r.data..r.end].to_vec()));
            (header.rcode(), records.collect())
        }

        fn addresses(&self) -> Vec<IpAddr> {
            let (_, records) = self.ask(1);
            let v4 = |data: Vec<u8>| IpAddr::from(<[u8; 4]>::try_from(data).unwrap());
            let mut addresses: Vec<_> = records.into_iter().map(|(_, data)| v4(data)).collect();
            addresses.sort();
            addresses
        }
    }

    fn with_node(steps: impl FnOnce(Node<'_>)) {
        let mut memory = Box::new(SmallMemory::ZERO);
        let mut table = Table::new(memory.lend().services, &mut Rng::new([1; 32]));
        for update in [Update::Begin, Update::End] {
            table.apply(&update).unwrap();
        }
        steps(Node { table });
    }

    #[test]
    fn d11_d12_ready_alone_decides_whether_an_endpoint_has_a_name() {
        with_node(|mut node| {
            let is = |address, conditions| EndpointDef { conditions, ..endpoint(1, address, None) };
            let all = [
                is("172.17.0.2", ENDPOINT_READY | ENDPOINT_SERVING),
                // A pod that publishNotReadyAddresses shows: neither serving nor staying.
                is("172.17.0.3", ENDPOINT_READY | ENDPOINT_TERMINATING),
                is("172.17.0.4", ENDPOINT_SERVING | ENDPOINT_TERMINATING),
                is("172.17.0.5", 0),
            ];
            node.set(ServiceKind::Headless, &all);
            assert_eq!(node.addresses(), [ip("172.17.0.2"), ip("172.17.0.3")]);
        });
    }

    #[test]
    fn d21_a_service_answers_by_its_present_type() {
        const CNAME: u16 = 5;
        with_node(|mut node| {
            let vip = |text| ServiceKind::ClusterIp([ip(text)].into_iter().collect());
            node.set(ServiceKind::ExternalName("foo.example"), &[]);
            assert_eq!(node.ask(1), (0, std::vec![(CNAME, b"\x03foo\x07example\x00".to_vec())]));
            node.set(ServiceKind::ExternalName("bar.example"), &[]);
            assert_eq!(node.ask(1), (0, std::vec![(CNAME, b"\x03bar\x07example\x00".to_vec())]));
            node.set(vip("10.96.0.9"), &[]);
            assert_eq!(node.addresses(), [ip("10.96.0.9")]);
            assert!(node.table.is_vip(ip("10.96.0.9")));
            node.set(ServiceKind::ExternalName("bar.example"), &[]);
            assert_eq!(node.ask(1).1[0].0, CNAME);
            assert!(!node.table.is_vip(ip("10.96.0.9")), "the VIP no longer forwards");
        });
    }

    #[test]
    fn n8_a_change_shows_with_the_next_query() {
        with_node(|mut node| {
            assert_eq!(node.ask(1).0, 3);
            for last in 2..20u8 {
                let address = IpAddr::from([172, 17, 0, last]);
                let one = EndpointDef { address, ..endpoint(1, "172.17.0.2", None) };
                node.set(ServiceKind::Headless, &[one]);
                assert_eq!(node.addresses(), [address]);
            }
            node.table.apply(&Update::Remove { namespace: "d", name: "s" }).unwrap();
            assert_eq!(node.ask(1).0, 3);
        });
    }
}
