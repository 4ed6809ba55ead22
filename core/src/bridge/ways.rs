//! Where datagrams come from and go to, in the words of the tunnel, the path layer and the shell.

use super::types::{Destination, From, Sender, Transmit, Way};
use crate::PeerId;
use crate::control::Welcome;
use crate::counters::DropReason;
use crate::noise::ChaChaPoly;
use crate::packet::{HEADROOM, Packet};
use crate::path::{self, Paths, RelayVia, Source, Terms, is_relay};
use crate::peer::Peers;
use crate::time::Instant;
use crate::tunnel::{self, Origin, Tunnels};
use crate::wire::health::is_health;
use core::net::{IpAddr, Ipv6Addr, SocketAddr};

/// The way to a peer.
pub(crate) fn way_to(paths: &Paths<'_>, now: Instant, peer: PeerId) -> Option<Way> {
    Way::of(paths.route(now, peer, 0).first?, paths.relay_via())
}

/// The way of a handshake message: an answer goes straight back to where a direct datagram came from, unless that
/// would not arrive.
pub(crate) fn way_of(paths: &mut Paths<'_>, now: Instant, message: &tunnel::Transmit) -> Option<Way> {
    match (message.peer, message.answer) {
        (peer, Some(origin)) if origin.port != 0 => {
            let ip = IpAddr::V6(Ipv6Addr::from(origin.address)).to_canonical();
            let remote = SocketAddr::new(ip, origin.port);
            let own = peer.filter(|peer| paths.is_one_way(now, *peer, &remote));
            let local = u8::try_from(origin.via).unwrap_or_default();
            let straight = Way { envelope: None, to: Destination::Socket { local, remote } };
            own.and_then(|peer| way_to(paths, now, peer)).or(Some(straight))
        }
        (Some(peer), _) => Way::of(paths.call(now, peer)?, paths.relay_via()),
        (None, Some(origin)) => way_to(paths, now, PeerId(origin.via)),
        (None, None) => None,
    }
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

/// What a welcome says about the relay of this server: it is bound to from the socket of its family.
pub(crate) fn terms(server: SocketAddr, index: u32, welcome: &Welcome<'_>) -> Terms {
    let local = u8::from(server.is_ipv6());
    Terms { server, local, index, key: welcome.relay_key, epoch: welcome.relay_epoch }
}

/// Where a datagram came from: through the relay, or from the peer itself.
pub(crate) fn side(from: From, datagram: &[u8]) -> Result<RelayVia, Source> {
    match from {
        From::Socket { local, remote } if !is_relay(datagram) => Err(Source::Direct { local, remote }),
        From::Socket { local, remote } => Ok(RelayVia::Udp { local, server: remote }),
        From::RelayTcp => Ok(RelayVia::Tcp),
    }
}

/// Takes in an inner message that is no IP packet: about ways, or about the health of endpoints.
pub(crate) fn heard(
    peers: &mut Peers<'_>,
    paths: &mut Paths<'_>,
    now: Instant,
    (peer, source): (PeerId, &Source),
    inner: &[u8],
) -> Result<(), DropReason> {
    if is_health(inner) { peers.heard(now, peer, inner) } else { paths.message(now, peer, source, inner) }
}

/// The next inner message for a peer: about ways, or about the health of this node's endpoints if there is a session
/// and a way.
pub(crate) fn said(
    peers: &mut Peers<'_>,
    paths: &mut Paths<'_>,
    tunnels: &Tunnels<'_>,
    own: u32,
    now: Instant,
    out: &mut [u8],
) -> Option<path::Transmit> {
    let message = paths.poll_message(now, out);
    while message.is_none() {
        let (peer, len) = peers.poll_health(now, own, out)?;
        let route = paths.route(now, peer, 0).first.filter(|_| tunnels.is_up(peer));
        if let Some(route) = route {
            return Some(path::Transmit { peer, route, len, dont_fragment: false });
        }
    }
    message
}

/// Seals a message of the engine's own behind [`HEADROOM`]; where the datagram starts and how long it is.
pub(crate) fn seal_own(
    tunnels: &mut Tunnels<'_>,
    now: Instant,
    peer: PeerId,
    out: &mut [u8],
    len: usize,
) -> Option<(usize, usize)> {
    let grant = tunnels.reserve(now, peer, 1, false).ok()?;
    let key = tunnels.send_key::<ChaChaPoly>(grant.key)?;
    let mut packet = Packet::new(out, HEADROOM, len).ok()?;
    tunnel::seal(&key, grant.first, &mut packet, usize::MAX).ok()?;
    Some((packet.start(), packet.len()))
}
