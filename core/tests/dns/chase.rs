//! Row D20: the answer to an alias that leads out of the cluster domain.

use edgemesh_core::counters::DropReason;
use edgemesh_core::dns::{Verdict, chase};
use hickory_proto::op::{Message, ResponseCode};
use hickory_proto::rr::rdata::{A as Ipv4, CNAME as Alias};
use hickory_proto::rr::{Name, RData, Record, RecordType::*};

use super::zone::cluster;
use super::{Transport, decode, edns, query, verdict};

const EXTERNAL: &str = "eXternal.testns.svc.cluster.local.";

fn name(text: &str) -> Name {
    Name::from_ascii(text).unwrap()
}

fn address(owner: &str, last: u8) -> Record {
    Record::from_rdata(name(owner), 77, RData::A(Ipv4::new(192, 0, 2, last)))
}

fn alias(owner: &str, target: &str) -> Record {
    Record::from_rdata(name(owner), 60, RData::CNAME(Alias(name(target))))
}

/// The query, and the alias that the responder gives.
fn asked() -> (Vec<u8>, Vec<u8>) {
    let query = query(EXTERNAL, A).to_vec().unwrap();
    let (verdict, answer) = verdict(&cluster(), &query, Transport::Udp, 0);
    assert!(matches!(verdict, Verdict::Chase { .. }));
    (query, answer)
}

fn reply(records: Vec<Record>) -> Message {
    let mut message = query("ext.interwebs.test.", A).into_response();
    message.insert_answers(records);
    message
}

fn complete(query: &[u8], answer: &[u8], reply: &Message) -> super::Reply {
    let mut out = [0; 4096];
    let len = chase::complete(query, Transport::Udp, answer, &reply.to_vec().unwrap(), &mut out).unwrap();
    decode(&out[..len], None)
}

#[test]
fn d20_the_question_is_for_the_last_target() {
    let (_, answer) = asked();
    let mut out = [0; 512];
    let len = chase::question(&answer, 99, &mut out).unwrap();
    let question = Message::from_vec(&out[..len]).unwrap();
    assert_eq!(question.queries, query("ext.interwebs.test.", A).queries);
    assert_eq!(question.metadata.id, 99);
    assert!(question.metadata.recursion_desired);
    assert_eq!(chase::question(&answer, 99, &mut out[..20]), Err(DropReason::NoRoom));
    assert_eq!(
        chase::question(&query(EXTERNAL, A).to_vec().unwrap(), 9, &mut out),
        Err(DropReason::Malformed)
    );
}

#[test]
fn u14_the_reply_is_joined_and_strangers_in_it_are_not() {
    let (query, answer) = asked();
    let records = vec![
        alias("EXT.interwebs.test.", "cdn.test."),
        address("bank.test.", 66),
        address("cdn.test.", 1),
        address("cdn.test.", 2),
    ];
    let done = complete(&query, &answer, &reply(records));
    let expected = [
        format!("{EXTERNAL} 30 CNAME ext.interwebs.test."),
        "EXT.interwebs.test. 60 CNAME cdn.test.".into(),
        "cdn.test. 77 A 192.0.2.1".into(),
        "cdn.test. 77 A 192.0.2.2".into(),
    ];
    assert_eq!(done.answers, expected);
    assert_eq!((done.rcode(), done.message.metadata.id), (ResponseCode::NoError, 4711));
}

#[test]
fn d20_the_reply_completes_the_alias() {
    let (query, answer) = asked();
    let done = complete(&query, &answer, &reply(vec![address("ext.interwebs.test.", 9)]));
    let expected =
        [format!("{EXTERNAL} 30 CNAME ext.interwebs.test."), "ext.interwebs.test. 77 A 192.0.2.9".into()];
    assert_eq!(done.answers, expected);
}

#[test]
fn d20_failure_upstream_shows_in_the_code() {
    let (query, answer) = asked();
    let mut failed = reply(vec![]);
    failed.metadata.response_code = ResponseCode::NXDomain;
    let done = complete(&query, &answer, &failed);
    assert_eq!((done.rcode(), done.answers.len()), (ResponseCode::NXDomain, 1));
}

#[test]
fn w3_a_long_reply_behind_an_alias_is_cut_and_opt_stays() {
    let mut message = query(EXTERNAL, A);
    message.set_edns(edns(600));
    let query = message.to_vec().unwrap();
    let (_, answer) = verdict(&cluster(), &query, Transport::Udp, 0);
    let done =
        complete(&query, &answer, &reply((0..100).map(|n| address("ext.interwebs.test.", n)).collect()));
    assert!(done.len <= 600 && done.message.metadata.truncation && done.message.edns.is_some());
    assert!(done.answers.len() > 5);
}

#[test]
fn a_reply_that_cannot_be_read_is_an_error() {
    let (query, answer) = asked();
    let whole = reply(vec![address("ext.interwebs.test.", 1)]).to_vec().unwrap();
    for cut in 0..whole.len() {
        let mut out = [0; 512];
        let done = chase::complete(&query, Transport::Udp, &answer, &whole[..cut], &mut out);
        assert_eq!(done, Err(DropReason::Truncated), "{cut}");
    }
}
