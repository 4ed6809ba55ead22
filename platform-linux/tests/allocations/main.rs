//! What the data thread does for a packet takes no memory from the allocator: the agent's loop on two kernels' packets,
//! with an allocator that counts.
//!
//! Two network namespaces with a TUN device each; the tunnel's sockets are both in the first one, on its loopback device.
//! Single datagrams, super-packets of TCP and UDP both ways, names, flows that begin and end: all of it once to warm the
//! buffers, then again while it is counted. Not counted: what the control connection brings.

#![allow(unsafe_code, reason = "an allocator, and a thread's namespace")]

mod agents;
mod counting;
mod load;

use agents::{Agent, SERVICE, engines};
use counting::{Counting, asked};
use edgemesh_agent::dns::forward::{Forwarder, Settings};
use edgemesh_agent::dns::{Resolve, Resolved, Routes, Server, Sockets, Source, Stats, Transport};
use edgemesh_agent::tun::{DEFAULT_MTU, DEFAULT_NAME, Tun};
use edgemesh_agent::udp::Socket;
use edgemesh_core::rng::Rng;
use edgemesh_testkit::star::packets;
use load::{BURST, BURSTS, DATAGRAMS, Programs};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::process::Command;
use std::sync::Arc;
use std::sync::mpsc::channel;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Set for the inner run, so that it cannot run itself again.
const INNER: &str = "EDGEMESH_TEST_IN_USER_NAMESPACE";
const MESH: [Ipv4Addr; 2] = [Ipv4Addr::new(242, 0, 0, 1), Ipv4Addr::new(242, 0, 0, 2)];
const UNDERLAY: [Ipv4Addr; 2] = [Ipv4Addr::new(10, 9, 0, 1), Ipv4Addr::new(10, 9, 0, 2)];
const RESOLVER: Ipv4Addr = Ipv4Addr::new(169, 254, 96, 16);

#[test]
fn a_packet_takes_no_memory_from_the_allocator() {
    // SAFETY: takes nothing and cannot fail.
    if unsafe { libc::geteuid() } == 0 {
        return std::thread::spawn(count_both).join().expect("see above");
    }
    assert!(std::env::var_os(INNER).is_none(), "a user namespace did not make us root");
    let status = Command::new("unshare")
        .args(["--user", "--map-root-user", "--"])
        .arg(std::env::current_exe().unwrap())
        .args(["--nocapture"])
        .env(INNER, "1")
        .status()
        .expect("unshare of util-linux");
    assert!(status.success(), "failed in its user namespace");
}

fn count_both() {
    enter_namespace();
    let addresses = UNDERLAY.map(|ip| SocketAddr::from((ip, 20_006)));
    sh(
        "ip addr add 10.9.0.1/32 dev lo && ip addr add 10.9.0.2/32 dev lo && ip addr add 169.254.96.16/32 dev lo",
    );
    let sockets = addresses.map(|address| Socket::bind(address).unwrap());
    let tuns = [device(0), far()];
    let joins = tuns[1].takes_udp_super_packets();
    sh("ip route add 10.96.0.0/16 dev edgemesh0");
    let mut agents = Vec::new();
    for ((engine, tun), socket) in engines(addresses).into_iter().zip(tuns).zip(sockets) {
        agents.push(Agent::start(engine, tun, socket));
    }
    let resolver = listen(&agents[0]);
    let service = SocketAddr::from((packets::vip(SERVICE), packets::PORT));
    let mut programs = Programs::start(service, MESH[0], resolver);
    programs.run();
    let before: Vec<_> = agents.iter().map(Agent::asked).collect();
    programs.run();
    for (agent, (asked, traffic)) in agents.iter().zip(&before) {
        let (asked_now, now) = agent.asked();
        let read = now.tun_read - traffic.tun_read;
        let (sent, received) = (now.sent - traffic.sent, now.received - traffic.received);
        let written = now.tun_written - traffic.tun_written;
        println!("read {read}, sent {sent}, received {received}, written {written}");
        assert!(read > DATAGRAMS && received > DATAGRAMS, "too little was carried");
        assert!(sent > 2 * read && received > 2 * written, "there were no super-packets");
        assert_eq!(asked_now - asked, 0, "times that memory was asked for");
    }
    a_box_counts(&agents[0]);
    // Before Linux 6.2 no device takes them.
    if joins {
        bursts_arrive_joined(&mut programs, &agents[1]);
    }
    agents.into_iter().for_each(Agent::stop);
}

/// Their datagrams have a length that the tunnel pads.
fn bursts_arrive_joined(programs: &mut Programs, far: &Agent) {
    let (_, before) = far.asked();
    programs.send_bursts();
    let (_, now) = far.asked();
    let (received, written) = (now.received - before.received, now.tun_written - before.tun_written);
    assert!(received > BURSTS * BURST, "too little was carried: {received}");
    assert!(received > 4 * written, "{received} came one by one: {written}");
}

/// The counter sees what there is to be seen.
fn a_box_counts(agent: &Agent) {
    let seen = agent.look(|_| {
        let before = asked();
        drop(std::hint::black_box(Box::new(1u8)));
        asked() - before
    });
    assert_eq!(seen, 1);
}

/// Moves this thread into a network namespace of its own.
fn enter_namespace() {
    // SAFETY: takes no pointer; only the calling thread's network namespace changes.
    assert_eq!(unsafe { libc::unshare(libc::CLONE_NEWNET) }, 0, "a network namespace");
    sh("ip link set lo up");
}

fn device(node: usize) -> Tun {
    let tun = Tun::open(DEFAULT_NAME, DEFAULT_MTU).unwrap();
    let own = MESH[node];
    sh(&format!("ip addr add {own}/32 dev edgemesh0 && ip route add 242.0.0.0/8 dev edgemesh0"));
    tun
}

/// The far node's device; its namespace lives on with the endpoint's thread.
fn far() -> Tun {
    let (give, take) = channel();
    std::thread::spawn(move || {
        enter_namespace();
        let tun = device(1);
        let endpoint = packets::endpoint(SERVICE);
        sh(&format!("ip addr add {endpoint}/32 dev lo"));
        load::serve((endpoint, packets::TARGET).into(), || give.send(tun).unwrap());
    });
    take.recv().unwrap()
}

/// Names that the engine does not know are nobody's.
struct Nobody;

impl Resolve for Nobody {
    async fn resolve(&self, _: SocketAddr, _: &[u8], _: Transport, _: &mut Vec<u8>) -> Resolved {
        Resolved::Drop
    }
}

/// Has the agent answer names; where.
fn listen(agent: &Agent) -> SocketAddr {
    let sockets = Sockets::bind(&[(RESOLVER, 53).into()]).unwrap();
    let address = sockets.addresses()[0];
    let routes = Routes { source: Source::Fixed(vec![]), stubs: vec![], own: vec![] };
    let forwarder = Forwarder::new(Settings::new(routes), Rng::new([3; 32]), Arc::new(Stats::default()));
    let (listeners, _) = Server::new(Nobody, forwarder).serve(sockets);
    for listener in listeners {
        agent.listen(IpAddr::V4(RESOLVER), listener);
    }
    address
}

fn sh(command: &str) {
    let output = Command::new("sh").args(["-c", command]).output().expect("a shell");
    assert!(output.status.success(), "{command}: {}", String::from_utf8_lossy(&output.stderr));
}
