//! Which Services are taken, and how their VIPs come to the device.
//!
//! Without another service proxy on this node all of them are taken, and their VIPs are routed to the device. Beside
//! one only those are that it cannot serve: with an endpoint beyond this node's own reach, which is this node and
//! the nodes of its domain, unless `internalTrafficPolicy: Local` leaves clients none of those. Their VIPs are
//! translated to stand-ins before that proxy sees them. A VIP that is not taken any more stays routed while connections
//! use it ([`Lingering`]). Entry points of a Service with that policy lead to its stand-in in either case, which it
//! does not bind (row T5).
//!
//! Pure, but for what it remembers of VIPs that linger; the table is the engine's.

use crate::cli::Interception;
use crate::interception::Proxy;
use crate::interception::entry::EntryPoint;
use crate::prefix::Prefix;
use edgemesh_core::node::Engine;
use edgemesh_core::service::view::PortView;
use edgemesh_core::service::{EndpointView, ServiceView, protocol_number};
use edgemesh_core::wire::feed::{
    ENDPOINT_EXIT, ENDPOINT_READY, ENDPOINT_SERVING, FLAG_INTERNAL_LOCAL, Protocol,
};
use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

/// How VIPs come to the device.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in crate::agent) enum Mode {
    /// They are routed.
    Route,
    /// They are translated to stand-ins, beside another service proxy.
    Shadow,
}

impl Mode {
    /// As the settings say, or as another proxy on this node makes it necessary.
    pub(in crate::agent) fn new(setting: Interception, beside: Option<Proxy>) -> Self {
        match (setting, beside) {
            (Interception::Route, _) | (Interception::Auto, None) => Self::Route,
            (Interception::Shadow, _) | (Interception::Auto, Some(_)) => Self::Shadow,
        }
    }

    /// Its name.
    pub(in crate::agent) fn name(self) -> &'static str {
        match self {
            Self::Route => "route",
            Self::Shadow => "shadow",
        }
    }

    /// Whether a Service is taken by the node of index `own`.
    pub(in crate::agent) fn takes(self, service: &ServiceView<'_>, own: u32) -> bool {
        self == Self::Route || !is_internal_local(service) && reaches_beyond(service, own)
    }
}

/// Whether the Service has an endpoint that the kernel of this node does not reach without us. What exits of the
/// mesh reach for others, an exit reaches itself.
fn reaches_beyond(service: &ServiceView<'_>, own: u32) -> bool {
    let here: BTreeSet<IpAddr> =
        service.endpoints().filter(|e| e.node() == own).map(|e| e.address()).collect();
    service.endpoints().any(|e| {
        let is_ours_too = is_exit(&e) && here.contains(&e.address());
        e.node() != 0 && !e.is_direct(own) && !is_ours_too
    })
}

fn is_internal_local(service: &ServiceView<'_>) -> bool {
    service.flags() & FLAG_INTERNAL_LOCAL != 0
}

/// Endpoints that the kernel may be asked to lead connections to `vip` to, each with where that connection goes.
pub(super) fn handed(service: &ServiceView<'_>, vip: IpAddr) -> Vec<(EntryPoint, SocketAddr)> {
    let serves = |e: &EndpointView<'_>| e.conditions() & (ENDPOINT_READY | ENDPOINT_SERVING) != 0;
    let plain = |e: &EndpointView<'_>| e.is_plain() && serves(e) && e.address().is_ipv6() == vip.is_ipv6();
    let each = |e: EndpointView<'_>| {
        let at = move |p: PortView<'_>| {
            let point = EntryPoint { address: vip, protocol: protocol_number(p.protocol()), port: p.port() };
            Some((point, SocketAddr::new(e.address(), e.target(p.index())?)))
        };
        service.ports().filter_map(at).collect::<Vec<_>>()
    };
    service.endpoints().filter(plain).flat_map(each).collect()
}

/// Whether packets for the endpoint leave the mesh here, so that this node's own address is their source: through
/// this node as an exit, or to another node of its domain, where nobody knows the way back into the mesh.
pub(super) fn leaves_here(endpoint: &EndpointView<'_>, own: u32) -> bool {
    endpoint.is_direct(own) && (endpoint.node() != own || is_exit(endpoint))
}

/// The UDP endpoints of a Service that are on this node, pods' and its own.
pub(super) fn answering(service: ServiceView<'_>, own: u32) -> impl Iterator<Item = SocketAddr> {
    let ports = service.ports().filter(|port| port.protocol() == Protocol::Udp).map(|port| port.index());
    let ports: Vec<_> = ports.collect();
    let here = service.endpoints().filter(move |endpoint| endpoint.node() == own && !is_exit(endpoint));
    here.flat_map(move |endpoint| {
        let targets: Vec<_> = ports.iter().filter_map(|port| endpoint.target(*port)).collect();
        targets.into_iter().map(move |target| SocketAddr::new(endpoint.address(), target))
    })
}

fn is_exit(endpoint: &EndpointView<'_>) -> bool {
    endpoint.conditions() & ENDPOINT_EXIT != 0
}

/// A VIP that forwarding serves.
pub(super) struct Vip {
    /// Namespace and name of its Service.
    pub(super) service: String,
    pub(super) address: IpAddr,
    /// Whether its Service is taken.
    pub(super) taken: bool,
    /// Its stand-in; `None` where there is no room for one, or another VIP has it.
    pub(super) shadow: Option<IpAddr>,
    /// Entry points lead to the stand-in, whether its Service is taken or not.
    pub(super) entered_by_shadow: bool,
    /// See [`handed`].
    pub(super) handed: Vec<(EntryPoint, SocketAddr)>,
}

impl Vip {
    /// The VIP with the stand-in that its entry points lead to, if they do not lead to itself.
    pub(super) fn door(&self) -> Option<(IpAddr, IpAddr)> {
        self.shadow.filter(|_| self.entered_by_shadow).map(|shadow| (self.address, shadow))
    }
}

/// All of them.
pub(super) fn vips(engine: &Engine<'_>, mode: Mode) -> Vec<Vip> {
    let (services, own) = (engine.services(), engine.own_index());
    let vips = services.services().flat_map(|service| service.vips().map(move |vip| (service, vip)));
    vips.filter(|(_, vip)| services.is_vip(*vip))
        .map(|(service, address)| Vip {
            service: format!("{}/{}", service.namespace(), service.name()),
            address,
            taken: mode.takes(&service, own),
            shadow: services.shadow_of(address),
            entered_by_shadow: is_internal_local(&service)
                && (mode == Mode::Route || reaches_beyond(&service, own)),
            handed: handed(&service, address),
        })
        .collect()
}

/// Routes that are wanted no more but still used.
#[derive(Default)]
pub(super) struct Lingering {
    /// What was routed last.
    routed: BTreeSet<Prefix>,
    /// What of it is not wanted any more.
    left: BTreeSet<Prefix>,
}

impl Lingering {
    /// Takes over what is to be routed now. True when something is left over that may be in use.
    pub(super) fn replace(&mut self, wanted: &[Prefix]) -> bool {
        let wanted: BTreeSet<Prefix> = wanted.iter().copied().collect();
        self.left =
            self.routed.union(&self.left).filter(|prefix| !wanted.contains(prefix)).copied().collect();
        self.routed = wanted;
        self.is_waiting()
    }

    /// Whether something is left over.
    pub(super) fn is_waiting(&self) -> bool {
        !self.left.is_empty()
    }

    /// Gives up what none of the VIPs in use lies in; tells whether that changed anything.
    pub(super) fn keep(&mut self, in_use: &BTreeSet<IpAddr>) -> bool {
        let before = self.left.len();
        self.left.retain(|prefix| in_use.iter().any(|vip| prefix.contains(*vip)));
        self.left.len() != before
    }

    /// What is to be routed, whether wanted or used.
    pub(super) fn all(&self) -> Vec<Prefix> {
        self.routed.union(&self.left).copied().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn auto_follows_what_is_on_the_node_and_a_setting_does_not() {
        let found = Some(Proxy::Nftables);
        for (setting, beside, mode) in [
            (Interception::Auto, None, Mode::Route),
            (Interception::Auto, found, Mode::Shadow),
            (Interception::Route, found, Mode::Route),
            (Interception::Shadow, None, Mode::Shadow),
        ] {
            assert_eq!(Mode::new(setting, beside), mode, "{setting:?} {beside:?}");
        }
    }

    #[test]
    fn c5_a_route_stays_while_a_connection_uses_it() {
        let [one, two] = ["10.96.0.1/32", "10.96.0.2/32"].map(|text| text.parse::<Prefix>().unwrap());
        let used = BTreeSet::from([one.address()]);
        let mut lingering = Lingering::default();
        assert!(!lingering.replace(&[one, two]));
        assert!(lingering.replace(&[]));
        assert!(lingering.keep(&used));
        assert_eq!(lingering.all(), [one]);
        assert!(lingering.replace(&[two]), "other changes leave it");
        assert_eq!(lingering.all(), [one, two]);
        assert!(!lingering.keep(&used));
        assert!(lingering.keep(&BTreeSet::new()) && !lingering.is_waiting());
        assert_eq!(lingering.all(), [two]);
        lingering.replace(&[one]);
        assert!(!lingering.replace(&[one, two]), "wanted again");
    }
}
