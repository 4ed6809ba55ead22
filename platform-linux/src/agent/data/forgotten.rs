//! Connections of UDP to stand-ins that somebody had the kernel forget.
//!
//! Whenever an endpoint of UDP changes anywhere in the cluster, kube-proxy has the kernel forget the connections to
//! ClusterIPs that lead to none of their endpoints, and a stand-in is none. A client that goes on sending begins anew
//! without a difference. What its endpoint sends meanwhile would reach it from an address that it does not know; our
//! table refuses that with an ICMP error of its own kind, which comes here. The connection is put back then, and the
//! datagram goes to its client after all, if the error quotes the whole of it.
//!
//! Nothing is kept. Bounds: the kernel limits how many errors it sends to one stand-in (`icmp_ratelimit`). Who forges one
//! has the kernel track what a datagram of that client would have made it track.

use super::Data;
use edgemesh_core::packet::HEADROOM;
use edgemesh_core::wire::ip::{ICMP, ICMPV6, Kind, Transport};
use std::net::SocketAddr;

/// Type and code of our table's refusals: destination unreachable, prohibited by an administrator.
const REFUSED_V4: [u8; 2] = [3, 13];
const REFUSED_V6: [u8; 2] = [1, 1];

/// The datagram that the packet says was refused, and where it begins.
fn refused(packet: &[u8]) -> Option<(Transport, usize)> {
    let (at, icmp) = match packet.first()? >> 4 {
        4 => (9, ICMP),
        _ => (6, ICMPV6),
    };
    if *packet.get(at)? != icmp {
        return None;
    }
    let error = Transport::parse(packet).ok()?;
    let Kind::IcmpError { quote } = error.kind else { return None };
    let expected = if icmp == ICMP { REFUSED_V4 } else { REFUSED_V6 };
    let datagram =
        error.quoted(packet).ok().filter(|inner| inner.kind == Kind::Udp && inner.src == error.dst)?;
    (packet.get(error.l4..error.l4 + 2)? == expected).then_some((datagram, quote))
}

impl Data {
    /// Puts back the connection that the packet in the packet buffer is about, if it is a refusal of our table.
    pub(super) fn put_back(&mut self, len: usize) -> bool {
        let packet = &self.packet[HEADROOM..HEADROOM + len];
        let Some((datagram, quote)) = refused(packet) else { return false };
        let Some(vip) = self.engine.services().vip_of(datagram.src) else { return false };
        let Some(handover) = &mut self.handover else { return true };
        let client = SocketAddr::new(datagram.dst, datagram.dst_port);
        let [to, shadow] = [vip, datagram.src].map(|ip| SocketAddr::new(ip, datagram.src_port));
        if handover.put_back(client, to, shadow).is_ok() {
            self.traffic.put_back += 1;
            if Transport::parse(&packet[quote..]).is_ok() {
                let written = self.tun.write_packet(&packet[quote..]);
                self.wrote(written);
            }
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use edgemesh_core::wire::ip::UDP;

    /// An ICMP error of that type and code to 242.96.0.10 that quotes a datagram of it to 172.17.0.2.
    fn error(kind: [u8; 2], protocol: u8) -> Vec<u8> {
        let header = |len: u8, protocol, from: [u8; 4], to: [u8; 4]| {
            [&[0x45, 0, 0, len, 0, 0, 0, 0, 64, protocol, 0, 0][..], &from, &to].concat()
        };
        let (shadow, client) = ([242, 96, 0, 10], [172, 17, 0, 2]);
        let datagram =
            [header(30, protocol, shadow, client), vec![27, 88, 156, 74, 0, 10, 0, 0, 104, 105]].concat();
        [header(58, ICMP, [242, 0, 0, 3], shadow), kind.to_vec(), vec![0; 6], datagram].concat()
    }

    #[test]
    fn q5_only_refusals_of_the_table_are_taken() {
        let (datagram, quote) = refused(&error(REFUSED_V4, UDP)).unwrap();
        assert_eq!(
            (datagram.src_port, datagram.dst, datagram.dst_port),
            (7000, [172, 17, 0, 2].into(), 40010)
        );
        assert_eq!(Transport::parse(&error(REFUSED_V4, UDP)[quote..]).map(|t| t.len()), Ok(30));
        for other in [error([3, 3], UDP), error([11, 0], UDP), error(REFUSED_V4, ICMP), vec![], vec![0x45; 9]]
        {
            assert!(refused(&other).is_none(), "{other:?}");
        }
        let whole = error(REFUSED_V4, UDP);
        assert!((0..whole.len()).all(|len| refused(&whole[..len]).is_none()), "cut short");
        let mut forged = error(REFUSED_V4, UDP);
        forged[19] ^= 1;
        assert!(refused(&forged).is_none(), "an error to somebody else than the sender");
    }
}
