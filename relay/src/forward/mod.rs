//! The relay: who is bound where, which session leads where, and what is not relayed.
//!
//! A session is random, per pair and direction, and kept in memory only: after a restart nodes bind and look up
//! again. A node is bound over UDP or over TCP, whichever bind carried the highest epoch. A datagram is taken
//! only from where its session's sender is bound, and goes on unchanged; what it says is for the two nodes.
//!
//! A datagram that finds its sender or its receiver not bound is lost; once that node is, its sender is told of its
//! receiver again, so that a handshake need not wait for its own timer.
//!
//! Bounds: [`SESSIONS_MAX`] sessions, the ones unused for longest making room; one binding a node; answers to
//! what is not understood are rate-limited and never longer than their cause. Nothing is queued for UDP.

mod missed;
mod queue;
mod tcp;
mod udp;

pub(crate) use queue::Queue;
pub(crate) use tcp::serve as serve_tcp;
pub(crate) use udp::spawn as spawn_udp;

use crate::counters::{Counters, Loss};
use blake2::Blake2sMac;
use blake2::digest::consts::U16;
use blake2::digest::{KeyInit, Mac};
use edgemesh_core::rng::Rng;
use edgemesh_core::wire::relay::{BIND, Cookie, Message, verify};
use missed::Missed;
use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Instant;
use tokio::sync::mpsc;
use udp::Outlet;

/// Sessions at most.
pub(crate) const SESSIONS_MAX: usize = 1 << 18;
/// How many are looked at to find the one unused for longest.
const EVICT_SAMPLE: usize = 8;
/// A cookie is good for one to two of these.
const COOKIE_SECS: u64 = 60;
/// `Unbound` to one source at most this often.
const UNBOUND_MILLIS: u64 = 100;
/// Sources that are told apart for that.
const UNBOUND_SLOTS: usize = 1024;

/// Where a node is over UDP, and which address of ours it speaks to: what it is sent has that one for a source, of all
/// that this machine may have.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ends {
    remote: SocketAddr,
    local: Option<IpAddr>,
}

/// Where a node is bound.
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

struct Binding {
    epoch: u64,
    way: Way,
}

#[derive(Clone, Copy)]
struct Session {
    from: u32,
    to: u32,
    used: u32,
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

#[derive(Default)]
struct Tables {
    sessions: HashMap<u32, Session>,
    pairs: HashMap<(u32, u32), u32>,
    bindings: HashMap<u32, Binding>,
    missed: Missed,
}

/// A node that lost a datagram to another, which can be reached now.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct Met {
    pub(crate) from: u32,
    pub(crate) to: u32,
}

/// The relay's state, shared by its sockets and the control connections.
pub(crate) struct Switch {
    tables: Mutex<Tables>,
    unbound: Mutex<Vec<u32>>,
    cookie_key: [u8; 32],
    started: Instant,
    udp: Outlet,
    counters: Arc<Counters>,
    met: mpsc::Sender<Met>,
    relay_key: Box<dyn Fn(u32) -> Option<[u8; 32]> + Send + Sync>,
}

impl Switch {
    /// A relay that sends by `udp`, which does not block, says by `met` who can be reached again, and asks `relay_key` for the key of a
    /// node's binds.
    ///
    /// # Errors
    /// When the socket cannot be set up.
    pub(crate) fn new(
        udp: UdpSocket,
        counters: Arc<Counters>,
        met: mpsc::Sender<Met>,
        rng: &mut Rng,
        relay_key: impl Fn(u32) -> Option<[u8; 32]> + Send + Sync + 'static,
    ) -> io::Result<Self> {
        Ok(Self {
            tables: Mutex::default(),
            unbound: Mutex::new(vec![0; UNBOUND_SLOTS]),
            cookie_key: rng.bytes(),
            started: Instant::now(),
            udp: Outlet::new(udp)?,
            counters,
            met,
            relay_key: Box::new(relay_key),
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
            tables.make_room();
            let mut session = rng.u32();
            while session == 0 || tables.sessions.contains_key(&session) {
                session = rng.u32();
            }
            tables.pairs.insert((from, to), session);
            tables.sessions.insert(session, Session { from, to, used: now });
            session
        };
        (one(a, b), one(b, a))
    }

    /// The nodes that a node has sessions with.
    pub(crate) fn partners(&self, index: u32) -> Vec<u32> {
        self.tables().pairs.keys().filter(|(from, _)| *from == index).map(|(_, to)| *to).collect()
    }

    /// How many sessions and bindings there are: sessions, nodes on UDP, nodes on TCP.
    pub(crate) fn sizes(&self) -> (usize, usize, usize) {
        let tables = self.tables();
        let tcp = tables.bindings.values().filter(|b| matches!(b.way, Way::Tcp(_))).count();
        (tables.sessions.len(), tables.bindings.len() - tcp, tcp)
    }

    /// How a node is bound: the way's name and its address.
    pub(crate) fn binding(&self, index: u32) -> Option<(&'static str, SocketAddr)> {
        match &self.tables().bindings.get(&index)?.way {
            Way::Udp(ends) => Some(("udp", ends.remote)),
            Way::Tcp(queue) => Some(("tcp", queue.peer())),
        }
    }

    /// The highest epoch that a node has bound with.
    pub(crate) fn epoch(&self, index: u32) -> u64 {
        self.tables().bindings.get(&index).map_or(0, |b| b.epoch)
    }

    /// Forgets a node's binding, as when it is revoked or has a new key.
    pub(crate) fn unbind(&self, index: u32) {
        self.tables().bindings.remove(&index);
    }

    /// Forgets the binding over a TCP connection that ended.
    pub(crate) fn closed(&self, queue: &Arc<Queue>) {
        self.tables().bindings.retain(|_, b| !matches!(&b.way, Way::Tcp(q) if Arc::ptr_eq(q, queue)));
    }

    /// Decides about one datagram. An answer is written to `out`.
    pub(crate) fn datagram(&self, from: From<'_>, datagram: &[u8], out: &mut [u8; BIND]) -> Verdict {
        match Message::parse(datagram) {
            Ok(Message::Data { session, .. }) => self.data(from, session, datagram.len(), out),
            Ok(Message::Bind { index, epoch, cookie }) => {
                self.bind(from, index, epoch, &cookie, datagram, out)
            }
            Ok(Message::Challenge { .. } | Message::Bound { .. } | Message::Unbound { .. }) | Err(_) => {
                self.lose(Loss::Malformed)
            }
        }
    }

    fn lose(&self, reason: Loss) -> Verdict {
        self.counters.count(reason, 1);
        Verdict::Nothing
    }

    fn data(&self, from: From<'_>, session: u32, len: usize, out: &mut [u8; BIND]) -> Verdict {
        let now = self.secs();
        let mut tables = self.tables();
        let Tables { sessions, bindings, missed, .. } = &mut *tables;
        let known = sessions.get_mut(&session);
        let is_bound = |s: &Session| bindings.get(&s.from).is_some_and(|b| from.is(&b.way));
        let Some(known) = known else {
            drop(tables);
            self.counters.count(Loss::Session, 1);
            return self.unbound(from, session, len, out);
        };
        let met = Met { from: known.from, to: known.to };
        if !is_bound(known) {
            missed.note(known.from, met);
            drop(tables);
            self.counters.count(Loss::Source, 1);
            return self.unbound(from, session, len, out);
        }
        known.used = now;
        match bindings.get(&known.to) {
            Some(binding) => Verdict::Forward(binding.way.clone()),
            None => {
                missed.note(known.to, met);
                drop(tables);
                self.lose(Loss::PeerUnbound)
            }
        }
    }

    /// Tells the sender to bind again, if it was not told just now; never with more bytes than it sent.
    fn unbound(&self, from: From<'_>, session: u32, len: usize, out: &mut [u8; BIND]) -> Verdict {
        let millis = self.started.elapsed().as_millis() as u64;
        let mut slots = self.unbound.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let [a, b, ..] = mac(&self.cookie_key, &[&ip_bytes(from.address().ip())]);
        let place = usize::from(u16::from_le_bytes([a, b])) % UNBOUND_SLOTS;
        let window = (millis / UNBOUND_MILLIS) as u32 + 1;
        match slots.get_mut(place) {
            Some(last) if *last != window => *last = window,
            _ => return Verdict::Nothing,
        }
        match (Message::Unbound { session }).emit(&[0; 32], out) {
            Ok(answer) if answer <= len => {
                self.counters.unbound.fetch_add(1, Relaxed);
                Verdict::Answer(answer)
            }
            _ => Verdict::Nothing,
        }
    }

    fn bind(
        &self,
        from: From<'_>,
        index: u32,
        epoch: u64,
        cookie: &Cookie,
        datagram: &[u8],
        out: &mut [u8; BIND],
    ) -> Verdict {
        let Some(key) = (self.relay_key)(index).filter(|key| verify(key, datagram)) else {
            return self.lose(Loss::Bind);
        };
        let mut tables = self.tables();
        let known = tables.bindings.get(&index);
        let here = known.is_some_and(|b| from.is(&b.way));
        // The same bind twice is answered twice; an older one may be anybody's recording.
        if known.is_some_and(|b| epoch < b.epoch || (epoch == b.epoch && !here)) {
            drop(tables);
            return self.lose(Loss::Bind);
        }
        let address = from.address();
        // A TCP sender has shown that it receives; so has one that is bound here already.
        if !here && matches!(from, From::Udp(_)) && !self.is_cookie(cookie, address, index) {
            drop(tables);
            let cookie = self.cookie(address, index, self.window());
            self.counters.challenges.fetch_add(1, Relaxed);
            return answer(Message::Challenge { index, cookie }, &key, out);
        }
        tables.bindings.insert(index, Binding { epoch, way: from.way() });
        let met = if here { Vec::new() } else { tables.missed.take(index) };
        drop(tables);
        for met in met {
            // When too many are on their way, this one's own timer will do.
            let _ = self.met.try_send(met);
        }
        self.counters.binds.fetch_add(1, Relaxed);
        answer(Message::Bound { index, epoch, observed: address }, &key, out)
    }

    fn is_cookie(&self, cookie: &Cookie, address: SocketAddr, index: u32) -> bool {
        let window = self.window();
        let is = |window| {
            bool::from(subtle::ConstantTimeEq::ct_eq(&self.cookie(address, index, window)[..], &cookie[..]))
        };
        is(window) || is(window.wrapping_sub(1))
    }

    fn cookie(&self, address: SocketAddr, index: u32, window: u64) -> Cookie {
        let (ip, port) = (ip_bytes(address.ip()), address.port().to_le_bytes());
        mac(&self.cookie_key, &[&ip, &port, &index.to_le_bytes(), &window.to_le_bytes()])
    }

    fn window(&self) -> u64 {
        u64::from(self.secs()) / COOKIE_SECS
    }

    fn secs(&self) -> u32 {
        self.started.elapsed().as_secs() as u32 + COOKIE_SECS as u32
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

impl Tables {
    fn make_room(&mut self) {
        if self.sessions.len() < SESSIONS_MAX {
            return;
        }
        // The map's order is random enough for a sample.
        let oldest =
            self.sessions.iter().take(EVICT_SAMPLE).min_by_key(|(_, s)| s.used).map(|(id, s)| (*id, *s));
        if let Some((id, session)) = oldest {
            self.sessions.remove(&id);
            self.pairs.remove(&(session.from, session.to));
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

fn answer(message: Message<'_>, key: &[u8; 32], out: &mut [u8; BIND]) -> Verdict {
    message.emit(key, out).map_or(Verdict::Nothing, Verdict::Answer)
}

fn mac(key: &[u8; 32], parts: &[&[u8]]) -> [u8; 16] {
    let mut state = <Blake2sMac<U16> as KeyInit>::new(key.into());
    parts.iter().for_each(|part| state.update(part));
    state.finalize().into_bytes().into()
}

fn ip_bytes(ip: IpAddr) -> [u8; 16] {
    match ip {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
        IpAddr::V6(v6) => v6.octets(),
    }
}

#[cfg(test)]
mod tests;
