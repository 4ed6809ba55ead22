//! The formats of `core/src/wire`.

use crate::input::Input;
use crate::packets::{is_sound, sum};
use edgemesh_core::packet::{HEADROOM, Packet, TAILROOM};
use edgemesh_core::service::{ServiceView, Table};
use edgemesh_core::wire::control::{FRAME_MAX, Greeting, NodeRecord, Preamble, ToNode, ToServer, updates};
use edgemesh_core::wire::dns::{Header, MAX_NAME, Query, Records, expand};
use edgemesh_core::wire::feed::Update;
use edgemesh_core::wire::ip::{self as core_ip, Checksum, Fragment, Kind, Rewrite, Transport};
use edgemesh_core::wire::path::{self as core_path, Candidates};
use edgemesh_core::wire::relay as core_relay;
use edgemesh_core::wire::wireguard::{self as wg, CookieReply, DataHeader, Initiation, Macs, Response};
use edgemesh_core::wire::{ask, health as core_health};
use std::net::IpAddr;

/// A packet: parsed, rewritten and back, cut, clamped, answered. The first byte chooses what is done.
pub(crate) fn ip(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let (what, number) = (input.byte(), input.u16());
    let packet = input.rest();
    let Ok(t) = Transport::parse(packet) else { return };
    assert!(t.start <= t.l4 && t.l4 <= t.end && t.end <= packet.len(), "{t:?}");
    assert_eq!(t.src.is_ipv4(), t.dst.is_ipv4());
    let mut edited = packet.to_vec();
    match what % 8 {
        0 => {
            if let Ok(inner) = t.quoted(packet) {
                assert!(inner.start >= t.l4 && inner.end <= t.end, "{inner:?}");
                let to = other_end(&inner, number);
                let checksum = if what & 8 == 0 { Checksum::Complete } else { Checksum::Partial };
                let _ = core_ip::rewrite_error(&mut edited, &t, &inner, (t.dst, t.src), &to, checksum);
            }
        }
        1 => there_and_back(packet, &t, number),
        2 => cut(packet, &t, number),
        3 => {
            core_ip::clamp_mss(&mut edited, &t, number, Checksum::Complete).unwrap();
            if whole(&t) && is_sound(&packet[..t.end]) {
                assert!(is_sound(&edited[..t.end]), "a clamped packet's checksum");
            }
        }
        4 => {
            core_ip::finish_checksum(&mut edited, &t).unwrap();
            core_ip::set_fragment_id(&mut edited, &t, number.into()).unwrap();
            core_ip::set_whole_id(&mut edited, &t, number).unwrap();
            assert_eq!(edited.len(), packet.len());
        }
        answer => {
            let mut buffer = [&[0; HEADROOM], packet, &[0; TAILROOM]].concat();
            let mut view = Packet::new(&mut buffer, HEADROOM, packet.len()).unwrap();
            let made = match answer {
                5 => core_ip::reply::tcp_reset(&mut view, &t)
                    .or_else(|_| core_ip::reply::sctp_abort(&mut view, &t)),
                6 if what & 8 == 0 => core_ip::reply::port_unreachable(&mut view, &t),
                6 => core_ip::reply::too_big(&mut view, &t, number),
                _ => core_ip::reply::echo(&mut view, &t, Checksum::Complete),
            };
            if made.is_ok() && (answer != 7 || (whole(&t) && is_sound(&packet[..t.end]))) {
                let again = Transport::parse(view.bytes()).expect("an answer that cannot be read");
                assert_eq!((again.src, again.dst), (t.dst, t.src));
                let plain = view.bytes()[0] == 0x45 || again.src.is_ipv6() && again.l4 == 40;
                if plain && again.protocol != core_ip::SCTP {
                    assert!(
                        is_sound(&view.bytes()[..again.end]),
                        "an answer's checksum: {:02x?}",
                        view.bytes()
                    );
                }
            }
        }
    }
}

/// Without options, whole, and of a protocol whose checksum is a sum.
fn whole(t: &Transport) -> bool {
    let plain = t.l4 - t.start == if t.src.is_ipv4() { 20 } else { 40 };
    plain && t.fragment == Fragment::None && !matches!(t.kind, Kind::Opaque | Kind::Sctp { .. })
}

fn other_end(t: &Transport, number: u16) -> Rewrite {
    let (src, dst): (IpAddr, IpAddr) = if t.src.is_ipv4() {
        ([10, 9, (number >> 8) as u8, number as u8].into(), [242, 0, 0, 7].into())
    } else {
        ([0xfd, 9, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, (number >> 8) as u8, number as u8].into(), t.src)
    };
    Rewrite { src, dst, src_port: number, dst_port: number.wrapping_add(1) }
}

fn there_and_back(packet: &[u8], t: &Transport, number: u16) {
    let mut edited = packet.to_vec();
    let to = other_end(t, number);
    let back = Rewrite { src: t.src, dst: t.dst, src_port: t.src_port, dst_port: t.dst_port };
    if core_ip::rewrite(&mut edited, t, &to, Checksum::Complete).is_err() {
        return;
    }
    if whole(t) && is_sound(&packet[..t.end]) {
        assert!(is_sound(&edited[..t.end]), "a rewritten packet's checksum");
    }
    let there = Transport::parse(&edited).expect("a rewritten packet cannot be read");
    assert_eq!((there.src, there.dst, there.kind, there.end), (to.src, to.dst, t.kind, t.end));
    core_ip::rewrite(&mut edited, &there, &back, Checksum::Complete).expect("no way back");
    let again = Transport::parse(&edited).unwrap();
    assert_eq!(again, *t);
    // A sum has two zeros: which one a field holds that was wrong before may change.
    if whole(t) && is_sound(&packet[..t.end]) {
        assert!(is_sound(&edited[..t.end]), "a restored packet's checksum");
    }
}

/// The fragments of a packet make up the packet.
fn cut(packet: &[u8], t: &Transport, mtu: u16) {
    let mut out = vec![0; usize::from(u16::MAX)];
    let (mut whole, mut more, mut count) = (Vec::new(), true, 0);
    let first = match t.fragment {
        Fragment::Later { offset, .. } => usize::from(offset),
        _ => 0,
    };
    while let Ok(Some(len)) = core_ip::split(packet, t, mtu, count, &mut out) {
        let piece = &out[..len];
        assert!(more && len <= usize::from(mtu).max(20), "{len} of {mtu}");
        let field = u16::from_be_bytes([piece[6], piece[7]]);
        // A fragment's own offset may lie so high that it cannot be cut without running over.
        if first + (t.len() - 20) <= 0xffff {
            assert_eq!(usize::from(field & 0x1fff) * 8, first + whole.len());
        }
        if sum(0, &packet[t.start..t.start + 20]) == 0xffff {
            assert_eq!(sum(0, &piece[..20]), 0xffff, "a fragment's header checksum");
        }
        whole.extend_from_slice(&piece[20..]);
        (more, count) = (field & 0x2000 != 0, count + 1);
    }
    if count > 0 {
        assert_eq!(whole, packet[t.start + 20..t.end]);
        assert_eq!(count, core_ip::pieces(t.len(), mtu));
    }
}

/// A message: header, question, records, every name in them.
pub(crate) fn dns(bytes: &[u8]) {
    let _ = Header::parse(bytes);
    for query in [Query::parse(bytes), Query::parse_question(bytes)].into_iter().flatten() {
        let labels: usize = query.name.labels().map(|label| label.len() + 1).sum();
        assert_eq!(labels + 1, query.name.as_bytes().len());
        let mut name = [0; MAX_NAME];
        let len = expand(bytes, 12, &mut name).expect("a question's name cannot be expanded");
        assert_eq!(&name[..len], query.name.as_bytes());
    }
    let Ok(records) = Records::new(bytes) else { return };
    let mut last = 0;
    for record in records.flatten() {
        assert!(last <= record.at && record.at < record.data && record.data <= record.end);
        assert!(record.end <= bytes.len());
        last = record.end;
        let mut name = [0; MAX_NAME];
        for at in [record.at, record.data] {
            if let Ok(len) = expand(bytes, at, &mut name) {
                assert!(len >= 1 && name[len - 1] == 0);
            }
        }
    }
}

/// A datagram by its kind.
pub(crate) fn wireguard(bytes: &[u8]) {
    let mut message = bytes.to_vec();
    match wg::Kind::of(bytes) {
        Ok(kind) => {
            assert_eq!(kind.field(), bytes[..4]);
            match kind {
                wg::Kind::Initiation => {
                    Initiation::new(&mut message).unwrap().stamp.fill(1);
                    Macs::new(&mut message).unwrap();
                }
                wg::Kind::Response => {
                    Response::new(&mut message).unwrap().empty.fill(1);
                    Macs::new(&mut message).unwrap();
                }
                wg::Kind::CookieReply => _ = CookieReply::new(&mut message).unwrap(),
                wg::Kind::Data => {
                    let header = DataHeader::parse(bytes).unwrap();
                    header.emit(&mut message).unwrap();
                }
            }
            assert_eq!(message.len(), bytes.len());
        }
        Err(_) => {
            let _ = Initiation::new(&mut message).is_ok();
            let _ = Response::new(&mut message).is_ok();
            let _ = CookieReply::new(&mut message).is_ok();
            let _ = Macs::new(&mut message).is_ok();
            let _ = DataHeader::parse(bytes).is_ok();
        }
    }
}

/// A path message, and written again.
pub(crate) fn path(bytes: &[u8]) {
    let Ok(message) = core_path::Message::parse(bytes) else { return };
    assert!(core_path::is_path(bytes));
    let mut out = vec![0; usize::from(u16::MAX)];
    let len = match &message {
        core_path::Message::Candidates(list) => {
            let written: Vec<_> = list.iter().collect();
            let len =
                Candidates::emit(&mut out, list.generation, list.punch, list.asks, written.iter().copied())
                    .unwrap();
            let core_path::Message::Candidates(again) = core_path::Message::parse(&out[..len]).unwrap()
            else {
                panic!("a list became another message")
            };
            assert!(again.iter().eq(written));
            assert_eq!((again.generation, again.punch, again.asks), (list.generation, list.punch, list.asks));
            return;
        }
        core_path::Message::Probe(probe) => probe.emit(&mut out).unwrap(),
        core_path::Message::ProbeAck(ack) => ack.emit(&mut out).unwrap(),
        core_path::Message::CandidatesAck { generation } => {
            core_path::emit_candidates_ack(&mut out, *generation).unwrap()
        }
    };
    assert_eq!(core_path::Message::parse(&out[..len]), Ok(message));
}

/// A relay datagram, and written again.
pub(crate) fn relay(bytes: &[u8]) {
    let key = [7; 32];
    let sealed = core_relay::verify(&key, bytes);
    let Ok(message) = core_relay::Message::parse(bytes) else { return };
    assert!(core_relay::is_relay(bytes));
    let mut out = vec![0; bytes.len().max(core_relay::BIND)];
    let len = message.emit(&key, &mut out).unwrap();
    assert_eq!(core_relay::Message::parse(&out[..len]), Ok(message));
    if let core_relay::Message::Data { .. } | core_relay::Message::Unbound { .. } = message {
        assert_eq!(out[..len], {
            let mut canonical = bytes.to_vec();
            canonical[2..4].fill(0);
            canonical
        });
    } else {
        assert!(core_relay::verify(&key, &out[..len]));
        assert!(!sealed || len == bytes.len());
    }
}

/// A plaintext of the control connection in both directions, and what may be in it.
pub(crate) fn control(bytes: &[u8]) {
    let mut out = vec![0; bytes.len() + FRAME_MAX];
    if let Ok(Some(message)) = ToServer::decode(bytes) {
        let len = message.encode(&mut out).unwrap();
        assert_eq!(ToServer::decode(&out[..len]), Ok(Some(message)));
    }
    if let Ok(Some(message)) = ToNode::decode(bytes) {
        let len = message.encode(&mut out).unwrap();
        assert_eq!(ToNode::decode(&out[..len]), Ok(Some(message.clone())));
        if let ToNode::Feed(body) = message {
            every_update(body);
        }
    }
    if let Some(preamble) = bytes.first_chunk::<4>().and_then(|b| Preamble::parse(*b).ok()) {
        assert_eq!(Some(&preamble.bytes()), bytes.first_chunk());
    }
    let _ = postcard::from_bytes::<Greeting<'_>>(bytes);
    let _ = postcard::from_bytes::<NodeRecord<'_>>(bytes);
    every_update(bytes);
}

fn every_update(body: &[u8]) {
    for update in updates(body).flatten() {
        let written = postcard::to_allocvec(&update).unwrap();
        assert_eq!(postcard::from_bytes::<Update<'_>>(&written), Ok(update));
    }
}

/// A health message, and written again; what fingerprints are made of.
pub(crate) fn health(bytes: &[u8]) {
    let half = bytes.len() / 2;
    let names = (bytes[..half].iter().copied(), bytes[half..].iter().copied());
    let asked = [ask::service(names.0.clone(), names.1), ask::namespace(names.0)];
    assert!(asked.iter().all(|key| key & ask::ASK != 0), "a fingerprint that looks like an index");
    let Ok(down) = core_health::Down::parse(bytes) else { return };
    assert!(core_health::is_health(bytes));
    let mut out = [0; core_health::MESSAGE_MAX];
    let len = core_health::Down::emit(&mut out, down.iter()).unwrap();
    assert!(core_health::Down::parse(&out[..len]).unwrap().iter().eq(down.iter()));
}

edgemesh_core::memory! {
    struct Room {
        peers: 2, window: 2, handshakes: 2, flows: 2, admitted: 2,
        services: 4, ports: 6, endpoints: 6, names: 12, namespaces: 4, side: 4,
    }
}

/// Updates of the Service table in any order, as the feed carries them: it keeps its bounds, and an empty list
/// empties it.
pub(crate) fn services(bytes: &[u8]) {
    let mut room = Box::new(Room::ZERO);
    let mut rng = edgemesh_core::rng::Rng::new([1; 32]);
    let mut table = Table::new(room.lend().services, &mut rng);
    for update in updates(bytes) {
        let Ok(update) = update else { break };
        let _ = table.apply(&update);
        for service in table.services() {
            let (namespace, name) = (service.namespace().to_string(), service.name().to_string());
            assert!(table.service(&namespace, &name).is_some(), "{namespace}/{name} is listed and not found");
            let _: usize = ports(&service) + service.endpoints().count();
        }
        assert!(table.len() <= 4 && table.endpoint_count() <= 6);
    }
    table.apply(&Update::Begin).unwrap();
    table.apply(&Update::End).unwrap();
    assert_eq!((table.len(), table.endpoint_count()), (0, 0));
}

fn ports(service: &ServiceView<'_>) -> usize {
    service.ports().filter(|port| port.port() > 0).count()
}
