//! From a JSON value to validated objects.

use super::{Endpoint, EndpointGroup, EndpointSlice, Endpoints, Identity, Kind, Object, cluster, entry, raw};
use super::{Service, ServiceKind, ServicePort};
use edgemesh_core::wire::feed;
use edgemesh_core::wire::ip::is_confined;
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::net::{IpAddr, Ipv4Addr};

/// The API server's default for `sessionAffinityConfig.clientIP.timeoutSeconds`.
const AFFINITY_SECS: u32 = 10_800;
const AFFINITY_MAX: u32 = 86_400;
/// So many fit a node's table; the numbers of one group then fit a feed frame.
const PORTS_MAX: usize = edgemesh_core::service::MAX_PORTS;
/// So many zones may be hinted, says the API.
const HINTS_MAX: usize = 8;
/// Port names and hostnames are DNS labels.
const LABEL_MAX: usize = 63;
/// RFC 3339, with fractions of a second.
const TIMESTAMP_MAX: usize = 35;
/// Characters of what somebody else wrote that an error shows.
const SHOWN_MAX: usize = 200;
const LABEL_SERVICE_NAME: &str = "kubernetes.io/service-name";
const LABEL_PROXY_NAME: &str = "service.kubernetes.io/service-proxy-name";
const LABEL_HEADLESS: &str = "service.kubernetes.io/headless";
const LABEL_SKIP_MIRROR: &str = "endpointslice.kubernetes.io/skip-mirror";

/// A field that is not as Kubernetes defines it.
#[derive(Clone, PartialEq, Eq, Debug, Hash)]
pub struct FieldError {
    /// Path of the field, such as `spec.ports[0].port`; empty for the document itself.
    pub field: String,
    /// What is wrong with it.
    pub message: String,
}

impl FieldError {
    pub(crate) fn new(field: impl Into<String>, message: impl Into<String>) -> Self {
        Self { field: shown(field.into()), message: shown(message.into()) }
    }
}

/// No longer than a line of a log may be.
fn shown(text: String) -> String {
    match text.char_indices().nth(SHOWN_MAX) {
        Some((end, _)) => format!("{}…", text.get(..end).unwrap_or_default()),
        None => text,
    }
}

impl std::fmt::Display for FieldError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.field.is_empty() {
            f.write_str(&self.message)
        } else {
            write!(f, "{}: {}", self.field, self.message)
        }
    }
}

/// Adds the objects of one document to `out`; a List has several. Good items of a List with bad ones are added.
///
/// # Errors
/// Every field that is wrong.
pub fn parse(document: Value, out: &mut Vec<(Identity, Object)>) -> Result<(), Vec<FieldError>> {
    if document.is_null() {
        return Ok(());
    }
    if !document.is_object() {
        return Err(vec![FieldError::new("", "not a Kubernetes object")]);
    }
    let meta: raw::TypeMeta = typed(&document).map_err(|e| vec![e])?;
    let Some(kind) = meta.kind else {
        return Err(vec![FieldError::new("kind", "missing")]);
    };
    if let (Some(items), true) = (meta.items, kind.ends_with("List")) {
        return list(kind.strip_suffix("List").unwrap_or_default(), items, out);
    }
    match one(&kind, &document) {
        Ok(found) => {
            out.extend(found);
            Ok(())
        }
        Err(error) => Err(vec![error]),
    }
}

/// The items of a List; those of a typed list (`ServiceList`) may come without a kind.
fn list(kind: &str, items: Vec<Value>, out: &mut Vec<(Identity, Object)>) -> Result<(), Vec<FieldError>> {
    let mut errors = Vec::new();
    for (n, mut item) in items.into_iter().enumerate() {
        if let (false, Some(fields)) = (kind.is_empty(), item.as_object_mut()) {
            fields.entry("kind").or_insert_with(|| kind.into());
        }
        if let Err(found) = parse(item, out) {
            let place = |e: FieldError| {
                let dot = if e.field.is_empty() { "" } else { "." };
                FieldError::new(format!("items[{n}]{dot}{}", e.field), e.message)
            };
            errors.extend(found.into_iter().map(place));
        }
    }
    if errors.is_empty() { Ok(()) } else { Err(errors) }
}

fn one(kind: &str, document: &Value) -> Result<Option<(Identity, Object)>, FieldError> {
    Ok(Some(match kind {
        "Service" => {
            let raw: raw::Service = typed(document)?;
            (identity(Kind::Service, &raw.metadata)?, Object::Service(service(raw)?))
        }
        "EndpointSlice" => {
            let raw: raw::EndpointSlice = typed(document)?;
            (identity(Kind::EndpointSlice, &raw.metadata)?, Object::EndpointSlice(slice(raw)?))
        }
        "Endpoints" => {
            let raw: raw::Endpoints = typed(document)?;
            (identity(Kind::Endpoints, &raw.metadata)?, Object::Endpoints(endpoints(raw)?))
        }
        "Namespace" => {
            let raw: raw::ObjectMeta = typed(document)?;
            let mut identity = identity(Kind::Namespace, &raw.metadata)?;
            identity.namespace = String::new();
            (identity, Object::Namespace)
        }
        "Node" => {
            let raw: cluster::RawNode = typed(document)?;
            let mut identity = identity(Kind::Node, &raw.metadata)?;
            identity.namespace = String::new();
            (identity, Object::Node(cluster::node(raw)?))
        }
        "ServiceCIDR" => {
            let raw: cluster::RawServiceCidr = typed(document)?;
            let mut identity = identity(Kind::ServiceCidr, &raw.metadata)?;
            identity.namespace = String::new();
            (identity, Object::ServiceCidr(cluster::service_cidr(raw)?))
        }
        _ => return Ok(None),
    }))
}

fn typed<T: DeserializeOwned>(value: &Value) -> Result<T, FieldError> {
    serde_path_to_error::deserialize(value).map_err(|e| {
        let path = e.path().to_string();
        FieldError::new(if path == "." { String::new() } else { path }, e.inner().to_string())
    })
}

fn identity(kind: Kind, meta: &raw::Metadata) -> Result<Identity, FieldError> {
    let namespace = meta.namespace.as_deref().filter(|n| !n.is_empty()).unwrap_or("default");
    dns_name("metadata.name", &meta.name)?;
    dns_name("metadata.namespace", namespace)?;
    Ok(Identity { kind, namespace: namespace.to_owned(), name: meta.name.clone() })
}

/// Names become DNS labels and frame fields: what Kubernetes itself would refuse must not get that far.
fn dns_name(field: &str, name: &str) -> Result<(), FieldError> {
    let inner = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '.';
    if !name.is_empty() && name.len() <= 253 && name.chars().all(inner) {
        return Ok(());
    }
    let accepted = "accepted: lower-case letters, digits, '-' and '.', 1 to 253 characters";
    Err(FieldError::new(field, format!("value {name:?}; {accepted}")))
}

fn short(field: impl Fn() -> String, text: Option<&str>) -> Result<(), FieldError> {
    match text {
        Some(text) if text.len() > LABEL_MAX => {
            Err(FieldError::new(field(), format!("value {text:?}; accepted: at most {LABEL_MAX} characters")))
        }
        _ => Ok(()),
    }
}

/// The directory is asked for nodes by their names.
fn node_name(field: impl Fn() -> String, name: Option<&str>) -> Result<(), FieldError> {
    match name {
        Some(name) if !name.is_empty() => dns_name(&field(), name),
        _ => Ok(()),
    }
}

fn label(meta: &raw::Metadata, key: &str) -> Option<String> {
    meta.labels.as_ref()?.get(key).cloned()
}

fn service(raw: raw::Service) -> Result<Service, FieldError> {
    let spec = raw.spec.unwrap_or_default();
    let mut flags = 0;
    if label(&raw.metadata, LABEL_PROXY_NAME).is_some() {
        flags |= feed::FLAG_NO_PROXY;
    }
    if spec.internal_traffic_policy == Some(raw::TrafficPolicy::Local) {
        flags |= feed::FLAG_INTERNAL_LOCAL;
    }
    // A preference that is not known yet is no reason to refuse a Service.
    if raw.metadata.annotations.as_ref().and_then(|a| a.prefer.as_deref()) == Some("nearest") {
        flags |= feed::FLAG_NEAREST;
    }
    let mut ports = Vec::new();
    for (n, port) in spec.ports.iter().flatten().enumerate() {
        if n >= PORTS_MAX {
            return Err(FieldError::new("spec.ports", format!("too many; accepted: at most {PORTS_MAX}")));
        }
        short(|| format!("spec.ports[{n}].name"), port.name.as_deref())?;
        if port.port == 0 {
            return Err(FieldError::new(format!("spec.ports[{n}].port"), "value 0; accepted: 1 to 65535"));
        }
        let name = port.name.clone().unwrap_or_default();
        ports.push(ServicePort { name, protocol: protocol(port.protocol), port: port.port });
    }
    ports.shrink_to_fit();
    let created = raw.metadata.created.filter(|text| text.len() <= TIMESTAMP_MAX).unwrap_or_default();
    let mut problems = Vec::new();
    let entry = entry::points(&spec, raw.status.unwrap_or_default(), &mut problems);
    let (kind, affinity_secs) = (service_kind(&spec)?, affinity(&spec)?);
    Ok(Service { kind, ports, affinity_secs, flags, created, entry, problems })
}

fn service_kind(spec: &raw::ServiceSpec) -> Result<ServiceKind, FieldError> {
    if spec.r#type == Some(raw::ServiceType::ExternalName) {
        let name = spec.external_name.as_deref().unwrap_or_default().trim_end_matches('.');
        if name.is_empty() || name.len() > 253 {
            return Err(FieldError::new("spec.externalName", "missing or longer than 253 characters"));
        }
        return Ok(ServiceKind::ExternalName(name.to_owned()));
    }
    let many =
        spec.cluster_ips.iter().flatten().enumerate().map(|(n, ip)| (format!("spec.clusterIPs[{n}]"), ip));
    let one = spec.cluster_ip.iter().map(|ip| ("spec.clusterIP".to_owned(), ip));
    let mut ips = Vec::new();
    for (field, text) in if spec.cluster_ips.as_ref().is_some_and(|l| !l.is_empty()) {
        many.collect::<Vec<_>>()
    } else {
        one.collect()
    } {
        if text == "None" {
            return Ok(ServiceKind::Headless);
        }
        if text.is_empty() {
            continue;
        }
        let ip = parse_ip(text).ok_or_else(|| {
            FieldError::new(&field, format!("value {text:?}; accepted: an IP address or None"))
        })?;
        reachable(&field, ip)?;
        if ips.iter().any(|other: &IpAddr| other.is_ipv4() == ip.is_ipv4()) {
            return Err(FieldError::new(
                &field,
                format!("value {text:?}; accepted: one address of each family"),
            ));
        }
        ips.push(ip);
    }
    if ips.is_empty() {
        let message = "missing: no API server assigns one here; accepted: an IP address or None";
        return Err(FieldError::new("spec.clusterIP", message));
    }
    Ok(ServiceKind::ClusterIp(ips))
}

/// No forwarded packet may have such an address, whatever an object says.
fn reachable(field: &str, ip: IpAddr) -> Result<(), FieldError> {
    if !is_confined(ip) {
        return Ok(());
    }
    let accepted = "accepted: no unspecified, loopback, link-local, multicast or broadcast address";
    Err(FieldError::new(field, format!("value {ip}; {accepted}")))
}

fn affinity(spec: &raw::ServiceSpec) -> Result<u32, FieldError> {
    if spec.session_affinity != Some(raw::Affinity::ClientIp) {
        return Ok(0);
    }
    let config = spec.session_affinity_config.as_ref().and_then(|c| c.client_ip.as_ref());
    match config.and_then(|c| c.timeout_seconds).unwrap_or(AFFINITY_SECS) {
        secs @ 1..=AFFINITY_MAX => Ok(secs),
        secs => Err(FieldError::new(
            "spec.sessionAffinityConfig.clientIP.timeoutSeconds",
            format!("value {secs}; accepted: 1 to {AFFINITY_MAX}"),
        )),
    }
}

pub(super) const fn protocol(raw: Option<raw::Protocol>) -> feed::Protocol {
    match raw {
        Some(raw::Protocol::Tcp) | None => feed::Protocol::Tcp,
        Some(raw::Protocol::Udp) => feed::Protocol::Udp,
        Some(raw::Protocol::Sctp) => feed::Protocol::Sctp,
    }
}

fn slice(raw: raw::EndpointSlice) -> Result<EndpointSlice, FieldError> {
    let mut group = EndpointGroup { ports: endpoint_ports(raw.ports), endpoints: Vec::new() };
    for (n, endpoint) in raw.endpoints.into_iter().flatten().enumerate() {
        if raw.address_type == raw::AddressType::Fqdn {
            break;
        }
        let Some(text) = endpoint.addresses.as_ref().and_then(|a| a.first()) else { continue };
        let v4 = raw.address_type == raw::AddressType::IPv4;
        let address = parse_ip(text).filter(|ip| ip.is_ipv4() == v4).ok_or_else(|| {
            let family = if v4 { "IPv4" } else { "IPv6" };
            let field = format!("endpoints[{n}].addresses[0]");
            FieldError::new(field, format!("value {text:?}; accepted: an {family} address (addressType)"))
        })?;
        reachable(&format!("endpoints[{n}].addresses[0]"), address)?;
        short(|| format!("endpoints[{n}].hostname"), endpoint.hostname.as_deref())?;
        node_name(|| format!("endpoints[{n}].nodeName"), endpoint.node_name.as_deref())?;
        let (zones, for_node) = hints(endpoint.hints.unwrap_or_default());
        group.endpoints.push(Endpoint {
            address,
            node: endpoint.node_name.unwrap_or_default().into(),
            hostname: endpoint.hostname.unwrap_or_default().into(),
            conditions: conditions(&endpoint.conditions.unwrap_or_default()) | for_node,
            zones,
        });
    }
    Ok(EndpointSlice {
        service: label(&raw.metadata, LABEL_SERVICE_NAME).filter(|name| !name.is_empty()),
        headless: label(&raw.metadata, LABEL_HEADLESS).is_some(),
        group,
    })
}

/// The zones of a hint in the order of their numbers, and the condition that stands for hinted nodes (row T8).
fn hints(raw: raw::Hints) -> (Box<[u32]>, u8) {
    let names = raw.for_zones.into_iter().flatten().take(HINTS_MAX);
    let mut zones: Vec<u32> = names.map(|zone| feed::zone(&zone.name)).filter(|zone| *zone != 0).collect();
    zones.sort_unstable();
    zones.dedup();
    let for_node = raw.for_nodes.is_some_and(|nodes| nodes.iter().any(|node| !node.name.is_empty()));
    (zones.into(), if for_node { feed::ENDPOINT_FOR_NODE } else { 0 })
}

/// Ready and serving are true when absent, terminating is false (row S8).
fn conditions(raw: &raw::Conditions) -> u8 {
    let bit = |on: bool, bit: u8| if on { bit } else { 0 };
    bit(raw.ready.unwrap_or(true), feed::ENDPOINT_READY)
        | bit(raw.serving.unwrap_or(true), feed::ENDPOINT_SERVING)
        | bit(raw.terminating.unwrap_or(false), feed::ENDPOINT_TERMINATING)
}

/// Ports without a number are of no use (row S9); an absent name is the empty one, as the API server sets it.
fn endpoint_ports(raw: Option<Vec<raw::EndpointPort>>) -> Vec<ServicePort> {
    let usable = |p: raw::EndpointPort| {
        let port = p.port.filter(|port| *port != 0)?;
        Some(ServicePort { name: p.name.unwrap_or_default(), protocol: protocol(p.protocol), port })
    };
    raw.into_iter().flatten().filter_map(usable).collect()
}

fn endpoints(raw: raw::Endpoints) -> Result<Endpoints, FieldError> {
    let skip = label(&raw.metadata, LABEL_SKIP_MIRROR).is_some_and(|v| v == "true");
    let mut groups = Vec::new();
    for (n, subset) in raw.subsets.into_iter().flatten().enumerate() {
        let mut group = EndpointGroup { ports: endpoint_ports(subset.ports), endpoints: Vec::new() };
        let ready = feed::ENDPOINT_READY | feed::ENDPOINT_SERVING;
        for (list, addresses, conditions) in
            [("addresses", subset.addresses, ready), ("notReadyAddresses", subset.not_ready_addresses, 0)]
        {
            for (m, one) in addresses.into_iter().flatten().enumerate() {
                let address = parse_ip(&one.ip).ok_or_else(|| {
                    let field = format!("subsets[{n}].{list}[{m}].ip");
                    FieldError::new(field, format!("value {:?}; accepted: an IP address", one.ip))
                })?;
                reachable(&format!("subsets[{n}].{list}[{m}].ip"), address)?;
                short(|| format!("subsets[{n}].{list}[{m}].hostname"), one.hostname.as_deref())?;
                node_name(|| format!("subsets[{n}].{list}[{m}].nodeName"), one.node_name.as_deref())?;
                group.endpoints.push(Endpoint {
                    address,
                    node: one.node_name.unwrap_or_default().into(),
                    hostname: one.hostname.unwrap_or_default().into(),
                    conditions,
                    zones: Box::default(),
                });
            }
        }
        groups.push(group);
    }
    Ok(Endpoints { skip, groups })
}

/// An address as old objects may hold it: IPv4 parts with leading zeros are decimal (row S13), and an
/// IPv4-mapped IPv6 address is the IPv4 one.
pub fn parse_ip(text: &str) -> Option<IpAddr> {
    if text.contains(':') {
        return text.parse::<IpAddr>().ok().map(|ip| ip.to_canonical());
    }
    let mut octets = [0u8; 4];
    let mut parts = text.split('.');
    for octet in &mut octets {
        let part = parts.next().filter(|p| !p.is_empty() && p.bytes().all(|b| b.is_ascii_digit()))?;
        let digits = part.trim_start_matches('0');
        *octet = if digits.is_empty() { 0 } else { digits.parse().ok()? };
    }
    parts.next().is_none().then(|| IpAddr::V4(Ipv4Addr::from(octets)))
}
