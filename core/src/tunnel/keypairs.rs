//! Session keys: three a peer, found by our random index, used under counters and a replay window.
//!
//! The initiator of a session uses it at once. The responder keeps it as `next` until something arrives in it,
//! which proves that the initiator has it too, and until then sends in the session before.

use super::slots::{Moment, flag};
use super::{
    Datagram, KEYPAIRS, KeyId, KeypairSlot, NoSession, OpenTicket, Opened, PeerId, PeerSlot,
    REJECT_AFTER_MESSAGES, REJECT_AFTER_TIME, RecvKey, SendGrant, SendKey, Tunnels, pair_place, replay,
};
use crate::counters::DropReason;
use crate::noise::{Aead, SymmetricState};
use crate::rng::Rng;
use crate::time::Instant;
use crate::wire::wireguard::{DataHeader, Kind, usable_index};

/// Draws of an index before giving up; with a million sessions, five fail once in 10^18 times.
const DRAWS: usize = 5;

impl Tunnels<'_> {
    /// Reserves `count` counters to send to `peer`, to be used at once. `payload`: this is a user's packet, which
    /// starts and renews sessions and is expected to be answered; otherwise it only uses what is there.
    ///
    /// # Errors
    /// [`NoSession`]. With `payload` a handshake is under way then, unless the peer is unknown.
    pub fn reserve(
        &mut self,
        now: Instant,
        peer: PeerId,
        count: u16,
        payload: bool,
    ) -> Result<SendGrant, NoSession> {
        let slot = self.slot(peer).filter(|slot| slot.live).ok_or(NoSession::UnknownPeer)?;
        let attempted = !slot.attempt.is_none();
        if let Some(grant) = self.grant(now, peer, count) {
            self.data_sent(now, peer, payload, payload);
            return Ok(grant);
        }
        self.mark_down(peer);
        if payload {
            self.start(now, peer, true);
        }
        Err(if payload || attempted { NoSession::Handshaking } else { NoSession::Idle })
    }

    /// Takes counters of the current session, if it can still be used.
    pub(super) fn grant(&mut self, now: Instant, peer: PeerId, count: u16) -> Option<SendGrant> {
        let place = pair_place(peer, self.slot(peer)?.current)?;
        let pair = self.keypairs.get_mut(place)?;
        let first = pair.counter;
        let after = first.checked_add(u64::from(count)).filter(|after| *after <= REJECT_AFTER_MESSAGES)?;
        if pair.born.allows(now, REJECT_AFTER_TIME) {
            return None;
        }
        pair.counter = after;
        Some(SendGrant { peer, key: KeyId { slot: place as u32, index: pair.local }, first, count })
    }

    /// The key of a grant, or `None` when it was given up.
    pub fn send_key<A: Aead>(&self, key: KeyId) -> Option<SendKey<A>> {
        let pair = self.pair(key)?;
        Some(SendKey { aead: A::new(&pair.send), remote: pair.remote })
    }

    /// The key of a ticket, or `None` when it was given up.
    pub fn recv_key<A: Aead>(&self, key: KeyId) -> Option<RecvKey<A>> {
        let pair = self.pair(key)?;
        Some(RecvKey { aead: A::new(&pair.receive), id: key })
    }

    fn pair(&self, key: KeyId) -> Option<&KeypairSlot> {
        self.keypairs.get(key.slot as usize).filter(|pair| pair.local != 0 && pair.local == key.index)
    }

    /// What `datagram` is. Changes nothing; what comes back as data is neither authentic nor certainly new.
    #[must_use]
    pub fn classify(&self, datagram: &[u8]) -> Datagram {
        match Kind::of(datagram) {
            Ok(Kind::Data) => match self.ticket(datagram) {
                Ok(ticket) => Datagram::Data(ticket),
                Err(reason) => Datagram::Drop(reason),
            },
            Ok(_) => Datagram::Message,
            Err(reason) => Datagram::Drop(reason),
        }
    }

    fn ticket(&self, datagram: &[u8]) -> Result<OpenTicket, DropReason> {
        let header = DataHeader::parse(datagram)?;
        let id = self.find_index(header.receiver).ok_or(DropReason::UnknownIndex)?;
        let place = (id as usize).saturating_sub(1);
        let pair = self.keypairs.get(place).ok_or(DropReason::UnknownIndex)?;
        let window = self.windows.get(self.window_of(place)).ok_or(DropReason::UnknownIndex)?;
        if !replay::is_new(window, pair.seen, header.counter) {
            return Err(DropReason::Replay);
        }
        let key = KeyId { slot: place as u32, index: header.receiver };
        Ok(OpenTicket { peer: peer_of(place), key, counter: header.counter })
    }

    /// Accepts an authentic data message: after this its text may be believed, once.
    ///
    /// # Errors
    /// [`DropReason::UnknownIndex`] when the key was given up since, [`DropReason::SessionExpired`],
    /// [`DropReason::Replay`].
    pub fn commit(&mut self, now: Instant, opened: Opened) -> Result<PeerId, DropReason> {
        let OpenTicket { peer, key, counter } = opened.ticket;
        let place = key.slot as usize;
        let range = self.window_of(place);
        let pair = self
            .keypairs
            .get_mut(place)
            .filter(|pair| pair.local != 0 && pair.local == key.index)
            .ok_or(DropReason::UnknownIndex)?;
        if pair.born.allows(now, REJECT_AFTER_TIME) {
            return Err(DropReason::SessionExpired);
        }
        let window = self.windows.get_mut(range).ok_or(DropReason::UnknownIndex)?;
        if !replay::accept(window, &mut pair.seen, counter) {
            return Err(DropReason::Replay);
        }
        self.confirm(now, peer, place);
        self.data_received(now, peer, opened.content);
        Ok(peer)
    }

    /// Makes `next` current if this is what something arrived in.
    fn confirm(&mut self, now: Instant, peer: PeerId, place: usize) {
        let Some(slot) = self.slot(peer) else { return };
        if slot.next == 0 || pair_place(peer, slot.next) != Some(place) {
            return;
        }
        let outdated = slot.previous;
        self.retire(peer, outdated);
        if let Some(slot) = self.slot_mut(peer) {
            (slot.previous, slot.current, slot.next) = (slot.current, slot.next, 0);
        }
        self.handshake_complete(now, peer);
    }

    /// Stores the keys of a finished handshake; `local` is registered for nothing else any more.
    pub(super) fn begin_session(
        &mut self,
        now: Instant,
        peer: PeerId,
        initiator: bool,
        [local, remote]: [u32; 2],
        state: &SymmetricState,
    ) -> Result<(), DropReason> {
        let slot = self.slot(peer).ok_or(DropReason::UnknownPeer)?;
        let (previous, current, next) = (slot.previous, slot.current, slot.next);
        // Other than in the kernel a responder keeps `previous`: of two sessions that were begun at once it may be the
        // one that the peer sends in until our response arrives.
        if initiator {
            self.retire(peer, previous);
        }
        let roles = match (initiator, next) {
            (true, 0) => (current, 0),
            (true, next) => {
                self.retire(peer, current);
                (next, 0)
            }
            (false, next) => {
                self.retire(peer, next);
                (previous, current)
            }
        };
        let fresh = (1..=KEYPAIRS as u8).find(|n| *n != roles.0 && *n != roles.1).unwrap_or(1);
        let slot = self.slot_mut(peer).ok_or(DropReason::UnknownPeer)?;
        (slot.previous, slot.current, slot.next) =
            if initiator { (roles.0, fresh, 0) } else { (roles.0, roles.1, fresh) };
        let place = pair_place(peer, fresh).ok_or(DropReason::NoRoom)?;
        let (first, second) = state.split();
        let (send, receive) = if initiator { (first, second) } else { (second, first) };
        let pair = self.keypairs.get_mut(place).ok_or(DropReason::NoRoom)?;
        *pair = KeypairSlot {
            send: *send.as_bytes(),
            receive: *receive.as_bytes(),
            born: Moment::at(now),
            local,
            remote,
            initiator,
            ..KeypairSlot::EMPTY
        };
        let id = (place as u32).saturating_add(1);
        if self.indices.insert(u64::from(local), id) { Ok(()) } else { Err(DropReason::NoRoom) }
    }

    /// Forgets every key of the peer and the initiation under way.
    pub(super) fn forget_keys(&mut self, peer: PeerId) {
        for number in 1..=KEYPAIRS as u8 {
            self.retire(peer, number);
        }
        self.drop_handshake(peer);
        if let Some(slot) = self.slot_mut(peer) {
            (slot.previous, slot.current, slot.next) = (0, 0, 0);
        }
    }

    fn retire(&mut self, peer: PeerId, number: u8) {
        let Some(place) = pair_place(peer, number) else { return };
        let Some(local) = self.keypairs.get(place).map(|pair| pair.local).filter(|local| *local != 0) else {
            return;
        };
        self.unregister(local, (place as u32).saturating_add(1));
        if let Some(pair) = self.keypairs.get_mut(place) {
            pair.wipe();
        }
        let range = self.window_of(place);
        if let Some(window) = self.windows.get_mut(range) {
            window.fill(0);
        }
    }

    /// Forgets the initiation that waits for its response.
    pub(super) fn drop_handshake(&mut self, peer: PeerId) {
        let Some(index) = self.slot(peer).map(|slot| slot.index).filter(|index| *index != 0) else { return };
        self.unregister(index, self.handshake_id(peer));
        if let Some(slot) = self.slot_mut(peer) {
            slot.forget_handshake();
            slot.clear(flag::MAC1);
        }
    }

    /// A random index that is in no use.
    pub(super) fn draw_index(&self, rng: &mut Rng) -> Result<u32, DropReason> {
        (0..DRAWS)
            .map(|_| rng.u32())
            .find(|index| usable_index(*index) && self.find_index(*index).is_none())
            .ok_or(DropReason::NoRoom)
    }

    /// What the index names: keypair `id - 1`, or beyond those, the initiation of a peer.
    pub(super) fn find_index(&self, index: u32) -> Option<u32> {
        self.indices.find(u64::from(index), |id| index_of(self.keypairs, self.peers, id) == index)
    }

    /// The peer whose initiation or keypair an id of [`Self::find_index`] names.
    pub(super) fn owner(&self, id: u32) -> PeerId {
        match id.checked_sub(self.keypairs.len() as u32) {
            Some(peer) if peer > 0 => PeerId(peer),
            _ => peer_of((id as usize).saturating_sub(1)),
        }
    }

    /// The id of the peer's initiation in the table of indices.
    pub(super) fn handshake_id(&self, peer: PeerId) -> u32 {
        (self.keypairs.len() as u32).saturating_add(peer.0)
    }

    fn unregister(&mut self, index: u32, id: u32) {
        let (keypairs, peers) = (&*self.keypairs, &*self.peers);
        self.indices.remove(u64::from(index), id, |other| u64::from(index_of(keypairs, peers, other)));
    }

    fn window_of(&self, place: usize) -> core::ops::Range<usize> {
        let share = self.windows.len().checked_div(self.keypairs.len()).unwrap_or_default();
        let start = place.saturating_mul(share);
        start..start.saturating_add(share)
    }
}

fn index_of(keypairs: &[KeypairSlot], peers: &[PeerSlot], id: u32) -> u32 {
    let Some(at) = (id as usize).checked_sub(1) else { return 0 };
    match at.checked_sub(keypairs.len()) {
        None => keypairs.get(at).map_or(0, |pair| pair.local),
        Some(at) => peers.get(at).map_or(0, |peer| peer.index),
    }
}

/// Whose keypair this is.
fn peer_of(place: usize) -> PeerId {
    PeerId(((place / KEYPAIRS) as u32).saturating_add(1))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::noise::{PublicKey, StaticSecret};
    use crate::tunnel::{
        BucketSlot, CookieSlot, JobSlot, REKEY_AFTER_MESSAGES, TunnelEvent, TunnelResources,
    };

    const PEER: PeerId = PeerId(1);

    /// A node with one peer and a session that it initiated.
    fn with_session(run: impl FnOnce(&mut Tunnels<'_>)) {
        let (mut peers, mut keypairs) = ([PeerSlot::EMPTY; 1], [KeypairSlot::EMPTY; 3]);
        let (mut windows, mut indices, mut keys) = ([0; 6], [0; 8], [0; 2]);
        let (mut jobs, mut cookies) = ([JobSlot::EMPTY; 2], [CookieSlot::EMPTY; 1]);
        let mut buckets = [BucketSlot::EMPTY; 4];
        let mut tunnels = Tunnels::new(
            TunnelResources {
                peers: &mut peers,
                keypairs: &mut keypairs,
                windows: &mut windows,
                indices: &mut indices,
                keys: &mut keys,
                jobs: &mut jobs,
                cookies: &mut cookies,
                buckets: &mut buckets,
            },
            StaticSecret::from_bytes([1; 32]),
            0,
        );
        tunnels.add_peer(PEER, &PublicKey([9; 32]), None).unwrap();
        let state = SymmetricState::new(b"test", b"");
        tunnels.begin_session(Instant::ZERO, PEER, true, [5, 6], &state).unwrap();
        tunnels.handshake_complete(Instant::ZERO, PEER);
        run(&mut tunnels);
        drop(tunnels);
        let left = keypairs.iter().any(|pair| pair.send != [0; 32] || pair.receive != [0; 32]);
        assert!(!left && peers[0].shared == [0; 32] && !peers[0].live, "keys outlive their owner");
    }

    #[test]
    fn counters_are_dealt_once_and_renew_and_end_the_session() {
        with_session(|tunnels| {
            let now = Instant::ZERO;
            let grant = |tunnels: &mut Tunnels<'_>, n| tunnels.reserve(now, PEER, n, true).map(|g| g.first);
            assert_eq!(grant(tunnels, 44), Ok(0));
            assert_eq!(grant(tunnels, 1), Ok(44));
            tunnels.keypairs[0].counter = REKEY_AFTER_MESSAGES - 1;
            assert_eq!(grant(tunnels, 1), Ok(REKEY_AFTER_MESSAGES - 1));
            assert!(!tunnels.peers[0].has(flag::INITIATING));
            assert_eq!(grant(tunnels, 1), Ok(REKEY_AFTER_MESSAGES));
            assert!(tunnels.peers[0].has(flag::INITIATING));
            tunnels.keypairs[0].counter = REJECT_AFTER_MESSAGES - 2;
            assert_eq!(grant(tunnels, 3), Err(NoSession::Handshaking));
            assert_eq!(tunnels.poll_event(), Some(TunnelEvent::SessionUp { peer: PEER }));
            assert_eq!(tunnels.poll_event(), Some(TunnelEvent::SessionDown { peer: PEER }));
            assert_eq!(grant(tunnels, 2), Ok(REJECT_AFTER_MESSAGES - 2));
            assert_eq!(grant(tunnels, 1), Err(NoSession::Handshaking));
        });
    }

    /// Of two sessions that were begun at once, each side sends in its own: in ours the peer's current, here previous. A
    /// renewal by the peer leaves both until it is confirmed, or all that the peer sends before would be lost, and its
    /// next try too if our response was.
    #[test]
    fn a_renewal_that_the_peer_began_takes_nothing_away_before_it_is_confirmed() {
        with_session(|tunnels| {
            let (now, state) = (Instant::ZERO, SymmetricState::new(b"test", b""));
            let known =
                |tunnels: &Tunnels<'_>| [5, 7, 9, 11].map(|index| tunnels.find_index(index).is_some());
            let confirm = |tunnels: &mut Tunnels<'_>, index| {
                let place = tunnels.find_index(index).unwrap() as usize - 1;
                tunnels.confirm(now, PEER, place);
            };
            tunnels.begin_session(now, PEER, false, [7, 6], &state).unwrap();
            confirm(tunnels, 7);
            assert_eq!(known(tunnels), [true, true, false, false]);
            for (index, then) in [(9, [true, true, true, false]), (11, [true, true, false, true])] {
                tunnels.begin_session(now, PEER, false, [index, 6], &state).unwrap();
                assert_eq!(known(tunnels), then);
            }
            confirm(tunnels, 11);
            assert_eq!(known(tunnels), [false, true, false, true]);
        });
    }

    /// What a peer costs with windows of 1,024 counters, hash tables included.
    #[test]
    fn a_peer_takes_less_than_1200_bytes() {
        let window = 17 * 8;
        let peer = size_of::<PeerSlot>() + 3 * (size_of::<KeypairSlot>() + window) + 4 * (8 + 2);
        assert!(peer <= 1200, "{peer}");
        assert!(size_of::<JobSlot>() <= 400, "{}", size_of::<JobSlot>());
    }

    /// The empty value of every slot is all zero, so that fresh memory needs no writing.
    #[test]
    fn fresh_memory_is_an_empty_table() {
        with_session(|tunnels| {
            tunnels.remove_peer(PEER);
            let pair = &tunnels.keypairs[0];
            assert_eq!((pair.local, pair.counter, pair.seen, pair.remote), (0, 0, 0, 0));
            assert!(tunnels.windows.iter().all(|word| *word == 0));
            assert_eq!(tunnels.find_index(5), None);
        });
    }
}
