//! A whole node in virtual time: the engine, and around it what an agent's data thread and connections do.
//!
//! Packets that wait are kept here, sealed and opened as the engine says; the TUN ends at the [`Pods`]. A restart
//! is a new engine over new memory with what was on the disk: identity, stamp, membership, records, Services.
//!
//! What becomes of every packet of the pods is entered in the [`Ledger`], and that the engine counts each of its drops
//! once is checked on the spot. It deliberately sends each packet alone: offloads are the agent's own matter.

use crate::ledger::{End, Ledger, PacketId, PieceId};
use crate::pods::Pods;
use crate::room::Room;
use crate::server;
use crate::stream::Stream;
use edgemesh_core::control::{Authority, Credentials, Message};
use edgemesh_core::counters::{Counters, DropReason};
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
use edgemesh_testkit::network::{Datagram, Tail};
use edgemesh_testkit::pipe::{PipeEvent, PipeId};
use edgemesh_testkit::world::{Participant, Transmit};
use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;

/// The node's UDP port.
pub(crate) const PORT: u16 = 20_006;
/// The TUN's MTU is the pods' own; inner packets of this size are probed for.
const MTU: u16 = 1_440;
const BUFFER: usize = 4_096;

/// The true time at the beginning, in Unix seconds, and how far ahead a clock is that says 1970 then.
pub(crate) const BEGINNING: u64 = 1_700_000_000;
pub(crate) const IN_1970: i64 = -(BEGINNING as i64);

/// What survives a restart.
pub(crate) struct Disk {
    pub(crate) name: &'static str,
    pub(crate) identity: [u8; 32],
    pub(crate) authority: Authority,
    pub(crate) joined: Option<(u32, Network)>,
    pub(crate) stamp: u64,
    pub(crate) records: BTreeMap<u32, (Vec<u8>, Vec<u8>)>,
    pub(crate) feed: Vec<u8>,
    /// Where nodes were reached directly.
    pub(crate) hints: BTreeMap<u32, SocketAddr>,
    /// How many seconds the machine's clock is ahead of the true time.
    pub(crate) clock: i64,
}

enum Origin {
    Tun(PacketId),
    Peer(PeerId, Option<PieceId>),
}

/// Where a node lives.
pub(crate) struct Place<'w> {
    /// Its index, from 1.
    pub(crate) own: u8,
    pub(crate) address: SocketAddr,
    /// How many servers it may try.
    pub(crate) servers: usize,
    pub(crate) room: &'w mut Room,
    pub(crate) ledger: Ledger,
}

/// The node.
pub(crate) struct SimNode<'w> {
    pub(crate) engine: Engine<'w>,
    pub(crate) disk: Disk,
    pub(crate) pods: Pods,
    /// What shells of other nodes said.
    pub(crate) asides: Vec<Vec<u8>>,
    /// Its index, from 1.
    own: u8,
    ledger: Ledger,
    parked: BTreeMap<Ticket, VecDeque<(Origin, Vec<u8>)>>,
    control: Stream,
    relay: Stream,
    queue: VecDeque<Transmit>,
}

impl<'w> SimNode<'w> {
    /// Starts on a host with this address.
    pub(crate) fn start(now: Instant, place: Place<'w>, disk: Disk, pods: Pods, rng: &mut Rng) -> Self {
        let Place { own, address, servers, room, ledger } = place;
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
        let control = (0..servers).map(|n| SocketAddr::new(server::address(n), server::PORT)).collect();
        let mut node = Self {
            engine: Engine::new(now, room.lend(), config),
            disk,
            pods,
            asides: Vec::new(),
            own,
            ledger,
            parked: BTreeMap::new(),
            control: Stream::new(control, Preamble::Control),
            relay: Stream::new(Vec::new(), Preamble::Relay),
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
            // The disk may know of more nodes than there are places.
            match self.engine.learn(now, &Peer { record, send_session: 0, receive_session: 0 }) {
                Ok(()) => self.engine.connect(now, *index),
                Err(refused) => assert_eq!(refused, DropReason::PeersFull),
            }
        }
        for update in updates(&self.disk.feed) {
            self.engine.update(&update.unwrap()).unwrap();
        }
    }

    /// It is stopped: what waits is lost.
    pub(crate) fn stopped(self) -> (Disk, Pods) {
        for (origin, _) in self.parked.into_values().flatten() {
            match origin {
                Origin::Tun(packet) => self.ledger.packet_ends(packet, End::Restart),
                Origin::Peer(_, piece) => self.ledger.ends(piece, End::Restart),
            }
        }
        (self.disk, self.pods)
    }

    /// A drop must be counted once, by the reason that it is told under.
    fn counted(&self, before: &Counters, reason: DropReason) -> End {
        let (before, after) = (before.get(reason), self.engine.counters().get(reason));
        assert_eq!(after, before + 1, "a drop as {reason:?} was counted {} times", after - before);
        End::dropped(reason)
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
            let more = self.engine.work(now, self.wall(now));
            self.drain(now);
            match self.pods.poll_packet() {
                Some(packet) => {
                    let id = self.ledger.packet(self.own);
                    self.outbound(now, id, packet);
                }
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
            Event::Expired(ticket) => {
                for (origin, _) in self.parked.remove(&ticket).unwrap_or_default() {
                    match origin {
                        Origin::Tun(packet) => self.ledger.packet_ends(packet, End::Expired),
                        Origin::Peer(_, piece) => self.ledger.ends(piece, End::Expired),
                    }
                }
            }
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
            Event::PathChanged(index) => {
                let peer = self.engine.peers(now).find(|peer| peer.index == index);
                if let Some(path::Route::Direct { remote, .. }) = peer.and_then(|peer| peer.path.route) {
                    self.disk.hints.insert(index, remote);
                }
            }
            Event::ServicesChanged | Event::Pong { .. } => {}
        }
    }

    fn unpark(&mut self, now: Instant, ticket: Ticket) {
        for (origin, bytes) in self.parked.remove(&ticket).unwrap_or_default() {
            let before = self.engine.counters().clone();
            match (origin, ticket) {
                (Origin::Tun(packet), Ticket::Peer(index)) => {
                    let verdict = self.engine.resume(now, index, Burst::single(bytes.len()), bytes.len());
                    self.carry(now, packet, bytes, verdict, &before);
                }
                (Origin::Tun(packet), Ticket::Fragment(_) | Ticket::Service(_)) => {
                    self.outbound(now, packet, bytes);
                }
                (Origin::Peer(peer, piece), _) => {
                    let mut buffer = with_room(&bytes);
                    let mut packet = Packet::new(&mut buffer, HEADROOM, bytes.len()).unwrap();
                    let verdict = self.engine.again(now, peer, &mut packet);
                    let bytes = packet.bytes().to_vec();
                    self.accept(now, piece, verdict, bytes, &before);
                }
            }
        }
    }

    /// Says something to the shell of the node of this index.
    pub(crate) fn say(&mut self, now: Instant, index: u32, message: &[u8]) {
        let (packet, before) = (self.ledger.packet(self.own), self.engine.counters().clone());
        let verdict = self.engine.resume(now, index, Burst::single(message.len()), message.len());
        self.carry(now, packet, message.to_vec(), verdict, &before);
    }

    /// A packet from the TUN.
    fn outbound(&mut self, now: Instant, id: PacketId, bytes: Vec<u8>) {
        let before = self.engine.counters().clone();
        let mut buffer = with_room(&bytes);
        let mut packet = Packet::new(&mut buffer, HEADROOM, bytes.len()).unwrap();
        let verdict = self.engine.outbound(now, &mut packet, Burst::single(bytes.len()));
        let bytes = packet.bytes().to_vec();
        self.carry(now, id, bytes, verdict, &before);
    }

    fn carry(&mut self, now: Instant, id: PacketId, bytes: Vec<u8>, verdict: Outbound, before: &Counters) {
        let end = match verdict {
            Outbound::Seal(grant) => {
                self.seal(&bytes, &grant);
                End::Sealed
            }
            Outbound::Hairpin => {
                self.pods.receive(now, &bytes);
                End::Delivered
            }
            Outbound::Reply(len) => {
                self.pods.receive(now, &bytes[..len]);
                End::Answered
            }
            Outbound::Park(ticket) => {
                return self.parked.entry(ticket).or_default().push_back((Origin::Tun(id), bytes));
            }
            // Nobody asked for it.
            Outbound::HandOver(_) => unreachable!("handed over to a kernel"),
            Outbound::Drop(reason) => self.counted(before, reason),
        };
        self.ledger.packet_ends(id, end);
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
        let key = self.engine.tunnels().send_key::<ChaChaPoly>(grant.sending.key).expect("a granted key");
        for (counter, piece) in (grant.sending.first..).zip(pieces) {
            let mut buffer = with_room(&piece);
            let mut packet = Packet::new(&mut buffer, HEADROOM, piece.len()).unwrap();
            tunnel::seal(&key, counter, &mut packet, usize::MAX).unwrap();
            self.ledger.piece(Tail::of(packet.bytes()));
            for Way { envelope, to } in [Some(grant.first), grant.copy].into_iter().flatten() {
                let envelope = envelope.as_ref().map_or(&[][..], |e| e);
                let datagram = [envelope, packet.bytes()].concat();
                if let Destination::Socket { remote, .. } = to {
                    self.ledger.seen(remote, &datagram);
                }
                self.ledger.copy(self.ledger.find(Tail::of(&datagram)));
                self.emit(to, &datagram);
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
            Destination::RelayTcp => {
                let piece = self.ledger.find(Tail::of(datagram));
                match (self.relay.write(datagram), self.relay.pipe) {
                    (Some(write), Some(pipe)) => {
                        self.ledger.enters(piece, pipe);
                        self.queue.push_back(write);
                    }
                    _ => self.ledger.ends(piece, End::NoConnection),
                }
            }
        }
    }

    /// A datagram from the network.
    fn inbound(&mut self, now: Instant, from: From, datagram: &[u8]) {
        let piece = self.ledger.find(Tail::of(datagram));
        let before = self.engine.counters().clone();
        let mut buffer = with_room(datagram);
        match self.engine.classify(now, from, datagram) {
            Classified::Data(ticket, source, start) => {
                let key = self.engine.tunnels().recv_key::<ChaChaPoly>(ticket.key).expect("a ticket's key");
                let mut packet = Packet::new(&mut buffer, HEADROOM + start, datagram.len() - start).unwrap();
                match tunnel::open(&key, ticket, &mut packet) {
                    Ok(opened) => {
                        let verdict = self.engine.inbound(now, source, opened, &mut packet);
                        let bytes = packet.bytes().to_vec();
                        self.accept(now, piece, verdict, bytes, &before);
                    }
                    Err(reason) => {
                        self.engine.count(reason);
                        self.ledger.ends(piece, self.counted(&before, reason));
                    }
                }
            }
            Classified::Message(sender, start) => {
                self.engine.message(now, sender, &mut datagram[start..].to_vec());
                self.ledger.ends(piece, End::Mistaken);
            }
            Classified::Handled => self.ledger.ends(piece, End::Mistaken),
            Classified::Drop(reason) => {
                let end = self.counted(&before, reason);
                self.ledger.ends(piece, end);
            }
        }
    }

    fn accept(
        &mut self,
        now: Instant,
        piece: Option<PieceId>,
        verdict: Inbound,
        bytes: Vec<u8>,
        before: &Counters,
    ) {
        let end = match verdict {
            Inbound::Deliver => {
                assert!(piece.is_some(), "delivered, but no pod has sent it");
                self.pods.receive(now, &bytes);
                End::Delivered
            }
            Inbound::Aside => {
                self.asides.push(bytes);
                End::Delivered
            }
            Inbound::Answer(grant) => {
                let answer = self.ledger.packet(self.own);
                self.seal(&bytes, &grant);
                self.ledger.packet_ends(answer, End::Sealed);
                End::Answered
            }
            Inbound::Park(ticket, peer) => {
                return self.parked.entry(ticket).or_default().push_back((Origin::Peer(peer, piece), bytes));
            }
            Inbound::Handled => End::Mistaken,
            Inbound::Drop(reason) => self.counted(before, reason),
        };
        self.ledger.ends(piece, end);
    }

    /// The time of day, as this machine has it.
    fn wall(&self, now: Instant) -> WallTime {
        let micros = now.as_micros();
        let secs = (BEGINNING + micros / 1_000_000).saturating_add_signed(self.disk.clock);
        WallTime { secs, nanos: (micros % 1_000_000) as u32 * 1_000 }
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
            // Only frames of a connection that is being given up may be refused here, and peers without a place.
            Err(reason) => {
                let refusable = self.engine.link().must_close() || reason == DropReason::PeersFull;
                assert!(refusable, "a good frame was refused: {reason:?}");
            }
        }
    }
}

impl Participant for SimNode<'_> {
    fn handle_datagram(&mut self, now: Instant, datagram: Datagram) {
        assert_eq!(datagram.dst.port(), PORT);
        self.inbound(now, From::Socket { local: 0, remote: datagram.src }, &datagram.bytes);
    }

    fn handle_pipe(&mut self, now: Instant, pipe: PipeId, event: PipeEvent) {
        match event {
            PipeEvent::Opened { to } if self.control.is_to(to) => {
                self.relay.to = vec![SocketAddr::new(to.ip(), server::RELAY_PORT)];
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
            PipeEvent::Refused { to } if self.control.is_to(to) => {
                self.control.pause(now);
                // No server tells a way: nodes are called where they were.
                self.disk.hints.iter().for_each(|(index, at)| self.engine.hint(now, *index, *at));
            }
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
                    self.ledger.leaves(self.ledger.find(Tail::of(&datagram)), pipe);
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
