//! A zone in plain vectors: the reference that DNS tests answer from.

use std::net::IpAddr;

use edgemesh_core::dns::{Endpoint, Kind, Label, NameText, Owner, Port, Zone};
use edgemesh_core::wire::feed::Protocol;

/// One endpoint of one slice.
pub(crate) struct Host {
    pub(crate) address: IpAddr,
    pub(crate) hostname: &'static str,
    pub(crate) ready: bool,
    /// Own port numbers, in the order of the service's ports.
    pub(crate) targets: Vec<Option<u16>>,
}

/// One Service.
pub(crate) struct Service {
    pub(crate) namespace: &'static str,
    pub(crate) name: &'static str,
    pub(crate) kind: Kind,
    pub(crate) external: &'static str,
    pub(crate) addresses: Vec<IpAddr>,
    pub(crate) ports: Vec<(&'static str, Protocol, u16)>,
    pub(crate) hosts: Vec<Host>,
}

/// All of them. A service's handle is its index, an endpoint's its index within the service.
pub(crate) struct MemoryZone {
    pub(crate) synced: bool,
    pub(crate) serial: u32,
    pub(crate) namespaces: Vec<&'static str>,
    pub(crate) services: Vec<Service>,
}

pub(crate) fn host(address: &str, hostname: &'static str, targets: &[u16]) -> Host {
    let targets = targets.iter().map(|port| (*port != 0).then_some(*port)).collect();
    Host { address: address.parse().unwrap(), hostname, ready: true, targets }
}

pub(crate) fn unready(host: Host) -> Host {
    Host { ready: false, ..host }
}

impl MemoryZone {
    fn of(&self, service: u32) -> &Service {
        &self.services[service as usize]
    }
}

fn label(text: &str) -> Label {
    Label::from_slice(text.as_bytes()).unwrap()
}

impl Zone for MemoryZone {
    fn synced(&self) -> bool {
        self.synced
    }
    fn serial(&self) -> u32 {
        self.serial
    }
    fn namespace(&self, namespace: &[u8]) -> bool {
        self.namespaces.iter().any(|known| known.as_bytes() == namespace)
    }
    fn service(&self, namespace: &[u8], name: &[u8]) -> Option<u32> {
        let found = |s: &Service| s.namespace.as_bytes() == namespace && s.name.as_bytes() == name;
        self.services.iter().position(found).map(|index| index as u32)
    }
    fn kind(&self, service: u32) -> Kind {
        self.of(service).kind
    }
    fn name(&self, service: u32) -> (Label, Label) {
        (label(self.of(service).namespace), label(self.of(service).name))
    }
    fn external_name(&self, service: u32) -> NameText {
        NameText::from_slice(self.of(service).external.as_bytes()).unwrap()
    }
    fn addresses(&self, service: u32) -> impl Iterator<Item = IpAddr> {
        self.of(service).addresses.iter().copied()
    }
    fn ports(&self, service: u32) -> impl Iterator<Item = Port> {
        self.of(service).ports.iter().map(|(name, protocol, number)| Port {
            name: label(name),
            protocol: *protocol,
            number: *number,
        })
    }
    fn endpoints(&self, service: u32) -> impl Iterator<Item = Endpoint> {
        let endpoint =
            |(id, host): (usize, &Host)| Endpoint { id: id as u32, address: host.address, ready: host.ready };
        self.of(service).hosts.iter().enumerate().map(endpoint)
    }
    fn hostname(&self, service: u32, endpoint: u32) -> Label {
        label(self.of(service).hosts[endpoint as usize].hostname)
    }
    fn target(&self, service: u32, endpoint: u32, port: u16) -> Option<u16> {
        self.of(service).hosts[endpoint as usize].targets.get(usize::from(port)).copied().flatten()
    }
    fn owners(&self, address: IpAddr) -> impl Iterator<Item = Owner> {
        let services = || (0u32..).zip(&self.services);
        let by_vip = move || services().filter(move |(_, s)| s.addresses.contains(&address));
        let owners = by_vip().map(|(service, _)| Owner::Service(service));
        let endpoints = services().filter_map(move |(service, s)| {
            let endpoint = s.hosts.iter().position(|host| host.ready && host.address == address)? as u32;
            Some(Owner::Endpoint { service, endpoint })
        });
        let shadowed = by_vip().next().is_some();
        owners.chain(endpoints.filter(move |_| !shadowed))
    }
    fn is_ours(&self, address: IpAddr) -> bool {
        matches!(address, IpAddr::V4(v4) if v4.octets()[0] == 242)
    }
}

/// The cluster that the scenarios ask about.
pub(crate) fn cluster() -> MemoryZone {
    let ip = |text: &str| text.parse::<IpAddr>().unwrap();
    let service = |namespace, name, kind| Service {
        namespace,
        name,
        kind,
        external: "",
        addresses: vec![],
        ports: vec![],
        hosts: vec![],
    };
    let external = |name, external| Service { external, ..service("testns", name, Kind::ExternalName) };
    let tcp = Protocol::Tcp;
    MemoryZone {
        synced: true,
        serial: 7,
        namespaces: vec!["testns", "default", "empty"],
        services: vec![
            Service {
                addresses: vec![ip("10.0.0.1")],
                ports: vec![("http", tcp, 80), ("dns", Protocol::Udp, 53)],
                hosts: vec![host("172.17.0.222", "", &[8080, 5353])],
                ..service("testns", "svc1", Kind::ClusterIp)
            },
            Service {
                addresses: vec![ip("fd00::10"), ip("10.0.0.10")],
                ports: vec![("", tcp, 443)],
                ..service("testns", "dual", Kind::ClusterIp)
            },
            Service {
                ports: vec![("http", tcp, 80), ("raft", tcp, 7000)],
                hosts: vec![
                    host("172.17.0.2", "", &[8080, 7000]),
                    host("172.17.0.3", "", &[8080, 0]),
                    host("172.17.0.3", "", &[8081, 0]),
                    host("5678:abcd::1", "", &[8080, 7000]),
                    unready(host("172.17.0.9", "", &[8080, 7000])),
                ],
                ..service("testns", "hdls1", Kind::Headless)
            },
            Service {
                hosts: vec![unready(host("172.17.0.9", "", &[]))],
                ..service("testns", "svc-unready", Kind::Headless)
            },
            Service {
                ports: vec![("peer", tcp, 2380)],
                hosts: vec![
                    host("242.128.0.1", "db-0", &[2380]),
                    host("242.128.0.2", "db-1", &[2380]),
                    host("242.128.0.3", "dup", &[2380]),
                    host("242.128.0.4", "dup", &[2380]),
                ],
                ..service("default", "db", Kind::Headless)
            },
            Service {
                hosts: vec![host("172.17.0.20", "", &[])],
                ..service("default", "portless", Kind::Headless)
            },
            external("external", "ext.interwebs.test"),
            external("internal", "svc1.testns.svc.cluster.local."),
            external("internal-v6", "dual.testns.svc.cluster.local"),
            external("dangling", "gone.testns.svc.cluster.local"),
            external("twice", "Internal.testns.svc.cluster.local"),
            external("circle", "circle.testns.svc.cluster.local"),
            external("literal", "192.0.2.1"),
            external("no-name", "a..b"),
            Service {
                addresses: vec![ip("10.0.0.77")],
                ports: vec![("http", tcp, 80)],
                ..service("default", "7up", Kind::ClusterIp)
            },
        ],
    }
}

/// A headless service `big.default` with `n` ready endpoints.
pub(crate) fn big(n: u32) -> MemoryZone {
    let mut zone = cluster();
    let address = |i: u32| IpAddr::from((0x0a64_0000 + i).to_be_bytes());
    zone.services.push(Service {
        namespace: "default",
        name: "big",
        kind: Kind::Headless,
        external: "",
        addresses: vec![],
        ports: vec![("http", Protocol::Tcp, 80)],
        hosts: (0..n)
            .map(|i| Host { address: address(i), hostname: "", ready: true, targets: vec![Some(80)] })
            .collect(),
    });
    zone
}
