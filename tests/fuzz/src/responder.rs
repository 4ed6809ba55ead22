//! DNS: the responder over a small cluster, and aliases completed by an upstream's reply.

use crate::engine::{Room, cluster, question};
use crate::input::Input;
use edgemesh_core::control::updates;
use edgemesh_core::dns::{Domain, PodRecords, Responder, Settings, Transport, Verdict, chase as core_chase};
use edgemesh_core::wire::dns::{Header, MAX_NAME, Query, Records, expand};

/// A query to an engine that knows the cluster: what is answered can be read, is for this question and within size.
pub(crate) fn query(bytes: &[u8]) {
    let mut room = Box::new(Room::ZERO);
    let mut engine = crate::engine::alone(room.lend());
    for update in updates(&cluster()) {
        engine.update(&update.expect("a good update")).expect("room for the cluster");
    }
    let mut input = Input::new(bytes);
    while !input.is_empty() {
        let transport = if input.flag() { Transport::Udp } else { Transport::Tcp };
        let query = question(&mut input);
        let mut out = vec![0; if transport == Transport::Udp { 1_500 } else { 4_096 }];
        let now = edgemesh_core::time::Instant::ZERO;
        match engine.query(now, transport, &query, &mut out) {
            Verdict::Answer { len, .. } | Verdict::Chase { len } => readable(&query, transport, &out[..len]),
            Verdict::Forward | Verdict::Drop(_) | Verdict::Wait(_) => {}
        }
    }
}

fn readable(query: &[u8], transport: Transport, answer: &[u8]) {
    let (asked, said) = (Header::parse(query).unwrap(), Header::parse(answer).expect("an answer's header"));
    assert!(said.is_response());
    assert_eq!(query[..2], answer[..2], "another query's answer");
    assert_eq!(asked.opcode(), said.opcode());
    if let Ok(query) = Query::parse(query) {
        assert!(answer.len() <= edgemesh_core::dns::limit(&query, transport), "too long an answer");
        if said.rcode() == 0 {
            let again = Query::parse_question(answer).expect("an answer repeats its question");
            assert_eq!((again.name, again.rtype), (query.name, query.rtype));
        }
    }
    let mut name = [0; MAX_NAME];
    for record in Records::new(answer).expect("an answer's records") {
        let record = record.expect("a whole record");
        expand(answer, record.at, &mut name).expect("an owner's name");
    }
}

/// An alias and an upstream's reply, of any bytes.
pub(crate) fn chase(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let settings = Settings {
        domain: Domain::new("cluster.local").expect("a good name"),
        ttl: 30,
        negative_ttl: 30,
        address: None,
        pods: PodRecords::Disabled,
        recursion: true,
    };
    assert_eq!(Responder::new(settings).settings().ttl, 30);
    let transport = if input.flag() { Transport::Udp } else { Transport::Tcp };
    let mut query = vec![0, 1, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in ["out", "default", "svc", "cluster", "local"] {
        query.push(label.len() as u8);
        query.extend(label.as_bytes());
    }
    query.extend([0, 0, if input.flag() { 1 } else { 28 }, 0, 1]);
    let mut room = Box::new(Room::ZERO);
    let mut engine = crate::engine::alone(room.lend());
    for update in updates(&cluster()) {
        engine.update(&update.expect("a good update")).expect("room for the cluster");
    }
    let mut answer = [0; 1_500];
    let now = edgemesh_core::time::Instant::ZERO;
    let Verdict::Chase { len } = engine.query(now, transport, &query, &mut answer) else {
        panic!("an alias that leads outside is to be chased")
    };
    let mut out = [0; 4_096];
    let asked = core_chase::question(&answer[..len], 7, &mut out).expect("there is an alias");
    // A reply to that question whose records the bytes make up, or bytes.
    let mut reply = out[..asked].to_vec();
    if input.flag() {
        reply = input.rest().to_vec();
    } else {
        reply[2] |= 0x80;
        reply[3] = input.byte() & 15;
        reply[7] = input.byte() % 4;
        reply.extend(input.rest());
    }
    if let Ok(len) = core_chase::complete(&query, transport, &answer[..len], &reply, &mut out) {
        readable(&query, transport, &out[..len]);
    }
    let _ = core_chase::question(&reply, 7, &mut answer);
}
