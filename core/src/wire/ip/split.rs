//! Cutting IPv4 packets to a path's MTU, where their sender allows it (RFC 791, 3.2).
//!
//! Only packets without options: which options go into later fragments is not worth the code.

use super::checksum::Delta;
use super::{Fragment, Transport, array, put, word};
use crate::counters::DropReason;

/// How many fragments [`split`] makes of a packet of `len` bytes.
pub fn pieces(len: usize, mtu: u16) -> u16 {
    let most = usize::from(mtu).saturating_sub(20) & !7;
    let count = len
        .saturating_sub(20)
        .checked_add(most)
        .and_then(|n| n.checked_sub(1))
        .and_then(|n| n.checked_div(most));
    count.and_then(|n| u16::try_from(n).ok()).unwrap_or(1)
}

/// Writes the fragment with `number`, from 0, of the packet that `t` was parsed from; returns its length, `None`
/// behind the last one. `mtu`: the longest fragment in bytes. The packet's transport checksum must be complete.
/// A fragment is cut into fragments of the same datagram.
///
/// # Errors
/// [`DropReason::TooBig`] when the packet may not be cut, [`DropReason::NoRoom`] when `out` is shorter than a
/// fragment.
pub fn split(
    bytes: &[u8],
    t: &Transport,
    mtu: u16,
    number: u16,
    out: &mut [u8],
) -> Result<Option<usize>, DropReason> {
    let header: [u8; 20] = array(bytes, t.start)?;
    let body = bytes.get(t.start.saturating_add(20)..t.end).ok_or(DropReason::Truncated)?;
    // Offsets count in eights.
    let most = usize::from(mtu).saturating_sub(20) & !7;
    if !t.may_fragment || header[0] != 0x45 || most == 0 {
        return Err(DropReason::TooBig);
    }
    let start = most.saturating_mul(usize::from(number));
    let Some(piece) = body.get(start..body.len().min(start.saturating_add(most))).filter(|p| !p.is_empty())
    else {
        return Ok(None);
    };
    let len = piece.len().saturating_add(20);
    let out = out.get_mut(..len).ok_or(DropReason::NoRoom)?;
    put(out, 0, header)?;
    for (to, from) in out.iter_mut().skip(20).zip(piece) {
        *to = *from;
    }
    let field = u16::from_be_bytes([header[6], header[7]]);
    let offset = (field & 0x1fff).saturating_add((start / 8) as u16);
    let more = field & 0x2000 != 0 || start.saturating_add(piece.len()) < body.len();
    let mut delta = Delta::default();
    for (at, new) in [(2, len as u16), (6, offset | if more { 0x2000 } else { 0 })] {
        delta.replace_word(word(out, at)?, new);
        put(out, at, new.to_be_bytes())?;
    }
    let check = delta.complete(word(out, 10)?);
    put(out, 10, check.to_be_bytes())?;
    Ok(Some(len))
}

/// Gives an IPv4 packet that is to be cut another identification, unless it is a fragment already.
///
/// # Errors
/// None that a packet parsed into `t` can cause.
pub fn set_whole_id(bytes: &mut [u8], t: &Transport, id: u16) -> Result<(), DropReason> {
    match t.fragment {
        Fragment::None if t.src.is_ipv4() => super::edit::set_ipv4_id(bytes, t, id),
        _ => Ok(()),
    }
}
