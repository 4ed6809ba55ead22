//! Servers without a directory (`--role relay`): what they and the directory's server say to each other.
//!
//! Such a server is a member of the directory under a name of its own kind ([`PREFIX`]) with a key of its own. It passes
//! nodes' control connections on to the directory's server, unread: they are encrypted between node and directory. It
//! is told which nodes came by it, with a key for their binds that is good with it only, and their relay sessions; it
//! says who is bound with it. Datagrams between two of its nodes never leave it, others go to or come from the
//! directory's server, where it is bound as a node is. It holds no key that signs anything, and no Services.
//!
//! * `directory`: the directory's end; `link`, `pass`, `state`, `admin`, `run`: the other's

mod admin;
mod directory;
mod link;
mod pass;
mod run;
mod state;

pub(crate) use directory::{PREFIX, accept, attached, gone, heard, key_by, sessions, tell_all};
pub(crate) use run::run;

use crate::forward::{ip_bytes, mac};
use edgemesh_core::wire::control::Preamble;
use serde::{Deserialize, Serialize};
use std::net::{IpAddr, Ipv6Addr, SocketAddr};

/// From the directory's server, in a `ToNode::Relay`: about all nodes that came by this relay when it connects, then what
/// changes. New kinds are appended.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
enum ToRelay {
    /// This node's control connection comes by this relay; its binds have this key.
    Node { index: u32, key: [u8; 32] },
    /// The datagrams of this session go from one node to the other.
    Session { session: u32, from: u32, to: u32 },
    /// The node is elsewhere, or no member any more.
    Gone { index: u32 },
}

/// To the directory's server, in a `ToServer::Relay`: about all nodes that are bound here after each connection, then what
/// changes. New kinds are appended.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
enum ToDirectory {
    /// The node is bound at this relay since a bind of this epoch.
    Bound { index: u32, epoch: u64 },
    /// It is not any more.
    Unbound { index: u32 },
    /// A node lost a datagram to another, which can be reached now.
    Met { from: u32, to: u32 },
}

/// Length of what goes before a connection that is passed on, preamble included.
const VIA: usize = 4 + VIA_REST;
/// The same without the preamble: index, address and port as seen, MAC.
const VIA_REST: usize = 4 + 16 + 2 + 16;

/// What goes before a control connection that comes from `peer`, by the relay of this index and key.
fn via(relay: u32, key: &[u8; 32], peer: SocketAddr) -> [u8; VIA] {
    let mut out = [0; VIA];
    let said =
        [&Preamble::Via.bytes()[..], &relay.to_le_bytes(), &ip_bytes(peer.ip()), &peer.port().to_le_bytes()];
    let said = said.concat();
    let bytes = said.iter().copied().chain(mac(key, &[&said]));
    out.iter_mut().zip(bytes).for_each(|(to, from)| *to = from);
    out
}

/// By which relay the connection comes, and from where; `key` gives that of a relay.
fn read_via(rest: &[u8; VIA_REST], key: impl Fn(u32) -> Option<[u8; 32]>) -> Option<(u32, SocketAddr)> {
    let (relay, address) = rest.split_first_chunk()?;
    let (ip, port) = address.split_first_chunk()?;
    let (port, _) = port.split_first_chunk()?;
    let relay = u32::from_le_bytes(*relay);
    let ip = IpAddr::V6(Ipv6Addr::from(*ip)).to_canonical();
    let peer = SocketAddr::new(ip, u16::from_le_bytes(*port));
    let expected = via(relay, &key(relay)?, peer);
    let same = subtle::ConstantTimeEq::ct_eq(expected.get(4..)?, &rest[..]);
    bool::from(same).then_some((relay, peer))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_is_taken_only_from_a_relay_that_has_the_key() {
        let peers = ["192.0.2.1:258", "[2001:db8::1]:9"].map(|text| text.parse::<SocketAddr>().unwrap());
        for peer in peers {
            let bytes = via(7, &[3; 32], peer);
            assert_eq!(bytes[..8], *b"EMV1\x07\0\0\0");
            let rest: [u8; VIA_REST] = bytes[4..].try_into().unwrap();
            assert_eq!(read_via(&rest, |index| (index == 7).then_some([3; 32])), Some((7, peer)));
            assert_eq!(read_via(&rest, |_| Some([4; 32])), None);
            assert_eq!(read_via(&rest, |_| None), None);
            for bit in 0..VIA_REST * 8 {
                let mut bad = rest;
                bad[bit / 8] ^= 1 << (bit % 8);
                assert_eq!(read_via(&bad, |_| Some([3; 32])), None);
            }
        }
    }

    /// Servers are not upgraded together.
    #[test]
    fn the_bytes_of_version_1_stay_readable() {
        let to_relay = [
            (ToRelay::Node { index: 300, key: [9; 32] }, [vec![0, 0xac, 2], vec![9; 32]].concat()),
            (ToRelay::Session { session: 1, from: 2, to: 300 }, vec![1, 1, 2, 0xac, 2]),
            (ToRelay::Gone { index: 5 }, vec![2, 5]),
        ];
        for (message, bytes) in to_relay {
            assert_eq!(postcard::to_allocvec(&message).unwrap(), bytes);
            assert_eq!(postcard::from_bytes(&bytes), Ok(message));
        }
        let to_directory = [
            (ToDirectory::Bound { index: 5, epoch: 300 }, vec![0, 5, 0xac, 2]),
            (ToDirectory::Unbound { index: 5 }, vec![1, 5]),
            (ToDirectory::Met { from: 1, to: 2 }, vec![2, 1, 2]),
        ];
        for (message, bytes) in to_directory {
            assert_eq!(postcard::to_allocvec(&message).unwrap(), bytes);
            assert_eq!(postcard::from_bytes(&bytes), Ok(message));
        }
    }
}
