//! What this node's table says of a Service.

use super::name::{Target, Wanted, Which};
use super::{EndpointReach, Problem};
use crate::agent::admin::dns;
use crate::agent::admin::listing::protocol;
use crate::agent::data::Data;
use crate::agent::data::handover::Shown;
use crate::agent::join::Mode;
use crate::agent::status::{Interception, Proven, Shared};
use crate::clock;
use edgemesh_core::flow::FlowRecord;
use edgemesh_core::service::protocol_number;
use edgemesh_core::service::view::{EndpointView, Kind, PortView, ServiceView};
use edgemesh_core::wire::feed::{FLAG_INTERNAL_LOCAL, FLAG_NO_PROXY, Protocol};
use edgemesh_core::wire::ip::Mesh;
use edgemesh_discovery::place::DOMAIN_LABEL;
use std::collections::HashMap;
use std::net::IpAddr;

/// What was found.
pub(super) struct Facts {
    pub(super) namespace: String,
    pub(super) service: String,
    pub(super) dns_name: String,
    pub(super) dns_answers: Vec<String>,
    pub(super) vips: Vec<String>,
    pub(super) ports: Vec<String>,
    pub(super) endpoints: Vec<Found>,
    pub(super) flows: usize,
    pub(super) steps: Vec<String>,
    pub(super) problems: Vec<Problem>,
}

/// An endpoint.
pub(super) struct Found {
    /// Index of its node, 0 for none.
    pub(super) node: u32,
    /// It is on this node.
    pub(super) local: bool,
    pub(super) reach: EndpointReach,
    pub(super) why_client: String,
}

/// Looks the Service up.
pub(super) fn look(data: &mut Data, target: &Target, shared: &Shared) -> Result<Facts, Problem> {
    let services = data.engine.services();
    let found = match &target.service {
        Which::Name { namespace, name, .. } => services.service(namespace, name),
        Which::Address(address) => services
            .service_of_vip(*address)
            .or_else(|| services.endpoint_of_vip(*address).and_then(|endpoint| endpoint.service())),
    };
    let Some(service) = found else { return Err(unknown(data, target, shared)) };
    let (namespace, name) = (service.namespace().to_string(), service.name().to_string());
    let host = match &target.service {
        Which::Name { host: Some(host), .. } => format!("{host}."),
        _ => String::new(),
    };
    let dns_name = format!("{host}{name}.{namespace}.svc.{}", shared.domain);
    let dns_answers = dns::addresses(data, &format!("{dns_name}."));
    let shown = shown(data, &namespace, &name);
    let services = data.engine.services();
    let Some(service) = services.service(&namespace, &name) else {
        return Err(unknown(data, target, shared));
    };
    let taken = Taken::of(data, &service, shared.interception());
    let look = Look { data, target, shared, shown, taken };
    look.facts(&service, dns_name, dns_answers)
}

/// Whether endpoints that this node's kernel reaches see the pods of this node.
fn shown(data: &mut Data, namespace: &str, name: &str) -> HashMap<IpAddr, Shown> {
    let Data { engine, handover: Some(handover), .. } = data else { return HashMap::new() };
    let (own, service) = (engine.own_index(), engine.services().service(namespace, name));
    let plain = service.into_iter().flat_map(|s| s.endpoints()).filter(EndpointView::is_plain);
    let now = clock::now();
    plain.map(|e| (e.address(), handover.shows_pods(now, e.address(), e.node() == own))).collect()
}

/// Who carries connections to a Service's VIPs, and how they come there.
enum Taken {
    /// This agent: they are routed to its device.
    Routed,
    /// This agent: they are translated to these addresses, before the other service proxy sees them.
    Shadowed { stand_ins: Vec<IpAddr>, beside: String },
    /// The other service proxy, and why.
    Left { beside: String, why: &'static str },
}

impl Taken {
    fn of(data: &Data, service: &ServiceView<'_>, interception: Interception) -> Self {
        let Interception { mode, beside, .. } = interception;
        let beside = beside.unwrap_or_else(|| "another service proxy".to_owned());
        let left = |why| Self::Left { beside: beside.clone(), why };
        if service.flags() & FLAG_NO_PROXY != 0 {
            return left("because a label of it says so");
        }
        if mode != Mode::Shadow.name() {
            return Self::Routed;
        }
        let stand_ins: Vec<_> =
            service.vips().filter_map(|vip| data.engine.services().shadow_of(vip)).collect();
        if !Mode::Shadow.takes(service, data.engine.own_index()) {
            return left("which reaches all of its endpoints that clients of this node may use");
        }
        if stand_ins.is_empty() {
            left("because the mesh prefix has no stand-in for it")
        } else {
            Self::Shadowed { stand_ins, beside }
        }
    }
}

struct Look<'d> {
    data: &'d Data,
    target: &'d Target,
    shared: &'d Shared,
    shown: HashMap<IpAddr, Shown>,
    taken: Taken,
}

impl Look<'_> {
    fn facts(
        &self,
        service: &ServiceView<'_>,
        dns_name: String,
        dns_answers: Vec<String>,
    ) -> Result<Facts, Problem> {
        let all: Vec<PortView<'_>> = service.ports().collect();
        let wanted: Vec<_> = all.iter().copied().filter(|port| self.wants(port)).collect();
        let headless = service.kind() == Kind::Headless;
        if wanted.is_empty() && !headless && service.kind() != Kind::ExternalName {
            let asked = match &self.target.port {
                Wanted::Port(number) => format!("port {number}"),
                Wanted::PortName(name) => format!("port named {name}"),
                Wanted::Any => "ports".into(),
            };
            let ports = all.iter().map(describe).collect::<Vec<_>>().join(", ");
            return Err(Problem::new(
                format!("{dns_name} has no {asked}, so connections there are refused"),
                format!("use one of its ports ({ports}), or add the port to the Service"),
            ));
        }
        let vips: Vec<IpAddr> = service.vips().collect();
        let flows = self.flows(&vips, &wanted, service);
        let mut facts = Facts {
            namespace: service.namespace().to_string(),
            service: service.name().to_string(),
            vips: vips.iter().map(IpAddr::to_string).collect(),
            ports: wanted.iter().map(describe).collect(),
            endpoints: Vec::new(),
            flows: flows.len(),
            steps: Vec::new(),
            problems: Vec::new(),
            dns_name,
            dns_answers,
        };
        facts.endpoints = self.endpoints(service, &wanted, &flows);
        self.first_steps(service, &mut facts);
        Ok(facts)
    }

    fn wants(&self, port: &PortView<'_>) -> bool {
        match &self.target.port {
            Wanted::Any => true,
            Wanted::Port(number) => port.port() == *number,
            Wanted::PortName(name) => port.name().to_string() == *name,
        }
    }

    /// The flows of this node to the Service's VIPs, or to the endpoint VIPs of a headless one.
    fn flows(&self, vips: &[IpAddr], ports: &[PortView<'_>], service: &ServiceView<'_>) -> Vec<FlowRecord> {
        let stand_ins: Vec<IpAddr> = service.endpoints().filter_map(|endpoint| endpoint.vip()).collect();
        let is_port = |flow: &FlowRecord| {
            let same =
                |p: &PortView<'_>| p.port() == flow.vip.1 && protocol_number(p.protocol()) == flow.protocol;
            ports.iter().any(same)
        };
        let flows = self.data.engine.flows().flows(clock::now());
        flows
            .filter(|flow| stand_ins.contains(&flow.vip.0) || (vips.contains(&flow.vip.0) && is_port(flow)))
            .collect()
    }

    fn endpoints(
        &self,
        service: &ServiceView<'_>,
        ports: &[PortView<'_>],
        flows: &[FlowRecord],
    ) -> Vec<Found> {
        let mut found = Vec::new();
        let host = match &self.target.service {
            Which::Name { host, .. } => host.as_deref(),
            Which::Address(_) => None,
        };
        let named =
            |endpoint: &EndpointView<'_>| host.is_none_or(|host| endpoint.hostname().to_string() == host);
        for endpoint in service.endpoints().filter(named) {
            if ports.is_empty() {
                found.push(self.endpoint(&endpoint, 0, None, flows, service.kind()));
            }
            for port in ports {
                if let Some(number) = endpoint.target(port.index()) {
                    found.push(self.endpoint(
                        &endpoint,
                        number,
                        Some(port.protocol()),
                        flows,
                        service.kind(),
                    ));
                }
            }
        }
        found
    }

    fn endpoint(
        &self,
        endpoint: &EndpointView<'_>,
        port: u16,
        transport: Option<Protocol>,
        flows: &[FlowRecord],
        kind: Kind,
    ) -> Found {
        let own = self.data.engine.own_index();
        let (node, address) = (endpoint.node(), endpoint.address());
        let local = node != 0 && endpoint.is_direct(own);
        let plain = kind == Kind::ClusterIp && endpoint.is_plain();
        let shown = self.shown.get(&address).filter(|_| plain).unwrap_or(&Shown::Never);
        let (client, mut why_client) = match &self.taken {
            Taken::Left { beside, .. } if kind == Kind::ClusterIp => {
                (None, format!("or what {beside} makes of it, which carries the connection"))
            }
            _ => client(&self.data.engine.flows().mesh(), endpoint, kind, shown),
        };
        if local && node != own && !matches!(self.taken, Taken::Left { .. }) {
            why_client.push_str(&self.why_direct(node, address));
        }
        let ours = |flow: &&FlowRecord| {
            let peer = if local { 0 } else { node };
            flow.peer == peer && flow.endpoint.0 == address && (port == 0 || flow.endpoint.1 == port)
        };
        let name = if node == own { self.shared.node.clone() } else { self.shared.name_of(node) };
        let reach = EndpointReach {
            node: if node == 0 { "no node of this mesh".into() } else { name },
            ip: address.to_string(),
            port,
            proto: transport.map_or(String::new(), |transport| protocol(transport).to_owned()),
            ready: endpoint.ready(),
            path: if local { "local" } else { "none" }.to_owned(),
            client: client.map(|ip| ip.to_string()),
            flows: flows.iter().filter(ours).count(),
            ..EndpointReach::default()
        };
        Found { node, local, reach, why_client }
    }

    /// Why an endpoint of another node is reached without the mesh.
    fn why_direct(&self, node: u32, address: IpAddr) -> String {
        match self.shared.proof_of(node, address) {
            None => format!("; the label {DOMAIN_LABEL} of both nodes says so"),
            Some(Proven { range, unix_secs, .. }) => {
                let ago = clock::wall().secs.saturating_sub(unix_secs);
                format!("; its agent proved {ago} s ago that this node's route to {range} leads to its pods")
            }
        }
    }

    /// DNS and the choice of an endpoint, with what is wrong about them.
    fn first_steps(&self, service: &ServiceView<'_>, facts: &mut Facts) {
        let name = &facts.dns_name;
        let answers = facts.dns_answers.join(", ");
        match service.kind() {
            Kind::ExternalName => {
                let other = service.external_name();
                facts
                    .steps
                    .push(format!("DNS answers {name} with the alias {other}, which is outside this mesh"));
                return;
            }
            _ if facts.dns_answers.is_empty() => {
                facts.steps.push(format!("DNS answers {name} with no address"));
            }
            _ => facts.steps.push(format!("DNS answers {name} with {answers}")),
        }
        facts.steps.push(match service.kind() {
            Kind::ClusterIp => self.way(&facts.vips, &facts.ports),
            _ => "the Service is headless: clients choose an endpoint by its address".into(),
        });
        if service.affinity_secs() > 0 {
            let secs = service.affinity_secs();
            facts.steps.push(format!("a client keeps its endpoint for {secs} s (sessionAffinity)"));
        }
        facts.problems = self.problems(service, facts);
    }

    /// The way of a connection to a ClusterIP until an endpoint is chosen.
    fn way(&self, vips: &[String], ports: &[String]) -> String {
        let connection = format!("a connection to {} port {}", vips.join(" or "), ports.join(", "));
        let device = "this node's mesh device, where one of the ready endpoints is chosen";
        match &self.taken {
            Taken::Routed => format!("{connection} goes to {device}"),
            Taken::Shadowed { stand_ins, beside } => {
                let stand_ins: Vec<_> = stand_ins.iter().map(IpAddr::to_string).collect();
                format!(
                    "{connection} goes by its stand-in {} to {device}, before {beside} sees it",
                    stand_ins.join(" or ")
                )
            }
            Taken::Left { beside, why } => format!("{connection} is left to {beside}, {why}"),
        }
    }

    fn problems(&self, service: &ServiceView<'_>, facts: &Facts) -> Vec<Problem> {
        let mut problems = Vec::new();
        let name = &facts.dns_name;
        if service.flags() & FLAG_NO_PROXY != 0 {
            problems.push(Problem::new(
                format!("{name} is left to another service proxy; only DNS serves it here"),
                "remove the label service.kubernetes.io/service-proxy-name, or free its address from the other proxy",
            ));
        }
        if service.flags() & FLAG_INTERNAL_LOCAL != 0
            && !facts.endpoints.iter().any(|e| e.local && e.reach.ready)
        {
            problems.push(Problem::new(
                format!("{name} has internalTrafficPolicy: Local and no ready endpoint on this node"),
                "run a pod of it here, or set internalTrafficPolicy: Cluster",
            ));
        }
        if facts.endpoints.is_empty() {
            problems.push(Problem::new(
                format!("{name} has no endpoints, so connections are refused"),
                "check that pods match the Service's selector and that its EndpointSlices name the port",
            ));
        } else if !facts.endpoints.iter().any(|endpoint| endpoint.reach.ready) {
            problems.push(Problem::new(
                format!("none of the endpoints of {name} is ready"),
                "check the readiness probes of its pods",
            ));
        }
        for endpoint in facts.endpoints.iter().filter(|e| e.node == 0 && service.kind() == Kind::ClusterIp) {
            problems.push(Problem::new(
                format!("endpoint {} is on a node that the directory does not know", endpoint.reach.ip),
                "run the agent there under the node's Kubernetes name (nodeName in the EndpointSlice)",
            ));
        }
        problems
    }
}

/// The source address that an endpoint sees, and why.
fn client(mesh: &Mesh, endpoint: &EndpointView<'_>, kind: Kind, shown: &Shown) -> (Option<IpAddr>, String) {
    let (v6, own) = (endpoint.address().is_ipv6(), mesh.own_index());
    let alias = mesh.alias(v6);
    let (client, why) = match (endpoint.is_direct(own), kind, shown) {
        _ if endpoint.node() == 0 => (None, "because it is reached without this mesh"),
        (true, Kind::Headless, _) => (None, "because it is reached without this mesh"),
        (true, _, Shown::Always) if endpoint.node() != own => (
            None,
            "because its node is of this node's domain and the kernel carries the connection; of processes of this \
             node it sees the node",
        ),
        (true, _, Shown::Always) => {
            let why = "because the kernel carries the connection inside this node; itself and processes of this node";
            return (None, format!("{why} it sees as {alias}"));
        }
        (true, _, Shown::FromElsewhere(bridge)) => {
            let why = format!(
                "the alias for connections inside a node, because it is on the bridge {bridge}, where answers between \
                 pods pass this node's rules only if net.bridge.bridge-nf-call-{}tables is 1; pods behind other devices \
                 it sees as they are",
                if v6 { "ip6" } else { "ip" }
            );
            return (Some(alias), why);
        }
        (true, _, Shown::Never) if endpoint.node() != own => (
            None,
            "but for this node's address in place of it: its node is of this node's domain, and is reached without \
             tunnels",
        ),
        (true, _, Shown::Never) => (
            Some(alias),
            "the alias for connections inside a node, because a kernel refuses packets from its own addresses",
        ),
        (false, ..) => (
            Some(mesh.own(v6)),
            "this node's mesh address, because pod addresses repeat from node to node and replies must find back",
        ),
    };
    (client, why.to_owned())
}

fn describe(port: &PortView<'_>) -> String {
    let name = port.name().to_string();
    let name = if name.is_empty() { name } else { format!("{name}:") };
    format!("{name}{}/{}", port.port(), protocol(port.protocol()))
}

/// Why there is no such Service.
fn unknown(data: &Data, target: &Target, shared: &Shared) -> Problem {
    let services = data.engine.services();
    if !services.is_complete() {
        return Problem::new(
            format!("this node has not heard any Services yet from {}", shared.source),
            "run `edgemesh-agent status` to see what it waits for",
        );
    }
    let (namespace, name) = match &target.service {
        Which::Address(address) => {
            return Problem::new(
                format!("{address} is no address of a Service"),
                "`edgemesh-agent services` lists the Services with their addresses",
            );
        }
        Which::Name { namespace, name, .. } => (namespace, name),
    };
    let same = services.services().filter(|s| s.name().to_string() == *name);
    let elsewhere: Vec<_> = same.map(|s| format!("{name}.{}", s.namespace())).collect();
    let what = if services.has_namespace(namespace) {
        format!("there is no Service {name} in namespace {namespace}")
    } else {
        format!("there is no namespace {namespace}")
    };
    let remedy = if elsewhere.is_empty() {
        "check the name; `edgemesh-agent services` lists the Services that this node knows".to_owned()
    } else {
        format!("did you mean {}?", elsewhere.join(" or "))
    };
    Problem::new(format!("{what}, so DNS answers that the name does not exist"), remedy)
}
