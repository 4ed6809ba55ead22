//! The service feed: the table as every node should have it, and the way there from what a node has.
//!
//! The table is kept up to date object by object. Each state that is published has a sequence, and the feed remembers
//! which Services changed from one to the next, so the way from any state that is remembered is what changed since,
//! as it is now: a slow node skips states instead of filling a queue, and one that comes back after a while gets the
//! difference, or the whole list when its state is forgotten. A way is computed once for all nodes that go it.
//!
//! Bounds: [`STEPS`] states, and no more changed Services than there are Services (the whole list would be shorter);
//! ways are forgotten with the state that they lead to.

use crate::directory::Directory;
use crate::entries::Listed;
use crate::fingerprints::Fingerprints;
use edgemesh_core::wire::ask;
use edgemesh_core::wire::control::{ANSWER_CONTEXT, Answer, FeedCommit, PLAINTEXT_MAX, ToNode, said};
use edgemesh_core::wire::feed::{Home, Update};
use edgemesh_discovery::change::Changes;
use edgemesh_discovery::encoded::{Encoded, Run, Step};
use edgemesh_discovery::object::Node;
use edgemesh_discovery::place::Placement;
use edgemesh_discovery::served::Served;
use edgemesh_discovery::table::Key;
use edgemesh_host::state::StateError;
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::{Notify, watch};

/// States that are remembered for nodes that come back.
const STEPS: usize = 1_024;
/// Version, kind and length in front of a feed frame's updates.
const FEED_HEAD: usize = 2 + 2;

/// How long enrolments are gathered before the table is placed anew.
const GATHER: Duration = Duration::from_millis(200);
/// How often it is looked for endpoints that stood long enough.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// One state of the table, by name.
pub(crate) struct Version {
    pub(crate) sequence: u64,
    /// How many Services there are.
    pub(crate) services: usize,
    /// Where nodes are, by name, where that is known.
    homes: Arc<BTreeMap<String, Home>>,
    digest: [u8; 32],
    signature: [u8; 64],
}

impl Version {
    /// Where a node is.
    pub(crate) fn home(&self, node: &str) -> Home {
        self.homes.get(node).copied().unwrap_or_default()
    }
}

/// What the source said, and what became of it. Locked while it is published, which waits for the disk.
#[derive(Default)]
struct Source {
    served: Served,
    /// Nodes have changed, or who has joined.
    nodes_due: bool,
    homes: Arc<BTreeMap<String, Home>>,
    /// What was encoded and is not published.
    pending: Step,
}

/// The newest state, and the way to it. Locked for moments only.
#[derive(Default)]
struct Shown {
    version: Option<Arc<Version>>,
    table: Encoded,
    /// What changed after the state with this sequence, oldest first.
    steps: VecDeque<(u64, Step)>,
    /// Services in `steps`.
    changes: usize,
    /// Ways that were asked for, by what the node had.
    ways: BTreeMap<Option<u64>, Arc<[Run]>>,
    /// Made when the first node asks, kept from then on.
    prints: Option<Fingerprints>,
    /// Signatures over answers from the newest state, by fingerprint and digest of what was said.
    signed: HashMap<(u32, [u8; 32]), [u8; 64]>,
}

/// A Service, or without a name a namespace, with its updates.
pub(crate) type Found = (Option<Arc<Key>>, Run);

impl Shown {
    fn advance(&mut self, version: Arc<Version>, from: &Encoded, step: Step) {
        self.table.follow(from, &step);
        self.ways.clear();
        self.signed.clear();
        if step.is_whole() {
            self.prints = None;
        } else if let Some(prints) = &mut self.prints {
            step.services().iter().for_each(|key| prints.set(key, self.table.get(key)));
        }
        let newest = version.sequence;
        let before = self.version.replace(version).map(|before| before.sequence);
        if step.is_whole() {
            (self.steps, self.changes) = (VecDeque::new(), 0);
        } else if let Some(before) = before.filter(|before| *before != newest) {
            self.changes += step.len();
            self.steps.push_back((before, step));
        }
        while self.steps.len() > STEPS || self.changes > self.table.len().max(STEPS) {
            let Some((_, oldest)) = self.steps.pop_front() else { break };
            self.changes -= oldest.len();
        }
    }

    /// The way from the state with the sequence `held`; the full list when that is not remembered.
    fn way(&mut self, held: Option<u64>) -> Option<(Arc<Version>, Arc<[Run]>)> {
        let version = self.version.clone()?;
        let step = held.and_then(|held| self.since(held, version.sequence));
        let table = &self.table;
        let way = self.ways.entry(held.filter(|_| step.is_some())).or_insert_with(|| match &step {
            Some(step) => table.way(step).into(),
            None => table.full().into(),
        });
        Some((version, way.clone()))
    }

    /// All that has this fingerprint. A namespace exists when it is named or a Service is in it.
    fn asked(&mut self, key: u32) -> Option<(Arc<Version>, Vec<Found>)> {
        let version = self.version.clone()?;
        let table = &self.table;
        let prints = self.prints.get_or_insert_with(|| Fingerprints::new(table));
        let services =
            prints.get(key).filter_map(|name| Some((Some(name.clone()), table.get(name)?.clone())));
        let named = table.namespaces().iter().find(|name| ask::namespace(name.bytes()) == key);
        let namespace = named.map(String::as_str).or_else(|| prints.namespace(key));
        let namespace = namespace.and_then(|name| postcard::to_allocvec(&Update::Namespace(name)).ok());
        let namespace = namespace.map(|run| (None, Run::from(run)));
        Some((version, services.chain(namespace).collect()))
    }

    fn since(&self, held: u64, newest: u64) -> Option<Step> {
        let mut all = Step::default();
        if held != newest {
            let first = self.steps.iter().position(|(before, _)| *before == held)?;
            self.steps.range(first..).for_each(|(_, step)| all.merge(step));
        }
        Some(all)
    }
}

/// The newest state and the ones before it.
pub(crate) struct Feed {
    newest: watch::Sender<Option<Arc<Version>>>,
    entries: watch::Sender<Option<Arc<Listed>>>,
    shown: Mutex<Shown>,
    /// Nodes through which endpoints without a node of ours are reached, beside those with a label.
    exits: Vec<String>,
    source: Mutex<Source>,
    joined: Notify,
}

impl Feed {
    /// A feed that says nothing until a source is heard.
    pub(crate) fn new(exits: Vec<String>) -> Self {
        let (newest, entries, joined) = (watch::Sender::new(None), watch::Sender::new(None), Notify::new());
        Self { newest, entries, shown: Mutex::default(), exits, source: Mutex::default(), joined }
    }

    /// What an earlier process held of Nodes that were not ready is held until the source says otherwise.
    pub(crate) fn restore_held(&self, bytes: &[u8]) {
        if self.source().served.restore_held(Instant::now(), bytes).is_err() {
            tracing::warn!("the stored list of held endpoints is damaged, going on without it");
        }
    }

    fn source(&self) -> MutexGuard<'_, Source> {
        self.source.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn shown(&self) -> MutexGuard<'_, Shown> {
        self.shown.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Follows the newest state.
    pub(crate) fn subscribe(&self) -> watch::Receiver<Option<Arc<Version>>> {
        self.newest.subscribe()
    }

    /// Follows the list of entry points.
    pub(crate) fn entries(&self) -> watch::Receiver<Option<Arc<Listed>>> {
        self.entries.subscribe()
    }

    /// The newest state.
    pub(crate) fn newest(&self) -> Option<Arc<Version>> {
        self.newest.borrow().clone()
    }

    /// The newest state, and the way there from the one with the sequence `held`: the full list when that is not
    /// remembered.
    pub(crate) fn way(&self, held: Option<u64>) -> Option<(Arc<Version>, Arc<[Run]>)> {
        self.shown().way(held)
    }

    /// The newest state, and all in it that has this fingerprint ([`ask`]) or endpoints on the node of this index.
    pub(crate) fn asked(&self, key: u32) -> Option<(Arc<Version>, Vec<Found>)> {
        self.shown().asked(key)
    }

    /// The updates of a Service as it is now.
    pub(crate) fn run(&self, key: &Key) -> Option<Run> {
        self.shown().table.get(key).cloned()
    }

    /// The signature over an answer from the newest state: made once for all nodes that are told the same.
    pub(crate) fn signature(&self, key: u32, said: [u8; 32], sign: impl FnOnce() -> [u8; 64]) -> [u8; 64] {
        if let Some(known) = self.shown().signed.get(&(key, said)) {
            return *known;
        }
        let signature = sign();
        self.shown().signed.insert((key, said), signature);
        signature
    }

    /// Takes what the source says; whether that can be published, which is when it counts.
    pub(crate) fn take(&self, changes: Changes) -> bool {
        let mut source = self.source();
        let first = !source.served.is_whole();
        let nodes_changed = source.served.apply(Instant::now(), changes);
        source.nodes_due |= nodes_changed || first;
        source.served.is_whole()
    }

    /// Makes what the source said the newest state. Numbers that it needs are assigned by the directory first. What
    /// is wrong with Services and was not told before goes to `report`.
    ///
    /// # Errors
    /// When the directory cannot be written: the feed stays as it was.
    pub(crate) fn publish(
        &self,
        directory: &Mutex<Directory>,
        report: impl FnMut(String),
    ) -> Result<(), StateError> {
        self.place(&mut self.source(), directory, report)
    }

    /// The directory has another key: what is fed is signed by it, with a higher sequence.
    pub(crate) fn sign_again(&self, directory: &Mutex<Directory>) {
        let source = self.source();
        let directory = directory.lock().unwrap_or_else(PoisonError::into_inner);
        let mark = directory.mark();
        // Not borrowed any more when it is replaced.
        let listed = self.entries.borrow().clone();
        if let Some(listed) = listed {
            self.entries.send_replace(Some(Arc::new(listed.sign_again(&directory))));
        }
        let Some(old) = self.newest() else { return };
        let signature = directory.keys.sign_commit(mark.sequence, &mark.digest);
        let (services, homes) = (old.services, old.homes.clone());
        let version = Version { sequence: mark.sequence, services, homes, digest: mark.digest, signature };
        let version = Arc::new(version);
        self.shown().advance(version.clone(), source.served.encoded(), Step::default());
        self.newest.send_replace(Some(version));
    }

    /// A node has joined, or was revoked: endpoints may be reached there now, or not any more.
    pub(crate) fn nodes_changed(&self) {
        self.joined.notify_one();
    }

    /// Places the table anew whenever the nodes have changed, and lets go of endpoints that stood in for the cloud's
    /// word long enough, until the future is dropped. Without exits an endpoint is where it says, whoever has joined:
    /// then there is nothing to do.
    pub(crate) async fn follow_nodes(self: Arc<Self>, directory: Arc<Mutex<Directory>>) {
        loop {
            // A change while this waits may bring an end nearer: looked at again soon enough.
            let joined = tokio::time::timeout(LOOK_EVERY, self.joined.notified()).await.is_ok();
            if joined {
                tokio::time::sleep(GATHER).await;
            }
            let (feed, directory) = (self.clone(), directory.clone());
            let placed = tokio::task::spawn_blocking(move || {
                let mut source = feed.source();
                if !source.served.is_whole() {
                    return Ok(());
                }
                let nodes = source.served.table().nodes();
                let exits = Placement::has_exits(nodes, &feed.exits);
                source.nodes_due |= exits && joined;
                let stood = source.served.held_until().is_some_and(|until| until <= Instant::now());
                if stood {
                    source.served.apply(Instant::now(), Changes::default());
                }
                if source.nodes_due || stood { feed.place(&mut source, &directory, |_| {}) } else { Ok(()) }
            });
            if let Ok(Err(error)) = placed.await {
                tracing::error!(%error, "the Services cannot be fed");
                self.nodes_changed();
            }
        }
    }

    fn place(
        &self,
        source: &mut Source,
        directory: &Mutex<Directory>,
        report: impl FnMut(String),
    ) -> Result<(), StateError> {
        let mut directory = directory.lock().unwrap_or_else(PoisonError::into_inner);
        let Source { served, pending, .. } = source;
        if std::mem::take(&mut source.nodes_due) {
            let nodes = served.table().nodes();
            let agents = Placement::has_exits(nodes, &self.exits).then(|| directory.members());
            let placement = Placement::new(nodes, &self.exits, agents);
            source.homes = Arc::new(homes(nodes));
            served.place(placement);
        }
        // Should the directory not take the numbers, others may stand for the same names next time.
        served.encode_again(pending);
        let assigned = directory.assign(|assigner| {
            let (step, news) = served.encode(assigner);
            pending.merge(&step);
            (news, served.encoded().digest())
        });
        let (news, mark) = assigned?;
        let signature = directory.keys.sign_commit(mark.sequence, &mark.digest);
        if let Some(entries) = served.take_entries() {
            let listed =
                Listed::new(&entries, &mut directory).inspect_err(|_| served.tell_entries_again())?;
            self.entries.send_replace(Some(Arc::new(listed)));
        }
        if let Some(held) = served.take_held() {
            directory.keep_held(&held)?;
        }
        drop(directory);
        news.into_iter().for_each(report);
        let step = std::mem::take(pending);
        let old = self.newest();
        if old.is_some_and(|old| old.sequence == mark.sequence && old.homes == source.homes) {
            return Ok(());
        }
        let version = Arc::new(Version {
            sequence: mark.sequence,
            services: served.encoded().len(),
            homes: source.homes.clone(),
            digest: mark.digest,
            signature,
        });
        self.shown().advance(version.clone(), served.encoded(), step);
        self.newest.send_replace(Some(version));
        Ok(())
    }
}

/// Where the nodes are of which that is known.
fn homes(nodes: &BTreeMap<String, Node>) -> BTreeMap<String, Home> {
    let home = |(name, node): (&String, &Node)| (name.clone(), node.home());
    nodes.iter().map(home).filter(|(_, home)| *home != Home::default()).collect()
}

/// A state on its way to one node.
pub(crate) struct Cursor {
    version: Arc<Version>,
    /// What the node is to hear first: where it is, unless it knows it.
    home: Option<Run>,
    runs: Arc<[Run]>,
    run: usize,
    at: usize,
    /// The message behind the updates, until it was said.
    end: Option<Vec<u8>>,
}

impl Cursor {
    /// On this way to `version`; `home` is where the node is, unless it knows it.
    pub(crate) fn new(version: Arc<Version>, runs: Arc<[Run]>, home: Option<Home>) -> Self {
        let end = encoded(&ToNode::FeedCommit(FeedCommit {
            sequence: version.sequence,
            digest: version.digest,
            signature: &version.signature,
        }));
        Self { end, ..Self::open(version, runs, home) }
    }

    /// These updates, and that they are all `found` things of `version` with the fingerprint `key`. `sign` is given
    /// what is to be signed, and the digest of the updates.
    pub(crate) fn answer(
        version: Arc<Version>,
        runs: Arc<[Run]>,
        home: Option<Home>,
        key: u32,
        found: u32,
        sign: impl FnOnce(&[u8], &[u8; 32]) -> [u8; 64],
    ) -> Self {
        let sequence = version.sequence;
        // The digest is of frames as they will be cut.
        let (mut ahead, mut digest) = (Self::open(version.clone(), runs.clone(), home), [0; 32]);
        while let body @ [_, ..] = &*ahead.body() {
            digest = said(&digest, body);
        }
        let numbers = [&key.to_le_bytes()[..], &sequence.to_le_bytes(), &found.to_le_bytes()].concat();
        let signature = sign(&[ANSWER_CONTEXT, &numbers, &digest].concat(), &digest);
        let end = encoded(&ToNode::Answer(Answer { key, sequence, found, signature: &signature }));
        Self { end, ..Self::open(version, runs, home) }
    }

    fn open(version: Arc<Version>, runs: Arc<[Run]>, home: Option<Home>) -> Self {
        let home = home.and_then(|home| postcard::to_allocvec(&Update::Home(home)).ok()).map(Run::from);
        Self { version, home, runs, run: 0, at: 0, end: None }
    }

    /// The next plaintext, written to `out`; `None` when the node has it all.
    pub(crate) fn next(&mut self, out: &mut [u8; PLAINTEXT_MAX]) -> Option<usize> {
        let body = self.body();
        if !body.is_empty() {
            return ToNode::Feed(&body).encode(out).ok();
        }
        let end = self.end.take()?;
        out.get_mut(..end.len())?.copy_from_slice(&end);
        Some(end.len())
    }

    /// What the node has once the cursor is at its end.
    pub(crate) fn version(&self) -> &Arc<Version> {
        &self.version
    }

    /// As many whole updates as fit one frame.
    fn body(&mut self) -> Vec<u8> {
        let mut body = Vec::with_capacity(PLAINTEXT_MAX);
        body.extend_from_slice(self.home.take().as_deref().unwrap_or_default());
        while let Some(run) = self.runs.get(self.run) {
            let rest = run.get(self.at..).unwrap_or_default();
            if rest.is_empty() {
                (self.run, self.at) = (self.run + 1, 0);
                continue;
            }
            let Ok((_, after)) = postcard::take_from_bytes::<Update<'_>>(rest) else { break };
            let len = rest.len() - after.len();
            if body.len() + len > PLAINTEXT_MAX - FEED_HEAD {
                break;
            }
            body.extend_from_slice(rest.get(..len).unwrap_or_default());
            self.at += len;
        }
        body
    }
}

fn encoded(message: &ToNode<'_>) -> Option<Vec<u8>> {
    let mut out = [0; PLAINTEXT_MAX];
    let len = message.encode(&mut out).ok()?;
    out.get(..len).map(<[u8]>::to_vec)
}
