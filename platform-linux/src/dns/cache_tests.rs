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
    let Kept::Fresh { reply: hit, renew: false } = cache.get(&key(&query("A.tEST.", 77)), &again, at(29))
    else {
        panic!("not kept")
    };
    let hit = Message::from_vec(&hit).unwrap();
    assert_eq!((hit.metadata.id, hit.answers[0].ttl), (77, 71));
    assert_eq!(hit.queries[0].name().to_string(), "A.tEST.");
    assert_eq!(cache.get(&key(&asked), &again, at(30)), Kept::Nothing);
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
        cache.get(&key(&asked), &asked.to_vec().unwrap(), now) != Kept::Nothing
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

/// A cache that keeps one reply of 20 s from `now` on, and what asking it at a second gives: the TTL, whether it is
/// stale, and whether it is to be renewed.
struct One {
    cache: Cache,
    now: Instant,
}

impl One {
    fn new(keeping: Keeping) -> Self {
        let (mut cache, now) = (Cache::new(keeping), Instant::now());
        cache.put(key(&query("a.test.", 1)), &reply("a.test.", 20).to_vec().unwrap(), now);
        Self { cache, now }
    }

    fn at(&mut self, secs: u64) -> Option<(u32, bool, bool)> {
        let asked = query("a.test.", 1);
        let now = self.now + Duration::from_secs(secs);
        let (reply, stale, renew) = match self.cache.get(&key(&asked), &asked.to_vec().unwrap(), now) {
            Kept::Fresh { reply, renew } => (reply, false, renew),
            Kept::Stale { reply, renew } => (reply, true, renew),
            Kept::Nothing => return None,
        };
        Some((Message::from_vec(&reply).unwrap().answers[0].ttl, stale, renew))
    }

    fn put(&mut self, message: &Message, secs: u64) {
        let now = self.now + Duration::from_secs(secs);
        self.cache.put(key(&query("a.test.", 1)), &message.to_vec().unwrap(), now);
    }
}

#[test]
fn u12_a_reply_that_is_too_old_is_kept_only_on_request_and_not_for_ever() {
    let mut off = One::new(Keeping::default());
    assert_eq!((off.at(19), off.at(20)), (Some((1, false, false)), None));
    let mut on = One::new(Keeping { stale: Some(Duration::from_secs(3600)), prefetch: None });
    assert_eq!(on.at(19), Some((1, false, false)));
    assert_eq!(on.at(20), Some((STALE_TTL, true, true)));
    assert_eq!(on.at(3619), Some((STALE_TTL, true, true)));
    assert_eq!(on.at(3620), None);
}

#[test]
fn u12_one_renewal_at_a_time_and_a_rest_after_a_failure() {
    let mut one = One::new(Keeping { stale: Some(Duration::from_secs(3600)), prefetch: None });
    let renewed = key(&query("a.test.", 1));
    assert!(one.cache.start_renewal(&renewed) && !one.cache.start_renewal(&renewed));
    assert_eq!(one.at(25), Some((STALE_TTL, true, false)));
    one.cache.end_renewal(&renewed, false, one.now + Duration::from_secs(25));
    assert_eq!(one.at(54), Some((STALE_TTL, true, false)));
    assert_eq!(one.at(55), Some((STALE_TTL, true, true)));
}

#[test]
fn u12_a_failure_does_not_replace_what_may_still_be_given() {
    let mut one = One::new(Keeping { stale: Some(Duration::from_secs(100)), prefetch: None });
    one.put(&negative(ResponseCode::ServFail, 60, 60), 30);
    assert_eq!(one.at(31), Some((STALE_TTL, true, true)));
    // What a server does say replaces it, an NXDOMAIN too.
    one.put(&reply("a.test.", 7), 40);
    assert_eq!(one.at(41), Some((6, false, false)));
}

#[test]
fn u13_a_reply_that_many_ask_for_is_renewed_in_its_last_tenth() {
    let mut one = One::new(Keeping { stale: None, prefetch: Some(3) });
    assert_eq!([one.at(1), one.at(1)].map(|got| got.unwrap().2), [false, false]);
    assert_eq!(one.at(19), Some((1, false, false)), "the third time");
    let mut hot = One::new(Keeping { stale: None, prefetch: Some(3) });
    for _ in 0..3 {
        hot.at(1);
    }
    assert_eq!(hot.at(17), Some((3, false, false)));
    assert_eq!(hot.at(18), Some((2, false, true)));
    assert!(hot.cache.start_renewal(&key(&query("a.test.", 1))));
    assert_eq!(hot.at(18), Some((2, false, false)), "somebody does already");
    hot.put(&reply("a.test.", 20), 18);
    assert_eq!(hot.at(20), Some((18, false, false)));
}
