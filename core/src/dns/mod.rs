//! The DNS responder: answers for the cluster domain from a [`Zone`], as the Kubernetes DNS specification 1.1.0 asks.
//!
//! A query lives for one call: it is parsed in place, the zone is asked, the answer is written into the caller's
//! buffer. Nothing is kept between calls, so a change of the zone shows with the next query (row N8), and the
//! only bounds are the query's 255-octet name and the answer's size limit, beyond which it is cut with TC.
//!
//! * [`Responder::query`] gives a [`Verdict`]: answered, answered up to an outside name, not ours, not known yet, or
//!   dropped
//! * [`Zone`] is what it asks; `bridge/` implements it on the service table
//! * [`chase`] joins the reply of an upstream to the alias that leads there
//!
//! It deliberately holds no cache, forwards nothing itself, transfers no zone, and signs nothing.

mod address;
mod answer;
pub mod chase;
mod subject;

pub use address::from_dashed;

use core::net::IpAddr;

use crate::counters::DropReason;
use crate::wire::dns::{
    CLASS_IN, Header, LowerName, MAX_LABEL, MAX_TCP, MIN_UDP, Name, NameError, OPCODE_QUERY, Query, Rcode,
    RecordType, Response, write_text,
};
use crate::wire::feed::Protocol;

/// A label by value: names in the service table are not contiguous.
pub type Label = heapless::Vec<u8, MAX_LABEL>;
/// A domain name as text, without final dot.
pub type NameText = heapless::Vec<u8, 253>;

/// How a Service answers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// By its ClusterIPs.
    ClusterIp,
    /// By the addresses of its ready endpoints.
    Headless,
    /// By an alias.
    ExternalName,
}

/// A port of a Service. Ports are numbered from 0 in the order in which [`Zone::ports`] gives them.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Port {
    /// Empty for an unnamed port.
    pub name: Label,
    /// Its protocol.
    pub protocol: Protocol,
    /// The Service's port, which clients of a ClusterIP connect to.
    pub number: u16,
}

/// An endpoint of a Service.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Endpoint {
    /// Its handle, for [`Zone::hostname`] and [`Zone::target`].
    pub id: u32,
    /// Where clients on this node reach it: its endpoint VIP, or its own address when it is a pod of this node.
    pub address: IpAddr,
    /// `conditions.ready` is true or absent (row D11).
    pub ready: bool,
}

/// What an address belongs to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Owner {
    /// It is a ClusterIP of this service.
    Service(u32),
    /// It is the address of a ready endpoint.
    Endpoint {
        /// The service that selects it.
        service: u32,
        /// The endpoint's handle.
        endpoint: u32,
    },
}

/// What the responder asks about the cluster. Labels come in ASCII lower case, as Kubernetes keeps its names, so
/// implementations compare octets. Services and endpoints are named by handles that are valid for one query.
pub trait Zone {
    /// A first full list has arrived, or a snapshot was loaded. Until then every name of ours is SERVFAIL: an
    /// NXDOMAIN would be believed and cached.
    fn synced(&self) -> bool;
    /// Changes whenever an answer may have changed: the SOA serial.
    fn serial(&self) -> u32;
    /// The namespace exists, with or without services.
    fn namespace(&self, namespace: &[u8]) -> bool;
    /// The service of this name.
    fn service(&self, namespace: &[u8], name: &[u8]) -> Option<u32>;
    /// How it answers.
    fn kind(&self, service: u32) -> Kind;
    /// Its namespace and name.
    fn name(&self, service: u32) -> (Label, Label);
    /// What an ExternalName service stands for; empty for the other kinds.
    fn external_name(&self, service: u32) -> NameText;
    /// Its ClusterIPs.
    fn addresses(&self, service: u32) -> impl Iterator<Item = IpAddr>;
    /// Its ports.
    fn ports(&self, service: u32) -> impl Iterator<Item = Port>;
    /// All its endpoints. Of one address there may be several when EndpointSlices overlap.
    fn endpoints(&self, service: u32) -> impl Iterator<Item = Endpoint>;
    /// The endpoint's hostname; empty without one.
    fn hostname(&self, service: u32, endpoint: u32) -> Label;
    /// The endpoint's own port number behind the service's port number `port`; `None` when it does not serve it.
    fn target(&self, service: u32, endpoint: u32, port: u16) -> Option<u16>;
    /// What the address belongs to: services by ClusterIP, else one entry per service with such a ready endpoint.
    fn owners(&self, address: IpAddr) -> impl Iterator<Item = Owner>;
    /// The address is of a range that only this cluster hands out (mesh prefix), so that no upstream knows its name.
    fn is_ours(&self, address: IpAddr) -> bool;
}

/// The cluster domain, checked once at start.
#[derive(Clone)]
pub struct Domain {
    wire: [u8; Self::MAX],
    len: usize,
}

impl Domain {
    /// The longest cluster domain in wire form: the names below it need the rest of the 255 octets.
    pub const MAX: usize = 128;

    /// `text` as in kubelet's `clusterDomain`, with or without final dot, in any case.
    ///
    /// # Errors
    /// See [`NameError`].
    pub fn new(text: &str) -> Result<Self, NameError> {
        let mut wire = [0; Self::MAX];
        let len = write_text(text.as_bytes(), &mut wire)?;
        wire.make_ascii_lowercase();
        Ok(Self { wire, len })
    }

    fn as_bytes(&self) -> &[u8] {
        self.wire.get(..self.len).unwrap_or_default()
    }
}

/// Whether `a-b-c-d.<namespace>.pod.<domain>` is answered.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PodRecords {
    /// NXDOMAIN.
    Disabled,
    /// With the address in the name, unchecked, where the namespace exists: kubeadm's default.
    Insecure,
    /// The same, but only for addresses of ready endpoints of Services in that namespace: no other pods are known.
    Verified,
}

/// What the responder is told at start.
#[derive(Clone)]
pub struct Settings {
    /// The cluster domain.
    pub domain: Domain,
    /// TTL of positive answers in seconds; kubeadm has 30.
    pub ttl: u32,
    /// TTL of negative answers in seconds, by SOA minimum and SOA TTL.
    pub negative_ttl: u32,
    /// The responder's own address, which `ns.dns.<domain>` has.
    pub address: Option<IpAddr>,
    /// Pod records.
    pub pods: PodRecords,
    /// Other names are resolved by the shell (RA in answers).
    pub recursion: bool,
}

/// What carried the query.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Transport {
    /// One datagram: the answer is cut at 512 octets, or at the asker's EDNS size.
    Udp,
    /// A stream with length framing, which is the shell's.
    Tcp,
}

/// What is to be done about a query.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[must_use]
pub enum Verdict {
    /// Send the first `len` octets of `out`.
    Answer {
        /// Octets of the answer.
        len: usize,
        /// The service whose addresses were given: its tunnels should start now.
        service: Option<u32>,
    },
    /// `out` holds a CNAME to a name that is not ours. [`chase`] completes it.
    Chase {
        /// Octets of the answer so far.
        len: usize,
    },
    /// Not our name: ask an upstream.
    Forward,
    /// Say nothing.
    Drop(DropReason),
    /// Whether the name exists is being asked: hand the query in again when the ticket with this fingerprint is
    /// ready.
    Wait(u32),
}

/// The responder: settings and no state.
pub struct Responder {
    settings: Settings,
}

impl Responder {
    /// With fixed settings.
    pub const fn new(settings: Settings) -> Self {
        Self { settings }
    }

    /// The settings.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Names of pods are answered in this way from here on.
    pub fn set_pods(&mut self, pods: PodRecords) {
        self.settings.pods = pods;
    }

    /// Answers `query` into `out`. `rotate` varies from call to call: it chooses which record comes first.
    pub fn query(
        &self,
        zone: &impl Zone,
        query: &[u8],
        transport: Transport,
        rotate: u32,
        out: &mut [u8],
    ) -> Verdict {
        let header = match Header::parse(query) {
            Ok(header) if header.is_response() => return Verdict::Drop(DropReason::DnsMessage),
            Ok(header) => header,
            Err(reason) => return Verdict::Drop(reason),
        };
        if header.opcode() != OPCODE_QUERY {
            return sent(Response::error(out, header, Rcode::NOTIMP));
        }
        let Ok(query) = Query::parse(query) else {
            return sent(Response::error(out, header, Rcode::FORMERR));
        };
        let limit = limit(&query, transport);
        if let Some(rcode) = self.refuses(&query) {
            return sent(
                Response::new(out, limit, &query).and_then(|r| r.refusal(rcode, self.settings.recursion)),
            );
        }
        let whose = self.whose(query.name);
        if matches!(whose, Whose::Other) {
            return Verdict::Forward;
        }
        let verdict = Response::new(out, limit, &query).and_then(|response| match whose {
            Whose::Reverse(address) => self.reverse_zone(zone, &query, address, response),
            _ => self.forward_zone(zone, &query, rotate, response),
        });
        verdict.unwrap_or_else(Verdict::Drop)
    }

    fn whose(&self, name: Name<'_>) -> Whose {
        let lower = LowerName::new(name);
        match self.labels_in_domain(lower.as_name()) {
            Some(_) => Whose::Ours,
            None => address::from_reverse(lower.as_name()).map_or(Whose::Other, Whose::Reverse),
        }
    }

    /// What cannot be answered whatever the name is, and zone transfers of ours.
    fn refuses(&self, query: &Query<'_>) -> Option<Rcode> {
        if query.edns.is_some_and(|edns| edns.version != 0) {
            return Some(Rcode::BADVERS);
        }
        let transfer = matches!(query.rtype, RecordType::AXFR | RecordType::IXFR);
        (query.class != CLASS_IN || transfer).then_some(Rcode::REFUSED)
    }

    /// How many labels of `name`, which is in lower case, stand before the cluster domain.
    fn labels_in_domain(&self, name: Name<'_>) -> Option<usize> {
        let domain = Name::parse(self.settings.domain.as_bytes(), 0).ok()?;
        name.labels_before(domain)
    }
}

/// How many octets an answer to `query` may have (row W3).
pub fn limit(query: &Query<'_>, transport: Transport) -> usize {
    match transport {
        Transport::Udp => query.edns.map_or(MIN_UDP, |edns| edns.udp_size.into()),
        Transport::Tcp => MAX_TCP,
    }
}

/// Where a name belongs.
enum Whose {
    /// The cluster domain.
    Ours,
    /// It is the reverse name of an address.
    Reverse(IpAddr),
    /// Somewhere else.
    Other,
}

/// A finished answer without records, or why there is none.
fn sent(len: Result<usize, DropReason>) -> Verdict {
    len.map_or_else(Verdict::Drop, |len| Verdict::Answer { len, service: None })
}
