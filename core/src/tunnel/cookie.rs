//! Who may cost us a key exchange: mac1, cookies under load, and a rate per source.
//!
//! mac1 shows that the sender knows our public key; it is always checked. While the queue of handshakes is half
//! full, and for [`LOAD_LATCH`] after, a sender must also show a cookie, which proves that it receives at its
//! source address, and each source has [`RATE`] handshakes a second, [`BURST`] at once. Cookie replies wait in
//! a ring and buckets in a set-associative table: full, a reply is dropped and the bucket longest unused gives
//! way. It never decrypts a handshake.

use siphasher::sip::SipHasher13;
use subtle::ConstantTimeEq;
use zeroize::Zeroize;

use super::secrets::Which;
use super::slots::{Moment, Origin};
use crate::counters::DropReason;
use crate::noise::{PublicKey, hash, mac, open_extended, seal_extended};
use crate::rng::Rng;
use crate::storage::Ring;
use crate::time::{Duration, Instant};
use crate::wire::wireguard::{COOKIE_REPLY, CookieReply, Kind, Macs};

/// How long a cookie secret lives (whitepaper section 6.6).
pub(super) const COOKIE_LIFE: Duration = Duration::from_secs(120);
/// How much earlier a cookie we were given is not used any more.
pub(super) const COOKIE_LATENCY: Duration = Duration::from_secs(5);
/// How long load is assumed to last.
pub(super) const LOAD_LATCH: Duration = Duration::from_secs(1);
/// Handshakes a second from one source under load.
pub(super) const RATE: u64 = 20;
/// Handshakes at once from one source under load.
pub(super) const BURST: u64 = 5;

/// Buckets that one source may fall into.
const WAYS: usize = 4;
const COST: Duration = Duration::from_micros(1_000_000 / RATE);
const FULL: Duration = Duration::from_micros(1_000_000 / RATE * BURST);

/// A cookie reply to be sent.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct CookieSlot {
    origin: Origin,
    receiver: u32,
    mac1: [u8; 16],
    nonce: [u8; 24],
    which: Which,
}

impl CookieSlot {
    /// No reply.
    pub const EMPTY: Self =
        Self { origin: Origin::EMPTY, receiver: 0, mac1: [0; 16], nonce: [0; 24], which: Which::Present };
}

/// The handshakes that one source has left.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct BucketSlot {
    source: u64,
    /// When the bucket is full again.
    full: Moment,
}

impl BucketSlot {
    /// No source.
    pub const EMPTY: Self = Self { source: 0, full: Moment::NONE };
}

/// What shows that somebody knows a public key.
struct Marks {
    mac1_key: [u8; 32],
    cookie_key: [u8; 32],
}

impl Marks {
    fn of(public: &PublicKey) -> Self {
        Self { mac1_key: mac1_key(public), cookie_key: cookie_key(public) }
    }
}

/// Checks what arrives.
pub(super) struct Guard<'a> {
    present: Marks,
    /// Of the key that this node had before.
    before: Option<Marks>,
    secret: [u8; 32],
    born: Moment,
    loaded: Moment,
    hash_key: [u8; 16],
    buckets: &'a mut [BucketSlot],
    replies: Ring<'a, CookieSlot>,
}

impl<'a> Guard<'a> {
    pub(super) fn new(
        public: &PublicKey,
        hash_key: [u8; 16],
        buckets: &'a mut [BucketSlot],
        replies: &'a mut [CookieSlot],
    ) -> Self {
        Self {
            present: Marks::of(public),
            before: None,
            secret: [0; 32],
            born: Moment::NONE,
            loaded: Moment::NONE,
            hash_key,
            buckets,
            replies: Ring::new(replies),
        }
    }

    /// This node's key is this one.
    pub(super) fn set_present(&mut self, public: &PublicKey) {
        self.present = Marks::of(public);
    }

    /// It also answers to the key that it had before, or to none.
    pub(super) fn set_before(&mut self, public: Option<&PublicKey>) {
        self.before = public.map(Marks::of);
    }

    /// Judges an initiation or response; which of our keys it is for. `busy`: the queue of handshakes is at least half
    /// full.
    pub(super) fn check(
        &mut self,
        now: Instant,
        origin: &Origin,
        message: &mut [u8],
        busy: bool,
        rng: &mut Rng,
    ) -> Result<Which, DropReason> {
        let sender = message.get(4..8).and_then(|s| s.first_chunk()).copied().ok_or(DropReason::Truncated)?;
        let macs = Macs::new(message)?;
        let which = self.which(&macs)?;
        if busy {
            self.loaded = Moment::at(now);
        } else if self.loaded.allows(now, LOAD_LATCH) {
            return Ok(which);
        }
        let cookie = self.cookie(now, origin, rng)?;
        if !equal(&mac(&cookie, &[macs.body, macs.mac1])?, macs.mac2) {
            // A full ring means that we answer others already; this sender will ask again.
            let _ = self.replies.push(CookieSlot {
                origin: *origin,
                receiver: u32::from_le_bytes(sender),
                mac1: *macs.mac1,
                nonce: rng.bytes(),
                which,
            });
            return Err(DropReason::HandshakeLimit);
        }
        if self.allow(now, origin) { Ok(which) } else { Err(DropReason::HandshakeLimit) }
    }

    fn which(&self, macs: &Macs<'_>) -> Result<Which, DropReason> {
        let shows =
            |marks: &Marks| mac(&marks.mac1_key, &[macs.body]).is_ok_and(|own| equal(&own, macs.mac1));
        if shows(&self.present) {
            Ok(Which::Present)
        } else if self.before.as_ref().is_some_and(shows) {
            Ok(Which::Before)
        } else {
            Err(DropReason::Authentication)
        }
    }

    /// Writes the next cookie reply.
    pub(super) fn poll_reply(&mut self, out: &mut [u8]) -> Option<(Origin, usize)> {
        let reply = self.replies.front()?;
        let message = out.get_mut(..COOKIE_REPLY)?;
        let _ = self.replies.pop();
        let cookie = mac(&self.secret, &[&reply.origin.bytes()]).ok()?;
        let view = CookieReply::new(message).ok()?;
        *view.kind = Kind::CookieReply.field();
        *view.receiver = reply.receiver.to_le_bytes();
        *view.nonce = reply.nonce;
        view.cookie.first_chunk_mut::<16>()?.copy_from_slice(&cookie);
        let marks = match (reply.which, &self.before) {
            (Which::Before, Some(before)) => before,
            _ => &self.present,
        };
        seal_extended(&marks.cookie_key, &reply.nonce, &reply.mac1, view.cookie).ok()?;
        Some((reply.origin, COOKIE_REPLY))
    }

    pub(super) fn has_reply(&self) -> bool {
        !self.replies.is_empty()
    }

    fn cookie(&mut self, now: Instant, origin: &Origin, rng: &mut Rng) -> Result<[u8; 16], DropReason> {
        if self.born.allows(now, COOKIE_LIFE) {
            self.secret = rng.bytes();
            self.born = Moment::at(now);
        }
        mac(&self.secret, &[&origin.bytes()])
    }

    /// Takes one handshake from the source's bucket. IPv6 sources count by their /64.
    fn allow(&mut self, now: Instant, origin: &Origin) -> bool {
        let source = self.source(origin);
        let sets = self.buckets.len() / WAYS;
        let Some(set) = (source as usize).checked_rem(sets) else { return true };
        let ways = self.buckets.iter_mut().skip(set.saturating_mul(WAYS)).take(WAYS);
        // The source's own bucket, else the one that has been full for longest.
        let Some(bucket) = ways.min_by_key(|b| (b.source != source, b.full.get())) else { return true };
        if bucket.source != source {
            *bucket = BucketSlot { source, full: Moment::NONE };
        }
        let full = bucket.full.get().unwrap_or(now).max(now).after(COST);
        if full.since(now) > FULL {
            return false;
        }
        bucket.full = Moment::at(full);
        true
    }

    fn source(&self, origin: &Origin) -> u64 {
        let mut key = [0; 20];
        let v4 = origin.address.first_chunk() == Some(&[0u8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff]);
        let counted = if v4 { 16 } else { 8 };
        let address = origin.address.iter().take(counted);
        for (to, from) in key.iter_mut().zip(origin.via.to_le_bytes().iter().chain(address)) {
            *to = *from;
        }
        SipHasher13::new_with_key(&self.hash_key).hash(&key)
    }
}

impl Drop for Guard<'_> {
    fn drop(&mut self) {
        self.secret.zeroize();
    }
}

/// Writes both MACs of a message for `peer`; returns mac1.
pub(super) fn sign(
    peer: &PublicKey,
    cookie: Option<&[u8; 16]>,
    message: &mut [u8],
) -> Result<[u8; 16], DropReason> {
    let macs = Macs::new(message)?;
    *macs.mac1 = mac(&mac1_key(peer), &[macs.body])?;
    *macs.mac2 = match cookie {
        Some(cookie) => mac(cookie, &[macs.body, macs.mac1])?,
        None => [0; 16],
    };
    Ok(*macs.mac1)
}

/// The cookie in a reply by `peer` to the message whose mac1 is given.
pub(super) fn open_reply(
    peer: &PublicKey,
    mac1: &[u8; 16],
    reply: &mut CookieReply<'_>,
) -> Result<[u8; 16], DropReason> {
    open_extended(&cookie_key(peer), reply.nonce, mac1, reply.cookie)?;
    reply.cookie.first_chunk().copied().ok_or(DropReason::Truncated)
}

fn mac1_key(peer: &PublicKey) -> [u8; 32] {
    hash(&[b"mac1----", &peer.0])
}

fn cookie_key(peer: &PublicKey) -> [u8; 32] {
    hash(&[b"cookie--", &peer.0])
}

fn equal(a: &[u8; 16], b: &[u8; 16]) -> bool {
    a.ct_eq(b).into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::vec::Vec;

    const ME: PublicKey = PublicKey([7; 32]);

    fn guard<'a>(buckets: &'a mut [BucketSlot], replies: &'a mut [CookieSlot]) -> Guard<'a> {
        Guard::new(&ME, [1; 16], buckets, replies)
    }

    fn from(last: u8) -> Origin {
        let mut address = [0; 16];
        address[10..].copy_from_slice(&[0xff, 0xff, 192, 0, 2, last]);
        Origin { address, port: 4000, ..Origin::EMPTY }
    }

    fn secs(n: u64) -> Instant {
        Instant::from_micros(n * 1_000_000)
    }

    #[test]
    fn load_demands_a_cookie_which_lives_as_long_as_its_secret() {
        let (mut buckets, mut replies) = ([BucketSlot::EMPTY; 8], [CookieSlot::EMPTY; 1]);
        let mut g = guard(&mut buckets, &mut replies);
        let rng = &mut Rng::new([1; 32]);
        let mut m = [9; 148];
        assert_eq!(g.check(secs(0), &from(1), &mut m, false, rng), Err(DropReason::Authentication));
        let mac1 = sign(&ME, None, &mut m).unwrap();
        assert_eq!(g.check(secs(0), &from(1), &mut m, false, rng), Ok(Which::Present));
        assert!(!g.has_reply());
        // Two demands, room for one reply.
        assert_eq!(g.check(secs(1), &from(1), &mut m, true, rng), Err(DropReason::HandshakeLimit));
        assert_eq!(g.check(secs(1), &from(1), &mut m, true, rng), Err(DropReason::HandshakeLimit));
        let mut out = [0; 64];
        assert_eq!(g.poll_reply(&mut out[..63]), None);
        assert_eq!(g.poll_reply(&mut out), Some((from(1), 64)));
        assert_eq!(g.poll_reply(&mut out), None);
        assert_eq!(out[4..8], [9; 4]);
        let open = |mac1, mut out: [u8; 64]| open_reply(&ME, mac1, &mut CookieReply::new(&mut out).unwrap());
        assert_eq!(open(&[0; 16], out), Err(DropReason::Authentication));
        let cookie = open(&mac1, out).unwrap();
        sign(&ME, Some(&cookie), &mut m).unwrap();
        assert_eq!(g.check(secs(1), &from(1), &mut m, true, rng), Ok(Which::Present));
        // Not from elsewhere, not through elsewhere, not for ever; and the latch holds for a second.
        assert_eq!(g.check(secs(1), &from(2), &mut m, true, rng), Err(DropReason::HandshakeLimit));
        let relayed = Origin { via: 5, ..from(1) };
        assert_eq!(g.check(secs(1), &relayed, &mut m, false, rng), Err(DropReason::HandshakeLimit));
        assert_eq!(g.check(secs(120), &from(1), &mut m, true, rng), Ok(Which::Present));
        assert_eq!(g.check(secs(121), &from(1), &mut m, true, rng), Err(DropReason::HandshakeLimit));
        assert_eq!(g.check(secs(122), &from(1), &mut m, false, rng), Ok(Which::Present));
    }

    /// Timings of the kernel's `selftest/ratelimiter.c`: a burst, then one every 50 ms.
    #[test]
    fn each_source_has_a_burst_and_a_rate() {
        let (mut buckets, mut replies) = ([BucketSlot::EMPTY; 64], [CookieSlot::EMPTY; 1]);
        let mut g = guard(&mut buckets, &mut replies);
        let at = |ms: u64| Instant::from_micros(ms * 1000);
        let script = [
            (0, true),
            (0, true),
            (0, true),
            (0, true),
            (0, true),
            (0, false),
            (50, true),
            (50, false),
            (150, true),
            (150, true),
            (150, false),
        ];
        for (ms, allowed) in script {
            assert_eq!(g.allow(at(ms), &from(1)), allowed, "at {ms} ms");
        }
        assert!(g.allow(at(150), &from(2)));
        assert!(g.allow(at(150), &Origin { via: 3, ..from(1) }));
        let v6 =
            |low| Origin { address: [0x20, 1, 0xd, 0xb8, 0, 0, 0, 1, low, 0, 0, 0, 0, 0, 0, low], ..from(1) };
        let allowed: Vec<_> = (0..6).map(|low| g.allow(at(150), &v6(low))).collect();
        assert_eq!(allowed, [true, true, true, true, true, false]);
    }

    #[test]
    fn strangers_push_out_the_bucket_longest_unused() {
        let (mut buckets, mut replies) = ([BucketSlot::EMPTY; WAYS], [CookieSlot::EMPTY; 1]);
        let mut g = guard(&mut buckets, &mut replies);
        for _ in 0..BURST {
            assert!(g.allow(secs(1), &from(1)));
        }
        (2..WAYS as u8 + 4).for_each(|n| assert!(g.allow(secs(1), &from(n))));
        assert!(!g.allow(secs(1), &from(1)), "the fullest bucket stays");
        assert!(guard(&mut [], &mut []).allow(secs(1), &from(1)), "no memory, no limit");
    }
}
