//! The relay over real sockets: UDP, TCP, and between the two.

use crate::node::{Node, data, meet, receive, tcp_receive, tcp_send};
use crate::process::{BINARY, Scratch, Server};
use edgemesh_core::wire::relay::Message;
use std::net::{SocketAddr, UdpSocket};
use std::process::Command;

struct Pair {
    server: Server,
    a: Node,
    b: Node,
    /// Sessions from a to b and back.
    ab: u32,
    ba: u32,
    state: Scratch,
}

fn pair(name: &str) -> Pair {
    let state = Scratch::new(name);
    let server = Server::start(&state.0, 0, &[]);
    pair_on(server, state)
}

fn pair_on(server: Server, state: Scratch) -> Pair {
    let mut a = Node::join(&server.token("a", &[]), server.address, 1, false);
    let mut b = Node::join(&server.token("b", &[]), server.address, 2, false);
    let (ab, ba) = meet(&mut a, &mut b);
    Pair { server, a, b, ab, ba, state }
}

#[test]
fn datagrams_echo_over_udp_with_their_boundaries() {
    let Pair { server, mut a, mut b, ab, ba, state: _state, .. } = pair("udp");
    let (sa, sb) = (a.bind_udp(server.address), b.bind_udp(server.address));
    for len in [1, 100, 1400, 1452, 7] {
        let payload = vec![len as u8; len];
        sa.send(&data(ab, &payload)).unwrap();
        assert_eq!(receive(&sb), data(ab, &payload), "unchanged, envelope and all");
        sb.send(&data(ba, &payload)).unwrap();
        assert_eq!(receive(&sa), data(ba, &payload));
    }
    assert_eq!(server.metric("relay_datagrams_total"), 10);
    assert_eq!(server.metric("relay_bound_nodes{transport=\"udp\"}"), 2);
}

/// The nodes' sockets hear nobody but whom they speak to.
#[test]
fn a_server_with_several_addresses_answers_from_the_one_that_was_asked() {
    for listen in ["0.0.0.0:0", "[::]:0"] {
        let state = Scratch::new("addresses");
        let mut command = Command::new(BINARY);
        command
            .args(["run", "--listen", listen, "--advertise", "192.0.2.1:20004", "--state-dir"])
            .arg(&state.0);
        command.arg("--admin").arg(format!("unix:{}", state.0.join("public.sock").display()));
        let mut server = Server::spawn(&mut command, &state.0);
        let at = |last, server: &Server| SocketAddr::from(([127, 0, 0, last], server.address.port()));
        server.address = at(1, &server);
        let Pair { server, mut a, mut b, ab, ba, state: _state } = pair_on(server, state);
        let (sa, sb) = (a.bind_udp(at(2, &server)), b.bind_udp(at(3, &server)));
        sa.send(&data(ab, b"there")).unwrap();
        assert_eq!(receive(&sb), data(ab, b"there"), "{listen}");
        let mut tb = b.bind_tcp(server.address);
        tcp_send(&mut tb, &data(ba, b"back by tcp"));
        assert_eq!(receive(&sa), data(ba, b"back by tcp"), "{listen}");
    }
}

#[test]
fn a_sender_is_told_again_of_a_node_that_was_not_there() {
    let Pair { server, mut a, mut b, ab, ba, state: _state, .. } = pair("met");
    let sa = a.bind_udp(server.address);
    sa.send(&data(ab, b"lost")).unwrap();
    // Answered behind what was sent before it.
    a.rebind(&sa);
    let sb = b.bind_udp(server.address);
    assert_eq!(a.hear_peer(), (b.index, ab, ba));
    sa.send(&data(ab, b"found")).unwrap();
    assert_eq!(receive(&sb), data(ab, b"found"));
}

#[test]
fn bursts_go_through_whole_and_in_order() {
    let Pair { server, mut a, mut b, ab, state: _state, .. } = pair("burst");
    let (sa, sb) = (a.bind_udp(server.address), b.bind_udp(server.address));
    let state = quinn_udp::UdpSocketState::new((&sa).into()).unwrap();
    let (segment, count) = (1_200, state.max_gso_segments().min(40));
    for round in 0..10u8 {
        let burst: Vec<u8> = (0..count).flat_map(|n| data(ab, &vec![n as u8 ^ round; segment - 8])).collect();
        let transmit = quinn_udp::Transmit {
            destination: server.address,
            ecn: None,
            contents: &burst,
            segment_size: Some(segment),
            src_ip: None,
        };
        state.try_send((&sa).into(), &transmit).unwrap();
        for n in 0..count {
            let got = receive(&sb);
            assert_eq!((got.len(), got[8]), (segment, n as u8 ^ round));
        }
    }
    assert_eq!(server.metric("relay_datagrams_total"), 10 * count as u64);
}

#[test]
fn udp_and_tcp_nodes_reach_each_other_and_a_move_is_seamless() {
    let Pair { server, mut a, mut b, ab, ba, state: _state, .. } = pair("cross");
    let sa = a.bind_udp(server.address);
    let mut tb = b.bind_tcp(server.address);
    sa.send(&data(ab, b"to tcp")).unwrap();
    assert_eq!(tcp_receive(&mut tb).unwrap(), data(ab, b"to tcp"));
    tcp_send(&mut tb, &data(ba, b"to udp"));
    assert_eq!(receive(&sa), data(ba, b"to udp"));
    assert_eq!(server.metric("relay_bound_nodes{transport=\"tcp\"}"), 1);

    let mut ta = a.bind_tcp(server.address);
    tcp_send(&mut tb, &data(ba, b"tcp to tcp"));
    assert_eq!(tcp_receive(&mut ta).unwrap(), data(ba, b"tcp to tcp"));

    let sb = b.bind_udp(server.address);
    tcp_send(&mut ta, &data(ab, b"back on udp"));
    assert_eq!(receive(&sb), data(ab, b"back on udp"));
    drop(tb);
    tcp_send(&mut ta, &data(ab, b"still"));
    assert_eq!(receive(&sb), data(ab, b"still"), "the old connection's end takes nothing with it");
}

#[test]
fn a_server_on_ipv6_serves_ipv4_nodes() {
    let state = Scratch::new("dual");
    let mut command = std::process::Command::new(crate::process::BINARY);
    command.args(["run", "--listen", "[::]:0", "--advertise", "localhost:1", "--admin"]);
    command.arg(format!("unix:{}", state.0.join("public.sock").display())).arg("--state-dir").arg(&state.0);
    let server = Server::spawn(&mut command, &state.0);
    let address = std::net::SocketAddr::from(([127, 0, 0, 1], server.address.port()));
    let mut a = Node::join(&server.token("a", &[]), address, 1, false);
    let mut b = Node::join(&server.token("b", &[]), address, 2, false);
    a.ask(b.index);
    let (_, ab, ba) = a.hear_peer();
    let (sa, mut tb) = (a.bind_udp(address), b.bind_tcp(address));
    sa.send(&data(ab, b"to tcp")).unwrap();
    assert_eq!(tcp_receive(&mut tb).unwrap(), data(ab, b"to tcp"));
    tcp_send(&mut tb, &data(ba, b"to udp"));
    assert_eq!(receive(&sa), data(ba, b"to udp"));
    let sb = b.bind_udp(address);
    sa.send(&data(ab, b"udp to udp")).unwrap();
    assert_eq!(receive(&sb), data(ab, b"udp to udp"));
}

#[test]
fn only_the_bound_sender_is_relayed_and_a_rebind_mends_what_a_nat_broke() {
    let Pair { server, mut a, mut b, ab, state: _state, .. } = pair("source");
    let (sa, sb) = (a.bind_udp(server.address), b.bind_udp(server.address));
    let moved = UdpSocket::bind("127.0.0.1:0").unwrap();
    moved.connect(server.address).unwrap();
    moved.set_read_timeout(Some(crate::process::WAIT)).unwrap();
    moved.send(&data(ab, b"from elsewhere")).unwrap();
    assert_eq!(Message::parse(&receive(&moved)), Ok(Message::Unbound { session: ab }));
    assert_eq!(server.metric("server_drops_total{reason=\"wrong_source\"}"), 1);
    a.rebind(&moved);
    moved.send(&data(ab, b"rebound")).unwrap();
    assert_eq!(receive(&sb), data(ab, b"rebound"));
    sa.send(&data(ab, b"the old mapping")).unwrap();
    moved.send(&data(ab, b"behind it")).unwrap();
    assert_eq!(receive(&sb), data(ab, b"behind it"));
    assert_eq!(server.metric("server_drops_total{reason=\"wrong_source\"}"), 2);
}

#[test]
fn after_a_kill_the_relay_knows_its_nodes_and_they_only_have_to_ask_again() {
    let Pair { server, mut a, mut b, ab, state: _state, .. } = pair("again");
    let sa = a.bind_udp(server.address);
    let server = server.kill_and_restart(&[]);
    sa.send(&data(ab, b"lost")).unwrap();
    let mut buffer = [0; 64];
    // The first datagram after a restart may meet a closed port, which the socket reports here.
    let len =
        sa.recv(&mut buffer).or_else(|_| sa.send(&data(ab, b"lost")).and_then(|_| sa.recv(&mut buffer)));
    assert_eq!(Message::parse(&buffer[..len.unwrap()]), Ok(Message::Unbound { session: ab }));
    a.rebind(&sa);
    let tokens = [server.token("a", &[]), server.token("b", &[])];
    let mut a2 = Node::join(&tokens[0], server.address, 1, false);
    let mut b2 = Node::join(&tokens[1], server.address, 2, false);
    assert_eq!(a2.relay_epoch, a.relay_epoch);
    a2.ask(b2.index);
    let (_, ab, _) = a2.hear_peer();
    b2.relay_epoch = b.relay_epoch;
    let sb = b2.bind_udp(server.address);
    sa.send(&data(ab, b"again")).unwrap();
    assert_eq!(receive(&sb), data(ab, b"again"));
    b.relay_epoch = 0;
}

#[test]
fn a_slow_tcp_node_loses_its_oldest_datagrams_and_control_goes_on() {
    let Pair { server, mut a, mut b, ab, state: _state, .. } = pair("slow");
    let mut ta = a.bind_tcp(server.address);
    let mut tb = b.bind_tcp(server.address);
    let total = 20_000u32;
    let sender = std::thread::spawn(move || {
        for n in 0..total {
            tcp_send(&mut ta, &data(ab, &[&n.to_le_bytes()[..], &[0; 1200]].concat()));
        }
        ta
    });
    let mut ta = sender.join().unwrap();
    // Answered behind what was sent before it.
    a.rebind_tcp(&mut ta);
    assert_eq!(server.metric("relay_datagrams_total"), u64::from(total));
    let dropped = server.metric("server_drops_total{reason=\"queue_full\"}");
    assert!(dropped > 0);
    a.ask(b.index);
    assert_eq!(a.hear_peer().0, b.index);
    let mut last = None;
    let mut received = 0u64;
    while last != Some(total - 1) {
        let datagram = tcp_receive(&mut tb).unwrap();
        let n = u32::from_le_bytes(datagram[8..12].try_into().unwrap());
        assert!(last.is_none_or(|l| l < n), "in order");
        last = Some(n);
        received += 1;
    }
    assert_eq!(received + dropped, u64::from(total));
}
