//! Nodes and a server on a simulated network, and what may happen to them.

use crate::START_WITHIN;
use crate::ledger::Ledger;
use crate::node::{self, Disk, Place, SimNode};
use crate::pods::{self, Pods};
use crate::room::Room;
use crate::server::{self, SimServer, Store};
use edgemesh_core::control::Authority;
use edgemesh_core::path::Route;
use edgemesh_core::rng::Rng;
use edgemesh_core::time::{Duration, Instant};
use edgemesh_testkit::link::{Cable, LinkConfig};
use edgemesh_testkit::nat::{Nat, NatConfig};
use edgemesh_testkit::network::{Datagram, Gateway, HostId, Network, ZoneId};
use edgemesh_testkit::oracle::{Direct, class, classes, direct_path_possible};
use edgemesh_testkit::pipe::{PipeEvent, PipeId};
use edgemesh_testkit::seeds;
use edgemesh_testkit::world::{Participant, Transmit, World};
use std::net::{IpAddr, SocketAddr};

/// Links lose up to this many of a million: one in five.
const LOSS_MAX: u32 = 200_000;
const NAMES: [&str; pods::NODES_MAX] = ["a", "b", "c", "d", "e", "f", "g", "h"];

/// One of them.
pub(crate) enum Party<'w> {
    Server(Box<SimServer>),
    Node(Box<SimNode<'w>>),
}

impl Party<'_> {
    fn inner(&mut self) -> &mut dyn Participant {
        match self {
            Self::Server(server) => &mut **server,
            Self::Node(node) => &mut **node,
        }
    }

    fn shared(&self) -> &dyn Participant {
        match self {
            Self::Server(server) => &**server,
            Self::Node(node) => &**node,
        }
    }
}

impl Participant for Party<'_> {
    fn handle_datagram(&mut self, now: Instant, datagram: Datagram) {
        self.inner().handle_datagram(now, datagram);
    }
    fn handle_pipe(&mut self, now: Instant, pipe: PipeId, event: PipeEvent) {
        self.inner().handle_pipe(now, pipe, event);
    }
    fn handle_timeout(&mut self, now: Instant) {
        self.inner().handle_timeout(now);
    }
    fn poll_transmit(&mut self, now: Instant) -> Option<Transmit> {
        self.inner().poll_transmit(now)
    }
    fn poll_timeout(&self) -> Option<Instant> {
        self.shared().poll_timeout()
    }
    fn timeout_reason(&self) -> &'static str {
        self.shared().timeout_reason()
    }
}

/// What a mesh consists of.
pub(crate) struct Plan {
    nodes: usize,
    /// One of them serves at a time; the others take over.
    servers: usize,
    /// Tables too small for what the pods do.
    pub(crate) tight: bool,
    /// The boxes of the first two sites, if it matters.
    boxes: Option<[NatConfig; 2]>,
    /// How many seconds the clock of the first node is ahead.
    clock: i64,
}

impl Plan {
    /// Two nodes and a server.
    pub(crate) const PAIR: Self = Self { nodes: 2, servers: 1, tight: false, boxes: None, clock: 0 };

    /// The same, and the first node has no clock.
    pub(crate) const IN_1970: Self = Self { clock: node::IN_1970, ..Self::PAIR };

    /// Two nodes behind these boxes.
    pub(crate) fn behind(boxes: [NatConfig; 2]) -> Self {
        Self { boxes: Some(boxes), ..Self::PAIR }
    }

    /// So many nodes, with tables for hardly anything.
    pub(crate) const fn small(nodes: usize) -> Self {
        Self { nodes, tight: true, ..Self::PAIR }
    }

    /// By the seed: most are small, and a quarter has no room.
    pub(crate) fn drawn(seed: u64) -> Self {
        let mut rng = seeds::rng(seed, 9);
        let nodes = match rng.below(16) {
            0..=9 => 2,
            10..=13 => 3,
            14 => 4,
            _ => 5 + rng.below(4) as usize,
        };
        Self { nodes, servers: 1 + rng.below(2) as usize, tight: rng.below(4) == 0, boxes: None, clock: 0 }
    }

    /// Memory for every life of every node.
    pub(crate) fn rooms(&self) -> Vec<Room> {
        Room::several(self.tight, self.nodes + LIVES_MAX)
    }
}

/// Restarts of nodes that a story has at most.
const LIVES_MAX: usize = 16;

/// A subnet with its box.
pub(crate) struct Site {
    pub(crate) zone: ZoneId,
    link: LinkConfig,
    nat: NatConfig,
    /// Hosts in it so far.
    hosts: u8,
}

impl Site {
    /// All sites use the same subnet, as homes do.
    fn address(&mut self) -> IpAddr {
        self.hosts += 1;
        IpAddr::from([192, 168, 1, 9 + self.hosts])
    }
}

/// The whole, and what the test knows of it.
pub(crate) struct Mesh<'w> {
    pub(crate) world: World<Party<'w>>,
    pub(crate) rng: Rng,
    pub(crate) ledger: Ledger,
    pub(crate) nodes: Vec<HostId>,
    pub(crate) sites: Vec<Site>,
    /// The site of each node.
    homes: Vec<usize>,
    pub(crate) servers: Vec<HostId>,
    /// Which of the servers serves.
    pub(crate) serving: usize,
    /// Who means no good: on the internet, and in a node's own site.
    pub(crate) strangers: [HostId; 2],
    rooms: std::slice::IterMut<'w, Room>,
    lives: u64,
    seed: u64,
    trace: Vec<String>,
}

fn link(rng: &mut Rng) -> LinkConfig {
    let mut millis = |from: u32, to: u32| Duration::from_millis(u64::from(from + rng.below(to - from)));
    let (delay, jitter) = (millis(2, 60), millis(1, 50));
    LinkConfig {
        delay,
        jitter,
        reorder: rng.below(200_000),
        loss: rng.below(LOSS_MAX + 1),
        duplicate: rng.below(50_000),
        corrupt: rng.below(20_000),
        ..LinkConfig::PERFECT
    }
}

fn nat(rng: &mut Rng) -> NatConfig {
    let kinds: Vec<_> = classes().collect();
    match rng.below(10) {
        0..=5 => {
            let (mapping, filtering) = kinds[rng.below(kinds.len() as u32) as usize];
            NatConfig::new(mapping, filtering)
        }
        6..=7 => NatConfig::linux(),
        _ => NatConfig::symmetric(),
    }
}

impl<'w> Mesh<'w> {
    /// Two nodes and a server, behind boxes drawn by the seed.
    pub(crate) fn pair(seed: u64, rooms: &'w mut [Room]) -> Self {
        Self::new(seed, Plan::PAIR, rooms)
    }

    pub(crate) fn new(seed: u64, plan: Plan, rooms: &'w mut [Room]) -> Self {
        let mut rng = seeds::rng(seed, 10);
        let mut network = Network::new(seed);
        network.split_writes(true);
        network.record();
        let cable = Cable::symmetric(LinkConfig::delayed(u64::from(1 + rng.below(30))));
        let server =
            |network: &mut Network, n| network.add_host(ZoneId::INTERNET, server::address(n), cable.clone());
        let servers = (0..plan.servers).map(|n| server(&mut network, n)).collect();
        let (mut sites, mut homes, mut nodes, mut addresses) = (Vec::<Site>::new(), vec![], vec![], vec![]);
        let lan = || Cable::symmetric(LinkConfig::delayed(1));
        for n in 0..plan.nodes {
            let own_box = plan.boxes.as_ref().map(|boxes| boxes[n].clone());
            // Some live behind one box.
            let shared = n > 0 && rng.below(6) == 0 && own_box.is_none();
            let home = if shared { rng.below(sites.len() as u32) as usize } else { sites.len() };
            if !shared {
                let (link, nat) = (link(&mut rng), own_box.unwrap_or_else(|| nat(&mut rng)));
                let outside = Nat::new(nat.clone(), IpAddr::from([198, 51, 100, 1 + n as u8]));
                let zone = network.add_zone(ZoneId::INTERNET, Gateway::nat(outside), Cable::symmetric(link));
                sites.push(Site { zone, link, nat, hosts: 0 });
            }
            let address = sites[home].address();
            nodes.push(network.add_host(sites[home].zone, address, lan()));
            addresses.push(address);
            homes.push(home);
        }
        let near = &mut sites[homes[0]];
        let near = network.add_host(near.zone, near.address(), lan());
        let far = network.add_host(ZoneId::INTERNET, IpAddr::from([192, 0, 2, 66]), lan());
        let store = Store::new(plan.nodes, &mut rng);
        let root = store.root();
        let mut mesh = Self {
            world: World::new(network),
            rng,
            ledger: Ledger::default(),
            nodes,
            sites,
            homes,
            servers,
            serving: 0,
            strangers: [far, near],
            rooms: rooms.iter_mut(),
            lives: 0,
            seed,
            trace: Vec::new(),
        };
        mesh.listen(true);
        mesh.start_server(store);
        for (n, name) in NAMES.into_iter().enumerate().take(mesh.nodes.len()) {
            let disk = Disk {
                name,
                identity: mesh.rng.bytes(),
                authority: Authority { root, directory: [0; 32], epoch: 0 },
                joined: None,
                stamp: 0,
                records: Default::default(),
                feed: Vec::new(),
                hints: Default::default(),
                clock: if n == 0 { plan.clock } else { 0 },
            };
            let pods = Pods::new(n as u8 + 1, mesh.nodes.len(), seeds::rng(seed, 20 + n as u64));
            mesh.start_node(n, disk, pods);
            // Indices are given out in the order of joining, and the pods rely on them.
            mesh.until("joined", START_WITHIN, |mesh| mesh.node(n).engine.own_index() != 0);
            assert_eq!(mesh.node(n).engine.own_index(), n as u32 + 1);
        }
        mesh
    }

    fn life(&mut self) -> Rng {
        self.lives += 1;
        seeds::rng(self.seed, 100 + self.lives)
    }

    /// Whether the serving server's host takes connections.
    pub(crate) fn listen(&mut self, listen: bool) {
        for port in [server::PORT, server::RELAY_PORT] {
            self.world.network.listen(self.server_host(), port, listen);
        }
    }

    pub(crate) fn server_host(&self) -> HostId {
        self.servers[self.serving]
    }

    /// Whether the server takes connections that relay.
    pub(crate) fn listen_for_relay(&mut self, listen: bool) {
        self.world.network.listen(self.server_host(), server::RELAY_PORT, listen);
    }

    pub(crate) fn start_server(&mut self, store: Store) {
        let server = SimServer::new(store, self.ledger.clone(), self.life());
        self.world.start(self.server_host(), Party::Server(Box::new(server)));
    }

    pub(crate) fn start_node(&mut self, n: usize, disk: Disk, pods: Pods) {
        let (now, mut rng) = (self.world.now(), self.life());
        let address = SocketAddr::new(self.world.network.addresses(self.nodes[n])[0], node::PORT);
        let place = Place {
            own: n as u8 + 1,
            address,
            servers: self.servers.len(),
            room: self.rooms.next().expect("memory for one more life"),
            ledger: self.ledger.clone(),
        };
        let node = SimNode::start(now, place, disk, pods, &mut rng);
        self.world.start(self.nodes[n], Party::Node(Box::new(node)));
    }

    pub(crate) fn server(&mut self) -> &mut SimServer {
        match self.world.at(self.server_host()) {
            Party::Server(server) => server,
            Party::Node(_) => unreachable!(),
        }
    }

    pub(crate) fn node(&mut self, n: usize) -> &mut SimNode<'w> {
        match self.world.at(self.nodes[n]) {
            Party::Node(node) => node,
            Party::Server(_) => unreachable!(),
        }
    }

    /// The zone that a node is in.
    pub(crate) fn zone(&self, n: usize) -> ZoneId {
        self.sites[self.homes[n]].zone
    }

    pub(crate) fn all(&self) -> std::ops::Range<usize> {
        0..self.nodes.len()
    }

    pub(crate) fn run(&mut self, span: Duration) {
        let ran = self.world.run(span);
        ran.unwrap_or_else(|failure| panic!("{failure}\n{}", self.story()));
        let record = self.world.network.take_record();
        self.ledger.network(record);
    }

    /// Runs until `reached`, which must be within `span`.
    pub(crate) fn until(&mut self, what: &str, span: Duration, reached: impl Fn(&mut Self) -> bool) {
        let end = self.world.now().after(span);
        while !reached(self) {
            assert!(self.world.now() < end, "not {what} within {span:?}\n{}", self.story());
            self.run(Duration::from_millis(100));
        }
    }

    pub(crate) fn note(&mut self, what: String) {
        let at = self.world.now().as_micros() / 1000;
        self.trace.push(format!("{at} ms: {what}"));
    }

    /// What happened so far, for the message of a failure.
    pub(crate) fn story(&mut self) -> String {
        let now = self.world.now();
        let mut story = String::new();
        for site in &self.sites {
            story += &format!("{:?}: {:?}\n{:?}\n", site.zone, site.nat, site.link);
        }
        story += &format!("sites of the nodes: {:?}\n", self.homes);
        story += &self.trace.join("\n");
        for n in self.all() {
            let node = self.node(n);
            let drops: Vec<_> = edgemesh_core::counters::DropReason::ALL
                .iter()
                .map(|reason| (reason.name(), node.engine.counters().get(*reason)))
                .filter(|(_, count)| *count > 0)
                .collect();
            let peers: Vec<_> = node.engine.peers(now).collect();
            let (up, first) = (node.engine.link().is_up(), node.engine.poll_timeout());
            let counts = (node.pods.asks_by_peer(), node.pods.answers_by_peer(), node.parked());
            story += &format!("\nnode {n}: link {up}, next {first:?}, asked/answered/parked {counts:?}");
            story += &format!("\n  {peers:?}\n  {drops:?}");
        }
        format!("{story}\nnow {} ms", now.as_micros() / 1000)
    }

    pub(crate) fn ask(&mut self, ask: bool) {
        let now = self.world.now();
        for n in self.all() {
            self.node(n).pods.ask(now, ask);
        }
    }

    pub(crate) fn answers(&mut self) -> Vec<Vec<usize>> {
        self.all().map(|n| self.node(n).pods.answers_by_peer()).collect()
    }

    fn asks(&mut self) -> Vec<Vec<usize>> {
        self.all().map(|n| self.node(n).pods.asks_by_peer()).collect()
    }

    /// Every client is answered again, by every other node.
    pub(crate) fn exchange(&mut self, what: &str, within: Duration) {
        let (before, asked) = (self.answers(), self.asks());
        self.note(format!("not yet {what}: asked {asked:?}, answered {before:?}"));
        let before = before.concat();
        self.until(what, within, |mesh| {
            mesh.answers().concat().iter().zip(&before).all(|(now, before)| now > before)
        });
    }

    pub(crate) fn seconds(&mut self, from: u32, to: u32) -> Duration {
        Duration::from_secs(u64::from(from + self.rng.below(to - from)))
    }

    pub(crate) fn some_node(&mut self) -> usize {
        self.rng.below(self.nodes.len() as u32) as usize
    }

    pub(crate) fn good_links(&mut self) {
        for site in &self.sites {
            let link = LinkConfig { loss: 0, reorder: 0, duplicate: 0, corrupt: 0, ..site.link };
            self.world.network.zone_cable(site.zone).configure(link);
        }
    }

    /// Whether the boxes let two nodes find a direct path without luck.
    pub(crate) fn must_be_direct(&self, a: usize, b: usize) -> bool {
        let [one, other] = [a, b].map(|n| &self.sites[self.homes[n]]);
        one.zone == other.zone
            || direct_path_possible(class(&one.nat), class(&other.nat)) == Direct::Deterministic
    }

    pub(crate) fn is_direct(&mut self, a: usize, b: usize) -> bool {
        let now = self.world.now();
        [(a, b), (b, a)].into_iter().all(|(n, other)| {
            let peer = self.node(n).engine.peers(now).find(|peer| peer.index == other as u32 + 1);
            peer.is_some_and(|peer| matches!(peer.path.route, Some(Route::Direct { .. })))
        })
    }
}
