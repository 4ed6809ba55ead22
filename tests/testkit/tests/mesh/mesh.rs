//! Two nodes and a server on a simulated network, and what may happen to them.

use crate::START_WITHIN;
use crate::node::{self, Disk, SimNode};
use crate::pods::Pods;
use crate::server::{self, SimServer};
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

/// One of the three.
pub(crate) enum Party {
    Server(Box<SimServer>),
    Node(Box<SimNode>),
}

impl Party {
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

impl Participant for Party {
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

/// The whole, and what the test knows of it.
pub(crate) struct Mesh {
    pub(crate) world: World<Party>,
    pub(crate) rng: Rng,
    pub(crate) server: HostId,
    pub(crate) nodes: [HostId; 2],
    pub(crate) sites: [ZoneId; 2],
    links: [LinkConfig; 2],
    nats: [NatConfig; 2],
    lives: u64,
    seed: u64,
    trace: Vec<String>,
}

fn site_address(n: usize) -> SocketAddr {
    // Both sites use the same subnet, as homes do.
    SocketAddr::new(IpAddr::from([192, 168, 1, 10 + n as u8]), node::PORT)
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
        ..LinkConfig::PERFECT
    }
}

impl Mesh {
    /// Behind boxes drawn by the seed.
    pub(crate) fn new(seed: u64) -> Self {
        Self::behind(seed, None)
    }

    /// Behind these two boxes, if there are any.
    pub(crate) fn behind(seed: u64, boxes: Option<[NatConfig; 2]>) -> Self {
        let mut rng = seeds::rng(seed, 10);
        let mut network = Network::new(seed);
        network.split_writes(true);
        let cable = Cable::symmetric(LinkConfig::delayed(u64::from(1 + rng.below(30))));
        let server = network.add_host(ZoneId::INTERNET, server::ADDRESS, cable);
        let kinds: Vec<_> = classes().collect();
        let nats = [(); 2].map(|()| match rng.below(10) {
            0..=5 => {
                let (mapping, filtering) = kinds[rng.below(kinds.len() as u32) as usize];
                NatConfig::new(mapping, filtering)
            }
            6..=7 => NatConfig::linux(),
            _ => NatConfig::symmetric(),
        });
        let own_boxes = boxes.is_some();
        let nats = boxes.unwrap_or(nats);
        let links = [link(&mut rng), link(&mut rng)];
        let externals = ["198.51.100.1", "192.0.2.1"];
        let site = |network: &mut Network, n: usize| {
            let nat = Nat::new(nats[n].clone(), externals[n].parse().unwrap());
            network.add_zone(ZoneId::INTERNET, Gateway::nat(nat), Cable::symmetric(links[n]))
        };
        let first = site(&mut network, 0);
        // Some pairs live behind one box.
        let second = if rng.below(6) == 0 && !own_boxes { first } else { site(&mut network, 1) };
        let sites = [first, second];
        let lan = Cable::symmetric(LinkConfig::delayed(1));
        let nodes = [0, 1].map(|n| network.add_host(sites[n], site_address(n).ip(), lan.clone()));
        let store = server::Store::new(&mut rng);
        let root = store.root();
        let mut mesh = Self {
            world: World::new(network),
            rng,
            server,
            nodes,
            sites,
            links,
            nats,
            lives: 0,
            seed,
            trace: Vec::new(),
        };
        mesh.listen(true);
        mesh.start_server(store);
        for n in [0, 1] {
            let disk = Disk {
                name: ["a", "b"][n],
                identity: mesh.rng.bytes(),
                authority: Authority { root, directory: [0; 32], epoch: 0 },
                joined: None,
                stamp: 0,
                records: Default::default(),
                feed: Vec::new(),
            };
            let pods = Pods::new(n as u8 + 1, seeds::rng(seed, 20 + n as u64));
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

    /// Whether the server's host takes connections.
    fn listen(&mut self, listen: bool) {
        for port in [server::PORT, server::RELAY_PORT] {
            self.world.network.listen(self.server, port, listen);
        }
    }

    fn start_server(&mut self, store: server::Store) {
        let server = SimServer::new(store, self.life());
        self.world.start(self.server, Party::Server(Box::new(server)));
    }

    fn start_node(&mut self, n: usize, disk: Disk, pods: Pods) {
        let (now, mut rng) = (self.world.now(), self.life());
        let node = SimNode::start(now, site_address(n), disk, pods, &mut rng);
        self.world.start(self.nodes[n], Party::Node(Box::new(node)));
    }

    pub(crate) fn server(&mut self) -> &mut SimServer {
        match self.world.at(self.server) {
            Party::Server(server) => server,
            Party::Node(_) => unreachable!(),
        }
    }

    pub(crate) fn node(&mut self, n: usize) -> &mut SimNode {
        match self.world.at(self.nodes[n]) {
            Party::Node(node) => node,
            Party::Server(_) => unreachable!(),
        }
    }

    pub(crate) fn run(&mut self, span: Duration) {
        self.world.run(span).unwrap_or_else(|failure| panic!("{failure}\n{}", self.story()));
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
        let mut story = format!("{:?}\n{:?}\n{:?}\n", self.nats, self.links, self.sites);
        story += &self.trace.join("\n");
        for n in [0, 1] {
            let node = self.node(n);
            let drops: Vec<_> = edgemesh_core::counters::DropReason::ALL
                .iter()
                .map(|reason| (reason.name(), node.engine.counters().get(*reason)))
                .filter(|(_, count)| *count > 0)
                .collect();
            let peers: Vec<_> = node.engine.peers(now).collect();
            let (up, first) = (node.engine.link().is_up(), node.engine.poll_timeout());
            let counts = (node.pods.sent(), node.pods.answers(), node.parked());
            story += &format!("\nnode {n}: link {up}, next {first:?}, asked/answered/parked {counts:?}");
            story += &format!("\n  {peers:?}\n  {drops:?}");
        }
        format!("{story}\nnow {} ms", now.as_micros() / 1000)
    }

    pub(crate) fn ask(&mut self, ask: bool) {
        let now = self.world.now();
        for n in [0, 1] {
            self.node(n).pods.ask(now, ask);
        }
    }

    pub(crate) fn answers(&mut self) -> [usize; 2] {
        [0, 1].map(|n| self.node(n).pods.answers())
    }

    /// Both clients are answered again.
    pub(crate) fn exchange(&mut self, what: &str, within: Duration) {
        let before = self.answers();
        self.until(what, within, |mesh| mesh.answers().iter().zip(before).all(|(now, before)| *now > before));
    }

    pub(crate) fn seconds(&mut self, from: u32, to: u32) -> Duration {
        Duration::from_secs(u64::from(from + self.rng.below(to - from)))
    }

    pub(crate) fn restart_node(&mut self, n: usize, gap_max: u32) {
        let Some(Party::Node(node)) = self.world.stop(self.nodes[n]) else { unreachable!() };
        let gap = Duration::from_millis(u64::from(self.rng.below(gap_max)));
        self.note(format!("node {n} stopped for {gap:?}"));
        // The pods run on: what they send meanwhile is lost, as with a TUN that nobody reads.
        self.world.run(gap).unwrap();
        let SimNode { disk, pods, .. } = *node;
        self.start_node(n, disk, pods);
    }

    pub(crate) fn restart_server(&mut self, gap_max: u32) {
        let Some(Party::Server(server)) = self.world.stop(self.server) else { unreachable!() };
        let gap = Duration::from_millis(u64::from(self.rng.below(gap_max)));
        self.note(format!("server stopped for {gap:?}"));
        self.listen(false);
        self.run(gap);
        self.listen(true);
        self.start_server(server.store);
    }

    fn rebind(&mut self, n: usize) {
        let external = [203, 0, 113 + n as u8, 10 + self.rng.below(200) as u8];
        let now = self.world.now();
        self.note(format!("site {n} becomes {external:?}"));
        self.world.network.rebind(now, self.sites[n], IpAddr::from(external));
    }

    /// No UDP through a site's box for a while.
    fn block_udp(&mut self, n: usize) {
        let span = self.seconds(5, 45);
        self.note(format!("site {n} without UDP for {span:?}"));
        self.world.network.gateway(self.sites[n]).firewall.udp_out = false;
        self.run(span);
        self.world.network.gateway(self.sites[n]).firewall.udp_out = true;
    }

    /// Nothing passes between the nodes but by the server.
    fn block_direct(&mut self) {
        let span = self.seconds(5, 45);
        self.note(format!("no direct path for {span:?}"));
        let [a, b] = self.nodes;
        self.world.network.block(a, b, true);
        self.run(span);
        self.world.network.block(a, b, false);
    }

    /// Long enough for mappings and sessions to expire.
    fn silence(&mut self) {
        let span = self.seconds(20, 400);
        self.note(format!("silence for {span:?}"));
        self.ask(false);
        self.run(span);
        self.ask(true);
    }

    pub(crate) fn trouble(&mut self) {
        let n = self.rng.below(2) as usize;
        match self.rng.below(7) {
            0 => self.restart_node(n, 3_000),
            1 => self.restart_server(8_000),
            2 => self.rebind(n),
            3 => self.block_udp(n),
            4 => self.block_direct(),
            5 => self.silence(),
            // Two at once.
            _ => {
                self.rebind(n);
                self.restart_server(8_000);
                self.restart_node(1 - n, 3_000);
            }
        }
    }

    pub(crate) fn good_links(&mut self) {
        for (site, link) in self.sites.into_iter().zip(self.links) {
            let link = LinkConfig { loss: 0, reorder: 0, duplicate: 0, ..link };
            self.world.network.zone_cable(site).configure(link);
        }
    }

    /// Whether the boxes let the nodes find a direct path without luck.
    pub(crate) fn must_be_direct(&self) -> bool {
        let [a, b] = [0, 1].map(|n| class(&self.nats[n]));
        self.sites[0] == self.sites[1] || direct_path_possible(a, b) == Direct::Deterministic
    }

    pub(crate) fn is_direct(&mut self) -> bool {
        let now = self.world.now();
        let direct = |n| {
            let peer = self.node(n).engine.peers(now).next();
            peer.is_some_and(|peer| matches!(peer.path.route, Some(Route::Direct { .. })))
        };
        [0, 1].into_iter().all(direct)
    }
}
