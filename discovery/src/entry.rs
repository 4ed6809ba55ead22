//! The entry points of all Services, for the nodes that serve them.
//!
//! They are apart from the table of Services, because few nodes want them and the engine and boards never do. There
//! are few, and they change with Services, not with endpoints: so they travel as one whole list, in parts of any
//! length, with a digest over all of it. Bounds: a list of more than [`BYTES_MAX`] is refused.

use crate::object::EntryPoints;
use crate::table::{Table, entry_points};
use blake2::Blake2s256;
use blake2::digest::Digest;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Longest list in bytes: 10,000 Services with a NodePort or two have a tenth of it.
pub const BYTES_MAX: usize = 4 << 20;

/// The entry points by Service.
pub type Entries = BTreeMap<(String, String), EntryPoints>;

/// The list in its wire form. Cloning shares it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct EncodedEntries {
    bytes: Arc<[u8]>,
    digest: [u8; 32],
}

/// The entry points of a table, by namespace and name. Services that another proxy serves have none here.
pub fn entries(table: &Table) -> Entries {
    let with = table.services().filter_map(|(key, service)| Some((key, entry_points(Some(service))?)));
    with.map(|(key, points)| ((key.namespace.clone(), key.name.clone()), points.clone())).collect()
}

/// The list of these bytes.
///
/// # Errors
/// When they are none.
pub fn decode(bytes: &[u8]) -> Result<Entries, postcard::Error> {
    postcard::from_bytes(bytes)
}

impl EncodedEntries {
    /// Encodes a list.
    pub fn new(entries: &Entries) -> Self {
        // Serialising plain data into memory has no way to fail.
        let bytes = postcard::to_allocvec(entries).unwrap_or_default();
        Self { digest: digest(&bytes), bytes: bytes.into() }
    }

    /// The bytes.
    pub fn bytes(&self) -> &Arc<[u8]> {
        &self.bytes
    }

    /// [`digest`] of them.
    pub fn digest(&self) -> [u8; 32] {
        self.digest
    }
}

/// BLAKE2s-256 of a list.
pub fn digest(bytes: &[u8]) -> [u8; 32] {
    Blake2s256::digest(bytes).into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::objects;

    fn table(label: &str) -> Table {
        let yaml = format!(
            "{{kind: Service, metadata: {{name: a, namespace: n, labels: {{{label}}}}}, spec: {{type: NodePort, \
             clusterIP: 10.0.0.1, externalIPs: [bad], ports: [{{port: 80, nodePort: 30080}}]}}}}"
        );
        let plain = "{kind: Service, metadata: {name: b}, spec: {clusterIP: 10.0.0.2}}";
        objects(&[&yaml, plain].join("\n---\n")).into_iter().collect()
    }

    #[test]
    fn x8_only_services_with_entry_points_are_listed_and_what_is_wrong_is_told_by_name() {
        let table = table("a: b");
        let got = entries(&table);
        let key = ("n".to_owned(), "a".to_owned());
        assert_eq!((got.len(), got[&key].node_ports[0].node_port), (1, 30_080));
        let service = table.keys().find(|key| key.name == "a").unwrap();
        let problem = table.entry(service).unwrap().problem.unwrap();
        assert!(problem.starts_with("spec.externalIPs[0]: value \"bad\""), "{problem}");
        let encoded = EncodedEntries::new(&got);
        assert_eq!(decode(encoded.bytes()).unwrap(), got);
        assert_eq!(digest(encoded.bytes()), encoded.digest());
        assert!(decode(&encoded.bytes()[1..]).is_err());
    }

    #[test]
    fn x8_a_service_of_another_proxy_has_none() {
        assert!(entries(&table("service.kubernetes.io/service-proxy-name: other")).is_empty());
    }

    /// Agents and servers never upgrade together.
    #[test]
    fn the_bytes_of_a_list() {
        let hex: String = EncodedEntries::new(&entries(&table("a: b")))
            .bytes()
            .iter()
            .map(|b| format!("{b:02x}"))
            .collect();
        assert_eq!(hex, "01016e016101005080eb01000000000000");
    }
}
