//! Cutting and joining against each other and against slow, independent arithmetic.

use edgemesh_core::packet::{HEADROOM, TAILROOM};
use proptest::prelude::*;

use super::checksum::slow;
use super::*;

const FIN: u8 = 0x01;

/// A packet described the way a person would, built byte by byte.
#[derive(Clone, Debug)]
struct Spec {
    v6: bool,
    tcp: bool,
    port: u16,
    sequence: u32,
    acknowledgement: u32,
    flags: u8,
    window: u16,
    options: usize,
    id: u16,
    df: bool,
    tos: u8,
    payload: Vec<u8>,
}

impl Spec {
    fn l4(&self) -> usize {
        if self.v6 { 40 } else { 20 }
    }

    fn header_len(&self) -> usize {
        self.l4() + if self.tcp { 20 + self.options } else { 8 }
    }

    /// The packet with every checksum complete, or with the pseudo-header sum in the transport checksum.
    fn build(&self, partial: bool) -> Vec<u8> {
        let mut transport = Vec::new();
        transport.extend_from_slice(&self.port.to_be_bytes());
        transport.extend_from_slice(&80u16.to_be_bytes());
        if self.tcp {
            transport.extend_from_slice(&self.sequence.to_be_bytes());
            transport.extend_from_slice(&self.acknowledgement.to_be_bytes());
            transport.extend_from_slice(&[((20 + self.options) / 4 * 16) as u8, self.flags]);
            transport.extend_from_slice(&self.window.to_be_bytes());
            transport.extend_from_slice(&[0, 0, 0, 0]);
            transport.extend((0..self.options).map(|i| i as u8));
        } else {
            transport.extend_from_slice(&((8 + self.payload.len()) as u16).to_be_bytes());
            transport.extend_from_slice(&[0, 0]);
        }
        transport.extend_from_slice(&self.payload);
        let mut packet = Vec::new();
        let protocol = if self.tcp { 6 } else { 17 };
        if self.v6 {
            packet.extend_from_slice(&[0x60 | self.tos >> 4, self.tos << 4, 0, 7]);
            packet.extend_from_slice(&(transport.len() as u16).to_be_bytes());
            packet.extend_from_slice(&[protocol, 64]);
            packet.extend_from_slice(&[0xfd; 16]);
            packet.extend_from_slice(&[0xfc; 16]);
        } else {
            packet.extend_from_slice(&[0x45, self.tos]);
            packet.extend_from_slice(&((20 + transport.len()) as u16).to_be_bytes());
            packet.extend_from_slice(&self.id.to_be_bytes());
            packet.extend_from_slice(&[if self.df { 0x40 } else { 0 }, 0, 64, protocol, 0, 0]);
            packet.extend_from_slice(&[242, 0, 0, 1, 172, 17, 0, 2]);
            let sum = !slow::sum(&packet);
            packet[10..12].copy_from_slice(&sum.to_be_bytes());
        }
        let mut pseudo = packet[if self.v6 { 8..40 } else { 12..20 }].to_vec();
        pseudo.extend_from_slice(&(transport.len() as u32).to_be_bytes());
        pseudo.extend_from_slice(&[0, 0, 0, protocol]);
        let field = if partial {
            slow::sum(&pseudo)
        } else {
            pseudo.extend_from_slice(&transport);
            let full = !slow::sum(&pseudo);
            if full == 0 { 0xffff } else { full }
        };
        let at = if self.tcp { 16 } else { 6 };
        transport[at..at + 2].copy_from_slice(&field.to_be_bytes());
        packet.extend_from_slice(&transport);
        packet
    }

    fn header(&self, gso_size: u16) -> VnetHdr {
        VnetHdr {
            needs_csum: true,
            gso_type: match (self.tcp, self.v6) {
                (true, false) => GsoType::TcpV4,
                (true, true) => GsoType::TcpV6,
                (false, _) => GsoType::UdpL4,
            },
            hdr_len: self.header_len() as u16,
            gso_size,
            csum_start: self.l4() as u16,
            csum_offset: if self.tcp { 16 } else { 6 },
        }
    }

    /// What the kernel's own segmentation would send: built one by one.
    fn expected(&self, gso_size: usize) -> Vec<Vec<u8>> {
        let count = self.payload.len().div_ceil(gso_size);
        (0..count)
            .map(|i| {
                let mut one = self.clone();
                one.payload =
                    self.payload[i * gso_size..((i + 1) * gso_size).min(self.payload.len())].to_vec();
                one.sequence = self.sequence.wrapping_add((i * gso_size) as u32);
                one.id = self.id.wrapping_add(i as u16);
                if i > 0 {
                    one.flags &= !0x80;
                }
                if i + 1 < count {
                    one.flags &= !0x09;
                }
                one.build(false)
            })
            .collect()
    }
}

fn a_spec() -> impl Strategy<Value = Spec> {
    let shape = (any::<bool>(), any::<bool>(), any::<u16>(), any::<u32>(), any::<u32>(), any::<u16>());
    let rest = (0usize..=10, any::<u16>(), any::<bool>(), any::<u8>(), any::<bool>(), any::<bool>());
    (shape, rest, proptest::collection::vec(any::<u8>(), 1..6000)).prop_map(|(shape, rest, payload)| {
        let (v6, tcp, port, sequence, acknowledgement, window) = shape;
        let (options, id, df, tos, psh, fin) = rest;
        let flags = 0x10 | (u8::from(psh) * 8) | (u8::from(fin) * FIN);
        Spec {
            v6,
            tcp,
            port,
            sequence,
            acknowledgement,
            flags,
            window,
            options: options * 4,
            id,
            df,
            tos,
            payload,
        }
    })
}

fn cut(header: &VnetHdr, packet: &[u8]) -> Vec<Vec<u8>> {
    let mut out = vec![0xaa; SEGMENT_BUFFER];
    let segments = segment(header, packet, &mut out).unwrap();
    let ranges: Vec<_> = (0..segments.count()).map(|i| out[segments.range(i)].to_vec()).collect();
    let slots: Vec<_> = segments
        .slots(&mut out)
        .map(|(slot, len)| {
            assert!(slot.len() >= HEADROOM + len + TAILROOM);
            slot[HEADROOM..HEADROOM + len].to_vec()
        })
        .collect();
    assert_eq!(ranges, slots);
    ranges
}

/// Pushes all packets as one receive buffer and returns what comes out, as header, bytes and number of packets.
fn join(packets: &[Vec<u8>], udp: bool) -> Vec<(VnetHdr, Vec<u8>, usize)> {
    let mut coalescer = Coalescer::new(udp);
    let mut buffer = Vec::new();
    let mut places = Vec::new();
    for packet in packets {
        buffer.extend_from_slice(&[0x55; 48]);
        places.push((buffer.len(), packet.len()));
        buffer.extend_from_slice(packet);
    }
    let mut out = Vec::new();
    let mut take = |packet: SuperPacket<'_>| {
        assert_eq!(&*packet.parts[0], &packet.header.emit());
        let bytes = packet.parts[1..].iter().flat_map(|part| part.to_vec()).collect();
        out.push((packet.header, bytes, packet.packets));
    };
    for (start, len) in places {
        if coalescer.push(&buffer, start, len).is_err() {
            coalescer.drain(&mut buffer, &mut take);
            coalescer.push(&buffer, start, len).unwrap();
        }
    }
    coalescer.drain(&mut buffer, &mut take);
    assert!(coalescer.is_empty());
    out
}

proptest! {
    #[test]
    fn segments_are_those_of_an_independent_builder(spec in a_spec(), cwr in any::<bool>(), size in 1u16..2000) {
        let mut spec = spec;
        spec.flags |= u8::from(cwr) * 0x80;
        let size = size.max((spec.payload.len() / 900) as u16 + 1);
        let got = cut(&spec.header(size), &spec.build(true));
        prop_assert!(got.iter().all(|p| slow::packet_is_sound(p)));
        prop_assert_eq!(got, spec.expected(usize::from(size)));
    }

    #[test]
    fn cutting_and_joining_gives_the_super_packet_back(spec in a_spec(), size in 100u16..3000) {
        let spec = Spec { flags: spec.flags & !FIN, ..spec };
        let packet = spec.build(true);
        let header = spec.header(size);
        let segments = cut(&header, &packet);
        let joined = join(&segments, true);
        prop_assert_eq!(joined.len(), 1);
        if segments.len() > 1 {
            prop_assert_eq!(&joined[0], &(header, packet, segments.len()));
        } else {
            prop_assert_eq!(&joined[0], &(VnetHdr::default(), segments[0].clone(), 1));
        }
    }

    #[test]
    fn a_lone_packet_gets_the_right_checksum(spec in a_spec()) {
        let mut packet = spec.build(true);
        let header = VnetHdr { gso_type: GsoType::None, gso_size: 0, ..spec.header(0) };
        prop_assert_eq!(cut(&header, &packet), vec![spec.build(false)]);
        finish_checksum(&header, &mut packet).unwrap();
        prop_assert_eq!(packet, spec.build(false));
    }

    /// Whatever comes in, cutting what comes out gives every packet back, in the order of its flow.
    #[test]
    fn joining_loses_changes_and_reorders_nothing(
        bursts in proptest::collection::vec((a_spec(), 0u16..3, 0u8..10, 200u16..1500), 1..12),
        mix in any::<u64>(),
    ) {
        let mut flows: Vec<std::collections::VecDeque<Vec<u8>>> = vec![Default::default(); 3];
        for (mut spec, port, trouble, size) in bursts {
            spec.port = port;
            // Identification is the one field that joining may renumber (RFC 6864); compare without that case.
            spec.df = false;
            let mut packets = spec.expected(usize::from(size));
            let middle = packets.len() / 2;
            let transport = spec.l4();
            match trouble {
                0 => packets[middle][transport + 4] ^= 1,
                1 => *packets[middle].last_mut().unwrap() ^= 0x80,
                2 if !spec.v6 => packets[middle][6] |= 0x20,
                3 => packets.swap(0, middle),
                4 => drop(packets.remove(middle)),
                5 => packets[middle][1] ^= 0x10,
                _ => {}
            }
            flows[usize::from(port)].extend(packets);
        }
        let mut mixed = Vec::new();
        let mut state = mix | 1;
        while flows.iter().any(|flow| !flow.is_empty()) {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            if let Some(packet) = flows[(state >> 33) as usize % 3].pop_front() {
                mixed.push(packet);
            }
        }
        let out = join(&mixed, true);
        let mut got = Vec::new();
        for (header, bytes, packets) in &out {
            let pieces = if *packets == 1 { vec![bytes.clone()] } else { cut(header, bytes) };
            prop_assert_eq!(pieces.len(), *packets);
            if *packets > 1 {
                prop_assert!(pieces.iter().all(|p| slow::packet_is_sound(p)), "a corrupt packet was laundered");
            }
            got.extend(pieces);
        }
        let of = |packets: &[Vec<u8>], port: u16| -> Vec<Vec<u8>> {
            let l4 = |p: &Vec<u8>| if p[0] >> 4 == 4 { 20 } else { 40 };
            packets.iter().filter(|p| p[l4(p)..l4(p) + 2] == port.to_be_bytes()).cloned().collect()
        };
        for port in 0..3 {
            for protocol in [6, 17] {
                for version in [4, 6] {
                    let one = |p: &Vec<u8>| p[0] >> 4 == version && p[if version == 4 { 9 } else { 6 }] == protocol;
                    let sent: Vec<_> = of(&mixed, port).into_iter().filter(|p| one(p)).collect();
                    let came: Vec<_> = of(&got, port).into_iter().filter(|p| one(p)).collect();
                    prop_assert_eq!(came, sent);
                }
            }
        }
    }

    #[test]
    fn no_header_and_no_packet_makes_them_panic(
        bytes in proptest::collection::vec(any::<u8>(), 0..120),
        raw in any::<[u8; 10]>(),
        version in prop_oneof![Just(0x45u8), Just(0x60), any::<u8>()],
    ) {
        let mut bytes = bytes;
        if let Some(first) = bytes.first_mut() {
            *first = version;
        }
        let mut out = vec![0; 4096];
        let header = VnetHdr::parse(&raw);
        if let Ok(segments) = segment(&header, &bytes, &mut out) {
            prop_assert!(segments.range(segments.count() - 1).end + TAILROOM <= out.len());
        }
        let copies = vec![bytes.clone(), bytes.clone()];
        let packets: usize = join(&copies, true).iter().map(|(_, _, packets)| packets).sum();
        prop_assert_eq!(packets, 2);
    }
}

fn plain(len: usize) -> Spec {
    Spec {
        v6: false,
        tcp: true,
        port: 4000,
        sequence: 1,
        acknowledgement: 2,
        flags: 0x10,
        window: 500,
        options: 12,
        id: 7,
        df: true,
        tos: 0,
        payload: vec![0x5a; len],
    }
}

fn group_sizes(packets: &[Vec<u8>]) -> Vec<usize> {
    join(packets, true).iter().map(|(_, _, packets)| *packets).collect()
}

#[test]
fn push_ends_a_super_packet() {
    let mut packets = plain(4000).expected(1000);
    let mut spec = plain(1000);
    (spec.sequence, spec.id, spec.flags) = (1001, 8, 0x18);
    packets[1] = spec.build(false);
    assert_eq!(group_sizes(&packets), [2, 2]);
}

#[test]
fn flags_that_begin_and_end_connections_and_rare_ones_never_join() {
    for flag in [FIN, 0x02, 0x04, 0x20, 0x80] {
        let mut packets = plain(3000).expected(1000);
        let mut spec = plain(1000);
        (spec.sequence, spec.id, spec.flags) = (1001, 8, 0x10 | flag);
        packets[1] = spec.build(false);
        assert_eq!(group_sizes(&packets), [1, 1, 1], "flag {flag:#x}");
    }
}

/// What continues a packet is told by both as they came, and is written behind the first as that one is by then.
#[test]
fn only_the_first_packet_is_translated() {
    let mut spec = plain(3000);
    let came = spec.expected(1000);
    spec.port += 1;
    let wanted = spec.build(true);
    let first = spec.expected(1000)[0].clone();
    let mut coalescer = Coalescer::new(true);
    let mut buffer = came.concat();
    let place = |n: usize| came[..n].concat().len()..came[..=n].concat().len();
    for (n, packet) in came.iter().enumerate() {
        let seen = coalescer.look(packet, 7);
        assert_eq!(coalescer.join(&buffer, place(n), &seen), n > 0);
        if n == 0 {
            buffer[place(0)].copy_from_slice(&first);
            assert_eq!(coalescer.begin(&buffer, place(0), &seen), Ok(()));
        }
    }
    let mut written = Vec::new();
    coalescer.drain(&mut buffer, |packet| {
        written.push(packet.parts[1..].iter().flat_map(|part| part.to_vec()).collect::<Vec<u8>>());
    });
    assert_eq!(written, [wanted]);
}

#[test]
fn padding_is_no_part_of_a_packet() {
    for v6 in [false, true] {
        let packet = Spec { v6, ..plain(64) }.build(false);
        let padded = [&packet[..], &[0; 15]].concat();
        assert_eq!((length(&padded), length(&packet)), (packet.len(), packet.len()));
        assert_eq!(length(&packet[..packet.len() - 1]), packet.len() - 1, "it says more than is there");
    }
    assert_eq!((length(&[]), length(&[0x45, 0, 0, 0]), length(&[0x15; 30])), (0, 4, 30));
}

#[test]
fn packets_of_two_peers_never_join() {
    let packets = plain(3000).expected(1000);
    let mut coalescer = Coalescer::new(true);
    let first = coalescer.look(&packets[0], 1);
    assert_eq!(coalescer.begin(&packets.concat(), 0..packets[0].len(), &first), Ok(()));
    let place = packets[0].len()..packets[0].len() + packets[1].len();
    for (peer, joins) in [(2, false), (1, true)] {
        let seen = coalescer.look(&packets[1], peer);
        assert_eq!(coalescer.join(&packets.concat(), place.clone(), &seen), joins);
    }
}

#[test]
fn a_pure_acknowledgement_keeps_its_place() {
    let mut packets = plain(3000).expected(1000);
    let mut ack = plain(0);
    ack.sequence = 1001;
    packets.insert(1, ack.build(false));
    assert_eq!(group_sizes(&packets), [1, 1, 2]);
}

#[test]
fn a_corrupt_segment_stays_alone() {
    let mut packets = plain(5000).expected(1000);
    packets[2][700] ^= 4;
    assert_eq!(group_sizes(&packets), [2, 1, 2]);
    let mut packets = plain(3000).expected(1000);
    packets[0][700] ^= 4;
    assert_eq!(group_sizes(&packets), [1, 2]);
}

#[test]
fn udp_is_joined_only_where_the_device_takes_it() {
    let mut spec = plain(3000);
    spec.tcp = false;
    let packets = spec.expected(1000);
    assert_eq!(join(&packets, true).len(), 1);
    assert_eq!(join(&packets, false).len(), 3);
}

#[test]
fn a_datagram_without_checksum_stays_alone() {
    let mut spec = plain(3000);
    spec.tcp = false;
    let mut packets = spec.expected(1000);
    packets.iter_mut().for_each(|p| p[26..28].fill(0));
    assert_eq!(group_sizes(&packets), [1, 1, 1]);
}

#[test]
fn a_super_packet_never_exceeds_what_an_ip_header_can_say() {
    let mut spec = plain(60_000);
    let mut packets = spec.expected(20_000);
    spec.sequence += 60_000;
    spec.id += 3;
    packets.extend(spec.expected(20_000));
    assert_eq!(group_sizes(&packets), [3, 3]);
    let many = plain(65 * 10).expected(10);
    assert_eq!(group_sizes(&many), [64, 1]);
}

#[test]
fn a_full_batch_says_so() {
    let packet = plain(100).build(false);
    let mut coalescer = Coalescer::new(true);
    for _ in 0..MAX_BATCH {
        assert_eq!(coalescer.push(&packet, 0, packet.len()), Ok(()));
    }
    assert_eq!(coalescer.push(&packet, 0, packet.len()), Err(Full));
}

#[test]
fn segments_that_do_not_fit_are_refused() {
    let spec = plain(5000);
    let mut out = vec![0; 4000];
    assert_eq!(segment(&spec.header(1000), &spec.build(true), &mut out), Err(SegmentError::NoRoom));
    let mut wrong = spec.header(1000);
    wrong.csum_start = 24;
    assert_eq!(segment(&wrong, &spec.build(true), &mut out), Err(SegmentError::Malformed));
    wrong = spec.header(0);
    assert_eq!(segment(&wrong, &spec.build(true), &mut out), Err(SegmentError::Malformed));
}

#[test]
fn the_smallest_segments_of_the_largest_burst_fit_the_buffer() {
    let spec = plain(61_072 - 52);
    assert_eq!(cut(&spec.header(48), &spec.build(true)).len(), (61_072usize - 52).div_ceil(48));
}
