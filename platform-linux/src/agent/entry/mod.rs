//! Entry points of this node, where it is asked to have any: NodePorts, external IPs, load balancer addresses.
//!
//! The source's list of them is kept here and on disk, never in the engine. With the table and this node's addresses
//! at hand it becomes rules for the kernel ([`rules`]), which the keeper holds in place, and health check servers
//! ([`health`]). **Life cycle.** Made at start, only with `--node-ports`; [`Entry::restore`] brings back the last
//! list; from then on every change of list, table or addresses makes the rules anew. Bounds: those of the list.

mod health;
mod known;
mod place;
mod rules;

use super::claims::{OWN, Owners};
use super::status::Shared;
use crate::cli;
use crate::interception::entry::Entries as Rules;
use crate::prefix::Prefix;
use edgemesh_core::service::Table;
use edgemesh_discovery::entry::{self, Entries};
use edgemesh_discovery::object::EntryPoints;
use health::{Check, Servers};
use known::Known;
use place::Place;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// How often this node's addresses are looked at, and ports tried again that could not be bound.
const LOOK: Duration = Duration::from_secs(5);

const HOMELESS: &str = "no address of this node has NodePorts: no device has a default route, or none of its \
                        addresses is in --nodeport-addresses";

fn has_ports(points: &EntryPoints) -> bool {
    !points.node_ports.is_empty() || points.health_check_node_port != 0
}

/// See the module's documentation.
pub(super) struct Entry {
    prefixes: Vec<Prefix>,
    tunnels: u16,
    entries: Entries,
    /// Of the list's bytes.
    digest: [u8; 32],
    /// That of the last list of the server's: none before it counts.
    sequence: u64,
    /// Parts of a list that is not complete yet.
    arriving: Vec<u8>,
    place: Place,
    checks: Vec<Check>,
    servers: Servers,
    pub(super) look_due: Instant,
}

impl Entry {
    /// Where `settings` ask for it; `tunnels`: the port of this node's tunnels.
    pub(super) fn new(settings: &cli::EntryPoints, tunnels: u16, status: Arc<Shared>) -> Option<Self> {
        settings.node_ports.then(|| Self {
            prefixes: settings.nodeport_addresses.clone(),
            tunnels,
            entries: Entries::new(),
            digest: [0; 32],
            sequence: 0,
            arriving: Vec::new(),
            place: Place::default(),
            checks: Vec::new(),
            servers: Servers::new(status),
            look_due: Instant::now() + LOOK,
        })
    }

    /// Digest of the list at hand; all zero without one.
    pub(super) fn digest(&self) -> [u8; 32] {
        self.digest
    }

    /// A list of a source on this node; what is to be stored when it is news.
    pub(super) fn set(&mut self, entries: Entries) -> Option<(Vec<u8>, u64)> {
        let encoded = entry::EncodedEntries::new(&entries);
        if encoded.digest() == self.digest {
            return None;
        }
        (self.digest, self.entries) = (encoded.digest(), entries);
        Some((encoded.bytes().to_vec(), self.sequence))
    }

    /// The last list of an earlier run.
    pub(super) fn restore(&mut self, bytes: &[u8], sequence: u64) {
        self.sequence = sequence;
        match entry::decode(bytes) {
            Ok(entries) => (self.digest, self.entries) = (entry::digest(bytes), entries),
            Err(error) => {
                tracing::warn!(%error, "the stored entry points are damaged, going on without them")
            }
        }
    }

    /// A part of the server's list; with sequence and digest it is the last. What is to be stored when it is good.
    ///
    /// # Errors
    /// When the list is not the one that the directory signed, or one that it signed before the one at hand, in words;
    /// the last good one stays.
    pub(super) fn take(
        &mut self,
        part: &[u8],
        signed: Option<(u64, [u8; 32])>,
    ) -> Result<Option<(Vec<u8>, u64)>, &'static str> {
        self.arriving.extend_from_slice(part);
        if self.arriving.len() > entry::BYTES_MAX {
            self.arriving = Vec::new();
            return Err("list of entry points is too long");
        }
        let Some((sequence, digest)) = signed else { return Ok(None) };
        let bytes = std::mem::take(&mut self.arriving);
        if entry::digest(&bytes) != digest {
            return Err("list of entry points is not the one that the directory signed");
        }
        // Lists of an older server may share a sequence.
        if sequence < self.sequence {
            return Err("list of entry points is older than the one at hand");
        }
        let entries = entry::decode(&bytes).map_err(|_| "list of entry points is damaged")?;
        (self.digest, self.sequence, self.entries) = (digest, sequence, entries);
        Ok(Some((bytes, sequence)))
    }

    /// The connection to the server is another one: what has begun to arrive will not go on.
    pub(super) fn reconnected(&mut self) {
        self.arriving = Vec::new();
    }

    /// Looks where this node is; whether anything has changed.
    pub(super) fn look(&mut self) -> bool {
        self.look_due = Instant::now() + LOOK;
        match Place::look(&self.prefixes) {
            Ok(place) if place != self.place => {
                self.place = place;
                true
            }
            Ok(_) => false,
            Err(error) => {
                tracing::warn!(%error, "cannot list this node's addresses");
                false
            }
        }
    }

    /// What there is to ask the engine's table: a question that can be sent to its thread.
    pub(super) fn question(&self) -> impl FnOnce(&Table<'_>, u32) -> Answer + Send + use<> {
        let keys: Vec<(String, String)> = self.entries.keys().cloned().collect();
        move |table, own| {
            let known = |(namespace, name): &(String, String)| known::known(table, own, namespace, name);
            let is_held = |(namespace, name): &(String, String)| table.service(namespace, name).is_some();
            let api = table.service("default", "kubernetes").into_iter().flat_map(|s| s.endpoints());
            Answer {
                api_servers: api.map(|endpoint| endpoint.address()).collect(),
                unknown: keys.iter().filter(|key| !is_held(key)).cloned().collect(),
                known: keys.into_iter().filter_map(|key| known(&key).map(|known| (key, known))).collect(),
            }
        }
    }

    /// The rules that follow from the table's answer, and what does not apply, in words. `vips`: every ClusterIP;
    /// `reserved`: whose an address is that no Service may have.
    pub(super) fn rules(
        &mut self,
        answer: &Answer,
        vips: impl Iterator<Item = IpAddr>,
        reserved: &Owners,
    ) -> (Rules, Vec<String>) {
        let mut taken: Owners = vips.map(|vip| (vip, "a ClusterIP")).collect();
        taken.extend(reserved.iter().filter(|(_, owner)| **owner != OWN));
        taken.extend(answer.api_servers.iter().map(|ip| (*ip, "the API server's")));
        let with =
            self.entries.iter().filter_map(|(key, points)| Some((key, points, answer.known.get(key)?)));
        let check = |((namespace, name), points, known): (&(String, String), &_, &Known)| {
            let points: &EntryPoints = points;
            let check = |port| Check {
                namespace: namespace.clone(),
                name: name.clone(),
                port,
                ready_here: known.ready_here,
            };
            Some(points.health_check_node_port).filter(|port| *port != 0).map(check)
        };
        self.checks = with.clone().filter_map(check).collect();
        let homeless =
            self.place.addresses.is_empty() && with.clone().any(|(_, points, _)| has_ports(points));
        let named =
            with.map(|((namespace, name), points, known)| (format!("{namespace}/{name}"), points, known));
        let reserved = rules::Reserved { addresses: &taken, tunnels: self.tunnels };
        let (rules, mut problems) = rules::entries(named, &self.place, &reserved);
        problems.extend(homeless.then(|| HOMELESS.to_owned()));
        (rules, problems)
    }

    /// Addresses of this node that have NodePorts.
    pub(super) fn addresses(&self) -> Vec<IpAddr> {
        self.place.addresses.clone()
    }

    /// Runs the health check servers that the last rules ask for; what of them cannot be, in words.
    pub(super) async fn serve_checks(&mut self) -> Vec<String> {
        self.servers.set(&self.checks, &self.place.addresses).await
    }
}

/// What the table knows.
#[derive(Default)]
pub(super) struct Answer {
    /// Services with entry points.
    known: BTreeMap<(String, String), Known>,
    /// Those that the table does not hold.
    pub(super) unknown: Vec<(String, String)>,
    /// Addresses of the API servers.
    api_servers: Vec<IpAddr>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use edgemesh_core::wire::feed::Protocol;
    use edgemesh_discovery::entry::EncodedEntries;
    use edgemesh_discovery::object::NodePort;

    fn entry() -> Entry {
        let settings = cli::EntryPoints { node_ports: true, nodeport_addresses: Vec::new() };
        Entry::new(&settings, 20_006, health::tests::serving()).unwrap()
    }

    fn list(node_port: u16) -> EncodedEntries {
        let port = NodePort { protocol: Protocol::Tcp, port: 80, node_port };
        let points = EntryPoints { node_ports: vec![port], ..EntryPoints::default() };
        EncodedEntries::new(&Entries::from([(("n".to_owned(), "s".to_owned()), points)]))
    }

    fn ports(entry: &Entry) -> Vec<u16> {
        entry.entries.values().flat_map(|points| &points.node_ports).map(|port| port.node_port).collect()
    }

    #[tokio::test]
    async fn x8_a_list_comes_in_parts_and_one_that_was_not_signed_changes_nothing() {
        let (mut entry, first, second) = (entry(), list(30_001), list(30_002));
        let (head, tail) = first.bytes().split_at(3);
        assert_eq!(entry.take(head, None), Ok(None));
        assert!(ports(&entry).is_empty());
        let signed = |sequence: u64, list: &EncodedEntries| Some((sequence, list.digest()));
        assert_eq!(entry.take(tail, signed(5, &first)), Ok(Some((first.bytes().to_vec(), 5))));
        assert_eq!((ports(&entry), entry.digest()), (vec![30_001], first.digest()));

        assert!(entry.take(second.bytes(), signed(6, &first)).is_err());
        assert!(entry.take(b"\xff", Some((6, entry::digest(b"\xff")))).is_err());
        assert!(entry.take(second.bytes(), signed(4, &second)).unwrap_err().contains("older"));
        assert!(entry.take(&vec![0; entry::BYTES_MAX + 1], None).is_err());
        assert_eq!((ports(&entry), entry.digest()), (vec![30_001], first.digest()));

        assert_eq!(entry.take(second.bytes(), None), Ok(None));
        entry.reconnected();
        assert!(entry.take(second.bytes(), signed(6, &second)).is_ok(), "a broken connection leaves nothing");
        assert_eq!(ports(&entry), [30_002]);
        assert!(entry.take(first.bytes(), signed(5, &first)).is_err(), "signed once, and said again");
        assert_eq!((ports(&entry), entry.digest()), (vec![30_002], second.digest()));
        let mut next = self::entry();
        next.restore(second.bytes(), 6);
        assert!(next.take(first.bytes(), signed(5, &first)).is_err(), "also to the next run");
    }

    #[tokio::test]
    async fn x8_the_last_list_is_there_at_start_and_rubbish_is_not() {
        let mut entry = entry();
        entry.restore(b"\xff\xff", 0);
        assert_eq!((ports(&entry), entry.digest()), (Vec::new(), [0; 32]));
        entry.restore(list(30_001).bytes(), 0);
        assert_eq!((ports(&entry), entry.digest()), (vec![30_001], list(30_001).digest()));
        assert_eq!(entry.set(entry::decode(list(30_001).bytes()).unwrap()), None, "no news");
        assert!(entry.set(Entries::new()).is_some() && ports(&entry).is_empty());
    }

    #[tokio::test]
    async fn x1_a_node_without_a_primary_address_says_so_and_nothing_is_there_unasked() {
        let mut entry = entry();
        entry.restore(list(30_001).bytes(), 0);
        let known = Known { vips: vec!["10.96.0.1".parse().unwrap()], ..Known::default() };
        let answer =
            Answer { known: [(("n".to_owned(), "s".to_owned()), known)].into(), ..Answer::default() };
        let (rules, problems) = entry.rules(&answer, std::iter::empty(), &Owners::new());
        assert!(rules.ways.is_empty());
        assert_eq!(problems, [HOMELESS]);
        let off = cli::EntryPoints { node_ports: false, nodeport_addresses: Vec::new() };
        assert!(Entry::new(&off, 20_006, health::tests::serving()).is_none());
    }
}
