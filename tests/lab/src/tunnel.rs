//! The core's tunnel machine over a real UDP socket, with one peer: what a WireGuard program is, without the product
//! around it.
//!
//! Where it sends follows WireGuard's rule: to where the last authentic message came from. Payloads are UDP datagrams
//! without checksum in IPv4 packets; what is not asked for by port [`Tunnel::ECHO`] is kept for the scenario to look at.
//! Everything that went over the wire is recorded.
//!
//! Not here: paths, relays, Services.

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant as Clock, SystemTime, UNIX_EPOCH};

use edgemesh_core::PeerId;
use edgemesh_core::counters::DropReason;
use edgemesh_core::noise::{ChaChaPoly, PublicKey, StaticSecret};
use edgemesh_core::packet::{HEADROOM, Packet, TAILROOM};
use edgemesh_core::rng::Rng;
use edgemesh_core::time::{Instant, WallTime};
use edgemesh_core::tunnel::{
    BucketSlot, Content, CookieSlot, Datagram, JobSlot, KEYPAIRS, KeypairSlot, NoSession, Origin, PeerSlot,
    TunnelEvent, TunnelResources, Tunnels, open, seal,
};
use edgemesh_core::wire::wireguard::Kind;

use crate::{Context, Error, Result, ensure};

const PEER: PeerId = PeerId(1);
/// Largest inner packet.
const MTU: usize = 1420;
/// Words of a replay window: 8,128 counters, as the agent has them.
const WINDOW: usize = 128;
/// Handshakes that wait; half of them is load.
const JOBS: usize = 8;
/// IPv4 and UDP.
const HEADERS: usize = 28;

/// A datagram on the wire.
#[derive(Debug, Clone)]
pub struct Seen {
    /// When.
    pub at: Clock,
    /// Whether this side sent it.
    pub ours: bool,
    /// What.
    pub bytes: Vec<u8>,
}

/// What a datagram is to an eavesdropper, but for the handshakes that it cannot read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Is {
    /// First handshake message.
    Initiation,
    /// Second handshake message.
    Response,
    /// Cookie reply.
    Cookie,
    /// Data without content.
    Keepalive,
    /// Data.
    Data,
}

impl Seen {
    /// Its kind; `None` for what is no WireGuard message.
    pub fn is(&self) -> Option<Is> {
        Some(match Kind::of(&self.bytes).ok()? {
            Kind::Initiation => Is::Initiation,
            Kind::Response => Is::Response,
            Kind::CookieReply => Is::Cookie,
            Kind::Data if self.bytes.len() == 32 => Is::Keepalive,
            Kind::Data => Is::Data,
        })
    }
}

/// One end of a tunnel.
pub struct Tunnel {
    tunnels: Tunnels<'static>,
    rng: Rng,
    secret: [u8; 32],
    peer: PublicKey,
    psk: Option<[u8; 32]>,
    floor: u64,
    socket: UdpSocket,
    /// Where the peer is.
    pub remote: SocketAddr,
    started: Clock,
    deadline: Option<Instant>,
    up: bool,
    /// Everything that went over the wire, in order.
    pub wire: Vec<Seen>,
    /// Payloads of datagrams that came for other ports than [`Tunnel::ECHO`].
    pub received: Vec<Vec<u8>>,
    /// Why messages were dropped.
    pub drops: Vec<DropReason>,
    /// What waits to be computed whenever an initiation comes: this side is under load then.
    pub load: Vec<Vec<u8>>,
}

impl Tunnel {
    /// The address inside.
    pub const ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);
    /// The peer's address inside.
    pub const PEER_ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 2);
    /// What comes for this port goes back as it is.
    pub const ECHO: u16 = 7000;
    /// Where this end sends from.
    const OWN: u16 = 7100;

    /// An end with a socket and a peer at `remote`, without a session.
    ///
    /// # Errors
    /// When the socket cannot be set up, or the peer's key is this end's.
    pub fn new(
        secret: [u8; 32],
        peer: PublicKey,
        psk: Option<[u8; 32]>,
        socket: UdpSocket,
        remote: SocketAddr,
    ) -> Result<Self> {
        let mut tunnel = Self {
            tunnels: machine(secret, 0),
            // Whatever is random here decides nothing that is looked at.
            rng: Rng::new(secret),
            secret,
            peer,
            psk,
            floor: 0,
            socket,
            remote,
            started: Clock::now(),
            deadline: None,
            up: false,
            wire: Vec::new(),
            received: Vec::new(),
            drops: Vec::new(),
            load: Vec::new(),
        };
        tunnel.know_peer()?;
        Ok(tunnel)
    }

    fn know_peer(&mut self) -> Result {
        let added = self.tunnels.add_peer(PEER, &self.peer, self.psk.as_ref());
        added.map_err(|error| Error::new(format!("{error:?}")))
    }

    /// Loses everything but the key and the floor of its stamps, as a process that is killed and started again does.
    ///
    /// # Errors
    /// As [`Tunnel::new`].
    pub fn restart(&mut self) -> Result {
        self.tunnels = machine(self.secret, self.floor);
        (self.deadline, self.up) = (None, false);
        self.know_peer()
    }

    /// Goes on with another socket.
    pub fn move_to(&mut self, socket: UdpSocket) {
        self.socket = socket;
    }

    /// Its public key.
    pub fn public(&self) -> PublicKey {
        self.tunnels.public()
    }

    /// Whether packets can be sent.
    pub fn is_up(&self) -> bool {
        self.up
    }

    /// Begins a handshake.
    ///
    /// # Errors
    /// When the socket refuses the message.
    pub fn initiate(&mut self) -> Result {
        self.tunnels.initiate(self.now(), PEER);
        self.drain()
    }

    /// Sends `payload` to a port of the peer's address; without a session it begins a handshake instead.
    ///
    /// # Errors
    /// When the socket refuses it.
    pub fn send(&mut self, port: u16, payload: &[u8]) -> Result {
        match self.seal(port, payload) {
            Ok(sealed) => self.put(sealed),
            Err(NoSession::Handshaking) => {}
            Err(other) => return crate::fail(format!("{other:?}")),
        }
        self.drain()
    }

    /// The sealed datagram that would carry `payload`, to be sent whenever.
    ///
    /// # Errors
    /// Without a session.
    pub fn seal(&mut self, port: u16, payload: &[u8]) -> core::result::Result<Vec<u8>, NoSession> {
        let packet = udp((Self::ADDRESS, Self::OWN), (Self::PEER_ADDRESS, port), payload);
        self.seal_packet(&packet)
    }

    fn seal_packet(&mut self, text: &[u8]) -> core::result::Result<Vec<u8>, NoSession> {
        let grant = self.tunnels.reserve(self.now(), PEER, 1, true)?;
        let key = self.tunnels.send_key::<ChaChaPoly>(grant.key).ok_or(NoSession::Idle)?;
        let mut buffer = vec![0; HEADROOM];
        buffer.extend_from_slice(text);
        buffer.resize(buffer.len().saturating_add(TAILROOM), 0);
        let mut packet = Packet::new(&mut buffer, HEADROOM, text.len()).map_err(|_| NoSession::Idle)?;
        seal(&key, grant.first, &mut packet, MTU).map_err(|_| NoSession::Idle)?;
        Ok(packet.bytes().to_vec())
    }

    /// Puts bytes onto the wire.
    pub fn put(&mut self, bytes: Vec<u8>) {
        // A refusal by ICMP is about an earlier one: the peer's program is not there at the moment.
        let _ = self.socket.send_to(&bytes, self.remote);
        self.wire.push(Seen { at: Clock::now(), ours: true, bytes });
    }

    /// Takes a datagram as if it had come from the peer.
    ///
    /// # Errors
    /// Why it was dropped.
    pub fn take(&mut self, from: SocketAddr, bytes: &[u8]) -> core::result::Result<(), DropReason> {
        let mut bytes = bytes.to_vec();
        let now = self.now();
        match self.tunnels.classify(&bytes) {
            Datagram::Drop(reason) => {
                // As the engine does it: the peer has a session that this side lost.
                if reason == DropReason::UnknownIndex && from == self.remote {
                    self.tunnels.initiate(now, PEER);
                }
                Err(reason)
            }
            Datagram::Message => self.tunnels.message(now, &origin(from), &mut bytes, &mut self.rng),
            Datagram::Data(ticket) => {
                let key = self.tunnels.recv_key(ticket.key).ok_or(DropReason::UnknownIndex)?;
                let len = bytes.len();
                let mut packet = Packet::new(&mut bytes, 0, len)?;
                let opened = open::<ChaChaPoly>(&key, ticket, &mut packet)?;
                self.tunnels.commit(now, opened)?;
                self.remote = from;
                if opened.content() == Content::Ip {
                    self.deliver(packet.bytes());
                }
                Ok(())
            }
        }
    }

    /// What the kernel would do with a packet.
    fn deliver(&mut self, packet: &[u8]) {
        let Some((source, from, to, payload)) = parse(packet) else { return };
        let echo = udp((Self::ADDRESS, to), (source, from), payload);
        match (to == Self::ECHO).then(|| self.seal_packet(&echo)) {
            Some(Ok(sealed)) => self.put(sealed),
            _ => self.received.push(payload.to_vec()),
        }
    }

    /// Waits for one datagram, `limit` at most, and does what is due.
    ///
    /// # Errors
    /// When the socket fails.
    pub fn step(&mut self, limit: Duration) -> Result {
        let now = self.now();
        let due = self.deadline.map(|at| Duration::from_micros(at.since(now).as_micros()));
        let wait = due.unwrap_or(limit).min(limit).max(Duration::from_millis(1));
        self.socket.set_read_timeout(Some(wait)).context("timeout")?;
        let mut buffer = [0; 2048];
        if let Ok((len, from)) = self.socket.recv_from(&mut buffer) {
            let bytes = buffer.get(..len).unwrap_or_default();
            self.wire.push(Seen { at: Clock::now(), ours: false, bytes: bytes.to_vec() });
            if Kind::of(bytes) == Ok(Kind::Initiation) {
                self.fill_the_queue();
            }
            if let Err(reason) = self.take(from, bytes) {
                self.drops.push(reason);
            }
        }
        let now = self.now();
        if self.deadline.is_some_and(|at| at <= now) {
            self.deadline = self.tunnels.handle_timeout(now, PEER);
        }
        self.drain()
    }

    fn fill_the_queue(&mut self) {
        let elsewhere = Origin { port: 9, ..Origin::EMPTY };
        for mut message in self.load.clone() {
            // What does not fit any more has done its part, too.
            let _ = self.tunnels.message(self.now(), &elsewhere, &mut message, &mut self.rng);
        }
    }

    fn drain(&mut self) -> Result {
        loop {
            let now = self.now();
            while let Some(event) = self.tunnels.poll_event() {
                match event {
                    TunnelEvent::PersistFloor(floor) => self.floor = floor,
                    TunnelEvent::SessionUp { .. } => self.up = true,
                    TunnelEvent::SessionDown { .. } => self.up = false,
                    TunnelEvent::HandshakeFailed { .. } | TunnelEvent::Stranger(_) => {}
                }
            }
            let mut buffer = [0; 148];
            while let Some(transmit) = self.tunnels.poll_transmit(now, &mut buffer) {
                let bytes = buffer.get(..transmit.len).context("a message")?.to_vec();
                self.put(bytes);
            }
            while let Some((_, at)) = self.tunnels.poll_deadline() {
                self.deadline = Some(at);
            }
            let since = SystemTime::now().duration_since(UNIX_EPOCH).context("clock")?;
            let wall = WallTime { secs: since.as_secs(), nanos: since.subsec_nanos() };
            let work = self.tunnels.work(now, wall, &mut self.rng);
            self.drops.extend(work.dropped);
            if !work.more && !self.tunnels.has_output() {
                return Ok(());
            }
        }
    }

    /// Goes on until `found` finds something.
    ///
    /// # Errors
    /// When it does not within `limit`: what was waited for, and the last messages.
    pub fn until<T>(
        &mut self,
        what: &str,
        limit: Duration,
        mut found: impl FnMut(&mut Self) -> Result<Option<T>>,
    ) -> Result<T> {
        let began = Clock::now();
        loop {
            if let Some(value) = found(self)? {
                return Ok(value);
            }
            ensure!(
                began.elapsed() < limit,
                "waited {} ms until {what}; drops {:?}; the last messages (ours?): {:?}",
                limit.as_millis(),
                self.drops,
                self.wire.iter().rev().take(12).map(|seen| (seen.ours, seen.is())).collect::<Vec<_>>()
            );
            self.step(Duration::from_millis(20))?;
        }
    }

    /// Goes on while `work` runs beside it.
    ///
    /// # Errors
    /// What `work` says, or when the socket fails.
    pub fn during<T: Send>(&mut self, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        std::thread::scope(|scope| {
            let work = scope.spawn(work);
            while !work.is_finished() {
                self.step(Duration::from_millis(5))?;
            }
            work.join().unwrap_or_else(|_| crate::fail("the work beside the tunnel panicked"))
        })
    }

    /// Sends until an echo comes back, whatever else does.
    ///
    /// # Errors
    /// When none does within `limit`.
    pub fn must_echo(&mut self, payload: &[u8], limit: Duration) -> Result {
        let mut sent: Option<Clock> = None;
        self.until(&format!("an echo of {:?}", String::from_utf8_lossy(payload)), limit, |tunnel| {
            if tunnel.received.iter().any(|text| text == payload) {
                return Ok(Some(()));
            }
            if sent.is_none_or(|at| at.elapsed() >= Duration::from_millis(500)) {
                tunnel.send(Self::ECHO, payload)?;
                sent = Some(Clock::now());
            }
            Ok(None)
        })
    }

    /// How many messages of a kind went one way.
    pub fn count(&self, ours: bool, kind: Is) -> usize {
        self.wire.iter().filter(|seen| seen.ours == ours && seen.is() == Some(kind)).count()
    }

    fn now(&self) -> Instant {
        let micros = u64::try_from(self.started.elapsed().as_micros()).unwrap_or(u64::MAX);
        Instant::from_micros(micros.saturating_add(1_000_000))
    }
}

/// First handshake messages for the owner of `key`, of so many senders that it does not know.
///
/// # Errors
/// When a socket cannot be had.
pub fn strangers(count: u8, key: PublicKey) -> Result<Vec<Vec<u8>>> {
    let nowhere = SocketAddr::from((Ipv4Addr::LOCALHOST, 9));
    let mut messages = Vec::new();
    for stranger in 1..=count {
        let socket = UdpSocket::bind(("0.0.0.0", 0)).context("bind")?;
        let mut tunnel = Tunnel::new([stranger.wrapping_add(200); 32], key, None, socket, nowhere)?;
        tunnel.initiate()?;
        messages.extend(tunnel.wire.into_iter().map(|seen| seen.bytes));
    }
    Ok(messages)
}

/// A machine with memory of its own for one peer.
fn machine(secret: [u8; 32], floor: u64) -> Tunnels<'static> {
    let memory = TunnelResources {
        peers: leak(PeerSlot::EMPTY, 1),
        keypairs: leak(KeypairSlot::EMPTY, KEYPAIRS),
        windows: leak(0, KEYPAIRS * WINDOW),
        indices: leak(Default::default(), 8),
        keys: leak(Default::default(), 2),
        jobs: leak(JobSlot::EMPTY, JOBS),
        cookies: leak(CookieSlot::EMPTY, 4),
        buckets: leak(BucketSlot::EMPTY, 16),
    };
    Tunnels::new(memory, StaticSecret::from_bytes(secret), floor)
}

/// Some KiB a machine, in a process that runs for minutes.
fn leak<T: Clone>(empty: T, count: usize) -> &'static mut [T] {
    Box::leak(vec![empty; count].into_boxed_slice())
}

fn origin(from: SocketAddr) -> Origin {
    let address = match from.ip() {
        std::net::IpAddr::V4(address) => address.to_ipv6_mapped(),
        std::net::IpAddr::V6(address) => address,
    };
    Origin { address: address.octets(), port: from.port(), ..Origin::EMPTY }
}

/// An IPv4 packet with a UDP datagram without checksum.
fn udp(from: (Ipv4Addr, u16), to: (Ipv4Addr, u16), payload: &[u8]) -> Vec<u8> {
    let len = |headers: usize| u16::try_from(payload.len().saturating_add(headers)).unwrap_or(u16::MAX);
    let mut packet = vec![0x45, 0];
    packet.extend_from_slice(&len(HEADERS).to_be_bytes());
    packet.extend_from_slice(&[0, 0, 0x40, 0, 64, 17, 0, 0]);
    packet.extend_from_slice(&from.0.octets());
    packet.extend_from_slice(&to.0.octets());
    let checksum = checksum(&packet);
    packet.splice(10..12, checksum.to_be_bytes());
    for field in [from.1, to.1, len(8), 0] {
        packet.extend_from_slice(&field.to_be_bytes());
    }
    packet.extend_from_slice(payload);
    packet
}

/// The internet checksum (RFC 1071) of an even number of bytes.
pub fn checksum(bytes: &[u8]) -> u16 {
    let sum = bytes.chunks_exact(2).fold(0_u32, |sum, pair| match pair {
        [high, low] => sum.wrapping_add(u32::from(u16::from_be_bytes([*high, *low]))),
        _ => sum,
    });
    let folded = (sum & 0xffff).wrapping_add(sum >> 16);
    !(folded.wrapping_add(folded >> 16)) as u16
}

/// Source, its port, destination port and payload of an IPv4 packet with UDP, padded or not.
fn parse(packet: &[u8]) -> Option<(Ipv4Addr, u16, u16, &[u8])> {
    let (ip, rest) = packet.split_first_chunk::<20>()?;
    let (head, _) = rest.split_first_chunk::<8>()?;
    let [_, _, l0, l1, _, _, _, _, _, 17, _, _, a, b, c, d, ..] = *ip else { return None };
    let payload = packet.get(HEADERS..usize::from(u16::from_be_bytes([l0, l1])))?;
    let [f0, f1, t0, t1, ..] = *head;
    let source = Ipv4Addr::new(a, b, c, d);
    Some((source, u16::from_be_bytes([f0, f1]), u16::from_be_bytes([t0, t1]), payload))
}
