use super::*;
use std::collections::BTreeSet;

#[test]
fn a_connection_goes_there_and_back_between_equal_addresses() {
    for c in BOTH {
        let mut pair = Pair::new();
        let syn = pair.request(&tcp((c.client, 4000), (c.vip, 80), SYN, b""));
        assert_eq!(ends(&syn), at(c.mesh[0], 4000, c.pod, 8080));
        let answer = pair.response(&tcp((c.pod, 8080), (c.mesh[0], 4000), SYN | ACK, b""));
        assert_eq!(ends(&answer), at(c.vip, 80, c.client, 4000));
        let data = pair.request(&tcp((c.client, 4000), (c.vip, 80), ACK, b"GET /"));
        assert_eq!(ends(&data), at(c.mesh[0], 4000, c.pod, 8080));
        assert_eq!(&data[data.len() - 5..], b"GET /");
        assert_eq!((pair.client.len(), pair.server.admitted()), (1, 1));
    }
}

#[test]
fn udp_and_ping_go_there_and_back() {
    for c in BOTH {
        let mut pair = Pair::new();
        let there = pair.request(&udp((c.client, 4000), (c.vip, 53), b"?"));
        assert_eq!(ends(&there), at(c.mesh[0], 4000, c.pod, 8080));
        let back = pair.response(&udp((c.pod, 8080), (c.mesh[0], 4000), b"!"));
        assert_eq!(ends(&back), at(c.vip, 53, c.client, 4000));

        let there = pair.request(&echo(c.client, c.endpoint_vip, true, 99));
        assert_eq!(ends(&there), at(c.mesh[0], 99, c.pod, 0));
        let back = pair.response(&echo(c.pod, c.mesh[0], false, 99));
        assert_eq!(ends(&back), at(c.endpoint_vip, 0, c.client, 99));
        // A ping of a Service is answered on the spot.
        let (outcome, reply) = pair.send(&echo(c.client, c.vip, true, 7));
        assert_eq!(outcome.verdict, Translated::Reply);
        assert_eq!(ends(&reply), at(c.vip, 0, c.client, 7));
    }
}

#[test]
fn c7_endpoints_see_the_clients_node_and_two_clients_with_one_port_apart() {
    for c in BOTH {
        let mut pair = Pair::new();
        let other = if c.client == V4.client { "172.17.0.3" } else { "fd17::3" };
        let first = ends(&pair.request(&udp((c.client, 4000), (c.vip, 53), b"a")));
        let second = ends(&pair.request(&udp((other, 4000), (c.vip, 53), b"b")));
        assert_eq!(first.1, 4000);
        assert_ne!(second.1, 4000);
        assert!(second.1 >= 1024);
        let back = pair.response(&udp((c.pod, 8080), (c.mesh[0], second.1), b"!"));
        assert_eq!(ends(&back), at(c.vip, 53, other, 4000));
        let back = pair.response(&udp((c.pod, 8080), (c.mesh[0], 4000), b"!"));
        assert_eq!(ends(&back), at(c.vip, 53, c.client, 4000));
    }
}

#[test]
fn c8_a_pod_reaches_itself_through_its_service() {
    for c in BOTH {
        let mut pair = Pair::new();
        pair.node = 0;
        let (outcome, there) = pair.send(&tcp((c.client, 4000), (c.vip, 80), SYN, b""));
        assert_eq!(outcome.verdict, Translated::Local);
        assert_eq!(ends(&there), at(c.alias, 4000, c.pod, 8080));
        let (outcome, back) = pair.client_out(&tcp((c.pod, 8080), (c.alias, 4000), SYN | ACK, b""));
        assert_eq!(outcome.verdict, Translated::Local);
        assert_eq!(ends(&back), at(c.vip, 80, c.client, 4000));
        // Its errors, both ways.
        let error = icmp_error(c.pod, c.alias, if c.alias == V4.alias { 3 } else { 1 }, 3, &there);
        let (outcome, error) = pair.client_out(&error);
        assert_eq!((outcome.verdict, ends(&error)), (Translated::Local, at(c.vip, 0, c.client, 0)));
        let error = icmp_error(c.client, c.vip, if c.alias == V4.alias { 3 } else { 1 }, 3, &back);
        let (outcome, error) = pair.client_out(&error);
        assert_eq!((outcome.verdict, ends(&error)), (Translated::Local, at(c.alias, 0, c.pod, 0)));
    }
}

#[test]
fn partial_checksums_stay_partial() {
    let mut pair = Pair::new();
    let c = V4;
    pair.connect(c, 4000);
    let mut bytes = tcp((c.client, 4000), (c.vip, 80), ACK, &[5; 1000]);
    fill(&mut bytes, 20, TCP, Checksum::Partial);
    let mut packet = Packet::new(&mut bytes, 0, 1040).unwrap();
    let offload = Offload { checksum: Checksum::Partial, largest: 1040 };
    let outcome = pair.client.outbound(pair.now, &mut packet, offload, &pair.client_rules);
    assert_eq!(outcome.verdict, Translated::To(PeerRef(2)));
    let t = verify(&bytes, Checksum::Partial);
    assert_eq!((t.src, t.src_port, t.dst, t.dst_port), at(c.mesh[0], 4000, c.pod, 8080));
}

#[test]
fn tunnel_padding_is_cut_off() {
    let mut pair = Pair::new();
    let (_, mut bytes) = pair.send(&udp((V4.client, 4000), (V4.vip, 53), b"x"));
    let len = bytes.len();
    bytes.extend_from_slice(&[0; 15]);
    assert_eq!(pair.server_in(1, &bytes).1.len(), len);
}

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
fn icmp_errors_belong_to_the_flow_they_quote() {
    for c in BOTH {
        let unreachable = if c.vip == V4.vip { 3 } else { 1 };
        let mut pair = Pair::new();
        let there = pair.request(&udp((c.client, 4000), (c.vip, 53), &[7; 600]));
        let back = udp((c.pod, 8080), (c.mesh[0], 4000), &[7; 600]);
        let returned = pair.response(&back);
        // The endpoint and a router on its node, to the client.
        for source in [c.pod, c.router] {
            let error = pair.response(&icmp_error(source, c.mesh[0], unreachable, 3, &there));
            assert_eq!(ends(&error), at(c.vip, 0, c.client, 0));
            let quoted = verify(&error, Checksum::Complete).quoted(&error).unwrap();
            assert_eq!(
                (quoted.src, quoted.src_port, quoted.dst, quoted.dst_port),
                at(c.client, 4000, c.vip, 53)
            );
        }
        // The client, to the endpoint.
        let error = pair.request(&icmp_error(c.client, c.vip, unreachable, 3, &returned));
        assert_eq!(ends(&error), at(c.mesh[0], 0, c.pod, 0));
        let quoted = verify(&error, Checksum::Complete).quoted(&error).unwrap();
        assert_eq!(
            (quoted.src, quoted.src_port, quoted.dst, quoted.dst_port),
            at(c.pod, 8080, c.mesh[0], 4000)
        );
        // And about a ping.
        let ping = pair.request(&echo(c.client, c.endpoint_vip, true, 9));
        let error = pair.response(&icmp_error(c.router, c.mesh[0], unreachable, 1, &ping));
        assert_eq!(ends(&error), at(c.endpoint_vip, 0, c.client, 0));
        let quoted = verify(&error, Checksum::Complete).quoted(&error).unwrap();
        assert_eq!((quoted.src, quoted.src_port, quoted.dst), (ip(c.client), 9, ip(c.endpoint_vip)));
    }
}

/// The three fragments of a datagram from `src` to `dst`.
fn fragments(c: (&str, u16), to: (&str, u16), id: u32) -> [Vec<u8>; 3] {
    let whole = spec(c.0, to.0, UDP, udp_body(c.1, to.1, &[id as u8; 88])).build();
    let body = whole[whole.len() - 96..].to_vec();
    [(0, 40, true), (40, 80, true), (80, 96, false)].map(|(from, to_, more)| {
        let mut part = Spec {
            fragment: Some((id, from as u16, more)),
            ..spec(c.0, to.0, UDP, body[from..to_].to_vec())
        }
        .build();
        // The checksum is over the whole datagram.
        if from == 0 {
            let at = part.len() - 40 + 6;
            part[at..at + 2].copy_from_slice(&body[6..8]);
        }
        part
    })
}

/// Puts fragments together and checks the datagram.
fn reassembled(parts: &[Vec<u8>]) -> (IpAddr, u16, IpAddr, u16) {
    let first = Transport::parse(&parts[0]).unwrap();
    let id = |t: &Transport| match t.fragment {
        Fragment::First { id } | Fragment::Later { id, .. } => id,
        Fragment::None => panic!("whole"),
    };
    let mut body = vec![];
    for part in parts {
        let t = Transport::parse(part).unwrap();
        assert_eq!((id(&t), t.src, t.dst), (id(&first), first.src, first.dst));
        body.extend_from_slice(&part[t.l4..]);
    }
    let whole = Spec {
        src: first.src,
        dst: first.dst,
        protocol: UDP,
        body: body.clone(),
        fragment: None,
        options: 0,
    };
    let whole = whole.build();
    assert_eq!(whole[whole.len() - body.len()..], body[..], "checksum of the datagram");
    ends(&whole)
}

#[test]
fn fragments_follow_their_first_one_there_and_back() {
    for c in BOTH {
        let mut pair = Pair::new();
        let there = fragments((c.client, 4000), (c.vip, 53), 77).map(|f| pair.request(&f));
        assert_eq!(reassembled(&there), at(c.mesh[0], 4000, c.pod, 8080));
        let back = fragments((c.pod, 8080), (c.mesh[0], 4000), 78).map(|f| pair.response(&f));
        assert_eq!(reassembled(&back), at(c.vip, 53, c.client, 4000));
        // A copy of the first fragment joins the same datagram.
        let again = pair.request(&fragments((c.client, 4000), (c.vip, 53), 77)[0]);
        assert_eq!(
            reassembled(&[again, there[1].clone(), there[2].clone()]),
            at(c.mesh[0], 4000, c.pod, 8080)
        );
    }
}

#[test]
fn two_clients_with_equal_identifications_are_not_mixed() {
    let c = V4;
    let mut pair = Pair::new();
    let first = fragments((c.client, 4000), (c.vip, 53), 5).map(|f| pair.send(&f).1);
    let second = fragments(("172.17.0.3", 4000), (c.vip, 53), 5).map(|f| pair.send(&f).1);
    assert_ne!(first[0][4..6], second[0][4..6]);
    reassembled(&first);
    reassembled(&second);
}

#[test]
fn fragments_that_overtook_the_first_wait_for_it() {
    for c in BOTH {
        let mut pair = Pair::new();
        let parts = fragments((c.client, 4000), (c.vip, 53), 5);
        let (last, parked) = pair.send(&parts[2]);
        let Translated::Park(ticket) = last.verdict else { panic!("{last:?}") };
        assert_eq!(parked, parts[2]);
        let (key, when) = last.deadline.unwrap();
        assert_eq!(pair.send(&parts[1]).0.verdict, Translated::Park(ticket));
        let (first, sent) = pair.send(&parts[0]);
        assert_eq!((first.verdict, first.released), (Translated::To(PeerRef(2)), Some(ticket)));
        let sent = [sent, pair.send(&parts[1]).1, pair.send(&parts[2]).1];
        assert_eq!(reassembled(&sent), at(c.mesh[0], 4000, c.pod, 8080));
        assert_eq!(pair.client.handle_timeout(when, key), Expiry { next: None, expired: None });
        // One whose first never comes.
        let (lost, _) = pair.send(&fragments((c.client, 4000), (c.vip, 53), 6)[1]);
        let (key, when) = lost.deadline.unwrap();
        let early = pair.client.handle_timeout(pair.now, key);
        assert_eq!(early, Expiry { next: Some(when), expired: None });
        let Translated::Park(ticket) = lost.verdict else { panic!("{lost:?}") };
        assert_eq!(pair.client.handle_timeout(when, key), Expiry { next: None, expired: Some(ticket) });
    }
}

#[test]
fn c12_connections_end_when_both_sides_said_so() {
    let c = V4;
    let mut pair = Pair::new();
    pair.connect(c, 4000);
    pair.wait(86_300);
    assert_eq!((pair.client.len(), pair.server.admitted()), (1, 1));
    // Half-closed flows live on.
    let (half, _) = pair.send(&tcp((c.client, 4000), (c.vip, 80), FIN | ACK, b""));
    assert_eq!(half.deadline.unwrap().1, pair.now.after(Duration::from_secs(3600)));
    pair.request(&tcp((c.client, 4000), (c.vip, 80), FIN | ACK, b""));
    pair.response(&tcp((c.pod, 8080), (c.mesh[0], 4000), ACK, b"late"));
    pair.wait(3_000);
    let (_, fin) = pair.server_out(&tcp((c.pod, 8080), (c.mesh[0], 4000), FIN | ACK, b""));
    let (closing, _) = pair.client_in(2, &fin);
    assert_eq!(closing.deadline.unwrap().1, pair.now.after(Duration::from_secs(2)));
    pair.request(&tcp((c.client, 4000), (c.vip, 80), ACK, b""));
    assert_eq!((pair.client.len(), pair.server.admitted()), (1, 1));
    pair.wait(2);
    assert_eq!((pair.client.len(), pair.server.admitted()), (0, 0));
}

#[test]
fn c6_a_reset_passes_to_the_other_side_and_ends_the_flow() {
    let c = V4;
    for from_client in [true, false] {
        let mut pair = Pair::new();
        pair.connect(c, 4000);
        if from_client {
            pair.request(&tcp((c.client, 4000), (c.vip, 80), RST, b""));
        } else {
            pair.response(&tcp((c.pod, 8080), (c.mesh[0], 4000), RST | ACK, b""));
        }
        assert_eq!((pair.client.len(), pair.server.admitted()), (0, 0));
    }
}

#[test]
fn a_syn_on_a_closing_tuple_opens_a_new_flow_with_the_same_mapping() {
    let c = V4;
    let mut pair = Pair::new();
    pair.connect(c, 4000);
    pair.request(&tcp((c.client, 4000), (c.vip, 80), FIN | ACK, b""));
    pair.response(&tcp((c.pod, 8080), (c.mesh[0], 4000), FIN | ACK, b""));
    let (outcome, _) = pair.client_out(&tcp((c.client, 4000), (c.vip, 80), SYN, b""));
    assert!(matches!(outcome.verdict, Translated::Miss(_)));
    pair.connect(c, 4000);
    assert_eq!((pair.client.len(), pair.server.admitted()), (1, 1));
    pair.wait(3);
    assert_eq!(pair.client.len(), 1, "it is open again");
}

#[test]
fn a_syn_without_an_answer_asks_for_another_endpoint_after_a_while() {
    for c in BOTH {
        let mut pair = Pair::new();
        let syn = tcp((c.client, 4000), (c.vip, 80), SYN, b"");
        let answer = |from: &str| tcp((from, 8080), (c.mesh[0], 4000), SYN | ACK, b"");
        pair.request(&syn);
        pair.wait(2);
        assert_eq!(pair.client_out(&syn).0.verdict, Translated::To(PeerRef(2)), "it may be on its way");
        pair.wait(2);
        let Translated::Miss(new) = pair.client_out(&syn).0.verdict else { panic!("it stays") };
        let tried = Endpoint { peer: PeerRef(2), address: ip(c.pod), port: 8080 };
        assert_eq!(pair.client.unanswered(&new), Some(tried));
        pair.node = 3;
        assert_eq!(pair.send(&syn).0.verdict, Translated::To(PeerRef(3)));
        assert_eq!(pair.client.len(), 1);
        let late = pair.client_in(2, &answer(c.pod)).0.verdict;
        assert_eq!(late, Translated::Drop(DropReason::NoFlow), "who was given up is not heard");
        assert_eq!(pair.client_in(3, &answer(c.pod)).0.verdict, Translated::Local);
        pair.wait(10);
        assert_eq!(pair.client_out(&syn).0.verdict, Translated::To(PeerRef(3)), "answered: it stays");
        assert_eq!(pair.client.unanswered(&new), None);
    }
}

/// A client that lost its memory may use a tuple again that lives on here.
#[test]
fn s14_a_syn_on_a_live_tuple_goes_where_a_new_connection_would() {
    let c = V4;
    let mut pair = Pair::new();
    pair.connect(c, 4000);
    let syn = tcp((c.client, 4000), (c.vip, 80), SYN, b"");
    assert_eq!(pair.client_out(&syn).0.verdict, Translated::To(PeerRef(2)));
    pair.client_rules = Rules { generation: 2, keeps: false, ..pair.client_rules };
    assert!(matches!(pair.client_out(&syn).0.verdict, Translated::Miss(_)));
}

#[test]
fn a_closed_connection_does_not_let_the_next_one_in() {
    let c = V4;
    let mut pair = Pair::new();
    let close = |pair: &mut Pair| {
        pair.request(&tcp((c.client, 4000), (c.vip, 80), FIN | ACK, b""));
        pair.response(&tcp((c.pod, 8080), (c.mesh[0], 4000), FIN | ACK, b""));
    };
    pair.connect(c, 4000);
    close(&mut pair);
    pair.connect(c, 4000);
    pair.wait(3);
    assert_eq!(pair.server.admitted(), 1, "the linger of the first is not the end of the second");
    close(&mut pair);
    pair.server_rules.serves.clear();
    let (_, syn) = pair.send(&tcp((c.client, 4000), (c.vip, 80), SYN, b""));
    assert_eq!(pair.server_in(1, &syn).0.verdict, Translated::Drop(DropReason::NotAnEndpoint));
}

#[test]
fn udp_lives_30_seconds_unanswered_and_180_answered() {
    let c = V4;
    let mut pair = Pair::new();
    pair.request(&udp((c.client, 4000), (c.vip, 53), b"?"));
    pair.request(&udp((c.client, 4001), (c.vip, 53), b"?"));
    pair.response(&udp((c.pod, 8080), (c.mesh[0], 4001), b"!"));
    pair.wait(29);
    assert_eq!(pair.client.len(), 2);
    pair.wait(1);
    assert_eq!((pair.client.len(), pair.server.admitted()), (1, 1));
    // A push of the server after two idle minutes arrives and keeps the flow.
    pair.wait(120);
    pair.response(&udp((c.pod, 8080), (c.mesh[0], 4001), b"push"));
    pair.wait(179);
    assert_eq!(pair.client.len(), 1);
    pair.wait(1);
    assert_eq!((pair.client.len(), pair.server.admitted()), (0, 0));
}

/// Rows Q1 to Q3 and C5.
#[test]
fn c5_tcp_flows_stay_with_an_endpoint_that_is_gone_and_udp_flows_leave_it() {
    let c = V4;
    let mut pair = Pair::new();
    pair.connect(c, 4000);
    pair.request(&udp((c.client, 4000), (c.vip, 53), b"?"));
    pair.request(&tcp((c.client, 4001), (c.vip, 80), SYN, b""));
    pair.client_rules.generation = 2;
    let (kept, _) = pair.client_out(&udp((c.client, 4000), (c.vip, 53), b"?"));
    assert_eq!(kept.verdict, Translated::To(PeerRef(2)));
    pair.client_rules = Rules { generation: 3, keeps: false, ..pair.client_rules };
    let (lost, _) = pair.client_out(&udp((c.client, 4000), (c.vip, 53), b"?"));
    assert!(matches!(lost.verdict, Translated::Miss(_)));
    // A SYN that nobody answered is a new connection still; an established one stays.
    let (syn, _) = pair.client_out(&tcp((c.client, 4001), (c.vip, 80), SYN, b""));
    assert!(matches!(syn.verdict, Translated::Miss(_)));
    let (tcp, _) = pair.client_out(&tcp((c.client, 4000), (c.vip, 80), ACK, b"more"));
    assert_eq!(tcp.verdict, Translated::To(PeerRef(2)));
}

/// A datagram's client does not say when it begins anew.
#[test]
fn q1_udp_flows_leave_a_node_that_does_not_answer() {
    let c = V4;
    let mut pair = Pair::new();
    let query = udp((c.client, 4000), (c.vip, 53), b"?");
    pair.request(&query);
    pair.response(&udp((c.pod, 8080), (c.mesh[0], 4000), b"!"));
    pair.connect(c, 4001);
    pair.client_rules.silent = true;
    pair.wait(1);
    assert!(matches!(pair.client_out(&query).0.verdict, Translated::Miss(_)));
    let more = tcp((c.client, 4001), (c.vip, 80), ACK, b"more");
    assert_eq!(pair.client_out(&more).0.verdict, Translated::To(PeerRef(2)), "a connection has one endpoint");
    pair.node = 3;
    assert_eq!(pair.send(&query).0.verdict, Translated::To(PeerRef(3)));
}

#[test]
fn an_endpoint_that_left_its_service_finishes_what_it_began() {
    let c = V4;
    let mut pair = Pair::new();
    pair.connect(c, 4000);
    pair.server_rules.serves.clear();
    pair.request(&tcp((c.client, 4000), (c.vip, 80), ACK, b"more"));
    pair.response(&tcp((c.pod, 8080), (c.mesh[0], 4000), ACK, b"data"));
    let (_, syn) = pair.send(&tcp((c.client, 4001), (c.vip, 80), SYN, b""));
    assert_eq!(pair.server_in(1, &syn).0.verdict, Translated::Drop(DropReason::NotAnEndpoint));
}

#[test]
fn a_node_that_lost_its_memory_takes_flows_up_again() {
    for c in BOTH {
        let mut pair = Pair::new();
        pair.connect(c, 4000);
        pair.request(&udp((c.client, 4000), (c.vip, 53), b"?"));
        // The endpoint's node: the endpoint may be the first to speak.
        pair.server = flows(2, 64);
        pair.response(&tcp((c.pod, 8080), (c.mesh[0], 4000), ACK, b"data"));
        pair.response(&udp((c.pod, 8080), (c.mesh[0], 4000), b"push"));
        pair.wait(3600);
        assert_eq!(pair.server.admitted(), 1, "TCP counts as established");
        // The client's node, from its records.
        let records: Vec<FlowRecord> = pair.client.flows(pair.now).collect();
        assert_eq!(records.len(), 1);
        assert_eq!((records[0].established, records[0].idle_secs), (true, 3600));
        pair.client = flows(1, 64);
        let (key, when) = pair.client.restore(pair.now, &records[0]).unwrap();
        assert!(key < pair.client.timers() && when > pair.now);
        assert_eq!(pair.client.restore(pair.now, &records[0]), Err(DropReason::PortsFull));
        let back = pair.response(&tcp((c.pod, 8080), (c.mesh[0], 4000), ACK, b"data"));
        assert_eq!(ends(&back), at(c.vip, 80, c.client, 4000));
        pair.request(&tcp((c.client, 4000), (c.vip, 80), ACK, b"more"));
    }
}

#[test]
fn every_timer_is_told_and_has_its_own_key() {
    let c = V4;
    let mut pair = Pair::new();
    let mut keys = BTreeSet::new();
    for port in 4000..4010 {
        let (outcome, _) = pair.client_out(&udp((c.client, port), (c.vip, 53), b"?"));
        let Translated::Miss(new) = outcome.verdict else { panic!("{outcome:?}") };
        let endpoint = Endpoint { peer: PeerRef(2), address: ip(c.pod), port: 8080 };
        let (key, when) = pair.client.open(pair.now, &new, &endpoint, 1, &mut pair.rng).unwrap();
        assert_eq!(when, pair.now.after(Duration::from_secs(30)));
        assert!(keys.insert(key));
        let request = udp((c.mesh[1], port), (c.pod, 8080), b"?");
        let (key, when) = pair.client_in(2, &request).0.deadline.unwrap();
        assert_eq!(when, pair.now.after(Duration::from_secs(30)));
        assert!(keys.insert(key));
        let (parked, _) = pair.client_out(&fragments((c.client, port), (c.vip, 53), 9)[1]);
        if let Some((key, _)) = parked.deadline {
            assert!(keys.insert(key));
        }
    }
    assert!(keys.iter().all(|key| *key < pair.client.timers()));
}

#[test]
fn q6_a_table_is_adopted_by_the_next_run() {
    let size = 16;
    let mut memory = Memory::new(size);
    let now = Instant::ZERO.after(Duration::from_secs(1000));
    let mut rng = Rng::new([2; 32]);
    let rules = rules();
    let c = V4;
    let client = |port| NewFlow {
        protocol: UDP,
        client: ip(c.client),
        client_port: port,
        vip: ip(c.vip),
        vip_port: 53,
    };
    let endpoint = Endpoint { peer: PeerRef(2), address: ip(c.pod), port: 8080 };
    let mut first = Flows::new(now, memory.lend(), mesh(1), &mut rng);
    for port in 1..=10 {
        first.open(now, &client(port), &endpoint, 1, &mut rng).unwrap();
        let there = udp((c.mesh[1], port), (c.pod, 8080), b"?");
        let (outcome, _) = with(&there, |p, o| first.inbound(now, PeerRef(2), p, o, &rules));
        assert_eq!(outcome.verdict, Translated::Local);
    }
    for key in [1, 5] {
        assert_eq!(first.handle_timeout(now.after(Duration::from_secs(31)), key).next, None);
    }
    let before: BTreeSet<_> = first.flows(now).map(|f| (f.client, f.mapped)).collect();
    // The earlier run ended in the middle of a write, and one entry is there twice.
    memory.flows[12] = FlowSlot { vip: Address::NONE, ..memory.flows[0] };
    memory.flows[13] = memory.flows[0];
    memory.admitted[12] = memory.admitted[0];
    let later = now.after(Duration::from_secs(10));
    let mut next = Flows::new(later, memory.lend_kept([14, 13]), mesh(1), &mut rng);
    assert_eq!(next.flows(later).map(|f| (f.client, f.mapped)).collect::<BTreeSet<_>>(), before);
    assert_eq!((next.len(), next.admitted(), next.deadlines().count()), (8, 10, 18));
    assert!(
        next.deadlines().all(|(key, at)| key < next.timers() && at == now.after(Duration::from_secs(30)))
    );
    let back = udp((c.pod, 8080), (c.mesh[0], 1), b"!");
    let (outcome, back) = with(&back, |p, o| next.inbound(later, PeerRef(2), p, o, &rules));
    assert_eq!((outcome.verdict, ends(&back)), (Translated::Local, at(c.vip, 53, c.client, 1)));
    // Shares are counted as before: an eighth stays free for other sources.
    for port in 100..108 {
        next.open(later, &client(port), &endpoint, 1, &mut rng).unwrap();
    }
    assert_eq!(next.len(), 14);
    for key in 0..next.timers() {
        let _ = next.handle_timeout(later.after(Duration::from_secs(200)), key);
    }
    assert_eq!((next.len(), next.admitted()), (0, 0));
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

#[test]
fn c13_segments_out_of_the_window_pass_and_cause_no_reset() {
    for c in BOTH {
        let mut pair = Pair::new();
        pair.connect(c, 4000);
        let out_of_window = |bytes: Vec<u8>| {
            let t = Transport::parse(&bytes).unwrap();
            let mut bytes = bytes;
            // Sequence numbers far from those of the handshake.
            bytes[t.l4 + 4..t.l4 + 12].copy_from_slice(&[0xee; 8]);
            crate::wire::ip::testing::fill(&mut bytes, t.l4, TCP, Checksum::Complete);
            bytes
        };
        let there = pair.request(&out_of_window(tcp((c.client, 4000), (c.vip, 80), ACK, b"late")));
        assert_eq!(ends(&there), at(c.mesh[0], 4000, c.pod, 8080));
        let back = pair.response(&out_of_window(tcp((c.pod, 8080), (c.mesh[0], 4000), ACK, b"late")));
        assert_eq!(ends(&back), at(c.vip, 80, c.client, 4000));
        pair.request(&tcp((c.client, 4000), (c.vip, 80), ACK, b"goes on"));
    }
}

#[test]
fn c15_what_a_service_does_not_name_ends_here_and_does_not_loop() {
    for c in BOTH {
        let mut pair = Pair::new();
        // A ping is answered by this node: the answer has the VIP as source and goes to the client.
        let (outcome, reply) = pair.send(&echo(c.client, c.vip, true, 7));
        assert_eq!((outcome.verdict, ends(&reply)), (Translated::Reply, at(c.vip, 0, c.client, 7)));
        // GRE, ESP, OSPF, a protocol without a name: nothing is sent anywhere.
        for protocol in [47, 50, 89, 253] {
            let (outcome, _) = pair.send(&spec(c.client, c.vip, protocol, vec![0; 40]).build());
            assert_eq!(outcome.verdict, Translated::Drop(DropReason::Protocol), "{protocol}");
        }
        assert!(pair.client.is_empty());
    }
}

#[test]
fn q7_whatever_answers_a_client_has_the_vip_as_source() {
    for c in BOTH {
        let mut pair = Pair::new();
        let query = udp((c.client, 4000), (c.vip, 53), b"?");
        let there = pair.request(&query);
        assert_eq!(
            ends(&pair.response(&udp((c.pod, 8080), (c.mesh[0], 4000), b"!"))),
            at(c.vip, 53, c.client, 4000)
        );
        // An endpoint's other port is no answer.
        assert_eq!(
            pair.client_in(2, &udp((c.pod, 8081), (c.mesh[0], 4000), b"!")).0.verdict,
            Translated::Drop(DropReason::NoFlow)
        );
        // The kernel of the endpoint complains: what the client gets comes from the VIP and quotes its own packet.
        let (message, code) = if c.vip == V4.vip { (3, 3) } else { (1, 4) };
        let error = pair.response(&icmp_error(c.pod, c.mesh[0], message, code, &there));
        let t = verify(&error, Checksum::Complete);
        let quoted = t.quoted(&error).unwrap();
        assert_eq!((t.src, t.dst), (ip(c.vip), ip(c.client)));
        assert_eq!((quoted.src_port, quoted.dst, quoted.dst_port), (4000, ip(c.vip), 53));
    }
}
