//! Replies of upstreams, kept for at most [`LONGEST`] (row U11). Nothing of the cluster domain ever comes here.
//!
//! When [`MAX_ENTRIES`] or [`MAX_OCTETS`] is reached, what was stored first goes first. TTLs count down while a
//! reply is kept. A reply that was cut, or that is longer than [`MAX_REPLY`], is not kept.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use edgemesh_core::wire::dns::{HEADER_LEN, Header, LowerName, Query, Record, RecordType, Records};
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
    order: u64,
}

/// The cache.
#[derive(Default)]
pub(super) struct Cache {
    entries: HashMap<Key, Entry>,
    by_age: BTreeMap<u64, Key>,
    octets: usize,
    next: u64,
}

impl Cache {
    /// The kept reply as if it had been given to `query` just now.
    pub(super) fn get(&mut self, key: &Key, query: &[u8], now: Instant) -> Option<Vec<u8>> {
        let entry = self.entries.get(key)?;
        if now >= entry.expires {
            self.remove(key);
            return None;
        }
        let mut reply = entry.reply.to_vec();
        count_down(&mut reply, now.duration_since(entry.stored));
        // The asker's id, and its question in its case: names that are equal are of one length.
        let question = HEADER_LEN..HEADER_LEN + Query::parse_question(query).ok()?.question_len();
        for part in [0..2, question] {
            reply.get_mut(part.clone())?.copy_from_slice(query.get(part)?);
        }
        Some(reply)
    }

    /// Keeps `reply` if it may be kept.
    pub(super) fn put(&mut self, key: Key, reply: &[u8], now: Instant) {
        let Some(lifetime) = lifetime(reply).filter(|_| reply.len() <= MAX_REPLY) else { return };
        self.remove(&key);
        while self.entries.len() >= MAX_ENTRIES || self.octets + reply.len() > MAX_OCTETS {
            let Some((_, oldest)) = self.by_age.pop_first() else { return };
            self.remove(&oldest);
        }
        self.next += 1;
        self.octets += reply.len();
        self.by_age.insert(self.next, key.clone());
        let entry = Entry { reply: reply.into(), stored: now, expires: now + lifetime, order: self.next };
        self.entries.insert(key, entry);
    }

    fn remove(&mut self, key: &Key) {
        if let Some(entry) = self.entries.remove(key) {
            self.by_age.remove(&entry.order);
            self.octets -= entry.reply.len();
        }
    }
}

/// How long `reply` may be kept; `None` for not at all.
fn lifetime(reply: &[u8]) -> Option<Duration> {
    let header = Header::parse(reply).ok().filter(|header| !header.is_truncated())?;
    let [questions, answers, authority, _] = header.counts;
    let records: Vec<Record> = Records::new(reply).ok()?.collect::<Result<_, _>>().ok()?;
    let answers = records.get(..answers.into())?;
    let ttl = match header.rcode() {
        2 => return (questions == 1).then_some(SHORTEST),
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

/// Takes `age` from every TTL of `reply`.
fn count_down(reply: &mut [u8], age: Duration) {
    let age = u32::try_from(age.as_secs()).unwrap_or(u32::MAX);
    let Ok(records) = Records::new(reply) else { return };
    let ttls: Vec<Record> = records.flatten().filter(|record| record.rtype != RecordType::OPT).collect();
    for record in ttls {
        if let Some(place) = reply.get_mut(record.ttl_at..record.ttl_at + 4) {
            place.copy_from_slice(&record.ttl.saturating_sub(age).to_be_bytes());
        }
    }
}

#[cfg(test)]
mod tests {
    use hickory_proto::op::{Message, Query as Question, ResponseCode};
    use hickory_proto::rr::rdata::{A, SOA};
    use hickory_proto::rr::{Name, RData, Record as Answer, RecordType as Type};

    use super::*;

    fn query(name: &str, id: u16) -> Message {
        let mut message = Message::query();
        message.metadata.id = id;
        message.add_query(Question::query(Name::from_ascii(name).unwrap(), Type::A));
        message
    }

    fn reply(name: &str, ttl: u32) -> Message {
        let mut message = query(name, 1).into_response();
        message.add_answer(Answer::from_rdata(
            Name::from_ascii(name).unwrap(),
            ttl,
            RData::A(A::new(192, 0, 2, 1)),
        ));
        message
    }

    fn negative(code: ResponseCode, ttl: u32, minimum: u32) -> Message {
        let mut message = query("a.test.", 1).into_response();
        message.metadata.response_code = code;
        let soa = SOA::new(Name::root(), Name::root(), 1, 1, 1, 1, minimum);
        message.add_authority(Answer::from_rdata(Name::root(), ttl, RData::SOA(soa)));
        message
    }

    fn kept(message: &Message) -> Option<u64> {
        lifetime(&message.to_vec().unwrap()).map(|lifetime| lifetime.as_secs())
    }

    fn key(message: &Message) -> Key {
        Key::of(&Query::parse(&message.to_vec().unwrap()).unwrap())
    }

    #[test]
    fn u11_how_long_replies_are_kept() {
        assert_eq!(kept(&reply("a.test.", 300)), Some(30));
        assert_eq!(kept(&reply("a.test.", 12)), Some(12));
        assert_eq!(kept(&reply("a.test.", 0)), Some(5));
        for code in [ResponseCode::NXDomain, ResponseCode::NoError] {
            assert_eq!(kept(&negative(code, 60, 20)), Some(20));
            assert_eq!(kept(&negative(code, 10, 20)), Some(10));
        }
        assert_eq!(kept(&negative(ResponseCode::ServFail, 60, 60)), Some(5));
        assert_eq!(kept(&negative(ResponseCode::Refused, 60, 60)), None);
        assert_eq!(kept(&query("a.test.", 1).into_response()), None, "NODATA without SOA");
        let mut cut = reply("a.test.", 300);
        cut.metadata.truncation = true;
        assert_eq!(kept(&cut), None);
    }

    #[test]
    fn u11_ttls_count_down_and_the_question_is_the_askers() {
        let (mut cache, now) = (Cache::default(), Instant::now());
        let asked = query("a.test.", 1);
        cache.put(key(&asked), &reply("a.test.", 100).to_vec().unwrap(), now);
        let again = query("A.tEST.", 77).to_vec().unwrap();
        let at = |secs| now + Duration::from_secs(secs);
        let hit = cache.get(&key(&query("A.tEST.", 77)), &again, at(29)).unwrap();
        let hit = Message::from_vec(&hit).unwrap();
        assert_eq!((hit.metadata.id, hit.answers[0].ttl), (77, 71));
        assert_eq!(hit.queries[0].name().to_string(), "A.tEST.");
        assert!(cache.get(&key(&asked), &again, at(30)).is_none());
        assert_eq!((cache.entries.len(), cache.by_age.len(), cache.octets), (0, 0, 0));
    }

    #[test]
    fn u11_keys_tell_apart_what_replies_depend_on() {
        let plain = query("a.test.", 1);
        let mut with_edns = plain.clone();
        with_edns.set_edns(hickory_proto::op::Edns::new());
        let mut dnssec = with_edns.clone();
        dnssec.edns.as_mut().unwrap().set_dnssec_ok(true);
        let mut unchecked = plain.clone();
        unchecked.metadata.checking_disabled = true;
        let keys = [&plain, &with_edns, &dnssec, &unchecked].map(key);
        for (n, one) in keys.iter().enumerate() {
            assert_eq!(keys.iter().position(|other| other == one), Some(n));
        }
        assert!(key(&plain) == key(&query("A.TEST.", 2)));
    }

    #[test]
    fn a_full_cache_forgets_what_was_stored_first() {
        let (mut cache, now) = (Cache::default(), Instant::now());
        let name = |n: usize| format!("n{n}.test.");
        for n in 0..MAX_ENTRIES + 10 {
            cache.put(key(&query(&name(n), 1)), &reply(&name(n), 30).to_vec().unwrap(), now);
        }
        assert_eq!((cache.entries.len(), cache.by_age.len()), (MAX_ENTRIES, MAX_ENTRIES));
        let mut has = |n: usize| {
            let asked = query(&name(n), 1);
            cache.get(&key(&asked), &asked.to_vec().unwrap(), now).is_some()
        };
        assert!(!has(9) && has(10) && has(MAX_ENTRIES + 9));
    }

    #[test]
    fn the_octets_kept_are_bounded() {
        let (mut cache, now) = (Cache::default(), Instant::now());
        for n in 0..400 {
            let name = format!("n{n}.test.");
            let mut long = reply(&name, 30);
            for _ in 0..250 {
                long.add_answer(long.answers[0].clone());
            }
            let long = long.to_vec().unwrap();
            assert!(long.len() > 4000 && long.len() <= MAX_REPLY);
            cache.put(key(&query(&name, 1)), &long, now);
        }
        assert!(cache.octets <= MAX_OCTETS && cache.octets + MAX_REPLY > MAX_OCTETS);
        assert_eq!(cache.octets, cache.entries.values().map(|entry| entry.reply.len()).sum::<usize>());
    }
}
