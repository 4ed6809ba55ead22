//! How a Service is reached from outside the cluster: NodePorts, external IPs, load balancers.
//!
//! Only nodes that are told to be entry points need it. What is wrong here is reported and left out; the Service
//! itself goes on: its ClusterIP has nothing to do with it. Bounds: [`LIST_MAX`] values of each list.

use super::cluster::parse_cidr;
use super::parse::{FieldError, parse_ip, protocol};
use super::raw;
use edgemesh_core::wire::feed::Protocol;
use edgemesh_core::wire::ip::is_confined;
use serde::{Deserialize, Serialize};
use std::net::IpAddr;

/// More addresses or prefixes of one Service than anybody has.
const LIST_MAX: usize = 256;

/// The entry points of one Service.
#[derive(Clone, PartialEq, Eq, Debug, Default, Hash, Serialize, Deserialize)]
pub struct EntryPoints {
    /// `spec.ports[].nodePort`, where there is one (row X7: a load balancer's Service may have none).
    pub node_ports: Vec<NodePort>,
    /// `spec.externalIPs`
    pub external_ips: Vec<IpAddr>,
    /// `status.loadBalancer.ingress[].ip` that nodes answer for: not those of `ipMode: Proxy` (row X4).
    pub load_balancer_ips: Vec<IpAddr>,
    /// `spec.loadBalancerSourceRanges`: network address and length in bits.
    pub source_ranges: Vec<(IpAddr, u8)>,
    /// There are source ranges, good or bad: with none that is good nobody is let in.
    pub restricted: bool,
    /// `spec.externalTrafficPolicy: Local`
    pub local: bool,
    /// `spec.healthCheckNodePort` of a load balancer's Service with that policy, 0 without one.
    pub health_check_node_port: u16,
}

/// A port of a Service that every node listens on.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash, Serialize, Deserialize)]
pub struct NodePort {
    /// The port's protocol.
    pub protocol: Protocol,
    /// `port`
    pub port: u16,
    /// `nodePort`
    pub node_port: u16,
}

/// The entry points that `spec` and `status` say, if any.
pub(super) fn points(
    spec: &raw::ServiceSpec,
    status: raw::ServiceStatus,
    problems: &mut Vec<FieldError>,
) -> Option<Box<EntryPoints>> {
    let kind = spec.r#type.unwrap_or(raw::ServiceType::ClusterIp);
    if kind == raw::ServiceType::ExternalName {
        return None;
    }
    let balanced = kind == raw::ServiceType::LoadBalancer;
    let on_nodes = balanced || kind == raw::ServiceType::NodePort;
    let local = spec.external_traffic_policy == Some(raw::TrafficPolicy::Local);
    let node_ports = spec.ports.iter().flatten().filter(|_| on_nodes).filter_map(|port| {
        let node_port = port.node_port.filter(|number| *number != 0)?;
        Some(NodePort { protocol: protocol(port.protocol), port: port.port, node_port })
    });
    let ranges = spec.load_balancer_source_ranges.iter().flatten().filter(|_| balanced);
    let ingress = status.load_balancer.unwrap_or_default().ingress.unwrap_or_default();
    let ours =
        ingress.iter().enumerate().filter(|(_, one)| balanced && one.ip_mode.as_deref() != Some("Proxy"));
    let ips = ours.filter_map(|(n, one)| Some((n, one.ip.as_deref().filter(|ip| !ip.is_empty())?)));
    let external = spec.external_ips.iter().flatten().enumerate().map(|(n, ip)| (n, ip.as_str()));
    let health = spec.health_check_node_port.filter(|_| balanced && local).unwrap_or_default();
    let points = EntryPoints {
        node_ports: node_ports.collect(),
        external_ips: addresses(|n| format!("spec.externalIPs[{n}]"), external, problems),
        load_balancer_ips: addresses(|n| format!("status.loadBalancer.ingress[{n}].ip"), ips, problems),
        restricted: ranges.clone().next().is_some(),
        source_ranges: prefixes(ranges, problems),
        local,
        health_check_node_port: health,
    };
    let any = !points.node_ports.is_empty()
        || !points.external_ips.is_empty()
        || !points.load_balancer_ips.is_empty()
        || health != 0;
    any.then(|| Box::new(points))
}

fn addresses<'t>(
    field: impl Fn(usize) -> String,
    texts: impl Iterator<Item = (usize, &'t str)>,
    problems: &mut Vec<FieldError>,
) -> Vec<IpAddr> {
    let accepted = "accepted: an IP address, not unspecified, loopback, link-local, multicast or broadcast";
    let mut out = Vec::new();
    for (n, text) in texts.take(LIST_MAX) {
        match parse_ip(text).filter(|ip| !is_confined(*ip)) {
            Some(ip) if !out.contains(&ip) => out.push(ip),
            Some(_) => {}
            None => problems.push(FieldError::new(field(n), format!("value {text:?}; {accepted}; left out"))),
        }
    }
    out
}

/// White space around a prefix is no mistake (row X6).
fn prefixes<'t>(
    texts: impl Iterator<Item = &'t String>,
    problems: &mut Vec<FieldError>,
) -> Vec<(IpAddr, u8)> {
    let mut out = Vec::new();
    for (n, text) in texts.enumerate().take(LIST_MAX) {
        match parse_cidr(text.trim()) {
            Some(prefix) if !out.contains(&prefix) => out.push(prefix),
            Some(_) => {}
            None => {
                let accepted = "accepted: an address prefix such as 10.96.0.0/16";
                let field = format!("spec.loadBalancerSourceRanges[{n}]");
                problems.push(FieldError::new(field, format!("value {text:?}; {accepted}; left out")));
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::super::{Object, Service, parse};
    use super::*;

    fn service(spec: &str, status: &str) -> Service {
        let yaml = format!("{{kind: Service, metadata: {{name: a}}, spec: {spec}, status: {status}}}");
        let mut out = Vec::new();
        parse(crate::manifests::value(&yaml).unwrap(), &mut out).unwrap();
        let Object::Service(service) = out.remove(0).1 else { panic!("{out:?}") };
        service
    }

    fn entry(spec: &str, status: &str) -> EntryPoints {
        let found = service(spec, status);
        assert!(found.problems.is_empty(), "{:?}", found.problems);
        *found.entry.unwrap()
    }

    #[test]
    fn x1_x3_node_ports_are_read_by_protocol_and_only_where_the_type_has_them() {
        let ports = "ports: [{name: a, port: 53, protocol: TCP, nodePort: 30053}, \
                     {name: b, port: 53, protocol: UDP, nodePort: 30053}, {name: c, port: 80, nodePort: 0}]";
        for kind in ["NodePort", "LoadBalancer"] {
            let got = entry(&format!("{{type: {kind}, clusterIP: 10.0.0.1, {ports}}}"), "{}").node_ports;
            let port = |protocol| NodePort { protocol, port: 53, node_port: 30053 };
            assert_eq!(got, [port(Protocol::Tcp), port(Protocol::Udp)]);
        }
        assert_eq!(service(&format!("{{clusterIP: 10.0.0.1, {ports}}}"), "null").entry, None);
    }

    #[test]
    fn x4_addresses_of_load_balancers_that_proxy_or_are_names_are_not_ours() {
        let status = "{loadBalancer: {ingress: [{ip: 192.0.2.1}, {ip: 192.0.2.2, ipMode: VIP}, \
                      {ip: 192.0.2.3, ipMode: Proxy}, {hostname: lb.example}, {ip: '2001:db8::1'}]}}";
        let got = entry("{type: LoadBalancer, clusterIP: 10.0.0.1}", status).load_balancer_ips;
        let ips: Vec<String> = got.iter().map(ToString::to_string).collect();
        assert_eq!(ips, ["192.0.2.1", "192.0.2.2", "2001:db8::1"]);
        assert_eq!(service("{type: NodePort, clusterIP: 10.0.0.1}", status).entry, None);
    }

    #[test]
    fn x5_external_ips_are_read_and_impossible_ones_reported() {
        let found =
            service("{clusterIP: 10.0.0.1, externalIPs: [198.51.100.7, 127.0.0.1, x, 198.51.100.7]}", "{}");
        assert_eq!(found.entry.unwrap().external_ips, ["198.51.100.7".parse::<IpAddr>().unwrap()]);
        let texts: Vec<String> = found.problems.iter().map(ToString::to_string).collect();
        assert!(texts[0].starts_with("spec.externalIPs[1]: value \"127.0.0.1\""), "{texts:?}");
        assert!(texts[1].starts_with("spec.externalIPs[2]: value \"x\"") && texts.len() == 2, "{texts:?}");
    }

    #[test]
    fn x6_source_ranges_are_trimmed_and_one_that_is_none_lets_nobody_in() {
        let ranges = |list: &str| {
            let spec =
                format!("{{type: LoadBalancer, clusterIP: 10.0.0.1, loadBalancerSourceRanges: {list}}}");
            service(&spec, "{loadBalancer: {ingress: [{ip: 192.0.2.1}]}}")
        };
        let good = ranges("[' 203.0.113.0/25 ', '2001:db8::/32', 0.0.0.0/0]");
        let points = good.entry.unwrap();
        assert!(good.problems.is_empty() && points.restricted);
        let texts: Vec<String> =
            points.source_ranges.iter().map(|(ip, bits)| format!("{ip}/{bits}")).collect();
        assert_eq!(texts, ["203.0.113.0/25", "2001:db8::/32", "0.0.0.0/0"]);
        let bad = ranges("[203.0.113.0]");
        let points = bad.entry.unwrap();
        assert!(points.restricted && points.source_ranges.is_empty());
        assert!(bad.problems[0].to_string().starts_with("spec.loadBalancerSourceRanges[0]"));
        assert!(!ranges("[]").entry.unwrap().restricted);
    }

    #[test]
    fn t4_t7_policy_and_health_check_port_are_those_of_a_load_balancer() {
        let spec = |kind: &str, policy: &str| {
            format!(
                "{{type: {kind}, clusterIP: 10.0.0.1, externalTrafficPolicy: {policy}, healthCheckNodePort: 31000, \
                 ports: [{{port: 80, nodePort: 30080}}]}}"
            )
        };
        let of = |kind, policy| {
            let got = entry(&spec(kind, policy), "{}");
            (got.local, got.health_check_node_port)
        };
        assert_eq!(of("LoadBalancer", "Local"), (true, 31_000));
        assert_eq!(of("LoadBalancer", "Cluster"), (false, 0));
        assert_eq!(of("NodePort", "Local"), (true, 0));
    }

    #[test]
    fn x7_a_load_balancer_without_node_ports_is_one() {
        let spec = "{type: LoadBalancer, allocateLoadBalancerNodePorts: false, clusterIP: 10.0.0.1, ports: [{port: 80}]}";
        let got = entry(spec, "{loadBalancer: {ingress: [{ip: 192.0.2.1}]}}");
        assert!(got.node_ports.is_empty() && got.load_balancer_ips.len() == 1);
    }
}
