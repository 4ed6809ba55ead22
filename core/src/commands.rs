//! What a shell tells an [`Engine`] that concerns one machine alone. Where several meet it is in [`node`](crate::node);
//! what may be read is in `inspect`.

use crate::control::Question;
use crate::counters::DropReason;
use crate::dns::PodRecords;
use crate::node::Engine;
use crate::noise::StaticSecret;
use crate::packet::Packet;
use crate::path::Local;
use crate::service::Reached;
use crate::time::Instant;
use crate::tunnel::MeshPsk;
use core::net::{IpAddr, SocketAddr};

impl Engine<'_> {
    /// Writes a message of the shell's for the control connection into `out`, of at least 1,600 bytes; `None` while
    /// it has no place there (see [`Link::ask`](crate::control::Link::ask)). Answers come by [`Engine::control`].
    ///
    /// # Errors
    /// [`DropReason::NoRoom`] for a shorter `out`.
    pub fn ask(&mut self, question: &Question<'_>, out: &mut [u8]) -> Result<Option<usize>, DropReason> {
        self.link.ask(question, out)
    }

    /// The TCP relay connection stands.
    pub fn relay_tcp_up(&mut self, now: Instant) {
        self.paths.relay_tcp_up(now);
        self.settle(now);
    }

    /// The TCP relay connection failed or broke.
    pub fn relay_tcp_down(&mut self, now: Instant) {
        self.paths.relay_tcp_down(now);
        self.settle(now);
    }

    /// The addresses of this node that a peer may reach it by, best first.
    pub fn set_local(&mut self, now: Instant, found: &[Local]) {
        self.paths.set_local(now, found);
        self.settle(now);
    }

    /// The node of this index was reached directly at `remote` in an earlier life. Where there is no other way to it, it is
    /// called there: see [`Paths::hint`](crate::path::Paths::hint).
    pub fn hint(&mut self, now: Instant, index: u32, remote: SocketAddr) {
        if let Some(peer) = self.peers.find(index) {
            self.paths.hint(peer, u8::from(remote.is_ipv6()), remote);
            self.connect(now, index);
        }
    }

    /// This node has another key from here on, and answers to the present one until
    /// [`Engine::forget_key_before`]. The directory must know it: the next control connection is made with it.
    pub fn rotate(&mut self, secret: &StaticSecret) {
        self.tunnels.rotate(secret.clone());
        self.link.rotate(secret.clone());
    }

    /// This node had this key before the present one, and answers to it.
    pub fn answer_to(&mut self, before: StaticSecret) {
        self.tunnels.answer_to(before);
    }

    /// It answers to its present key only.
    pub fn forget_key_before(&mut self) {
        self.tunnels.forget_before();
    }

    /// The keys that the nodes of the mesh share are these, from the next handshakes on.
    pub fn set_psk(&mut self, psk: MeshPsk) {
        self.tunnels.set_psk(psk);
    }

    /// A feed of this sequence was taken before the last restart: none before it is.
    pub fn set_feed_floor(&mut self, sequence: u64) {
        self.link.set_floor(sequence);
    }

    /// Forgets what part of the feed this node holds: the next connection brings the whole table.
    pub fn forget_feed(&mut self) {
        self.link.set_sequence(0);
    }

    /// Measures the round trip to the node of this index by the way in use:
    /// [`Event::Pong`](crate::node::Event::Pong), or silence. False without a session.
    pub fn ping(&mut self, now: Instant, index: u32) -> bool {
        let peer = self.peers.find(index).filter(|id| self.tunnels.is_up(*id));
        if let Some(id) = peer {
            self.paths.ping(now, id);
            self.settle(now);
        }
        peer.is_some()
    }

    /// The endpoints of this node that do not answer are these: see [`Peers::set_down`](crate::peer::Peers::set_down).
    pub fn set_down(&mut self, now: Instant, down: &[IpAddr]) {
        self.peers.set_down(now, self.own, down);
    }

    /// The addresses of other nodes that this node's kernel reaches: see
    /// [`Table::set_reached`](crate::service::Table::set_reached).
    pub fn set_reached(&mut self, list: &[Reached]) {
        self.services.set_reached(list);
    }

    /// Names of pods are answered in this way from here on.
    pub fn answer_pods(&mut self, pods: PodRecords) {
        self.responder.set_pods(pods);
    }

    /// Whether connections whose endpoint this node's kernel reaches are handed over to it from here on
    /// ([`Outbound::HandOver`](crate::node::Outbound::HandOver)).
    pub fn hand_over(&mut self, on: bool) {
        self.services.set_hands_over(on);
    }

    /// The connection of this packet, which was to be handed over, is carried here after all.
    pub fn keep_flow(&mut self, packet: &Packet<'_>) {
        self.flows.keep(packet);
    }

    /// Services are fed on demand from here on: held while they are used, or while this node has endpoints of them.
    pub fn hold_on_demand(&mut self) {
        self.services.hold_on_demand();
    }
}
