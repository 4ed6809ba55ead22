//! The handshake, Noise_IKpsk2_25519_ChaChaPoly_BLAKE2s, cut into steps of one X25519 each.
//!
//! Messages received and initiations of our own take turns, so that neither starves the other. A job whose
//! peer was removed meanwhile, or whose session was made from the other side meanwhile, ends unsent.

use super::messages::{pop_job, push_job};
use super::secrets::{Identity, Which};
use super::slots::{Moment, Stage, flag};
use super::timers::pause;
use super::{INITIATION_GAP, JobSlot, PeerId, PeerSlot, Tunnels, Wait, Work, cookie};
use crate::counters::DropReason;
use crate::noise::{PublicKey, SharedSecret, StaticSecret, SymmetricState};
use crate::rng::Rng;
use crate::time::{Instant, WallTime};
use crate::wire::wireguard::{Initiation, Kind, RESPONSE, Response};

const PROTOCOL: &[u8] = b"Noise_IKpsk2_25519_ChaChaPoly_BLAKE2s";
const PROLOGUE: &[u8] = b"WireGuard v1 zx2c4 Jason@zx2c4.com";

impl Tunnels<'_> {
    /// Computes on: at most one X25519, which is the cost of a call on a small processor.
    pub fn work(&mut self, now: Instant, wall: WallTime, rng: &mut Rng) -> Work {
        if self.building == 0 {
            self.building = self.next_initiation(now);
        }
        let (received, own) = (self.inbox.head, self.building);
        self.own_turn = !self.own_turn;
        let id = if received == 0 || (own != 0 && self.own_turn) { own } else { received };
        let mut dropped = None;
        if id != 0 {
            match self.step(now, wall, id, rng) {
                Ok(Stage::Free) => self.finish(id),
                Ok(Stage::TellStranger) => {
                    let evicted = self.park_stranger(now, id);
                    dropped = evicted.then_some(DropReason::UnknownPeer);
                }
                Ok(Stage::SendInitiation | Stage::SendResponse) => {
                    self.unqueue(id);
                    push_job(&mut self.jobs, &mut self.outbox, id);
                }
                Ok(_) => {}
                Err(reason) => {
                    dropped = Some(reason);
                    if id == own {
                        self.abandon(now, id);
                    }
                    self.finish(id);
                }
            }
        }
        let startable = self.lists.first().is_some_and(|waiting| waiting.head != 0)
            && self.jobs.len() < self.jobs.capacity();
        Work { more: self.inbox.head != 0 || self.building != 0 || startable, dropped }
    }

    fn unqueue(&mut self, id: u32) {
        if id == self.building {
            self.building = 0;
        } else {
            let _ = pop_job(&mut self.jobs, &mut self.inbox);
        }
    }

    fn finish(&mut self, id: u32) {
        self.unqueue(id);
        self.free_job(id);
    }

    /// An initiation that cannot be made: the peer's key or our memory is at fault.
    fn abandon(&mut self, now: Instant, id: u32) {
        let peer = PeerId(self.jobs.get(id).map_or(0, |job| job.peer));
        if self.is_current(id) {
            self.give_up(now, peer);
        }
    }

    /// Takes the next peer that wants an initiation and may have one.
    fn next_initiation(&mut self, now: Instant) -> u32 {
        if self.jobs.len() >= self.jobs.capacity() {
            return 0;
        }
        let has_before = self.before.is_some();
        while let Some(peer) = self.pop_peer(Wait::Initiation) {
            let Some(slot) = self.live_mut(peer).filter(|slot| slot.has(flag::INITIATING)) else { continue };
            if !slot.sent.allows(now, pause(slot)) {
                // We answered an initiation of the peer's meanwhile.
                slot.clear(flag::INITIATING);
                self.start(now, peer, false);
                continue;
            }
            // Who does not answer to one of this node's keys may know it by the other.
            let turn = slot.tries > 0 && !slot.has(flag::BEFORE);
            let which = if turn && has_before { Which::Before } else { Which::Present };
            let job = JobSlot {
                stage: Stage::StartEphemeral,
                peer: peer.0,
                generation: slot.generation,
                which,
                ..JobSlot::EMPTY
            };
            return self.jobs.insert(job).unwrap_or_default();
        }
        0
    }

    /// Whether the job's peer is still the one it was for.
    fn is_current(&self, id: u32) -> bool {
        let Some(job) = self.jobs.get(id) else { return false };
        self.slot(PeerId(job.peer)).is_some_and(|slot| slot.live && slot.generation == job.generation)
    }

    /// One step of a job; returns its next stage, `Free` when it has come to its end.
    fn step(&mut self, now: Instant, wall: WallTime, id: u32, rng: &mut Rng) -> Result<Stage, DropReason> {
        let stage = self.jobs.get(id).map_or(Stage::Free, |job| job.stage);
        if stage != Stage::OpenIdentity && !self.is_current(id) {
            return Ok(Stage::Free);
        }
        let next = match stage {
            Stage::OpenIdentity => self.open_identity(now, id),
            Stage::OpenStamp if self.is_stale(now, id) => Err(DropReason::UnknownPeer),
            Stage::OpenStamp => self.open_stamp(now, id),
            Stage::AnswerEphemeral => self.answer_ephemeral(id, rng),
            Stage::AnswerEphemerals => self.answer_ephemerals(id),
            Stage::AnswerIdentity => self.answer_identity(now, id, rng),
            Stage::FinishEphemerals => self.finish_ephemerals(id),
            Stage::FinishIdentity => self.finish_identity(now, id),
            Stage::StartEphemeral => self.start_ephemeral(id, rng),
            Stage::StartIdentity => self.start_identity(now, wall, id, rng),
            Stage::StartStamp => self.start_stamp(now, wall, id, rng),
            Stage::Free
            | Stage::TellStranger
            | Stage::AwaitPeer
            | Stage::SendInitiation
            | Stage::SendResponse => Ok(Stage::Free),
        }?;
        if let Some(job) = self.jobs.get_mut(id) {
            job.stage = next;
        }
        Ok(next)
    }

    fn open_identity(&mut self, now: Instant, id: u32) -> Result<Stage, DropReason> {
        let job = self.jobs.get_mut(id).ok_or(DropReason::QueueFull)?;
        let own = identity(&self.identity, self.before.as_ref(), job.which)?;
        let view = Initiation::new(&mut job.message)?;
        job.remote = PublicKey(*view.ephemeral);
        job.remote_index = u32::from_le_bytes(*view.sender);
        job.state = begin(&own.public);
        mix_ephemeral(&mut job.state, &job.remote);
        let key = job.state.mix_key(own.secret.agree(&job.remote)?.as_bytes());
        let who = job.state.open(key, view.identity)?.first_chunk().copied().ok_or(DropReason::Truncated)?;
        // No ephemeral secret is drawn before the peer is known: until then its place holds the peer's key.
        job.ephemeral = who;
        let Some(peer) = self.find_key(&PublicKey(who)) else { return Ok(Stage::TellStranger) };
        let slot = self.slot(PeerId(peer)).ok_or(DropReason::UnknownPeer)?;
        let (generation, shared) = (slot.generation, slot.has(flag::SHARED));
        let mut present = false;
        if let Some(job) = self.jobs.get_mut(id) {
            (job.peer, job.generation) = (peer, generation);
            present = job.which == Which::Present;
        }
        if shared && present { self.open_stamp(now, id) } else { Ok(Stage::OpenStamp) }
    }

    fn open_stamp(&mut self, now: Instant, id: u32) -> Result<Stage, DropReason> {
        let (job, slot) = job_and_peer(&mut self.jobs, self.peers, id)?;
        let own = identity(&self.identity, self.before.as_ref(), job.which)?;
        let shared = shared_with(own, job.which, slot)?;
        let key = job.state.mix_key(shared.as_bytes());
        let view = Initiation::new(&mut job.message)?;
        let stamp = job.state.open(key, view.stamp)?.first_chunk().copied().ok_or(DropReason::Truncated)?;
        if stamp <= slot.stamp {
            return Err(DropReason::OldHandshake);
        }
        if !slot.consumed.allows(now, INITIATION_GAP) {
            return Err(DropReason::HandshakeLimit);
        }
        slot.stamp = stamp;
        slot.consumed = Moment::at(now);
        let peer = PeerId(job.peer);
        self.handshake_received(peer);
        Ok(Stage::AnswerEphemeral)
    }

    fn answer_ephemeral(&mut self, id: u32, rng: &mut Rng) -> Result<Stage, DropReason> {
        let job = self.jobs.get_mut(id).ok_or(DropReason::QueueFull)?;
        let secret = StaticSecret::generate(rng);
        job.ephemeral = *secret.as_bytes();
        let public = secret.public();
        *Response::new(&mut job.message)?.ephemeral = public.0;
        mix_ephemeral(&mut job.state, &public);
        Ok(Stage::AnswerEphemerals)
    }

    fn answer_ephemerals(&mut self, id: u32) -> Result<Stage, DropReason> {
        let job = self.jobs.get_mut(id).ok_or(DropReason::QueueFull)?;
        let shared = StaticSecret::from_bytes(job.ephemeral).agree(&job.remote)?;
        let _ = job.state.mix_key(shared.as_bytes());
        Ok(Stage::AnswerIdentity)
    }

    fn answer_identity(&mut self, now: Instant, id: u32, rng: &mut Rng) -> Result<Stage, DropReason> {
        let local = self.draw_index(rng)?;
        let (psk, _) = self.psks_of(id)?;
        let (job, slot) = job_and_peer(&mut self.jobs, self.peers, id)?;
        let shared = StaticSecret::from_bytes(job.ephemeral).agree(&slot.key)?;
        let _ = job.state.mix_key(shared.as_bytes());
        let key = job.state.mix_key_and_hash(&psk);
        let view = Response::new(&mut job.message)?;
        *view.kind = Kind::Response.field();
        *view.sender = local.to_le_bytes();
        *view.receiver = job.remote_index.to_le_bytes();
        job.state.seal(key, view.empty)?;
        let message = job.message.get_mut(..RESPONSE).ok_or(DropReason::NoRoom)?;
        slot.mac1 = cookie::sign(&slot.key, usable_cookie(slot, now).as_ref(), message)?;
        slot.set(flag::MAC1);
        let (peer, state, remote) = (PeerId(job.peer), job.state, job.remote_index);
        self.begin_session(now, peer, false, [local, remote], &state)?;
        self.handshake_sent(now, peer, false, rng);
        Ok(Stage::SendResponse)
    }

    fn finish_ephemerals(&mut self, id: u32) -> Result<Stage, DropReason> {
        let (job, slot) = job_and_peer(&mut self.jobs, self.peers, id)?;
        let view = Response::new(&mut job.message)?;
        if u32::from_le_bytes(*view.receiver) != slot.index {
            return Err(DropReason::UnknownIndex);
        }
        job.remote = PublicKey(*view.ephemeral);
        job.remote_index = u32::from_le_bytes(*view.sender);
        job.which = if slot.has(flag::BEFORE) { Which::Before } else { Which::Present };
        job.state = slot.state;
        mix_ephemeral(&mut job.state, &job.remote);
        let shared = StaticSecret::from_bytes(slot.ephemeral).agree(&job.remote)?;
        let _ = job.state.mix_key(shared.as_bytes());
        Ok(Stage::FinishIdentity)
    }

    fn finish_identity(&mut self, now: Instant, id: u32) -> Result<Stage, DropReason> {
        let (psk, next) = self.psks_of(id)?;
        let (job, slot) = job_and_peer(&mut self.jobs, self.peers, id)?;
        let own = identity(&self.identity, self.before.as_ref(), job.which)?;
        let view = Response::new(&mut job.message)?;
        let local = u32::from_le_bytes(*view.receiver);
        if local != slot.index {
            return Err(DropReason::UnknownIndex);
        }
        let _ = job.state.mix_key(own.secret.agree(&job.remote)?.as_bytes());
        let open = |psk: &[u8; 32]| {
            let (mut state, mut empty) = (job.state, *view.empty);
            let key = state.mix_key_and_hash(psk);
            state.open(key, &mut empty).map(|_| state)
        };
        job.state = open(&psk).or_else(|reason| next.as_ref().map_or(Err(reason), open))?;
        let (peer, state, remote) = (PeerId(job.peer), job.state, job.remote_index);
        self.drop_handshake(peer);
        self.begin_session(now, peer, true, [local, remote], &state)?;
        self.handshake_received(peer);
        self.handshake_complete(now, peer);
        // Proves to the responder that we have the keys, unless data does so first.
        self.want_keepalive(peer);
        Ok(Stage::Free)
    }

    fn start_ephemeral(&mut self, id: u32, rng: &mut Rng) -> Result<Stage, DropReason> {
        let (job, slot) = job_and_peer(&mut self.jobs, self.peers, id)?;
        let secret = StaticSecret::generate(rng);
        job.ephemeral = *secret.as_bytes();
        let public = secret.public();
        *Initiation::new(&mut job.message)?.ephemeral = public.0;
        job.state = begin(&slot.key);
        mix_ephemeral(&mut job.state, &public);
        Ok(Stage::StartIdentity)
    }

    fn start_identity(
        &mut self,
        now: Instant,
        wall: WallTime,
        id: u32,
        rng: &mut Rng,
    ) -> Result<Stage, DropReason> {
        let (job, slot) = job_and_peer(&mut self.jobs, self.peers, id)?;
        let own = identity(&self.identity, self.before.as_ref(), job.which)?;
        let shared = StaticSecret::from_bytes(job.ephemeral).agree(&slot.key)?;
        let key = job.state.mix_key(shared.as_bytes());
        let view = Initiation::new(&mut job.message)?;
        for (to, from) in view.identity.iter_mut().zip(own.public.0) {
            *to = from;
        }
        job.state.seal(key, view.identity)?;
        if slot.has(flag::SHARED) && job.which == Which::Present {
            self.start_stamp(now, wall, id, rng)
        } else {
            Ok(Stage::StartStamp)
        }
    }

    fn start_stamp(
        &mut self,
        now: Instant,
        wall: WallTime,
        id: u32,
        rng: &mut Rng,
    ) -> Result<Stage, DropReason> {
        let index = self.draw_index(rng)?;
        let (job, slot) = job_and_peer(&mut self.jobs, self.peers, id)?;
        slot.clear(flag::INITIATING);
        if slot.attempt.is_none() {
            return Ok(Stage::Free);
        }
        let own = identity(&self.identity, self.before.as_ref(), job.which)?;
        let shared = shared_with(own, job.which, slot)?;
        let key = job.state.mix_key(shared.as_bytes());
        let view = Initiation::new(&mut job.message)?;
        *view.kind = Kind::Initiation.field();
        *view.sender = index.to_le_bytes();
        for (to, from) in view.stamp.iter_mut().zip(self.stamps.next(wall)) {
            *to = from;
        }
        job.state.seal(key, view.stamp)?;
        let cookie = usable_cookie(slot, now);
        let mac1 = cookie::sign(&slot.key, cookie.as_ref(), &mut job.message)?;
        let (peer, state, ephemeral, which) = (PeerId(job.peer), job.state, job.ephemeral, job.which);
        self.drop_handshake(peer);
        let id = self.handshake_id(peer);
        if !self.indices.insert(u64::from(index), id) {
            return Err(DropReason::NoRoom);
        }
        let slot = self.slot_mut(peer).ok_or(DropReason::UnknownPeer)?;
        (slot.state, slot.ephemeral, slot.index, slot.mac1) = (state, ephemeral, index, mac1);
        slot.set(flag::MAC1);
        match which {
            Which::Before => slot.set(flag::BEFORE),
            Which::Present => slot.clear(flag::BEFORE),
        }
        self.handshake_sent(now, peer, true, rng);
        Ok(Stage::SendInitiation)
    }

    /// The PSKs that the job's handshake may have.
    fn psks_of(&mut self, id: u32) -> Result<([u8; 32], Option<[u8; 32]>), DropReason> {
        let job = self.jobs.get(id).ok_or(DropReason::QueueFull)?;
        let own = identity(&self.identity, self.before.as_ref(), job.which)?;
        let slot = self.slot(PeerId(job.peer)).ok_or(DropReason::UnknownPeer)?;
        Ok(self.psks(slot, &own.public))
    }
}

/// The state before the first message to `responder`.
fn begin(responder: &PublicKey) -> SymmetricState {
    let mut state = SymmetricState::new(PROTOCOL, PROLOGUE);
    state.mix_hash(&responder.0);
    state
}

/// The token `e` of a pattern with a PSK.
fn mix_ephemeral(state: &mut SymmetricState, ephemeral: &PublicKey) {
    state.mix_hash(&ephemeral.0);
    state.mix_chain(&ephemeral.0);
}

/// The key that is meant.
fn identity<'i>(
    present: &'i Identity,
    before: Option<&'i Identity>,
    which: Which,
) -> Result<&'i Identity, DropReason> {
    match which {
        Which::Present => Ok(present),
        Which::Before => before.ok_or(DropReason::UnknownPeer),
    }
}

/// The static-static agreement, with the present key computed at most once.
fn shared_with(own: &Identity, which: Which, slot: &mut PeerSlot) -> Result<SharedSecret, DropReason> {
    if which == Which::Before {
        return own.secret.agree(&slot.key);
    }
    if !slot.has(flag::SHARED) {
        slot.shared = *own.secret.agree(&slot.key)?.as_bytes();
        slot.set(flag::SHARED);
    }
    Ok(SharedSecret::from_bytes(slot.shared))
}

fn usable_cookie(slot: &PeerSlot, now: Instant) -> Option<[u8; 16]> {
    let life = cookie::COOKIE_LIFE.minus(cookie::COOKIE_LATENCY);
    (!slot.cookie_born.allows(now, life)).then_some(slot.cookie)
}

fn job_and_peer<'s>(
    jobs: &'s mut crate::storage::Pool<'_, JobSlot>,
    peers: &'s mut [PeerSlot],
    id: u32,
) -> Result<(&'s mut JobSlot, &'s mut PeerSlot), DropReason> {
    let job = jobs.get_mut(id).ok_or(DropReason::QueueFull)?;
    let slot = (job.peer as usize).checked_sub(1).and_then(|at| peers.get_mut(at));
    Ok((job, slot.filter(|slot| slot.live).ok_or(DropReason::UnknownPeer)?))
}
