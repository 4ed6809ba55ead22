//! The shell of one engine: seals, opens and keeps packets as the engine says.

use edgemesh_core::control::{Authority, Credentials};
use edgemesh_core::dns::{self, Domain, PodRecords, Settings, Verdict};
use edgemesh_core::memory::Resources;
use edgemesh_core::node::{
    Burst, Classified, Config, Destination, Engine, Event, From, Grant, Inbound, Outbound, Ticket, Way,
};
use edgemesh_core::noise::{ChaChaPoly, StaticSecret};
use edgemesh_core::packet::{HEADROOM, Packet, TAILROOM};
use edgemesh_core::path::{self, Local};
use edgemesh_core::time::Instant;
use edgemesh_core::tunnel;
use std::net::SocketAddr;

use crate::Result;

/// A node: its engine, and what its shell holds.
pub(crate) struct Node<'a> {
    pub(crate) engine: Engine<'a>,
    /// Packets that wait for a session.
    waiting: Vec<Vec<u8>>,
    /// Datagrams for the wire.
    pub(crate) sent: Vec<(SocketAddr, Vec<u8>)>,
    /// Packets for the programs on this node.
    pub(crate) delivered: Vec<Vec<u8>>,
}

impl<'a> Node<'a> {
    pub(crate) fn new(
        name: &str,
        identity: StaticSecret,
        root: [u8; 32],
        address: SocketAddr,
        memory: Resources<'a>,
        seed: [u8; 32],
    ) -> Result<Self> {
        let name = heapless::String::try_from(name)?;
        let config = Config {
            identity,
            credentials: Credentials {
                name,
                secret: None,
                account: false,
                agent: "example",
                feed: edgemesh_core::control::Feed::None,
            },
            authority: Authority { root, directory: [0; 32], epoch: 0 },
            dns: Settings {
                domain: Domain::new("cluster.local")?,
                ttl: 30,
                negative_ttl: 30,
                address: None,
                pods: PodRecords::Insecure,
                recursion: false,
            },
            paths: path::Config { inner_mtu_max: 1408 },
            stamp: 0,
            seed,
        };
        let mut engine = Engine::new(Instant::ZERO, memory, config);
        engine.set_local(Instant::ZERO, &[Local { socket: 0, address }]);
        Ok(Self { engine, waiting: Vec::new(), sent: Vec::new(), delivered: Vec::new() })
    }

    /// Asks the engine's DNS.
    pub(crate) fn resolve(&mut self, now: Instant, name: &str) -> Result<[u8; 4]> {
        let mut query = vec![0, 1, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
        for label in name.split('.') {
            query.push(u8::try_from(label.len())?);
            query.extend(label.as_bytes());
        }
        query.extend([0, 0, 1, 0, 1]);
        let mut out = [0; 512];
        match self.engine.query(now, dns::Transport::Udp, &query, &mut out) {
            Verdict::Answer { len, .. } => {
                let address = out.get(..len).and_then(|answer| answer.last_chunk::<4>());
                Ok(*address.ok_or("an empty answer")?)
            }
            other => Err(format!("{name}: {other:?}").into()),
        }
    }

    /// A program of this node sends a packet.
    pub(crate) fn send(&mut self, now: Instant, packet: &[u8]) -> Result<()> {
        let mut buffer = with_room(packet);
        let mut view = Packet::new(&mut buffer, HEADROOM, packet.len())?;
        let verdict = self.engine.outbound(now, &mut view, Burst::single(packet.len()));
        let packet = view.bytes().to_vec();
        self.carry(verdict, packet)
    }

    fn carry(&mut self, verdict: Outbound, packet: Vec<u8>) -> Result<()> {
        match verdict {
            Outbound::Seal(grant) => self.seal(&grant, &packet)?,
            Outbound::Park(_) => self.waiting.push(packet),
            Outbound::Hairpin => self.delivered.push(packet),
            Outbound::Reply(len) => self.delivered.push(packet.get(..len).unwrap_or_default().to_vec()),
            Outbound::HandOver(_) => return Err("nobody asked for it".into()),
            Outbound::Drop(reason) => return Err(reason.into()),
        }
        Ok(())
    }

    fn seal(&mut self, grant: &Grant, packet: &[u8]) -> Result<()> {
        let key =
            self.engine.tunnels().send_key::<ChaChaPoly>(grant.sending.key).ok_or("a key that is gone")?;
        let mut buffer = with_room(packet);
        let mut view = Packet::new(&mut buffer, HEADROOM, packet.len())?;
        tunnel::seal(&key, grant.sending.first, &mut view, usize::MAX)?;
        for Way { envelope, to } in [Some(grant.first), grant.copy].into_iter().flatten() {
            let envelope = envelope.as_ref().map_or(&[][..], |bytes| bytes);
            self.emit(to, [envelope, view.bytes()].concat());
        }
        Ok(())
    }

    fn emit(&mut self, to: Destination, datagram: Vec<u8>) {
        match to {
            Destination::Socket { remote, .. } => self.sent.push((remote, datagram)),
            // UDP is never blocked here.
            Destination::RelayTcp => {}
        }
    }

    /// A datagram from the wire.
    pub(crate) fn receive(&mut self, now: Instant, remote: SocketAddr, mut datagram: Vec<u8>) -> Result<()> {
        match self.engine.classify(now, From::Socket { local: 0, remote }, &datagram) {
            Classified::Data(ticket, source, start) => {
                let key =
                    self.engine.tunnels().recv_key::<ChaChaPoly>(ticket.key).ok_or("a key that is gone")?;
                let len = datagram.len().saturating_sub(start);
                let mut packet = Packet::new(&mut datagram, start, len)?;
                let opened = tunnel::open(&key, ticket, &mut packet)?;
                let verdict = self.engine.inbound(now, source, opened, &mut packet);
                let packet = packet.bytes().to_vec();
                match verdict {
                    Inbound::Deliver => self.delivered.push(packet),
                    Inbound::Answer(grant) => self.seal(&grant, &packet)?,
                    Inbound::Aside | Inbound::Handled | Inbound::Park(..) => {}
                    Inbound::Drop(reason) => return Err(reason.into()),
                }
            }
            Classified::Message(sender, start) => {
                self.engine.message(now, sender, datagram.get_mut(start..).unwrap_or_default());
            }
            Classified::Handled => {}
            Classified::Drop(reason) => return Err(reason.into()),
        }
        Ok(())
    }

    /// Collects what the engine has to say on the wire, and sends what waited for a session.
    pub(crate) fn drain(&mut self, now: Instant) -> Result<()> {
        while let Some(event) = self.engine.poll_event() {
            let Event::Ready(Ticket::Peer(index)) = event else { continue };
            for packet in std::mem::take(&mut self.waiting) {
                let verdict = self.engine.resume(now, index, Burst::single(packet.len()), packet.len());
                self.carry(verdict, packet)?;
            }
        }
        let mut out = [0; 2048];
        while let Some(datagram) = self.engine.poll_transmit(now, &mut out) {
            self.emit(datagram.to, out.get(datagram.range).unwrap_or_default().to_vec());
        }
        Ok(())
    }
}

/// The packet with the room around it that the tunnel needs.
fn with_room(packet: &[u8]) -> Vec<u8> {
    [&[0; HEADROOM], packet, &[0; TAILROOM]].concat()
}
