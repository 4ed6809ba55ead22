//! Every kind of answer that the core writes, read by another implementation: [`super::decode`] reads each to its
//! last octet and writes it again. Here the list of kinds is complete.

use std::collections::BTreeSet;

use edgemesh_core::dns::{Responder, Settings, Verdict, chase};
use hickory_proto::op::{Message, OpCode, ResponseCode};
use hickory_proto::rr::rdata::{A as Ipv4, MX as Exchange, TXT as Text};
use hickory_proto::rr::{DNSClass, Name, RData, Record, RecordType, RecordType::*};

use super::zone::{MemoryZone, big, cluster};
use super::{Transport, decode, edns, query, settings, verdict};

/// The types in all sections of an answer, OPT among them.
fn types(message: &Message) -> BTreeSet<RecordType> {
    let sections = [&message.answers, &message.authorities, &message.additionals];
    let records = sections.into_iter().flatten().map(Record::record_type);
    records.chain(message.edns.is_some().then_some(OPT)).collect()
}

#[test]
fn every_type_of_record_is_read_back() {
    let zone = cluster();
    let cases: [(&str, RecordType, &[RecordType]); 14] = [
        ("svc1.testns.svc.cluster.local.", A, &[A]),
        ("dual.testns.svc.cluster.local.", AAAA, &[AAAA]),
        ("_http._tcp.svc1.testns.svc.cluster.local.", SRV, &[SRV, A]),
        ("dual.testns.svc.cluster.local.", SRV, &[SRV, A, AAAA]),
        ("hdls1.testns.svc.cluster.local.", SRV, &[SRV, A, AAAA]),
        ("10.0.0.10.in-addr.arpa.", PTR, &[PTR]),
        ("1.0.128.242.in-addr.arpa.", PTR, &[PTR]),
        ("twice.testns.svc.cluster.local.", A, &[CNAME, A]),
        ("dangling.testns.svc.cluster.local.", A, &[CNAME, SOA]),
        ("external.testns.svc.cluster.local.", A, &[CNAME]),
        ("cluster.local.", NS, &[NS, A]),
        ("cluster.local.", SOA, &[SOA]),
        ("dns-version.cluster.local.", TXT, &[TXT]),
        ("nope.testns.svc.cluster.local.", A, &[SOA]),
    ];
    let mut seen = BTreeSet::new();
    for (name, rtype, expected) in cases {
        for (transport, size) in [(Transport::Udp, 1232), (Transport::Tcp, 1232)] {
            let mut asked = query(name, rtype);
            asked.set_edns(edns(size));
            let (_, answer) = verdict(&zone, &asked.to_vec().unwrap(), transport, 1);
            let got = types(&decode(&answer, None).message);
            assert_eq!(got, expected.iter().copied().chain([OPT]).collect(), "{name} {rtype}");
            seen.extend(got);
        }
    }
    assert_eq!(seen, BTreeSet::from([A, AAAA, CNAME, NS, OPT, PTR, SOA, SRV, TXT]), "all that there are");
}

#[test]
fn every_response_code_is_read_back() {
    let (ready, cold) = (cluster(), MemoryZone { synced: false, ..cluster() });
    let svc1 = "svc1.testns.svc.cluster.local.";
    let plain = || query(svc1, A);
    let mut later_edns = plain();
    later_edns.set_edns(edns(1232));
    later_edns.edns.as_mut().unwrap().set_version(1);
    let mut chaos = plain();
    chaos.queries[0].set_query_class(DNSClass::CH);
    let mut update = plain();
    update.metadata.op_code = OpCode::Update;
    let mut two = plain();
    two.add_query(two.queries[0].clone());
    let cases = [
        (&ready, plain(), ResponseCode::NoError),
        (&ready, query("nope.cluster.local.", A), ResponseCode::NXDomain),
        (&cold, plain(), ResponseCode::ServFail),
        (&ready, chaos, ResponseCode::Refused),
        (&ready, update, ResponseCode::NotImp),
        (&ready, two, ResponseCode::FormErr),
        (&ready, later_edns, ResponseCode::BADVERS),
    ];
    for (zone, asked, code) in cases {
        let (_, answer) = verdict(zone, &asked.to_vec().unwrap(), Transport::Udp, 0);
        // 16 is BADVERS and BADSIG, so numbers are compared.
        assert_eq!(u16::from(decode(&answer, None).rcode()), u16::from(code), "{asked}");
    }
}

#[test]
fn cut_answers_are_read_back_at_every_size() {
    let zone = big(300);
    for rtype in [A, SRV] {
        for size in (512..4096).step_by(7) {
            let mut asked = query("big.default.svc.cluster.local.", rtype);
            asked.set_edns(edns(size));
            let (_, answer) = verdict(&zone, &asked.to_vec().unwrap(), Transport::Udp, u32::from(size));
            assert!(decode(&answer, None).message.metadata.truncation, "{rtype} in {size}");
        }
    }
}

#[test]
fn records_of_upstreams_are_read_back_behind_an_alias() {
    let name = Name::from_ascii("ext.interwebs.test.").unwrap();
    let data = |rtype| match rtype {
        MX => RData::MX(Exchange::new(10, Name::from_ascii("mail.interwebs.test.").unwrap())),
        TXT => RData::TXT(Text::new(vec!["one".into(), "two".into()])),
        _ => RData::A(Ipv4::new(192, 0, 2, 1)),
    };
    let (asked, mut out) = (query("external.testns.svc.cluster.local.", A).to_vec().unwrap(), [0; 1232]);
    let verdict = Responder::new(Settings { ttl: 0, ..settings() }).query(
        &cluster(),
        &asked,
        Transport::Udp,
        0,
        &mut out,
    );
    let Verdict::Chase { len } = verdict else { panic!("{verdict:?}") };
    for rtype in [A, MX, TXT] {
        let mut reply = query("ext.interwebs.test.", A).into_response();
        reply.add_answer(Record::from_rdata(name.clone(), 77, data(rtype)));
        let mut joined = [0; 1232];
        let reply = reply.to_vec().unwrap();
        let len = chase::complete(&asked, Transport::Udp, &out[..len], &reply, &mut joined).unwrap();
        let expected: &[RecordType] = if rtype == A { &[CNAME, A] } else { &[CNAME] };
        assert_eq!(types(&decode(&joined[..len], None).message), expected.iter().copied().collect());
    }
}
