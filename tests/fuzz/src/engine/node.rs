//! One engine and what its shell keeps: packets that wait, datagrams and frames that it wants sent, what it delivered.

use super::cloud;
use edgemesh_core::control::{Authority, Credentials, Feed};
use edgemesh_core::dns::{Domain, PodRecords, Settings};
use edgemesh_core::memory::Resources;
use edgemesh_core::node::{
    Burst, Classified, Config, Destination, Engine, Event, From, Grant, Inbound, Outbound, Ticket, Way,
};
use edgemesh_core::noise::ChaChaPoly;
use edgemesh_core::packet::{HEADROOM, Packet, TAILROOM};
use edgemesh_core::path::{self, Local};
use edgemesh_core::time::{Duration, Instant, WallTime};
use edgemesh_core::wire::ip::{self, Transport};
use edgemesh_core::{PeerId, tunnel};
use std::collections::BTreeMap;
use std::net::SocketAddr;

/// More turns than any input can honestly need before a node is silent.
const TURNS: usize = 10_000;

enum Origin {
    Tun,
    Peer(PeerId),
}

pub(crate) struct Node<'a> {
    pub(crate) engine: Engine<'a>,
    parked: BTreeMap<Ticket, Vec<(Origin, Vec<u8>)>>,
    pub(crate) sent: Vec<(Destination, Vec<u8>)>,
    pub(crate) frames: Vec<Vec<u8>>,
    pub(crate) delivered: Vec<Vec<u8>>,
}

fn with_room(packet: &[u8]) -> Vec<u8> {
    [&[0; HEADROOM], packet, &[0; TAILROOM]].concat()
}

impl<'a> Node<'a> {
    pub(crate) fn new(index: u32, address: SocketAddr, feed: Feed, memory: Resources<'a>) -> Self {
        let name = cloud::NAMES[index as usize - 1];
        let config = Config {
            identity: cloud::identity(index),
            credentials: Credentials {
                name: heapless::String::try_from(name).expect("a short name"),
                secret: None,
                account: false,
                agent: "fuzz",
                feed,
            },
            authority: Authority { root: cloud::root(), directory: [0; 32], epoch: 0 },
            dns: Settings {
                domain: Domain::new("cluster.local").expect("a good name"),
                ttl: 30,
                negative_ttl: 30,
                address: None,
                pods: PodRecords::Verified,
                recursion: true,
            },
            paths: path::Config { inner_mtu_max: 1_408 },
            stamp: 0,
            seed: [index as u8; 32],
        };
        let mut engine = Engine::new(Instant::ZERO, memory, config);
        engine.set_local(Instant::ZERO, &[Local { socket: 0, address }]);
        Self { engine, parked: BTreeMap::new(), sent: Vec::new(), frames: Vec::new(), delivered: Vec::new() }
    }

    pub(crate) fn parked(&self) -> usize {
        self.parked.values().map(Vec::len).sum()
    }

    /// A packet from the TUN; `segments` above one for a super-packet.
    pub(crate) fn outbound(&mut self, now: Instant, packet: &[u8], burst: Burst) {
        let mut buffer = with_room(packet);
        let mut view = Packet::new(&mut buffer, HEADROOM, packet.len()).expect("room");
        let verdict = self.engine.outbound(now, &mut view, burst);
        let packet = view.bytes().to_vec();
        self.carry(verdict, packet);
    }

    fn carry(&mut self, verdict: Outbound, packet: Vec<u8>) {
        match verdict {
            Outbound::Seal(grant) => self.seal(&grant, &packet),
            Outbound::Hairpin => self.delivered.push(packet),
            Outbound::Reply(len) => self.delivered.push(packet[..len].to_vec()),
            Outbound::Park(ticket) => {
                let waiting = self.parked.entry(ticket).or_default();
                // A shell has so many buffers and no more.
                if waiting.len() < 8 {
                    waiting.push((Origin::Tun, packet));
                }
            }
            Outbound::HandOver(_) | Outbound::Drop(_) => {}
        }
    }

    fn seal(&mut self, grant: &Grant, packet: &[u8]) {
        let pieces = match grant.split {
            Some(mtu) => {
                let t = Transport::parse(packet).expect("a packet to be cut can be read");
                let mut piece = [0; 2_048];
                let cut = (0..).map_while(|n| {
                    let len =
                        ip::split(packet, &t, mtu, n, &mut piece).expect("a packet to be cut can be cut")?;
                    Some(piece[..len].to_vec())
                });
                cut.collect()
            }
            // Segmenting is the shell's: here all of a super-packet's segments are alike.
            None => vec![packet.to_vec(); usize::from(grant.sending.count).min(4)],
        };
        if grant.split.is_some() {
            assert_eq!(pieces.len(), usize::from(grant.sending.count), "one counter for each piece");
        }
        let key =
            self.engine.tunnels().send_key::<ChaChaPoly>(grant.sending.key).expect("a granted key is there");
        for (counter, piece) in (grant.sending.first..).zip(pieces) {
            let mut buffer = with_room(&piece);
            let mut view = Packet::new(&mut buffer, HEADROOM, piece.len()).expect("room");
            tunnel::seal(&key, counter, &mut view, usize::MAX).expect("room for the tunnel's bytes");
            for Way { envelope, to } in [Some(grant.first), grant.copy].into_iter().flatten() {
                let envelope = envelope.as_ref().map_or(&[][..], |bytes| bytes);
                self.sent.push((to, [envelope, view.bytes()].concat()));
            }
        }
    }

    /// A datagram from the network.
    pub(crate) fn receive(&mut self, now: Instant, from: From, datagram: &[u8]) {
        match self.engine.classify(now, from, datagram) {
            Classified::Data(ticket, source, start) => {
                let key = self
                    .engine
                    .tunnels()
                    .recv_key::<ChaChaPoly>(ticket.key)
                    .expect("a ticket's key is there");
                let mut buffer = with_room(datagram);
                let len = datagram.len() - start;
                let mut view = Packet::new(&mut buffer, HEADROOM + start, len).expect("room");
                match tunnel::open(&key, ticket, &mut view) {
                    Ok(opened) => {
                        let verdict = self.engine.inbound(now, source, opened, &mut view);
                        let packet = view.bytes().to_vec();
                        self.accept(verdict, packet);
                    }
                    Err(reason) => _ = self.engine.count(reason),
                }
            }
            Classified::Message(sender, start) => {
                self.engine.message(now, sender, &mut datagram[start..].to_vec());
            }
            Classified::Handled | Classified::Drop(_) => {}
        }
    }

    fn accept(&mut self, verdict: Inbound, packet: Vec<u8>) {
        match verdict {
            Inbound::Deliver => self.delivered.push(packet),
            Inbound::Answer(grant) => self.seal(&grant, &packet),
            Inbound::Park(ticket, peer) => {
                let waiting = self.parked.entry(ticket).or_default();
                if waiting.len() < 8 {
                    waiting.push((Origin::Peer(peer), packet));
                }
            }
            // What shells say to each other is nothing to pods.
            Inbound::Aside | Inbound::Handled | Inbound::Drop(_) => {}
        }
    }

    /// Everything that the engine has to do and to say without time passing.
    pub(crate) fn drain(&mut self, now: Instant) {
        let mut out = [0; 2_048];
        for _ in 0..TURNS {
            let more = self.engine.work(now, wall(now));
            let mut busy = more;
            while let Some(event) = self.engine.poll_event() {
                busy = true;
                self.event(now, event);
            }
            while let Some(transmit) = self.engine.poll_transmit(now, &mut out) {
                busy = true;
                self.sent.push((transmit.to, out[transmit.range].to_vec()));
            }
            while let Some(len) = self.engine.poll_frame(now, &mut out).expect("room for a frame") {
                busy = true;
                self.frames.push(out[..len].to_vec());
                // The answer is taken before the next frame is asked for, as a handshake needs.
                if !self.engine.link().is_up() {
                    break;
                }
            }
            if !busy || !self.engine.link().is_up() && !self.frames.is_empty() {
                return;
            }
        }
        panic!("output without end");
    }

    fn event(&mut self, now: Instant, event: Event) {
        match event {
            Event::Ready(ticket) => {
                for (origin, packet) in self.parked.remove(&ticket).unwrap_or_default() {
                    match (origin, ticket) {
                        (Origin::Tun, Ticket::Peer(index)) => {
                            let burst = Burst::single(packet.len());
                            let verdict = self.engine.resume(now, index, burst, packet.len());
                            self.carry(verdict, packet);
                        }
                        (Origin::Tun, _) => self.outbound(now, &packet, Burst::single(packet.len())),
                        (Origin::Peer(peer), _) => {
                            let mut buffer = with_room(&packet);
                            let mut view = Packet::new(&mut buffer, HEADROOM, packet.len()).expect("room");
                            let verdict = self.engine.again(now, peer, &mut view);
                            let packet = view.bytes().to_vec();
                            self.accept(verdict, packet);
                        }
                    }
                }
            }
            Event::Expired(ticket) => drop(self.parked.remove(&ticket)),
            _ => {}
        }
    }

    /// Handles what is due, and holds the engine to its deadlines: afterwards the next one is later, or something
    /// came out.
    pub(crate) fn time(&mut self, now: Instant) {
        let mut fruitless = 0;
        for _ in 0..TURNS {
            let Some((at, timer)) = self.engine.poll_timeout().filter(|(at, _)| *at <= now) else { return };
            let before = self.sent.len() + self.frames.len();
            self.engine.handle_timeout(now);
            self.drain(now);
            let after = self.engine.poll_timeout();
            let progress =
                self.sent.len() + self.frames.len() > before || after.is_none_or(|(next, _)| next > at);
            fruitless = if progress { 0 } else { fruitless + 1 };
            assert!(fruitless < 3, "the deadline for {timer:?} makes no progress");
        }
        panic!("deadlines without end");
    }
}

fn wall(now: Instant) -> WallTime {
    let micros = now.as_micros();
    WallTime { secs: 1_700_000_000 + micros / 1_000_000, nanos: (micros % 1_000_000) as u32 * 1_000 }
}

/// As long as any flow, session or lookup may live without a packet, and longer.
pub(crate) const LONG: Duration = Duration::from_secs(26 * 3_600);
