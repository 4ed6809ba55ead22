//! How flows begin, where they go on to, and when they end; what a node that was started again makes of them.

use super::fragments::fragments;
use super::*;
use std::collections::BTreeSet;

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
    // Shares are counted as before: a quarter stays free for other sources.
    for port in 100..108 {
        next.open(later, &client(port), &endpoint, 1, &mut rng).unwrap();
    }
    assert_eq!(next.len(), 12);
    for key in 0..next.timers() {
        let _ = next.handle_timeout(later.after(Duration::from_secs(200)), key);
    }
    assert_eq!((next.len(), next.admitted()), (0, 0));
}

/// One node opens and closes 12,000 connections a second to one endpoint. Ports are free again 2 s after both sides have
/// closed, so nearly twice as many connections as there are ports find one each, and what is in use does not grow.
#[test]
fn twelve_thousand_connections_a_second_do_not_run_out_of_ports() {
    const RATE: u64 = 12_000;
    const PLACES: usize = 65_536;
    /// Timers that are looked at for each connection: all of them thrice a second.
    const SWEEP: u32 = 16;
    let mut pair = Pair::new();
    (pair.client, pair.server) = (flows(1, PLACES), flows(2, PLACES));
    let (c, start, mut most) = (V4, pair.now, [0; 2]);
    for n in 0..10 * RATE {
        pair.now = start.after(Duration::from_micros(n * 1_000_000 / RATE));
        for key in (0..SWEEP).map(|at| (n as u32 * SWEEP + at) % PLACES as u32) {
            let _ = pair.client.handle_timeout(pair.now, key);
            let _ = pair.server.handle_timeout(pair.now, PLACES as u32 + key);
        }
        // Four pods, each with its own ports as Linux hands them out.
        let client = ["172.17.0.2", "172.17.0.3", "172.17.0.4", "172.17.0.5"][n as usize % 4];
        let port = 32_768 + (n / 4 % 28_232) as u16;
        let syn = pair.request(&tcp((client, port), (c.vip, 80), SYN, b""));
        let mapped = ends(&syn).1;
        pair.response(&tcp((c.pod, 8080), (c.mesh[0], mapped), SYN | ACK, b""));
        pair.request(&tcp((client, port), (c.vip, 80), FIN | ACK, b""));
        pair.response(&tcp((c.pod, 8080), (c.mesh[0], mapped), FIN | ACK, b""));
        most = [most[0].max(pair.client.len()), most[1].max(pair.server.admitted())];
    }
    assert!(most.iter().all(|most| (24_000..30_000).contains(most)), "flows and tuples at a time: {most:?}");
}
