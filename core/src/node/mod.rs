//! The composition: one engine out of all machines.
//!
//! **Calls.** [`Engine::outbound`] for packets of the TUN; [`Engine::classify`], then `open` and [`Engine::inbound`],
//! or [`Engine::message`], for datagrams; [`Engine::query`] for DNS; [`Engine::control`] for frames of the server;
//! [`Engine::update`] for what another source says of Services. After each, drain [`Engine::poll_event`],
//! [`Engine::poll_transmit`] and [`Engine::poll_frame`], and call [`Engine::work`] while it says that more waits;
//! call [`Engine::handle_timeout`] at [`Engine::poll_timeout`]. Time is monotonic over all calls.
//!
//! **Bounds.** Those of the machines; memory is lent once ([`crate::memory!`]). The queue of events holds one for
//! each peer and some more; one that does not fit is counted and lost, which costs a packet that was parked.
//!
//! Here machines meet and nothing else happens: no protocol constant, no arithmetic on time, no wire format.

mod inbound;
mod link;
mod outbound;
mod poll;

pub use crate::bridge::{
    Burst, Classified, Config, Destination, Event, From, Grant, Inbound, Outbound, PeerStatus, Sender,
    Ticket, Timer, Transmit, Way,
};

use crate::bridge::{TableZone, Timers};
use crate::control::Link;
use crate::counters::{Counters, DropReason};
use crate::dns::{Responder, Transport, Verdict};
use crate::flow::{Flows, Mesh};
use crate::memory::Resources;
use crate::path::Paths;
use crate::peer::{Lookups, Peers, Wanted};
use crate::rng::Rng;
use crate::service::{Table, TableError, Update};
use crate::storage::Ring;
use crate::time::Instant;
use crate::tunnel::{PeerId, Tunnels};

/// How many nodes a DNS answer warms a tunnel to.
const WARM: usize = 4;

/// The engine.
pub struct Engine<'a> {
    /// This node's index; 0 before it has joined.
    own: u32,
    rng: Rng,
    counters: Counters,
    responder: Responder,
    peers: Peers<'a>,
    lookups: Lookups<'a>,
    services: Table<'a>,
    flows: Flows<'a>,
    tunnels: Tunnels<'a>,
    paths: Paths<'a>,
    link: Link,
    timers: Timers<'a>,
    events: Ring<'a, Event>,
}

impl<'a> Engine<'a> {
    /// An engine over all-zero memory, or over such memory with the flows of an earlier run, which go on.
    pub fn new(now: Instant, memory: Resources<'a>, config: Config) -> Self {
        let mut rng = Rng::new(config.seed);
        let peers = u32::try_from(memory.peers.len()).unwrap_or(u32::MAX);
        let flows = Flows::adopt(now, memory.flows, Mesh::NONE, &mut rng);
        let mut timers = Timers::new(memory.deadlines, peers);
        for (slot, at) in flows.deadlines() {
            timers.set(Timer::Flow(slot), Some(at));
        }
        Self {
            own: 0,
            counters: Counters::ZERO,
            responder: Responder::new(config.dns),
            peers: Peers::new(memory.peers, memory.peer_index),
            lookups: Lookups::new(memory.lookups),
            services: Table::new(memory.services, &mut rng),
            flows,
            tunnels: Tunnels::new(memory.tunnels, config.identity.clone(), config.stamp),
            paths: Paths::new(memory.paths, config.paths, &mut rng),
            link: Link::new(config.identity, config.credentials, config.authority),
            timers,
            events: Ring::new(memory.events),
            rng,
        }
    }

    /// Answers a DNS query into `out`; an answered name starts the tunnels to who serves it.
    pub fn query(&mut self, now: Instant, transport: Transport, query: &[u8], out: &mut [u8]) -> Verdict {
        let rotate = self.rng.u32();
        let zone = TableZone { table: &self.services, own: self.own, mesh: self.flows.mesh() };
        let verdict = self.responder.query(&zone, query, transport, rotate, out);
        match verdict {
            Verdict::Answer { service: Some(service), .. } => self.warm(now, service),
            Verdict::Drop(reason) => {
                self.count(reason);
            }
            _ => {}
        }
        verdict
    }

    /// Takes one step of a table update from a source other than the server.
    ///
    /// # Errors
    /// [`TableError`]; the old definition stays in force.
    pub fn update(&mut self, update: &Update<'_>) -> Result<(), TableError> {
        self.services.apply(update)
    }

    /// The Services.
    pub fn services(&self) -> &Table<'a> {
        &self.services
    }

    /// The flows.
    pub fn flows(&self) -> &Flows<'a> {
        &self.flows
    }

    /// The drop counters.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// The paths.
    pub fn paths(&self) -> &Paths<'a> {
        &self.paths
    }

    /// The tunnels, for the keys of grants and tickets.
    pub fn tunnels(&self) -> &Tunnels<'a> {
        &self.tunnels
    }

    /// The control connection.
    pub fn link(&self) -> &Link {
        &self.link
    }

    /// This node's index, 0 before it has joined.
    pub fn own_index(&self) -> u32 {
        self.own
    }

    /// The index of a peer's node; 0 when it is not known any more.
    pub fn index_of(&self, peer: PeerId) -> u32 {
        self.peers.index(peer.0)
    }

    /// Every known peer.
    pub fn peers(&self, now: Instant) -> impl Iterator<Item = PeerStatus> + '_ {
        self.peers.iter().map(move |(id, index)| PeerStatus {
            index,
            path: self.paths.info(now, crate::path::PeerId(id)),
            up: self.tunnels.is_up(PeerId(id)),
            handshake: self.tunnels.last_handshake(PeerId(id)).map(|at| now.since(at)),
            traffic: self.peers.traffic(id),
        })
    }

    /// Starts a session with the node of this index, unless there is one.
    pub fn connect(&mut self, now: Instant, index: u32) {
        match self.peers.find(index) {
            _ if index == 0 || index == self.own => {}
            Some(id) if self.tunnels.is_up(PeerId(id)) => {}
            Some(id) if self.way_to(now, PeerId(id)).is_some() => self.tunnels.initiate(now, PeerId(id)),
            known => {
                let wait = match known {
                    Some(id) => self.wait_for(now, id, index),
                    None => self.lookups.want(now, index),
                };
                if wait == Wanted::Full {
                    self.count(DropReason::QueueFull);
                }
            }
        }
        self.settle(now);
    }

    /// Measures the round trip to the node of this index by the way in use: [`Event::Pong`], or silence. False
    /// without a session.
    pub fn ping(&mut self, now: Instant, index: u32) -> bool {
        let peer = self.peers.find(index).filter(|id| self.tunnels.is_up(PeerId(*id)));
        if let Some(id) = peer {
            self.paths.ping(now, crate::path::PeerId(id));
            self.settle(now);
        }
        peer.is_some()
    }

    fn warm(&mut self, now: Instant, service: u32) {
        let mut nodes = heapless::Vec::<u32, WARM>::new();
        let endpoints = self.services.service_by_id(service).into_iter().flat_map(|s| s.endpoints());
        for endpoint in endpoints.filter(|e| e.ready()) {
            if nodes.is_full() {
                break;
            }
            if !nodes.contains(&endpoint.node()) {
                let _ = nodes.push(endpoint.node());
            }
        }
        for node in nodes {
            self.connect(now, node);
        }
    }

    fn count(&mut self, reason: DropReason) -> DropReason {
        self.counters.count(reason);
        reason
    }

    fn tell(&mut self, event: Event) {
        if self.events.push(event).is_err() {
            self.count(DropReason::QueueFull);
        }
    }
}

/// The path layer's name for a peer.
fn path_peer(peer: PeerId) -> crate::path::PeerId {
    crate::path::PeerId(peer.0)
}
