//! What a packet looks like at the other end, and what comes back.

use super::*;

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
