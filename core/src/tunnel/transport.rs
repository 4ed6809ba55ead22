//! Sealing and opening of data: pure functions over a key and a packet, which may run on any thread.

use super::{KeyId, PeerId};
use crate::counters::DropReason;
use crate::noise::{Aead, TAG};
use crate::packet::Packet;
use crate::wire::wireguard::{DATA_HEADER, DataHeader, PADDING};

/// `count` counters of one key, to be used once each: `first`, `first + 1` and so on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SendGrant {
    /// To whom.
    pub peer: PeerId,
    /// With which key.
    pub key: KeyId,
    /// The first counter.
    pub first: u64,
    /// How many.
    pub count: u16,
}

/// A key to seal with.
pub struct SendKey<A> {
    pub(super) aead: A,
    pub(super) remote: u32,
}

/// A key to open with.
pub struct RecvKey<A> {
    pub(super) aead: A,
    pub(super) id: KeyId,
}

/// A datagram that claims to be data of a session.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct OpenTicket {
    /// Whose session.
    pub peer: PeerId,
    /// The key to open it with.
    pub key: KeyId,
    /// The counter it claims.
    pub counter: u64,
}

/// What a data message carried.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Content {
    /// Nothing.
    Keepalive,
    /// A packet whose first nibble is an IP version.
    Ip,
    /// Anything else: stock WireGuard drops it, the path layer speaks it.
    Other,
}

/// Proof that a datagram was authentic; only [`open`] makes it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Opened {
    pub(super) ticket: OpenTicket,
    pub(super) content: Content,
}

impl Opened {
    /// Whose session, key and counter.
    pub const fn ticket(&self) -> OpenTicket {
        self.ticket
    }

    /// What it carried.
    pub const fn content(&self) -> Content {
        self.content
    }
}

/// Makes a data message of the packet: pads it to a multiple of 16 bytes, but not beyond `mtu`, encrypts it and
/// writes header and tag around it.
///
/// # Errors
/// [`DropReason::NoRoom`] when the buffer lacks 16 bytes in front or padding and 16 bytes behind.
pub fn seal<A: Aead>(
    key: &SendKey<A>,
    counter: u64,
    packet: &mut Packet<'_>,
    mtu: usize,
) -> Result<(), DropReason> {
    let text = packet.len();
    let padded = text.checked_next_multiple_of(PADDING).ok_or(DropReason::NoRoom)?.min(mtu.max(text));
    packet.grow(DATA_HEADER, padded.saturating_sub(text).saturating_add(TAG))?;
    let (header, body) =
        packet.bytes_mut().split_first_chunk_mut::<DATA_HEADER>().ok_or(DropReason::NoRoom)?;
    DataHeader { receiver: key.remote, counter }.emit(header)?;
    body.get_mut(text..padded).ok_or(DropReason::NoRoom)?.fill(0);
    key.aead.seal(counter, &[], body)
}

/// Opens a data message; the packet becomes its padded text. What it proves goes to
/// [`Tunnels::commit`](super::Tunnels::commit) before the text is believed.
///
/// # Errors
/// [`DropReason::UnknownIndex`] when the ticket is for another key, [`DropReason::Truncated`],
/// [`DropReason::Authentication`]; the packet's bytes are to be discarded then.
pub fn open<A: Aead>(
    key: &RecvKey<A>,
    ticket: OpenTicket,
    packet: &mut Packet<'_>,
) -> Result<Opened, DropReason> {
    if key.id != ticket.key {
        return Err(DropReason::UnknownIndex);
    }
    packet.shrink(DATA_HEADER, 0)?;
    key.aead.open(ticket.counter, &[], packet.bytes_mut())?;
    packet.shrink(0, TAG)?;
    let content = match packet.bytes().first().map(|byte| byte >> 4) {
        None => Content::Keepalive,
        Some(4 | 6) => Content::Ip,
        Some(_) => Content::Other,
    };
    Ok(Opened { ticket, content })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::noise::ChaChaPoly;
    use crate::packet::{HEADROOM, TAILROOM};
    use std::vec;

    #[test]
    fn padding_stops_at_the_mtu_and_contents_are_told_apart() {
        let id = KeyId { slot: 0, index: 9 };
        let send = SendKey { aead: ChaChaPoly::new(&[1; 32]), remote: 9 };
        let receive = RecvKey { aead: ChaChaPoly::new(&[1; 32]), id };
        for (len, mtu, padded) in [
            (0, 1420, 0),
            (1, 1420, 16),
            (16, 1420, 16),
            (1419, 1420, 1420),
            (1420, 1420, 1420),
            (1500, 1420, 1500),
        ] {
            for (first, content) in [(0x45, Content::Ip), (0x60, Content::Ip), (0x15, Content::Other)] {
                let mut buffer = vec![0xaa; HEADROOM + len + TAILROOM];
                buffer[HEADROOM..HEADROOM + len].fill(first);
                let mut p = Packet::new(&mut buffer, HEADROOM, len).unwrap();
                seal(&send, 5, &mut p, mtu).unwrap();
                assert_eq!(p.len(), 16 + padded + 16);
                assert_eq!(DataHeader::parse(p.bytes()), Ok(DataHeader { receiver: 9, counter: 5 }));
                let ticket = OpenTicket { peer: PeerId(1), key: id, counter: 5 };
                let opened = open(&receive, ticket, &mut p).unwrap();
                assert_eq!(opened.content(), if len == 0 { Content::Keepalive } else { content });
                assert_eq!((p.start(), p.len()), (HEADROOM, padded));
                assert!(p.bytes()[..len].iter().all(|b| *b == first));
                assert!(p.bytes()[len..].iter().all(|b| *b == 0));
            }
        }
    }

    #[test]
    fn a_small_buffer_or_a_wrong_key_is_an_error() {
        let send = SendKey { aead: ChaChaPoly::new(&[1; 32]), remote: 9 };
        let mut buffer = [0; 15 + 20 + 32];
        let mut p = Packet::new(&mut buffer, 15, 20).unwrap();
        assert_eq!(seal(&send, 0, &mut p, 1420), Err(DropReason::NoRoom));
        let key = KeyId { slot: 0, index: 9 };
        let ticket = OpenTicket { peer: PeerId(1), key, counter: 0 };
        let receive = |id| RecvKey { aead: ChaChaPoly::new(&[1; 32]), id };
        let mut p = Packet::new(&mut buffer, 0, 31).unwrap();
        assert_eq!(open(&receive(key), ticket, &mut p), Err(DropReason::Truncated));
        let mut p = Packet::new(&mut buffer, 0, 32).unwrap();
        let other = KeyId { slot: 0, index: 8 };
        assert_eq!(open(&receive(other), ticket, &mut p), Err(DropReason::UnknownIndex));
        assert_eq!(open(&receive(key), ticket, &mut p), Err(DropReason::Authentication));
    }
}
