//! What two agents tell each other of the addresses of their pods: offers inside the tunnel's session, probes and
//! answers outside of it.
//!
//! ```text
//! offer    0x31, 1, count, flags (bit 0: yours is wanted), key 16, then each: kind (1 pods, 2 node), family (4, 6),
//!          address 16, port u16
//! probe    0xE1, index of its sender u32, nonce 8, tag 12, for IPv6 12 zeros
//! answer   0xE2, nonce 8, address that the probe came from (4 or 16), tag 12
//! ```
//! All little-endian. A node makes a key for each other node, and tells it inside the session: a tag proves that its
//! sender was told. It is HMAC-SHA256 cut to 12 bytes, over what stands before it, in a probe over the address that it
//! goes to as well. An answer is as long as its probe. Pure.

use edgemesh_core::wire::aside::HEAD;
use edgemesh_core::wire::ip::is_confined;
use ring::hmac;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use subtle::ConstantTimeEq;

/// Most addresses in an offer; further ones are ignored.
pub(super) const PLACES_MAX: usize = 6;
/// Longest datagram of these.
pub(super) const DATAGRAM_MAX: usize = 37;

const OFFER: u8 = 1;
const WANTED: u8 = 1;
const PODS: u8 = 1;
const NODE: u8 = 2;
const PLACE: usize = 20;
const PROBE: u8 = 0xE1;
const ANSWER: u8 = 0xE2;
const TAG: usize = 12;

/// What tags are made with.
pub(super) type Key = [u8; 16];

/// An address of a node, and the port at which its agent answers probes.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(super) struct Place {
    pub(super) at: SocketAddr,
    /// On the side of its pods; else the node's own.
    pub(super) pods: bool,
}

/// Where a node may be probed; nowhere when it has a domain by label.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Offer {
    /// The receiver's own offer is wanted in return.
    pub(super) wanted: bool,
    /// For probes of the receiver.
    pub(super) key: Key,
    pub(super) places: Vec<Place>,
}

impl Offer {
    pub(super) fn emit(&self) -> Vec<u8> {
        let count = self.places.len().min(PLACES_MAX);
        let mut out = vec![HEAD, OFFER, count as u8, u8::from(self.wanted)];
        out.extend(self.key);
        for place in &self.places[..count] {
            let (family, address) = match place.at.ip() {
                IpAddr::V4(v4) => (4, Ipv6Addr::from_bits(u128::from(v4.to_bits()) << 96).octets()),
                IpAddr::V6(v6) => (6, v6.octets()),
            };
            out.extend([if place.pods { PODS } else { NODE }, family]);
            out.extend(address);
            out.extend(place.at.port().to_le_bytes());
        }
        out
    }

    /// Reads one; `None` for other messages and for what is cut short. Entries that nobody may be probed at are left
    /// out.
    pub(super) fn parse(bytes: &[u8]) -> Option<Self> {
        let (&[HEAD, OFFER, count, flags], rest) = bytes.split_first_chunk()? else { return None };
        let (key, rest) = rest.split_first_chunk()?;
        let entries = rest.get(..usize::from(count) * PLACE)?;
        let places = entries.chunks_exact(PLACE).take(PLACES_MAX).filter_map(place).collect();
        Some(Self { wanted: flags & WANTED != 0, key: *key, places })
    }
}

fn place(entry: &[u8]) -> Option<Place> {
    let [kind @ (PODS | NODE), family, rest @ ..] = entry else { return None };
    let (address, port) = rest.split_first_chunk::<16>()?;
    let ip = match family {
        4 => IpAddr::from(*address.first_chunk::<4>()?),
        6 => IpAddr::from(*address),
        _ => return None,
    };
    let port = u16::from_le_bytes(port.try_into().ok()?);
    let is_usable = port != 0 && !is_confined(ip);
    is_usable.then_some(Place { at: SocketAddr::new(ip, port), pods: *kind == PODS })
}

/// A probe of the node `index` to `to`.
pub(super) fn probe(key: &Key, index: u32, nonce: u64, to: IpAddr) -> Vec<u8> {
    let mut out = vec![PROBE];
    out.extend(index.to_le_bytes());
    out.extend(nonce.to_le_bytes());
    let tag = tag(key, &[&out, &octets(to)]);
    out.extend(tag);
    out.resize(out.len() + octets(to).len() - 4, 0);
    out
}

/// Whose probe this is, if it is one.
pub(super) fn prober(datagram: &[u8]) -> Option<u32> {
    let rest = datagram.strip_prefix(&[PROBE])?;
    rest.first_chunk().map(|index| u32::from_le_bytes(*index))
}

/// The answer to a probe that came to `to` from `from`; `key` is that of its sender. `None` when it did not make it.
pub(super) fn answer(key: &Key, datagram: &[u8], to: IpAddr, from: IpAddr) -> Option<Vec<u8>> {
    let nonce = datagram.get(5..13)?;
    let text = [datagram.get(..13)?, &octets(to)];
    let padding = octets(to).len() - 4;
    if datagram.len() != 13 + TAG + padding || !is_tag(key, &text, datagram.get(13..13 + TAG)?) {
        return None;
    }
    let mut out = vec![ANSWER];
    out.extend(nonce);
    out.extend(octets(from));
    let tag = tag(key, &[&out]);
    out.extend(tag);
    Some(out)
}

/// An answer that has not been checked yet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Answer<'a> {
    pub(super) nonce: u64,
    /// Where the probe came from, as its receiver saw it.
    pub(super) seen: IpAddr,
    text: &'a [u8],
    tag: &'a [u8],
}

impl<'a> Answer<'a> {
    pub(super) fn parse(datagram: &'a [u8]) -> Option<Self> {
        let (text, tag) = datagram.split_at_checked(datagram.len().checked_sub(TAG)?)?;
        let (nonce, seen) = text.strip_prefix(&[ANSWER])?.split_first_chunk()?;
        let seen = match seen.len() {
            4 => IpAddr::from(*seen.first_chunk::<4>()?),
            16 => IpAddr::from(*seen.first_chunk::<16>()?),
            _ => return None,
        };
        Some(Self { nonce: u64::from_le_bytes(*nonce), seen, text, tag })
    }

    /// Whether the node that gave this key made it.
    pub(super) fn is_by(&self, key: &Key) -> bool {
        is_tag(key, &[self.text], self.tag)
    }
}

/// The key for probes of the node `index`.
pub(super) fn key_for(secret: &[u8; 32], index: u32) -> Key {
    let made = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, secret), &index.to_le_bytes());
    made.as_ref().first_chunk().copied().unwrap_or_default()
}

fn octets(ip: IpAddr) -> Vec<u8> {
    match ip {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    }
}

fn tag(key: &Key, parts: &[&[u8]]) -> [u8; TAG] {
    let mut context = hmac::Context::with_key(&hmac::Key::new(hmac::HMAC_SHA256, key));
    parts.iter().for_each(|part| context.update(part));
    context.sign().as_ref().first_chunk().copied().unwrap_or_default()
}

fn is_tag(key: &Key, parts: &[&[u8]], given: &[u8]) -> bool {
    tag(key, parts).ct_eq(given).into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn place(at: &str, pods: bool) -> Place {
        Place { at: at.parse().unwrap(), pods }
    }

    /// Golden bytes: these cross releases.
    #[test]
    fn an_offer_is_these_bytes() {
        let places = vec![place("10.244.1.1:4660", true), place("[fd00::5]:1", false)];
        let offer = Offer { wanted: true, key: [7; 16], places };
        let mut expected = vec![0x31, 1, 2, 1];
        expected.extend([7; 16]);
        expected.extend([1, 4, 10, 244, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x34, 0x12]);
        expected.extend([2, 6, 0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 5, 1, 0]);
        assert_eq!(offer.emit(), expected);
        expected.resize(expected.len() + 11, 0);
        assert_eq!(Offer::parse(&expected), Some(offer), "what the session pads is ignored");
        assert_eq!(Offer::parse(&expected[..40]), None);
        expected[1] = 2;
        assert_eq!(Offer::parse(&expected), None);
    }

    #[test]
    fn nobody_is_sent_to_probe_where_nobody_may_be() {
        let places =
            ["127.0.0.1:9", "169.254.96.16:9", "224.0.0.1:9", "[fe80::1]:9", "0.0.0.0:9", "10.0.0.1:0"];
        let mut places: Vec<_> = places.into_iter().map(|at| place(at, true)).collect();
        let good = place("10.0.0.1:9", true);
        places[1] = good;
        let offer = Offer { places, ..Offer::default() };
        assert_eq!(Offer::parse(&offer.emit()).unwrap().places, [good]);
    }

    #[test]
    fn an_answer_proves_who_got_the_probe_and_where_it_came_from() {
        let secret = [3; 32];
        let (key, other) = (key_for(&secret, 5), key_for(&secret, 6));
        for (to, from) in [("10.244.2.1", "10.244.1.1"), ("fd10::1", "fd20::1")] {
            let (to, from) = (ip(to), ip(from));
            let sent = probe(&key, 5, 77, to);
            assert!(sent.len() <= DATAGRAM_MAX);
            assert_eq!(prober(&sent), Some(5));
            let back = answer(&key, &sent, to, from).unwrap();
            assert_eq!(back.len(), sent.len(), "nobody is amplified");
            let read = Answer::parse(&back).unwrap();
            assert_eq!((read.nonce, read.seen), (77, from));
            assert!(read.is_by(&key) && !read.is_by(&other));
            assert_eq!(answer(&other, &sent, to, from), None, "another node's");
            assert_eq!(answer(&key, &sent, ip("10.244.2.2"), from), None, "for another address");
            assert_eq!(answer(&key, &back, to, from), None, "an answer is no probe");
            for at in 0..back.len() {
                let mut forged = back.clone();
                forged[at] ^= 1;
                assert!(Answer::parse(&forged).is_none_or(|read| !read.is_by(&key)), "byte {at}");
            }
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = (Offer::parse(&bytes), prober(&bytes), Answer::parse(&bytes));
            prop_assert_eq!(answer(&[1; 16], &bytes, ip("10.0.0.1"), ip("10.0.0.2")), None);
        }
    }
}
