//! A whole node in virtual time: the engine, and around it what an agent's data thread and connections do.
//!
//! Packets that wait are kept here, sealed and opened as the engine says; the TUN ends at the [`Pods`]. A restart
//! is a new engine over new memory with what was on the disk: identity, stamp, membership, records, Services.
//!
//! It deliberately sends each packet alone: offloads are the agent's own matter.

use crate::pods::Pods;
use crate::server;
use crate::stream::Stream;
use edgemesh_core::control::{Authority, Credentials, Message};
use edgemesh_core::dns;
use edgemesh_core::node::{
    Burst, Classified, Config, Destination, Engine, Event, From, Grant, Inbound, Outbound, Ticket, Timer, Way,
};
use edgemesh_core::noise::{ChaChaPoly, StaticSecret};
use edgemesh_core::packet::{HEADROOM, Packet, TAILROOM};
use edgemesh_core::path::{self, Local};
use edgemesh_core::rng::Rng;
use edgemesh_core::time::{Instant, WallTime};
use edgemesh_core::wire::control::{Network, Peer, Preamble, SignedRecord, updates};
use edgemesh_core::wire::ip::{self, Transport};
use edgemesh_core::{PeerId, tunnel};
use edgemesh_testkit::network::Datagram;
use edgemesh_testkit::pipe::{PipeEvent, PipeId};
use edgemesh_testkit::world::{Participant, Transmit};
use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;

/// The node's UDP port.
pub(crate) const PORT: u16 = 20_006;
/// The TUN's MTU is the pods' own; inner packets of this size are probed for.
const MTU: u16 = 1_440;
const BUFFER: usize = 4_096;

edgemesh_core::memory! {
    struct Room {
        peers: 4,
        window: 17,
        handshakes: 4,
        flows: 64,
        admitted: 64,
        services: 4,
        ports: 8,
        endpoints: 4,
        names: 12,
        namespaces: 16,
        side: 16,
    }
}

/// What survives a restart.
pub(crate) struct Disk {
    pub(crate) name: &'static str,
    pub(crate) identity: [u8; 32],
    pub(crate) authority: Authority,
    pub(crate) joined: Option<(u32, Network)>,
    pub(crate) stamp: u64,
    pub(crate) records: BTreeMap<u32, (Vec<u8>, Vec<u8>)>,
    pub(crate) feed: Vec<u8>,
}

enum Origin {
    Tun,
    Peer(PeerId),
}

/// The node.
pub(crate) struct SimNode {
    pub(crate) engine: Engine<'static>,
    pub(crate) disk: Disk,
    pub(crate) pods: Pods,
    /// What shells of other nodes said.
    pub(crate) asides: Vec<Vec<u8>>,
    parked: BTreeMap<Ticket, VecDeque<(Origin, Vec<u8>)>>,
    control: Stream,
    relay: Stream,
    queue: VecDeque<Transmit>,
}

impl SimNode {
    /// Starts on a host with this address.
    pub(crate) fn start(now: Instant, address: SocketAddr, disk: Disk, pods: Pods, rng: &mut Rng) -> Self {
        // An engine lives on borrowed memory; a test has few of them and ends.
        let memory: &'static mut Room = Box::leak(Box::new(Room::ZERO));
        let config = Config {
            identity: StaticSecret::from_bytes(disk.identity),
            credentials: Credentials {
                name: heapless::String::try_from(disk.name).unwrap(),
                secret: disk.joined.is_none().then_some(server::SECRET),
                account: false,
                agent: "simulated",
                feed: edgemesh_core::control::Feed::Whole,
            },
            authority: disk.authority,
            dns: dns::Settings {
                domain: dns::Domain::new("cluster.local").unwrap(),
                ttl: 30,
                negative_ttl: 30,
                address: None,
                pods: dns::PodRecords::Insecure,
                recursion: true,
            },
            paths: path::Config { inner_mtu_max: MTU },
            stamp: disk.stamp,
            seed: rng.bytes(),
        };
        let [control, relay] =
            [server::PORT, server::RELAY_PORT].map(|port| SocketAddr::new(server::ADDRESS, port));
        let mut node = Self {
            engine: Engine::new(now, memory.lend(), config),
            disk,
            pods,
            asides: Vec::new(),
            parked: BTreeMap::new(),
            control: Stream::new(control, Preamble::Control),
            relay: Stream::new(relay, Preamble::Relay),
            queue: VecDeque::new(),
        };
        node.restore(now);
        node.engine.set_local(now, &[Local { socket: 0, address }]);
        node.control.wanted = true;
        node.queue.extend(node.control.connect());
        node
    }

    fn restore(&mut self, now: Instant) {
        if let Some((index, network)) = self.disk.joined {
            self.engine.join(index, &network);
        }
        for (index, (record, signature)) in &self.disk.records {
            let record = SignedRecord { record, signature };
            self.engine.learn(now, &Peer { record, send_session: 0, receive_session: 0 }).unwrap();
            self.engine.connect(now, *index);
        }
        for update in updates(&self.disk.feed) {
            self.engine.update(&update.unwrap()).unwrap();
        }
    }

    /// Packets that wait.
    pub(crate) fn parked(&self) -> usize {
        self.parked.values().map(VecDeque::len).sum()
    }

    /// What the node's DNS says of a Service.
    pub(crate) fn resolve(&mut self, now: Instant, service: &str) -> Option<[u8; 4]> {
        let mut query = vec![0, 1, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
        for label in [service, "default", "svc", "cluster", "local"] {
            query.push(label.len() as u8);
            query.extend(label.as_bytes());
        }
        query.extend([0, 0, 1, 0, 1]);
        let mut out = [0; 512];
        match self.engine.query(now, dns::Transport::Udp, &query, &mut out) {
            // No error, one answer: an A record with its address at the end.
            dns::Verdict::Answer { len, .. } if out[3] & 15 == 0 && out[7] == 1 => {
                out[len - 4..len].try_into().ok()
            }
            _ => None,
        }
    }

    /// Moves packets, datagrams, frames and events until nobody has any.
    fn drive(&mut self, now: Instant) {
        loop {
            let more = self.engine.work(now, wall(now));
            self.drain(now);
            match self.pods.poll_packet() {
                Some(packet) => self.outbound(now, packet),
                None if !more => break,
                None => {}
            }
        }
    }

    fn drain(&mut self, now: Instant) {
        let mut out = [0; 2_048];
        loop {
            while let Some(event) = self.engine.poll_event() {
                self.event(now, event);
            }
            let Some(transmit) = self.engine.poll_transmit(now, &mut out) else { break };
            self.emit(transmit.to, &out[transmit.range]);
        }
        while let Ok(Some(len)) = self.engine.poll_frame(now, &mut out) {
            self.queue.extend(self.control.write(&out[..len]));
        }
        if self.engine.link().must_close() && self.control.pipe.is_some() {
            self.queue.extend(self.control.close());
            self.control.pause(now);
            self.engine.control_down(now);
        }
    }

    fn event(&mut self, now: Instant, event: Event) {
        match event {
            Event::Ready(ticket) => self.unpark(now, ticket),
            Event::Expired(ticket) => drop(self.parked.remove(&ticket)),
            Event::PersistStamp(stamp) => self.disk.stamp = stamp,
            Event::OpenRelayTcp => {
                self.relay.wanted = true;
                self.queue.extend(self.relay.connect());
            }
            Event::CloseRelayTcp => {
                self.relay.wanted = false;
                self.relay.retry = None;
                self.queue.extend(self.relay.close());
            }
            Event::ServicesChanged | Event::PathChanged(_) | Event::Pong { .. } => {}
        }
    }

    fn unpark(&mut self, now: Instant, ticket: Ticket) {
        for (origin, bytes) in self.parked.remove(&ticket).unwrap_or_default() {
            match (origin, ticket) {
                (Origin::Tun, Ticket::Peer(index)) => {
                    let verdict = self.engine.resume(now, index, Burst::single(bytes.len()), bytes.len());
                    self.carry(now, bytes, verdict);
                }
                (Origin::Tun, Ticket::Fragment(_) | Ticket::Service(_)) => self.outbound(now, bytes),
                (Origin::Peer(peer), _) => {
                    let mut buffer = with_room(&bytes);
                    let mut packet = Packet::new(&mut buffer, HEADROOM, bytes.len()).unwrap();
                    let verdict = self.engine.again(now, peer, &mut packet);
                    let bytes = packet.bytes().to_vec();
                    self.accept(now, verdict, bytes);
                }
            }
        }
    }

    /// Says something to the shell of the node of this index.
    pub(crate) fn say(&mut self, now: Instant, index: u32, message: &[u8]) {
        let verdict = self.engine.resume(now, index, Burst::single(message.len()), message.len());
        self.carry(now, message.to_vec(), verdict);
    }

    /// A packet from the TUN.
    fn outbound(&mut self, now: Instant, bytes: Vec<u8>) {
        let mut buffer = with_room(&bytes);
        let mut packet = Packet::new(&mut buffer, HEADROOM, bytes.len()).unwrap();
        let verdict = self.engine.outbound(now, &mut packet, Burst::single(bytes.len()));
        let bytes = packet.bytes().to_vec();
        self.carry(now, bytes, verdict);
    }

    fn carry(&mut self, now: Instant, bytes: Vec<u8>, verdict: Outbound) {
        match verdict {
            Outbound::Seal(grant) => self.seal(&bytes, &grant),
            Outbound::Hairpin => self.pods.receive(now, &bytes),
            Outbound::Reply(len) => self.pods.receive(now, &bytes[..len]),
            Outbound::Park(ticket) => {
                self.parked.entry(ticket).or_default().push_back((Origin::Tun, bytes));
            }
            // Nobody asked for it.
            Outbound::HandOver(_) => unreachable!("handed over to a kernel"),
            Outbound::Drop(_) => {}
        }
    }

    fn seal(&mut self, bytes: &[u8], grant: &Grant) {
        let pieces = match grant.split {
            Some(mtu) => {
                let transport = Transport::parse(bytes).unwrap();
                let mut piece = [0; BUFFER];
                let cut = (0..).map_while(|n| {
                    let len = ip::split(bytes, &transport, mtu, n, &mut piece).unwrap()?;
                    Some(piece[..len].to_vec())
                });
                cut.collect()
            }
            None => vec![bytes.to_vec()],
        };
        assert_eq!(pieces.len(), usize::from(grant.sending.count), "one counter for each piece");
        let Some(key) = self.engine.tunnels().send_key::<ChaChaPoly>(grant.sending.key) else { return };
        for (counter, piece) in (grant.sending.first..).zip(pieces) {
            let mut buffer = with_room(&piece);
            let mut packet = Packet::new(&mut buffer, HEADROOM, piece.len()).unwrap();
            tunnel::seal(&key, counter, &mut packet, usize::MAX).unwrap();
            for Way { envelope, to } in [Some(grant.first), grant.copy].into_iter().flatten() {
                let envelope = envelope.as_ref().map_or(&[][..], |e| e);
                self.emit(to, &[envelope, packet.bytes()].concat());
            }
        }
    }

    fn emit(&mut self, to: Destination, datagram: &[u8]) {
        match to {
            Destination::Socket { local, remote } => {
                assert_eq!(local, 0, "there is one socket");
                let bytes = datagram.to_vec();
                self.queue.push_back(Transmit::Datagram { port: PORT, dst: remote, bytes });
            }
            Destination::RelayTcp => self.queue.extend(self.relay.write(datagram)),
        }
    }

    /// A datagram from the network.
    fn inbound(&mut self, now: Instant, from: From, datagram: &[u8]) {
        let mut buffer = with_room(datagram);
        match self.engine.classify(now, from, datagram) {
            Classified::Data(ticket, source, start) => {
                let Some(key) = self.engine.tunnels().recv_key::<ChaChaPoly>(ticket.key) else { return };
                let mut packet = Packet::new(&mut buffer, HEADROOM + start, datagram.len() - start).unwrap();
                match tunnel::open(&key, ticket, &mut packet) {
                    Ok(opened) => {
                        let verdict = self.engine.inbound(now, source, opened, &mut packet);
                        let bytes = packet.bytes().to_vec();
                        self.accept(now, verdict, bytes);
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

    fn accept(&mut self, now: Instant, verdict: Inbound, bytes: Vec<u8>) {
        match verdict {
            Inbound::Deliver => self.pods.receive(now, &bytes),
            Inbound::Answer(grant) => self.seal(&bytes, &grant),
            Inbound::Park(ticket, peer) => {
                self.parked.entry(ticket).or_default().push_back((Origin::Peer(peer), bytes));
            }
            Inbound::Aside => self.asides.push(bytes),
            Inbound::Handled | Inbound::Drop(_) => {}
        }
    }

    fn frame(&mut self, now: Instant, mut frame: Vec<u8>) {
        match self.engine.control(now, &mut frame) {
            Ok(Some(Message::Welcome(welcome))) => {
                self.disk.joined = Some((self.engine.own_index(), welcome.network));
                self.disk.authority = *self.engine.link().authority();
            }
            Ok(Some(Message::Peer(peer))) => {
                let record = self.engine.link().authority().record(&peer.record).unwrap();
                let stored = (peer.record.record.to_vec(), peer.record.signature.to_vec());
                self.disk.records.insert(record.index, stored);
            }
            Ok(Some(Message::Feed(body))) => self.disk.feed = body.to_vec(),
            Ok(_) => {}
            // The only frames that may be refused here are those of a connection that is being given up.
            Err(reason) => assert!(self.engine.link().must_close(), "a good frame was refused: {reason:?}"),
        }
    }
}

impl Participant for SimNode {
    fn handle_datagram(&mut self, now: Instant, datagram: Datagram) {
        assert_eq!(datagram.dst.port(), PORT);
        self.inbound(now, From::Socket { local: 0, remote: datagram.src }, &datagram.bytes);
    }

    fn handle_pipe(&mut self, now: Instant, pipe: PipeId, event: PipeEvent) {
        match event {
            PipeEvent::Opened { to } if to == self.control.to => {
                self.queue.push_back(self.control.opened(pipe));
                self.engine.control_up(now, to);
            }
            PipeEvent::Opened { .. } => {
                self.queue.push_back(self.relay.opened(pipe));
                if self.relay.wanted {
                    self.engine.relay_tcp_up(now);
                } else {
                    self.queue.extend(self.relay.close());
                }
            }
            PipeEvent::Refused { to } if to == self.control.to => self.control.pause(now),
            PipeEvent::Refused { .. } => {
                self.relay.pause(now);
                self.engine.relay_tcp_down(now);
            }
            PipeEvent::Data(bytes) if self.control.pipe == Some(pipe) => {
                self.control.buffer.extend(bytes);
                while let Some(frame) = self.control.frame() {
                    self.frame(now, frame);
                    // The answer goes out before the next frame is looked at, as a handshake needs.
                    self.drain(now);
                }
            }
            PipeEvent::Data(bytes) if self.relay.pipe == Some(pipe) => {
                self.relay.buffer.extend(bytes);
                while let Some(datagram) = self.relay.frame() {
                    self.inbound(now, From::RelayTcp, &datagram);
                }
            }
            PipeEvent::Closed if self.control.pipe == Some(pipe) => {
                self.control.pause(now);
                self.engine.control_down(now);
            }
            PipeEvent::Closed if self.relay.pipe == Some(pipe) => {
                self.relay.pause(now);
                self.engine.relay_tcp_down(now);
            }
            // Of a connection that this side has ended.
            PipeEvent::Data(_) | PipeEvent::Closed => {}
            PipeEvent::Accepted { .. } => unreachable!("nodes do not listen"),
        }
    }

    fn handle_timeout(&mut self, now: Instant) {
        if self.pods.poll_timeout().is_some_and(|at| at <= now) {
            self.pods.handle_timeout(now);
        }
        for stream in [&mut self.control, &mut self.relay] {
            if stream.retry.is_some_and(|at| at <= now) {
                self.queue.extend(stream.connect());
            }
        }
        if self.engine.poll_timeout().is_some_and(|(at, _)| at <= now) {
            self.engine.handle_timeout(now);
        }
    }

    fn poll_transmit(&mut self, now: Instant) -> Option<Transmit> {
        if self.queue.is_empty() {
            self.drive(now);
        }
        self.queue.pop_front()
    }

    fn poll_timeout(&self) -> Option<Instant> {
        let engine = self.engine.poll_timeout().map(|(at, _)| at);
        let streams = self.control.retry.into_iter().chain(self.relay.retry);
        engine.into_iter().chain(self.pods.poll_timeout()).chain(streams).min()
    }

    fn timeout_reason(&self) -> &'static str {
        match self.engine.poll_timeout() {
            Some((at, timer)) if self.poll_timeout() == Some(at) => match timer {
                Timer::Control => "control",
                Timer::Lookups => "lookups",
                Timer::Tunnel(_) => "tunnel",
                Timer::Path(_) => "path",
                Timer::Flow(_) => "flow",
            },
            _ => "pods or connections",
        }
    }
}

fn with_room(bytes: &[u8]) -> Vec<u8> {
    let mut buffer = vec![0; HEADROOM];
    buffer.extend_from_slice(bytes);
    buffer.resize(buffer.len() + TAILROOM, 0);
    buffer
}

fn wall(now: Instant) -> WallTime {
    let micros = now.as_micros();
    WallTime { secs: 1_700_000_000 + micros / 1_000_000, nanos: (micros % 1_000_000) as u32 * 1_000 }
}
