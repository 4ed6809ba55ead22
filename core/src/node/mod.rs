//! The composition: one engine out of all machines.
//!
//! **Calls.** [`Engine::outbound`] for packets of the TUN; [`Engine::classify`], then `open` and [`Engine::inbound`]
//! ([`Engine::arrive`] where packets are joined), or [`Engine::message`], for datagrams; [`Engine::query`] for DNS;
//! [`Engine::control`] for frames of the server; [`Engine::update`] for what another source says of Services. After each,
//! drain [`Engine::poll_event`], [`Engine::poll_transmit`] and [`Engine::poll_frame`], and call [`Engine::work`] while it
//! says that more waits; call [`Engine::handle_timeout`] at [`Engine::poll_timeout`]. Time is monotonic over all calls.
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
    Arrived, Burst, Classified, Config, Destination, Event, From, Grant, Inbound, NoPacket, Outbound,
    PeerStatus, Sender, Ticket, Timer, Transmit, Way,
};

use crate::bridge::{TableZone, Timers};
use crate::control::Link;
use crate::counters::{Counters, DropReason};
use crate::dns::{Responder, Transport, Verdict};
use crate::flow::{Flows, Mesh};
use crate::memory::Resources;
use crate::path::Paths;
use crate::peer::{Lookups, Peers};
use crate::rng::Rng;
use crate::service::{Table, TableError, Update};
use crate::storage::Ring;
use crate::time::Instant;
use crate::tunnel::Tunnels;

/// How many nodes a DNS answer warms a tunnel to.
const WARM: usize = 4;

/// The engine.
pub struct Engine<'a> {
    /// This node's index; 0 before it has joined.
    pub(crate) own: u32,
    pub(crate) rng: Rng,
    pub(crate) counters: Counters,
    pub(crate) responder: Responder,
    pub(crate) peers: Peers<'a>,
    pub(crate) lookups: Lookups<'a>,
    pub(crate) services: Table<'a>,
    pub(crate) flows: Flows<'a>,
    pub(crate) tunnels: Tunnels<'a>,
    pub(crate) paths: Paths<'a>,
    pub(crate) link: Link,
    pub(crate) timers: Timers<'a>,
    pub(crate) events: Ring<'a, Event>,
}

impl<'a> Engine<'a> {
    /// An engine over all-zero memory, or over such memory with the flows of an earlier run, which go on.
    pub fn new(now: Instant, memory: Resources<'a>, config: Config) -> Self {
        let mut rng = Rng::new(config.seed);
        let peers = u32::try_from(memory.peers.len()).unwrap_or(u32::MAX);
        let flows = Flows::new(now, memory.flows, Mesh::NONE, &mut rng);
        let timers = Timers::new(memory.deadlines, peers, flows.deadlines());
        Self {
            own: 0,
            counters: Counters::ZERO,
            responder: Responder::new(config.dns),
            peers: Peers::new(memory.peers, memory.peer_index, memory.down, memory.revoked),
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
        let zone = TableZone::new(&self.services, &self.lookups, self.own, self.flows.mesh());
        let verdict = self.responder.query(&zone, query, transport, rotate, out);
        if let Some(key) = zone.missed.get() {
            let wait = self.lookups.want(now, key).map_or_else(Verdict::Drop, |()| Verdict::Wait(key));
            self.settle(now);
            return wait;
        }
        match verdict {
            Verdict::Answer { service: Some(service), .. } => {
                self.services.touch(service);
                for node in self.services.nodes_of::<WARM>(service) {
                    self.connect(now, node);
                }
            }
            Verdict::Drop(reason) => _ = self.count(reason),
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

    /// Starts a session with the node of this index, unless there is one.
    pub fn connect(&mut self, now: Instant, index: u32) {
        match self.peers.find(index) {
            _ if index == 0 || index == self.own => {}
            Some(id) if self.tunnels.is_up(id) => {}
            Some(id) if self.way_to(now, id).is_some() => self.tunnels.initiate(now, id),
            _ => _ = self.wait_for(now, index),
        }
        self.settle(now);
    }

    /// Counts a drop, also one by the shell: a datagram that it could not open.
    pub fn count(&mut self, reason: DropReason) -> DropReason {
        self.counters.count(reason);
        reason
    }

    fn tell(&mut self, event: Event) {
        if self.events.push(event).is_err() {
            self.count(DropReason::QueueFull);
        }
    }
}
