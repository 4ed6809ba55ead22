//! Which Services have which fingerprint: names, addresses, and nodes that have endpoints of them.
//!
//! Kept up to date Service by Service. Bounds: one entry for each name, address and node of each Service.

use edgemesh_core::wire::ask;
use edgemesh_core::wire::control::updates;
use edgemesh_core::wire::feed::{ServiceKind, Update};
use edgemesh_discovery::encoded::{Encoded, Run};
use edgemesh_discovery::table::Key;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

/// The index of one table.
pub(crate) struct Fingerprints {
    services: HashMap<u32, BTreeSet<Arc<Key>>>,
    of: HashMap<Arc<Key>, BTreeSet<u32>>,
    /// Namespaces that Services are in, and how many.
    namespaces: HashMap<u32, BTreeMap<String, usize>>,
}

impl Fingerprints {
    /// Of all Services in `table`.
    pub(crate) fn new(table: &Encoded) -> Self {
        let mut index = Self { services: HashMap::new(), of: HashMap::new(), namespaces: HashMap::new() };
        for key in table.keys() {
            index.set(key, table.get(key));
        }
        index
    }

    /// The Service has these updates now, or is gone.
    pub(crate) fn set(&mut self, key: &Arc<Key>, run: Option<&Run>) {
        let before = self.of.remove(key);
        self.count(&key.namespace, before.is_some(), run.is_some());
        for print in before.unwrap_or_default() {
            if let Some(services) = self.services.get_mut(&print) {
                services.remove(key);
                if services.is_empty() {
                    self.services.remove(&print);
                }
            }
        }
        let Some(run) = run else { return };
        let prints = fingerprints(run);
        for print in &prints {
            self.services.entry(*print).or_default().insert(key.clone());
        }
        self.of.insert(key.clone(), prints);
    }

    fn count(&mut self, namespace: &str, before: bool, now: bool) {
        let names = self.namespaces.entry(ask::namespace(namespace.bytes())).or_default();
        let count = names.entry(namespace.to_owned()).or_default();
        *count = (*count + usize::from(now)).saturating_sub(usize::from(before));
        names.retain(|_, count| *count > 0);
    }

    /// A namespace with this fingerprint that a Service is in.
    pub(crate) fn namespace(&self, print: u32) -> Option<&str> {
        self.namespaces.get(&print)?.keys().next().map(String::as_str)
    }

    /// The Services with this fingerprint, or with endpoints on the node of this index.
    pub(crate) fn get(&self, print: u32) -> impl Iterator<Item = &Arc<Key>> {
        self.services.get(&print).into_iter().flatten()
    }
}

fn fingerprints(run: &Run) -> BTreeSet<u32> {
    let mut out = BTreeSet::new();
    for update in updates(run).map_while(Result::ok) {
        match update {
            Update::Service(def) => {
                out.insert(ask::service(def.namespace.bytes(), def.name.bytes()));
                if let ServiceKind::ClusterIp(vips) = &def.kind {
                    out.extend(vips.iter().map(|vip| ask::address(*vip)));
                }
            }
            Update::Endpoint(def) => {
                out.extend((def.node != 0).then_some(def.node));
                out.extend(def.vip.map(ask::address));
            }
            _ => {}
        }
    }
    out
}
