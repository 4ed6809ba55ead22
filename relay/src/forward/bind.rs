//! Binding: how a node shows that it is where it says, and how it is told to do so again.

use super::tables::{Binding, Place, Tables};
use super::{From, News, Switch, Verdict, Way};
use crate::counters::Loss;
use blake2::Blake2sMac;
use blake2::digest::consts::U16;
use blake2::digest::{KeyInit, Mac};
use edgemesh_core::wire::relay::{BIND, Cookie, Message, verify};
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, MutexGuard};

/// A cookie is good for one to two of these.
const COOKIE_SECS: u64 = 60;
/// `Unbound` to one source at most this often.
const UNBOUND_MILLIS: u64 = 100;
/// Sources that are told apart for that.
pub(super) const UNBOUND_SLOTS: usize = 1024;

impl Switch {
    /// Binds the node, or challenges it first.
    pub(super) fn bind(
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
        let tables = self.tables();
        let known = tables.bindings.get(&index);
        let here = known.is_some_and(|b| b.is_at(from));
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
        self.put(tables, index, Binding { epoch, place: Place::Here(from.way()) }, here);
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

    pub(super) fn secs(&self) -> u32 {
        self.started.elapsed().as_secs() as u32 + COOKIE_SECS as u32
    }

    /// A server without a directory says that the node is bound there.
    pub(crate) fn bound_via(&self, relay: u32, index: u32, epoch: u64) {
        let tables = self.tables();
        let known = tables.bindings.get(&index);
        if known.is_some_and(|b| epoch < b.epoch) {
            drop(tables);
            return self.counters.count(Loss::Bind, 1);
        }
        let here = known.is_some_and(|b| b.is_via(relay));
        self.put(tables, index, Binding { epoch, place: Place::Via(relay) }, here);
    }

    /// It says that it is not any more.
    pub(crate) fn unbound_via(&self, relay: u32, index: u32) {
        if self.is_via(relay, index) {
            self.tables().bindings.remove(&index);
        }
    }

    /// Whether the node is bound at that server.
    pub(crate) fn is_via(&self, relay: u32, index: u32) -> bool {
        self.tables().bindings.get(&index).is_some_and(|binding| binding.is_via(relay))
    }

    /// Forgets a node's binding, as when it is revoked or has a new key.
    pub(crate) fn unbind(&self, index: u32) {
        let left = self.tables().bindings.remove(&index);
        self.tell_left(index, left);
    }

    /// Forgets the binding over a TCP connection that ended.
    pub(crate) fn closed(&self, queue: &Arc<super::Queue>) {
        let is = |b: &mut Binding| matches!(&b.place, Place::Here(Way::Tcp(q)) if Arc::ptr_eq(q, queue));
        let ended: Vec<u32> =
            self.tables().bindings.extract_if(|_, b| is(b)).map(|(index, _)| index).collect();
        if self.upstream.is_some() {
            ended.into_iter().for_each(|index| self.tell(News::Unbound { index }));
        }
    }

    /// The nodes that are bound here, with their epochs.
    pub(crate) fn bound(&self) -> Vec<(u32, u64)> {
        self.tables().bindings.iter().map(|(index, binding)| (*index, binding.epoch)).collect()
    }

    /// Enters a binding, `here` where the node was bound before, and tells who is to know.
    fn put(&self, mut tables: MutexGuard<'_, Tables>, index: u32, binding: Binding, here: bool) {
        let epoch = binding.epoch;
        let left = tables.bindings.insert(index, binding).filter(|_| !here);
        let met = if here { Vec::new() } else { tables.missed.take(index) };
        drop(tables);
        self.tell_left(index, left);
        if self.upstream.is_some() {
            self.tell(News::Bound { index, epoch });
        }
        met.into_iter().for_each(|met| self.tell(News::Met(met)));
    }

    fn tell_left(&self, index: u32, left: Option<Binding>) {
        if let Some(Binding { place: Place::Via(relay), .. }) = left {
            self.tell(News::Left { relay, index });
        }
    }

    /// When too much is on its way, the nodes' own timers will do.
    fn tell(&self, news: News) {
        let _ = self.news.try_send(news);
    }

    /// Tells the sender to bind again, if it was not told just now; never with more bytes than it sent.
    /// The server of the directory is told nothing: it knows of its sessions.
    pub(super) fn unbound(
        &self,
        reason: Loss,
        from: From<'_>,
        is_upstream: bool,
        (session, len): (u32, usize),
        out: &mut [u8; BIND],
    ) -> Verdict {
        self.counters.count(reason, 1);
        if is_upstream {
            return Verdict::Nothing;
        }
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
}

fn answer(message: Message<'_>, key: &[u8; 32], out: &mut [u8; BIND]) -> Verdict {
    message.emit(key, out).map_or(Verdict::Nothing, Verdict::Answer)
}

/// A MAC of this server's own: keyed BLAKE2s-128.
pub(crate) fn mac(key: &[u8; 32], parts: &[&[u8]]) -> [u8; 16] {
    let mut state = <Blake2sMac<U16> as KeyInit>::new(key.into());
    parts.iter().for_each(|part| state.update(part));
    state.finalize().into_bytes().into()
}

pub(crate) fn ip_bytes(ip: IpAddr) -> [u8; 16] {
    match ip {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
        IpAddr::V6(v6) => v6.octets(),
    }
}
