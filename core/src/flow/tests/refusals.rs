//! Each reason of this machine, caused.

use super::*;
use crate::wire::ip::SCTP;

fn dropped(outcome: (Outcome, Vec<u8>)) -> DropReason {
    match outcome.0.verdict {
        Translated::Drop(reason) => reason,
        other => panic!("{other:?}"),
    }
}

#[test]
fn malformed_packets_are_dropped_with_what_is_wrong() {
    let mut pair = Pair::new();
    assert_eq!(dropped(pair.client_out(&[])), DropReason::Truncated);
    assert_eq!(dropped(pair.client_out(&[0x10; 40])), DropReason::NotIp);
    let mut bad = tcp((V4.client, 1), (V4.vip, 80), SYN, b"");
    bad[0] = 0x44;
    assert_eq!(dropped(pair.client_out(&bad)), DropReason::Malformed);
    assert_eq!(dropped(pair.server_in(1, &bad)), DropReason::Malformed);
    let mut bare = udp((V6.client, 4000), (V6.vip, 53), b"");
    bare[46..48].fill(0);
    assert_eq!(dropped(pair.send(&bare)), DropReason::Checksum);
    let new = NewFlow { protocol: TCP, client: ip(V4.client), client_port: 1, vip: ip(V4.vip), vip_port: 80 };
    let endpoint = Endpoint { peer: PeerRef(2), address: ip(V6.pod), port: 1 };
    assert_eq!(pair.client.open(pair.now, &new, &endpoint, 1, &mut pair.rng), Err(DropReason::Malformed));
}

#[test]
fn addresses_of_no_use_are_dropped() {
    let mut pair = Pair::new();
    let c = V4;
    for src in ["127.0.0.1", "0.0.0.0", "224.0.0.1", "169.254.0.1"] {
        assert_eq!(dropped(pair.client_out(&udp((src, 1), (c.vip, 53), b""))), DropReason::SourceAddress);
    }
    // A packet of this machine that was routed back to it runs in a circle.
    assert_eq!(dropped(pair.client_out(&udp((c.alias, 1), (c.vip, 53), b""))), DropReason::SourceAddress);
    for dst in ["10.96.0.77", "8.8.8.8", "224.0.0.1", "127.0.0.1", c.mesh[0]] {
        assert_eq!(
            dropped(pair.client_out(&udp((c.client, 1), (dst, 53), b""))),
            DropReason::NoRoute,
            "{dst}"
        );
    }
    let unknown = spec(c.client, c.vip, 47, vec![0; 8]).build();
    assert_eq!(dropped(pair.client_out(&unknown)), DropReason::Protocol);
    for (src, dst) in [(c.pod, c.mesh[1]), (c.pod, c.alias)] {
        assert_eq!(dropped(pair.client_out(&spec(src, dst, 47, vec![0; 8]).build())), DropReason::Protocol);
    }
    assert_eq!(
        dropped(pair.server_in(1, &spec(c.mesh[0], c.pod, 47, vec![0; 8]).build())),
        DropReason::Protocol
    );
}

#[test]
fn a_peer_reaches_nothing_but_endpoints_and_only_as_itself() {
    for c in BOTH {
        let mut pair = Pair::new();
        let hosts = if c.vip == V4.vip {
            ["192.168.1.1", "172.17.0.3", "10.96.0.1"]
        } else {
            ["fd01::1", "fd17::3", "fd96::1"]
        };
        for dst in hosts {
            let packet = tcp((c.mesh[0], 4000), (dst, 8080), SYN, b"");
            assert_eq!(dropped(pair.server_in(1, &packet)), DropReason::NotAnEndpoint, "{dst}");
        }
        let ssh = tcp((c.mesh[0], 4000), (c.pod, 22), SYN, b"");
        assert_eq!(dropped(pair.server_in(1, &ssh)), DropReason::NotAnEndpoint);
        let reply = echo(c.mesh[0], c.pod, false, 1);
        assert_eq!(dropped(pair.server_in(1, &reply)), DropReason::NotAnEndpoint);
        // Another peer's address, the node's own mesh address without a flow, a pod's address.
        let stolen = tcp((c.mesh[0], 4000), (c.pod, 8080), SYN, b"");
        assert_eq!(dropped(pair.server_in(3, &stolen)), DropReason::SourceAddress);
        let bare = tcp((c.client, 4000), (c.pod, 8080), SYN, b"");
        assert_eq!(dropped(pair.server_in(1, &bare)), DropReason::SourceAddress);
        let own = tcp((c.mesh[0], 4000), (c.mesh[1], 22), SYN, b"");
        assert_eq!(dropped(pair.server_in(1, &own)), DropReason::NoFlow);
        // A flow belongs to its peer: the same packet from another one has no flow.
        pair.connect(c, 4000);
        let answer = tcp((c.pod, 8080), (c.mesh[0], 4000), ACK, b"x");
        assert_eq!(dropped(pair.client_in(3, &answer)), DropReason::NoFlow);
        assert_eq!(pair.client_in(2, &answer).0.verdict, Translated::Local);
    }
    let mut pair = Pair::new();
    let loopback = tcp((V4.mesh[0], 4000), ("127.0.0.1", 22), SYN, b"");
    assert_eq!(dropped(pair.server_in(1, &loopback)), DropReason::NoRoute);
}

#[test]
fn endpoints_open_nothing_towards_the_mesh() {
    for c in BOTH {
        let mut pair = Pair::new();
        for packet in [
            tcp((c.pod, 8080), (c.mesh[0], 22), SYN, b""),
            tcp((c.pod, 9999), (c.mesh[0], 22), ACK, b""),
            udp((c.pod, 9999), (c.mesh[0], 53), b""),
            echo(c.pod, c.mesh[0], true, 1),
            udp((c.pod, 9999), (c.alias, 53), b""),
        ] {
            assert_eq!(dropped(pair.server_out(&packet)), DropReason::NoFlow);
        }
        assert_eq!(pair.server.admitted(), 0);
    }
}

#[test]
fn nobody_waits_for_what_is_not_there() {
    for c in BOTH {
        let mut pair = Pair::new();
        // A segment of no connection (its flow was lost): reset, so that the client fails fast.
        let (outcome, reset) = pair.client_out(&tcp((c.client, 4000), (c.vip, 80), ACK, b"data"));
        assert_eq!(outcome.verdict, Translated::Reply);
        assert_eq!(
            (ends(&reset), Transport::parse(&reset).unwrap().tcp_flags()),
            (at(c.vip, 80, c.client, 4000), RST)
        );
        assert_eq!(
            dropped(pair.client_out(&tcp((c.client, 4000), (c.vip, 80), RST, b""))),
            DropReason::NoFlow
        );
        assert_eq!(dropped(pair.client_out(&echo(c.client, c.vip, false, 1))), DropReason::NoFlow);
        // No endpoints, no such port.
        let refuse = |bytes: &[u8]| {
            let flows = flows(1, 4);
            with(bytes, |p, _| Outcome::from(flows.refuse(p, DropReason::NoEndpoints)))
        };
        let (outcome, reset) = refuse(&tcp((c.client, 4000), (c.vip, 80), SYN, b""));
        assert_eq!(outcome.verdict, Translated::Reply);
        assert_eq!(Transport::parse(&reset).unwrap().tcp_flags(), RST | ACK);
        for packet in [udp((c.client, 4000), (c.vip, 53), b"?"), echo(c.client, c.endpoint_vip, true, 1)] {
            let (outcome, error) = refuse(&packet);
            assert_eq!(outcome.verdict, Translated::Reply);
            let asked = Transport::parse(&packet).unwrap().dst;
            assert_eq!(ends(&error), (asked, 0, ip(c.client), 0));
            assert_eq!(verify(&error, Checksum::Complete).quoted(&error).unwrap().src, ip(c.client));
        }
        let unreachable = icmp_error(c.client, c.vip, if c.vip == V4.vip { 3 } else { 1 }, 3, &reset);
        assert_eq!(dropped(refuse(&unreachable)), DropReason::NoEndpoints);
        let small = &mut udp((c.client, 4000), (c.vip, 53), b"?");
        let len = small.len();
        let full = flows(1, 4).refuse(&mut Packet::new(small, 0, len).unwrap(), DropReason::NoEndpoints);
        assert_eq!(full, Translated::Drop(DropReason::NoRoom));
    }
}

#[test]
fn icmp_errors_of_no_flow_are_dropped_on_all_four_ways() {
    for c in BOTH {
        let unreachable = if c.vip == V4.vip { 3 } else { 1 };
        let mut pair = Pair::new();
        let foreign = udp((c.mesh[0], 4000), (c.pod, 9), b"");
        let back = udp((c.pod, 9), (c.mesh[0], 4000), b"");
        let unmatched = DropReason::IcmpUnmatched;
        let to_vip = icmp_error(c.client, c.vip, unreachable, 3, &udp((c.vip, 53), (c.client, 1), b""));
        assert_eq!(dropped(pair.client_out(&to_vip)), unmatched);
        let to_client = icmp_error(c.pod, c.mesh[0], unreachable, 3, &foreign);
        assert_eq!(dropped(pair.client_in(2, &to_client)), unmatched);
        assert_eq!(dropped(pair.server_out(&to_client)), unmatched);
        let to_endpoint = icmp_error(c.mesh[0], c.pod, unreachable, 3, &back);
        assert_eq!(dropped(pair.server_in(1, &to_endpoint)), unmatched);
        // About a flow that exists, but to somebody else.
        pair.request(&udp((c.client, 4000), (c.vip, 53), b"?"));
        let other_host =
            icmp_error(c.mesh[0], c.router, unreachable, 3, &udp((c.pod, 8080), (c.mesh[0], 4000), b""));
        assert_eq!(dropped(pair.server_in(1, &other_host)), unmatched);
        // A quote that is no packet.
        let mut broken = to_vip.clone();
        let at = Transport::parse(&to_vip).unwrap().l4 + 8;
        broken[at] = 0;
        assert_eq!(dropped(pair.client_out(&broken)), DropReason::NotIp);
    }
}

#[test]
fn fragments_without_room_or_end_are_dropped() {
    let mut pair = Pair::new();
    let c = V4;
    let later = |id, offset| {
        Spec { fragment: Some((id, offset, true)), ..spec(c.client, c.vip, UDP, vec![0; 8]) }.build()
    };
    for n in 0..47 {
        assert!(matches!(pair.client_out(&later(1, 16 + n * 8)).0.verdict, Translated::Park(_)));
    }
    assert_eq!(dropped(pair.client_out(&later(1, 800))), DropReason::Fragment);
    // Eight places: those in use are not given up before their time.
    let parked = (2..200)
        .filter(|id| pair.client_out(&later(*id, 16)).0.verdict != Translated::Drop(DropReason::Fragment));
    assert_eq!(parked.count(), 7);
    let first =
        Spec { fragment: Some((900, 0, true)), ..spec(c.client, c.vip, UDP, udp_body(1, 53, b"")) }.build();
    assert_eq!(dropped(pair.send(&first)), DropReason::Fragment);
    pair.wait(1);
    assert_eq!(pair.send(&first).0.verdict, Translated::To(PeerRef(2)));
}

#[test]
fn later_fragments_that_neither_fit_nor_may_be_cut_are_dropped() {
    let mut pair = Pair::new();
    let c = V6;
    let part =
        |offset, body| Spec { fragment: Some((900, offset, true)), ..spec(c.client, c.vip, UDP, body) };
    let first = part(0, udp_body(1, 53, b"")).build();
    assert_eq!(pair.send(&first).0.verdict, Translated::To(PeerRef(2)));
    pair.client_rules.mtu = 1300;
    assert_eq!(dropped(pair.send(&part(8, vec![0; 1400]).build())), DropReason::TooBig);
}

#[test]
fn an_sctp_fragment_keeps_its_ports_or_is_dropped() {
    let mut pair = Pair::new();
    let init = sctp_body(5, 6, &[crate::wire::ip::sctp::INIT, 0, 0, 20]);
    let first = Spec { fragment: Some((1, 0, true)), ..spec(V4.client, V4.vip, SCTP, init) };
    assert_eq!(dropped(pair.send(&first.build())), DropReason::Fragment);
}

#[test]
fn ports_towards_one_endpoint_run_out() {
    let mut pair = Pair::new();
    pair.client = flows(1, 1 << 17);
    let endpoint = Endpoint { peer: PeerRef(2), address: ip(V4.pod), port: 8080 };
    let mut full = None;
    for n in 0..80_000u32 {
        let [_, a, b, d] = n.to_be_bytes();
        let client = IpAddr::from([10, a, b, d]);
        let new = NewFlow { protocol: UDP, client, client_port: 4000, vip: ip(V4.vip), vip_port: 53 };
        if let Err(reason) = pair.client.open(pair.now, &new, &endpoint, 1, &mut pair.rng) {
            full = Some((n, reason));
            break;
        }
    }
    let (n, reason) = full.unwrap();
    assert_eq!(reason, DropReason::PortsFull);
    assert!(n > 40_000, "{n}");
}

/// Opens a flow and brings it to life.
fn live(pair: &mut Pair, client: &str, port: u16) -> Translated {
    let (outcome, _) = pair.send(&udp((client, port), (V4.vip, 53), b"?"));
    if outcome.verdict == Translated::To(PeerRef(2)) {
        let back = udp((V4.pod, 8080), (V4.mesh[0], port), b"!");
        assert_eq!(pair.client_in(2, &back).0.verdict, Translated::Local);
    }
    outcome.verdict
}

#[test]
fn a_full_table_gives_up_closing_then_unreplied_then_idle_flows_and_no_live_one() {
    let c = V4;
    let mut pair = Pair::new();
    pair.client = flows(1, 16);
    for port in 0..8 {
        assert_eq!(live(&mut pair, "172.17.0.2", 5000 + port), Translated::To(PeerRef(2)));
        assert_eq!(live(&mut pair, "172.17.0.3", 6000 + port), Translated::To(PeerRef(2)));
    }
    assert_eq!(live(&mut pair, "172.17.0.4", 7000), Translated::Drop(DropReason::FlowsFull));
    // Idle ones go, the one silent for longest first.
    pair.wait(60);
    for port in 0..8 {
        live(&mut pair, "172.17.0.2", 5000 + port);
    }
    pair.wait(61);
    assert_eq!(live(&mut pair, "172.17.0.4", 7000), Translated::To(PeerRef(2)));
    // An unreplied one goes before idle ones, and a closing one before that.
    let _ = pair.send(&udp(("172.17.0.5", 7001), (c.vip, 53), b"?"));
    pair.connect(c, 4000);
    let ports = |pair: &Pair| pair.client.flows(pair.now).map(|f| f.client.1).collect::<Vec<_>>();
    assert!(!ports(&pair).contains(&7001) && ports(&pair).contains(&4000));
    pair.request(&tcp((c.client, 4000), (c.vip, 80), FIN | ACK, b""));
    pair.response(&tcp((c.pod, 8080), (c.mesh[0], 4000), FIN | ACK, b""));
    let _ = pair.send(&udp(("172.17.0.6", 7002), (c.vip, 53), b"?"));
    assert!(!ports(&pair).contains(&4000) && ports(&pair).contains(&7002));
    assert_eq!(pair.client.len(), 16);
    assert!((0..8).all(|port| ports(&pair).contains(&(5000 + port))), "live ones stay");
}

#[test]
fn a_greedy_source_takes_from_itself() {
    let mut pair = Pair::new();
    pair.client = flows(1, 64);
    for port in 0..1000 {
        let _ = pair.send(&udp(("172.17.0.66", 10_000 + port), (V4.vip, 53), b"flood"));
    }
    assert_eq!(pair.client.len(), 48, "a quarter stays free for others");
    for port in 0..16 {
        assert_eq!(live(&mut pair, "172.17.0.2", 5000 + port), Translated::To(PeerRef(2)));
    }
    // With the table full of it, others replace its flows.
    assert_eq!(live(&mut pair, "172.17.0.3", 5100), Translated::To(PeerRef(2)));
    let greedy = pair.client.flows(pair.now).filter(|f| f.client.0 == ip("172.17.0.66")).count();
    assert_eq!((pair.client.len(), greedy), (64, 47));
    // A greedy source of live flows is refused.
    let mut pair = Pair::new();
    for port in 0..48 {
        assert_eq!(live(&mut pair, "172.17.0.2", 5000 + port), Translated::To(PeerRef(2)));
    }
    assert_eq!(live(&mut pair, "172.17.0.2", 6000), Translated::Drop(DropReason::FlowsFull));
    assert_eq!(live(&mut pair, "172.17.0.3", 6000), Translated::To(PeerRef(2)));
}

/// All pods of a node are one peer at the endpoint's node: what one of them can get there leaves room for the others.
#[test]
fn a_greedy_source_leaves_room_at_the_other_node_too() {
    let mut pair = Pair::new();
    let mut connect = |client: &str, port| {
        let (outcome, there) = pair.send(&udp((client, port), (V4.vip, 53), b"?"));
        if outcome.verdict != Translated::To(PeerRef(2)) {
            return outcome.verdict;
        }
        let verdict = pair.server_in(1, &there).0.verdict;
        if verdict == Translated::Local {
            pair.response(&udp((V4.pod, 8080), (V4.mesh[0], ends(&there).1), b"!"));
        }
        verdict
    };
    for port in 0..100 {
        let _ = connect("172.17.0.66", 10_000 + port);
    }
    for port in 0..8 {
        assert_eq!(connect("172.17.0.2", 5000 + port), Translated::Local, "flow {port} of another pod");
    }
}

#[test]
fn a_full_table_of_admitted_tuples_keeps_live_ones() {
    let c = V4;
    let mut pair = Pair::new();
    pair.server = flows(2, 16);
    for (peer, src) in [(1u32, c.mesh[0]), (3, "242.0.0.3")] {
        for port in 0..8 {
            let there = udp((src, 5000 + port), (c.pod, 8080), b"?");
            assert_eq!(pair.server_in(peer, &there).0.verdict, Translated::Local);
            let _ = pair.server_out(&udp((c.pod, 8080), (src, 5000 + port), b"!"));
        }
    }
    let late = udp(("242.0.0.4", 1), (c.pod, 8080), b"?");
    assert_eq!(dropped(pair.server_in(4, &late)), DropReason::AdmittedFull);
    pair.wait(121);
    assert_eq!(pair.server_in(4, &late).0.verdict, Translated::Local);
    assert_eq!(pair.server.admitted(), 16);
}
