//! The four WireGuard messages (whitepaper section 5.4; all integers little-endian).
//!
//! A view splits a datagram of the right shape into its fields, to read or to fill; nothing here decrypts or
//! judges. The type field is one byte and three reserved zero bytes: together with the length that tells
//! WireGuard from everything else that shares a socket with it.

use crate::counters::DropReason;

/// Length of a handshake initiation in bytes.
pub const INITIATION: usize = 148;
/// Length of a handshake response in bytes.
pub const RESPONSE: usize = 92;
/// Length of a cookie reply in bytes.
pub const COOKIE_REPLY: usize = 64;
/// Length of a data message's header in bytes.
pub const DATA_HEADER: usize = 16;
/// Length of a data message without payload, a keepalive: header and tag.
pub const KEEPALIVE: usize = 32;
/// Data is padded to a multiple of this many bytes.
pub const PADDING: usize = 16;

/// Bytes 4 to 7 of a STUN message (RFC 8489 section 5).
const STUN_COOKIE: [u8; 4] = [0x21, 0x12, 0xa4, 0x42];

/// Which message a datagram is, by type and length.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Kind {
    /// First handshake message.
    Initiation = 1,
    /// Second handshake message.
    Response = 2,
    /// Demand to prove the source address.
    CookieReply = 3,
    /// Transport data.
    Data = 4,
}

impl Kind {
    /// The kind of `datagram`.
    ///
    /// # Errors
    /// [`DropReason::UnknownDatagram`] when it is no WireGuard message, [`DropReason::Malformed`] when it has
    /// the type of one but not its length.
    pub fn of(datagram: &[u8]) -> Result<Self, DropReason> {
        let (kind, fits) = match (datagram.first_chunk::<4>(), datagram.len()) {
            (Some([1, 0, 0, 0]), len) => (Self::Initiation, len == INITIATION),
            (Some([2, 0, 0, 0]), len) => (Self::Response, len == RESPONSE),
            (Some([3, 0, 0, 0]), len) => (Self::CookieReply, len == COOKIE_REPLY),
            (Some([4, 0, 0, 0]), len) => (Self::Data, len >= KEEPALIVE),
            _ => return Err(DropReason::UnknownDatagram),
        };
        if fits { Ok(kind) } else { Err(DropReason::Malformed) }
    }

    /// The type field.
    pub const fn field(self) -> [u8; 4] {
        [self as u8, 0, 0, 0]
    }
}

/// Whether `index` may name a session: not 0, which means none to us, and nothing that would make the message
/// look like STUN to a demultiplexer that tests for its magic cookie first.
pub const fn usable_index(index: u32) -> bool {
    index != 0 && index != u32::from_le_bytes(STUN_COOKIE)
}

/// A handshake initiation.
pub struct Initiation<'m> {
    /// Type and reserved bytes.
    pub kind: &'m mut [u8; 4],
    /// The initiator's index.
    pub sender: &'m mut [u8; 4],
    /// The initiator's ephemeral public key.
    pub ephemeral: &'m mut [u8; 32],
    /// The initiator's static public key, sealed.
    pub identity: &'m mut [u8; 48],
    /// TAI64N stamp, sealed.
    pub stamp: &'m mut [u8; 28],
}

impl<'m> Initiation<'m> {
    /// The fields of `message`.
    ///
    /// # Errors
    /// [`DropReason::Truncated`].
    pub fn new(message: &'m mut [u8]) -> Result<Self, DropReason> {
        let mut rest = message;
        Ok(Self {
            kind: take(&mut rest)?,
            sender: take(&mut rest)?,
            ephemeral: take(&mut rest)?,
            identity: take(&mut rest)?,
            stamp: take(&mut rest)?,
        })
    }
}

/// A handshake response.
pub struct Response<'m> {
    /// Type and reserved bytes.
    pub kind: &'m mut [u8; 4],
    /// The responder's index.
    pub sender: &'m mut [u8; 4],
    /// The initiator's index.
    pub receiver: &'m mut [u8; 4],
    /// The responder's ephemeral public key.
    pub ephemeral: &'m mut [u8; 32],
    /// Nothing, sealed.
    pub empty: &'m mut [u8; 16],
}

impl<'m> Response<'m> {
    /// The fields of `message`.
    ///
    /// # Errors
    /// [`DropReason::Truncated`].
    pub fn new(message: &'m mut [u8]) -> Result<Self, DropReason> {
        let mut rest = message;
        Ok(Self {
            kind: take(&mut rest)?,
            sender: take(&mut rest)?,
            receiver: take(&mut rest)?,
            ephemeral: take(&mut rest)?,
            empty: take(&mut rest)?,
        })
    }
}

/// A cookie reply.
pub struct CookieReply<'m> {
    /// Type and reserved bytes.
    pub kind: &'m mut [u8; 4],
    /// The sender index of the message that it answers.
    pub receiver: &'m mut [u8; 4],
    /// Random.
    pub nonce: &'m mut [u8; 24],
    /// The cookie, sealed.
    pub cookie: &'m mut [u8; 32],
}

impl<'m> CookieReply<'m> {
    /// The fields of `message`.
    ///
    /// # Errors
    /// [`DropReason::Truncated`].
    pub fn new(message: &'m mut [u8]) -> Result<Self, DropReason> {
        let mut rest = message;
        Ok(Self {
            kind: take(&mut rest)?,
            receiver: take(&mut rest)?,
            nonce: take(&mut rest)?,
            cookie: take(&mut rest)?,
        })
    }
}

/// The two MACs at the end of an initiation or response.
pub struct Macs<'m> {
    /// Everything before them.
    pub body: &'m mut [u8],
    /// Proof that the sender knows whom it talks to, over `body`.
    pub mac1: &'m mut [u8; 16],
    /// Proof of the source address, over `body` and `mac1`; zero without a cookie.
    pub mac2: &'m mut [u8; 16],
}

impl<'m> Macs<'m> {
    /// Splits `message`.
    ///
    /// # Errors
    /// [`DropReason::Truncated`].
    pub fn new(message: &'m mut [u8]) -> Result<Self, DropReason> {
        let (rest, mac2) = message.split_last_chunk_mut().ok_or(DropReason::Truncated)?;
        let (body, mac1) = rest.split_last_chunk_mut().ok_or(DropReason::Truncated)?;
        Ok(Self { body, mac1, mac2 })
    }
}

/// The header of a data message.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DataHeader {
    /// The receiver's index.
    pub receiver: u32,
    /// The nonce.
    pub counter: u64,
}

impl DataHeader {
    /// The header of `datagram`, whose kind is [`Kind::Data`].
    ///
    /// # Errors
    /// [`DropReason::Truncated`].
    pub fn parse(datagram: &[u8]) -> Result<Self, DropReason> {
        let header = datagram.first_chunk::<DATA_HEADER>().ok_or(DropReason::Truncated)?;
        let [_, _, _, _, a, b, c, d, counter @ ..] = *header;
        Ok(Self { receiver: u32::from_le_bytes([a, b, c, d]), counter: u64::from_le_bytes(counter) })
    }

    /// Writes the header to the start of `out`.
    ///
    /// # Errors
    /// [`DropReason::NoRoom`].
    pub fn emit(self, out: &mut [u8]) -> Result<(), DropReason> {
        let header = out.first_chunk_mut::<DATA_HEADER>().ok_or(DropReason::NoRoom)?;
        let [t0, t1, t2, t3] = Kind::Data.field();
        let [a, b, c, d] = self.receiver.to_le_bytes();
        let [c0, c1, c2, c3, c4, c5, c6, c7] = self.counter.to_le_bytes();
        *header = [t0, t1, t2, t3, a, b, c, d, c0, c1, c2, c3, c4, c5, c6, c7];
        Ok(())
    }
}

fn take<'m, const N: usize>(rest: &mut &'m mut [u8]) -> Result<&'m mut [u8; N], DropReason> {
    let (field, tail) = core::mem::take(rest).split_first_chunk_mut().ok_or(DropReason::Truncated)?;
    *rest = tail;
    Ok(field)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn kinds_need_type_reserved_bytes_and_length() {
        let mut m = [0u8; 200];
        for (kind, len) in [(1, INITIATION), (2, RESPONSE), (3, COOKIE_REPLY), (4, KEEPALIVE)] {
            m[0] = kind;
            assert_eq!(Kind::of(&m[..len]).map(|k| k as u8), Ok(kind));
            assert_eq!(Kind::of(&m[..len - 1]), Err(DropReason::Malformed));
            assert_eq!(Kind::of(&m[..len + 1]).is_ok(), kind == 4);
            for reserved in 1..4 {
                m[reserved] = 1;
                assert_eq!(Kind::of(&m[..len]), Err(DropReason::UnknownDatagram));
                m[reserved] = 0;
            }
        }
        for kind in [0, 5, 255] {
            m[0] = kind;
            assert_eq!(Kind::of(&m), Err(DropReason::UnknownDatagram));
        }
        assert_eq!(Kind::of(&[1, 0, 0]), Err(DropReason::UnknownDatagram));
    }

    #[test]
    fn no_index_looks_like_stun() {
        assert!(!usable_index(0));
        assert!(!usable_index(0x42a4_1221));
        assert!(usable_index(0x2112_a442));
        let mut m = [0; 16];
        DataHeader { receiver: 0x42a4_1221, counter: 0 }.emit(&mut m).unwrap();
        assert_eq!(m[4..8], STUN_COOKIE);
    }

    #[test]
    fn fields_lie_where_the_whitepaper_puts_them() {
        let mut m: [u8; INITIATION] = core::array::from_fn(|n| n as u8);
        let view = Initiation::new(&mut m).unwrap();
        let first = [view.kind[0], view.sender[0], view.ephemeral[0], view.identity[0], view.stamp[0]];
        assert_eq!(first, [0, 4, 8, 40, 88]);
        let macs = Macs::new(&mut m).unwrap();
        assert_eq!((macs.body.len(), macs.mac1[0], macs.mac2[0]), (116, 116, 132));
        let view = Response::new(&mut m).unwrap();
        let first = [view.kind[0], view.sender[0], view.receiver[0], view.ephemeral[0], view.empty[0]];
        assert_eq!(first, [0, 4, 8, 12, 44]);
        assert_eq!(Macs::new(&mut m[..RESPONSE]).unwrap().mac1[0], 60);
        let view = CookieReply::new(&mut m).unwrap();
        assert_eq!([view.kind[0], view.receiver[0], view.nonce[0], view.cookie[0]], [0, 4, 8, 32]);
    }

    proptest! {
        #[test]
        fn views_of_any_bytes_do_not_panic(mut m in proptest::collection::vec(any::<u8>(), 0..160)) {
            let _ = Kind::of(&m);
            let _ = DataHeader::parse(&m);
            prop_assert_eq!(Initiation::new(&mut m).is_ok(), m.len() >= 116);
            prop_assert_eq!(Response::new(&mut m).is_ok(), m.len() >= 60);
            prop_assert_eq!(CookieReply::new(&mut m).is_ok(), m.len() >= 64);
            prop_assert_eq!(Macs::new(&mut m).is_ok(), m.len() >= 32);
        }

        #[test]
        fn data_headers_survive(receiver: u32, counter: u64) {
            let header = DataHeader { receiver, counter };
            let mut m = [0; KEEPALIVE];
            header.emit(&mut m).unwrap();
            prop_assert_eq!(Kind::of(&m), Ok(Kind::Data));
            prop_assert_eq!(DataHeader::parse(&m), Ok(header));
            prop_assert!(header.emit(&mut m[..15]).is_err());
        }
    }
}
