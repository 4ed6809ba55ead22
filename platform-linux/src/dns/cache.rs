//! Replies of upstreams, kept for at most [`LONGEST`] (row U11). Nothing of the cluster domain ever comes here.
//!
//! When [`MAX_ENTRIES`] or [`MAX_OCTETS`] is reached, what was stored first goes first. TTLs count down while a
//! reply is kept. A reply that was cut, or that is longer than [`MAX_REPLY`], is not kept.
//!
//! Two things more, when [`Keeping`] asks for them. A reply that many ask for is to be renewed in the last tenth of
//! its time (row U13). One that is too old may still be given, with a TTL of [`STALE_TTL`], while no server answers
//! (row U12, RFC 8767); after a failed renewal the next one waits [`RETRY`]. One renewal of a reply at a time.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use edgemesh_core::wire::dns::{HEADER_LEN, Header, LowerName, Query, Rcode, Record, RecordType, Records};
use tokio::time::Instant;

/// Replies kept.
pub const MAX_ENTRIES: usize = 2048;
/// Octets of all replies kept.
pub const MAX_OCTETS: usize = 1 << 20;
/// Octets of one reply kept.
pub const MAX_REPLY: usize = 8192;
/// The longest that a reply is kept.
pub const LONGEST: Duration = Duration::from_secs(30);
/// The shortest, and how long a failure is kept.
pub const SHORTEST: Duration = Duration::from_secs(5);

/// The response code of a server that failed.
const SERVFAIL: u16 = Rcode::SERVFAIL.0;
/// TTL in seconds of records that are too old.
pub const STALE_TTL: u32 = 30;
/// How long after a failed renewal a reply that is too old is given without asking anybody.
const RETRY: Duration = Duration::from_secs(30);

/// What is done with replies beyond keeping them. Nothing by default.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct Keeping {
    /// How long beyond its time a reply may be given while no server answers.
    pub stale: Option<Duration>,
    /// How often a reply must have been given to be renewed before its time is over.
    pub prefetch: Option<u32>,
}

/// What is kept.
#[derive(PartialEq, Eq, Debug)]
pub(super) enum Kept {
    Fresh {
        reply: Vec<u8>,
        /// Ask again now.
        renew: bool,
    },
    /// Too old.
    Stale {
        reply: Vec<u8>,
        /// Ask again first.
        renew: bool,
    },
    Nothing,
}

/// What a reply depends on.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Key {
    name: Box<[u8]>,
    rtype: u16,
    class: u16,
    /// Recursion desired, checking disabled.
    flags: u16,
    edns: Option<bool>,
}

impl Key {
    pub(super) fn of(query: &Query<'_>) -> Self {
        Self {
            name: LowerName::new(query.name).as_name().as_bytes().into(),
            rtype: query.rtype.0,
            class: query.class,
            flags: query.header.flags & 0x0110,
            edns: query.edns.map(|edns| edns.dnssec_ok),
        }
    }
}

struct Entry {
    reply: Box<[u8]>,
    stored: Instant,
    expires: Instant,
    /// Until when it may be given at all.
    ends: Instant,
    order: u64,
    given: u32,
    renewing: bool,
    rests_until: Option<Instant>,
}

/// The cache.
#[derive(Default)]
pub(super) struct Cache {
    keeping: Keeping,
    entries: HashMap<Key, Entry>,
    by_age: BTreeMap<u64, Key>,
    octets: usize,
    next: u64,
}

impl Cache {
    pub(super) fn new(keeping: Keeping) -> Self {
        Self { keeping, ..Self::default() }
    }

    /// The kept reply as if it had been given to `query` just now.
    pub(super) fn get(&mut self, key: &Key, query: &[u8], now: Instant) -> Kept {
        let Some(entry) = self.entries.get_mut(key) else { return Kept::Nothing };
        if now >= entry.ends {
            self.remove(key);
            return Kept::Nothing;
        }
        entry.given = entry.given.saturating_add(1);
        let Some(mut reply) = asked_so(&entry.reply, query) else { return Kept::Nothing };
        if now >= entry.expires {
            set_ttls(&mut reply, |_| STALE_TTL);
            let rests = entry.rests_until.is_some_and(|until| now < until);
            return Kept::Stale { reply, renew: !entry.renewing && !rests };
        }
        let age = u32::try_from(now.duration_since(entry.stored).as_secs()).unwrap_or(u32::MAX);
        set_ttls(&mut reply, |ttl| ttl.saturating_sub(age));
        let last_part = (entry.expires - entry.stored).div_f32(10.0).max(Duration::from_secs(1));
        let is_hot = self.keeping.prefetch.is_some_and(|times| entry.given > times);
        let renew = is_hot && !entry.renewing && now + last_part >= entry.expires;
        Kept::Fresh { reply, renew }
    }

    /// Keeps `reply` if it may be kept.
    pub(super) fn put(&mut self, key: Key, reply: &[u8], now: Instant) {
        let Some(lifetime) = lifetime(reply).filter(|_| reply.len() <= MAX_REPLY) else { return };
        let failure = is_failure(reply);
        let better = |entry: &Entry| failure && now < entry.ends && !is_failure(&entry.reply);
        if self.entries.get(&key).is_some_and(better) {
            return;
        }
        self.remove(&key);
        while self.entries.len() >= MAX_ENTRIES || self.octets + reply.len() > MAX_OCTETS {
            let Some((_, oldest)) = self.by_age.pop_first() else { return };
            self.remove(&oldest);
        }
        self.next += 1;
        self.octets += reply.len();
        self.by_age.insert(self.next, key.clone());
        let expires = now + lifetime;
        let beyond = self.keeping.stale.filter(|_| !failure).unwrap_or_default();
        let entry = Entry {
            reply: reply.into(),
            stored: now,
            expires,
            ends: expires + beyond,
            order: self.next,
            given: 0,
            renewing: false,
            rests_until: None,
        };
        self.entries.insert(key, entry);
    }

    /// Whether the caller is to renew this reply: nobody else does.
    pub(super) fn start_renewal(&mut self, key: &Key) -> bool {
        self.entries.get_mut(key).is_some_and(|entry| !std::mem::replace(&mut entry.renewing, true))
    }

    /// The renewal is over.
    pub(super) fn end_renewal(&mut self, key: &Key, renewed: bool, now: Instant) {
        if let Some(entry) = self.entries.get_mut(key) {
            entry.renewing = false;
            entry.rests_until = (!renewed).then_some(now + RETRY);
        }
    }

    /// Forgets everything.
    pub(super) fn clear(&mut self) {
        *self = Self::new(self.keeping);
    }

    fn remove(&mut self, key: &Key) {
        if let Some(entry) = self.entries.remove(key) {
            self.by_age.remove(&entry.order);
            self.octets -= entry.reply.len();
        }
    }
}

/// The reply with id and question of `query`, in its case: names that are equal are of one length.
fn asked_so(reply: &[u8], query: &[u8]) -> Option<Vec<u8>> {
    let mut reply = reply.to_vec();
    let question = HEADER_LEN..HEADER_LEN + Query::parse_question(query).ok()?.question_len();
    for part in [0..2, question] {
        reply.get_mut(part.clone())?.copy_from_slice(query.get(part)?);
    }
    Some(reply)
}

fn is_failure(reply: &[u8]) -> bool {
    Header::parse(reply).is_ok_and(|header| header.rcode() == SERVFAIL)
}

/// How long `reply` may be kept; `None` for not at all.
fn lifetime(reply: &[u8]) -> Option<Duration> {
    let header = Header::parse(reply).ok().filter(|header| !header.is_truncated())?;
    let [questions, answers, authority, _] = header.counts;
    let records: Vec<Record> = Records::new(reply).ok()?.collect::<Result<_, _>>().ok()?;
    let answers = records.get(..answers.into())?;
    let ttl = match header.rcode() {
        SERVFAIL => return (questions == 1).then_some(SHORTEST),
        0 if !answers.is_empty() => answers.iter().map(|record| record.ttl).min()?,
        0 | 3 => {
            let authority = records.get(answers.len()..answers.len() + usize::from(authority))?;
            let soa = authority.iter().find(|record| record.rtype == RecordType::SOA)?;
            let minimum = reply.get(soa.data..soa.end)?.last_chunk()?;
            soa.ttl.min(u32::from_be_bytes(*minimum))
        }
        _ => return None,
    };
    (questions == 1).then_some(Duration::from_secs(ttl.into()).clamp(SHORTEST, LONGEST))
}

/// Changes every TTL of `reply`.
fn set_ttls(reply: &mut [u8], change: impl Fn(u32) -> u32) {
    let Ok(records) = Records::new(reply) else { return };
    let ttls: Vec<Record> = records.flatten().filter(|record| record.rtype != RecordType::OPT).collect();
    for record in ttls {
        if let Some(place) = reply.get_mut(record.ttl_at..record.ttl_at + 4) {
            place.copy_from_slice(&change(record.ttl).to_be_bytes());
        }
    }
}

#[cfg(test)]
#[path = "cache_tests.rs"]
mod tests;
