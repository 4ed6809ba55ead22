//! What tests of this crate share.

use crate::encoded::{Resolver, VipKey};
use crate::object::{Identity, Object, parse};
use std::net::IpAddr;

/// The objects of some YAML.
pub(crate) fn objects(yaml: &str) -> Vec<(Identity, Object)> {
    let mut out = Vec::new();
    for document in yaml.split("\n---\n") {
        parse(crate::manifests::value(document).unwrap(), &mut out).unwrap();
    }
    out
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
