//! Two nodes, a relay and the NATs between them in virtual time. Sessions are assumed: a datagram is the inner
//! message behind one byte, and arrives authenticated from whoever sent it.

use super::nat::{Depends, Nat};
use crate::counters::DropReason;
use crate::path::{
    AckSlot, Config, Event, Local, PathSlot, Paths, PeerId, RelayVia, Relayed, Resources, Route, Source,
    Terms,
};
use crate::rng::Rng;
use crate::time::{Duration, Instant};
use crate::wire::path::is_path;
use crate::wire::relay::{self, Message};
use std::boxed::Box;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::vec;
use std::vec::Vec;

pub(super) const PEER: PeerId = PeerId(1);
pub(super) const R: Duration = Duration::from_millis(100);
pub(super) const D: Duration = Duration::from_millis(60);
const KEY: [u8; 32] = [5; 32];
const PORT: u16 = 20_006;

pub(super) fn server() -> SocketAddr {
    "203.0.113.1:20004".parse().unwrap()
}

/// How a node is connected.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Site {
    /// A public address of its own.
    Public,
    /// A public IPv6 address of its own.
    PublicV6,
    /// Behind its own NAT.
    Nat(Depends, Depends),
    /// Behind the other node's NAT, on the same network.
    Neighbour,
}

#[derive(Clone, Debug)]
struct Datagram {
    from: SocketAddr,
    to: SocketAddr,
    outer: usize,
    dont_fragment: bool,
    bytes: Vec<u8>,
}

#[derive(Clone, Debug)]
enum Arrival {
    /// At the server, by UDP or from a node's TCP connection.
    Server {
        from: SocketAddr,
        tcp: Option<usize>,
        bytes: Vec<u8>,
    },
    /// At a node's public side or neighbour.
    Node {
        node: usize,
        from: SocketAddr,
        bytes: Vec<u8>,
    },
    /// At a NAT's public side.
    Nat {
        node: usize,
        from: SocketAddr,
        port: u16,
        bytes: Vec<u8>,
    },
    NodeTcp {
        node: usize,
        bytes: Vec<u8>,
    },
    TcpOpen {
        node: usize,
    },
}

pub(super) struct Node {
    pub(super) paths: Paths<'static>,
    pub(super) inside: SocketAddr,
    pub(super) events: Vec<Event>,
    /// Numbers of the data that arrived, and when the last did.
    pub(super) got: HashSet<u32>,
    pub(super) copies: usize,
    pub(super) last_got: Instant,
    pub(super) longest_gap: Duration,
    /// Datagrams sent to each place.
    pub(super) sent_to: HashMap<SocketAddr, usize>,
    pub(super) path_messages: usize,
    pub(super) binds: usize,
    /// Its path messages are lost.
    pub(super) muted: bool,
    pub(super) tcp_open: bool,
    next_data: u32,
    bound: Option<Result<SocketAddr, ()>>,
    up: bool,
    /// What a caller knows: only what `poll_deadline` said.
    deadlines: [Option<Instant>; 2],
}

pub(super) struct World {
    pub(super) now: Instant,
    pub(super) nodes: [Node; 2],
    pub(super) nats: [Option<Nat>; 2],
    sites: [Site; 2],
    queue: BTreeMap<(Instant, u64), Arrival>,
    order: u64,
    /// Between the nodes, per direction of the sender.
    pub(super) cut: [bool; 2],
    pub(super) udp_blocked: [bool; 2],
    pub(super) server_down: bool,
    /// Outer MTU of the direct way.
    pub(super) mtu: usize,
    /// Data packets: interval and size, per node.
    pub(super) traffic: [Option<(Duration, usize)>; 2],
    next_packet: [Instant; 2],
    /// What every datagram over UDP takes longer, between nodes and by the relay alike.
    pub(super) slower: Duration,
    /// One in so many datagrams is lost; 0 for none.
    pub(super) loss: u64,
    dice: Rng,
}

fn node(n: u8, inside: SocketAddr) -> Node {
    let resources = Resources {
        peers: Box::leak(vec![PathSlot::EMPTY; 2].into_boxed_slice()),
        acks: Box::leak(vec![AckSlot::EMPTY; 16].into_boxed_slice()),
        sessions: Box::leak(vec![0; 4].into_boxed_slice()),
    };
    let paths = Paths::new(resources, Config { inner_mtu_max: 1_440 }, &mut Rng::new([n; 32]));
    Node {
        paths,
        inside,
        events: Vec::new(),
        got: HashSet::new(),
        copies: 0,
        last_got: Instant::ZERO,
        longest_gap: Duration::ZERO,
        sent_to: HashMap::new(),
        path_messages: 0,
        binds: 0,
        muted: false,
        tcp_open: false,
        next_data: 0,
        bound: None,
        up: false,
        deadlines: [None; 2],
    }
}

impl World {
    /// Both nodes bound at the relay (unless UDP is blocked later), no session yet.
    pub(super) fn new(a: Site, b: Site) -> Self {
        let mut nats = [None, None];
        let mut inside = Vec::new();
        for (n, site) in [a, b].into_iter().enumerate() {
            let host = n as u8 + 2;
            let public = IpAddr::from([198, 51, 100, host]);
            inside.push(match site {
                Site::Public => SocketAddr::new(public, PORT),
                Site::PublicV6 => SocketAddr::from(([0x2001, 0xDB8, 0, 0, 0, 0, 0, host.into()], PORT)),
                _ => SocketAddr::from(([192, 168, 1, host], PORT)),
            });
            if let Site::Nat(mapping, filtering) = site {
                nats[n] = Some(Nat::new(public, (mapping, filtering)));
            }
        }
        Self {
            now: Instant::from_micros(1_000_000),
            nodes: [node(1, inside[0]), node(2, inside[1])],
            nats,
            sites: [a, b],
            queue: BTreeMap::new(),
            order: 0,
            cut: [false; 2],
            udp_blocked: [false; 2],
            server_down: false,
            mtu: 1_500,
            traffic: [None; 2],
            next_packet: [Instant::ZERO; 2],
            slower: Duration::ZERO,
            loss: 0,
            dice: Rng::new([77; 32]),
        }
    }

    /// Welcome, binding, sessions from the directory; half a second passes.
    pub(super) fn bind(&mut self) {
        self.welcome(0);
        self.welcome(1);
        self.run(Duration::from_millis(500));
    }

    fn welcome(&mut self, n: usize) {
        let node = &mut self.nodes[n];
        node.paths.set_local(self.now, &[Local { socket: 0, address: node.inside }]);
        let index = n as u32 + 1;
        let terms = Terms { server: server(), local: 0, index, key: KEY, epoch: self.now.as_micros() };
        node.paths.welcome(self.now, &terms);
        node.paths.set_sessions(self.now, PEER, 0xFF + index, 0x102 - index).unwrap();
    }

    /// The node's process is another one; the other node's session with it goes on under new keys.
    pub(super) fn restart(&mut self, n: usize) {
        self.nodes[n] = node(n as u8 + 7, self.nodes[n].inside);
        self.welcome(n);
        self.run(R.times(2));
        self.up(n);
    }

    /// A's session is up now, B's with A's first datagram, as after a handshake that A began.
    pub(super) fn connect(&mut self) -> Instant {
        self.up(0);
        self.now
    }

    fn up(&mut self, n: usize) {
        self.nodes[n].up = true;
        self.nodes[n].paths.session_up(self.now, PEER, Some(R));
    }

    pub(super) fn is_direct(&self, n: usize) -> bool {
        matches!(self.nodes[n].paths.route(self.now, PEER, 100).first, Some(Route::Direct { .. }))
    }

    /// Runs until both are direct; the time that took since `start`, if it was below `most`.
    pub(super) fn until_direct(&mut self, start: Instant, most: Duration) -> Option<Duration> {
        while self.now.since(start) <= most {
            if self.is_direct(0) && self.is_direct(1) {
                return Some(self.now.since(start));
            }
            self.run(Duration::from_millis(1));
        }
        None
    }

    pub(super) fn run(&mut self, span: Duration) {
        let end = self.now.after(span);
        let mut turns = 0;
        loop {
            self.drain();
            let next = self.next_time();
            if next > end {
                self.now = end;
                return;
            }
            turns = if next > self.now { 0 } else { turns + 1 };
            assert!(turns < 200, "time stands still at {:?}", self.now);
            self.now = self.now.max(next);
            self.step();
        }
    }

    fn next_time(&self) -> Instant {
        let mut times: Vec<Instant> = self.queue.keys().map(|k| k.0).take(1).collect();
        for n in 0..2 {
            times.extend(self.nodes[n].deadlines.iter().flatten());
            if self.traffic[n].is_some() && self.nodes[n].up {
                times.push(self.next_packet[n]);
            }
        }
        times.into_iter().min().unwrap_or(Instant::from_micros(u64::MAX))
    }

    fn step(&mut self) {
        let now = self.now;
        while let Some(entry) = self.queue.first_entry().filter(|e| e.key().0 <= now) {
            let arrival = entry.remove();
            self.arrive(arrival);
        }
        for n in 0..2 {
            for slot in 0..2 {
                if self.nodes[n].deadlines[slot].is_some_and(|at| at <= now) {
                    self.nodes[n].deadlines[slot] = None;
                    self.nodes[n].paths.handle_timeout(now, slot as u32);
                }
            }
            if let Some((gap, size)) = self.traffic[n]
                && self.nodes[n].up
                && self.next_packet[n] <= now
            {
                self.next_packet[n] = now.after(gap);
                self.send_data(n, size);
            }
        }
    }

    /// One data packet by the routes of the moment.
    pub(super) fn send_data(&mut self, n: usize, size: usize) {
        let number = self.nodes[n].next_data;
        self.nodes[n].next_data += 1;
        let mut inner = vec![0x45, 0, 0, 0];
        inner.extend(number.to_le_bytes());
        inner.resize(size.max(8), 0);
        let routes = self.nodes[n].paths.route(self.now, PEER, size);
        for route in [routes.first, routes.copy].into_iter().flatten() {
            self.transmit(n, route, &inner, false);
        }
        self.nodes[n].paths.sent(self.now, PEER, size as u32);
    }

    pub(super) fn drain(&mut self) {
        for n in 0..2 {
            let mut out = [0; 1500];
            while let Some((via, len)) = self.nodes[n].paths.poll_relay(self.now, &mut out) {
                self.nodes[n].binds += 1;
                self.send_to_server(n, via, &out[..len]);
            }
            while let Some(transmit) = self.nodes[n].paths.poll_message(self.now, &mut out) {
                assert_eq!(transmit.peer, PEER);
                self.nodes[n].path_messages += 1;
                if !self.nodes[n].muted {
                    self.transmit(n, transmit.route, &out[..transmit.len], transmit.dont_fragment);
                }
            }
            while let Some(event) = self.nodes[n].paths.poll_event() {
                self.nodes[n].events.push(event);
                match event {
                    Event::OpenRelayTcp => self.post(R, Arrival::TcpOpen { node: n }),
                    Event::CloseRelayTcp => self.nodes[n].tcp_open = false,
                    _ => {}
                }
            }
            let node = &mut self.nodes[n];
            while let Some((slot, at)) = node.paths.poll_deadline() {
                node.deadlines[slot as usize] = at;
            }
            for slot in 0..2 {
                let (held, real) = (node.deadlines[slot], node.paths.deadline(slot as u32));
                assert!(
                    real.is_none_or(|real| held.is_some_and(|held| held <= real)),
                    "{slot}: {held:?} {real:?}"
                );
            }
        }
    }

    fn send_to_server(&mut self, n: usize, via: RelayVia, bytes: &[u8]) {
        match via {
            RelayVia::Udp { .. } => self.udp(n, server(), bytes, bytes.len() + 28, false),
            RelayVia::Tcp => {
                let from = self.nodes[n].inside;
                self.post(R.over(4), Arrival::Server { from, tcp: Some(n), bytes: bytes.to_vec() });
            }
        }
    }

    pub(super) fn transmit(&mut self, n: usize, route: Route, inner: &[u8], dont_fragment: bool) {
        // What sealing does to the length: padding to 16, header and tag.
        let sealed = inner.len().next_multiple_of(16) + 32;
        let mut bytes = vec![4];
        bytes.extend(inner);
        bytes.resize(inner.len().next_multiple_of(16) + 1, 0);
        match route {
            Route::Direct { remote, .. } => {
                let headers = if remote.is_ipv6() { 48 } else { 28 };
                self.udp(n, remote, &bytes, sealed + headers, dont_fragment);
            }
            Route::Relay { session } | Route::RelayTcp { session } => {
                let mut enveloped = relay::envelope(session).to_vec();
                enveloped.extend(bytes);
                if matches!(route, Route::Relay { .. }) {
                    self.udp(n, server(), &enveloped, sealed + 36, dont_fragment);
                } else {
                    self.send_to_server(n, RelayVia::Tcp, &enveloped);
                }
            }
        }
    }

    fn udp(&mut self, n: usize, to: SocketAddr, bytes: &[u8], outer: usize, dont_fragment: bool) {
        *self.nodes[n].sent_to.entry(to).or_default() += 1;
        let mut datagram =
            Datagram { from: self.nodes[n].inside, to, outer, dont_fragment, bytes: bytes.to_vec() };
        let neighbours = self.sites.contains(&Site::Neighbour);
        if self.loss > 0 && u64::from(self.dice.u32()) % self.loss == 0 {
            return;
        }
        if to != server() && self.cut[n] {
            return;
        }
        let other = 1 - n;
        if neighbours && to == self.nodes[other].inside {
            let from = datagram.from;
            return self.post(
                Duration::from_micros(300),
                Arrival::Node { node: other, from, bytes: datagram.bytes },
            );
        }
        if self.udp_blocked[n] {
            return;
        }
        let gate = if self.sites[n] == Site::Neighbour { other } else { n };
        if let Some(nat) = &mut self.nats[gate] {
            datagram.from = nat.outbound(self.now, datagram.from, to);
        }
        self.forward(n, datagram);
    }

    fn forward(&mut self, n: usize, d: Datagram) {
        if d.to == server() {
            let delay = R.over(4).plus(self.slower);
            return self.post(delay, Arrival::Server { from: d.from, tcp: None, bytes: d.bytes });
        }
        if d.dont_fragment && d.outer > self.mtu {
            return;
        }
        let nat = (0..2).find(|i| self.nats[*i].as_ref().is_some_and(|nat| nat.public == d.to.ip()));
        let arrival = match nat {
            // No NAT here reflects its own side's datagrams back inside.
            Some(i) if i == n || self.sites[n] == Site::Neighbour => return,
            Some(i) => Arrival::Nat { node: i, from: d.from, port: d.to.port(), bytes: d.bytes },
            None if d.to == self.nodes[1 - n].inside
                && matches!(self.sites[1 - n], Site::Public | Site::PublicV6) =>
            {
                Arrival::Node { node: 1 - n, from: d.from, bytes: d.bytes }
            }
            None => return,
        };
        self.post(D.over(2).plus(self.slower), arrival);
    }

    fn post(&mut self, delay: Duration, arrival: Arrival) {
        self.order += 1;
        self.queue.insert((self.now.after(delay), self.order), arrival);
    }

    fn arrive(&mut self, arrival: Arrival) {
        match arrival {
            Arrival::Server { from, tcp, bytes } => self.at_server(from, tcp, &bytes),
            Arrival::Nat { node, from, port, bytes } => {
                let inside = self.nats[node].as_mut().and_then(|nat| nat.inbound(self.now, port, from));
                // Nobody there if the node has moved meanwhile.
                let node = inside.and_then(|inside| (0..2).find(|n| self.nodes[*n].inside == inside));
                if let Some(node) = node {
                    self.arrive(Arrival::Node { node, from, bytes });
                }
            }
            Arrival::Node { node, .. }
                if self.udp_blocked[node] && !self.sites.contains(&Site::Neighbour) => {}
            Arrival::Node { node, from, bytes } => {
                if relay::is_relay(&bytes) {
                    self.relayed(node, RelayVia::Udp { local: 0, server: from }, &bytes);
                } else {
                    self.opened(node, Source::Direct { local: 0, remote: from }, &bytes[1..]);
                }
            }
            Arrival::NodeTcp { node, bytes } if self.nodes[node].tcp_open => {
                self.relayed(node, RelayVia::Tcp, &bytes)
            }
            Arrival::NodeTcp { .. } => {}
            Arrival::TcpOpen { node } if self.server_down => self.nodes[node].paths.relay_tcp_down(self.now),
            Arrival::TcpOpen { node } => {
                self.nodes[node].tcp_open = true;
                self.nodes[node].paths.relay_tcp_up(self.now);
            }
        }
        self.drain();
    }

    fn relayed(&mut self, node: usize, via: RelayVia, bytes: &[u8]) {
        match self.nodes[node].paths.relay_datagram(self.now, via, bytes) {
            Ok(Relayed::Data { source, payload, .. }) => self.opened(node, source, &payload.to_vec()[1..]),
            Ok(Relayed::Handled) => {}
            // A binding that is checked early may cross its refresh: the later challenge comes unasked.
            Err(DropReason::Challenge) => {}
            Err(reason) => panic!("{reason:?} from the relay"),
        }
    }

    fn opened(&mut self, node: usize, source: Source, inner: &[u8]) {
        if !self.nodes[node].up {
            // The first datagram of a session confirms it to the responder.
            self.up(node);
        }
        let me = &mut self.nodes[node];
        me.paths.received(self.now, PEER, &source);
        if is_path(inner) {
            if let Err(reason) = me.paths.message(self.now, PEER, &source, inner) {
                std::eprintln!(
                    "{:?} {node} {source:?} {:?}",
                    self.now,
                    crate::wire::path::Message::parse(inner)
                );
                panic!("{reason:?}");
            }
        } else {
            let number = u32::from_le_bytes(inner[4..8].try_into().unwrap());
            if me.got.insert(number) {
                me.longest_gap = me.longest_gap.max(self.now.since(me.last_got));
                me.last_got = self.now;
            } else {
                me.copies += 1;
            }
        }
    }

    fn at_server(&mut self, from: SocketAddr, tcp: Option<usize>, bytes: &[u8]) {
        if self.server_down {
            return;
        }
        let cookie = |from: SocketAddr| [from.port() as u8 | 1; 16];
        let reply = match Message::parse(bytes).unwrap() {
            Message::Bind { index, cookie: sent, .. } if tcp.is_none() && sent != cookie(from) => {
                Message::Challenge { index, cookie: cookie(from) }
            }
            Message::Bind { index, epoch, .. } => {
                assert!(relay::verify(&KEY, bytes));
                self.nodes[index as usize - 1].bound = Some(tcp.map_or(Ok(from), |_| Err(())));
                Message::Bound { index, epoch, observed: from }
            }
            Message::Data { session, .. } => {
                let to = if session == 0x100 { 1 } else { 0 };
                if let Some(bound) = self.nodes[to].bound {
                    self.serve(to, bound, bytes.to_vec());
                }
                return;
            }
            other => panic!("{other:?} at the server"),
        };
        let mut out = [0; 64];
        let len = reply.emit(&KEY, &mut out).unwrap();
        match tcp {
            Some(n) => self.serve(n, Err(()), out[..len].to_vec()),
            None => self.answer(from, out[..len].to_vec()),
        }
    }

    fn serve(&mut self, n: usize, bound: Result<SocketAddr, ()>, bytes: Vec<u8>) {
        match bound {
            Ok(address) => self.answer(address, bytes),
            Err(()) => self.post(R.over(4), Arrival::NodeTcp { node: n, bytes }),
        }
    }

    fn answer(&mut self, to: SocketAddr, bytes: Vec<u8>) {
        let nat = (0..2).find(|i| self.nats[*i].as_ref().is_some_and(|nat| nat.public == to.ip()));
        let arrival = match nat {
            Some(node) => Arrival::Nat { node, from: server(), port: to.port(), bytes },
            None => match (0..2).find(|n| self.nodes[*n].inside == to) {
                Some(node) => Arrival::Node { node, from: server(), bytes },
                None => return,
            },
        };
        self.post(R.over(4), arrival);
    }
}
