//! Objects of the cluster as a whole: Node and ServiceCIDR.

use super::parse::{FieldError, parse_ip};
use super::{Node, raw};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::net::IpAddr;

/// Label of a Node that says in which zone it is.
pub(super) const ZONE_LABEL: &str = "topology.kubernetes.io/zone";
/// Labels of Nodes that are kept, beside those that name EdgeMesh.
const NODE_LABELS: [&str; 3] = [ZONE_LABEL, "topology.kubernetes.io/region", "kubernetes.io/hostname"];
/// More addresses than a machine has.
const ADDRESSES_MAX: usize = 64;

#[derive(Deserialize)]
pub(super) struct RawNode {
    pub(super) metadata: raw::Metadata,
    spec: Option<NodeSpec>,
    status: Option<NodeStatus>,
}

#[derive(Deserialize, Default)]
struct NodeSpec {
    #[serde(rename = "podCIDRs")]
    pod_cidrs: Option<Vec<String>>,
}

#[derive(Deserialize, Default)]
struct NodeStatus {
    addresses: Option<Vec<NodeAddress>>,
    conditions: Option<Vec<Condition>>,
}

#[derive(Deserialize)]
struct NodeAddress {
    r#type: String,
    address: String,
}

#[derive(Deserialize)]
struct Condition {
    r#type: String,
    status: String,
}

#[derive(Deserialize)]
pub(super) struct RawServiceCidr {
    pub(super) metadata: raw::Metadata,
    spec: Option<ServiceCidrSpec>,
}

#[derive(Deserialize, Default)]
struct ServiceCidrSpec {
    cidrs: Option<Vec<String>>,
}

pub(super) fn node(raw: RawNode) -> Result<Node, FieldError> {
    let wanted = |key: &String| NODE_LABELS.contains(&key.as_str()) || key.contains("edgemesh");
    let labels: BTreeMap<String, String> =
        raw.metadata.labels.into_iter().flatten().filter(|(key, _)| wanted(key)).collect();
    let status = raw.status.unwrap_or_default();
    let mut addresses = Vec::new();
    for (n, one) in status.addresses.into_iter().flatten().take(ADDRESSES_MAX).enumerate() {
        if matches!(one.r#type.as_str(), "InternalIP" | "ExternalIP") {
            addresses.push(parse_ip(&one.address).ok_or_else(|| {
                let field = format!("status.addresses[{n}].address");
                FieldError::new(field, format!("value {:?}; accepted: an IP address", one.address))
            })?);
        }
    }
    let ready = status.conditions.into_iter().flatten().find(|c| c.r#type == "Ready");
    let ready = ready.map(|condition| condition.status == "True");
    let pod_cidrs = cidrs("spec.podCIDRs", raw.spec.unwrap_or_default().pod_cidrs)?;
    Ok(Node { addresses, labels, ready, pod_cidrs })
}

pub(super) fn service_cidr(raw: RawServiceCidr) -> Result<Vec<(IpAddr, u8)>, FieldError> {
    cidrs("spec.cidrs", raw.spec.unwrap_or_default().cidrs)
}

fn cidrs(field: &str, texts: Option<Vec<String>>) -> Result<Vec<(IpAddr, u8)>, FieldError> {
    let one = |(n, text): (usize, String)| {
        parse_cidr(&text).ok_or_else(|| {
            let accepted = "accepted: an address prefix such as 10.96.0.0/16";
            FieldError::new(format!("{field}[{n}]"), format!("value {text:?}; {accepted}"))
        })
    };
    texts.into_iter().flatten().enumerate().map(one).collect()
}

/// An address prefix: the address as written (bits behind the prefix are cleared) and its length.
pub fn parse_cidr(text: &str) -> Option<(IpAddr, u8)> {
    let (address, bits) = text.split_once('/')?;
    let bits: u8 = bits.parse().ok()?;
    let clear = |width: u8| width.checked_sub(bits);
    Some(match parse_ip(address)? {
        IpAddr::V4(ip) => {
            let mask = u32::MAX.checked_shl(clear(32)?.into()).unwrap_or(0);
            (IpAddr::V4((u32::from(ip) & mask).into()), bits)
        }
        IpAddr::V6(ip) => {
            let mask = u128::MAX.checked_shl(clear(128)?.into()).unwrap_or(0);
            (IpAddr::V6((u128::from(ip) & mask).into()), bits)
        }
    })
}

#[cfg(test)]
mod tests {
    use super::super::{Object, parse};
    use super::*;

    fn object(yaml: &str) -> Result<Object, String> {
        let mut out = Vec::new();
        let value = crate::manifests::value(yaml).unwrap();
        parse(value, &mut out).map_err(|e| e[0].to_string())?;
        assert_eq!(out[0].0.namespace, "");
        Ok(out.remove(0).1)
    }

    #[test]
    fn nodes_are_reduced_to_what_matters() {
        let yaml = r"
kind: Node
metadata: {name: n1, labels: {topology.kubernetes.io/zone: z, beta.kubernetes.io/os: linux, edgemesh.io/exit: ''}}
spec: {podCIDRs: [10.42.1.9/24]}
status:
  addresses: [{type: Hostname, address: n1}, {type: InternalIP, address: 192.0.2.1}, {type: ExternalIP, address: 2001:db8::1}]
  conditions: [{type: DiskPressure, status: 'False'}, {type: Ready, status: 'True'}]
";
        let Object::Node(node) = object(yaml).unwrap() else { panic!() };
        assert_eq!(node.addresses, ["192.0.2.1".parse::<IpAddr>().unwrap(), "2001:db8::1".parse().unwrap()]);
        assert_eq!(
            node.labels.keys().collect::<Vec<_>>(),
            ["edgemesh.io/exit", "topology.kubernetes.io/zone"]
        );
        assert_eq!((node.ready, node.pod_cidrs), (Some(true), vec![("10.42.1.0".parse().unwrap(), 24)]));
        let ready = |status: &str| {
            let yaml = format!(
                "{{kind: Node, metadata: {{name: n}}, status: {{conditions: [{{type: Ready, status: '{status}'}}]}}}}"
            );
            let Object::Node(node) = object(&yaml).unwrap() else { panic!() };
            node.ready
        };
        assert_eq!((ready("False"), ready("Unknown")), (Some(false), Some(false)));
        let bad = "{kind: Node, metadata: {name: n}, status: {addresses: [{type: InternalIP, address: x}]}}";
        assert!(object(bad).unwrap_err().starts_with("status.addresses[0].address"));
    }

    #[test]
    fn service_cidrs_are_prefixes() {
        let yaml =
            "{kind: ServiceCIDR, metadata: {name: kubernetes}, spec: {cidrs: [10.96.0.0/16, 'fd00::/112']}}";
        let Object::ServiceCidr(cidrs) = object(yaml).unwrap() else { panic!() };
        assert_eq!(cidrs, [("10.96.0.0".parse().unwrap(), 16), ("fd00::".parse().unwrap(), 112)]);
        for bad in ["10.0.0.0", "10.0.0.0/33", "fd00::/129", "x/8"] {
            assert_eq!(parse_cidr(bad), None, "{bad}");
        }
        assert_eq!(parse_cidr("10.1.2.3/0"), Some(("0.0.0.0".parse().unwrap(), 0)));
    }
}
