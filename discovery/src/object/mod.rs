//! Kubernetes objects, reduced to what service discovery needs and validated on the way in.
//!
//! Everything here is a value of our own; [`parse`](parse()) turns one JSON value (a YAML document is one, too)
//! into [`Object`]s. Unknown kinds and unknown fields are ignored, absent ones get the API server's defaults:
//! manifests are what people apply, not what an API server would return. An error names the field.

mod cluster;
mod entry;
mod parse;
mod raw;

pub use cluster::parse_cidr;
pub use entry::{EntryPoints, NodePort};
pub use parse::{FieldError, parse, parse_ip};

use edgemesh_core::wire::feed::{self, Protocol};
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

/// What tells objects apart.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Hash)]
pub struct Identity {
    /// Its kind.
    pub kind: Kind,
    /// Its namespace, empty for kinds that are not in one.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

/// The kinds that matter.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Hash)]
pub enum Kind {
    /// `v1/Service`
    Service,
    /// `discovery.k8s.io/v1/EndpointSlice`
    EndpointSlice,
    /// `v1/Endpoints`
    Endpoints,
    /// `v1/Namespace`
    Namespace,
    /// `v1/Node`
    Node,
    /// `networking.k8s.io/v1/ServiceCIDR`
    ServiceCidr,
    /// `v1/Pod`, where a source is asked for them: manifests are not.
    Pod,
}

/// One object.
#[derive(Clone, PartialEq, Eq, Debug, Hash)]
pub enum Object {
    /// A Service.
    Service(Service),
    /// An EndpointSlice.
    EndpointSlice(EndpointSlice),
    /// An Endpoints object.
    Endpoints(Endpoints),
    /// A Namespace.
    Namespace,
    /// A Node.
    Node(Node),
    /// The prefixes of a ServiceCIDR: network address and length in bits.
    ServiceCidr(Vec<(IpAddr, u8)>),
    /// The addresses of a Pod; none before it has one, and when it has ended.
    Pod(Vec<IpAddr>),
}

/// A Service.
#[derive(Clone, PartialEq, Eq, Debug, Hash)]
pub struct Service {
    /// What kind of answers it gives.
    pub kind: ServiceKind,
    /// Its ports, in order.
    pub ports: Vec<ServicePort>,
    /// `ClientIP` timeout in seconds, 0 without affinity.
    pub affinity_secs: u32,
    /// Bit set of `edgemesh_core::wire::feed::FLAG_*`.
    pub flags: u8,
    /// `metadata.creationTimestamp`, empty where there is none.
    pub created: String,
    /// How it is reached from outside the cluster; most are not.
    pub entry: Option<Box<EntryPoints>>,
    /// What of that does not apply, each naming its field.
    pub problems: Vec<FieldError>,
}

/// See [`edgemesh_core::wire::feed::ServiceKind`].
#[derive(Clone, PartialEq, Eq, Debug, Hash)]
pub enum ServiceKind {
    /// One or two ClusterIPs.
    ClusterIp(Vec<IpAddr>),
    /// `clusterIP: None`
    Headless,
    /// A name elsewhere.
    ExternalName(String),
}

/// One `spec.ports` entry.
#[derive(Clone, PartialEq, Eq, Debug, Hash)]
pub struct ServicePort {
    /// Empty for an unnamed port.
    pub name: String,
    /// Its protocol.
    pub protocol: Protocol,
    /// What clients connect to.
    pub port: u16,
}

/// An EndpointSlice.
#[derive(Clone, PartialEq, Eq, Debug, Hash)]
pub struct EndpointSlice {
    /// Label `kubernetes.io/service-name`; without it no Service has the slice (row S4).
    pub service: Option<String>,
    /// Label `service.kubernetes.io/headless`: not for forwarding (row S3).
    pub headless: bool,
    /// Its ports and endpoints.
    pub group: EndpointGroup,
}

/// An Endpoints object; named like its Service.
#[derive(Clone, PartialEq, Eq, Debug, Hash)]
pub struct Endpoints {
    /// Label `endpointslice.kubernetes.io/skip-mirror`: not to be used.
    pub skip: bool,
    /// Its subsets.
    pub groups: Vec<EndpointGroup>,
}

/// A Node, as far as it matters to Services.
#[derive(Clone, PartialEq, Eq, Debug, Default, Hash)]
pub struct Node {
    /// `InternalIP` and `ExternalIP` addresses, in order.
    pub addresses: Vec<IpAddr>,
    /// Labels that say where it is or what EdgeMesh is to do with it; others are dropped.
    pub labels: BTreeMap<String, String>,
    /// Condition `Ready`: whether it is true; `None` when there is none.
    pub ready: Option<bool>,
    /// Prefixes of its pods' addresses.
    pub pod_cidrs: Vec<(IpAddr, u8)>,
}

impl Node {
    /// Whether the cloud does not know what becomes of its pods.
    pub fn is_down(&self) -> bool {
        self.ready == Some(false)
    }

    /// Where it is, as the feed writes it.
    pub fn home(&self) -> feed::Home {
        let named = |label| self.labels.get(label).map_or(0, |name| feed::zone(name));
        feed::Home { zone: named(cluster::ZONE_LABEL), domain: named(crate::place::DOMAIN_LABEL) }
    }
}

/// Endpoints that share their ports.
#[derive(Clone, PartialEq, Eq, Debug, Default, Hash)]
pub struct EndpointGroup {
    /// Name, protocol and number of each port.
    pub ports: Vec<ServicePort>,
    /// The endpoints.
    pub endpoints: Vec<Endpoint>,
}

/// One endpoint.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Hash)]
pub struct Endpoint {
    /// Its first address (row S9).
    pub address: IpAddr,
    /// `nodeName`, empty without one. Many endpoints have the same one: a table keeps each name once.
    pub node: Arc<str>,
    /// `hostname`, empty without one.
    pub hostname: Box<str>,
    /// Bit set of `edgemesh_core::wire::feed::ENDPOINT_*`.
    pub conditions: u8,
    /// The zones it is hinted for, as `edgemesh_core::wire::feed::zone` writes them.
    pub zones: Box<[u32]>,
}

#[cfg(test)]
mod tests;
