//! Service table updates: what a source (the server's feed, Kubernetes, manifests) says of the Services.
//!
//! A service is defined by [`Update::Service`], then its ports, then groups of endpoints, and takes effect as
//! a whole with [`Update::Commit`]: nobody ever sees half a service. The same values travel in feed frames
//! (postcard, several to a frame), fill the table, and make up the snapshot, so there is one form for all three.
//! Joining Services with EndpointSlices by port *name* is the source's work; here ports are already numbers.

use core::net::IpAddr;
use heapless::Vec;
use serde::{Deserialize, Serialize};

/// The transport protocols that a Service port can name.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash, Serialize, Deserialize)]
pub enum Protocol {
    /// IP protocol 6.
    Tcp,
    /// IP protocol 17.
    Udp,
    /// IP protocol 132.
    Sctp,
}

/// One step of a table update.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Update<'a> {
    /// A full list begins: services not defined before the matching [`Update::End`] will go.
    Begin,
    /// The definition of one service begins; it replaces any earlier one of the same name on commit.
    #[serde(borrow)]
    Service(ServiceDef<'a>),
    /// The next port of the service; ports count from 0 in the order given.
    #[serde(borrow)]
    Port(PortDef<'a>),
    /// A group of endpoints follows that share these port numbers, little-endian u16 in the order of the
    /// service's ports; 0 where the group does not serve a port (EndpointSlice `ports`).
    #[serde(borrow)]
    Targets(&'a [u8]),
    /// An endpoint of the last group.
    #[serde(borrow)]
    Endpoint(EndpointDef<'a>),
    /// The service begun last takes effect.
    Commit,
    /// The service goes. Unknown ones are ignored.
    Remove {
        /// Its namespace.
        namespace: &'a str,
        /// Its name.
        name: &'a str,
    },
    /// A namespace exists, with or without services (row N3).
    Namespace(&'a str),
    /// The full list is complete.
    End,
    /// Where the node is that this is for. It says what hints and domains mean in what follows: after a change
    /// everything is said again (row T10).
    Home(Home),
    /// The domain, as [`Home`] has it, of the endpoints that follow in this service; 0 before the first of these.
    Domain(u32),
}

/// Where a node is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Home {
    /// Its zone as [`zone`] writes it, 0 without one.
    pub zone: u32,
    /// Its domain, written alike: nodes of one domain reach each other's pods without the mesh.
    pub domain: u32,
}

/// A Service's head.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ServiceDef<'a> {
    /// `metadata.namespace`.
    pub namespace: &'a str,
    /// `metadata.name`.
    pub name: &'a str,
    /// What kind of answers it gives.
    #[serde(borrow)]
    pub kind: ServiceKind<'a>,
    /// `spec.sessionAffinity: ClientIP` timeout in seconds; 0 without affinity.
    pub affinity_secs: u32,
    /// Bit set of `FLAG_*`.
    pub flags: u8,
}

/// What stands for a zone in the feed: FNV-1a of its name, 0 for none. A number that needs no register, so that it
/// stays the same over restarts and servers; two of a thousand zones share one with a probability of one in ten
/// thousand, and then see each other as one zone.
pub fn zone(name: &str) -> u32 {
    let step = |hash: u32, byte: u8| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193);
    if name.is_empty() { 0 } else { name.bytes().fold(0x811c_9dc5, step).max(1) }
}

/// Only DNS serves it: another proxy was asked for by label, or this node leaves the VIP to one.
pub const FLAG_NO_PROXY: u8 = 1;
/// `internalTrafficPolicy: Local`.
pub const FLAG_INTERNAL_LOCAL: u8 = 2;
/// The nearest endpoint is taken, by path and round trip, instead of any (annotation of ours, no default).
pub const FLAG_NEAREST: u8 = 4;

/// The kinds of Service that DNS and forwarding tell apart.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum ServiceKind<'a> {
    /// With ClusterIPs: one, or one of each family.
    ClusterIp(Vec<IpAddr, 2>),
    /// `clusterIP: None`.
    Headless,
    /// A CNAME to this name, without trailing dot.
    ExternalName(&'a str),
}

/// One `spec.ports` entry.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct PortDef<'a> {
    /// Empty for an unnamed port.
    pub name: &'a str,
    /// Its protocol.
    pub protocol: Protocol,
    /// `port`: what clients connect to.
    pub port: u16,
}

/// One endpoint.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct EndpointDef<'a> {
    /// Index of the node that runs it; 0 when no node of ours does.
    pub node: u32,
    /// Its address on that node.
    pub address: IpAddr,
    /// Cluster-wide stand-in for the address, assigned by the directory to endpoints of headless services.
    pub vip: Option<IpAddr>,
    /// `hostname`; empty without one.
    pub hostname: &'a str,
    /// Bit set of `ENDPOINT_*`.
    pub conditions: u8,
    /// [`zone`] of each zone that it is hinted for (`hints.forZones`), little-endian.
    pub zones: &'a [u8],
}

/// `conditions.ready` is true or absent.
pub const ENDPOINT_READY: u8 = 1;
/// `conditions.serving` is true or absent.
pub const ENDPOINT_SERVING: u8 = 2;
/// `conditions.terminating` is true.
pub const ENDPOINT_TERMINATING: u8 = 4;
/// `hints.forNodes` is there. The controller only ever names the endpoint's own node in it, so which one is not
/// kept: the endpoint counts as hinted for its node.
pub const ENDPOINT_FOR_NODE: u8 = 8;
/// Its Node is not ready, so that the source does not know: it is as the source said when it last knew, and its node
/// finds out for itself.
pub const ENDPOINT_HELD: u8 = 32;
/// It is on no node of ours: its node is an exit, which reaches it from outside the mesh with its own address.
pub const ENDPOINT_EXIT: u8 = 16;
