//! Path messages: what two nodes tell each other, inside their WireGuard session, about how to reach them.
//!
//! ```text
//!  0          1       2                4
//!  version    kind    count or tag     flags     body
//! ```
//! All little-endian. The version byte's high nibble is 1, which no IP packet has, so a stock WireGuard drops
//! the message after decryption. Bytes behind a message are ignored: the session pads to 16, and a later
//! release may append fields. Entries of an unknown kind or family are skipped.
//!
//! * `Candidates`: where its sender may be reached; `CandidatesAck`: the list has arrived
//! * `Probe`: asks for a `ProbeAck` with the same proof; padded, it also measures the path's MTU
//!
//! An acknowledgement is never longer than the shortest probe, so nobody is amplified.

use super::{ip_bytes, ip_of};
use crate::counters::DropReason;
use core::net::SocketAddr;

/// First byte of every path message: high nibble 1, low nibble the version.
pub const HEAD: u8 = 0x11;
/// Most candidates in one message; further ones are ignored.
pub const CANDIDATES_MAX: usize = 8;
/// Length of the longest message that is not a padded probe, in bytes.
pub const MESSAGE_MAX: usize = 8 + CANDIDATES_MAX * ENTRY;
/// Length of the shortest probe, in bytes: a multiple of 16, and no shorter than its acknowledgement.
pub const PROBE_MIN: usize = 48;

const ENTRY: usize = 20;
const ACK: usize = 40;
const KIND_CANDIDATES: u8 = 1;
const KIND_PROBE: u8 = 2;
const KIND_PROBE_ACK: u8 = 3;
const KIND_CANDIDATES_ACK: u8 = 4;
const FLAG_PUNCH: u8 = 1;
const FLAG_ASKS: u8 = 2;

/// Whether an inner packet is a path message of any version.
pub fn is_path(inner: &[u8]) -> bool {
    inner.first().is_some_and(|head| head >> 4 == HEAD >> 4)
}

/// Where a candidate comes from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// An address of one of the node's own interfaces.
    Host,
    /// What the relay saw the node send from.
    Reflexive,
}

/// A path message.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Message<'a> {
    /// Where the sender may be reached.
    Candidates(Candidates<'a>),
    /// Asks for an acknowledgement.
    Probe(Probe),
    /// Acknowledges a probe.
    ProbeAck(ProbeAck),
    /// Acknowledges a list of candidates.
    CandidatesAck {
        /// The generation of that list.
        generation: u32,
    },
}

/// A list of candidates.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Candidates<'a> {
    /// Grows (wrapping) whenever the sender's list changes.
    pub generation: u32,
    /// The sender is about to probe, and asks the receiver to probe back now even if it knows the list.
    pub punch: bool,
    /// The sender holds no list of the receiver's: what acknowledged one was an earlier life of it, or has forgotten it.
    pub asks: bool,
    entries: &'a [u8],
}

/// What a probe carries and its acknowledgement carries back, meaningful to the prober alone.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Proof {
    /// Cannot be guessed by who did not receive the probe.
    pub nonce: [u8; 8],
    /// Which of the prober's candidates it went to.
    pub tag: u8,
    /// The prober's clock.
    pub stamp: u32,
    /// Length of the inner message in bytes, as sent.
    pub size: u16,
}

/// A probe.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Probe {
    /// To be sent back.
    pub proof: Proof,
}

/// The answer to a probe.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ProbeAck {
    /// As the probe had it: the whole size arrived.
    pub proof: Proof,
    /// Where the probe came from, as its receiver saw it; `None` when it came through a relay.
    pub observed: Option<SocketAddr>,
}

impl<'a> Candidates<'a> {
    /// The candidates, at most [`CANDIDATES_MAX`]. They are claims: filter before use.
    pub fn iter(&self) -> impl Iterator<Item = (Kind, SocketAddr)> + use<'a> {
        self.entries.chunks_exact(ENTRY).take(CANDIDATES_MAX).filter_map(|entry| {
            let (&kind, address) = entry.split_first()?;
            let kind = match kind {
                1 => Kind::Host,
                2 => Kind::Reflexive,
                _ => return None,
            };
            Some((kind, read_address(address.first_chunk()?)?))
        })
    }

    /// Writes a list; candidates beyond [`CANDIDATES_MAX`] are left out. Returns the length.
    ///
    /// # Errors
    /// [`DropReason::NoRoom`] when `out` is shorter than [`MESSAGE_MAX`].
    pub fn emit(
        out: &mut [u8],
        generation: u32,
        punch: bool,
        asks: bool,
        list: impl Iterator<Item = (Kind, SocketAddr)>,
    ) -> Result<usize, DropReason> {
        let (head, rest) = out
            .get_mut(..MESSAGE_MAX)
            .and_then(<[u8]>::split_first_chunk_mut::<8>)
            .ok_or(DropReason::NoRoom)?;
        let mut count = 0u8;
        for ((kind, address), entry) in list.zip(rest.chunks_exact_mut(ENTRY)) {
            let kind = match kind {
                Kind::Host => 1,
                Kind::Reflexive => 2,
            };
            if let Some((first, rest)) = entry.split_first_mut() {
                *first = kind;
                put(rest, 0, &write_address(Some(address)));
            }
            count = count.saturating_add(1);
        }
        let [a, b, c, d] = generation.to_le_bytes();
        let flags = if punch { FLAG_PUNCH } else { 0 } | if asks { FLAG_ASKS } else { 0 };
        *head = [HEAD, KIND_CANDIDATES, count, flags, a, b, c, d];
        Ok(usize::from(count).saturating_mul(ENTRY).saturating_add(8))
    }
}

impl<'a> Message<'a> {
    /// Reads an inner packet for which [`is_path`] holds.
    ///
    /// # Errors
    /// [`DropReason::PathMessage`] for an unknown version or kind, or fewer bytes than the message says.
    pub fn parse(inner: &'a [u8]) -> Result<Self, DropReason> {
        let ([head, kind, count, flags], body) =
            inner.split_first_chunk::<4>().ok_or(DropReason::PathMessage)?;
        if *head != HEAD {
            return Err(DropReason::PathMessage);
        }
        match *kind {
            KIND_CANDIDATES => {
                let (generation, rest) = body.split_first_chunk::<4>().ok_or(DropReason::PathMessage)?;
                let len = usize::from(*count).saturating_mul(ENTRY);
                let entries = rest.get(..len).ok_or(DropReason::PathMessage)?;
                Ok(Self::Candidates(Candidates {
                    generation: u32::from_le_bytes(*generation),
                    punch: flags & FLAG_PUNCH != 0,
                    asks: flags & FLAG_ASKS != 0,
                    entries,
                }))
            }
            KIND_PROBE => {
                let proof = Proof::read(*count, body)?;
                // The size counts as received only if every byte of it did arrive.
                if inner.len() < usize::from(proof.size) || usize::from(proof.size) < PROBE_MIN {
                    return Err(DropReason::PathMessage);
                }
                Ok(Self::Probe(Probe { proof }))
            }
            KIND_PROBE_ACK => {
                let proof = Proof::read(*count, body)?;
                let address = body.get(14..).and_then(<[u8]>::first_chunk).ok_or(DropReason::PathMessage)?;
                Ok(Self::ProbeAck(ProbeAck { proof, observed: read_address(address) }))
            }
            KIND_CANDIDATES_ACK => {
                let generation = body.first_chunk::<4>().ok_or(DropReason::PathMessage)?;
                Ok(Self::CandidatesAck { generation: u32::from_le_bytes(*generation) })
            }
            _ => Err(DropReason::PathMessage),
        }
    }
}

impl Probe {
    /// Writes the probe, padded with zeros to the size in its proof, and returns that.
    ///
    /// # Errors
    /// [`DropReason::NoRoom`] when `out` is shorter than that, or the size below [`PROBE_MIN`].
    pub fn emit(&self, out: &mut [u8]) -> Result<usize, DropReason> {
        let size = usize::from(self.proof.size);
        let out = out.get_mut(..size).filter(|_| size >= PROBE_MIN).ok_or(DropReason::NoRoom)?;
        out.fill(0);
        put(out, 0, &[HEAD, KIND_PROBE, self.proof.tag, 0]);
        put(out, 4, &self.proof.body());
        Ok(size)
    }
}

impl ProbeAck {
    /// Writes the acknowledgement and returns its length, which is below [`PROBE_MIN`].
    ///
    /// # Errors
    /// [`DropReason::NoRoom`] when `out` is too short.
    pub fn emit(&self, out: &mut [u8]) -> Result<usize, DropReason> {
        let out = out.get_mut(..ACK).ok_or(DropReason::NoRoom)?;
        out.fill(0);
        put(out, 0, &[HEAD, KIND_PROBE_ACK, self.proof.tag, 0]);
        put(out, 4, &self.proof.body());
        put(out, 18, &write_address(self.observed));
        Ok(ACK)
    }
}

/// Writes a [`Message::CandidatesAck`] and returns its length.
///
/// # Errors
/// [`DropReason::NoRoom`] when `out` is too short.
pub fn emit_candidates_ack(out: &mut [u8], generation: u32) -> Result<usize, DropReason> {
    let [a, b, c, d] = generation.to_le_bytes();
    let out = out.first_chunk_mut().ok_or(DropReason::NoRoom)?;
    *out = [HEAD, KIND_CANDIDATES_ACK, 0, 0, a, b, c, d];
    Ok(out.len())
}

impl Proof {
    fn read(tag: u8, body: &[u8]) -> Result<Self, DropReason> {
        let body = body.first_chunk::<14>().ok_or(DropReason::PathMessage)?;
        let [n0, n1, n2, n3, n4, n5, n6, n7, t0, t1, t2, t3, s0, s1] = *body;
        Ok(Self {
            nonce: [n0, n1, n2, n3, n4, n5, n6, n7],
            tag,
            stamp: u32::from_le_bytes([t0, t1, t2, t3]),
            size: u16::from_le_bytes([s0, s1]),
        })
    }

    fn body(&self) -> [u8; 14] {
        let mut out = [0; 14];
        put(&mut out, 0, &self.nonce);
        put(&mut out, 8, &self.stamp.to_le_bytes());
        put(&mut out, 12, &self.size.to_le_bytes());
        out
    }
}

fn put(out: &mut [u8], at: usize, bytes: &[u8]) {
    for (to, from) in out.iter_mut().skip(at).zip(bytes) {
        *to = *from;
    }
}

/// Family (0 for none), port, address.
fn write_address(address: Option<SocketAddr>) -> [u8; 19] {
    let mut out = [0; 19];
    if let Some(address) = address {
        let (family, ip) = ip_bytes(address.ip());
        put(&mut out, 0, &[family]);
        put(&mut out, 1, &address.port().to_le_bytes());
        put(&mut out, 3, &ip);
    }
    out
}

fn read_address(bytes: &[u8; 19]) -> Option<SocketAddr> {
    let ([family, p0, p1], ip) = bytes.split_first_chunk::<3>()?;
    Some(SocketAddr::new(ip_of(*family, ip.first_chunk()?)?, u16::from_le_bytes([*p0, *p1])))
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::net::IpAddr;
    use proptest::prelude::*;
    use std::vec::Vec;

    fn proof(size: u16) -> Proof {
        Proof { nonce: *b"8 bytes!", tag: 3, stamp: 0x0102_0304, size }
    }

    /// Golden bytes: these cross releases.
    #[test]
    fn messages_are_these_bytes() {
        let mut out = [0xAA; MESSAGE_MAX];
        let list = [
            (Kind::Host, "192.168.1.7:20006".parse().unwrap()),
            (Kind::Reflexive, "[::5]:1".parse().unwrap()),
        ];
        let len = Candidates::emit(&mut out, 0x0A0B_0C0D, true, false, list.into_iter()).unwrap();
        assert_eq!(
            out[..len],
            [
                0x11, 1, 2, 1, 0x0D, 0x0C, 0x0B, 0x0A, 1, 4, 0x26, 0x4E, 192, 168, 1, 7, 0, 0, 0, 0, 0, 0, 0,
                0, 0, 0, 0, 0, 2, 6, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 5
            ]
        );
        let len = Probe { proof: proof(48) }.emit(&mut out).unwrap();
        let mut expected = [0; 48];
        expected[..18].copy_from_slice(b"\x11\x02\x03\x008 bytes!\x04\x03\x02\x01\x30\x00");
        assert_eq!(out[..len], expected);
        let ack = ProbeAck { proof: proof(1440), observed: Some("203.0.113.9:513".parse().unwrap()) };
        let len = ack.emit(&mut out).unwrap();
        let mut expected = [0; 40];
        expected[..25]
            .copy_from_slice(b"\x11\x03\x03\x008 bytes!\x04\x03\x02\x01\xA0\x05\x04\x01\x02\xCB\x00\x71\x09");
        assert_eq!(out[..len], expected);
        assert!(len <= PROBE_MIN);
        assert_eq!(emit_candidates_ack(&mut out, 7), Ok(8));
        assert_eq!(out[..8], [0x11, 4, 0, 0, 7, 0, 0, 0]);
    }

    #[test]
    fn every_message_comes_back_as_it_went_whatever_follows_it() {
        let mut out = [0xEE; 1500];
        for size in [48, 64, 1440] {
            let probe = Probe { proof: proof(size) };
            let len = probe.emit(&mut out).unwrap();
            assert_eq!(len, usize::from(size));
            assert_eq!(Message::parse(&out), Ok(Message::Probe(probe)));
            assert_eq!(Message::parse(&out[..len - 1]), Err(DropReason::PathMessage));
        }
        for observed in [None, Some("[2001:db8::1]:9".parse().unwrap()), Some("192.0.2.1:1".parse().unwrap())]
        {
            let ack = ProbeAck { proof: proof(48), observed };
            ack.emit(&mut out).unwrap();
            assert_eq!(Message::parse(&out), Ok(Message::ProbeAck(ack)));
        }
        emit_candidates_ack(&mut out, u32::MAX).unwrap();
        assert_eq!(Message::parse(&out), Ok(Message::CandidatesAck { generation: u32::MAX }));
    }

    #[test]
    fn lists_are_bounded_and_unknown_entries_skipped() {
        let mut out = [0; MESSAGE_MAX];
        let many = (1..20).map(|n| (Kind::Host, SocketAddr::from(([10, 0, 0, n], 1))));
        let len = Candidates::emit(&mut out, 1, false, true, many).unwrap();
        assert_eq!(len, MESSAGE_MAX);
        out[8] = 77;
        out[29] = 5;
        let Ok(Message::Candidates(list)) = Message::parse(&out) else { panic!("no list") };
        let ports: Vec<_> = list.iter().map(|(_, a)| a.ip()).collect();
        assert_eq!(ports.len(), CANDIDATES_MAX - 2);
        assert_eq!(ports[0], IpAddr::from([10, 0, 0, 3]));
        assert_eq!(
            Candidates::emit(&mut out[..100], 1, false, true, core::iter::empty()),
            Err(DropReason::NoRoom)
        );
        out[2] = 255;
        assert_eq!(Message::parse(&out), Err(DropReason::PathMessage));
    }

    #[test]
    fn a_small_buffer_is_no_room() {
        let mut out = [0; 47];
        assert_eq!(Probe { proof: proof(48) }.emit(&mut out), Err(DropReason::NoRoom));
        assert_eq!(Probe { proof: proof(20) }.emit(&mut out), Err(DropReason::NoRoom));
        let ack = ProbeAck { proof: proof(48), observed: None };
        assert_eq!(ack.emit(&mut out[..39]), Err(DropReason::NoRoom));
        assert_eq!(emit_candidates_ack(&mut out[..7], 1), Err(DropReason::NoRoom));
    }

    #[test]
    fn no_ip_packet_and_no_other_version_is_a_path_message() {
        for head in 0..=255u8 {
            let inner = [head, 2, 0, 0];
            assert_eq!(is_path(&inner), head >> 4 == 1);
            if head != HEAD {
                assert_eq!(Message::parse(&inner), Err(DropReason::PathMessage));
            }
        }
        assert!(!is_path(&[]));
    }

    proptest! {
        #[test]
        fn any_bytes_parse_or_fail(mut bytes in proptest::collection::vec(any::<u8>(), 0..200), kind in 0u8..6) {
            for (at, value) in [(0, HEAD), (1, kind)] {
                if let Some(byte) = bytes.get_mut(at) {
                    *byte = value;
                }
            }
            if let Ok(Message::Candidates(list)) = Message::parse(&bytes) {
                prop_assert!(list.iter().count() <= CANDIDATES_MAX);
            }
        }
    }
}
