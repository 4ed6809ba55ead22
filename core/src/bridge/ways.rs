//! Where datagrams come from and go to, in the words of the tunnel, the path layer and the shell.

use super::types::{Destination, Sender, Transmit, Way};
use crate::path::Source;
use crate::tunnel::Origin;
use core::net::{IpAddr, Ipv6Addr, SocketAddr};

/// Back to where a direct datagram came from.
pub(crate) fn straight(origin: &Origin) -> Way {
    let ip = IpAddr::V6(Ipv6Addr::from(origin.address)).to_canonical();
    let local = u8::try_from(origin.via).unwrap_or_default();
    Way { envelope: None, to: Destination::Socket { local, remote: SocketAddr::new(ip, origin.port) } }
}

/// Puts the envelope in front.
pub(crate) fn finish(
    way: &Way,
    out: &mut [u8],
    start: usize,
    len: usize,
    dont_fragment: bool,
) -> Option<Transmit> {
    let mut range = start..start.checked_add(len)?;
    if let Some(envelope) = way.envelope {
        range.start = start.checked_sub(envelope.len())?;
        out.get_mut(range.start..start)?.copy_from_slice(&envelope);
    }
    Some(Transmit { range, to: way.to, dont_fragment })
}

/// What the tunnel binds a cookie to, and hands back with its answer.
pub(crate) fn origin(sender: Sender) -> Origin {
    let mut origin = Origin::EMPTY;
    match sender.source {
        Source::Direct { local, remote } => {
            origin.address = match remote.ip() {
                IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
                IpAddr::V6(v6) => v6.octets(),
            };
            origin.port = remote.port();
            origin.via = u32::from(local);
        }
        Source::Relay | Source::RelayTcp => origin.via = sender.peer.map_or(0, |peer| peer.0),
    }
    origin
}
