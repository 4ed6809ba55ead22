//! What is too large for the path: clamped, answered, or cut.

use super::fragments::{fragments, reassembled};
use super::*;

#[test]
fn mss_is_clamped_both_ways_to_what_the_path_carries() {
    for c in BOTH {
        let mut pair = Pair::new();
        (pair.client_rules.mtu, pair.server_rules.mtu) = (1300, 1280);
        let syn = spec(c.client, c.vip, TCP, tcp_body(4000, 80, SYN, &[2, 4, 0x05, 0xb4], b"")).build();
        let headers: u16 = if c.vip == V4.vip { 40 } else { 60 };
        let (_, sent) = pair.send(&syn);
        assert_eq!(sent[sent.len() - 2..], (1300 - headers).to_be_bytes());
        let (_, arrived) = pair.server_in(1, &sent);
        assert_eq!(arrived[arrived.len() - 2..], (1280 - headers).to_be_bytes());
        verify(&arrived, Checksum::Complete);
        let answer =
            spec(c.pod, c.mesh[0], TCP, tcp_body(8080, 4000, SYN | ACK, &[2, 4, 0x05, 0xb4], b"")).build();
        let answer = pair.response(&answer);
        assert_eq!(answer[answer.len() - 2..], (1280 - headers).to_be_bytes());
        verify(&answer, Checksum::Complete);
    }
}

#[test]
fn what_the_path_cannot_carry_is_answered_with_its_mtu() {
    for c in BOTH {
        let mut pair = Pair::new();
        pair.connect(c, 4000);
        pair.client_rules.mtu = 1290;
        pair.server_rules.mtu = 1290;
        let big = tcp((c.client, 4000), (c.vip, 80), ACK, &[1; 1300]);
        let (outcome, error) = pair.send(&big);
        assert_eq!(outcome.verdict, Translated::Reply);
        assert_eq!(ends(&error), at(c.vip, 0, c.client, 0));
        let quoted = verify(&error, Checksum::Complete).quoted(&error).unwrap();
        assert_eq!((quoted.src_port, quoted.dst_port), (4000, 80));
        let (outcome, error) = pair.server_out(&tcp((c.pod, 8080), (c.mesh[0], 4000), ACK, &[1; 1300]));
        assert_eq!(outcome.verdict, Translated::Reply);
        assert_eq!(ends(&error), at(c.mesh[0], 0, c.pod, 0));
        // A super-packet of small segments passes.
        let mut bytes = big.clone();
        let len = bytes.len();
        let mut packet = Packet::new(&mut bytes, 0, len).unwrap();
        let offload = Offload { checksum: Checksum::Complete, largest: 700 };
        let outcome = pair.client.outbound(pair.now, &mut packet, offload, &pair.client_rules);
        assert_eq!(outcome.verdict, Translated::To(PeerRef(2)));
    }
}

#[test]
fn ipv6_has_its_1280_bytes_on_every_path() {
    for (c, len, passes) in [(V4, 1220, false), (V6, 1220, true), (V6, 1221, false)] {
        let mut pair = Pair::new();
        pair.connect(c, 4000);
        pair.client_rules.mtu = 1184;
        let headers = if c.vip == V4.vip { 40 } else { 60 };
        let (outcome, answer) = pair.send(&tcp((c.client, 4000), (c.vip, 80), ACK, &vec![1; len]));
        let expected = if passes { Translated::To(PeerRef(2)) } else { Translated::Reply };
        assert_eq!(outcome.verdict, expected, "{len} and {headers} bytes");
        if !passes {
            let told = if c.vip == V4.vip { &answer[26..28] } else { &answer[46..48] };
            assert_eq!(told, if c.vip == V4.vip { 1184u16 } else { 1280 }.to_be_bytes());
        }
        let syn = spec(c.client, c.vip, TCP, tcp_body(4001, 80, SYN, &[2, 4, 0x05, 0xb4], b"")).build();
        let (_, sent) = pair.send(&syn);
        let mss = if c.vip == V4.vip { 1184 - 40 } else { 1280u16 - 60 };
        assert_eq!(sent[sent.len() - 2..], mss.to_be_bytes());
    }
}

#[test]
fn datagrams_that_may_be_cut_are_cut_and_their_followers_too() {
    let c = V4;
    let mut pair = Pair::new();
    pair.client_rules.mtu = 100;
    let pieces = |bytes: &[u8]| {
        let t = Transport::parse(bytes).unwrap();
        let mut out = [0; 100];
        (0..99)
            .map_while(|n| {
                crate::wire::ip::split(bytes, &t, 100, n, &mut out).unwrap().map(|len| out[..len].to_vec())
            })
            .collect::<Vec<_>>()
    };
    let (outcome, sent) = pair.send(&udp((c.client, 4000), (c.vip, 53), &[7; 200]));
    assert_eq!((outcome.verdict, outcome.split), (Translated::To(PeerRef(2)), Some(100)));
    let arrived: Vec<_> = pieces(&sent).iter().map(|f| pair.server_in(1, f).1).collect();
    assert_eq!((arrived.len(), reassembled(&arrived)), (3, at(c.mesh[0], 4000, c.pod, 8080)));
    // Another client's datagram has another identification.
    let (_, other) = pair.send(&udp(("172.17.0.3", 4000), (c.vip, 53), &[7; 200]));
    assert_ne!(other[4..6], sent[4..6]);
    // A partial checksum is finished first.
    let mut partial = udp((c.client, 4000), (c.vip, 53), &[9; 200]);
    fill(&mut partial, 20, UDP, Checksum::Partial);
    let len = partial.len();
    let offload = Offload { checksum: Checksum::Partial, largest: len };
    let mut packet = Packet::new(&mut partial, 0, len).unwrap();
    let outcome = pair.client.outbound(pair.now, &mut packet, offload, &pair.client_rules);
    assert_eq!(outcome.split, Some(100));
    verify(&partial, Checksum::Complete);
    // Fragments that are too long for the path.
    pair.client_rules.mtu = 50;
    let mut arrived = vec![];
    for fragment in fragments((c.client, 4000), (c.vip, 53), 77) {
        let (outcome, sent) = pair.send(&fragment);
        let t = Transport::parse(&sent).unwrap();
        let mut out = [0; 50];
        let mtu = outcome.split.unwrap_or(1000);
        for n in 0..3 {
            let room: &mut [u8] = if mtu == 50 { &mut out } else { &mut [0; 100] };
            if let Some(len) = crate::wire::ip::split(&sent, &t, mtu, n, room).unwrap() {
                assert!(len <= usize::from(mtu));
                arrived.push(pair.server_in(1, &room[..len]).1);
            }
        }
    }
    assert_eq!((arrived.len(), reassembled(&arrived)), (5, at(c.mesh[0], 4000, c.pod, 8080)));
    // The endpoint's side.
    pair.server_rules.mtu = 100;
    let (outcome, _) = pair.server_out(&udp((c.pod, 8080), (c.mesh[0], 4000), &[1; 200]));
    assert_eq!((outcome.verdict, outcome.split), (Translated::To(PeerRef(1)), Some(100)));
}

#[test]
fn what_must_not_be_cut_is_not_cut() {
    let mut whole = udp((V4.client, 4000), (V4.vip, 53), &[7; 200]);
    let t = Transport::parse(&whole).unwrap();
    let cut = |bytes: &[u8], t: &Transport, mtu, room: usize| {
        crate::wire::ip::split(bytes, t, mtu, 0, &mut vec![0; room])
    };
    assert_eq!(cut(&whole, &t, 27, 100), Err(DropReason::TooBig));
    assert_eq!(cut(&whole, &t, 103, 100), Ok(Some(100)));
    assert_eq!(cut(&whole, &t, 103, 99), Err(DropReason::NoRoom));
    // Nor the segments of a super-packet.
    let mut pair = Pair::new();
    assert_eq!(pair.send(&whole).0.split, None);
    pair.client_rules.mtu = 100;
    let mut bytes = whole.clone();
    bytes.resize(600, 0);
    let mut packet = Packet::new(&mut bytes, 0, whole.len()).unwrap();
    let offload = Offload { checksum: Checksum::Complete, largest: 150 };
    let outcome = pair.client.outbound(pair.now, &mut packet, offload, &pair.client_rules);
    assert_eq!(outcome.verdict, Translated::Reply);
    whole[6] |= 0x40;
    let t = Transport::parse(&whole).unwrap();
    assert_eq!(cut(&whole, &t, 100, 100), Err(DropReason::TooBig));
    let v6 = udp((V6.client, 4000), (V6.vip, 53), &[7; 200]);
    assert_eq!(cut(&v6, &Transport::parse(&v6).unwrap(), 100, 100), Err(DropReason::TooBig));
}
