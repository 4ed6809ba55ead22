//! Rows W: what a message may look like.

use edgemesh_core::counters::DropReason;
use edgemesh_core::dns::{Domain, Responder, Settings, Verdict};
use hickory_proto::op::{OpCode, ResponseCode};
use hickory_proto::rr::{DNSClass, RecordType::*};

use super::zone::{big, cluster};
use super::{Transport, ask, decode, edns, query, send, settings, verdict};

const SVC1: &str = "svc1.testns.svc.cluster.local.";

#[test]
fn w1_answers_echo_the_case_of_the_query() {
    let name = "SvC1.TeStNs.SvC.cLuStEr.LoCaL.";
    let reply = ask(&cluster(), name, A);
    assert_eq!(reply.answers, [format!("{name} 30 A 10.0.0.1")]);
    assert_eq!(reply.message.queries[0].name().to_string(), name);
    let host = ask(&cluster(), "DB-0.db.Default.svc.cluster.local.", A);
    assert_eq!(host.answers, ["DB-0.db.Default.svc.cluster.local. 30 A 242.128.0.1"]);
    let port = ask(&cluster(), "_HTTP._Tcp.svc1.testns.svc.cluster.local.", SRV);
    assert_eq!(port.answers.len(), 1);
}

#[test]
fn w3_udp_answers_are_cut_at_the_askers_size() {
    let zone = big(1000);
    let name = "big.default.svc.cluster.local.";
    for (size, at_most) in [(None, 512), (Some(100), 512), (Some(1232), 1232), (Some(4096), 4096)] {
        for rtype in [A, SRV] {
            let mut message = query(name, rtype);
            if let Some(size) = size {
                message.set_edns(edns(size));
            }
            let reply = send(&zone, &message, Transport::Udp);
            assert!(reply.message.metadata.truncation);
            assert!(reply.len <= at_most && reply.len > at_most - 100, "{} of {at_most}", reply.len);
            assert_eq!(reply.message.edns.is_some(), size.is_some());
            assert!(reply.additional.is_empty());
        }
    }
}

#[test]
fn w3_tcp_answers_are_whole() {
    let reply = ask(&big(1000), "big.default.svc.cluster.local.", A);
    assert_eq!(reply.answers.len(), 1000);
    let reply = ask(&big(600), "big.default.svc.cluster.local.", SRV);
    assert_eq!(reply.answers.len(), 600);
}

#[test]
fn w3_beyond_64_kib_even_tcp_is_cut() {
    let reply = send(&big(9000), &query("big.default.svc.cluster.local.", A), Transport::Tcp);
    assert!(reply.message.metadata.truncation && reply.len <= 65_535);
}

#[test]
fn w3_glue_that_does_not_fit_is_left_out_without_a_mark() {
    let reply = send(&big(6), &query("_http._tcp.big.default.svc.cluster.local.", SRV), Transport::Udp);
    assert_eq!((reply.answers.len(), reply.message.metadata.truncation), (6, false));
    assert!((1..6).contains(&reply.additional.len()));
}

#[test]
fn w4_edns_is_answered_in_kind() {
    let mut message = query(SVC1, A);
    let mut opt = edns(1400);
    opt.set_dnssec_ok(true);
    message.set_edns(opt);
    let reply = send(&cluster(), &message, Transport::Udp);
    let opt = reply.message.edns.unwrap();
    assert_eq!((opt.version(), opt.max_payload(), opt.flags().dnssec_ok), (0, 1232, true));
    assert_eq!(reply.answers.len(), 1);
}

#[test]
fn w4_later_edns_versions_are_refused_by_code_16() {
    let mut message = query("example.org.", A);
    let mut opt = edns(1400);
    opt.set_version(1);
    message.set_edns(opt);
    let reply = send(&cluster(), &message, Transport::Udp);
    // 16 is BADVERS here and BADSIG in a TSIG record.
    assert_eq!(u16::from(reply.rcode()), 16);
    assert_eq!(reply.message.edns.unwrap().version(), 0);
}

#[test]
fn w5_a_compressed_name_behind_the_question_is_accepted() {
    let mut bytes = query(SVC1, A).to_vec().unwrap();
    bytes[11] = 1;
    // An additional A record of the name asked for, as a pointer to the question.
    bytes.extend(b"\xc0\x0c\x00\x01\x00\x01\x00\x00\x00\x00\x00\x04\x01\x02\x03\x04");
    let (_, answer) = verdict(&cluster(), &bytes, Transport::Udp, 0);
    assert_eq!(decode(&answer, None).answers, [format!("{SVC1} 30 A 10.0.0.1")]);
}

#[test]
fn w5_a_question_that_points_to_itself_is_a_format_error() {
    for pointer in [12, 13, 0x3fff] {
        let mut bytes = query(SVC1, A).to_vec().unwrap();
        bytes.truncate(12);
        bytes.extend([0xc0 | (pointer >> 8) as u8, pointer as u8, 0, 1, 0, 1]);
        let (_, answer) = verdict(&cluster(), &bytes, Transport::Udp, 0);
        assert_eq!(decode(&answer, None).rcode(), ResponseCode::FormErr);
    }
}

#[test]
fn w5_answers_are_compressed() {
    let reply = ask(&big(1000), "big.default.svc.cluster.local.", A);
    // Header, question, and 16 octets a record: two for the owner.
    assert_eq!(reply.len, 12 + 31 + 4 + 1000 * 16);
}

#[test]
fn w6_other_classes_are_refused() {
    let mut message = query("version.bind.", TXT);
    message.queries[0].set_query_class(DNSClass::CH);
    assert_eq!(send(&cluster(), &message, Transport::Udp).rcode(), ResponseCode::Refused);
}

#[test]
fn w6_a_name_of_ours_in_another_class_is_refused_too() {
    for class in [DNSClass::CH, DNSClass::HS, DNSClass::ANY, DNSClass::NONE] {
        let mut message = query(SVC1, A);
        message.queries[0].set_query_class(class);
        let reply = send(&cluster(), &message, Transport::Udp);
        assert_eq!((reply.rcode(), reply.answers.len()), (ResponseCode::Refused, 0), "{class}");
    }
}

#[test]
fn w7_responses_and_scraps_get_silence() {
    let response = query(SVC1, A).into_response().to_vec().unwrap();
    let dropped = |bytes: &[u8]| verdict(&cluster(), bytes, Transport::Udp, 0).0;
    assert_eq!(dropped(&response), Verdict::Drop(DropReason::DnsMessage));
    assert_eq!(dropped(&response[..11]), Verdict::Drop(DropReason::Truncated));
    assert_eq!(dropped(&[]), Verdict::Drop(DropReason::Truncated));
    let asked = query(SVC1, A).to_vec().unwrap();
    let small = Responder::new(settings()).query(&cluster(), &asked, Transport::Udp, 0, &mut [0; 40]);
    assert_eq!(small, Verdict::Drop(DropReason::NoRoom));
}

#[test]
fn w7_other_opcodes_are_not_implemented() {
    for opcode in [OpCode::Status, OpCode::Notify, OpCode::Update] {
        let mut message = query(SVC1, A);
        message.metadata.op_code = opcode;
        let reply = send(&cluster(), &message, Transport::Udp);
        assert_eq!((reply.rcode(), reply.message.metadata.op_code), (ResponseCode::NotImp, opcode));
    }
}

#[test]
fn w7_what_cannot_be_read_is_a_format_error() {
    let good = query(SVC1, A).to_vec().unwrap();
    let mut cases = vec![good[..good.len() - 1].to_vec(), good[..12].to_vec()];
    for (at, value) in [(5, 0), (5, 2), (7, 2), (9, 2), (11, 3), (11, 1), (12, 0x40), (12, 0xc0), (12, 0x80)]
    {
        let mut bytes = good.clone();
        bytes[at] = value;
        cases.push(bytes);
    }
    let mut endless = good[..12].to_vec();
    endless.extend([b"\x01a".repeat(200), b"\x00\x00\x01\x00\x01".to_vec()].concat());
    cases.push(endless);
    for case in cases {
        let (verdict, bytes) = verdict(&cluster(), &case, Transport::Udp, 0);
        assert_eq!(verdict, Verdict::Answer { len: 12, service: None }, "{case:?}");
        let reply = decode(&bytes, None);
        assert_eq!((reply.rcode(), reply.message.metadata.id), (ResponseCode::FormErr, 4711));
    }
}

#[test]
fn w7_labels_of_any_octets_are_only_unknown_names() {
    let mut bytes = query("a-b.testns.svc.cluster.local.", A).to_vec().unwrap();
    bytes[14] = 0;
    let (_, answer) = verdict(&cluster(), &bytes, Transport::Udp, 0);
    assert!(decode(&answer, None).is_nxdomain());
}

#[test]
fn w10_the_first_record_changes_and_the_set_does_not() {
    let zone = big(7);
    let asked = query("big.default.svc.cluster.local.", A).to_vec().unwrap();
    let mut firsts = Vec::new();
    for rotate in 0..7 {
        let (_, bytes) = verdict(&zone, &asked, Transport::Udp, rotate);
        let mut answers = decode(&bytes, None).answers;
        firsts.push(answers[0].clone());
        answers.sort();
        answers.dedup();
        assert_eq!(answers.len(), 7);
    }
    firsts.sort();
    firsts.dedup();
    assert_eq!(firsts.len(), 7);
}

#[test]
fn n7_ttls_and_the_cluster_domain_are_settings() {
    let domain = Domain::new("Edge.Example.").unwrap();
    let responder = Responder::new(Settings { domain, ttl: 0, negative_ttl: 3, ..settings() });
    let mut out = [0; 512];
    let mut ask = |name: &str| {
        let asked = query(name, A).to_vec().unwrap();
        match responder.query(&cluster(), &asked, Transport::Udp, 0, &mut out) {
            Verdict::Answer { len, .. } => Some(decode(&out[..len], None)),
            _ => None,
        }
    };
    assert_eq!(
        ask("svc1.testns.svc.edge.example.").unwrap().answers,
        ["svc1.testns.svc.edge.example. 0 A 10.0.0.1"]
    );
    assert!(ask("x.edge.example.").unwrap().authority[0].starts_with("edge.example. 3 SOA"));
    assert!(ask(SVC1).is_none(), "forwarded");
}

#[test]
fn w12_recursion_desired_is_copied() {
    for desired in [false, true] {
        let mut message = query(SVC1, A);
        message.metadata.recursion_desired = desired;
        let metadata = send(&cluster(), &message, Transport::Udp).message.metadata;
        assert_eq!((metadata.recursion_desired, metadata.recursion_available), (desired, true));
    }
}

#[test]
fn w12_recursion_is_offered_only_where_the_shell_forwards() {
    let responder = Responder::new(Settings { recursion: false, ..settings() });
    let mut out = [0; 512];
    let asked = query(SVC1, A).to_vec().unwrap();
    assert!(matches!(
        responder.query(&cluster(), &asked, Transport::Udp, 0, &mut out),
        Verdict::Answer { service: Some(0), .. }
    ));
    assert_eq!(out[3] & 0x80, 0);
}
