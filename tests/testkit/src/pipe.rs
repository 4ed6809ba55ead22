//! TCP-like connections: reliable, ordered, delayed; they can be refused, closed and cut.
//!
//! No segments, no window: a write arrives after the delays of the links on its way, later when links lose (each
//! loss costs a retransmission timeout that doubles; after [`RETRIES`] of them the pipe breaks). A host listens
//! on ports; boxes let connections out and none in. A pipe holds [`CAPACITY`] bytes per direction; who writes
//! more loses it. By default a write arrives in one piece; [`Network::split_writes`] breaks it up at random, to
//! show code that takes chunks for frames.

use crate::link::{LinkConfig, chance};
use crate::network::{HostId, Network, Route, ZoneId};
use edgemesh_core::rng::Rng;
use edgemesh_core::time::{Duration, Instant};
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

/// Bytes on the way per direction.
pub const CAPACITY: usize = 256 * 1024;
/// Retransmissions of one write before the pipe breaks.
pub const RETRIES: u32 = 6;
/// How long a connection attempt that nobody answers lasts.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// Shortest retransmission timeout (RFC 6298 has 1 s, Linux 200 ms).
const RETRANSMISSION: Duration = Duration::from_millis(200);

/// A connection, known by this id on both sides.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct PipeId(u64);

/// What happens to a pipe, on one side.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum PipeEvent {
    /// To who connected: it stands.
    Opened {
        /// As given to connect.
        to: SocketAddr,
    },
    /// To who connected: nobody listens there, or nobody answers.
    Refused {
        /// As given to connect.
        to: SocketAddr,
    },
    /// To who listens: a new connection.
    Accepted {
        /// The listening port.
        port: u16,
        /// The other side, as boxes show it.
        from: SocketAddr,
    },
    /// Bytes, in order. Chunks mean nothing.
    Data(Vec<u8>),
    /// Closed by the other side, cut or broken. Nothing follows.
    Closed,
}

/// The end of a pipe that something is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Side {
    Client,
    Server,
}

impl Side {
    fn other(self) -> Self {
        if self == Self::Client { Self::Server } else { Self::Client }
    }
}

pub(crate) struct Pipe {
    client: HostId,
    server: HostId,
    /// What the client connected to.
    to: SocketAddr,
    /// What the server sees.
    from: SocketAddr,
    pub(crate) zones: Vec<ZoneId>,
    /// Whether the server, and the client, know of it.
    accepted: bool,
    opened: bool,
    /// Whether client and server closed their side; it hears nothing any more then.
    closed: [bool; 2],
    /// Towards client and server: the last arrival so far, and bytes on the way.
    last: [Instant; 2],
    waiting: [usize; 2],
}

impl Pipe {
    fn host(&self, side: Side) -> HostId {
        if side == Side::Client { self.client } else { self.server }
    }

    /// Whether `host` is at either end.
    pub(crate) fn touches(&self, host: HostId) -> bool {
        self.client == host || self.server == host
    }

    fn side_of(&self, host: HostId) -> Option<Side> {
        [Side::Client, Side::Server].into_iter().find(|side| self.host(*side) == host)
    }
}

/// Something for one side of a pipe.
enum Step {
    /// The client's first packet, at the server.
    Knock,
    /// The server's answer, at the client.
    Answer {
        accepted: bool,
    },
    Data(Vec<u8>),
    Closed,
    /// The pipe is gone already; this is for a host that has not heard of it.
    Obituary(HostId, PipeEvent),
}

/// All pipes of a network.
pub(crate) struct Pipes {
    pipes: BTreeMap<PipeId, Pipe>,
    steps: BTreeMap<(Instant, u64), (PipeId, Side, Step)>,
    listening: BTreeSet<(HostId, u16)>,
    split: bool,
    sequence: u64,
    rng: Rng,
}

impl Pipes {
    pub(crate) fn new(rng: Rng) -> Self {
        Self {
            pipes: BTreeMap::new(),
            steps: BTreeMap::new(),
            listening: BTreeSet::new(),
            split: false,
            sequence: 0,
            rng,
        }
    }

    pub(crate) fn poll_arrival(&self) -> Option<Instant> {
        self.steps.first_key_value().map(|((at, _), _)| *at)
    }

    pub(crate) fn deliver(&mut self, now: Instant) -> Option<(HostId, PipeId, PipeEvent)> {
        while let Some((&(at, number), _)) = self.steps.first_key_value()
            && at <= now
        {
            let (id, side, step) = self.steps.remove(&(at, number))?;
            if let Some((host, event)) = self.take(at, id, side, step) {
                return Some((host, id, event));
            }
        }
        None
    }

    fn take(&mut self, at: Instant, id: PipeId, side: Side, step: Step) -> Option<(HostId, PipeEvent)> {
        if let Step::Obituary(host, event) = step {
            return Some((host, event));
        }
        let pipe = self.pipes.get_mut(&id)?;
        let (host, to, from) = (pipe.host(side), pipe.to, pipe.from);
        let deaf = pipe.closed[side as usize];
        let event = match step {
            Step::Knock => {
                pipe.accepted = self.listening.contains(&(pipe.server, to.port()));
                let accepted = pipe.accepted;
                // The way back takes as long as the way here took; the client's slot held the start.
                let back = at.after(at.since(pipe.last[Side::Client as usize]));
                pipe.last[Side::Client as usize] = back;
                self.schedule(back, id, Side::Client, Step::Answer { accepted });
                return accepted.then_some((host, PipeEvent::Accepted { port: to.port(), from }));
            }
            Step::Answer { accepted: true } => {
                pipe.opened = true;
                PipeEvent::Opened { to }
            }
            Step::Answer { accepted: false } => {
                self.pipes.remove(&id);
                PipeEvent::Refused { to }
            }
            Step::Data(bytes) => {
                pipe.waiting[side as usize] -= bytes.len();
                PipeEvent::Data(bytes)
            }
            Step::Closed => {
                self.pipes.remove(&id);
                PipeEvent::Closed
            }
            Step::Obituary(..) => return None,
        };
        (!deaf).then_some((host, event))
    }

    /// Breaks the pipes that `chosen` picks: both sides hear of it now, bytes on the way are gone.
    pub(crate) fn cut_where(&mut self, now: Instant, chosen: impl Fn(&Pipe) -> bool) {
        let cut: Vec<_> = self.pipes.iter().filter(|(_, pipe)| chosen(pipe)).map(|(id, _)| *id).collect();
        for id in cut {
            self.bury(now, id);
        }
    }

    fn bury(&mut self, at: Instant, id: PipeId) {
        let Some(pipe) = self.pipes.remove(&id) else { return };
        self.steps.retain(|_, (other, _, _)| *other != id);
        let client = if pipe.opened { PipeEvent::Closed } else { PipeEvent::Refused { to: pipe.to } };
        let server = pipe.accepted.then_some(PipeEvent::Closed);
        for (side, event) in [(Side::Client, Some(client)), (Side::Server, server)] {
            if let Some(event) = event.filter(|_| !pipe.closed[side as usize]) {
                self.schedule(at, id, side, Step::Obituary(pipe.host(side), event));
            }
        }
    }

    fn open(&mut self, now: Instant, client: HostId, to: SocketAddr, route: Option<Route>) -> PipeId {
        self.sequence += 1;
        let id = PipeId(self.sequence);
        let reach = route.and_then(|route| Some((self.crossing(&route, Side::Server, 40)?, route)));
        let Some((crossing, route)) = reach else {
            let refused = Step::Obituary(client, PipeEvent::Refused { to });
            self.schedule(now.after(CONNECT_TIMEOUT), id, Side::Client, refused);
            return id;
        };
        let knock = now.after(crossing);
        // The client's port is of no interest to anyone; a number of its own keeps connections apart.
        let from = SocketAddr::new(route.source, 32_768 + (id.0 % 28_000) as u16);
        self.pipes.insert(
            id,
            Pipe {
                client,
                server: route.to,
                to,
                from,
                zones: route.zones,
                accepted: false,
                opened: false,
                closed: [false; 2],
                last: [now, knock],
                waiting: [0; 2],
            },
        );
        self.schedule(knock, id, Side::Server, Step::Knock);
        id
    }

    /// Puts something on the way to the side opposite `host`. `false` when the pipe is not there for it.
    fn push(&mut self, now: Instant, id: PipeId, from: HostId, route: Option<&Route>, step: Step) -> bool {
        let size = if let Step::Data(bytes) = &step { bytes.len() } else { 0 };
        let Some(pipe) = self.pipes.get(&id) else { return false };
        let Some(side) = pipe.side_of(from).filter(|side| !pipe.closed[*side as usize]) else { return false };
        let towards = side.other();
        let room = pipe.waiting[towards as usize] + size <= CAPACITY;
        let Some(crossing) = route.filter(|_| room).and_then(|route| self.crossing(route, towards, size))
        else {
            self.bury(now, id);
            return false;
        };
        let Some(pipe) = self.pipes.get_mut(&id) else { return false };
        let at = now.after(crossing).max(pipe.last[towards as usize]);
        pipe.last[towards as usize] = at;
        pipe.waiting[towards as usize] += size;
        if matches!(step, Step::Closed) {
            pipe.closed[side as usize] = true;
        }
        self.schedule(at, id, towards, step);
        true
    }

    /// How long `size` bytes take along `route`; `None` when every retransmission is lost too.
    fn crossing(&mut self, route: &Route, towards: Side, size: usize) -> Option<Duration> {
        let way = |link: &(LinkConfig, LinkConfig)| if towards == Side::Server { link.0 } else { link.1 };
        let mut total = Duration::ZERO;
        for link in route.links.iter().map(way) {
            let serial = (size as u64).saturating_mul(1_000_000).checked_div(link.rate).unwrap_or_default();
            total = total.plus(link.delay).plus(Duration::from_micros(serial));
        }
        let mut timeout = Duration::from_micros(RETRANSMISSION.as_micros().max(total.as_micros() * 3));
        for _ in 0..=RETRIES {
            if !route.links.iter().any(|link| chance(&mut self.rng, way(link).loss)) {
                return Some(total);
            }
            total = total.plus(timeout);
            timeout = timeout.times(2);
        }
        None
    }

    fn schedule(&mut self, at: Instant, id: PipeId, side: Side, step: Step) {
        self.sequence += 1;
        self.steps.insert((at, self.sequence), (id, side, step));
    }
}

impl Network {
    /// Accepts, or no longer accepts, connections to a host's port. Standing ones stay.
    pub fn listen(&mut self, host: HostId, port: u16, listen: bool) {
        if listen {
            self.pipes.listening.insert((host, port));
        } else {
            self.pipes.listening.remove(&(host, port));
        }
    }

    /// Whether writes are broken into random pieces.
    pub fn split_writes(&mut self, split: bool) {
        self.pipes.split = split;
    }

    /// Connects; [`PipeEvent::Opened`] or [`PipeEvent::Refused`] follows.
    pub fn connect(&mut self, now: Instant, from: HostId, to: SocketAddr) -> PipeId {
        let route = self.route(from, to.ip());
        self.pipes.open(now, from, to, route)
    }

    /// Writes to a pipe. `false` when it is closed, full or just broke; then [`PipeEvent::Closed`] is on its
    /// way to whoever has not closed it.
    pub fn write(&mut self, now: Instant, from: HostId, pipe: PipeId, bytes: Vec<u8>) -> bool {
        let route = self.pipe_route(pipe);
        let mut rest = bytes;
        while self.pipes.split && rest.len() > 1 {
            let at = 1 + self.pipes.rng.below(rest.len() as u32 - 1) as usize;
            let tail = rest.split_off(at);
            if !self.pipes.push(now, pipe, from, route.as_ref(), Step::Data(rest)) {
                return false;
            }
            rest = tail;
        }
        self.pipes.push(now, pipe, from, route.as_ref(), Step::Data(rest))
    }

    /// Closes a host's side: what it wrote before still arrives, then the other side hears of it.
    pub fn close(&mut self, now: Instant, from: HostId, pipe: PipeId) {
        let route = self.pipe_route(pipe);
        self.pipes.push(now, pipe, from, route.as_ref(), Step::Closed);
    }

    /// Whether a pipe stands, or is being closed.
    pub fn is_open(&self, pipe: PipeId) -> bool {
        self.pipes.pipes.contains_key(&pipe)
    }

    /// Breaks one pipe: both sides hear of it now, bytes on the way are gone.
    pub fn cut(&mut self, now: Instant, pipe: PipeId) {
        self.pipes.bury(now, pipe);
    }

    /// Breaks every pipe of a host, as a crash or a restart does.
    pub fn cut_pipes_of(&mut self, now: Instant, host: HostId) {
        self.pipes.cut_where(now, |pipe| pipe.touches(host));
    }

    /// The way of a pipe as it is now, from client to server.
    fn pipe_route(&self, pipe: PipeId) -> Option<Route> {
        let pipe = self.pipes.pipes.get(&pipe)?;
        self.route(pipe.client, pipe.to.ip()).filter(|route| route.to == pipe.server)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::link::Cable;
    use crate::nat::{Nat, NatConfig};
    use crate::network::{Arrival, Gateway};

    const PORT: u16 = 20004;

    /// A client behind a NAT box and a server on the internet, 10 + 5 + 20 ms apart.
    fn network(seed: u64) -> (Network, HostId, HostId, SocketAddr) {
        let mut network = Network::new(seed);
        let nat = Nat::new(NatConfig::linux(), "198.51.100.1".parse().unwrap());
        let delayed = |millis| Cable::symmetric(LinkConfig::delayed(millis));
        let site = network.add_zone(ZoneId::INTERNET, Gateway::nat(nat), delayed(5));
        let client = network.add_host(site, "192.168.1.2".parse().unwrap(), delayed(10));
        let server = network.add_host(ZoneId::INTERNET, "203.0.113.1".parse().unwrap(), delayed(20));
        network.listen(server, PORT, true);
        (network, client, server, SocketAddr::new("203.0.113.1".parse().unwrap(), PORT))
    }

    fn millis(n: u64) -> Instant {
        Instant::ZERO.after(Duration::from_millis(n))
    }

    /// Everything that arrives, with its time in milliseconds.
    fn drain(network: &mut Network) -> Vec<(u64, HostId, PipeEvent)> {
        let mut seen = Vec::new();
        while let Some(at) = network.poll_arrival() {
            while let Some(arrival) = network.deliver(at) {
                let Arrival::Pipe(host, _, event) = arrival else { panic!("a datagram: {arrival:?}") };
                seen.push((at.as_micros() / 1000, host, event));
            }
        }
        seen
    }

    #[test]
    fn connecting_takes_a_round_trip_and_data_keeps_its_order() {
        let (mut network, client, server, to) = network(1);
        let pipe = network.connect(millis(0), client, to);
        let seen = drain(&mut network);
        assert!(matches!(&seen[0], (35, host, PipeEvent::Accepted { port: PORT, from })
            if *host == server && from.ip().to_string() == "198.51.100.1"));
        assert_eq!(seen[1], (70, client, PipeEvent::Opened { to }));
        assert!(network.write(millis(100), client, pipe, b"one".to_vec()));
        assert!(network.write(millis(100), client, pipe, b"two".to_vec()));
        assert!(network.write(millis(110), server, pipe, b"three".to_vec()));
        let data = |bytes: &[u8]| PipeEvent::Data(bytes.to_vec());
        assert_eq!(
            drain(&mut network),
            [(135, server, data(b"one")), (135, server, data(b"two")), (145, client, data(b"three"))]
        );
    }

    #[test]
    fn nobody_listening_refuses_and_nobody_there_times_out() {
        let (mut network, client, server, to) = network(1);
        network.listen(server, PORT, false);
        network.connect(millis(0), client, to);
        assert_eq!(drain(&mut network), [(70, client, PipeEvent::Refused { to })]);
        let nowhere = "203.0.113.99:1".parse().unwrap();
        network.connect(millis(0), client, nowhere);
        assert_eq!(drain(&mut network), [(3000, client, PipeEvent::Refused { to: nowhere })]);
        let inside = "198.51.100.1:1".parse().unwrap();
        network.connect(millis(0), server, inside);
        assert_eq!(drain(&mut network), [(3000, server, PipeEvent::Refused { to: inside })]);
    }

    #[test]
    fn closing_delivers_what_was_written_and_cutting_does_not() {
        for cut in [false, true] {
            let (mut network, client, server, to) = network(1);
            let pipe = network.connect(millis(0), client, to);
            drain(&mut network);
            assert!(network.write(millis(100), client, pipe, vec![1]));
            if cut {
                network.cut(millis(100), pipe);
                let both = [(100, client, PipeEvent::Closed), (100, server, PipeEvent::Closed)];
                assert_eq!(drain(&mut network), both);
            } else {
                network.close(millis(100), client, pipe);
                assert!(!network.write(millis(100), client, pipe, vec![2]), "a closed side writes no more");
                let one = [(135, server, PipeEvent::Data(vec![1])), (135, server, PipeEvent::Closed)];
                assert_eq!(drain(&mut network), one);
            }
            assert!(!network.write(millis(200), server, pipe, vec![3]));
        }
    }

    #[test]
    fn both_sides_may_close_at_once_and_hear_nothing_more() {
        let (mut network, client, server, to) = network(1);
        let pipe = network.connect(millis(0), client, to);
        drain(&mut network);
        network.close(millis(100), client, pipe);
        network.close(millis(110), server, pipe);
        assert_eq!(drain(&mut network), []);
    }

    #[test]
    fn loss_delays_but_loses_nothing_and_total_loss_breaks() {
        let (mut network, client, server, to) = network(3);
        let pipe = network.connect(millis(0), client, to);
        drain(&mut network);
        network.host_cable(client).configure(LinkConfig { loss: 200_000, ..LinkConfig::delayed(10) });
        for n in 0..50 {
            assert!(network.write(millis(100), client, pipe, vec![n]));
        }
        let seen = drain(&mut network);
        assert!(seen.iter().map(|(_, _, event)| event.clone()).eq((0..50).map(|n| PipeEvent::Data(vec![n]))));
        assert!(seen.last().unwrap().0 > 135 + 200, "no loss cost a retransmission");
        network.host_cable(client).configure(LinkConfig { loss: 1_000_000, ..LinkConfig::delayed(10) });
        assert!(!network.write(millis(9000), server, pipe, vec![1]));
        let both = [(9000, client, PipeEvent::Closed), (9000, server, PipeEvent::Closed)];
        assert_eq!(drain(&mut network), both);
    }

    #[test]
    fn a_full_pipe_breaks_and_a_rebinding_box_cuts() {
        let (mut network, client, _, to) = network(1);
        let pipe = network.connect(millis(0), client, to);
        drain(&mut network);
        assert!(network.write(millis(100), client, pipe, vec![0; CAPACITY]));
        assert!(!network.write(millis(100), client, pipe, vec![0]));
        assert_eq!(drain(&mut network).len(), 2);
        network.connect(millis(200), client, to);
        drain(&mut network);
        network.rebind(millis(300), network.zone_of(client), "198.51.100.7".parse().unwrap());
        assert!(drain(&mut network).iter().all(|(at, _, event)| *at == 300 && *event == PipeEvent::Closed));
    }

    #[test]
    fn split_writes_arrive_in_pieces_that_make_the_whole() {
        let (mut network, client, _, to) = network(1);
        network.split_writes(true);
        let pipe = network.connect(millis(0), client, to);
        drain(&mut network);
        let whole: Vec<u8> = (0..200).collect();
        assert!(network.write(millis(100), client, pipe, whole.clone()));
        let pieces: Vec<_> = drain(&mut network)
            .into_iter()
            .map(|(_, _, event)| if let PipeEvent::Data(bytes) = event { bytes } else { panic!("{event:?}") })
            .collect();
        assert!(pieces.len() > 2);
        assert_eq!(pieces.concat(), whole);
    }
}
