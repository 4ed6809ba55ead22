//! What may happen to a mesh.

use crate::mesh::{Mesh, Party};
use crate::{node, server};
use edgemesh_core::time::Duration;
use edgemesh_testkit::network::Tail;
use std::net::{IpAddr, SocketAddr};

const DAY: i64 = 86_400;

impl Mesh<'_> {
    pub(crate) fn restart_node(&mut self, n: usize, gap_max: u32) {
        let Some(Party::Node(node)) = self.world.stop(self.nodes[n]) else { unreachable!() };
        let gap = Duration::from_millis(u64::from(self.rng.below(gap_max)));
        self.note(format!("node {n} stopped for {gap:?}"));
        // The pods pause: nobody reads what they would send.
        self.world.run(gap).unwrap();
        let (disk, pods) = node.stopped();
        self.start_node(n, disk, pods);
    }

    /// Both nodes are stopped, and start again together.
    pub(crate) fn restart_both(&mut self, gap_max: u32) {
        let stop = |mesh: &mut Self, n: usize| match mesh.world.stop(mesh.nodes[n]) {
            Some(Party::Node(node)) => node.stopped(),
            _ => unreachable!(),
        };
        let stopped = [stop(self, 0), stop(self, 1)];
        let gap = Duration::from_millis(u64::from(self.rng.below(gap_max)));
        self.note(format!("both nodes stopped for {gap:?}"));
        self.world.run(gap).unwrap();
        for (n, (disk, pods)) in stopped.into_iter().enumerate() {
            self.start_node(n, disk, pods);
        }
    }

    /// The server is gone for good.
    pub(crate) fn stop_server(&mut self) {
        self.world.stop(self.server_host());
        self.listen(false);
        self.note("server gone".into());
    }

    /// The server is away for a while; then it is there again, or the next one has taken over what it had.
    pub(crate) fn restart_server(&mut self, gap_max: u32) {
        let Some(Party::Server(server)) = self.world.stop(self.server_host()) else { unreachable!() };
        let gap = Duration::from_millis(u64::from(self.rng.below(gap_max)));
        self.listen(false);
        self.serving = self.rng.below(self.servers.len() as u32) as usize;
        self.note(format!("server stopped for {gap:?}, then server {}", self.serving));
        self.run(gap);
        self.listen(true);
        self.start_server(server.store);
    }

    fn rebind(&mut self, n: usize) {
        let external = [203, 0, 114 + n as u8, 10 + self.rng.below(200) as u8];
        let now = self.world.now();
        self.note(format!("the site of node {n} becomes {external:?}"));
        self.world.network.rebind(now, self.zone(n), IpAddr::from(external));
    }

    /// No UDP through a site's box for a while.
    fn block_udp(&mut self, n: usize) {
        let (span, zone) = (self.seconds(5, 45), self.zone(n));
        self.note(format!("the site of node {n} without UDP for {span:?}"));
        self.world.network.gateway(zone).firewall.udp_out = false;
        self.run(span);
        self.world.network.gateway(zone).firewall.udp_out = true;
    }

    /// Nothing passes between two nodes but by the server.
    fn block_direct(&mut self, n: usize) {
        let (span, other) = (self.seconds(5, 45), (n + 1) % self.nodes.len());
        self.note(format!("no direct path between {n} and {other} for {span:?}"));
        let (a, b) = (self.nodes[n], self.nodes[other]);
        self.world.network.block(a, b, true);
        self.run(span);
        self.world.network.block(a, b, false);
    }

    /// Long enough for mappings and sessions to expire.
    fn silence(&mut self) {
        let span = self.seconds(20, 400);
        self.note(format!("silence for {span:?}"));
        self.ask(false);
        self.run(span);
        self.ask(true);
    }

    /// A machine's clock is set, up to years away.
    fn set_clock(&mut self, n: usize) {
        let clock = match self.rng.below(4) {
            // It boots without a battery, and is in 1970.
            0 => node::IN_1970,
            1 => DAY * i64::from(self.rng.below(4_000)),
            2 => -i64::from(self.rng.below(100)),
            _ => 0,
        };
        self.note(format!("the clock of node {n} is {clock} s ahead"));
        self.node(n).disk.clock = clock;
    }

    /// A machine sleeps: its monotonic clock goes on, it does not.
    fn suspend(&mut self, n: usize) {
        let span = self.seconds(1, 300);
        self.note(format!("node {n} sleeps for {span:?}"));
        let host = self.nodes[n];
        self.world.suspend(host, true).unwrap();
        self.run(span);
        let woken = self.world.suspend(host, false);
        woken.unwrap_or_else(|failure| panic!("{failure}\n{}", self.story()));
    }

    /// Somebody sends bytes that he made up, and datagrams that he has seen, as they were or changed.
    fn attack(&mut self) {
        self.note("an attack".into());
        for _ in 0..40 {
            let stranger = self.rng.below(2) as usize;
            let (host, port) = (self.strangers[stranger], 1_000 + self.rng.below(9) as u16);
            let n = self.rng.below(8) as usize;
            let (mut to, mut bytes) = match self.ledger.captured(n).filter(|_| self.rng.below(2) == 0) {
                Some(captured) => captured,
                None => (self.target(stranger), self.rubbish()),
            };
            match self.rng.below(4) {
                0 => to = self.target(stranger),
                1 => bytes.truncate(self.rng.below(bytes.len() as u32 + 1) as usize),
                2 if !bytes.is_empty() => {
                    let at = self.rng.below(bytes.len() as u32) as usize;
                    bytes[at] ^= 1 << self.rng.below(8);
                }
                _ => {}
            }
            let now = self.world.now();
            self.ledger.copy(self.ledger.find(Tail::of(&bytes)));
            self.world.network.send(now, host, port, to, bytes);
            self.run(Duration::from_millis(20));
        }
    }

    /// Where a stranger may reach somebody.
    fn target(&mut self, stranger: usize) -> SocketAddr {
        if stranger == 0 {
            return SocketAddr::new(server::address(self.serving), server::PORT);
        }
        let n = self.some_node();
        SocketAddr::new(self.world.network.addresses(self.nodes[n])[0], node::PORT)
    }

    fn rubbish(&mut self) -> Vec<u8> {
        let len = [0, 1, 8, 32, 56, 64, 92, 148, 200, 1_200][self.rng.below(10) as usize];
        let mut bytes = vec![0; len];
        self.rng.fill(&mut bytes);
        if let [kind, rest @ ..] = &mut bytes[..] {
            *kind = [1, 2, 3, 4, 0xe0, 0xe1, 0xe2, 0xe3, 0xe4, *kind][self.rng.below(10) as usize];
            rest.iter_mut().take(3).for_each(|byte| *byte = 0);
        }
        bytes
    }

    pub(crate) fn trouble(&mut self) {
        let n = self.some_node();
        match self.rng.below(11) {
            0 => self.restart_node(n, 3_000),
            1 => self.restart_server(8_000),
            2 => self.rebind(n),
            3 => self.block_udp(n),
            4 => self.block_direct(n),
            5 => self.silence(),
            6 => self.set_clock(n),
            7 => self.suspend(n),
            8 => self.attack(),
            9 => {
                self.set_clock(n);
                self.restart_node(n, 1_000);
            }
            // Several at once.
            _ => {
                self.rebind(n);
                self.restart_server(8_000);
                self.restart_node((n + 1) % self.nodes.len(), 3_000);
            }
        }
    }
}
