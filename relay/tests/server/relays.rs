//! A server without a directory, as a second process beside the directory's: whom it serves, and what it cannot do.

use crate::node::{Node, data, meet, receive, tcp_receive, tcp_send};
use crate::process::{BINARY, Scratch, Server, WAIT, look_until, printed};
use edgemesh_core::control::Question;
use edgemesh_host::token::Token;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::Command;
use std::time::Instant;

struct Both {
    server: Server,
    relay: Server,
    _states: [Scratch; 2],
}

fn relay_token(server: &Server, name: &str) -> String {
    printed(server.operate(&["token", "--relay", name])).trim().to_owned()
}

fn start_relay(state: &Scratch, token: &str, port: u16) -> Server {
    let mut command = Command::new(BINARY);
    command.args(["run", "--role", "relay", "--listen", &format!("127.0.0.1:{port}"), "--admin"]);
    command.arg(format!("unix:{}", state.0.join("public.sock").display()));
    command.arg("--state-dir").arg(&state.0);
    if !token.is_empty() {
        command.args(["--join", token]);
    }
    let relay = Server::spawn(&mut command, &state.0);
    relay.log("member of the directory");
    relay
}

fn both(name: &str) -> Both {
    let states = [Scratch::new(name), Scratch::new(&format!("{name}-relay"))];
    let server = Server::start(&states[0].0, 0, &[]);
    let relay = start_relay(&states[1], &relay_token(&server, "eu"), 0);
    Both { server, relay, _states: states }
}

/// Waits until the directory's server knows that a node is bound, by this way.
fn wait_bound(server: &Server, node: &str, way: &str) {
    look_until(&format!("{node} is bound by {way}"), || {
        let nodes = server.json("/nodes");
        nodes.as_array().unwrap().iter().any(|each| each["node"] == node && each["relay"] == way)
    });
}

fn join(both: &Both, node: &str, at: SocketAddr, seed: u8) -> Node {
    Node::join(&both.server.token(node, &[]), at, seed, false)
}

#[test]
fn nodes_meet_at_a_relay_or_across_it() {
    let both = both("meet");
    let (here, there) = (both.relay.address, both.server.address);
    let (mut a, mut b, mut c) =
        (join(&both, "a", here, 1), join(&both, "b", here, 2), join(&both, "c", there, 3));
    let (sa, sb, sc) = (a.bind_udp(here), b.bind_udp(here), c.bind_udp(there));
    for (node, way) in [("a", "via"), ("b", "via"), ("c", "udp")] {
        wait_bound(&both.server, node, way);
    }
    let ((ab, ba), (ac, ca)) = (meet(&mut a, &mut b), meet(&mut a, &mut c));
    sa.send(&data(ab, b"to b")).unwrap();
    assert_eq!(receive(&sb), data(ab, b"to b"));
    sb.send(&data(ba, b"back")).unwrap();
    assert_eq!(receive(&sa), data(ba, b"back"));
    assert_eq!(both.server.metric("relay_datagrams_total"), 0, "it did not leave the relay");
    for len in [1, 1400, 7] {
        let payload = vec![len as u8; len];
        sa.send(&data(ac, &payload)).unwrap();
        assert_eq!(receive(&sc), data(ac, &payload));
        sc.send(&data(ca, &payload)).unwrap();
        assert_eq!(receive(&sa), data(ca, &payload));
    }
    assert_eq!(
        (both.relay.metric("relay_datagrams_total"), both.server.metric("relay_datagrams_total")),
        (8, 6)
    );
    let mut ta = a.bind_tcp(here);
    sc.send(&data(ca, b"by tcp")).unwrap();
    assert_eq!(tcp_receive(&mut ta).unwrap(), data(ca, b"by tcp"));
    tcp_send(&mut ta, &data(ac, b"from tcp"));
    assert_eq!(receive(&sc), data(ac, b"from tcp"));
    drop(ta);
    a.relay_epoch += 10;
    // It moves to the directory's server; the relay is told, and sends there what is for it.
    let (token, key) = (both.server.token("a", &[]), a.secret.clone());
    drop(a);
    let mut a = Node::join(&token, there, 1, false);
    assert_eq!(a.secret.public().0, key.public().0);
    let sa = a.bind_udp(there);
    wait_bound(&both.server, "a", "udp");
    let deadline = Instant::now() + WAIT;
    sa.set_read_timeout(Some(std::time::Duration::from_millis(50))).unwrap();
    let mut buffer = [0; 64];
    while Instant::now() < deadline {
        sb.send(&data(ba, b"moved")).unwrap();
        if sa.recv(&mut buffer).is_ok_and(|len| buffer[..len] == data(ba, b"moved")) {
            return;
        }
    }
    panic!("what the relay has for the node does not reach it");
}

#[test]
fn a_relay_that_starts_again_needs_no_token_and_hears_of_its_nodes() {
    let Both { server, relay, _states: states } = both("again");
    let port = relay.address.port();
    let token = server.token("a", &[]);
    drop(relay);
    let relay = start_relay(&states[1], "", port);
    let mut a = Node::join(&token, relay.address, 1, false);
    let socket = a.bind_udp(relay.address);
    wait_bound(&server, "a", "via");
    let mut server = server.kill_and_restart(&[]);
    relay.log("member of the directory");
    let mut a = Node::join(&token, relay.address, 1, false);
    // The key of its binds is the same, and its binding still stands.
    wait_bound(&server, "a", "via");
    a.relay_epoch += 10;
    a.rebind(&socket);
    assert_eq!(server.terminate(), Some(0));
}

#[test]
fn a_relay_speaks_for_nobody_but_who_came_by_it() {
    let both = both("speaks");
    let there = both.server.address;
    let (mut a, mut b) = (join(&both, "a", there, 1), join(&both, "b", there, 2));
    let (sa, sb) = (a.bind_udp(there), b.bind_udp(there));
    let (ab, _) = meet(&mut a, &mut b);
    let token: Token = relay_token(&both.server, "rogue").parse().unwrap();
    let mut rogue = Node::join(&token, there, 9, false);
    let socket = rogue.bind_udp(there);
    // Bound { index, epoch } and Met { from, to }, in postcard.
    for said in [vec![0, b.index as u8, 0x7f], vec![2, a.index as u8, b.index as u8], vec![1, b.index as u8]]
    {
        rogue.say(&Question::Relay(&said));
    }
    rogue.ask(a.index);
    assert_eq!(rogue.hear_peer().0, a.index, "everything before was heard");
    assert_eq!(both.server.metric("server_drops_total{reason=\"not_its_node\"}"), 2);
    sa.send(&data(ab, b"still here")).unwrap();
    assert_eq!(receive(&sb), data(ab, b"still here"));
    socket.send(&data(ab, b"forged")).unwrap();
    let mut answer = [0; 64];
    assert_eq!(socket.recv(&mut answer).unwrap(), 8, "it is told to bind");
    // Nor does a node speak as a relay.
    a.say(&Question::Relay(&[0, b.index as u8, 0x7f]));
    sa.send(&data(ab, b"and here")).unwrap();
    assert_eq!(receive(&sb), data(ab, b"and here"));
    assert_eq!(both.server.metric("server_drops_total{reason=\"not_its_node\"}"), 2);
}

#[test]
fn only_members_pass_connections_on_and_only_with_a_directory() {
    let Both { mut server, relay, _states } = both("pass");
    let mut stream = TcpStream::connect(server.address).unwrap();
    stream.set_read_timeout(Some(WAIT)).unwrap();
    stream.write_all(b"EMV1").unwrap();
    stream.write_all(&[7; 38]).unwrap();
    assert_eq!(stream.read(&mut [0; 1]).unwrap(), 0);
    assert_eq!(server.metric("server_drops_total{reason=\"tcp_garbage\"}"), 1);
    server.terminate();
    relay.log("connection to the directory's server ended");
    let mut stream = TcpStream::connect(relay.address).unwrap();
    stream.set_read_timeout(Some(WAIT)).unwrap();
    stream.write_all(b"EMC1").unwrap();
    assert_eq!(stream.read(&mut [0; 1]).unwrap(), 0, "the node tries its next server");
    assert_eq!(relay.json("/status")["ready"], false);
}

/// Each list of revocations says which it follows: whoever does not keep count takes the second one for a forgery.
#[test]
fn nodes_are_put_out_one_after_the_other_and_the_link_stays() {
    let mut both = both("revoked");
    let here = both.relay.address;
    let (mut a, mut b, mut c) =
        (join(&both, "a", here, 1), join(&both, "b", here, 2), join(&both, "c", here, 3));
    let _sockets = [a.bind_udp(here), b.bind_udp(here), c.bind_udp(here)];
    for (node, left) in [("a", 2), ("b", 1)] {
        wait_bound(&both.server, node, "via");
        printed(both.server.operate(&["revoke", "--node", node]));
        look_until(&format!("{node} is bound no more"), || {
            both.relay.metric("relay_bound_nodes{transport=\"udp\"}") == left
        });
    }
    assert_eq!(c.hear_revocations().0, 0);
    c.ask(c.index);
    assert_eq!(c.hear_peer().0, c.index, "others do not notice");
    assert_eq!(both.relay.terminate(), Some(0));
    let log = both.relay.rest_of_log();
    assert!(!log.contains("connection to the directory's server ended"), "{log}");
}

/// It would hold a place among those whose node is not known.
#[test]
fn a_connection_that_is_not_passed_on_to_its_end_is_closed() {
    let state = Scratch::new("head");
    let server = Server::start(&state.0, 0, &[]);
    let mut stream = TcpStream::connect(server.address).unwrap();
    stream.set_read_timeout(Some(WAIT)).unwrap();
    stream.write_all(b"EMV1\x07").unwrap();
    assert_eq!(stream.read(&mut [0; 1]).unwrap(), 0);
    assert_eq!(server.metric("server_drops_total{reason=\"handshake_timeout\"}"), 1);
}
