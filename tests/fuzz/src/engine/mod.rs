//! Two whole engines that trust one directory, and an outside that does what the bytes say: packets and super-packets
//! from their TUNs, datagrams lost, doubled, changed, forged, authentic control messages of any content, queries,
//! commands, time.
//!
//! Held to: no panic, a deadline that is due makes progress, output ends, granted keys exist, and when in the end
//! nothing comes in for a day no packet waits, no flow and no admitted tuple is left.

mod cast;
mod cloud;
mod node;

pub(crate) use cast::{cluster, question};

use crate::input::Input;
use crate::packets;
use cast::{burst, endpoint, pod, some_address, source, update, vips};
use cloud::Connection;
use edgemesh_core::control::Feed;
use edgemesh_core::dns::Transport;
use edgemesh_core::node::{Burst, Destination, From};
use edgemesh_core::packet::{HEADROOM, Packet, TAILROOM};
use edgemesh_core::path::Local;
use edgemesh_core::time::{Duration, Instant};
use edgemesh_core::wire::control::{Peer, SignedRecord};
use node::Node;
use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};

edgemesh_core::memory! {
    pub(crate) struct Room {
        peers: 3,
        window: 3,
        handshakes: 2,
        flows: 6,
        admitted: 6,
        services: 6,
        ports: 10,
        endpoints: 8,
        names: 24,
        namespaces: 6,
        side: 4,
    }
}

const SERVER: SocketAddr = SocketAddr::new(IpAddr::V4(std::net::Ipv4Addr::new(203, 0, 113, 1)), 20_004);
const OPS: usize = 400;

fn address(n: usize) -> SocketAddr {
    SocketAddr::new(IpAddr::from([198, 51, 100, 1 + n as u8]), 20_006)
}

struct World<'a> {
    now: Instant,
    nodes: [Node<'a>; 2],
    connections: [Connection; 2],
    /// Datagrams on the way: receiver, as it comes, bytes.
    wire: VecDeque<(usize, From, Vec<u8>)>,
    /// Who is still to be told of whom, because that one has looked him up: a node, and the other's index.
    announced: VecDeque<(usize, u32)>,
}

/// An engine that belongs to no mesh.
pub(crate) fn alone(memory: edgemesh_core::memory::Resources<'_>) -> edgemesh_core::node::Engine<'_> {
    Node::new(1, address(0), Feed::None, memory).engine
}

/// Runs the story that the bytes tell.
pub(crate) fn run(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let what = input.byte();
    let mut rooms = [Box::new(Room::ZERO), Box::new(Room::ZERO)];
    let feed = if what & 2 == 0 { Feed::Whole } else { Feed::OnDemand };
    let mut world = World::new(feed, &mut rooms);
    if what & 4 == 0 {
        world.join();
    }
    for _ in 0..OPS {
        if input.is_empty() {
            break;
        }
        world.op(&mut input);
        for n in [0, 1] {
            world.drain(n);
        }
    }
    if what & 1 == 0 {
        world.end();
    }
}

impl<'a> World<'a> {
    /// Two nodes that nobody has told anything.
    fn new(feed: Feed, [one, two]: &'a mut [Box<Room>; 2]) -> Self {
        let mut nodes =
            [Node::new(1, address(0), feed, one.lend()), Node::new(2, address(1), feed, two.lend())];
        if feed == Feed::OnDemand {
            nodes.iter_mut().for_each(|node| node.engine.hold_on_demand());
        }
        Self {
            now: Instant::ZERO,
            nodes,
            connections: [Connection::new(1), Connection::new(2)],
            wire: VecDeque::new(),
            announced: VecDeque::new(),
        }
    }

    /// Both become members and are fed.
    fn join(&mut self) {
        for n in [0, 1] {
            self.connect(n);
            self.each_frame(n);
            self.say(n, |c| c.feed(&cluster()));
            self.say(n, |c| c.commit(1));
        }
    }

    fn op(&mut self, input: &mut Input<'_>) {
        let op = input.byte();
        let n = usize::from(op >> 7);
        match op & 0x1f {
            0..=3 => self.packet(n, input),
            4 => {
                let packet = input.some().to_vec();
                let burst = burst(input, packet.len());
                self.nodes[n].outbound(self.now, &packet, burst);
            }
            5..=7 => self.settle(),
            8 => _ = self.deliver(),
            9 => _ = self.wire.pop_front(),
            10 => {
                if let Some(datagram) = self.wire.front().cloned() {
                    self.wire.push_back(datagram);
                }
            }
            11 => {
                let (at, flip) = (usize::from(input.u16()), input.byte());
                if let Some((_, _, bytes)) = self.wire.front_mut()
                    && let len @ 1.. = bytes.len()
                {
                    bytes[at % len] ^= flip;
                }
            }
            12 => {
                let from = source(input);
                let datagram = input.some();
                self.nodes[n].receive(self.now, from, datagram);
            }
            13 => {
                let millis = 1_u64 << (input.byte() % 28);
                self.pass(Duration::from_millis(millis));
            }
            14 => self.pass(Duration::from_millis(input.byte().into())),
            15 => {
                if let Some(at) =
                    self.nodes.iter().filter_map(|n| n.engine.poll_timeout()).map(|(at, _)| at).min()
                {
                    self.pass(at.since(self.now));
                }
            }
            16 => self.answer(n, input.byte()),
            17 => {
                let text = input.some();
                self.say(n, |c| c.raw(text));
            }
            18 => {
                let updates = update(input);
                self.say(n, |c| c.feed(&updates));
            }
            19 => {
                let (key, found) = (input.u32(), input.byte().into());
                self.say(n, |c| c.answer(key, found));
            }
            20 => {
                let sequence = input.byte().into();
                self.say(n, |c| c.commit(sequence));
            }
            21 => {
                let about = 1 + input.below(3) as u32;
                self.say(n, |c| c.tell(n as u32 + 1, about));
            }
            22 => {
                self.nodes[n].engine.control_down(self.now);
                if input.flag() {
                    self.connect(n);
                }
            }
            23 => {
                let transport = if input.flag() { Transport::Udp } else { Transport::Tcp };
                let mut out = [0; 700];
                let _ = self.nodes[n].engine.query(self.now, transport, &question(input), &mut out);
            }
            24 => {
                let updates = update(input);
                for update in edgemesh_core::control::updates(&updates).flatten() {
                    let _ = self.nodes[n].engine.update(&update);
                }
            }
            25 => {
                let frame = &mut input.some().to_vec();
                let _ = self.nodes[n].engine.control(self.now, frame);
            }
            26 => {
                let (record, signature) = (input.some(), [1; 64]);
                let record = SignedRecord { record, signature: &signature };
                let peer = Peer { record, send_session: input.u32(), receive_session: 5 };
                assert!(self.nodes[n].engine.learn(self.now, &peer).is_err(), "an unsigned record");
            }
            27 => self.command(n, input),
            28 => {
                if input.flag() {
                    self.nodes[n].engine.relay_tcp_up(self.now);
                } else {
                    self.nodes[n].engine.relay_tcp_down(self.now);
                }
            }
            29 => {
                // Something that was sent comes from elsewhere, as when a NAT box was restarted.
                let from = source(input);
                if let Some((_, as_from, _)) = self.wire.front_mut() {
                    *as_from = from;
                }
            }
            30 => self.wire.clear(),
            _ => self.wire.rotate_left(self.wire.len().min(1)),
        }
    }

    fn command(&mut self, n: usize, input: &mut Input<'_>) {
        let (now, engine) = (self.now, &mut self.nodes[n].engine);
        match input.byte() % 7 {
            0 => engine.forget_feed(),
            1 => _ = engine.ping(now, input.below(4) as u32),
            2 => engine.connect(now, input.below(4) as u32),
            3 => engine.hand_over(input.flag()),
            4 => {
                let down: Vec<IpAddr> = (0..input.below(5)).map(|_| endpoint(input.byte())).collect();
                engine.set_down(now, &down);
            }
            5 => {
                let local: Vec<Local> =
                    (0..input.below(6)).map(|_| Local { socket: 0, address: some_address(input) }).collect();
                engine.set_local(now, &local);
            }
            _ => {
                let packet = input.some();
                let mut buffer = [&[0; HEADROOM], packet, &[0; TAILROOM]].concat();
                engine.keep_flow(&Packet::new(&mut buffer, HEADROOM, packet.len()).expect("room"));
            }
        }
    }

    /// A packet of a pod for a Service, well formed.
    fn packet(&mut self, n: usize, input: &mut Input<'_>) {
        let (client, vip, port) = (input.byte(), input.byte(), input.byte());
        let from = SocketAddr::new(pod(client), 4_000 + u16::from(client & 7));
        let to = SocketAddr::new(vips(vip, from.is_ipv4()), [80, 53, 81][usize::from(port % 3)]);
        let payload = vec![port; usize::from(input.byte()) * 8];
        let packet = match vip >> 4 & 3 {
            0 => packets::udp(from, to, input.byte().into(), &payload),
            3 => packets::echo(from.ip(), to.ip(), input.flag(), 7, &payload),
            _ => packets::tcp(from, to, input.byte(), 1, &payload),
        };
        let burst = burst(input, packet.len());
        self.nodes[n].outbound(self.now, &packet, burst);
    }

    /// The receiver of a delivered packet sends one back, of whatever flags.
    fn answer(&mut self, n: usize, flags: u8) {
        let Some(packet) = self.nodes[n].delivered.pop() else { return };
        let Ok(t) = edgemesh_core::wire::ip::Transport::parse(&packet) else { return };
        let (from, to) = (SocketAddr::new(t.dst, t.dst_port), SocketAddr::new(t.src, t.src_port));
        let back = match t.protocol {
            packets::TCP => packets::tcp(from, to, flags, 1, b"yes"),
            packets::UDP => packets::udp(from, to, 1, b"yes"),
            _ => packets::echo(from.ip(), to.ip(), true, t.src_port, b"yes"),
        };
        self.nodes[n].outbound(self.now, &back, Burst::single(back.len()));
    }

    fn connect(&mut self, n: usize) {
        self.connections[n] = Connection::new(n as u8);
        self.nodes[n].engine.control_up(self.now, SERVER);
        let _ = self.nodes[n].engine.control(self.now, &mut cloud::greeting());
    }

    fn say(&mut self, n: usize, what: impl FnOnce(&mut Connection) -> Vec<u8>) {
        let mut frame = what(&mut self.connections[n]);
        let _ = self.nodes[n].engine.control(self.now, &mut frame);
        self.drain(n);
    }

    /// The server reads what a node has written, and answers.
    fn each_frame(&mut self, n: usize) {
        for _ in 0..100 {
            self.nodes[n].drain(self.now);
            let frames = std::mem::take(&mut self.nodes[n].frames);
            if frames.is_empty() {
                return;
            }
            for mut frame in frames {
                let (answers, looked_up) = self.connections[n].frame(n as u32 + 1, address(n), &mut frame);
                if let Some(index @ 1..=2) = looked_up.filter(|index| *index != n as u32 + 1) {
                    self.announced.push_back((index as usize - 1, n as u32 + 1));
                }
                for mut answer in answers {
                    let _ = self.nodes[n].engine.control(self.now, &mut answer);
                    // What the server said makes the connection a new one at most once.
                    if self.nodes[n].engine.link().must_close() {
                        self.nodes[n].engine.control_down(self.now);
                        self.nodes[n].frames.clear();
                        return;
                    }
                }
            }
        }
        panic!("node and server talk without end");
    }

    fn drain(&mut self, n: usize) {
        if self.nodes[n].engine.link().must_close() {
            self.nodes[n].engine.control_down(self.now);
            self.nodes[n].frames.clear();
        }
        self.each_frame(n);
        while let Some((to, about)) = self.announced.pop_front() {
            // Who is away hears of it when he asks himself.
            if self.nodes[to].engine.link().is_up() {
                let mut frame = self.connections[to].tell(to as u32 + 1, about);
                let _ = self.nodes[to].engine.control(self.now, &mut frame);
                self.each_frame(to);
            }
        }
        for n in [0, 1] {
            self.post(n);
        }
    }

    /// What a node has sent is on its way.
    fn post(&mut self, n: usize) {
        for (to, datagram) in std::mem::take(&mut self.nodes[n].sent) {
            let (own, other) = (n as u32 + 1, 1 - n);
            match to {
                Destination::Socket { remote: SERVER, .. } | Destination::RelayTcp => {
                    let tcp = to == Destination::RelayTcp;
                    let from = if tcp { From::RelayTcp } else { From::Socket { local: 0, remote: SERVER } };
                    if let Some((receiver @ 1..=2, bytes)) = cloud::relay(own, address(n), &datagram) {
                        self.wire.push_back((receiver as usize - 1, from, bytes));
                    }
                }
                Destination::Socket { remote, .. } if remote == address(other) => {
                    self.wire.push_back((other, From::Socket { local: 0, remote: address(n) }, datagram));
                }
                Destination::Socket { .. } => {}
            }
        }
        // A network forgets what it cannot carry.
        self.wire.truncate(64);
    }

    fn deliver(&mut self) -> bool {
        let Some((to, from, bytes)) = self.wire.pop_front() else { return false };
        self.nodes[to].receive(self.now, from, &bytes);
        self.drain(to);
        true
    }

    /// Delivers until the wire is empty, or has been busy for long.
    fn settle(&mut self) {
        for n in [0, 1] {
            self.drain(n);
        }
        let _ = (0..200).all(|_| self.deliver());
    }

    fn pass(&mut self, span: Duration) {
        self.now = self.now.after(span);
        for n in [0, 1] {
            self.nodes[n].time(self.now);
            self.drain(n);
        }
    }

    /// Nothing comes in any more: what is left goes by itself.
    fn end(&mut self) {
        let end = self.now.after(node::LONG);
        for node in &mut self.nodes {
            node.engine.control_down(self.now);
        }
        let mut jumps = 0;
        for n in [0, 1] {
            while let Some((at, _)) = self.nodes[n].engine.poll_timeout().filter(|(at, _)| *at <= end) {
                self.nodes[n].time(self.now.max(at));
                self.nodes[n].sent.clear();
                self.nodes[n].frames.clear();
                jumps += 1;
                assert!(jumps < 100_000, "an idle engine is never at rest");
            }
            let node = &self.nodes[n];
            let left = (node.engine.flows().len(), node.engine.flows().admitted(), node.parked());
            assert_eq!(left, (0, 0, 0), "flows, admitted tuples, parked packets of node {n}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Without this the target reaches little more than each node alone.
    #[test]
    fn packets_cross_both_ways() {
        for feed in [Feed::Whole, Feed::OnDemand] {
            let mut rooms = [Box::new(Room::ZERO), Box::new(Room::ZERO)];
            let mut world = World::new(feed, &mut rooms);
            world.join();
            world.settle();
            for (n, other) in [(0, 1), (1, 0)] {
                let from = SocketAddr::new(pod(0), 4_000);
                let packet =
                    packets::udp(from, SocketAddr::new(vips(other + 1, true), 53), 1, b"is anybody there?");
                let other = usize::from(other);
                world.nodes[n].outbound(world.now, &packet, Burst::single(packet.len()));
                world.settle();
                let [asked] = &world.nodes[other].delivered[..] else { panic!("nothing crossed from {n}") };
                assert!(asked.ends_with(b"is anybody there?"));
                world.answer(other, 0);
                world.settle();
                let answered = world.nodes[n].delivered.pop();
                assert!(answered.is_some_and(|packet| packet.ends_with(b"yes")), "nothing came back to {n}");
            }
        }
    }
}
