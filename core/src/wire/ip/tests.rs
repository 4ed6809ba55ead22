use super::testing::*;
use super::*;
use crate::packet::Packet;
use proptest::prelude::*;
use std::vec;
use std::vec::Vec;

fn family() -> impl Strategy<Value = (IpAddr, IpAddr, IpAddr, IpAddr)> {
    prop_oneof![
        any::<[[u8; 4]; 4]>().prop_map(|[a, b, c, d]| (a.into(), b.into(), c.into(), d.into())),
        any::<[[u8; 16]; 4]>().prop_map(|[a, b, c, d]| (a.into(), b.into(), c.into(), d.into())),
    ]
}

fn body(protocol: u8, v6: bool, ports: (u16, u16), data: &[u8]) -> (u8, Vec<u8>) {
    match protocol {
        0 => (TCP, tcp_body(ports.0, ports.1, ACK, &[], data)),
        1 => (UDP, udp_body(ports.0, ports.1, data)),
        2 => (SCTP, sctp_body(ports.0, ports.1, data)),
        _ => {
            let [high, low] = ports.0.to_be_bytes();
            let mut body = vec![if v6 { 128 } else { 8 }, 0, 0, 0, high, low, 0, 7];
            body.extend_from_slice(data);
            (if v6 { ICMPV6 } else { ICMP }, body)
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    /// Incremental update against full recomputation, for every protocol, family and checksum state.
    #[test]
    fn rewritten_packets_have_right_checksums(
        (src, dst, new_src, new_dst) in family(),
        protocol in 0u8..4,
        old_ports: (u16, u16),
        ports: (u16, u16),
        options in 0usize..4,
        partial: bool,
        data in proptest::collection::vec(any::<u8>(), 0..64),
    ) {
        let (protocol, body) = body(protocol, src.is_ipv6(), old_ports, &data);
        let checksum =
            if partial && matches!(protocol, TCP | UDP) { Checksum::Partial } else { Checksum::Complete };
        let spec = Spec { src, dst, protocol, body, fragment: None, options: options * 8 };
        let mut packet = spec.build();
        let t = Transport::parse(&packet).unwrap();
        fill(&mut packet, t.l4, protocol, checksum);
        let echo = t.kind == Kind::EchoRequest;
        let to = Rewrite { src: new_src, dst: new_dst, src_port: ports.0, dst_port: if echo { 0 } else { ports.1 } };
        rewrite(&mut packet, &t, &to, checksum).unwrap();
        let t = verify(&packet, checksum);
        prop_assert_eq!((t.src, t.dst, t.src_port, t.dst_port), (to.src, to.dst, to.src_port, to.dst_port));
        if checksum == Checksum::Partial {
            finish_checksum(&mut packet, &t).unwrap();
            verify(&packet, Checksum::Complete);
        }
    }

    /// Every byte of a packet is what it was once its answer's translation is undone, the checksum too.
    #[test]
    fn c1_translation_there_and_back_is_the_identity(
        (src, dst, new_src, new_dst) in family(),
        old_ports: (u16, u16),
        ports: (u16, u16),
        data in proptest::collection::vec(any::<u8>(), 0..2000),
    ) {
        let body = sctp_body(old_ports.0, old_ports.1, &data);
        let before = Spec { src, dst, protocol: SCTP, body, fragment: None, options: 0 }.build();
        let mut packet = before.clone();
        let there = Rewrite { src: new_src, dst: new_dst, src_port: ports.0, dst_port: ports.1 };
        rewrite(&mut packet, &Transport::parse(&before).unwrap(), &there, Checksum::Complete).unwrap();
        let t = verify(&packet, Checksum::Complete);
        let back = Rewrite { src, dst, src_port: old_ports.0, dst_port: old_ports.1 };
        rewrite(&mut packet, &t, &back, Checksum::Complete).unwrap();
        verify(&packet, Checksum::Complete);
        // Zero and all ones are the same number in an IPv4 header's checksum.
        let header = if src.is_ipv4() { 10..12 } else { 0..0 };
        let mut expected = before;
        expected[header.clone()].copy_from_slice(&packet[header]);
        prop_assert_eq!(packet, expected);
    }

    /// A packet that arrives corrupted leaves corrupted.
    #[test]
    fn corruption_is_not_laundered(ports: (u16, u16), protocol in 0u8..3, flip in 1u8..) {
        let (protocol, body) = body(protocol, false, (1, 2), b"payload!");
        let mut packet = Spec { protocol, body, ..spec("10.0.0.1", "10.0.0.2", 0, vec![]) }.build();
        *packet.last_mut().unwrap() ^= flip;
        let t = Transport::parse(&packet).unwrap();
        let to = Rewrite { src: ip("1.2.3.4"), dst: ip("5.6.7.8"), src_port: ports.0, dst_port: ports.1 };
        rewrite(&mut packet, &t, &to, Checksum::Complete).unwrap();
        let mut right = packet.clone();
        fill(&mut right, t.l4, protocol, Checksum::Complete);
        prop_assert_ne!(right, packet);
    }

    #[test]
    fn rewritten_errors_have_right_checksums(
        (src, dst, new_src, new_dst) in family(),
        protocol in 0u8..4,
        ports: (u16, u16),
        cut in 8usize..60,
    ) {
        let v6 = src.is_ipv6();
        let (protocol, body) = body(protocol, v6, (1000, 2000), b"something that was sent");
        let cause = Spec { src: dst, dst: src, protocol, body, fragment: None, options: 0 }.build();
        let header = if v6 { 40 } else { 20 };
        let mut quote = vec![if v6 { 1 } else { 3 }, 1, 0, 0, 0, 0, 0, 0];
        quote.extend_from_slice(&cause[..cause.len().min(header + cut)]);
        let error = Spec { src, dst, protocol: if v6 { ICMPV6 } else { ICMP }, body: quote, fragment: None, options: 0 };
        let mut packet = error.build();
        let outer = Transport::parse(&packet).unwrap();
        let inner = outer.quoted(&packet).unwrap();
        let echo = inner.kind == Kind::EchoRequest;
        let to = Rewrite { src: new_dst, dst: new_src, src_port: ports.0, dst_port: if echo { 0 } else { ports.1 } };
        rewrite_error(&mut packet, &outer, &inner, (new_src, new_dst), &to, Checksum::Complete).unwrap();
        let outer = verify(&packet, Checksum::Complete);
        let inner = outer.quoted(&packet).unwrap();
        prop_assert_eq!((outer.src, outer.dst), (new_src, new_dst));
        prop_assert_eq!((inner.src, inner.dst, inner.src_port, inner.dst_port), (to.src, to.dst, to.src_port, to.dst_port));
        if cut >= 44 && inner.protocol != SCTP {
            verify(&packet[inner.start..], Checksum::Complete);
        }
    }

    /// No bytes panic, and no accepted ones are read or written outside themselves.
    #[test]
    fn any_bytes_are_survived(
        mut bytes in proptest::collection::vec(any::<u8>(), 0..120),
        shape in 0u8..4,
        next in proptest::sample::select(vec![0u8, 1, 6, 17, 43, 44, 51, 58, 60, 132]),
    ) {
        if let Some(first) = bytes.first_mut() {
            *first = match shape { 0 => *first, 1 => 0x45, 2 => 0x60, _ => 0x46 };
        }
        let len = bytes.len() as u16;
        if shape != 0 && bytes.len() > 40 {
            if shape == 2 {
                bytes[4..6].copy_from_slice(&(len - 40).to_be_bytes());
                bytes[6] = next;
            } else {
                bytes[2..4].copy_from_slice(&len.to_be_bytes());
                bytes[9] = next;
            }
        }
        let Ok(t) = Transport::parse(&bytes) else { return Ok(()) };
        let before = bytes.len();
        let to = Rewrite { src: t.dst, dst: t.src, src_port: 1, dst_port: 2 };
        let _ = clamp_mss(&mut bytes, &t, 100, Checksum::Complete);
        let _ = rewrite(&mut bytes, &t, &to, Checksum::Complete);
        let _ = set_fragment_id(&mut bytes, &t, 77);
        let _ = finish_checksum(&mut bytes, &t);
        if let Ok(inner) = t.quoted(&bytes) {
            let _ = rewrite_error(&mut bytes, &t, &inner, (t.src, t.dst), &to, Checksum::Complete);
        }
        prop_assert_eq!(before, bytes.len());
        let mut room = [0u8; 1400];
        for answer in [reply::tcp_reset as fn(&mut Packet<'_>, &Transport) -> _, reply::port_unreachable] {
            room[..before].copy_from_slice(&bytes);
            let _ = answer(&mut Packet::new(&mut room, 0, before).unwrap(), &t);
        }
    }
}

#[test]
fn udp_without_checksum_stays_without_over_ipv4_and_is_refused_over_ipv6() {
    let mut packet = udp(("10.0.0.1", 1), ("10.0.0.2", 2), b"x");
    packet[26..28].fill(0);
    let t = Transport::parse(&packet).unwrap();
    let to = Rewrite { src: ip("10.0.0.3"), dst: ip("10.0.0.4"), src_port: 3, dst_port: 4 };
    rewrite(&mut packet, &t, &to, Checksum::Complete).unwrap();
    assert_eq!(packet[26..28], [0, 0]);

    let mut packet = udp(("fd00::1", 1), ("fd00::2", 2), b"x");
    packet[46..48].fill(0);
    let t = Transport::parse(&packet).unwrap();
    let to = Rewrite { src: ip("fd00::3"), dst: ip("fd00::4"), src_port: 3, dst_port: 4 };
    assert_eq!(rewrite(&mut packet, &t, &to, Checksum::Complete), Err(DropReason::Checksum));
    let to = Rewrite { src: ip("10.0.0.1"), ..to };
    assert_eq!(rewrite(&mut packet, &t, &to, Checksum::Complete), Err(DropReason::Malformed));
}

#[test]
fn fragments_are_told_apart_and_get_another_id() {
    for (src, dst) in [("10.0.0.1", "10.0.0.2"), ("fd00::1", "fd00::2")] {
        let cut = |offset, more| Spec {
            fragment: Some((0x1234, offset, more)),
            ..spec(src, dst, UDP, udp_body(5, 6, &[9; 24]))
        };
        let first = Transport::parse(&cut(0, true).build()).unwrap();
        assert_eq!((first.fragment, first.src_port), (Fragment::First { id: 0x1234 }, 5));
        let mut packet = cut(32, false).build();
        let later = Transport::parse(&packet).unwrap();
        assert_eq!(later.fragment, Fragment::Later { id: 0x1234, offset: 32 });
        assert_eq!((later.kind, later.src_port), (Kind::Opaque, 0));
        set_fragment_id(&mut packet, &later, 0x4321).unwrap();
        let again = verify(&packet, Checksum::Complete);
        assert_eq!(again.fragment, Fragment::Later { id: 0x4321, offset: 32 });
        // An atomic fragment is a whole packet.
        let whole = Transport::parse(&cut(0, false).build()).unwrap();
        assert_eq!(whole.fragment, Fragment::None);
    }
    let tiny = Spec { fragment: Some((1, 8, true)), ..spec("10.0.0.1", "10.0.0.2", TCP, vec![0; 16]) };
    assert_eq!(Transport::parse(&tiny.build()), Err(DropReason::Malformed));
}

#[test]
fn what_is_no_packet_is_refused_with_its_reason() {
    assert_eq!(Transport::parse(&[]), Err(DropReason::Truncated));
    assert_eq!(Transport::parse(&[0; 40]), Err(DropReason::NotIp));
    let good = tcp(("10.0.0.1", 1), ("10.0.0.2", 2), SYN, b"");
    assert_eq!(Transport::parse(&good[..39]), Err(DropReason::Truncated));
    let mut short_header = good.clone();
    short_header[32] = 0x40;
    assert_eq!(Transport::parse(&short_header), Err(DropReason::Malformed));
    // Nine destination options headers, and a routing header with segments left.
    let chain =
        Spec { options: 8, ..spec("fd00::1", "fd00::2", 60, [[60u8, 0, 1, 4, 0, 0, 0, 0]; 9].concat()) };
    assert_eq!(Transport::parse(&chain.build()), Err(DropReason::Malformed));
    let routed = spec("fd00::1", "fd00::2", 43, vec![6, 0, 0, 1, 0, 0, 0, 0]);
    assert_eq!(Transport::parse(&routed.build()), Err(DropReason::Malformed));
    // Padding behind the packet is not part of it.
    let mut padded = good.clone();
    padded.extend_from_slice(&[0; 7]);
    assert_eq!(Transport::parse(&padded).unwrap().len(), good.len());
}

#[test]
fn mss_is_lowered_wherever_the_option_lies_and_never_raised() {
    let layouts: [&[u8]; 3] =
        [&[2, 4, 0x05, 0xb4], &[1, 2, 4, 0x05, 0xb4, 1, 1, 0], &[1, 1, 2, 4, 0x05, 0xb4, 0, 0]];
    for options in layouts {
        for checksum in [Checksum::Complete, Checksum::Partial] {
            let mut packet =
                spec("10.0.0.1", "10.0.0.2", TCP, tcp_body(1, 2, SYN | ACK, options, b"data")).build();
            fill(&mut packet, 20, TCP, checksum);
            let t = Transport::parse(&packet).unwrap();
            let before = packet.clone();
            clamp_mss(&mut packet, &t, 1460, checksum).unwrap();
            assert_eq!(packet, before);
            clamp_mss(&mut packet, &t, 1368, checksum).unwrap();
            assert_ne!(packet, before);
            assert!(packet.windows(4).any(|w| w == [2, 4, 0x05, 0x58]));
            verify(&packet, checksum);
        }
    }
    // Not a SYN; no option; an option that runs out of the header.
    for (flags, options) in [(ACK, &[2u8, 4, 5, 0xb4][..]), (SYN, &[]), (SYN, &[1, 1, 2, 4])] {
        let mut packet = spec("10.0.0.1", "10.0.0.2", TCP, tcp_body(1, 2, flags, options, b"")).build();
        let before = packet.clone();
        let t = Transport::parse(&packet).unwrap();
        clamp_mss(&mut packet, &t, 536, Checksum::Complete).unwrap();
        assert_eq!(packet, before);
    }
}

fn answered(
    cause: &[u8],
    answer: impl FnOnce(&mut Packet<'_>, &Transport) -> Result<(), DropReason>,
) -> Vec<u8> {
    let t = Transport::parse(cause).unwrap();
    let mut room = vec![0; cause.len().max(1280) + 64];
    room[..cause.len()].copy_from_slice(cause);
    let mut packet = Packet::new(&mut room, 0, cause.len()).unwrap();
    answer(&mut packet, &t).unwrap();
    packet.bytes().to_vec()
}

#[test]
fn resets_answer_any_segment_as_rfc_9293_says() {
    for (client, vip) in [("10.0.0.1", "10.96.0.1"), ("fd00::1", "fd00::96")] {
        let l4 = if client.contains(':') { 40 } else { 20 };
        let syn = answered(&tcp((client, 5), (vip, 80), SYN, b""), reply::tcp_reset);
        let t = verify(&syn, Checksum::Complete);
        assert_eq!((t.src, t.src_port, t.dst, t.dst_port), (ip(vip), 80, ip(client), 5));
        assert_eq!(t.tcp_flags(), RST | ACK);
        assert_eq!(syn[l4 + 4..l4 + 12], [0u32.to_be_bytes(), 1001u32.to_be_bytes()].concat());
        let data = answered(&tcp((client, 5), (vip, 80), ACK, b"hello"), reply::tcp_reset);
        assert_eq!(verify(&data, Checksum::Complete).tcp_flags(), RST);
        assert_eq!(data[l4 + 4..l4 + 8], 2000u32.to_be_bytes());
        let fin = answered(&tcp((client, 5), (vip, 80), FIN, b"abc"), reply::tcp_reset);
        assert_eq!(fin[l4 + 8..l4 + 12], 1004u32.to_be_bytes());
    }
    let mut reset = tcp(("10.0.0.1", 5), ("10.0.0.2", 80), RST, b"");
    let t = Transport::parse(&reset).unwrap();
    let len = reset.len();
    let refused = reply::tcp_reset(&mut Packet::new(&mut reset, 0, len).unwrap(), &t);
    assert_eq!(refused, Err(DropReason::NoFlow));
}

#[test]
fn errors_quote_as_much_as_they_may() {
    for (client, vip, most, too_big) in
        [("10.0.0.1", "10.96.0.1", 576, (3, 4)), ("fd00::1", "fd00::96", 1280, (2, 0))]
    {
        for len in [0, 1, 100, 1400] {
            let cause = udp((client, 5), (vip, 53), &vec![7; len]);
            let error = answered(&cause, reply::port_unreachable);
            let t = verify(&error, Checksum::Complete);
            assert_eq!((t.src, t.dst), (ip(vip), ip(client)));
            let quote = t.quoted(&error).unwrap();
            assert_eq!((quote.src_port, quote.dst_port), (5, 53));
            assert_eq!(error.len(), (cause.len() + quote.start).min(most));
            assert_eq!(error[quote.start..], cause[..error.len() - quote.start]);
        }
        let error = answered(&udp((client, 5), (vip, 53), &[7; 1400]), |p, t| reply::too_big(p, t, 1300));
        let t = verify(&error, Checksum::Complete);
        assert_eq!((error[t.l4], error[t.l4 + 1]), too_big);
        assert_eq!(error[t.l4 + 6..t.l4 + 8], 1300u16.to_be_bytes());
    }
    let mut small = udp(("10.0.0.1", 5), ("10.0.0.2", 53), b"");
    let t = Transport::parse(&small).unwrap();
    let len = small.len();
    let refused = reply::port_unreachable(&mut Packet::new(&mut small, 0, len).unwrap(), &t);
    assert_eq!(refused, Err(DropReason::NoRoom));
}

#[test]
fn echo_requests_become_replies() {
    for (client, vip) in [("10.0.0.1", "10.96.0.1"), ("fd00::1", "fd00::96")] {
        let request = echo(client, vip, true, 77);
        let reply = answered(&request, |p, t| reply::echo(p, t, Checksum::Complete));
        let t = verify(&reply, Checksum::Complete);
        assert_eq!((t.kind, t.src, t.dst, t.dst_port), (Kind::EchoReply, ip(vip), ip(client), 77));
        assert_eq!(reply[t.l4 + 6..], request[t.l4 + 6..]);
        let mut partial = request.clone();
        fill(&mut partial, t.l4, t.protocol, Checksum::Partial);
        assert_eq!(answered(&partial, |p, t| reply::echo(p, t, Checksum::Partial)), reply);
    }
}

#[test]
fn addresses_that_stay_on_their_link_are_confined() {
    for text in [
        "0.0.0.0",
        "127.0.0.1",
        "169.254.1.1",
        "224.0.0.1",
        "255.255.255.255",
        "::",
        "::1",
        "fe80::1",
        "ff02::1",
    ] {
        assert!(is_confined(ip(text)), "{text}");
    }
    for text in ["10.0.0.1", "192.168.1.1", "172.17.0.2", "fd00::1", "2001:db8::1"] {
        assert!(!is_confined(ip(text)), "{text}");
    }
}
