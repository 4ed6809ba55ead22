//! What tests of this crate share.

use crate::encoded::{Encoded, Resolver, VipKey};
use crate::object::{Identity, Object, parse};
use crate::served::Served;
use std::net::IpAddr;
use std::time::Instant;

/// A Service.
pub(crate) const A: &str = "{kind: Service, metadata: {name: a, namespace: n}, spec: {clusterIP: 10.0.0.1, ports: [{name: p, port: 80}]}}";
/// Its endpoints.
pub(crate) const A_SLICE: &str = "{kind: EndpointSlice, metadata: {name: a-1, namespace: n, labels: {kubernetes.io/service-name: a}}, \
    addressType: IPv4, ports: [{name: p, port: 8080}], endpoints: [{addresses: [172.17.0.2], nodeName: edge-1}, {addresses: [172.17.0.2], nodeName: edge-2}]}";
/// A Service of another kind.
pub(crate) const B: &str =
    "{kind: Service, metadata: {name: b, namespace: n}, spec: {type: ExternalName, externalName: x.example}}";
/// A Namespace without Services.
pub(crate) const NS: &str = "{kind: Namespace, metadata: {name: empty}}";

/// The objects of some YAML.
pub(crate) fn objects(yaml: &str) -> Vec<(Identity, Object)> {
    let mut out = Vec::new();
    for document in yaml.split("\n---\n") {
        parse(crate::manifests::value(document).unwrap(), &mut out).unwrap();
    }
    out
}

/// The table of some YAML documents in its wire form.
pub(crate) fn encoded(parts: &[&str], numbers: &mut Numbers) -> Encoded {
    let mut served = Served::default();
    served.apply(Instant::now(), objects(&parts.join("\n---\n")).into_iter().collect());
    let _ = served.encode(numbers);
    served.encoded().clone()
}

/// Numbers nodes and VIPs at first mention, as the directory does.
#[derive(Default, Clone)]
pub(crate) struct Numbers {
    pub(crate) nodes: Vec<String>,
    pub(crate) vips: Vec<String>,
}

impl Resolver for Numbers {
    fn node(&mut self, name: &str) -> u32 {
        let known = self.nodes.iter().position(|n| n == name);
        known.unwrap_or_else(|| {
            self.nodes.push(name.to_owned());
            self.nodes.len() - 1
        }) as u32
            + 1
    }

    fn endpoint_vip(&mut self, endpoint: &VipKey<'_>) -> Option<IpAddr> {
        let text = endpoint.text();
        let known = self.vips.iter().position(|n| *n == text);
        let n = known.unwrap_or_else(|| {
            self.vips.push(text);
            self.vips.len() - 1
        });
        Some(IpAddr::from([242, 128, 0, n as u8]))
    }
}
