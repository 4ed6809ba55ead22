//! Packets that this node originates, each written over the packet that caused it.
//!
//! All carry complete checksums whatever their cause carried: a shell that writes one to its TUN device sends
//! no offload with it. The source is the address that the cause was sent to, because a client believes only the
//! one it wrote to. Callers do not answer later fragments or ICMP errors (RFC 1122 3.2.2, RFC 4443 2.4).

use super::checksum::{pseudo_header, sum};
use super::{
    ACK, Checksum, FIN, Fragment, ICMP, ICMPV6, Kind, RST, Rewrite, SCTP, SYN, TCP, Transport, array, byte,
    finish_checksum, put, rewrite, sctp,
};
use crate::counters::DropReason;
use crate::packet::Packet;
use core::net::IpAddr;

const TTL: u8 = 64;
/// Largest ICMPv4 error (RFC 1812, 4.3.2.3).
const ICMP_MAX: usize = 576;
/// Largest ICMPv6 error, and least IPv6 MTU (RFC 4443, 2.4).
const ICMPV6_MAX: usize = 1280;

/// Answers a TCP segment that belongs to no connection with a reset (RFC 9293, 3.10.7.1).
///
/// # Errors
/// [`DropReason::NoFlow`] for a segment that is a reset itself or no TCP, [`DropReason::NoRoom`].
pub fn tcp_reset(packet: &mut Packet<'_>, t: &Transport) -> Result<(), DropReason> {
    let Kind::Tcp { flags } = t.kind else { return Err(DropReason::NoFlow) };
    if flags & RST != 0 {
        return Err(DropReason::NoFlow);
    }
    let bytes = packet.bytes();
    let at = |offset: usize| t.l4.saturating_add(offset);
    let sequence = u32::from_be_bytes(array(bytes, at(4))?);
    let acknowledged = u32::from_be_bytes(array(bytes, at(8))?);
    let header_len = usize::from(byte(bytes, at(12))? >> 4).saturating_mul(4);
    let data = t.end.saturating_sub(at(header_len)) as u32;
    let phantom = u32::from(flags & SYN != 0).wrapping_add(u32::from(flags & FIN != 0));
    let (sequence, acknowledged, flags) = if flags & ACK != 0 {
        (acknowledged, 0, RST)
    } else {
        (0, sequence.wrapping_add(data).wrapping_add(phantom), RST | ACK)
    };
    let l4 = ip_header(packet, t, TCP, 20)?;
    let out = packet.bytes_mut();
    let put_at = |out: &mut [u8], offset: usize, value: [u8; 4]| put(out, l4.saturating_add(offset), value);
    let ([a, b], [c, d]) = (t.dst_port.to_be_bytes(), t.src_port.to_be_bytes());
    put_at(out, 0, [a, b, c, d])?;
    put_at(out, 4, sequence.to_be_bytes())?;
    put_at(out, 8, acknowledged.to_be_bytes())?;
    put_at(out, 12, [0x50, flags, 0, 0])?;
    put_at(out, 16, [0; 4])?;
    seal(out, l4, 16, TCP)
}

/// Answers an SCTP packet that belongs to no association with an ABORT (RFC 9260, 8.4): Linux does not let an
/// association fail on "port unreachable".
///
/// # Errors
/// [`DropReason::NoFlow`] when such a packet gets no answer, [`DropReason::NoRoom`].
pub fn sctp_abort(packet: &mut Packet<'_>, t: &Transport) -> Result<(), DropReason> {
    let answer = sctp::abort(packet.bytes().get(..t.end).unwrap_or_default(), t.l4, t.sctp_chunk())?;
    let l4 = ip_header(packet, t, SCTP, answer.len())?;
    put(packet.bytes_mut(), l4, answer)
}

/// Answers a packet with ICMP or ICMPv6 "port unreachable".
///
/// # Errors
/// [`DropReason::NoRoom`].
pub fn port_unreachable(packet: &mut Packet<'_>, t: &Transport) -> Result<(), DropReason> {
    let (message, code) = if t.src.is_ipv6() { (1, 4) } else { (3, 3) };
    icmp_error(packet, t, [message, code], 0)
}

/// Answers a packet with "fragmentation needed" (RFC 1191) or "packet too big" (RFC 4443, 3.2). `mtu`: of the
/// next hop in bytes; IPv6 nodes heed none below 1280. An IPv4 packet that may be fragmented is answered too:
/// Linux then fragments what it sends to the smaller size.
///
/// # Errors
/// [`DropReason::NoRoom`].
pub fn too_big(packet: &mut Packet<'_>, t: &Transport, mtu: u16) -> Result<(), DropReason> {
    let (message, code) = if t.src.is_ipv6() { (2, 0) } else { (3, 4) };
    icmp_error(packet, t, [message, code], u32::from(mtu))
}

/// Turns an echo request into its reply.
///
/// # Errors
/// [`DropReason::Malformed`] when the packet is no echo request.
pub fn echo(packet: &mut Packet<'_>, t: &Transport, checksum: Checksum) -> Result<(), DropReason> {
    if t.kind != Kind::EchoRequest || t.fragment != Fragment::None {
        return Err(DropReason::Malformed);
    }
    let bytes = packet.bytes_mut();
    // The pseudo-header's sum does not change when its addresses change places.
    let to = Rewrite { src: t.dst, dst: t.src, src_port: t.src_port, dst_port: 0 };
    rewrite(bytes, t, &to, checksum)?;
    if checksum == Checksum::Partial {
        put(bytes, t.l4, [reply_type(t)])?;
        return finish_checksum(bytes, t);
    }
    let [message, code] = array(bytes, t.l4)?;
    let mut delta = super::checksum::Delta::default();
    delta.replace(&[message, code], &[reply_type(t), code]);
    put(bytes, t.l4, [reply_type(t)])?;
    let at = t.l4.saturating_add(2);
    let field = u16::from_be_bytes(array(bytes, at)?);
    put(bytes, at, delta.complete(field).to_be_bytes())
}

fn reply_type(t: &Transport) -> u8 {
    if t.src.is_ipv6() { 129 } else { 0 }
}

/// Moves the cause behind an IP and ICMP header, cut to what an error may quote.
fn icmp_error(packet: &mut Packet<'_>, t: &Transport, head: [u8; 2], value: u32) -> Result<(), DropReason> {
    let (header, most, protocol) =
        if t.src.is_ipv6() { (48usize, ICMPV6_MAX, ICMPV6) } else { (28, ICMP_MAX, ICMP) };
    let quote = t.len().min(most.saturating_sub(header));
    packet.resize(header.saturating_add(quote))?;
    let bytes = packet.bytes_mut();
    // Both ranges lie inside the packet: resize made it `header + quote` long.
    if header.saturating_add(quote) <= bytes.len() {
        bytes.copy_within(..quote, header);
    }
    let l4 = ip_header(packet, t, protocol, quote.saturating_add(8))?;
    let out = packet.bytes_mut();
    let [message, code] = head;
    put(out, l4, [message, code, 0, 0])?;
    put(out, l4.saturating_add(4), value.to_be_bytes())?;
    seal(out, l4, 2, protocol)
}

/// Makes the packet an IP header from `t`'s destination to its source and `len` bytes; returns where they start.
fn ip_header(packet: &mut Packet<'_>, t: &Transport, protocol: u8, len: usize) -> Result<usize, DropReason> {
    match (t.dst, t.src) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => {
            packet.resize(len.saturating_add(20))?;
            let out = packet.bytes_mut();
            let [high, low] = (len.saturating_add(20) as u16).to_be_bytes();
            put(out, 0, [0x45, 0, high, low, 0, 0, 0x40, 0, TTL, protocol, 0, 0])?;
            put(out, 12, src.octets())?;
            put(out, 16, dst.octets())?;
            let check = !sum(0, &array::<20>(out, 0)?);
            put(out, 10, check.to_be_bytes())?;
            Ok(20)
        }
        (IpAddr::V6(src), IpAddr::V6(dst)) => {
            packet.resize(len.saturating_add(40))?;
            let out = packet.bytes_mut();
            let [high, low] = (len as u16).to_be_bytes();
            put(out, 0, [0x60, 0, 0, 0, high, low, protocol, TTL])?;
            put(out, 8, src.octets())?;
            put(out, 24, dst.octets())?;
            Ok(40)
        }
        _ => Err(DropReason::Malformed),
    }
}

/// Computes the checksum at `offset` of the transport header, over a field that is zero.
fn seal(out: &mut [u8], l4: usize, offset: usize, protocol: u8) -> Result<(), DropReason> {
    let body = out.get(l4..).ok_or(DropReason::Truncated)?;
    let start = match (l4, protocol) {
        (_, ICMP) => 0,
        (40, _) => pseudo_header(out.get(8..40).unwrap_or_default(), protocol, body.len()),
        _ => pseudo_header(out.get(12..20).unwrap_or_default(), protocol, body.len()),
    };
    let check = !sum(start, body);
    put(out, l4.saturating_add(offset), check.to_be_bytes())
}
