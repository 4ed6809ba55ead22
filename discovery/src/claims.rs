//! Addresses that a Service claims and may not have: a Node's, the API server's, and one that another Service had
//! before it.
//!
//! An API server hands out no such address; manifests can. What another has would stop to be reached: a ClusterIP
//! is routed to the mesh on every node. The claim alone is left out, the Service keeps its name and the rest. Of
//! two Services the one made first wins, by `creationTimestamp` where both have one, else by namespace and name:
//! the outcome depends on the objects only, not on their order.

use crate::object::ServiceKind;
use crate::table::{Entry, Key, Table};
use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;

/// Takes away what is not a Service's to have and notes it in [`Table::problems`].
pub(crate) fn settle(table: &mut Table) {
    let mut taken = reserved(table);
    let mut problems = of_their_own(table);
    let mut order: Vec<(&Key, &mut Entry)> = table.services.iter_mut().collect();
    order.sort_by(|(a, x), (b, y)| {
        let age = |e: &Entry| (e.service.created.is_empty(), e.service.created.clone());
        (age(x), a).cmp(&(age(y), b))
    });
    for (key, entry) in order {
        let ServiceKind::ClusterIp(ips) = &mut entry.service.kind else { continue };
        ips.retain(|ip| match taken.get(ip) {
            Some(owner) => {
                problems.insert(key.clone(), format!("its ClusterIP {ip} is {owner}; left out"));
                false
            }
            None => true,
        });
        let owner = format!("that of {}/{}", key.namespace, key.name);
        taken.extend(ips.iter().map(|ip| (*ip, owner.clone())));
    }
    table.problems = problems;
}

/// What is wrong with a Service by itself and is no reason to do without the rest of it.
fn of_their_own(table: &Table) -> BTreeMap<Key, String> {
    let with = table.services.iter().filter(|(_, entry)| !entry.service.problems.is_empty());
    let text =
        |entry: &Entry| entry.service.problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ");
    with.map(|(key, entry)| (key.clone(), text(entry))).collect()
}

/// Addresses that belong to machines.
fn reserved(table: &Table) -> HashMap<IpAddr, String> {
    let api = Key { namespace: "default".to_owned(), name: "kubernetes".to_owned() };
    let servers = table.services.get(&api).into_iter().flat_map(|entry| &entry.groups);
    let servers = servers.flat_map(|g| &g.endpoints).map(|e| (e.address, "the API server's".to_owned()));
    let nodes = table.nodes.iter().flat_map(|(name, node)| {
        node.addresses.iter().map(move |ip| (*ip, format!("an address of node {name}")))
    });
    servers.chain(nodes).collect()
}

/// Problems of tables that were told already.
#[derive(Default)]
pub(crate) struct Told(BTreeMap<Key, String>);

impl Told {
    /// What is new in this table, each with the Service's name.
    pub(crate) fn news(&mut self, table: &Table) -> Vec<String> {
        let new = table.problems.iter().filter(|(key, text)| self.0.get(*key) != Some(*text));
        let out = new.map(|(key, text)| format!("Service {}/{}: {text}", key.namespace, key.name)).collect();
        self.0.clone_from(&table.problems);
        out
    }
}
