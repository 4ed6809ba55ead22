//! From bytes to [`Transport`].

use super::{
    EXTENSION_HEADERS, Fragment, ICMP, ICMPV6, Kind, SCTP, TCP, Transport, UDP, array, byte, sctp, word,
};
use crate::counters::DropReason;
use core::net::IpAddr;

/// How much of the packet must be there.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Extent {
    /// All that its length field says.
    Whole,
    /// The IP header and the ports.
    Quote,
}

/// What an IP header says of what follows it.
struct Header {
    protocol: u8,
    src: IpAddr,
    dst: IpAddr,
    fragment: Fragment,
    may_fragment: bool,
    fragment_header: usize,
    l4: usize,
    end: usize,
}

pub(super) fn packet(bytes: &[u8], start: usize, extent: Extent) -> Result<Transport, DropReason> {
    let header = match byte(bytes, start)? >> 4 {
        4 => ipv4(bytes, start, extent)?,
        6 => ipv6(bytes, start, extent)?,
        _ => return Err(DropReason::NotIp),
    };
    let later = matches!(header.fragment, Fragment::Later { .. });
    let (kind, src_port, dst_port) = if later {
        (Kind::Opaque, 0, 0)
    } else {
        upper(bytes.get(..header.end).ok_or(DropReason::Truncated)?, &header, extent)?
    };
    Ok(Transport {
        protocol: header.protocol,
        src: header.src,
        dst: header.dst,
        src_port,
        dst_port,
        kind,
        fragment: header.fragment,
        may_fragment: header.may_fragment,
        start,
        l4: header.l4,
        end: header.end,
        fragment_header: header.fragment_header,
    })
}

fn ipv4(bytes: &[u8], start: usize, extent: Extent) -> Result<Header, DropReason> {
    let fixed: [u8; 20] = array(bytes, start)?;
    let header_len = usize::from(fixed[0] & 0x0f).saturating_mul(4);
    if header_len < 20 {
        return Err(DropReason::Malformed);
    }
    let total = usize::from(u16::from_be_bytes([fixed[2], fixed[3]]));
    let end = end_of(bytes, start, total, extent)?;
    let l4 = start.saturating_add(header_len);
    if l4 > end {
        return Err(DropReason::Malformed);
    }
    let id = u32::from(u16::from_be_bytes([fixed[4], fixed[5]]));
    let field = u16::from_be_bytes([fixed[6], fixed[7]]);
    let fragment = fragment(id, (field & 0x1fff).saturating_mul(8), field & 0x2000 != 0);
    let protocol = fixed[9];
    // Such a fragment overlaps the first one's flags (RFC 3128).
    if protocol == TCP && matches!(fragment, Fragment::Later { offset: 8, .. }) {
        return Err(DropReason::Malformed);
    }
    Ok(Header {
        protocol,
        src: IpAddr::from([fixed[12], fixed[13], fixed[14], fixed[15]]),
        dst: IpAddr::from([fixed[16], fixed[17], fixed[18], fixed[19]]),
        fragment,
        may_fragment: field & 0x4000 == 0,
        fragment_header: 0,
        l4,
        end,
    })
}

fn ipv6(bytes: &[u8], start: usize, extent: Extent) -> Result<Header, DropReason> {
    let at = |offset: usize| start.saturating_add(offset);
    let total = usize::from(word(bytes, at(4))?).saturating_add(40);
    let end = end_of(bytes, start, total, extent)?;
    let mut header = Header {
        protocol: byte(bytes, at(6))?,
        src: IpAddr::from(array::<16>(bytes, at(8))?),
        dst: IpAddr::from(array::<16>(bytes, at(24))?),
        fragment: Fragment::None,
        may_fragment: false,
        fragment_header: 0,
        l4: at(40),
        end,
    };
    let bytes = bytes.get(..end).ok_or(DropReason::Truncated)?;
    for _ in 0..=EXTENSION_HEADERS {
        if matches!(header.fragment, Fragment::Later { .. }) || !extension(bytes, &mut header)? {
            return if header.l4 <= end { Ok(header) } else { Err(DropReason::Truncated) };
        }
    }
    Err(DropReason::Malformed)
}

/// Steps over one extension header; false when the next header is none.
fn extension(bytes: &[u8], header: &mut Header) -> Result<bool, DropReason> {
    let at = header.l4;
    let units = usize::from(byte(bytes, at.saturating_add(1)).unwrap_or_default());
    let len = match header.protocol {
        // Hop-by-hop options, destination options.
        0 | 60 => units.saturating_add(1).saturating_mul(8),
        // Routing: with segments left, the checksum is over another destination.
        43 if byte(bytes, at.saturating_add(3))? == 0 => units.saturating_add(1).saturating_mul(8),
        43 => return Err(DropReason::Malformed),
        // Authentication header: its length is in 32-bit words, less two.
        51 => units.saturating_add(2).saturating_mul(4),
        44 => {
            let field = word(bytes, at.saturating_add(2))?;
            let id = u32::from_be_bytes(array(bytes, at.saturating_add(4))?);
            // An atomic fragment (RFC 6946) is a whole packet.
            header.fragment = fragment(id, field & 0xfff8, field & 1 != 0);
            header.fragment_header = at;
            8
        }
        _ => return Ok(false),
    };
    header.protocol = byte(bytes, at)?;
    header.l4 = at.saturating_add(len);
    Ok(true)
}

fn fragment(id: u32, offset: u16, more: bool) -> Fragment {
    match (offset, more) {
        (0, false) => Fragment::None,
        (0, true) => Fragment::First { id },
        (offset, _) => Fragment::Later { id, offset },
    }
}

fn end_of(bytes: &[u8], start: usize, total: usize, extent: Extent) -> Result<usize, DropReason> {
    let end = start.saturating_add(total);
    match extent {
        Extent::Whole if end > bytes.len() => Err(DropReason::Truncated),
        Extent::Whole => Ok(end),
        Extent::Quote => Ok(end.min(bytes.len())),
    }
}

fn upper(bytes: &[u8], header: &Header, extent: Extent) -> Result<(Kind, u16, u16), DropReason> {
    let at = |offset: usize| header.l4.saturating_add(offset);
    let need = |len: usize| {
        let len = if extent == Extent::Quote { len.min(8) } else { len };
        if at(len) > bytes.len() { Err(DropReason::Truncated) } else { Ok(()) }
    };
    let kind = match (header.protocol, header.src.is_ipv6()) {
        (TCP, _) => {
            need(20)?;
            if extent == Extent::Whole {
                let len = usize::from(byte(bytes, at(12))? >> 4).saturating_mul(4);
                if len < 20 || at(len) > bytes.len() {
                    return Err(DropReason::Malformed);
                }
            }
            Kind::Tcp { flags: byte(bytes, at(13)).unwrap_or_default() }
        }
        (UDP, _) => {
            need(8)?;
            Kind::Udp
        }
        (SCTP, _) => {
            need(12)?;
            Kind::Sctp { chunk: sctp::signal(bytes.get(at(12)..).unwrap_or_default()) }
        }
        (ICMP, false) | (ICMPV6, true) => {
            need(8)?;
            return icmp(byte(bytes, header.l4)?, word(bytes, at(4))?, header);
        }
        _ => return Ok((Kind::Opaque, 0, 0)),
    };
    Ok((kind, word(bytes, header.l4)?, word(bytes, at(2))?))
}

/// By message type (RFC 792, RFC 4443). Of the IPv4 errors, source quench and redirect do not pass.
fn icmp(message: u8, id: u16, header: &Header) -> Result<(Kind, u16, u16), DropReason> {
    let quote = header.l4.saturating_add(8);
    Ok(match (header.src.is_ipv6(), message) {
        (false, 8) | (true, 128) => (Kind::EchoRequest, id, 0),
        (false, 0) | (true, 129) => (Kind::EchoReply, 0, id),
        (false, 3 | 11 | 12) | (true, 1..=4) if header.fragment == Fragment::None => {
            (Kind::IcmpError { quote }, 0, 0)
        }
        _ => (Kind::Opaque, 0, 0),
    })
}
