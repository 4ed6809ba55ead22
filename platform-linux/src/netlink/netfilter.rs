//! Questions to netfilter: is a table or chain there, and which connections does it track.
//!
//! Beside `nft`, which prints whole rule sets: a node with kube-proxy may have ten thousands of rules, and the
//! question whether one chain exists is asked again and again. Blocking, like [`Netlink`]. Bounds: a listing of
//! connections is as long as the kernel's table of them.

use std::io;
use std::net::IpAddr;

use super::wire::{self, Message, Request};
use super::{Netlink, messages};

const NFT_MSG_GETTABLE: u16 = 10 << 8 | 1;
const NFT_MSG_GETCHAIN: u16 = 10 << 8 | 4;
const NFT_MSG_NEWGEN: u16 = 10 << 8 | 15;
const NFT_MSG_GETGEN: u16 = 10 << 8 | 16;
const NFTA_GEN_ID: u16 = 1;
/// `NFTA_TABLE_NAME` and `NFTA_CHAIN_TABLE` alike.
const NFTA_TABLE: u16 = 1;
const NFTA_CHAIN_NAME: u16 = 3;

const CT_NEW: u16 = 1 << 8;
const CT_GET: u16 = 1 << 8 | 1;
const CT_DELETE: u16 = 1 << 8 | 2;
const CTA_TUPLE_ORIG: u16 = 1;
const CTA_TUPLE_REPLY: u16 = 2;
const CTA_STATUS: u16 = 3;
const CTA_ID: u16 = 12;
const CTA_ZONE: u16 = 18;
const CTA_TUPLE_IP: u16 = 1;
const CTA_TUPLE_PROTO: u16 = 2;
const CTA_PROTO_NUM: u16 = 1;
const CTA_PROTO_SRC_PORT: u16 = 2;
const CTA_PROTO_DST_PORT: u16 = 3;
const CTA_IP_V4_SRC: u16 = 1;
const CTA_IP_V4_DST: u16 = 2;
const CTA_IP_V6_SRC: u16 = 3;
const CTA_IP_V6_DST: u16 = 4;
const NESTED: u16 = 0x8000;
const IPS_SEEN_REPLY: u32 = 2;

/// A tracked connection.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Connection {
    /// IP protocol number.
    pub protocol: u8,
    /// Where its first packet was going.
    pub to: IpAddr,
    /// The port there; 0 for a protocol without ports.
    pub to_port: u16,
    /// Where answers come from: what the destination was translated to.
    pub from: IpAddr,
    /// The port there.
    pub from_port: u16,
    /// Whether anything came back.
    pub replied: bool,
    /// Attributes that name it.
    key: Vec<(u16, Vec<u8>)>,
}

/// A client of netfilter in the network namespace of the thread that opened it.
pub struct Netfilter(Netlink);

impl Netfilter {
    /// Opens it.
    ///
    /// # Errors
    /// As `socket(2)`.
    pub fn open() -> io::Result<Self> {
        Netlink::of(libc::NETLINK_NETFILTER).map(Self)
    }

    /// Whether nftables has this table in the family `ip` or `ip6`.
    ///
    /// # Errors
    /// As the kernel answers; `EPERM` without CAP_NET_ADMIN.
    pub fn has_table(&mut self, v6: bool, table: &str) -> io::Result<bool> {
        self.exists(
            Request::new(NFT_MSG_GETTABLE, 0, &head(v6)).attribute(NFTA_TABLE, &messages::terminated(table)),
        )
    }

    /// Whether that table has this chain.
    ///
    /// # Errors
    /// As [`Netfilter::has_table`].
    pub fn has_chain(&mut self, v6: bool, table: &str, chain: &str) -> io::Result<bool> {
        let request =
            Request::new(NFT_MSG_GETCHAIN, 0, &head(v6)).attribute(NFTA_TABLE, &messages::terminated(table));
        self.exists(request.attribute(NFTA_CHAIN_NAME, &messages::terminated(chain)))
    }

    /// How often anybody has changed the rules of nftables in this network namespace; it wraps.
    ///
    /// # Errors
    /// As [`Netfilter::has_table`].
    pub fn generation(&mut self) -> io::Result<u32> {
        let mut found = None;
        self.0.exchange(Request::new(NFT_MSG_GETGEN, 0, &head(false)), |message| {
            let body = message.body.get(4..).filter(|_| message.kind == NFT_MSG_NEWGEN);
            let id = body.and_then(|body| wire::attributes(body).find(|(kind, _)| *kind == NFTA_GEN_ID));
            found = found.or(id.and_then(|(_, value)| value.try_into().ok()).map(u32::from_be_bytes));
        })?;
        found.ok_or_else(|| io::ErrorKind::InvalidData.into())
    }

    fn exists(&mut self, request: Request) -> io::Result<bool> {
        match self.0.exchange(request, |_| ()) {
            Ok(()) => Ok(true),
            // A kernel without nftables knows no such request.
            Err(e) if [Some(libc::ENOENT), Some(libc::EINVAL)].contains(&e.raw_os_error()) => Ok(false),
            Err(e) => Err(e),
        }
    }

    /// Every tracked connection of a family.
    ///
    /// # Errors
    /// As the kernel answers; `EINVAL` from one that does not track connections.
    pub fn connections(&mut self, v6: bool) -> io::Result<Vec<Connection>> {
        self.0.dump(CT_GET, &head(v6), parse)
    }

    /// Has a connection forgotten; one that is gone already is fine.
    ///
    /// # Errors
    /// As the kernel answers.
    pub fn forget(&mut self, connection: &Connection) -> io::Result<()> {
        let mut request = Request::new(CT_DELETE, 0, &head(connection.to.is_ipv6()));
        for (kind, value) in &connection.key {
            request = request.attribute(*kind, value);
        }
        match self.0.exchange(request, |_| ()) {
            Err(e) if e.raw_os_error() != Some(libc::ENOENT) => Err(e),
            _ => Ok(()),
        }
    }
}

/// `struct nfgenmsg`.
fn head(v6: bool) -> [u8; 4] {
    [if v6 { libc::AF_INET6 } else { libc::AF_INET } as u8, 0, 0, 0]
}

fn parse(message: &Message<'_>) -> Option<Connection> {
    if message.kind != CT_NEW {
        return None;
    }
    let attributes: Vec<(u16, &[u8])> = wire::attributes(message.body.get(4..)?).collect();
    let get = |wanted| attributes.iter().find(|(kind, _)| *kind == wanted).map(|(_, value)| *value);
    let (original, reply) = (get(CTA_TUPLE_ORIG)?, get(CTA_TUPLE_REPLY)?);
    let status = get(CTA_STATUS).and_then(|value| value.try_into().ok()).map_or(0, u32::from_be_bytes);
    let port = |tuple, kind| {
        let bytes = nested(tuple, CTA_TUPLE_PROTO, &[kind])?;
        bytes.try_into().map(u16::from_be_bytes).ok()
    };
    let own = |kind: u16, name: u16| Some((name, get(kind)?.to_vec()));
    let key = [own(CTA_TUPLE_ORIG, CTA_TUPLE_ORIG | NESTED), own(CTA_ZONE, CTA_ZONE), own(CTA_ID, CTA_ID)];
    Some(Connection {
        protocol: *nested(original, CTA_TUPLE_PROTO, &[CTA_PROTO_NUM])?.first()?,
        to: messages::parse_ip(nested(original, CTA_TUPLE_IP, &[CTA_IP_V4_DST, CTA_IP_V6_DST])?)?,
        to_port: port(original, CTA_PROTO_DST_PORT).unwrap_or_default(),
        from: messages::parse_ip(nested(reply, CTA_TUPLE_IP, &[CTA_IP_V4_SRC, CTA_IP_V6_SRC])?)?,
        from_port: port(reply, CTA_PROTO_SRC_PORT).unwrap_or_default(),
        replied: status & IPS_SEEN_REPLY != 0,
        key: key.into_iter().flatten().collect(),
    })
}

/// The first attribute of one of these types within an attribute.
fn nested<'v>(value: &'v [u8], kind: u16, wanted: &[u16]) -> Option<&'v [u8]> {
    let (_, inner) = wire::attributes(value).find(|(found, _)| *found == kind)?;
    wire::attributes(inner).find(|(found, _)| wanted.contains(found)).map(|(_, value)| value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{in_namespace, sh};

    #[test]
    fn tables_and_chains_are_found_by_name() {
        in_namespace(|| {
            let mut netfilter = Netfilter::open().unwrap();
            assert!(!netfilter.has_table(false, "kube-proxy").unwrap());
            assert!(!netfilter.has_chain(false, "nat", "KUBE-SERVICES").unwrap());
            sh("nft add table ip kube-proxy; iptables-nft -t nat -N KUBE-SERVICES");
            assert!(netfilter.has_table(false, "kube-proxy").unwrap());
            assert!(!netfilter.has_table(true, "kube-proxy").unwrap());
            assert!(netfilter.has_chain(false, "nat", "KUBE-SERVICES").unwrap());
            assert!(!netfilter.has_chain(true, "nat", "KUBE-SERVICES").unwrap());
        });
    }

    #[test]
    fn every_change_of_rules_is_a_generation() {
        in_namespace(|| {
            let mut netfilter = Netfilter::open().unwrap();
            let before = netfilter.generation().unwrap();
            assert_eq!(netfilter.generation().unwrap(), before);
            sh("nft add table ip a");
            assert_eq!(netfilter.generation().unwrap(), before.wrapping_add(1));
            sh("nft 'add table ip b; add table ip6 b; delete table ip a'");
            assert_eq!(netfilter.generation().unwrap(), before.wrapping_add(2), "one file is one change");
        });
    }

    #[test]
    fn connections_are_listed_and_forgotten() {
        in_namespace(|| {
            sh("nft add table ip t; nft 'add chain ip t out { type nat hook output priority -100; }'");
            sh(
                "nft add rule ip t out ip daddr 10.96.0.9 dnat to 127.0.0.1; ip route add 10.96.0.0/16 dev lo",
            );
            let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
            socket.send_to(b"x", "10.96.0.9:9").unwrap();
            let mut netfilter = Netfilter::open().unwrap();
            let to = |netfilter: &mut Netfilter| {
                let mut all = netfilter.connections(false).unwrap();
                all.retain(|c| c.to == IpAddr::from([10, 96, 0, 9]));
                all
            };
            let found = to(&mut netfilter);
            let [connection] = &found[..] else { panic!("{found:?}") };
            assert_eq!((connection.protocol, connection.from), (17, IpAddr::from([127, 0, 0, 1])));
            assert_eq!((connection.to_port, connection.from_port), (9, 9));
            netfilter.forget(connection).unwrap();
            netfilter.forget(connection).unwrap();
            assert_eq!(to(&mut netfilter), []);
            assert_eq!(netfilter.connections(true).unwrap(), []);
        });
    }
}
