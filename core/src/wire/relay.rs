//! The relay's datagrams: an 8-byte envelope around what two nodes say to each other, and the bind that tells
//! the server where a node is.
//!
//! ```text
//!  0        1         2          4                   8
//!  type     version   reserved   session or index    payload
//! ```
//! All little-endian. The type is above 0x80, so an envelope is never taken for WireGuard (1 to 4) or STUN.
//! A session is random, per pair and direction. Envelopes are hints: what they carry authenticates itself.
//!
//! Bind, node to server and back, so that no spoofed source is ever bound and no answer is larger than its cause:
//! `Bind(index, epoch, cookie 0, mac)` -> `Challenge(index, cookie)` -> `Bind(index, epoch, cookie, mac)` ->
//! `Bound(index, epoch, observed address, mac)`. MACs are keyed BLAKE2s-128 under the node's relay key over
//! everything before them. The same messages open the TCP fallback, where the cookie may stay 0.

use super::{ip_bytes, ip_of};
use crate::counters::DropReason;
use blake2::Blake2sMac;
use blake2::digest::consts::U16;
use blake2::digest::{KeyInit, Mac};
use core::net::SocketAddr;

/// Length of the envelope in bytes.
pub const ENVELOPE: usize = 8;
/// Version of the relay's messages.
pub const VERSION: u8 = 1;
/// Length of a bind and of the answer to it, in bytes: equal, so the server never amplifies.
pub const BIND: usize = 56;

const TYPE_DATA: u8 = 0xE0;
const TYPE_BIND: u8 = 0xE1;
const TYPE_CHALLENGE: u8 = 0xE2;
const TYPE_BOUND: u8 = 0xE3;
const TYPE_UNBOUND: u8 = 0xE4;

/// Proof that a bind's sender receives at the address it sends from.
pub type Cookie = [u8; 16];

/// A relay datagram.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Message<'a> {
    /// A tunnel datagram in an envelope.
    Data {
        /// The pair and direction it belongs to.
        session: u32,
        /// The tunnel datagram.
        payload: &'a [u8],
    },
    /// A node says where it is.
    Bind {
        /// The node's index.
        index: u32,
        /// Above every epoch that this node used before.
        epoch: u64,
        /// The server's challenge, zero at first.
        cookie: Cookie,
    },
    /// The server wants a bind from the same address with this cookie.
    Challenge {
        /// The node's index.
        index: u32,
        /// To be sent back.
        cookie: Cookie,
    },
    /// The node is bound to the address that the server sees.
    Bound {
        /// The node's index.
        index: u32,
        /// The epoch of the bind.
        epoch: u64,
        /// The source address of the bind: the node's reflexive candidate.
        observed: SocketAddr,
    },
    /// The server knows no such session, or not from this sender: bind again.
    Unbound {
        /// The session of the datagram that caused it.
        session: u32,
    },
}

/// Whether a datagram is a relay message by its first byte.
pub fn is_relay(datagram: &[u8]) -> bool {
    datagram.first().is_some_and(|byte| *byte >= 0x80)
}

/// Writes the envelope of a tunnel datagram that follows it.
pub fn envelope(session: u32) -> [u8; ENVELOPE] {
    head(TYPE_DATA, session)
}

impl<'a> Message<'a> {
    /// Reads a datagram. MACs are not checked here: see [`verify`].
    ///
    /// # Errors
    /// [`DropReason::Relay`] for an unknown type, version or length.
    pub fn parse(datagram: &'a [u8]) -> Result<Self, DropReason> {
        let (head, rest) = datagram.split_first_chunk::<ENVELOPE>().ok_or(DropReason::Relay)?;
        let [kind, VERSION, _, _, a, b, c, d] = *head else { return Err(DropReason::Relay) };
        let id = u32::from_le_bytes([a, b, c, d]);
        match kind {
            TYPE_DATA => Ok(Self::Data { session: id, payload: rest }),
            TYPE_UNBOUND if rest.is_empty() => Ok(Self::Unbound { session: id }),
            TYPE_BIND | TYPE_CHALLENGE | TYPE_BOUND if datagram.len() == BIND => {
                Self::parse_bind(kind, id, rest)
            }
            _ => Err(DropReason::Relay),
        }
    }

    fn parse_bind(kind: u8, index: u32, rest: &[u8]) -> Result<Self, DropReason> {
        let (epoch, rest) = rest.split_first_chunk::<8>().ok_or(DropReason::Relay)?;
        let epoch = u64::from_le_bytes(*epoch);
        let (body, _) = rest.split_first_chunk::<24>().ok_or(DropReason::Relay)?;
        let cookie = *body.first_chunk::<16>().ok_or(DropReason::Relay)?;
        match kind {
            TYPE_BIND => Ok(Self::Bind { index, epoch, cookie }),
            TYPE_CHALLENGE => Ok(Self::Challenge { index, cookie }),
            _ => {
                let [.., p0, p1, family, _, _, _, _, _] = *body;
                let port = u16::from_le_bytes([p0, p1]);
                let ip = ip_of(family, &cookie).ok_or(DropReason::Relay)?;
                Ok(Self::Bound { index, epoch, observed: SocketAddr::new(ip, port) })
            }
        }
    }

    /// Writes the message; `key` signs [`Message::Bind`] and [`Message::Bound`]. Returns its length.
    ///
    /// # Errors
    /// [`DropReason::NoRoom`] when `out` is too small; nothing is written then.
    pub fn emit(&self, key: &[u8; 32], out: &mut [u8]) -> Result<usize, DropReason> {
        let mut body = [0u8; 32];
        let mut put = |epoch: u64, content: &[u8]| {
            let bytes = epoch.to_le_bytes();
            for (to, from) in body.iter_mut().zip(bytes.iter().chain(content)) {
                *to = *from;
            }
        };
        let head = match *self {
            Self::Data { session, payload } => return emit_data(session, payload, out),
            Self::Unbound { session } => return write(out, &[&head(TYPE_UNBOUND, session)]),
            Self::Bind { index, epoch, cookie } => {
                put(epoch, &cookie);
                head(TYPE_BIND, index)
            }
            Self::Challenge { index, cookie } => {
                put(0, &cookie);
                head(TYPE_CHALLENGE, index)
            }
            Self::Bound { index, epoch, observed } => {
                put(epoch, &address(observed));
                head(TYPE_BOUND, index)
            }
        };
        let mac = mac(key, &[&head, &body]);
        write(out, &[&head, &body, &mac])
    }
}

/// Whether a bind, challenge or bound carries the MAC of `key`.
pub fn verify(key: &[u8; 32], datagram: &[u8]) -> bool {
    match datagram.split_last_chunk::<16>() {
        Some((signed, tag)) => {
            let expected = mac(key, &[signed]);
            subtle::ConstantTimeEq::ct_eq(&expected[..], &tag[..]).into()
        }
        None => false,
    }
}

fn emit_data(session: u32, payload: &[u8], out: &mut [u8]) -> Result<usize, DropReason> {
    write(out, &[&envelope(session), payload])
}

fn head(kind: u8, id: u32) -> [u8; ENVELOPE] {
    let [a, b, c, d] = id.to_le_bytes();
    [kind, VERSION, 0, 0, a, b, c, d]
}

/// Address, port, family.
fn address(address: SocketAddr) -> [u8; 19] {
    let mut out = [0; 19];
    let (family, ip) = ip_bytes(address.ip());
    let bytes = ip.into_iter().chain(address.port().to_le_bytes()).chain([family]);
    for (to, from) in out.iter_mut().zip(bytes) {
        *to = from;
    }
    out
}

fn mac(key: &[u8; 32], parts: &[&[u8]]) -> [u8; 16] {
    let mut state = <Blake2sMac<U16> as KeyInit>::new(key.into());
    for part in parts {
        state.update(part);
    }
    state.finalize().into_bytes().into()
}

fn write(out: &mut [u8], parts: &[&[u8]]) -> Result<usize, DropReason> {
    let len = parts.iter().map(|p| p.len()).sum();
    let target = out.get_mut(..len).ok_or(DropReason::NoRoom)?;
    for (to, from) in target.iter_mut().zip(parts.iter().copied().flatten()) {
        *to = *from;
    }
    Ok(len)
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: [u8; 32] = [9; 32];

    #[test]
    fn every_message_comes_back_as_it_went() {
        let messages = [
            Message::Data { session: 0xDEAD_BEEF, payload: b"sealed" },
            Message::Bind { index: 7, epoch: 1 << 40, cookie: [3; 16] },
            Message::Challenge { index: 7, cookie: [4; 16] },
            Message::Bound { index: 7, epoch: 2, observed: "203.0.113.9:20006".parse().unwrap() },
            Message::Bound { index: 7, epoch: 2, observed: "[2001:db8::1]:9".parse().unwrap() },
            Message::Unbound { session: 1 },
        ];
        for message in messages {
            let mut out = [0; 64];
            let len = message.emit(&KEY, &mut out).unwrap();
            assert_eq!(Message::parse(&out[..len]), Ok(message));
            assert!(is_relay(&out[..len]));
            assert_eq!(message.emit(&KEY, &mut out[..len - 1]), Err(DropReason::NoRoom));
        }
    }

    #[test]
    fn a_bind_with_any_bit_changed_fails_its_mac() {
        let mut out = [0; BIND];
        Message::Bind { index: 7, epoch: 3, cookie: [0; 16] }.emit(&KEY, &mut out).unwrap();
        assert!(verify(&KEY, &out));
        assert!(!verify(&[8; 32], &out));
        for bit in 0..BIND * 8 {
            let mut bad = out;
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(!verify(&KEY, &bad));
        }
    }

    #[test]
    fn no_length_panics() {
        let mut out = [0; BIND];
        Message::Bind { index: 7, epoch: 3, cookie: [0; 16] }.emit(&KEY, &mut out).unwrap();
        for kind in 0..=255 {
            out[0] = kind;
            for len in 0..=BIND {
                let _ = Message::parse(&out[..len]);
                let _ = verify(&KEY, &out[..len]);
            }
        }
    }
}
