//! Two nodes, a relay and the NATs between them in virtual time. Sessions are assumed: a datagram is the inner
//! message behind one byte, and arrives authenticated from whoever sent it.

mod wires;

use super::nat::{Depends, Nat};
use crate::path::{AckSlot, Config, Event, Local, PathSlot, Paths, PeerId, Resources, Route, Terms};
use crate::rng::Rng;
use crate::time::{Duration, Instant};
use std::boxed::Box;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::vec;
use std::vec::Vec;
use wires::Arrival;

pub(super) const PEER: PeerId = PeerId(1);
pub(super) const R: Duration = Duration::from_millis(100);
pub(super) const D: Duration = Duration::from_millis(60);
pub(super) const MS: Duration = Duration::from_millis(1);
pub(super) const SECOND: Duration = Duration::from_secs(1);
/// A box as homes have it: one mapping for all, but only who was asked may answer.
pub(super) const HOME: Site = Site::Nat(Depends::Nothing, Depends::Port);
/// A box behind which two such nodes never find each other.
pub(super) const SYMMETRIC: Site = Site::Nat(Depends::Port, Depends::Port);
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

    /// Packets flow both ways once there is a session.
    pub(super) fn chatty(a: Site, b: Site) -> Self {
        Self { traffic: [Some((MS.times(20), 100)); 2], ..Self::new(a, b) }
    }

    /// Both nodes bound, connected and direct.
    pub(super) fn direct(a: Site, b: Site) -> Self {
        let mut world = Self::chatty(a, b);
        world.bind();
        let start = world.connect();
        world.until_direct(start, SECOND).expect("direct");
        world.run(SECOND);
        world
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

    /// How many such events a node has told.
    pub(super) fn events(&self, n: usize, wanted: impl Fn(&Event) -> bool) -> usize {
        self.nodes[n].events.iter().filter(|event| wanted(event)).count()
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
}
