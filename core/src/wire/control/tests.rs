//! The bytes of every message. Sites and firmware never upgrade together: a changed line here breaks them.

use super::*;
use crate::wire::feed::{EndpointDef, Home, PortDef, Protocol, ServiceDef, ServiceKind};
use std::format;
use std::string::String;

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

fn to_server(message: &ToServer<'_>) -> String {
    let mut out = [0; PLAINTEXT_MAX];
    let len = message.encode(&mut out).unwrap();
    assert_eq!(ToServer::decode(&out[..len]).unwrap().as_ref(), Some(message));
    for short in 0..len {
        assert_eq!(message.encode(&mut out[..short].to_vec()), Err(DropReason::NoRoom));
        let _ = ToServer::decode(&out[..short]);
    }
    hex(&out[..len])
}

fn to_node(message: &ToNode<'_>) -> String {
    let mut out = [0; PLAINTEXT_MAX];
    let len = message.encode(&mut out).unwrap();
    assert_eq!(ToNode::decode(&out[..len]).unwrap().as_ref(), Some(message));
    for short in 0..len {
        assert_eq!(message.encode(&mut out[..short].to_vec()), Err(DropReason::NoRoom));
        let _ = ToNode::decode(&out[..short]);
    }
    hex(&out[..len])
}

#[test]
fn preambles() {
    assert_eq!((Preamble::Control.bytes(), Preamble::Relay.bytes()), (*b"EMC1", *b"EMR1"));
    assert_eq!(Preamble::parse(*b"EMR1"), Ok(Preamble::Relay));
    assert_eq!((Preamble::Via.bytes(), Preamble::parse(*b"EMV1")), (*b"EMV1", Ok(Preamble::Via)));
    assert_eq!(Preamble::parse(*b"GET "), Err(DropReason::Malformed));
}

#[test]
fn greeting() {
    let greeting = Greeting {
        version: 1,
        noise_key: [0x11; 32],
        directory_key: [0x22; 32],
        epoch: 300,
        certificate: &[0x33; 4],
    };
    let mut out = [0; 128];
    let bytes = postcard::to_slice(&greeting, &mut out).unwrap();
    assert_eq!(hex(bytes), format!("01{}{}ac020433333333", "11".repeat(32), "22".repeat(32)));
}

#[test]
fn messages_to_the_server() {
    let hello = Hello {
        name: "edge-1",
        secret: &[0xAA; 16],
        features: 0,
        agent: "edgemesh 0.1",
        feed: true,
        sequence: 300,
    };
    assert_eq!(
        to_server(&ToServer::Hello(hello)),
        format!("010106656467652d3110{}000c656467656d65736820302e3101ac02", "aa".repeat(16))
    );
    assert_eq!(to_server(&ToServer::LookupIndex(300)), "0102ac02");
    assert_eq!(to_server(&ToServer::LookupName("b")), "01030162");
    assert_eq!(to_server(&ToServer::Ping(7)), "010407");
    assert_eq!(to_server(&ToServer::Want(300)), "0106ac02");
    assert_eq!(to_server(&ToServer::Forget(300)), "0107ac02");
    assert_eq!(to_server(&ToServer::Proof { part: &[1, 2], last: true }), "010502010201");
    assert_eq!(to_server(&ToServer::Revocations(Held { epoch: 300, count: 5 })), "0109ac0205");
    assert_eq!(to_server(&ToServer::Rekey([0x99; 32])), format!("010a{}", "99".repeat(32)));
    assert_eq!(to_server(&ToServer::Relay(&[1, 2])), "010b020102");
    assert_eq!(to_server(&ToServer::Entries([0x99; 32])), format!("0108{}", "99".repeat(32)));
}

#[test]
fn messages_to_the_node() {
    let mut out = [0; 64];
    let record =
        NodeRecord { index: 3, name: "e", key: [0x44; 32], serial: 1, epoch: 2, ..NodeRecord::default() };
    let record = postcard::to_slice(&record, &mut out).unwrap();
    assert_eq!(hex(record), format!("030165{}0102", "44".repeat(32)));
    let signed = SignedRecord { record, signature: &[0x55; 3] };
    let signed_hex = format!("25030165{}010203555555", "44".repeat(32));
    assert_eq!(to_node(&ToNode::Rekeyed(signed.clone())), format!("014a{signed_hex}"));
    let welcome = Welcome {
        record: signed.clone(),
        network: Network { mesh_v4: [242, 0, 0, 0], mesh_v4_len: 8, mesh_v6: [0xFD; 16] },
        domain: "c.l",
        relay_key: [0x66; 32],
        relay_epoch: 9,
        unix_secs: 300,
        observed: "192.0.2.1:258".parse().unwrap(),
        features: 0,
    };
    assert_eq!(
        to_node(&ToNode::Welcome(welcome)),
        format!(
            "0140{signed_hex}f200000008{}03632e6c{}09ac0200c0000201820200",
            "fd".repeat(16),
            "66".repeat(32)
        )
    );
    let refused = ToNode::Refused { reason: Refusal::UsedByAnotherKey, detail: "no" };
    assert_eq!(to_node(&refused), "014102026e6f");
    let peer = Peer { record: signed, send_session: 300, receive_session: 1 };
    assert_eq!(to_node(&ToNode::Peer(peer)), format!("0142{signed_hex}ac0201"));
    assert_eq!(to_node(&ToNode::NoPeer { index: 5, name: "x" }), "0143050178");
    assert_eq!(to_node(&ToNode::Pong(7)), "014407");
    assert_eq!(to_node(&ToNode::Feed(&[1, 2])), "0145020102");
    assert_eq!(to_node(&ToNode::Prove), "0147");
    assert_eq!(to_node(&ToNode::Relay(&[1, 2])), "0151020102");
    let answer = Answer { key: 0x8000_0001, sequence: 300, found: 1, signature: &[0x99; 2] };
    assert_eq!(to_node(&ToNode::Answer(answer)), "01488180808008ac0201029999");
    let list = [Revocation { serial: 300, index: 5 }, Revocation { serial: 1, index: 6 }];
    let mut bytes = [0; 16];
    let len = list.iter().fold(0, |at, each| at + postcard::to_slice(each, &mut bytes[at..]).unwrap().len());
    let revocations = Revocations { epoch: 2, after: 300, list: &bytes[..len], signature: &[0x99; 2] };
    assert!(revocations.numbered().map(Result::unwrap).eq([(301, list[0]), (302, list[1])]));
    assert_eq!(to_node(&ToNode::Revocations(revocations)), "014902ac0205ac02050106029999");
    let broken = Revocations { epoch: 2, after: 0, list: &[1], signature: &[] };
    assert!(broken.numbered().eq([Err(DropReason::Malformed)]));
    let commit = FeedCommit { sequence: 300, digest: [0x77; 32], signature: &[0x88; 2] };
    assert_eq!(to_node(&ToNode::FeedCommit(commit.clone())), format!("0146ac02{}028888", "77".repeat(32)));
    assert_eq!(to_node(&ToNode::Entries(EntriesPart { part: &[1, 2], commit: None })), "015002010200");
    let last = EntriesPart { part: &[3], commit: Some(commit) };
    assert_eq!(to_node(&ToNode::Entries(last)), format!("0150010301ac02{}028888", "77".repeat(32)));
}

/// What came to records later stands behind what older agents read.
#[test]
fn records_of_both_forms() {
    let old =
        NodeRecord { index: 3, name: "e", key: [0x44; 32], serial: 1, epoch: 2, ..NodeRecord::default() };
    let new = NodeRecord { listed: 300, follows: Some([0x45; 32]), ..old.clone() };
    let mut out = [0; 128];
    let len = new.encode(&mut out).unwrap();
    let head = format!("030165{}0102", "44".repeat(32));
    assert_eq!(hex(&out[..len]), format!("{head}ac0201{}", "45".repeat(32)));
    assert_eq!(NodeRecord::decode(&out[..len]), Ok(new.clone()));
    assert_eq!(postcard::from_bytes(&out[..len]), Ok(old.clone()), "what an older agent reads");
    let first = head.len() / 2;
    assert_eq!(NodeRecord::decode(&out[..first]), Ok(old));
    for short in (0..first).chain(first + 1..len) {
        assert_eq!(NodeRecord::decode(&out[..short]), Err(DropReason::Malformed), "{short}");
        assert_eq!(new.encode(&mut out[..short].to_vec()), Err(DropReason::NoRoom));
    }
}

#[test]
fn refusals_keep_their_numbers() {
    let all = [
        Refusal::WrongToken,
        Refusal::Expired,
        Refusal::UsedByAnotherKey,
        Refusal::NameTaken,
        Refusal::NotEnrolled,
        Refusal::Revoked,
        Refusal::Version,
        Refusal::Account,
    ];
    for (n, reason) in all.into_iter().enumerate() {
        assert_eq!(to_node(&ToNode::Refused { reason, detail: "" }), format!("0141{n:02x}00"));
    }
}

#[test]
fn updates_of_the_feed() {
    let head = |kind| ServiceDef { namespace: "n", name: "s", kind, affinity_secs: 300, flags: 3 };
    let both = heapless::Vec::from_iter(["10.0.0.1".parse().unwrap(), "::1".parse().unwrap()]);
    let endpoint = EndpointDef {
        node: 300,
        address: "10.0.0.2".parse().unwrap(),
        vip: Some("242.128.0.1".parse().unwrap()),
        hostname: "h",
        conditions: 7,
        zones: &[1, 2, 3, 4],
    };
    let cases = [
        (Update::Begin, String::from("00")),
        (
            Update::Service(head(ServiceKind::ClusterIp(both))),
            format!("01016e01730002000a00000101{}01ac0203", "00".repeat(15)),
        ),
        (Update::Service(head(ServiceKind::Headless)), "01016e017301ac0203".into()),
        (Update::Service(head(ServiceKind::ExternalName("x.y"))), "01016e01730203782e79ac0203".into()),
        (Update::Port(PortDef { name: "p", protocol: Protocol::Sctp, port: 300 }), "02017002ac02".into()),
        (Update::Targets(&[0x90, 0x1F]), "0302901f".into()),
        (Update::Endpoint(endpoint), "04ac02000a0000020100f28000010168070401020304".into()),
        (Update::Commit, "05".into()),
        (Update::Remove { namespace: "n", name: "s" }, "06016e0173".into()),
        (Update::Namespace("n"), "07016e".into()),
        (Update::End, "08".into()),
        (Update::Home(Home { zone: 300, domain: 1 }), "09ac0201".into()),
        (Update::Domain(300), "0aac02".into()),
    ];
    let mut stream = std::vec::Vec::new();
    for (update, expected) in &cases {
        let mut out = [0; 64];
        let bytes = postcard::to_slice(update, &mut out).unwrap();
        assert_eq!(hex(bytes), *expected);
        stream.extend_from_slice(bytes);
    }
    let back: std::vec::Vec<_> = updates(&stream).map(Result::unwrap).collect();
    assert!(back.iter().eq(cases.iter().map(|(u, _)| u)));
    let mut broken = updates(&[8, 0xFF, 8]);
    assert_eq!(broken.next(), Some(Ok(Update::End)));
    assert_eq!((broken.next(), broken.next()), (Some(Err(DropReason::Malformed)), None));
}

#[test]
fn what_is_not_understood_is_skipped_or_named() {
    assert_eq!(ToNode::decode(&[VERSION, 200, 1]), Ok(None));
    assert_eq!(ToNode::decode(&[VERSION + 1, 64]), Ok(None));
    assert_eq!(ToServer::decode(&[VERSION, 64]), Ok(None));
    assert_eq!(ToServer::decode(&[VERSION]), Err(DropReason::Truncated));
    assert_eq!(ToServer::decode(&[VERSION, 2]), Err(DropReason::Malformed));
    assert_eq!(ToNode::decode(&[VERSION, 65, 99, 0]), Err(DropReason::Malformed));
}

#[test]
fn mesh_addresses_are_prefix_and_index() {
    let network = Network {
        mesh_v4: [242, 0, 0, 0],
        mesh_v4_len: 8,
        mesh_v6: *b"\xfd\x01\0\0\0\0\0\0\0\0\0\0\0\0\0\0",
    };
    assert_eq!(mesh_address(&network, 258, false), "242.0.1.2".parse::<IpAddr>().unwrap());
    assert_eq!(mesh_address(&network, 258, true), "fd01::102".parse::<IpAddr>().unwrap());
    assert_eq!(mesh_capacity(&network), (1 << 22) - 2);
}
