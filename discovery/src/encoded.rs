//! A table in its wire form: what feed frames carry, what the engine takes and what the snapshot holds.
//!
//! Every Service is one run of postcard [`Update`]s, from its head to its commit, with a hash. Two tables differ
//! where hashes differ; the digest of a table is BLAKE2s-256 over the hashes of its namespaces and Services in
//! order, so a receiver that holds the whole table ([`Replica`]) can check a signed commit against its content.
//! Versions of a table can share their runs ([`Encoded::sharing`]): a change costs memory for what changed.

use crate::object::ServiceKind;
use crate::place::{Place, Placement};
use crate::table::{Entry, Key, Table};
use blake2::Blake2s256;
use blake2::digest::Digest;
use edgemesh_core::wire::control::updates;
use edgemesh_core::wire::feed::{self, EndpointDef, PortDef, ServiceDef, Update};
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
    /// Zone of the node that the table is for, 0 for none or for any node. Not a part of what is signed.
    zone: u32,
}

impl Encoded {
    /// Encodes `table`, its endpoints where `placement` has them.
    pub fn new(table: &Table, placement: &Placement, resolver: &mut impl Resolver) -> Self {
        let mut services = BTreeMap::new();
        for (key, entry) in &table.services {
            services.insert(Arc::new(key.clone()), item(service(key, entry, placement, resolver)));
        }
        Self { services, namespaces: table.namespaces.clone(), zone: 0 }
    }

    /// The same table for a node in this zone ([`feed::zone`]).
    #[must_use]
    pub fn in_zone(self, zone: u32) -> Self {
        Self { zone, ..self }
    }

    /// The zone of the node that the table is for.
    pub fn zone(&self) -> u32 {
        self.zone
    }

    /// The same table, sharing the memory of everything that `old` has as well.
    #[must_use]
    pub fn sharing(self, old: &Self) -> Self {
        let share = |(key, item): (Arc<Key>, Item)| match old.services.get_key_value(&key) {
            Some((key, same)) if same.hash == item.hash => (key.clone(), same.clone()),
            Some((key, _)) => (key.clone(), item),
            None => (key, item),
        };
        Self { services: self.services.into_iter().map(share).collect(), ..self }
    }

    /// How many Services there are.
    pub fn len(&self) -> usize {
        self.services.len()
    }

    /// Whether there is nothing at all.
    pub fn is_empty(&self) -> bool {
        self.services.is_empty() && self.namespaces.is_empty()
    }

    /// The updates of one Service.
    pub fn get(&self, key: &Key) -> Option<&Run> {
        self.services.get(key).map(|item| &item.run)
    }

    /// The table as a full list.
    pub fn full(&self) -> Vec<Run> {
        let mut out = Vec::with_capacity(self.services.len() + self.namespaces.len() + 3);
        if self.zone != 0 {
            out.push(run(&[Update::Zone(self.zone)]));
        }
        out.push(run(&[Update::Begin]));
        out.extend(self.namespaces.iter().map(|name| run(&[Update::Namespace(name)])));
        out.extend(self.services.values().map(|item| item.run.clone()));
        out.push(run(&[Update::End]));
        out
    }

    /// What turns `old` into this table. Removals come first, so that an address can move between Services.
    /// There is no update that takes a namespace back, and a new zone gives hints another meaning: then it is the
    /// full list.
    pub fn changes_since(&self, old: &Self) -> Vec<Run> {
        if old.zone != self.zone {
            return std::iter::once(run(&[Update::Zone(self.zone)])).chain(self.full()).collect();
        }
        if old.namespaces.difference(&self.namespaces).next().is_some() {
            return self.full();
        }
        let mut out = Vec::new();
        for key in old.services.keys().filter(|key| !self.services.contains_key(*key)) {
            let Key { namespace, name } = &**key;
            out.push(run(&[Update::Remove { namespace, name }]));
        }
        out.extend(self.namespaces.difference(&old.namespaces).map(|name| run(&[Update::Namespace(name)])));
        for (key, item) in &self.services {
            if old.services.get(key).is_none_or(|before| before.hash != item.hash) {
                out.push(item.run.clone());
            }
        }
        out
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
fn put(out: &mut Vec<u8>, update: &Update<'_>) {
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
    for group in &entry.groups {
        let targets: Vec<u8> = group.targets.iter().flat_map(|t| t.to_le_bytes()).collect();
        put(&mut out, &Update::Targets(&targets));
        for endpoint in &group.endpoints {
            let own = unique.get(&(endpoint.hostname.as_str(), endpoint.address.is_ipv4())) == Some(&true);
            let vip = VipKey {
                service: key,
                hostname: if own { &endpoint.hostname } else { "" },
                node: &endpoint.node,
                address: endpoint.address,
            };
            let zones: Vec<u8> = endpoint.zones.iter().flat_map(|zone| zone.to_le_bytes()).collect();
            for place in placement.of(endpoint, headless) {
                let (node, exit) = match place {
                    Place::Node(name) => (resolver.node(name), 0),
                    Place::Exit(name) => (resolver.node(name), feed::ENDPOINT_EXIT),
                    Place::Nowhere => (0, 0),
                };
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
        let name = (endpoint.hostname.as_str(), endpoint.address.is_ipv4());
        let place = (endpoint.node.as_str(), endpoint.address);
        let same = *first.entry(name).or_insert(place) == place;
        *out.entry(name).or_insert(true) &= same;
    }
    out
}

/// Why a replica refuses an update.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ReplicaError {
    /// Bytes that are no updates.
    Malformed,
    /// A port, endpoint or commit outside a Service, or an end without a beginning.
    Order,
}

impl std::fmt::Display for ReplicaError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Malformed => "not a service table",
            Self::Order => "the parts of the service table come in the wrong order",
        })
    }
}

impl std::error::Error for ReplicaError {}

/// The receiver's copy of a table, built from the updates as they come.
///
/// What has arrived so far counts at once; whether it is what the directory signed is known at the next commit,
/// by comparing [`Encoded::digest`].
#[derive(Clone, Debug, Default)]
pub struct Replica {
    table: Encoded,
    /// A full list that is not complete yet.
    list: Option<Encoded>,
    /// A Service that is not complete yet.
    open: Option<(Key, Vec<u8>)>,
}

impl Replica {
    /// Starts from a known table.
    pub fn new(table: Encoded) -> Self {
        Self { table, list: None, open: None }
    }

    /// The table as far as it is complete.
    pub fn table(&self) -> &Encoded {
        &self.table
    }

    /// Takes a run of updates, such as the body of a feed frame.
    ///
    /// # Errors
    /// See [`ReplicaError`]; the replica is useless then and a full list has to be asked for.
    pub fn apply_run(&mut self, bytes: &[u8]) -> Result<(), ReplicaError> {
        for update in updates(bytes) {
            self.apply(&update.map_err(|_| ReplicaError::Malformed)?)?;
        }
        Ok(())
    }

    /// Takes one update.
    ///
    /// # Errors
    /// [`ReplicaError::Order`].
    pub fn apply(&mut self, update: &Update<'_>) -> Result<(), ReplicaError> {
        match update {
            Update::Service(def) => {
                let key = Key { namespace: def.namespace.to_owned(), name: def.name.to_owned() };
                let mut bytes = Vec::new();
                put(&mut bytes, update);
                self.open = Some((key, bytes));
            }
            Update::Port(_) | Update::Targets(_) | Update::Endpoint(_) => {
                put(&mut self.open.as_mut().ok_or(ReplicaError::Order)?.1, update);
            }
            Update::Commit => {
                let (key, mut bytes) = self.open.take().ok_or(ReplicaError::Order)?;
                put(&mut bytes, update);
                self.target().services.insert(Arc::new(key), item(bytes));
            }
            Update::Begin => self.list = Some(Encoded::default().in_zone(self.table.zone)),
            Update::End => self.table = self.list.take().ok_or(ReplicaError::Order)?,
            Update::Remove { namespace, name } => {
                let key = Key { namespace: (*namespace).to_owned(), name: (*name).to_owned() };
                self.target().services.remove(&key);
            }
            Update::Zone(zone) => self.table.zone = *zone,
            Update::Namespace(name) => drop(self.target().namespaces.insert((*name).to_owned())),
        }
        Ok(())
    }

    fn target(&mut self) -> &mut Encoded {
        self.list.as_mut().unwrap_or(&mut self.table)
    }
}

/// What a snapshot says of its table.
#[derive(Clone, PartialEq, Eq, Debug, serde::Serialize, serde::Deserialize)]
pub struct Head {
    /// Directory epoch.
    pub epoch: u32,
    /// Sequence of the commit, 0 without a feed.
    pub sequence: u64,
    /// Unix time in seconds at which it was current.
    pub unix_secs: u64,
}

/// First bytes of a snapshot file; BLAKE2s-256 of all that follows comes next.
const MAGIC: &[u8; 8] = b"EMSNAP2\n";

/// A snapshot file's content.
pub fn to_snapshot(head: &Head, table: &Encoded) -> Vec<u8> {
    // Serialising plain data into memory has no way to fail.
    let mut content = postcard::to_allocvec(head).unwrap_or_default();
    for run in table.full() {
        content.extend_from_slice(&run);
    }
    let digest: [u8; 32] = Blake2s256::digest(&content).into();
    [MAGIC.as_slice(), &digest, &content].concat()
}

/// Reads a snapshot file's content.
///
/// # Errors
/// When it is none, or not the whole of one.
pub fn from_snapshot(bytes: &[u8]) -> Result<(Head, Encoded), ReplicaError> {
    let rest = bytes.strip_prefix(MAGIC).ok_or(ReplicaError::Malformed)?;
    let (digest, content) = rest.split_first_chunk::<32>().ok_or(ReplicaError::Malformed)?;
    if <[u8; 32]>::from(Blake2s256::digest(content)) != *digest {
        return Err(ReplicaError::Malformed);
    }
    let (head, runs) = postcard::take_from_bytes(content).map_err(|_| ReplicaError::Malformed)?;
    let mut replica = Replica::default();
    replica.apply_run(runs)?;
    Ok((head, replica.table))
}

#[cfg(test)]
#[path = "encoded_tests.rs"]
mod tests;
