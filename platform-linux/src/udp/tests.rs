//! On real sockets; what needs devices runs in network namespaces.

use super::*;
use crate::poll::{Interest, Poller};
use crate::testing::{in_namespace, sh};

fn socket(address: &str) -> Socket {
    Socket::bind(address.parse().unwrap()).unwrap()
}

/// Receives until `count` datagrams came.
fn receive(socket: &mut Socket, count: usize) -> Vec<(Vec<u8>, Received)> {
    let mut poller = Poller::new().unwrap();
    poller.add(&*socket, Interest::Read, 0).unwrap();
    let (mut all, mut buffer) = (Vec::new(), vec![0; RECEIVE_BUFFER]);
    while all.len() < count {
        poller.wait(None, |_| ()).unwrap();
        while let Some(got) = socket.receive(&mut buffer).unwrap() {
            all.extend(got.datagrams().map(|range| (buffer[range].to_vec(), got)));
        }
    }
    all
}

fn datagrams(count: usize, size: usize, last: usize) -> Vec<Vec<u8>> {
    (0..count).map(|i| vec![i as u8; if i + 1 == count { last } else { size }]).collect()
}

fn slices(datagrams: &[Vec<u8>]) -> Vec<IoSlice<'_>> {
    datagrams.iter().map(|d| IoSlice::new(d)).collect()
}

#[test]
fn bursts_arrive_whole_in_order_and_joined() {
    for address in ["127.0.0.1:0", "[::1]:0"] {
        let (mut a, mut b) = (socket(address), socket(address));
        let to = b.local_addr().unwrap();
        for (count, size, last) in [(1, 1448, 1448), (45, 1448, 700), (64, 900, 900), (100, 1000, 1)] {
            let sent = datagrams(count, size, last);
            assert_eq!(a.send(to, None, &slices(&sent)), count);
            let got = receive(&mut b, count);
            assert_eq!(got.iter().map(|(d, _)| d.clone()).collect::<Vec<_>>(), sent);
            assert!(got.iter().all(|(_, r)| r.from == a.local_addr().unwrap() && r.to == Some(to.ip())));
            if count == 45 {
                assert_eq!(got[0].1.segment, 1448);
                assert!(got[0].1.len > 1448, "the kernel joined nothing");
            }
        }
        assert_eq!(a.errors(), SendErrors::default());
    }
}

#[test]
fn an_empty_datagram_is_one_datagram() {
    let (mut a, mut b) = (socket("127.0.0.1:0"), socket("127.0.0.1:0"));
    let to = b.local_addr().unwrap();
    assert_eq!(a.send(to, None, &[IoSlice::new(&[])]), 1);
    assert_eq!(receive(&mut b, 1)[0].0, b"");
}

#[test]
fn a_reply_leaves_from_the_address_it_was_asked_at() {
    let (mut a, mut b) = (socket("127.0.0.1:0"), socket("0.0.0.0:0"));
    let port = b.local_addr().unwrap().port();
    a.send(SocketAddr::from(([127, 0, 0, 9], port)), None, &[IoSlice::new(b"?")]);
    let (_, asked) = receive(&mut b, 1).remove(0);
    assert_eq!(asked.to, Some(IpAddr::from([127, 0, 0, 9])));
    b.send(asked.from, asked.to, &[IoSlice::new(b"!")]);
    let (_, answer) = receive(&mut a, 1).remove(0);
    assert_eq!(answer.from, SocketAddr::from(([127, 0, 0, 9], port)));
}

#[test]
fn what_the_network_refuses_is_counted_and_never_fatal() {
    in_namespace(|| {
        let mut a = socket("0.0.0.0:0");
        let sent = datagrams(10, 100, 100);
        assert_eq!(a.send("192.0.2.1:9".parse().unwrap(), None, &slices(&sent)), 0);
        assert_eq!(a.errors(), SendErrors { unreachable: 10, ..SendErrors::default() });
        sh(
            "iptables-nft -A OUTPUT -p udp --dport 9 -j DROP || nft 'add table ip t; add chain ip t o { type filter hook output priority 0; }; add rule ip t o udp dport 9 drop'",
        );
        assert_eq!(a.send("127.0.0.1:9".parse().unwrap(), None, &slices(&sent[..1])), 0);
        assert_eq!(a.errors().denied, 1);
        let mut b = socket("127.0.0.1:0");
        assert_eq!(a.send(b.local_addr().unwrap(), None, &slices(&sent)), 10);
        assert_eq!(receive(&mut b, 10).len(), 10);
    });
}

#[test]
fn a_narrow_path_gets_fragments_and_probes_are_refused() {
    in_namespace(|| {
        sh("ip link set lo mtu 1280");
        let (mut a, mut b) = (socket("127.0.0.1:0"), socket("127.0.0.1:0"));
        let to = b.local_addr().unwrap();
        let sent = datagrams(20, 1448, 1448);
        for _ in 0..3 {
            assert_eq!(a.send(to, None, &slices(&sent)), 20);
            let got = receive(&mut b, 20);
            assert_eq!(got.into_iter().map(|(d, _)| d).collect::<Vec<_>>(), sent);
        }
        assert!(!a.narrow.allows(to.ip(), 1448), "the refusal was not remembered");
        let refused = a.send_probe(to, None, &sent[0]).unwrap_err();
        assert_eq!(refused.raw_os_error(), Some(libc::EMSGSIZE));
        a.send_probe(to, None, &sent[0][..1252]).unwrap();
        assert_eq!(receive(&mut b, 1)[0].0.len(), 1252);
        assert_eq!(a.send(to, None, &slices(&sent[..1])), 1);
        assert_eq!(a.errors(), SendErrors::default());
    });
}

#[test]
fn only_probes_carry_the_dont_fragment_bit() {
    in_namespace(|| {
        let tun = crate::tun::Tun::open("emtest0", 1408).unwrap();
        sh("ip addr add 10.9.0.1/24 dev emtest0");
        let mut a = socket("10.9.0.1:0");
        let to = "10.9.0.2:9".parse().unwrap();
        a.send(to, None, &[IoSlice::new(b"data")]);
        a.send_probe(to, None, b"probe").unwrap();
        a.send(to, None, &[IoSlice::new(b"data")]);
        let mut buffer = [0; 2048];
        let mut flags = Vec::new();
        while flags.len() < 3 {
            if tun.read(&mut buffer).unwrap().is_some() && buffer[0] >> 4 == 4 {
                flags.push(buffer[6] >> 6 & 1);
            }
        }
        assert_eq!(flags, [0, 1, 0]);
    });
}

#[test]
fn a_buffer_that_is_too_small_costs_a_counter() {
    let (mut a, mut b) = (socket("127.0.0.1:0"), socket("127.0.0.1:0"));
    a.send(b.local_addr().unwrap(), None, &[IoSlice::new(&[1; 100])]);
    a.send(b.local_addr().unwrap(), None, &[IoSlice::new(&[2; 10])]);
    let mut buffer = [0; 50];
    let got = b.receive(&mut buffer).unwrap().unwrap();
    assert_eq!((got.len, buffer[0], b.truncated()), (10, 2, 1));
}

#[test]
fn a_port_in_use_is_an_error() {
    let a = socket("127.0.0.1:0");
    assert!(matches!(Socket::bind(a.local_addr().unwrap()), Err(e) if e.kind() == io::ErrorKind::AddrInUse));
}
