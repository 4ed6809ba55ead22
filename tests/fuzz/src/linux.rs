//! The agent's own formats: super-packets of the TUN device, netlink answers, texts.

use crate::input::Input;
use crate::packets::is_sound;
use edgemesh_agent::dns::parse_resolv_conf;
use edgemesh_agent::netlink;
use edgemesh_agent::offload::{
    Coalescer, GsoType, VNET_HDR_LEN, VnetHdr, count, finish_checksum, fragment, segment as cut,
};
use edgemesh_agent::prefix::Prefix;

/// Prefixes and `resolv.conf`.
pub(crate) fn texts(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    if let Ok(prefix) = text.parse::<Prefix>() {
        assert_eq!(prefix.to_string().parse::<Prefix>().ok(), Some(prefix));
        assert!(prefix.contains(prefix.address()));
    }
    assert!(parse_resolv_conf(&text).len() <= text.len());
}

/// Answers of the kernel.
pub(crate) fn netlink(bytes: &[u8]) {
    assert!(netlink::understood(bytes) <= bytes.len());
}

/// A super-packet as the device gives it: its segments carry its payload, in order, with right checksums.
pub(crate) fn segment(bytes: &[u8]) {
    let Some((head, packet)) = bytes.split_first_chunk::<VNET_HDR_LEN>() else { return };
    let header = VnetHdr::parse(head);
    assert_eq!(VnetHdr::parse(&header.emit()), header);
    let mut out = vec![0; 64 * 1024];
    if let Ok(pieces) = fragment(packet, header.gso_size, &mut out) {
        assert!((0..pieces.count()).all(|n| pieces.range(n).len() <= usize::from(header.gso_size)));
    }
    let mut finished = packet.to_vec();
    let _ = finish_checksum(&header, &mut finished);
    let counted = count(&header, packet);
    let Ok(segments) = cut(&header, packet, &mut out) else { return };
    let (number, largest) = counted.expect("cut, but not counted");
    assert_eq!(usize::from(number), segments.count());
    let longest = (0..segments.count()).map(|n| segments.range(n).len()).max();
    assert_eq!(longest, Some(usize::from(largest)));
    if header.gso_type == GsoType::None {
        return;
    }
    // All headers are as long as the first one's.
    let total: usize = (0..segments.count()).map(|n| segments.range(n).len()).sum();
    let headers = (total - packet.len()) / (segments.count() - 1).max(1);
    if segments.count() > 1 {
        let payload: Vec<u8> =
            (0..segments.count()).flat_map(|n| out[segments.range(n)][headers..].to_vec()).collect();
        assert_eq!(payload, packet[headers..], "the payload of the segments");
        for n in 0..segments.count() {
            let piece = &out[segments.range(n)];
            if piece[0] == 0x45 || piece[0] >> 4 == 6 {
                assert!(is_sound(piece), "segment {n}: {piece:02x?}");
            }
        }
    }
}

/// Packets joined for the device and cut again are the packets.
pub(crate) fn coalesce(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let mut coalescer = Coalescer::new(input.flag());
    let (mut buffer, mut pushed) = (Vec::new(), Vec::new());
    let mut template =
        crate::packets::tcp(([10, 0, 0, 1], 80).into(), ([10, 0, 0, 2], 4000).into(), 0x10, 1, &[0; 40]);
    let mut sequence = 1u32;
    let mut ranges = Vec::new();
    while !input.is_empty() && ranges.len() < 80 {
        let packet = match input.byte() % 8 {
            0 => input.some().to_vec(),
            1 => {
                let (at, value) = (input.below(template.len()), input.byte());
                template[at] = value;
                template.clone()
            }
            n => {
                // The next segment of one of two connections, over IPv4 or IPv6, or a datagram.
                let payload = vec![n; input.below(200)];
                let port = 4000 + u16::from(n & 1);
                let (from, to) = if n & 4 == 0 {
                    (([10, 0, 0, 1], 80).into(), ([10, 0, 0, 2], port).into())
                } else {
                    (([0xfd, 0, 0, 0, 0, 0, 0, 1], 80).into(), ([0xfd, 0, 0, 0, 0, 0, 0, 2], port).into())
                };
                if n & 2 == 0 {
                    let packet = crate::packets::tcp(from, to, input.byte(), sequence, &payload);
                    sequence = sequence.wrapping_add(payload.len() as u32);
                    packet
                } else {
                    crate::packets::udp(from, to, ranges.len() as u16, &payload)
                }
            }
        };
        ranges.push((buffer.len(), packet.len()));
        buffer.extend(&packet);
        pushed.push(packet);
    }
    for (start, len) in &ranges {
        coalescer.push(&buffer, *start, *len).expect("there is room for a batch");
    }
    let mut written = Vec::new();
    let mut out = vec![0; 256 * 1024];
    coalescer.drain(&mut buffer, |packet| {
        let whole: Vec<u8> = packet.parts.iter().skip(1).flat_map(|part| part.to_vec()).collect();
        if packet.header == VnetHdr::default() {
            return written.push(whole);
        }
        let segments = cut(&packet.header, &whole, &mut out).expect("joined, but not to be cut");
        assert_eq!(segments.count(), packet.packets);
        written.extend((0..segments.count()).map(|n| out[segments.range(n)].to_vec()));
    });
    assert_eq!(written.len(), pushed.len());
    // Joining keeps the order within a connection, not between connections.
    let key = |p: &Vec<u8>| p.clone();
    pushed.sort_by_key(key);
    written.sort_by_key(key);
    assert!(pushed == written, "packets came out changed");
}
