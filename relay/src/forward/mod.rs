//! The relay: who is bound where, which session leads where, and what is not relayed.
//!
//! A session is random, per pair and direction, and kept in memory only: after a restart nodes bind and look up
//! again. A node is bound over UDP or over TCP, whichever bind carried the highest epoch. A datagram is taken
//! only from where its session's sender is bound, and goes on unchanged; what it says is for the two nodes.
//!
//! A datagram that finds its sender or its receiver not bound is lost; once that node is, its sender is told of its
//! receiver again, so that a handshake need not wait for its own timer.
//!
//! A server without a directory ([`Upstream`]) sends what is for nodes that are not bound here to the directory's, and
//! takes from there what is for its own. The directory's server knows of those nodes by which such server they are bound.
//!
//! Bounds: [`SESSIONS_MAX`] sessions, the ones unused for longest making room; one binding a node; answers to
//! what is not understood are rate-limited and never longer than their cause. Nothing is queued for UDP.

mod bind;
mod missed;
mod queue;
mod tables;
mod tcp;
mod udp;
mod upstream;

pub(crate) use bind::{ip_bytes, mac};
pub(crate) use queue::Queue;
pub(crate) use tcp::serve as serve_tcp;
pub(crate) use udp::spawn as spawn_udp;
pub(crate) use upstream::{Membership, Upstream};

use crate::counters::{Counters, Loss};
use bind::UNBOUND_SLOTS;
use edgemesh_core::rng::Rng;
use edgemesh_core::wire::relay::{BIND, Message};
use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Instant;
use tables::{Place, Session, Tables};
use tokio::sync::mpsc;
use udp::Outlet;

/// Sessions at most.
pub(crate) const SESSIONS_MAX: usize = 1 << 18;

/// Where a node is over UDP, and which address of ours it speaks to: what it is sent has that one for a source, of all
/// that this machine may have.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ends {
    remote: SocketAddr,
    local: Option<IpAddr>,
}

/// Where datagrams are sent.
#[derive(Clone)]
pub(crate) enum Way {
    Udp(Ends),
    Tcp(Arc<Queue>),
}

/// Where a datagram came from.
#[derive(Clone, Copy)]
pub(crate) enum From<'q> {
    Udp(Ends),
    Tcp(&'q Arc<Queue>, SocketAddr),
}

/// What is to be done with a datagram.
pub(crate) enum Verdict {
    /// It goes on, to there.
    Forward(Way),
    /// The first so many bytes of the buffer go back to the sender.
    Answer(usize),
    /// Counted.
    Nothing,
}

/// A node that lost a datagram to another, which can be reached now.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct Met {
    pub(crate) from: u32,
    pub(crate) to: u32,
}

/// What the control side is told.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum News {
    Met(Met),
    /// A node is bound here.
    Bound {
        index: u32,
        epoch: u64,
    },
    /// It is not any more.
    Unbound {
        index: u32,
    },
    /// The node is not bound by this server without a directory any more.
    Left {
        relay: u32,
        index: u32,
    },
}

/// The relay's state, shared by its sockets and the control connections.
pub(crate) struct Switch {
    tables: Mutex<Tables>,
    unbound: Mutex<Vec<u32>>,
    cookie_key: [u8; 32],
    started: Instant,
    udp: Outlet,
    counters: Arc<Counters>,
    news: mpsc::Sender<News>,
    relay_key: Box<dyn Fn(u32) -> Option<[u8; 32]> + Send + Sync>,
    upstream: Option<Upstream>,
}

impl Switch {
    /// A relay that sends by `udp`, which does not block, says by `news` who is bound and can be reached again, and asks
    /// `relay_key` for the key of a node's binds; `upstream` without a directory.
    ///
    /// # Errors
    /// When the socket cannot be set up.
    pub(crate) fn new(
        udp: UdpSocket,
        counters: Arc<Counters>,
        news: mpsc::Sender<News>,
        rng: &mut Rng,
        relay_key: impl Fn(u32) -> Option<[u8; 32]> + Send + Sync + 'static,
        upstream: Option<Upstream>,
    ) -> io::Result<Self> {
        Ok(Self {
            tables: Mutex::default(),
            unbound: Mutex::new(vec![0; UNBOUND_SLOTS]),
            cookie_key: rng.bytes(),
            started: Instant::now(),
            udp: Outlet::new(udp)?,
            counters,
            news,
            relay_key: Box::new(relay_key),
            upstream,
        })
    }

    fn tables(&self) -> MutexGuard<'_, Tables> {
        self.tables.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// The sessions from `a` to `b` and back; made at first use.
    pub(crate) fn sessions(&self, a: u32, b: u32, rng: &mut Rng) -> (u32, u32) {
        let now = self.secs();
        let mut tables = self.tables();
        let mut one = |from, to| {
            if let Some(session) = tables.pairs.get(&(from, to)).copied() {
                return session;
            }
            let mut session = rng.u32();
            while session == 0 || tables.sessions.contains_key(&session) {
                session = rng.u32();
            }
            tables.enter(session, Session { from, to, used: now });
            session
        };
        (one(a, b), one(b, a))
    }

    /// Enters a session that the directory's server has given out.
    pub(crate) fn enter(&self, session: u32, from: u32, to: u32) {
        let used = self.secs();
        self.tables().enter(session, Session { from, to, used });
    }

    /// The nodes that a node has sessions with.
    pub(crate) fn partners(&self, index: u32) -> Vec<u32> {
        self.tables().pairs.keys().filter(|(from, _)| *from == index).map(|(_, to)| *to).collect()
    }

    /// How many sessions and bindings there are: sessions, nodes on UDP, nodes on TCP.
    pub(crate) fn sizes(&self) -> (usize, usize, usize) {
        let tables = self.tables();
        let count = |is: fn(&Place) -> bool| tables.bindings.values().filter(|b| is(&b.place)).count();
        let udp = count(|place| matches!(place, Place::Here(Way::Udp(_))));
        (tables.sessions.len(), udp, count(|place| matches!(place, Place::Here(Way::Tcp(_)))))
    }

    /// How a node is bound: the way's name and its address.
    pub(crate) fn binding(&self, index: u32) -> Option<(&'static str, SocketAddr)> {
        let tables = self.tables();
        let is_here = matches!(tables.bindings.get(&index)?.place, Place::Here(_));
        Some(match tables.way(index)? {
            Way::Udp(ends) if is_here => ("udp", ends.remote),
            Way::Tcp(queue) if is_here => ("tcp", queue.peer()),
            Way::Udp(Ends { remote, .. }) => ("via", *remote),
            Way::Tcp(queue) => ("via", queue.peer()),
        })
    }

    /// The highest epoch that a node has bound with.
    pub(crate) fn epoch(&self, index: u32) -> u64 {
        self.tables().bindings.get(&index).map_or(0, |b| b.epoch)
    }

    /// Decides about one datagram. An answer is written to `out`.
    pub(crate) fn datagram(&self, from: From<'_>, datagram: &[u8], out: &mut [u8; BIND]) -> Verdict {
        match Message::parse(datagram) {
            Ok(Message::Data { session, .. }) => self.data(from, session, datagram.len(), out),
            Ok(Message::Bind { index, epoch, cookie }) => {
                self.bind(from, index, epoch, &cookie, datagram, out)
            }
            Ok(message) => self.server_message(from, &message, datagram),
            Err(_) => self.lose(Loss::Malformed),
        }
    }

    fn lose(&self, reason: Loss) -> Verdict {
        self.counters.count(reason, 1);
        Verdict::Nothing
    }

    fn data(&self, from: From<'_>, session: u32, len: usize, out: &mut [u8; BIND]) -> Verdict {
        let now = self.secs();
        let mut tables = self.tables();
        let upstream = tables.upstream.map(|remote| Way::Udp(Ends { remote, local: None }));
        let is_upstream = upstream.as_ref().is_some_and(|way| from.is(way));
        let Some(known) = tables.sessions.get_mut(&session) else {
            drop(tables);
            return self.unbound(Loss::Session, from, is_upstream, (session, len), out);
        };
        known.used = now;
        let met = Met { from: known.from, to: known.to };
        // Who is bound elsewhere sends by the server of the directory.
        if !tables.way(met.from).map_or(is_upstream, |way| from.is(way)) {
            tables.missed.note(met.from, met);
            drop(tables);
            return self.unbound(Loss::Source, from, is_upstream, (session, len), out);
        }
        match tables.way(met.to).cloned().or(upstream.filter(|_| !is_upstream)) {
            Some(way) => Verdict::Forward(way),
            None => {
                tables.missed.note(met.to, met);
                drop(tables);
                self.lose(Loss::PeerUnbound)
            }
        }
    }

    /// Sends datagrams, which follow each other in one session.
    fn deliver(&self, way: &Way, datagrams: &[&[u8]]) {
        match way {
            Way::Tcp(queue) => {
                let dropped = queue.push(datagrams);
                self.counters.queued(datagrams, dropped);
            }
            Way::Udp(ends) => self.send_together(ends, datagrams),
        }
    }
}

impl From<'_> {
    fn address(&self) -> SocketAddr {
        match self {
            Self::Udp(ends) => ends.remote,
            Self::Tcp(_, address) => *address,
        }
    }

    fn is(&self, way: &Way) -> bool {
        match (self, way) {
            (Self::Udp(ends), Way::Udp(bound)) => ends.remote == bound.remote,
            (Self::Tcp(queue, _), Way::Tcp(bound)) => Arc::ptr_eq(queue, bound),
            _ => false,
        }
    }

    fn way(&self) -> Way {
        match self {
            Self::Udp(ends) => Way::Udp(*ends),
            Self::Tcp(queue, _) => Way::Tcp(Arc::clone(queue)),
        }
    }
}

#[cfg(test)]
mod tests;
