//! A table in its wire form: what feed frames carry, what the engine takes and what the snapshot holds.
//!
//! Every Service is one run of postcard [`Update`]s, from its head to its commit, with a hash. The digest of a table
//! is BLAKE2s-256 over the hashes of its namespaces and Services in order, so a receiver that holds the whole table
//! ([`Replica`](crate::replica::Replica)) can check a signed commit against its content. A table is brought up to
//! date Service by Service; what that changed is a [`Step`], and steps of many changes become one. Only the digest
//! looks at everything: 32 bytes a Service.

use crate::object::ServiceKind;
use crate::place::{Place, Placement};
use crate::table::{Entry, Key};
use blake2::Blake2s256;
use blake2::digest::Digest;
use edgemesh_core::wire::feed::{self, EndpointDef, Home, PortDef, ServiceDef, Update};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

/// Updates in postcard, one after the other.
pub type Run = Arc<[u8]>;

/// What the encoding asks of its surroundings.
pub trait Resolver {
    /// The index of the node with this Kubernetes name; 0 when it can have none.
    fn node(&mut self, name: &str) -> u32;
    /// The cluster-wide stand-in for an endpoint of a headless Service.
    fn endpoint_vip(&mut self, endpoint: &VipKey<'_>) -> Option<IpAddr>;
}

/// What an endpoint VIP belongs to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct VipKey<'a> {
    /// The headless Service.
    pub service: &'a Key,
    /// The endpoint's hostname where it is the only one of that name and family; empty otherwise.
    pub hostname: &'a str,
    /// Its node.
    pub node: &'a str,
    /// Its address.
    pub address: IpAddr,
}

impl VipKey<'_> {
    /// A text that stays the same as long as the endpoint is the same: a StatefulSet's pod keeps its hostname
    /// when it moves, others are known by where they are.
    pub fn text(&self) -> String {
        let Key { namespace, name } = self.service;
        let family = if self.address.is_ipv4() { 4 } else { 6 };
        if self.hostname.is_empty() {
            format!("{namespace}/{name}//{}/{}", self.node, self.address)
        } else {
            format!("{namespace}/{name}/{}/{family}", self.hostname)
        }
    }
}

#[derive(Clone, PartialEq, Eq, Debug)]
struct Item {
    run: Run,
    hash: [u8; 32],
}

/// A whole table in wire form. Cloning shares the runs.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Encoded {
    services: BTreeMap<Arc<Key>, Item>,
    namespaces: BTreeSet<String>,
    /// Where the node is that the table is for. Not a part of what is signed.
    home: Home,
}

/// What of a table differs from an earlier state of it.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Step {
    /// Services that are new, different or gone.
    services: BTreeSet<Arc<Key>>,
    /// Namespaces that are new.
    namespaces: BTreeSet<String>,
    /// A namespace is gone, which no update says, or the node is elsewhere, which gives hints and domains another
    /// meaning: only the full list leads there.
    whole: bool,
}

impl Step {
    /// The step to everything.
    pub fn whole() -> Self {
        Self { whole: true, ..Self::default() }
    }

    /// The step of these Services.
    pub fn of(services: impl IntoIterator<Item = Arc<Key>>) -> Self {
        Self { services: services.into_iter().collect(), ..Self::default() }
    }

    /// Whether nothing differs.
    pub fn is_empty(&self) -> bool {
        !self.whole && self.services.is_empty() && self.namespaces.is_empty()
    }

    /// Whether only the full list leads there.
    pub fn is_whole(&self) -> bool {
        self.whole
    }

    /// How many Services and namespaces differ.
    pub fn len(&self) -> usize {
        self.services.len() + self.namespaces.len()
    }

    /// The Services that are new, different or gone.
    pub fn services(&self) -> &BTreeSet<Arc<Key>> {
        &self.services
    }

    pub(crate) fn service(&mut self, key: Arc<Key>) {
        if !self.whole {
            self.services.insert(key);
        }
    }

    pub(crate) fn namespace(&mut self, name: &str) {
        if !self.whole {
            self.namespaces.insert(name.to_owned());
        }
    }

    /// This step and then `later`, as one.
    pub fn merge(&mut self, later: &Self) {
        self.whole |= later.whole;
        if self.whole {
            *self = Self::whole();
        } else {
            self.services.extend(later.services.iter().cloned());
            self.namespaces.extend(later.namespaces.iter().cloned());
        }
    }
}

impl Encoded {
    /// Encodes one Service, its endpoints where `placement` has them; without an entry it is gone. What that changes
    /// is added to `step`.
    pub fn set(
        &mut self,
        key: &Arc<Key>,
        entry: Option<&Entry>,
        placement: &Placement,
        resolver: &mut impl Resolver,
        step: &mut Step,
    ) {
        let changed = match entry {
            Some(entry) => self.put_service(key.clone(), service(key, entry, placement, resolver)),
            None => self.services.remove(key).is_some(),
        };
        if changed {
            step.service(key.clone());
        }
    }

    /// Takes the run of a Service; whether it is another one than before.
    pub(crate) fn put_service(&mut self, key: Arc<Key>, bytes: Vec<u8>) -> bool {
        let item = item(bytes);
        if self.services.get(&key).is_some_and(|before| before.hash == item.hash) {
            return false;
        }
        self.services.insert(key, item);
        true
    }

    pub(crate) fn remove_service(&mut self, key: &Key) -> Option<Arc<Key>> {
        self.services.remove_entry(key).map(|(key, _)| key)
    }

    /// The namespaces are these.
    pub fn set_namespaces(&mut self, namespaces: &BTreeSet<String>, step: &mut Step) {
        if self.namespaces.is_subset(namespaces) {
            namespaces.difference(&self.namespaces).for_each(|name| step.namespace(name));
        } else {
            *step = Step::whole();
        }
        self.namespaces.clone_from(namespaces);
    }

    pub(crate) fn add_namespace(&mut self, name: &str) -> bool {
        self.namespaces.insert(name.to_owned())
    }

    /// The node that the table is for is here.
    pub fn set_home(&mut self, home: Home, step: &mut Step) {
        if home != self.home {
            self.home = home;
            *step = Step::whole();
        }
    }

    /// Where the node is that the table is for.
    pub fn home(&self) -> Home {
        self.home
    }

    /// What `step` changed becomes as it is in `other`, sharing its memory.
    pub fn follow(&mut self, other: &Self, step: &Step) {
        if step.whole {
            self.clone_from(other);
            return;
        }
        self.namespaces.extend(step.namespaces.iter().cloned());
        for key in &step.services {
            match other.services.get_key_value(key) {
                Some((key, item)) => drop(self.services.insert(key.clone(), item.clone())),
                None => drop(self.services.remove(key)),
            }
        }
    }

    /// How many Services there are.
    pub fn len(&self) -> usize {
        self.services.len()
    }

    /// Whether there is nothing at all.
    pub fn is_empty(&self) -> bool {
        self.services.is_empty() && self.namespaces.is_empty()
    }

    /// The Services, in order.
    pub fn keys(&self) -> impl Iterator<Item = &Arc<Key>> {
        self.services.keys()
    }

    /// The namespaces that are named by themselves, in order.
    pub fn namespaces(&self) -> &BTreeSet<String> {
        &self.namespaces
    }

    /// The updates of one Service.
    pub fn get(&self, key: &Key) -> Option<&Run> {
        self.services.get(key).map(|item| &item.run)
    }

    /// The table as a full list, for a node whose home is told elsewhere.
    pub fn full(&self) -> Vec<Run> {
        let mut out = Vec::with_capacity(self.services.len() + self.namespaces.len() + 2);
        out.push(run(&[Update::Begin]));
        out.extend(self.namespaces.iter().map(|name| run(&[Update::Namespace(name)])));
        out.extend(self.services.values().map(|item| item.run.clone()));
        out.push(run(&[Update::End]));
        out
    }

    /// What leads over this step to the table as it is now. Removals come first, so that an address can move between
    /// Services.
    pub fn way(&self, step: &Step) -> Vec<Run> {
        if step.whole {
            return std::iter::once(run(&[Update::Home(self.home)])).chain(self.full()).collect();
        }
        let gone = step.services.iter().filter(|key| !self.services.contains_key(*key));
        let gone = gone.map(|key| run(&[Update::Remove { namespace: &key.namespace, name: &key.name }]));
        let namespaces = step.namespaces.iter().map(|name| run(&[Update::Namespace(name)]));
        let there = step.services.iter().filter_map(|key| self.services.get(key));
        gone.chain(namespaces).chain(there.map(|item| item.run.clone())).collect()
    }

    /// BLAKE2s-256 over the hashes of the namespaces, then of the Services, in order.
    pub fn digest(&self) -> [u8; 32] {
        let mut state = Blake2s256::new();
        for name in &self.namespaces {
            state.update(Blake2s256::digest(run(&[Update::Namespace(name)])));
        }
        for item in self.services.values() {
            state.update(item.hash);
        }
        state.finalize().into()
    }
}

fn item(bytes: Vec<u8>) -> Item {
    Item { hash: Blake2s256::digest(&bytes).into(), run: bytes.into() }
}

fn run(updates: &[Update<'_>]) -> Run {
    let mut out = Vec::new();
    updates.iter().for_each(|u| put(&mut out, u));
    out.into()
}

/// Appends one update.
pub(crate) fn put(out: &mut Vec<u8>, update: &Update<'_>) {
    // Serialising plain data into memory has no way to fail.
    if let Ok(bytes) = postcard::to_allocvec(update) {
        out.extend_from_slice(&bytes);
    }
}

fn service(key: &Key, entry: &Entry, placement: &Placement, resolver: &mut impl Resolver) -> Vec<u8> {
    let mut out = Vec::new();
    let kind = match &entry.service.kind {
        ServiceKind::ClusterIp(ips) => feed::ServiceKind::ClusterIp(ips.iter().copied().take(2).collect()),
        ServiceKind::Headless => feed::ServiceKind::Headless,
        ServiceKind::ExternalName(name) => feed::ServiceKind::ExternalName(name),
    };
    put(
        &mut out,
        &Update::Service(ServiceDef {
            namespace: &key.namespace,
            name: &key.name,
            kind,
            affinity_secs: entry.service.affinity_secs,
            flags: entry.service.flags,
        }),
    );
    for port in &entry.service.ports {
        let def = PortDef { name: &port.name, protocol: port.protocol, port: port.port };
        put(&mut out, &Update::Port(def));
    }
    let headless = entry.service.kind == ServiceKind::Headless;
    let unique = unique_hostnames(entry);
    let mut domain = 0;
    for group in &entry.groups {
        let targets: Vec<u8> = group.targets.iter().flat_map(|t| t.to_le_bytes()).collect();
        put(&mut out, &Update::Targets(&targets));
        for endpoint in &group.endpoints {
            let own = unique.get(&(&*endpoint.hostname, endpoint.address.is_ipv4())) == Some(&true);
            let vip = VipKey {
                service: key,
                hostname: if own { &endpoint.hostname } else { "" },
                node: &endpoint.node,
                address: endpoint.address,
            };
            let zones: Vec<u8> = endpoint.zones.iter().flat_map(|zone| zone.to_le_bytes()).collect();
            for place in placement.of(endpoint, headless) {
                let (node, exit, its_domain) = match place {
                    Place::Node(name) => (resolver.node(name), 0, placement.domain(name)),
                    Place::Exit(name) => (resolver.node(name), feed::ENDPOINT_EXIT, 0),
                    Place::Nowhere => (0, 0, 0),
                };
                if domain != its_domain {
                    domain = its_domain;
                    put(&mut out, &Update::Domain(domain));
                }
                let def = EndpointDef {
                    node,
                    address: endpoint.address,
                    vip: if headless && place != Place::Nowhere { resolver.endpoint_vip(&vip) } else { None },
                    hostname: &endpoint.hostname,
                    conditions: endpoint.conditions | exit,
                    zones: &zones,
                };
                put(&mut out, &Update::Endpoint(def));
            }
        }
    }
    put(&mut out, &Update::Commit);
    out
}

/// For each hostname and family whether all endpoints with it are one and the same.
fn unique_hostnames(entry: &Entry) -> HashMap<(&str, bool), bool> {
    let mut first: HashMap<(&str, bool), (&str, IpAddr)> = HashMap::new();
    let mut out = HashMap::new();
    for endpoint in entry.groups.iter().flat_map(|g| &g.endpoints).filter(|e| !e.hostname.is_empty()) {
        let name = (&*endpoint.hostname, endpoint.address.is_ipv4());
        let place = (&*endpoint.node, endpoint.address);
        let same = *first.entry(name).or_insert(place) == place;
        *out.entry(name).or_insert(true) &= same;
    }
    out
}

#[cfg(test)]
#[path = "encoded_tests.rs"]
mod tests;
