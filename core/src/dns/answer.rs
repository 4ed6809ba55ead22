//! The records of a [`Subject`], written into a [`Response`].

use core::net::IpAddr;

use super::subject::{self, Host, Subject};
use super::{Endpoint, Kind, Owner, PodRecords, Port, Responder, Settings, Verdict, Zone, address};
use crate::counters::DropReason;
use crate::wire::dns::{
    Full, HEADER_LEN, LowerName, Name, NameRef, Query, Rcode, Rdata, RecordType, Response, Section, Soa,
    Tail, text_is_name,
};
use crate::wire::feed::Protocol;

/// Version of the DNS specification (row D1).
const SCHEMA: &[u8] = b"1.1.0";
/// Its TTL in seconds.
const SCHEMA_TTL: u32 = 28_800;
/// REFRESH, RETRY and EXPIRE of SOA, in seconds, as CoreDNS has them.
const SOA_TIMERS: [u32; 3] = [7_200, 1_800, 86_400];
/// How many ExternalNames in a row are followed inside the cluster domain.
const MAX_ALIASES: usize = 8;

/// What became of a name.
enum Found {
    /// It exists; records were written if there are any of the type.
    Name,
    /// Addresses of a service were written.
    Service(u32),
    /// It is an alias of the name at this offset of the message.
    Alias(usize),
    /// It does not exist.
    Nothing,
}

/// Everything that writing an answer needs.
struct Writer<'w, 'o, Z> {
    settings: &'w Settings,
    zone: &'w Z,
    rtype: RecordType,
    rotate: u32,
    response: Response<'o>,
    /// CNAME records that led to the present name.
    aliases: u16,
}

/// A name that is written in full in the message: the question's, or a CNAME's target.
#[derive(Clone, Copy)]
struct Place<'n> {
    at: usize,
    name: Name<'n>,
}

impl Place<'_> {
    /// The name without its first `n` labels, as a tail to compress against.
    fn skip(&self, n: usize) -> usize {
        self.at.saturating_add(self.name.offset_of(n))
    }

    fn owner(&self) -> NameRef<'static> {
        NameRef::at(self.at)
    }
}

impl Responder {
    /// Answers a name of the cluster domain, and the names of it that its aliases lead to.
    pub(super) fn forward_zone<Z: Zone>(
        &self,
        zone: &Z,
        query: &Query<'_>,
        rotate: u32,
        response: Response<'_>,
    ) -> Result<Verdict, DropReason> {
        let mut writer = Writer::new(&self.settings, zone, query, rotate, response);
        if !zone.synced() {
            return writer.finish(Rcode::SERVFAIL, None);
        }
        let mut at = HEADER_LEN;
        for _ in 0..=MAX_ALIASES {
            let lower = Name::parse(writer.response.as_bytes(), at).map(LowerName::new)?;
            let place = Place { at, name: lower.as_name() };
            let Some(labels) = self.labels_in_domain(place.name) else {
                let len = writer.response.authoritative(Rcode::NOERROR, self.settings.recursion)?;
                return Ok(Verdict::Chase { len });
            };
            let apex = place.skip(labels);
            match writer.subject(place, labels) {
                Found::Service(service) => return writer.finish(Rcode::NOERROR, Some(service)),
                Found::Name => return writer.negative_if_empty(apex),
                Found::Nothing => return writer.negative(Rcode::NXDOMAIN, apex),
                Found::Alias(target) if matches!(query.rtype, RecordType::A | RecordType::AAAA) => {
                    at = target
                }
                Found::Alias(_) => break,
            }
        }
        let endless = at != HEADER_LEN;
        writer.finish(if endless { Rcode::SERVFAIL } else { Rcode::NOERROR }, None)
    }

    /// Answers the reverse name of `address`, or leaves it to an upstream (row D19).
    pub(super) fn reverse_zone<Z: Zone>(
        &self,
        zone: &Z,
        query: &Query<'_>,
        address: IpAddr,
        response: Response<'_>,
    ) -> Result<Verdict, DropReason> {
        let known = zone.owners(address).next().is_some();
        if !known && !zone.is_ours(address) {
            return Ok(Verdict::Forward);
        }
        let mut writer = Writer::new(&self.settings, zone, query, 0, response);
        if !zone.synced() {
            return writer.finish(Rcode::SERVFAIL, None);
        }
        // The zone is in-addr.arpa or ip6.arpa: the last two labels.
        let before = query.name.labels().count().saturating_sub(2);
        let apex = HEADER_LEN.saturating_add(query.name.offset_of(before));
        if !known {
            return writer.negative(Rcode::NXDOMAIN, apex);
        }
        if query.rtype == RecordType::PTR {
            writer.pointers(address);
        }
        writer.negative_if_empty(apex)
    }
}

impl<'w, 'o, Z: Zone> Writer<'w, 'o, Z> {
    fn new(
        settings: &'w Settings,
        zone: &'w Z,
        query: &Query<'_>,
        rotate: u32,
        response: Response<'o>,
    ) -> Self {
        Self { settings, zone, rtype: query.rtype, rotate, response, aliases: 0 }
    }

    /// A record of the type asked for was written, or would have been with more room.
    fn has_answer(&self) -> bool {
        self.response.is_truncated() || self.response.answers() > self.aliases
    }

    fn finish(self, rcode: Rcode, service: Option<u32>) -> Result<Verdict, DropReason> {
        let len = self.response.authoritative(rcode, self.settings.recursion)?;
        Ok(Verdict::Answer { len, service })
    }

    /// A name that exists: NODATA unless a record was written or cut.
    fn negative_if_empty(self, apex: usize) -> Result<Verdict, DropReason> {
        if self.has_answer() {
            self.finish(Rcode::NOERROR, None)
        } else {
            self.negative(Rcode::NOERROR, apex)
        }
    }

    fn negative(mut self, rcode: Rcode, apex: usize) -> Result<Verdict, DropReason> {
        self.soa(Section::Authority, apex, self.settings.negative_ttl);
        self.finish(rcode, None)
    }

    fn soa(&mut self, section: Section, apex: usize, ttl: u32) {
        let [refresh, retry, expire] = SOA_TIMERS;
        let soa = Soa {
            mname: NameRef { labels: &[b"ns", b"dns"], tail: Tail::At(apex) },
            rname: NameRef { labels: &[b"hostmaster"], tail: Tail::At(apex) },
            serial: self.zone.serial(),
            timers: [refresh, retry, expire, self.settings.negative_ttl],
        };
        self.add(section, NameRef::at(apex), ttl, &Rdata::Soa(soa));
    }

    /// Adds a record; where its data are. One that does not fit cuts the answer, unless it is only additional
    /// (RFC 2181 §9).
    fn add(&mut self, section: Section, owner: NameRef<'_>, ttl: u32, rdata: &Rdata<'_>) -> Option<usize> {
        match self.response.record(section, owner, ttl, rdata) {
            Ok(data) => Some(data),
            Err(Full) => {
                if section != Section::Additional {
                    self.response.truncate();
                }
                None
            }
        }
    }

    fn answer(&mut self, owner: NameRef<'_>, rdata: &Rdata<'_>) -> Option<usize> {
        self.add(Section::Answer, owner, self.settings.ttl, rdata)
    }

    fn subject(&mut self, place: Place<'_>, labels: usize) -> Found {
        match subject::of(self.zone, place.name, labels) {
            Subject::Apex => self.apex(place),
            Subject::Version => {
                if self.rtype == RecordType::TXT {
                    self.add(Section::Answer, place.owner(), SCHEMA_TTL, &Rdata::Text(SCHEMA));
                }
                Found::Name
            }
            Subject::NameServer => self.one_address(place, self.settings.address),
            Subject::Empty => Found::Name,
            Subject::Pod(namespace, address) if self.has_pod(namespace, address) => {
                self.one_address(place, Some(address))
            }
            Subject::Pod(..) => Found::Nothing,
            Subject::Service(service) => self.service(place, service),
            Subject::Endpoint(service, host) => self.endpoints(place, service, Some(host)),
            Subject::Port(service, name, protocol) => self.port(place, service, name, protocol),
            Subject::Missing => Found::Nothing,
        }
    }

    fn apex(&mut self, place: Place<'_>) -> Found {
        match self.rtype {
            RecordType::SOA => self.soa(Section::Answer, place.at, self.settings.ttl),
            RecordType::NS => {
                let server = NameRef { labels: &[b"ns", b"dns"], tail: Tail::At(place.at) };
                let server = self.answer(place.owner(), &Rdata::Name(RecordType::NS, server));
                if let (Some(server), Some(address)) = (server, self.settings.address) {
                    let ttl = self.settings.ttl;
                    self.add(Section::Additional, NameRef::at(server), ttl, &Rdata::Address(address));
                }
            }
            _ => {}
        }
        Found::Name
    }

    /// Whether this pod is to have a name (row D25). The namespace exists.
    fn has_pod(&self, namespace: &[u8], address: IpAddr) -> bool {
        let is_in = |owner| match owner {
            Owner::Endpoint { service, .. } => self.zone.name(service).0.as_slice() == namespace,
            Owner::Service(_) => false,
        };
        match self.settings.pods {
            PodRecords::Disabled => false,
            PodRecords::Insecure => true,
            PodRecords::Verified => self.zone.owners(address).any(is_in),
        }
    }

    fn one_address(&mut self, place: Place<'_>, address: Option<IpAddr>) -> Found {
        if let Some(address) = address.filter(|address| is_of(*address, self.rtype)) {
            self.answer(place.owner(), &Rdata::Address(address));
        }
        Found::Name
    }

    fn service(&mut self, place: Place<'_>, service: u32) -> Found {
        match self.zone.kind(service) {
            Kind::ExternalName => self.alias(place, service),
            Kind::Headless => self.endpoints(place, service, None),
            Kind::ClusterIp => {
                let zone = self.zone;
                if self.rtype == RecordType::SRV {
                    return self.cluster_ports(place, 0, service, |_| true);
                }
                for address in zone.addresses(service) {
                    if is_of(address, self.rtype) {
                        self.answer(place.owner(), &Rdata::Address(address));
                    }
                }
                self.addressed(service)
            }
        }
    }

    /// The service's addresses were written, if the question was for such.
    fn addressed(&self, service: u32) -> Found {
        if self.has_answer() { Found::Service(service) } else { Found::Name }
    }

    /// A name that is not one, as an IP address is none, gives no record (row D22).
    fn alias(&mut self, place: Place<'_>, service: u32) -> Found {
        let target = self.zone.external_name(service);
        let literal = core::str::from_utf8(&target).is_ok_and(|text| text.parse::<IpAddr>().is_ok());
        if self.rtype == RecordType::ANY || literal || !text_is_name(&target) {
            return Found::Name;
        }
        let Some(target) = self.answer(place.owner(), &Rdata::Alias(&target)) else { return Found::Name };
        self.aliases = self.response.answers();
        Found::Alias(target)
    }

    fn port(&mut self, place: Place<'_>, service: u32, name: &[u8], protocol: Protocol) -> Found {
        let zone = self.zone;
        let named = |port: &Port| port.name.as_slice() == name && port.protocol == protocol;
        if zone.kind(service) == Kind::Headless {
            return self.targets(place, 2, service, None, named);
        }
        if !zone.ports(service).any(|port| named(&port)) {
            return Found::Nothing;
        }
        if self.rtype == RecordType::SRV { self.cluster_ports(place, 2, service, named) } else { Found::Name }
    }

    /// SRV of a ClusterIP service: its own ports, and its addresses as glue. The service's name starts at label
    /// `skip` of the place.
    fn cluster_ports(
        &mut self,
        place: Place<'_>,
        skip: usize,
        service: u32,
        wanted: impl Fn(&Port) -> bool,
    ) -> Found {
        let zone = self.zone;
        let weight = weight(zone.ports(service).filter(&wanted).count());
        let target = NameRef::at(place.skip(skip));
        for port in zone.ports(service).filter(&wanted) {
            self.answer(place.owner(), &Rdata::Srv { weight, port: port.number, target });
        }
        if self.has_answer() && !self.response.is_truncated() {
            for address in zone.addresses(service) {
                self.add(Section::Additional, target, self.settings.ttl, &Rdata::Address(address));
            }
        }
        self.addressed(service)
    }

    /// The ready endpoints of a service, or those that a host label names.
    fn endpoints(&mut self, place: Place<'_>, service: u32, host: Option<Host<'_>>) -> Found {
        let zone = self.zone;
        if self.rtype == RecordType::SRV {
            let skip = usize::from(host.is_some());
            return match self.targets(place, skip, service, host, |_| true) {
                // Without ports the name exists all the same (row D17).
                Found::Nothing if ready(zone, service, host).next().is_some() => Found::Name,
                found => found,
            };
        }
        let from = self.response.len();
        for endpoint in rotated(self.rotate, || ready(zone, service, host)) {
            let wanted = is_of(endpoint.address, self.rtype) && !self.response.holds(from, endpoint.address);
            if wanted && self.answer(place.owner(), &Rdata::Address(endpoint.address)).is_none() {
                break;
            }
        }
        match self.addressed(service) {
            Found::Name if ready(zone, service, host).next().is_none() => Found::Nothing,
            found => found,
        }
    }

    /// SRV of endpoints: their own port numbers, and their addresses as glue. Nothing when no endpoint has the port.
    fn targets(
        &mut self,
        place: Place<'_>,
        skip: usize,
        service: u32,
        host: Option<Host<'_>>,
        wanted: impl Fn(&Port) -> bool,
    ) -> Found {
        let (zone, rotate) = (self.zone, self.rotate);
        let all = || {
            let ports = (0u16..).zip(zone.ports(service)).filter(|(_, port)| wanted(port));
            ports.flat_map(move |(number, _)| {
                ready(zone, service, host)
                    .filter_map(move |e| zone.target(service, e.id, number).map(|port| (e, port)))
            })
        };
        let count = all().count();
        if count == 0 {
            return Found::Nothing;
        }
        if self.rtype != RecordType::SRV {
            return Found::Name;
        }
        let (from, weight, tail) = (self.response.len(), weight(count), Tail::At(place.skip(skip)));
        for (endpoint, port) in rotated(rotate, all) {
            let label = label(zone, service, &endpoint);
            let target = NameRef { labels: &[&label], tail };
            if self.answer(place.owner(), &Rdata::Srv { weight, port, target }).is_none() {
                break;
            }
        }
        if !self.response.is_truncated() {
            self.glue(from, || rotated(rotate, &all).map(|(endpoint, _)| endpoint.address));
        }
        self.addressed(service)
    }

    /// Adds the addresses of the SRV records that start at `from` and belong to `addresses` in the same order. Each
    /// owner points to the target inside its SRV record.
    fn glue<I: Iterator<Item = IpAddr>>(&mut self, from: usize, addresses: impl Fn() -> I) {
        for family in [RecordType::A, RecordType::AAAA] {
            let (mut record, glue) = (from, self.response.len());
            for address in addresses() {
                let Some((target, next)) = self.response.srv_target(record) else { return };
                record = next;
                // A target that no pointer reaches would break the stride that `holds` relies on.
                if !NameRef::is_reachable(target) {
                    return;
                }
                if !is_of(address, family) || self.response.holds(glue, address) {
                    continue;
                }
                let rdata = Rdata::Address(address);
                if self.add(Section::Additional, NameRef::at(target), self.settings.ttl, &rdata).is_none() {
                    return;
                }
            }
        }
    }

    fn pointers(&mut self, address: IpAddr) {
        let zone = self.zone;
        let tail = Tail::Wire(self.settings.domain.as_bytes());
        for owner in zone.owners(address) {
            let (service, host) = match owner {
                Owner::Service(service) => (service, None),
                Owner::Endpoint { service, endpoint } => {
                    (service, Some(label(zone, service, &Endpoint { id: endpoint, address, ready: true })))
                }
            };
            let (namespace, name) = zone.name(service);
            let labels = [host.as_deref().unwrap_or_default(), &name, &namespace, b"svc"];
            let labels = labels.get(usize::from(host.is_none())..).unwrap_or_default();
            let target = Rdata::Name(RecordType::PTR, NameRef { labels, tail });
            self.answer(NameRef::at(HEADER_LEN), &target);
        }
    }
}

/// The ready endpoints of a service, or those that a host label names.
fn ready<'z, Z: Zone>(
    zone: &'z Z,
    service: u32,
    host: Option<Host<'z>>,
) -> impl Iterator<Item = Endpoint> + use<'z, Z> {
    zone.endpoints(service).filter(move |endpoint| {
        let named =
            || host.is_none_or(|host| host.names(&zone.hostname(service, endpoint.id), endpoint.address));
        endpoint.ready && named()
    })
}

/// The endpoint's label: its hostname, or its dashed address (rows D13, D14).
fn label(zone: &impl Zone, service: u32, endpoint: &Endpoint) -> super::Label {
    let hostname = zone.hostname(service, endpoint.id);
    if hostname.is_empty() { address::dashed(endpoint.address) } else { hostname }
}

/// All of `items`, beginning with another one from answer to answer (row W10).
fn rotated<T, I: Iterator<Item = T>>(rotate: u32, items: impl Fn() -> I) -> impl Iterator<Item = T> {
    let first = (rotate as usize).checked_rem(items().count()).unwrap_or_default();
    items().skip(first).chain(items().take(first))
}

/// An equal share of 100 (row D7).
fn weight(records: usize) -> u16 {
    100usize.checked_div(records).and_then(|share| u16::try_from(share).ok()).unwrap_or(100).max(1)
}

fn is_of(address: IpAddr, rtype: RecordType) -> bool {
    match address {
        IpAddr::V4(_) => rtype == RecordType::A,
        IpAddr::V6(_) => rtype == RecordType::AAAA,
    }
}
