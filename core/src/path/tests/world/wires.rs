//! How datagrams travel: through the NATs, by the relay or past it, by TCP; and what becomes of those that arrive.

use super::{D, KEY, PEER, R, Site, World, server};
use crate::counters::DropReason;
use crate::path::{RelayVia, Relayed, Route, Source};
use crate::time::Duration;
use crate::wire::path::is_path;
use crate::wire::relay::{self, Message};
use std::net::SocketAddr;
use std::vec;
use std::vec::Vec;

#[derive(Clone, Debug)]
struct Datagram {
    from: SocketAddr,
    to: SocketAddr,
    outer: usize,
    dont_fragment: bool,
    bytes: Vec<u8>,
}

#[derive(Clone, Debug)]
pub(super) enum Arrival {
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

impl World {
    pub(super) fn send_to_server(&mut self, n: usize, via: RelayVia, bytes: &[u8]) {
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

    pub(super) fn post(&mut self, delay: Duration, arrival: Arrival) {
        self.order += 1;
        self.queue.insert((self.now.after(delay), self.order), arrival);
    }

    pub(super) fn arrive(&mut self, arrival: Arrival) {
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
