//! Changes in place, with the checksums carried along.

use super::checksum::{Delta, sum};
use super::sctp::update_crc32c;
use super::{Checksum, Fragment, Kind, SYN, Transport, array, byte, put, word};
use crate::counters::DropReason;
use core::net::IpAddr;

/// The addresses and ports that a packet is to have.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Rewrite {
    /// Source address.
    pub src: IpAddr,
    /// Destination address.
    pub dst: IpAddr,
    /// Source port, or identifier of an echo request.
    pub src_port: u16,
    /// Destination port, or identifier of an echo reply.
    pub dst_port: u16,
}

/// Gives the packet that `t` was parsed from new addresses and ports. Of a later fragment only the addresses
/// are changed: its ports and checksum travel in the first one.
///
/// # Errors
/// [`DropReason::Malformed`] when the address families differ, [`DropReason::Checksum`] for UDP over IPv6
/// without a checksum (RFC 8200, 8.1), [`DropReason::Fragment`] for a fragment of an SCTP packet whose ports
/// would change (its CRC reaches over all fragments). The packet may be half changed then and must be dropped.
pub fn rewrite(bytes: &mut [u8], t: &Transport, to: &Rewrite, checksum: Checksum) -> Result<(), DropReason> {
    let addresses = set_addresses(bytes, t, to.src, to.dst)?.pseudo;
    if matches!(t.fragment, Fragment::Later { .. }) {
        return Ok(());
    }
    let ports = set_ports(bytes, t, to)?;
    let Some(at) = t.checksum_at() else { return Ok(()) };
    let field = word(bytes, at)?;
    let pseudo = if t.has_pseudo_header() { addresses } else { Delta::default() };
    let new = match (checksum, t.kind, field) {
        (Checksum::Partial, ..) => pseudo.partial(field),
        (Checksum::Complete, Kind::Udp, 0) if t.src.is_ipv6() => return Err(DropReason::Checksum),
        (Checksum::Complete, Kind::Udp, 0) => 0,
        (Checksum::Complete, kind, _) => transmitted(kind, pseudo.and(ports).complete(field)),
    };
    put(bytes, at, new.to_be_bytes())
}

/// Gives the ICMP error `outer` new addresses, and the packet `inner` that it quotes new addresses and ports:
/// what its receiver gets must look like the packet it sent (RFC 5508, REQ-4 and REQ-5).
///
/// # Errors
/// As [`rewrite`].
pub fn rewrite_error(
    bytes: &mut [u8],
    outer: &Transport,
    inner: &Transport,
    (src, dst): (IpAddr, IpAddr),
    to: &Rewrite,
    checksum: Checksum,
) -> Result<(), DropReason> {
    let outer_addresses = set_addresses(bytes, outer, src, dst)?.pseudo;
    let inner_addresses = set_addresses(bytes, inner, to.src, to.dst)?;
    let mut covered = inner_addresses.all;
    if !matches!(inner.fragment, Fragment::Later { .. }) {
        let ports = set_quoted_ports(bytes, inner, to)?;
        covered = covered.and(ports);
        // The quoted checksum may be cut off, or zero for "none"; nobody verifies it, but it shall match.
        if let Some(at) = inner.checksum_at()
            && let Ok(field) = word(bytes.get(..inner.end).unwrap_or_default(), at)
            && !(field == 0 && inner.kind == Kind::Udp)
        {
            let pseudo = if inner.has_pseudo_header() { inner_addresses.pseudo } else { Delta::default() };
            let new = transmitted(inner.kind, pseudo.and(ports).complete(field));
            put(bytes, at, new.to_be_bytes())?;
            covered.replace_word(field, new);
        }
    }
    let at = outer.checksum_at().ok_or(DropReason::Malformed)?;
    let field = word(bytes, at)?;
    let pseudo = if outer.has_pseudo_header() { outer_addresses } else { Delta::default() };
    let new = match checksum {
        Checksum::Complete => pseudo.and(covered).complete(field),
        Checksum::Partial => pseudo.partial(field),
    };
    put(bytes, at, new.to_be_bytes())
}

/// Lowers the maximum segment size option of a TCP SYN to `limit`; anything else stays as it is.
///
/// # Errors
/// None that a packet parsed into `t` can cause.
pub fn clamp_mss(bytes: &mut [u8], t: &Transport, limit: u16, checksum: Checksum) -> Result<(), DropReason> {
    if t.tcp_flags() & SYN == 0 || matches!(t.fragment, Fragment::Later { .. }) {
        return Ok(());
    }
    let Some(at) = mss_option(bytes, t) else { return Ok(()) };
    let old = word(bytes, at)?;
    if old <= limit {
        return Ok(());
    }
    put(bytes, at, limit.to_be_bytes())?;
    if checksum == Checksum::Complete {
        let mut delta = Delta::default();
        // Options need not be aligned; a word at an odd offset adds to the sum with its bytes swapped.
        if at.wrapping_sub(t.l4) & 1 == 0 {
            delta.replace_word(old, limit);
        } else {
            delta.replace_word(old.swap_bytes(), limit.swap_bytes());
        }
        let at = t.l4.saturating_add(16);
        let field = word(bytes, at)?;
        put(bytes, at, delta.complete(field).to_be_bytes())?;
    }
    Ok(())
}

/// Turns a partial checksum into a complete one.
///
/// # Errors
/// None that a packet parsed into `t` can cause.
pub fn finish_checksum(bytes: &mut [u8], t: &Transport) -> Result<(), DropReason> {
    let Some(at) = t.checksum_at() else { return Ok(()) };
    let total = sum(0, bytes.get(t.l4..t.end).ok_or(DropReason::Truncated)?);
    put(bytes, at, transmitted(t.kind, !total).to_be_bytes())
}

/// Gives a fragment another identification; a whole packet stays as it is.
///
/// # Errors
/// None that a packet parsed into `t` can cause.
pub fn set_fragment_id(bytes: &mut [u8], t: &Transport, id: u32) -> Result<(), DropReason> {
    if t.fragment == Fragment::None {
        return Ok(());
    }
    if t.src.is_ipv6() {
        return put(bytes, t.fragment_header.saturating_add(4), id.to_be_bytes());
    }
    set_ipv4_id(bytes, t, id as u16)
}

pub(super) fn set_ipv4_id(bytes: &mut [u8], t: &Transport, id: u16) -> Result<(), DropReason> {
    let at = t.start.saturating_add(4);
    let mut delta = Delta::default();
    delta.replace_word(word(bytes, at)?, id);
    put(bytes, at, id.to_be_bytes())?;
    update_header(bytes, t, delta).map(|_| ())
}

/// Offset of the value of the MSS option (RFC 9293, 3.2).
fn mss_option(bytes: &[u8], t: &Transport) -> Option<usize> {
    let header_len = usize::from(byte(bytes, t.l4.saturating_add(12)).ok()? >> 4).saturating_mul(4);
    let options = bytes.get(..t.l4.saturating_add(header_len).min(t.end))?;
    let mut at = t.l4.saturating_add(20);
    // Forty bytes of options are at most forty options.
    for _ in 0..40 {
        let len = match (options.get(at)?, options.get(at.saturating_add(1))) {
            (0, _) => return None,
            (1, _) => 1,
            (2, Some(4)) => {
                let value = at.saturating_add(2);
                return (value.saturating_add(2) <= options.len()).then_some(value);
            }
            (_, Some(&len)) if len >= 2 => usize::from(len),
            _ => return None,
        };
        at = at.saturating_add(len);
    }
    None
}

/// What an address change does to sums: to those over the pseudo-header, and to one over the whole IP header.
struct AddressChange {
    pseudo: Delta,
    all: Delta,
}

fn set_addresses(
    bytes: &mut [u8],
    t: &Transport,
    src: IpAddr,
    dst: IpAddr,
) -> Result<AddressChange, DropReason> {
    let at = |offset: usize| t.start.saturating_add(offset);
    let mut pseudo = Delta::default();
    match (t.src, src, dst) {
        (IpAddr::V4(_), IpAddr::V4(src), IpAddr::V4(dst)) => {
            swap_in(bytes, at(12), src.octets(), &mut pseudo)?;
            swap_in(bytes, at(16), dst.octets(), &mut pseudo)?;
            let all = update_header(bytes, t, pseudo)?;
            Ok(AddressChange { pseudo, all })
        }
        (IpAddr::V6(_), IpAddr::V6(src), IpAddr::V6(dst)) => {
            swap_in(bytes, at(8), src.octets(), &mut pseudo)?;
            swap_in(bytes, at(24), dst.octets(), &mut pseudo)?;
            Ok(AddressChange { pseudo, all: pseudo })
        }
        _ => Err(DropReason::Malformed),
    }
}

/// Carries a change of the IPv4 header into its checksum; returns the change of a sum over the whole header.
fn update_header(bytes: &mut [u8], t: &Transport, change: Delta) -> Result<Delta, DropReason> {
    let at = t.start.saturating_add(10);
    let old = word(bytes, at)?;
    let new = change.complete(old);
    put(bytes, at, new.to_be_bytes())?;
    let mut all = change;
    all.replace_word(old, new);
    Ok(all)
}

fn set_ports(bytes: &mut [u8], t: &Transport, to: &Rewrite) -> Result<Delta, DropReason> {
    if !matches!(t.kind, Kind::Sctp { .. }) {
        return set_quoted_ports(bytes, t, to);
    }
    if (t.src_port, t.dst_port) == (to.src_port, to.dst_port) {
        return Ok(Delta::default());
    }
    if t.fragment != Fragment::None {
        return Err(DropReason::Fragment);
    }
    let old: [u8; 4] = array(bytes, t.l4)?;
    set_quoted_ports(bytes, t, to)?;
    let new: [u8; 4] = array(bytes, t.l4)?;
    let at = t.l4.saturating_add(8);
    let field = array(bytes, at)?;
    put(bytes, at, update_crc32c(field, old, new, t.end.saturating_sub(t.l4)))?;
    Ok(Delta::default())
}

fn set_quoted_ports(bytes: &mut [u8], t: &Transport, to: &Rewrite) -> Result<Delta, DropReason> {
    let mut delta = Delta::default();
    match t.kind {
        Kind::Tcp { .. } | Kind::Udp | Kind::Sctp { .. } => {
            swap_in(bytes, t.l4, to.src_port.to_be_bytes(), &mut delta)?;
            swap_in(bytes, t.l4.saturating_add(2), to.dst_port.to_be_bytes(), &mut delta)?;
        }
        Kind::EchoRequest => {
            swap_in(bytes, t.l4.saturating_add(4), to.src_port.to_be_bytes(), &mut delta)?;
        }
        Kind::EchoReply => swap_in(bytes, t.l4.saturating_add(4), to.dst_port.to_be_bytes(), &mut delta)?,
        Kind::IcmpError { .. } | Kind::Opaque => {}
    }
    Ok(delta)
}

fn swap_in<const N: usize>(
    bytes: &mut [u8],
    at: usize,
    new: [u8; N],
    delta: &mut Delta,
) -> Result<(), DropReason> {
    delta.replace(&array::<N>(bytes, at)?, &new);
    put(bytes, at, new)
}

/// A UDP checksum that comes out as zero is sent as all ones (RFC 768).
fn transmitted(kind: Kind, checksum: u16) -> u16 {
    if kind == Kind::Udp && checksum == 0 { u16::MAX } else { checksum }
}
