//! Engines in a star, joined by sessions and direct paths: the state that packets are measured in.
//!
//! [`Star::new`] makes node 1, the hub, and its peers, with a server that introduces them; nothing between them delays or
//! loses anything. [`Star::connect`] gives the hub a session with every peer, a proven direct path each way and the size
//! of that path; time jumps from deadline to deadline meanwhile. Packets are the caller's: [`packets`] builds some.
//!
//! Equal arguments give equal engines. Whatever goes wrong on the way panics: this is no place to test it.

mod cloud;
pub mod packets;

use cloud::Cloud;
use edgemesh_core::control::{Authority, Credentials, Feed};
use edgemesh_core::dns::{Domain, PodRecords, Settings};
use edgemesh_core::heapless::String;
use edgemesh_core::memory::Resources;
use edgemesh_core::node::{Classified, Config, Destination, Engine, From, Inbound};
use edgemesh_core::noise::{ChaChaPoly, StaticSecret};
use edgemesh_core::packet::Packet;
use edgemesh_core::path::{self, Local, Route};
use edgemesh_core::rng::Rng;
use edgemesh_core::time::{Instant, WallTime};
use edgemesh_core::tunnel;
use std::collections::{BTreeSet, HashMap};
use std::net::{Ipv4Addr, SocketAddr};

/// The cluster domain.
pub const DOMAIN: &str = "cluster.local";
/// Largest packet inside the tunnel, as the agent has it.
pub const MTU: u16 = 1408;
/// What clocks on walls show.
const WALL: WallTime = WallTime { secs: 1_700_000_000, nanos: 0 };
const SERVER: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::new(203, 0, 113, 10)), 20_004);
/// Deadlines to wait for until all paths are direct.
const PATIENCE: usize = 10_000;

/// The hub, its peers and the server.
pub struct Star<'a> {
    /// The time of all.
    pub now: Instant,
    cloud: Cloud,
    engines: Vec<Engine<'a>>,
    places: HashMap<SocketAddr, u32>,
    addresses: Vec<SocketAddr>,
}

/// A node's name.
fn name(index: u32) -> std::string::String {
    format!("node-{index}")
}

/// Where the socket of the node of this index is, unless somebody says otherwise.
pub fn address(index: u32) -> SocketAddr {
    let [_, a, b, c] = index.to_be_bytes();
    (Ipv4Addr::new(198, 18 + a, b, c), 20_006).into()
}

fn config(index: u32, root: [u8; 32], identity: StaticSecret, seed: [u8; 32]) -> Config {
    Config {
        identity,
        credentials: Credentials {
            name: String::try_from(name(index).as_str()).expect("a short name"),
            secret: None,
            account: false,
            agent: "star",
            feed: Feed::None,
        },
        authority: Authority { root, directory: [0; 32], epoch: 0 },
        dns: Settings {
            domain: Domain::new(DOMAIN).expect("a name"),
            ttl: 30,
            negative_ttl: 30,
            address: None,
            pods: PodRecords::Insecure,
            recursion: true,
        },
        paths: path::Config { inner_mtu_max: MTU },
        stamp: 0,
        seed,
    }
}

impl<'a> Star<'a> {
    /// All nodes, accepted by the server but not yet acquainted; the first one is the hub.
    pub fn new(now: Instant, nodes: impl IntoIterator<Item = (Resources<'a>, SocketAddr)>) -> Self {
        let mut rng = Rng::new([1; 32]);
        let mut cloud = Cloud::new(Rng::new(rng.bytes()));
        let (mut engines, mut places, mut addresses) = (Vec::new(), HashMap::new(), Vec::new());
        for (index, (memory, address)) in (1..).zip(nodes) {
            let identity = StaticSecret::from_bytes(rng.bytes());
            cloud.enrol(identity.public().0, address);
            let mut engine = Engine::new(now, memory, config(index, cloud.root(), identity, rng.bytes()));
            engine.set_local(now, &[Local { socket: 0, address }]);
            engine.control_up(now, SERVER);
            engine.control(now, &mut cloud.greeting()).expect("the server greets");
            engines.push(engine);
            places.insert(address, index);
            addresses.push(address);
        }
        let mut star = Self { now, cloud, engines, places, addresses };
        star.talk(star.indices());
        star
    }

    fn indices(&self) -> BTreeSet<u32> {
        (1..).zip(&self.engines).map(|(index, _)| index).collect()
    }

    /// The engine of the node of this index.
    pub fn engine(&mut self, index: u32) -> &mut Engine<'a> {
        &mut self.engines[index as usize - 1]
    }

    /// All engines in the order of their indices, and nothing else any more.
    pub fn into_engines(self) -> Vec<Engine<'a>> {
        self.engines
    }

    /// Gives the hub its sessions and paths.
    pub fn connect(&mut self) {
        let now = self.now;
        for index in self.indices().into_iter().skip(1) {
            self.engine(1).connect(now, index);
        }
        self.talk(BTreeSet::from([1]));
        for _ in 0..PATIENCE {
            if self.engines.iter().all(|engine| is_direct(engine, self.now)) {
                return;
            }
            self.step();
        }
        panic!("no direct paths after {PATIENCE} deadlines");
    }

    /// Goes on to the next deadline.
    fn step(&mut self) {
        let at = |engine: &Engine<'_>| engine.poll_timeout().map(|(at, _)| at);
        let next = self.engines.iter().filter_map(at).min().expect("somebody waits");
        self.now = self.now.max(next);
        let mut due = BTreeSet::new();
        for (index, engine) in (1..).zip(&mut self.engines) {
            if at(engine).is_some_and(|at| at <= self.now) {
                engine.handle_timeout(self.now);
                due.insert(index);
            }
        }
        self.talk(due);
    }

    /// Lets these nodes compute and talk, and whoever hears them, until nobody has anything to say. No time passes.
    fn talk(&mut self, mut busy: BTreeSet<u32>) {
        let now = self.now;
        while let Some(index) = busy.pop_first() {
            while self.engine(index).work(now, WALL) {}
            while self.engine(index).poll_event().is_some() {}
            let mut out = [0; 2048];
            while let Some(datagram) = self.engine(index).poll_transmit(now, &mut out) {
                if let Destination::Socket { remote, .. } = datagram.to {
                    busy.insert(self.deliver(index, remote, &out[datagram.range]));
                    busy.insert(index);
                }
            }
            while let Some(len) = self.engine(index).poll_frame(now, &mut out).expect("room for a frame") {
                for (to, mut frame) in self.cloud.frame(index, out[..len].to_vec()) {
                    self.engine(to).control(now, &mut frame).expect("the server's word");
                    busy.insert(to);
                }
                busy.insert(index);
            }
        }
    }

    /// Brings a datagram to where it goes; to whom.
    fn deliver(&mut self, from: u32, to: SocketAddr, datagram: &[u8]) -> u32 {
        if to == SERVER {
            let (index, mut datagram) = self.cloud.relay(from, datagram);
            self.receive(index, SERVER, &mut datagram);
            return index;
        }
        let index = self.places[&to];
        let remote = self.addresses[from as usize - 1];
        self.receive(index, remote, &mut datagram.to_vec());
        index
    }

    fn receive(&mut self, index: u32, remote: SocketAddr, datagram: &mut [u8]) {
        let now = self.now;
        let engine = self.engine(index);
        match engine.classify(now, From::Socket { local: 0, remote }, datagram) {
            Classified::Data(ticket, source, start) => {
                let key = engine.tunnels().recv_key::<ChaChaPoly>(ticket.key).expect("a session's key");
                let len = datagram.len() - start;
                let mut packet = Packet::new(datagram, start, len).expect("a place in the datagram");
                let opened = tunnel::open(&key, ticket, &mut packet).expect("an authentic datagram");
                let verdict = engine.inbound(now, source, opened, &mut packet);
                assert_eq!(verdict, Inbound::Handled, "only engines talk here");
            }
            Classified::Message(sender, start) => engine.message(now, sender, &mut datagram[start..]),
            Classified::Handled => {}
            Classified::Drop(reason) => panic!("node {index} dropped a datagram: {}", reason.name()),
        }
    }
}

/// Whether whoever is a peer is reached directly with the largest packet.
fn is_direct(engine: &Engine<'_>, now: Instant) -> bool {
    engine
        .peers(now)
        .all(|peer| peer.up && peer.path.mtu >= MTU && matches!(peer.path.route, Some(Route::Direct { .. })))
}

#[cfg(test)]
mod tests;
