use super::packets::{PORT, TARGET, answer, define, endpoint, query, udp, vip};
use super::*;
use edgemesh_core::dns::{Transport, Verdict};
use edgemesh_core::node::{Burst, Outbound};
use edgemesh_core::packet::{HEADROOM, TAILROOM};

edgemesh_core::memory! {
    struct Room {
        peers: 4,
        window: 3,
        handshakes: 4,
        flows: 8,
        admitted: 8,
        services: 4,
        ports: 8,
        endpoints: 8,
        names: 16,
        namespaces: 4,
        side: 8,
    }
}

fn with_room(packet: &[u8]) -> Vec<u8> {
    [&[0; HEADROOM], packet, &[0; TAILROOM]].concat()
}

/// Sends a packet of `from`'s to `to`; what arrives there, translated.
fn cross(star: &mut Star<'_>, from: u32, to: u32, packet: &[u8]) -> Vec<u8> {
    let now = star.now;
    let mut buffer = with_room(packet);
    let mut view = Packet::new(&mut buffer, HEADROOM, packet.len()).unwrap();
    let engine = star.engine(from);
    let Outbound::Seal(grant) = engine.outbound(now, &mut view, Burst::single(packet.len())) else {
        panic!("not sealed");
    };
    assert_eq!(grant.first.to, Destination::Socket { local: 0, remote: address(to) });
    let key = engine.tunnels().send_key::<ChaChaPoly>(grant.sending.key).unwrap();
    tunnel::seal(&key, grant.sending.first, &mut view, usize::MAX).unwrap();
    let mut datagram = view.bytes().to_vec();
    let engine = star.engine(to);
    let source = From::Socket { local: 0, remote: address(from) };
    let Classified::Data(ticket, source, start) = engine.classify(now, source, &datagram) else {
        panic!("no data");
    };
    let key = engine.tunnels().recv_key::<ChaChaPoly>(ticket.key).unwrap();
    let len = datagram.len() - start;
    let mut view = Packet::new(&mut datagram, start, len).unwrap();
    let opened = tunnel::open(&key, ticket, &mut view).unwrap();
    assert_eq!(engine.inbound(now, source, opened, &mut view), Inbound::Deliver);
    view.bytes()[..packet.len()].to_vec()
}

#[test]
fn the_hub_reaches_its_peers_directly_and_they_answer() {
    let mut rooms = [Room::ZERO, Room::ZERO, Room::ZERO];
    let mut star = Star::new(Instant::ZERO, rooms.iter_mut().map(Room::lend).zip((1..).map(address)));
    for index in 1..=3 {
        define(star.engine(index), 2, |service| service + 2);
    }
    star.connect();
    let client = (Ipv4Addr::new(172, 30, 0, 9), 4321);
    for service in 0..2 {
        let packet = udp(client, (vip(service), PORT), 1408);
        let arrived = cross(&mut star, 1, service + 2, &packet);
        assert_eq!(arrived[16..20], endpoint(service).octets());
        assert_eq!(arrived[22..24], TARGET.to_be_bytes());
        let back = cross(&mut star, service + 2, 1, &answer(&arrived, 100));
        assert_eq!(back, answer(&packet, 100), "checksums and all");
        let verdict = star.engine(1).query(
            Instant::ZERO,
            Transport::Udp,
            &query(&packets::name(service)),
            &mut [0; 512],
        );
        assert!(matches!(verdict, Verdict::Answer { .. }), "{verdict:?}");
    }
}
