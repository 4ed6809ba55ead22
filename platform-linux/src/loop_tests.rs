//! Two kernels' TCP and UDP through two TUN devices, with nothing between them but cutting and joining.
//!
//! What the property tests cannot show: that the kernel accepts what we write and that nothing it sends is
//! misread. The namespaces `left` and `right` own one device each; a third thread carries packets across. Behind
//! `right` stands a pod whose network card computes and checks every checksum in software.

use std::io::{IoSlice, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;

use crate::netlink::{Change, Monitor, RouteKind};
use crate::offload::{Coalescer, SEGMENT_BUFFER, segment};
use crate::poll::{Interest, Poller, Waker};
use crate::prefix::Prefix;
use crate::testing::{in_namespace, sh, spawn_in_namespace};
use crate::tun::{MAX_PACKET, Tun};
use crate::udp::{RECEIVE_BUFFER, Socket};

const BYTES: usize = 64 << 20;

/// What crossed, to show that super-packets were at work.
#[derive(Default, Debug)]
struct Crossed {
    reads: usize,
    segments: usize,
    writes: usize,
}

/// Carries packets between two devices until stopped.
struct Wire {
    stop: Arc<AtomicBool>,
    waker: Waker,
    thread: JoinHandle<[Crossed; 2]>,
}

impl Wire {
    fn between(left: Tun, right: Tun) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let mut poller = Poller::new().unwrap();
        let waker = poller.waker();
        let stopped = stop.clone();
        let thread = std::thread::spawn(move || {
            poller.add(&left, Interest::Read, 0).unwrap();
            poller.add(&right, Interest::Read, 1).unwrap();
            let mut ends = [left, right];
            let mut crossed = [Crossed::default(), Crossed::default()];
            let (mut packet, mut wire) = (vec![0; MAX_PACKET], vec![0; SEGMENT_BUFFER]);
            while !stopped.load(Ordering::Relaxed) {
                poller.wait(None, |_| ()).unwrap();
                let [left, right] = &mut ends;
                carry(left, right, &mut packet, &mut wire, &mut crossed[0]);
                carry(right, left, &mut packet, &mut wire, &mut crossed[1]);
            }
            crossed
        });
        Self { stop, waker, thread }
    }

    fn finish(self) -> [Crossed; 2] {
        self.stop.store(true, Ordering::Relaxed);
        self.waker.wake();
        self.thread.join().unwrap()
    }
}

/// One turn of one direction: a super-packet in, its segments «on the wire», joined again and out.
fn carry(from: &mut Tun, to: &mut Tun, packet: &mut [u8], wire: &mut [u8], crossed: &mut Crossed) {
    let mut coalescer = Coalescer::new(to.takes_udp_super_packets());
    while let Some((header, len)) = from.read(packet).unwrap() {
        let segments = segment(&header, &packet[..len], wire).unwrap();
        crossed.reads += 1;
        crossed.segments += segments.count();
        for i in 0..segments.count() {
            let range = segments.range(i);
            if coalescer.push(wire, range.start, range.len()).is_err() {
                flush(&mut coalescer, wire, to, crossed);
                coalescer.push(wire, range.start, range.len()).unwrap();
            }
        }
        flush(&mut coalescer, wire, to, crossed);
    }
}

fn flush(coalescer: &mut Coalescer, wire: &mut [u8], to: &mut Tun, crossed: &mut Crossed) {
    coalescer.drain(wire, |packet| {
        crossed.writes += 1;
        to.write(&packet).unwrap();
    });
}

/// The bytes of the transfer: position-dependent, so that a lost, doubled or moved byte shows.
fn byte_at(i: usize) -> u8 {
    (i.wrapping_mul(0x9e37_79b1) >> 13) as u8
}

fn send_all(mut stream: TcpStream) {
    let mut chunk = vec![0; 100_000];
    let mut sent = 0;
    while sent < BYTES {
        let n = chunk.len().min(BYTES - sent);
        chunk[..n].iter_mut().enumerate().for_each(|(i, b)| *b = byte_at(sent + i));
        stream.write_all(&chunk[..n]).unwrap();
        sent += n;
    }
    stream.shutdown(std::net::Shutdown::Write).unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    assert_eq!(answer, b"all of it");
}

fn receive_all(listener: &TcpListener) {
    let (mut stream, _) = listener.accept().unwrap();
    let mut buffer = vec![0; 1 << 20];
    let mut received = 0;
    loop {
        let n = stream.read(&mut buffer).unwrap();
        if n == 0 {
            break;
        }
        for (i, b) in buffer[..n].iter().enumerate() {
            assert_eq!(*b, byte_at(received + i), "byte {}", received + i);
        }
        received += n;
    }
    assert_eq!(received, BYTES);
    stream.write_all(b"all of it").unwrap();
}

fn checksum_errors() -> String {
    sh("awk '/^Tcp:/ {n++; if (n==1) for (i=1;i<=NF;i++) if ($i==\"InCsumErrors\") c=i; if (n==2) print $c}' /proc/net/snmp")
        .trim()
        .to_owned()
}

#[derive(Clone, Copy)]
struct Case {
    addresses: [&'static str; 2],
    prefix: u8,
    /// Command for each side's namespace once its device is there.
    tweak: [&'static str; 2],
}

/// A namespace with a device, which is sent to whoever builds the wire.
fn side(case: Case, i: usize, tun: &Sender<Tun>) {
    let device = Tun::open("emtest0", 1408).unwrap();
    let mut monitor = Monitor::open(&[]).unwrap();
    sh(&format!("ip addr add {}/{} dev emtest0 nodad", case.addresses[i], case.prefix));
    until_local(&mut monitor, case.addresses[i].parse().unwrap());
    if !case.tweak[i].is_empty() {
        sh(case.tweak[i]);
    }
    tun.send(device).unwrap();
}

/// Waits until the kernel delivers to `address`: for IPv6 it says so some time after the address was added.
fn until_local(monitor: &mut Monitor, address: IpAddr) {
    let mut poller = Poller::new().unwrap();
    monitor.descriptors().for_each(|fd| poller.add(fd, Interest::Read, 0).unwrap());
    let mut local = false;
    while !local {
        poller.wait(None, |_| ()).unwrap();
        monitor.drain(|change| {
            local |= matches!(change, Change::Route(r) if r.kind == RouteKind::Local && r.to == Prefix::host(address));
        });
    }
}

/// 64 MB from left to right.
fn transfer(case: Case) -> [Crossed; 2] {
    let (left_tx, left_rx) = channel();
    let (right_tx, right_rx) = channel();
    let (ready_tx, ready_rx): (Sender<SocketAddr>, Receiver<SocketAddr>) = channel();
    let right = spawn_in_namespace(move || {
        side(case, 1, &right_tx);
        let ip: IpAddr = case.addresses[1].parse().unwrap();
        let listener = TcpListener::bind((ip, 0)).unwrap();
        ready_tx.send(listener.local_addr().unwrap()).unwrap();
        receive_all(&listener);
        checksum_errors()
    });
    let left = spawn_in_namespace(move || {
        side(case, 0, &left_tx);
        send_all(TcpStream::connect(ready_rx.recv().unwrap()).unwrap());
        checksum_errors()
    });
    let wire = Wire::between(left_rx.recv().unwrap(), right_rx.recv().unwrap());
    assert_eq!(left.join().unwrap(), "0");
    assert_eq!(right.join().unwrap(), "0");
    wire.finish()
}

const V4: Case = Case { addresses: ["10.9.0.1", "10.9.0.2"], prefix: 24, tweak: ["", ""] };
const V6: Case = Case { addresses: ["fd09::1", "fd09::2"], prefix: 64, tweak: ["", ""] };
const TX_OFF: &str = "ethtool -K emtest0 tx off";

#[test]
fn tcp_crosses_as_super_packets_both_ways() {
    for case in [V4, V6] {
        in_namespace(move || {
            let [data, _] = transfer(case);
            assert!(data.segments > 5 * data.reads, "the kernel handed out no super-packets: {data:?}");
            assert!(data.segments > 5 * data.writes, "nothing was joined: {data:?}");
        });
    }
}

#[test]
fn a_sender_without_offloads_is_understood() {
    for case in [V4, V6] {
        in_namespace(move || {
            let [data, _] = transfer(Case { tweak: [TX_OFF, ""], ..case });
            assert_eq!(data.segments, data.reads, "offloads were not off");
        });
    }
}

#[test]
fn a_receiver_without_offloads_is_understood() {
    for case in [V4, V6] {
        in_namespace(move || {
            let [_, answers] = transfer(Case { tweak: ["", TX_OFF], ..case });
            assert_eq!(answers.segments, answers.reads, "offloads were not off");
        });
    }
}

/// The pod's card and its peer compute and check in software: a wrong partial sum does not pass there.
#[test]
fn joined_segments_survive_a_pod_without_any_offload() {
    in_namespace(|| {
        let (left_tx, left_rx) = channel();
        let (right_tx, right_rx) = channel();
        let (pod_tx, pod_rx) = channel::<String>();
        let (wired_tx, wired_rx) = channel::<()>();
        let (ready_tx, ready_rx) = channel::<()>();
        let pod = spawn_in_namespace(move || {
            let me = std::fs::read_link("/proc/thread-self").unwrap();
            pod_tx.send(me.file_name().unwrap().to_string_lossy().into_owned()).unwrap();
            wired_rx.recv().unwrap();
            sh(
                "ip addr add 172.17.0.2/16 dev eth0 && ip link set eth0 up && ip route add default via 172.17.0.1 \
                && ethtool -K eth0 tx off rx off gro off gso off tso off",
            );
            let listener = TcpListener::bind("172.17.0.2:80").unwrap();
            ready_tx.send(()).unwrap();
            receive_all(&listener);
            checksum_errors()
        });
        let right = spawn_in_namespace(move || {
            side(V4, 1, &right_tx);
            let pod = pod_rx.recv().unwrap();
            sh(&format!(
                "ip link add veth0 type veth peer name eth0 netns {pod} && ip addr add 172.17.0.1/16 dev veth0 \
                 && ip link set veth0 up && ethtool -K veth0 tx off rx off gro off gso off tso off \
                 && sysctl -qw net.ipv4.ip_forward=1"
            ));
            wired_tx.send(()).unwrap();
        });
        let left = spawn_in_namespace(move || {
            side(V4, 0, &left_tx);
            sh("ip route add 172.17.0.0/16 via 10.9.0.2");
            ready_rx.recv().unwrap();
            send_all(TcpStream::connect("172.17.0.2:80").unwrap());
        });
        let wire = Wire::between(left_rx.recv().unwrap(), right_rx.recv().unwrap());
        left.join().unwrap();
        right.join().unwrap();
        assert_eq!(pod.join().unwrap(), "0");
        let [data, _] = wire.finish();
        assert!(data.segments > 5 * data.writes, "nothing was joined: {data:?}");
    });
}

#[test]
fn udp_bursts_cross_as_super_packets_with_their_boundaries() {
    for case in [V4, V6] {
        in_namespace(move || udp_bursts(case));
    }
}

fn udp_bursts(case: Case) {
    const ROUNDS: usize = 20;
    let (left_tx, left_rx) = channel();
    let (right_tx, right_rx) = channel();
    let (ready_tx, ready_rx) = channel::<SocketAddr>();
    let (done_tx, done_rx) = channel::<()>();
    let right = spawn_in_namespace(move || {
        side(case, 1, &right_tx);
        let ip: IpAddr = case.addresses[1].parse().unwrap();
        let mut socket = Socket::bind((ip, 0).into()).unwrap();
        ready_tx.send(socket.local_addr().unwrap()).unwrap();
        let mut poller = Poller::new().unwrap();
        poller.add(&socket, Interest::Read, 0).unwrap();
        let (mut sizes, mut buffer) = (Vec::new(), vec![0; RECEIVE_BUFFER]);
        while sizes.len() < ROUNDS * 30 {
            poller.wait(None, |_| ()).unwrap();
            while let Some(got) = socket.receive(&mut buffer).unwrap() {
                for datagram in got.datagrams() {
                    let fill = (sizes.len() % 30) as u8;
                    assert!(buffer[datagram.clone()].iter().all(|b| *b == fill));
                    sizes.push(datagram.len());
                }
                done_tx.send(()).unwrap();
            }
        }
        sizes
    });
    let left = spawn_in_namespace(move || {
        side(case, 0, &left_tx);
        let to = ready_rx.recv().unwrap();
        let any: IpAddr = case.addresses[0].parse().unwrap();
        let mut socket = Socket::bind((any, 0).into()).unwrap();
        let burst: Vec<Vec<u8>> = (0..30).map(|i| vec![i; if i == 29 { 77 } else { 1200 }]).collect();
        let parts: Vec<_> = burst.iter().map(|d| IoSlice::new(d)).collect();
        for _ in 0..ROUNDS {
            assert_eq!(socket.send(to, None, &parts), 30);
            // One round at a time: this is about boundaries, not about filling the receiver's queue.
            done_rx.recv().unwrap();
        }
    });
    let wire = Wire::between(left_rx.recv().unwrap(), right_rx.recv().unwrap());
    left.join().unwrap();
    let sizes = right.join().unwrap();
    assert!(sizes.chunks(30).all(|round| round[..29].iter().all(|n| *n == 1200) && round[29] == 77));
    let [data, _] = wire.finish();
    assert!(data.segments > 5 * data.reads, "the kernel handed out no super-packets: {data:?}");
    assert!(data.segments > 5 * data.writes, "nothing was joined: {data:?}");
}
