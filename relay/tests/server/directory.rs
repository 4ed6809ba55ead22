//! Joining, looking up and surviving: a real server process, nodes on loopback.

use crate::node::{Heard, Node};
use crate::process::{Scratch, Server, WAIT, token_command};
use std::io::{Read, Write};
use std::net::TcpStream;

#[test]
fn nodes_join_find_each_other_and_are_told_of_each_other() {
    let state = Scratch::new("join");
    let server = Server::start(&state.0, 0, &[]);
    let tokens = [server.token("a", &[]), server.token("b", &[])];
    assert_eq!(tokens[0].servers, [server.address.to_string()]);
    let mut a = Node::join(&tokens[0], server.address, 1, false);
    let mut b = Node::join(&tokens[1], server.address, 2, false);
    assert_ne!(a.index, b.index);
    a.ask(b.index);
    let Some(Heard::Peer { name, key, send, receive, .. }) = a.hear() else { panic!() };
    assert_eq!((name.as_str(), key), ("b", b.secret.public().0));
    assert_eq!(b.hear_peer(), (a.index, receive, send), "the other side is told without asking");
    b.ask(a.index);
    assert_eq!(b.hear_peer(), (a.index, receive, send), "sessions stay");
    a.ask(999);
    assert!(matches!(a.hear(), Some(Heard::Peer { .. })), "told again, because b asked");
    assert!(matches!(a.hear(), Some(Heard::NoPeer(999))));
    assert_eq!(server.metric("server_enrolled_total"), 2);
    assert_eq!(server.metric("relay_sessions"), 2);
    let nodes = server.json("/nodes");
    assert_eq!((nodes[0]["node"].as_str(), nodes[0]["connected"].as_bool()), (Some("a"), Some(true)));
    assert_eq!(nodes[0]["agent"], "test 1");
}

#[test]
fn wrong_expired_and_used_tokens_are_refused_with_a_reason_and_a_counter() {
    let state = Scratch::new("refuse");
    let server = Server::start(&state.0, 0, &[]);
    let token = server.token("a", &[]);
    let refused = |token: &edgemesh_host::token::Token, seed| match Node::connect(
        token,
        server.address,
        seed,
        false,
        0,
    )
    .hear()
    {
        Some(Heard::Refused(reason, detail)) => (reason, detail),
        other => panic!("{other:?} instead of a refusal"),
    };
    let mut wrong = token.clone();
    wrong.secret[0] ^= 1;
    assert_eq!(refused(&wrong, 1).0, "WrongToken");
    assert!(server.log("node refused").contains("WrongToken"));
    let mut other = token.clone();
    other.node = "b".into();
    assert_eq!(refused(&other, 1).0, "WrongToken");

    let short = server.token("c", &["--ttl", "1s"]);
    // The expiry is judged by the server's clock, in whole seconds.
    wait_for_wall_clock(short.expires + 1);
    let (reason, detail) = refused(&short, 3);
    assert_eq!(reason, "Expired");
    assert!(detail.contains("expired"), "{detail}");

    let _first = Node::join(&token, server.address, 1, false);
    assert_eq!(refused(&token, 2).0, "UsedByAnotherKey");
    assert!(server.log("UsedByAnotherKey").contains("node=\"a\""));
    for (reason, count) in [("wrong_token", 2), ("expired", 1), ("used_by_another_key", 1)] {
        assert_eq!(server.metric(&format!("server_refused_total{{reason=\"{reason}\"}}")), count);
    }
}

#[test]
fn a_join_whose_answer_was_lost_succeeds_on_retry_and_the_last_connection_counts() {
    let state = Scratch::new("retry");
    let server = Server::start(&state.0, 0, &[]);
    let token = server.token("a", &[]);
    Node::connect(&token, server.address, 1, false, 0).send_hello_and_hang_up();
    server.log("node enrolled");
    let mut first = Node::join(&token, server.address, 1, false);
    let second = Node::join(&token, server.address, 1, false);
    assert_eq!((first.index, server.metric("server_enrolled_total")), (second.index, 1));
    assert!(first.hear().is_none(), "the older connection is ended");
}

#[test]
fn a_killed_server_comes_back_with_everything_it_promised() {
    let state = Scratch::new("killed");
    let server = Server::start(&state.0, 0, &["--mesh-cidr", "10.99.0.0/16"]);
    let (used, unused) = (server.token("a", &[]), server.token("b", &[]));
    let before = Node::join(&used, server.address, 1, false);
    let server = server.kill_and_restart(&[]);
    let after = Node::join(&used, server.address, 1, false);
    assert_eq!((before.index, before.relay_key), (after.index, after.relay_key));
    let b = Node::join(&unused, server.address, 2, false);
    assert_eq!(b.index, before.index + 1);

    let mut server = server;
    assert_eq!(server.terminate(), Some(0));
    assert!(!state.0.join("admin.sock").exists());
    let output = token_command(&state.0, "c", &[]);
    assert!(output.status.success(), "a token can be made while no server runs");
    let token: edgemesh_host::token::Token = String::from_utf8(output.stdout).unwrap().parse().unwrap();
    assert_eq!((token.root, &token.servers), (used.root, &used.servers));
    let server = Server::start(&state.0, 0, &[]);
    assert_eq!(Node::join(&token, server.address, 3, false).index, b.index + 1);
}

#[test]
fn garbage_on_the_port_costs_a_counter_and_nothing_else() {
    let state = Scratch::new("garbage");
    let server = Server::start(&state.0, 0, &[]);
    let token = server.token("a", &[]);
    let long = [&b"EMC1"[..], &[0xFF; 4000]].concat();
    let mut many: Vec<Vec<u8>> =
        vec![b"GET / HTTP/1.1\r\n\r\n".to_vec(), vec![0; 4], b"EMC1\x00\x00".to_vec(), long];
    many.push([&b"EMC1"[..], &[96, 0], &[7; 96]].concat());
    many.push([&b"EMR1"[..], &[56, 0], &[0xE1; 56]].concat());
    many.push(b"EMR1\x03\x00abc".to_vec());
    for bytes in &many {
        let mut stream = TcpStream::connect(server.address).unwrap();
        stream.set_read_timeout(Some(WAIT)).unwrap();
        let _ = stream.write_all(bytes);
        let mut answer = Vec::new();
        // Reset or end: what matters is that the server ends it.
        let _ = stream.read_to_end(&mut answer);
    }
    // Counted before the connection is ended.
    assert!(server.metric("server_drops_total{reason=\"tcp_garbage\"}") >= 5);
    let udp = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    for len in 0..200 {
        udp.send_to(&vec![0xA5; len], server.address).unwrap();
    }
    let mut node = Node::join(&token, server.address, 1, false);
    assert_eq!(node.index, 1);
    // Answered behind what was sent before it.
    node.bind_udp(server.address);
    assert!(server.metric("server_drops_total{reason=\"malformed\"}") >= 150);
}

#[test]
fn whoever_connects_and_says_nothing_is_ended() {
    let state = Scratch::new("silent");
    let server = Server::start(&state.0, 0, &[]);
    let silent = [&b""[..], b"EMC1", b"EMC1\x60"].map(|beginning| {
        let mut stream = TcpStream::connect(server.address).unwrap();
        stream.set_read_timeout(Some(WAIT)).unwrap();
        stream.write_all(beginning).unwrap();
        stream
    });
    for mut stream in silent {
        stream.read_to_end(&mut Vec::new()).unwrap();
    }
    assert_eq!(server.metric("server_drops_total{reason=\"handshake_timeout\"}"), 3);
}

#[test]
fn memory_stays_small() {
    let state = Scratch::new("memory");
    let server = Server::start(&state.0, 0, &[]);
    let token = server.token("a", &[]);
    let mut node = Node::join(&token, server.address, 1, true);
    let _socket = node.bind_udp(server.address);
    let resident = server.metric("process_resident_memory_bytes");
    assert!(resident <= 15 << 20, "{resident} bytes resident");
}

/// Returns when the wall clock has reached this second of the Unix epoch, at once when it has.
fn wait_for_wall_clock(secs: u64) {
    use rustix::time::{
        Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
        timerfd_settime,
    };
    let at = |tv_sec| Timespec { tv_sec, tv_nsec: 0 };
    let once = Itimerspec { it_interval: at(0), it_value: at(secs.cast_signed()) };
    let timer = timerfd_create(TimerfdClockId::Realtime, TimerfdFlags::empty()).unwrap();
    timerfd_settime(&timer, TimerfdTimerFlags::ABSTIME, &once).unwrap();
    assert_eq!(rustix::io::read(&timer, &mut [0; 8]), Ok(8));
}
