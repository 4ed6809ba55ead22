//! What a name of the cluster domain stands for, by the schema of the DNS specification and nothing deeper.

use core::net::IpAddr;

use super::{Kind, Label, Zone, address};
use crate::wire::dns::Name;
use crate::wire::feed::Protocol;

/// The most labels that a name of the schema has before the domain: `_port._proto.service.namespace.svc`.
const MAX_LABELS: usize = 5;

/// What a name stands for.
pub(super) enum Subject<'n> {
    /// The cluster domain itself.
    Apex,
    /// `dns-version`.
    Version,
    /// `ns.dns`.
    NameServer,
    /// A name that exists only because names below it do (row N3).
    Empty,
    /// A service.
    Service(u32),
    /// An endpoint of a service.
    Endpoint(u32, Host<'n>),
    /// A named port of a service.
    Port(u32, &'n [u8], Protocol),
    /// A pod of this namespace, by its address.
    Pod(&'n [u8], IpAddr),
    /// Nothing.
    Missing,
}

/// The endpoint label of a name: a hostname, or the dashed form of an address.
#[derive(Clone, Copy)]
pub(super) struct Host<'n> {
    label: &'n [u8],
    address: Option<IpAddr>,
}

impl<'n> Host<'n> {
    fn new(label: &'n [u8]) -> Self {
        Self { label, address: address::from_dashed(label) }
    }

    /// Whether it names the endpoint with this hostname and address.
    pub(super) fn names(&self, hostname: &Label, address: IpAddr) -> bool {
        if hostname.is_empty() { self.address == Some(address) } else { hostname.as_slice() == self.label }
    }
}

/// Reads the first `count` labels of `name`, all in lower case.
pub(super) fn of<'n>(zone: &impl Zone, name: Name<'n>, count: usize) -> Subject<'n> {
    if count > MAX_LABELS {
        return Subject::Missing;
    }
    let labels: heapless::Vec<&[u8], MAX_LABELS> = name.labels().take(count).collect();
    let empty_if = |exists| if exists { Subject::Empty } else { Subject::Missing };
    match labels.as_slice() {
        [] => Subject::Apex,
        [b"dns-version"] => Subject::Version,
        [b"svc" | b"pod" | b"dns"] => Subject::Empty,
        [b"ns", b"dns"] => Subject::NameServer,
        [namespace, b"svc" | b"pod"] => empty_if(zone.namespace(namespace)),
        [pod, namespace, b"pod"] => match address::from_dashed(pod) {
            Some(address) if zone.namespace(namespace) => Subject::Pod(namespace, address),
            _ => Subject::Missing,
        },
        [rest @ .., service, namespace, b"svc"] => match zone.service(namespace, service) {
            Some(service) => below_service(zone, service, rest),
            None => Subject::Missing,
        },
        _ => Subject::Missing,
    }
}

fn below_service<'n>(zone: &impl Zone, service: u32, labels: &[&'n [u8]]) -> Subject<'n> {
    match labels {
        [] => Subject::Service(service),
        _ if zone.kind(service) == Kind::ExternalName => Subject::Missing,
        [label] => match protocol(label) {
            Some(protocol) if has_port(zone, service, protocol) => Subject::Empty,
            Some(_) => Subject::Missing,
            None => Subject::Endpoint(service, Host::new(label)),
        },
        [port, transport] => match (port, protocol(transport)) {
            ([b'_', name @ ..], Some(protocol)) if !name.is_empty() => Subject::Port(service, name, protocol),
            _ => Subject::Missing,
        },
        _ => Subject::Missing,
    }
}

/// A protocol as SRV names write it (RFC 2782).
fn protocol(label: &[u8]) -> Option<Protocol> {
    match label {
        b"_tcp" => Some(Protocol::Tcp),
        b"_udp" => Some(Protocol::Udp),
        b"_sctp" => Some(Protocol::Sctp),
        _ => None,
    }
}

/// Whether a name `_port._protocol` exists, which makes `_protocol` exist too (RFC 8020).
fn has_port(zone: &impl Zone, service: u32, protocol: Protocol) -> bool {
    zone.ports(service).any(|port| port.protocol == protocol && !port.name.is_empty())
}
