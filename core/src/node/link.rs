//! What the server says, carried out.

use super::{Engine, Event, Ticket};
use crate::bridge::{ask_again, feed, put_out, settle, terms};
use crate::control::{Message, Network, Peer, Revocation, Welcome, updates};
use crate::counters::DropReason;
use crate::flow::Mesh;
use crate::noise::PublicKey;
use crate::peer::Learned;
use crate::time::Instant;
use core::net::SocketAddr;

impl Engine<'_> {
    /// The control connection to the server at this address stands.
    pub fn control_up(&mut self, now: Instant, server: SocketAddr) {
        self.link.connected(now, server);
        self.settle(now);
    }

    /// It is gone.
    pub fn control_down(&mut self, now: Instant) {
        self.link.disconnected();
        self.paths.control_lost(now);
        self.settle(now);
    }

    /// Takes a frame of the control connection, acts on its message, and returns it for the shell to store.
    ///
    /// # Errors
    /// Why the frame was refused. When [`super::Engine::link`] says that it must close, the connection is of no
    /// use any more.
    pub fn control<'f>(
        &mut self,
        now: Instant,
        frame: &'f mut [u8],
    ) -> Result<Option<Message<'f>>, DropReason> {
        let result = self.link.frame(now, frame).and_then(|message| {
            message.iter().try_for_each(|message| self.act(now, message))?;
            Ok(message)
        });
        self.settle(now);
        result.map_err(|reason| self.count(reason))
    }

    /// Takes in a revocation that the directory signed, now or before the last restart, with its number, if it is the
    /// next one. Whatever the node says from here on is dropped.
    pub fn revoke(&mut self, now: Instant, numbered: (u32, Revocation)) {
        let Self { peers, tunnels, paths, link, .. } = self;
        if let Some(gone) = put_out(peers, tunnels, paths, link, numbered) {
            self.tell(Event::Expired(Ticket::Peer(gone)));
            self.settle(now);
        }
    }

    /// Takes in a peer's record, and its relay sessions if the server gave any.
    ///
    /// # Errors
    /// When the directory did not sign it, when it is older than the one at hand, or when there is no place.
    pub fn learn(&mut self, now: Instant, peer: &Peer<'_>) -> Result<(), DropReason> {
        let record = self.link.authority().record(&peer.record)?;
        self.link.expect_revocations(record.listed);
        if record.index == self.own {
            return Ok(());
        }
        let learned = self.peers.learn(now, &record);
        let Learned { id, replaced } = learned.inspect_err(|_| self.lookups.refused(now, record.index))?;
        if replaced || !self.tunnels.rekey_peer(now, id, &PublicKey(record.key)) {
            self.tunnels.remove_peer(id);
            self.paths.remove(id);
        }
        self.tunnels.add_peer(id, &PublicKey(record.key), None).map_err(|_| DropReason::PeersFull)?;
        let before = self.way_to(now, id);
        if peer.send_session != 0 {
            self.paths.set_sessions(now, id, peer.send_session, peer.receive_session)?;
        }
        self.tunnels.found(now, id, self.lookups.answered(record.index), [before, self.way_to(now, id)]);
        self.tell(Event::Ready(Ticket::Peer(record.index)));
        self.settle(now);
        Ok(())
    }

    fn act(&mut self, now: Instant, message: &Message<'_>) -> Result<(), DropReason> {
        match message {
            Message::Welcome(welcome) => self.welcome(now, welcome),
            Message::Peer(peer) => self.learn(now, peer),
            Message::NoPeer { index, .. } => {
                self.lookups.refused(now, *index);
                Ok(())
            }
            Message::Feed(body) => self.feed(now, body),
            Message::FeedCommit(commit) => {
                self.link.authority().commit(commit)?;
                self.link.set_sequence(commit.sequence);
                self.tell(Event::ServicesChanged);
                Ok(())
            }
            Message::Revocations(all) => all.numbered().try_for_each(|e| e.map(|e| self.revoke(now, e))),
            Message::Answer(answer) => {
                settle(&mut self.services, &mut self.lookups, now, answer.key, answer.found);
                self.link.set_sequence(answer.sequence);
                self.tell(Event::Ready(Ticket::Service(answer.key)));
                Ok(())
            }
            // No packet waits for a name, and the rest is for the shell.
            _ => Ok(()),
        }
    }

    // Apart, or its frame would lie below the checks of signatures.
    #[inline(never)]
    fn feed(&mut self, now: Instant, body: &[u8]) -> Result<(), DropReason> {
        for update in updates(body) {
            let Self { services, flows, lookups, own, .. } = self;
            if feed(services, flows, lookups, *own, now, &update?).is_err() {
                self.count(DropReason::Table);
            }
        }
        Ok(())
    }

    fn welcome(&mut self, now: Instant, welcome: &Welcome<'_>) -> Result<(), DropReason> {
        let index = self.link.authority().record(&welcome.record)?.index;
        self.join(index, &welcome.network);
        self.tunnels.not_before(welcome.unix_secs);
        if let Some(server) = self.link.server() {
            self.paths.welcome(now, &terms(server, index, welcome));
        }
        self.services.hear_again();
        ask_again(&mut self.peers, &self.tunnels, &mut self.lookups, &self.link, now);
        Ok(())
    }

    /// This node's place in the mesh, from a welcome or from what the shell kept of an earlier one.
    pub fn join(&mut self, index: u32, network: &Network) {
        self.own = index;
        let mesh = Mesh::new(*network, index);
        self.flows.set_mesh(mesh);
        self.services.set_mesh(mesh);
        self.paths.set_network(network);
    }
}
