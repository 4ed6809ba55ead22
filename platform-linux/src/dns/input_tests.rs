//! Whatever is asked and replied: what reads it neither ends the process nor makes something of it that it is not.

use super::cache::{Cache, Keeping, Kept, Key};
use super::*;
use edgemesh_core::dns::Transport;
use edgemesh_core::wire::dns::MAX_TCP;
use proptest::collection::vec;
use proptest::prelude::*;
use tokio::time::Instant;

/// A query for `ab.cde` with an OPT record, and its reply: an alias, a negative answer's SOA, the OPT again.
const QUERY: &[u8] = b"\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x01\x02ab\x03cde\x00\x00\x01\x00\x01\
    \x00\x00\x29\x04\xd0\x00\x00\x80\x00\x00\x00";
const REPLY: &[u8] = b"\x12\x34\x81\x80\x00\x01\x00\x01\x00\x01\x00\x01\x02ab\x03cde\x00\x00\x01\x00\x01\
    \xc0\x0c\x00\x05\x00\x01\x00\x00\x00\x3c\x00\x04\x01x\xc0\x0f\
    \xc0\x0f\x00\x06\x00\x01\x00\x00\x00\x3c\x00\x18\xc0\x0f\xc0\x0c\x00\x00\x00\x01\x00\x00\x00\x02\x00\x00\x00\x03\
    \x00\x00\x00\x04\x00\x00\x00\x05\
    \x00\x00\x29\x04\xd0\x00\x00\x80\x00\x00\x00";

/// Octets without meaning, or such a message with some of them changed, cut or longer.
fn message(good: &'static [u8]) -> impl Strategy<Value = Vec<u8>> {
    let changed =
        (vec((any::<prop::sample::Index>(), any::<u8>()), 0..6), 0..=good.len(), vec(any::<u8>(), 0..8));
    let changed = changed.prop_map(move |(changes, cut, more)| {
        let mut message = good.to_vec();
        for (at, octet) in changes {
            *at.get_mut(&mut message) = octet;
        }
        // Most of them whole.
        if cut % 3 == 0 {
            message.truncate(cut);
        }
        message.extend(more);
        message
    });
    prop_oneof![vec(any::<u8>(), 0..600), changed]
}

proptest! {
    #[test]
    fn w13_no_query_and_no_reply_is_too_strange(query in message(QUERY), reply in message(REPLY), secs in 0u64..200_000) {
        for rcode in [Rcode::SERVFAIL, Rcode::REFUSED] {
            if let Some(answer) = turned_away(&query, rcode) {
                let header = Header::parse(&answer).unwrap();
                prop_assert!(header.is_response() && header.id == Header::parse(&query).unwrap().id);
            }
        }
        let answered = exchange::answers(&reply, &query);
        prop_assert!(!answered || reply[..2] == query[..2]);
        let mut out = vec![0; MAX_TCP];
        let mut question = [0; 512];
        for transport in [Transport::Udp, Transport::Tcp] {
            if let Ok(len) = chase::complete(&query, transport, &reply, &reply, &mut out) {
                prop_assert!(len <= usize::from(u16::MAX));
            }
        }
        if let Ok(len) = chase::question(&reply, 0, &mut question) {
            prop_assert!(Query::parse(&question[..len]).is_ok());
        }
        let Ok(asked) = Query::parse(&query) else { return Ok(()) };
        let mut cache = Cache::new(Keeping { stale: Some(std::time::Duration::from_secs(3_600)), prefetch: Some(0) });
        let (key, now) = (Key::of(&asked), Instant::now());
        cache.put(key.clone(), &reply, now);
        let then = now + std::time::Duration::from_secs(secs);
        match cache.get(&key, &query, then) {
            Kept::Fresh { reply: kept, .. } | Kept::Stale { reply: kept, .. } => prop_assert_eq!(kept.len(), reply.len()),
            Kept::Nothing => {}
        }
    }
}
