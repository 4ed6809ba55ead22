//! Questions to netfilter: is a table or chain there, and which connections does it track.
//!
//! Beside `nft`, which prints whole rule sets: a node with kube-proxy may have ten thousands of rules, and the
//! question whether one chain exists is asked again and again. Blocking, like [`Netlink`]. Bounds: a listing of
//! connections is as long as the kernel's table of them.

use std::io;
use std::net::{IpAddr, SocketAddr};

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
const CTA_TIMEOUT: u16 = 7;
const CTA_MARK: u16 = 8;
const CTA_ID: u16 = 12;
const CTA_NAT_DST: u16 = 13;
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
const CTA_NAT_V4_MINIP: u16 = 1;
const CTA_NAT_V4_MAXIP: u16 = 2;
const CTA_NAT_PROTO: u16 = 3;
const CTA_NAT_V6_MINIP: u16 = 4;
const CTA_NAT_V6_MAXIP: u16 = 5;
const CTA_PROTONAT_PORT_MIN: u16 = 1;
const CTA_PROTONAT_PORT_MAX: u16 = 2;
const NESTED: u16 = 0x8000;
const IPS_SEEN_REPLY: u32 = 2;

/// A tracked connection.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Connection {
    /// IP protocol number.
    pub protocol: u8,
    /// Who sent its first packet.
    pub client: IpAddr,
    /// From this port; 0 for a protocol without ports.
    pub client_port: u16,
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
    /// Its mark; 0 where the kernel keeps none.
    pub mark: u32,
    /// Attributes that name it.
    key: Vec<(u16, Vec<u8>)>,
}

impl Connection {
    /// One that is not translated and that nobody has answered.
    pub fn new(protocol: u8, client: SocketAddr, to: SocketAddr) -> Self {
        Self {
            protocol,
            client: client.ip(),
            client_port: client.port(),
            to: to.ip(),
            to_port: to.port(),
            from: to.ip(),
            from_port: to.port(),
            replied: false,
            mark: 0,
            key: vec![(CTA_TUPLE_ORIG | NESTED, tuple(protocol, client, to))],
        }
    }

    /// Its client, as an address and a port.
    pub fn client(&self) -> SocketAddr {
        SocketAddr::new(self.client, self.client_port)
    }

    /// Where its first packet was going.
    pub fn to(&self) -> SocketAddr {
        SocketAddr::new(self.to, self.to_port)
    }
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

    /// The connection whose answers go from `from` to `to`, after all translation.
    ///
    /// # Errors
    /// As the kernel answers.
    pub fn answered(
        &mut self,
        protocol: u8,
        from: SocketAddr,
        to: SocketAddr,
    ) -> io::Result<Option<Connection>> {
        let request = Request::new(CT_GET, 0, &head(from.is_ipv6()))
            .attribute(CTA_TUPLE_REPLY | NESTED, &tuple(protocol, from, to));
        let mut found = None;
        match self.0.exchange(request, |message| found = parse(message).or(found.take())) {
            // The other direction of another connection may have the same ends.
            Ok(()) => Ok(found.filter(|c| (c.from, c.from_port) == (from.ip(), from.port()))),
            Err(e) if e.raw_os_error() == Some(libc::ENOENT) => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// Has a connection that begins like this one, and is tracked no more, led to `endpoint`, its source being left
    /// as it is; it is forgotten after so many seconds without a packet, and its mark gets these bits as well.
    ///
    /// # Errors
    /// `EEXIST` when it is tracked; otherwise as the kernel answers.
    pub fn lead(
        &mut self,
        connection: &Connection,
        endpoint: SocketAddr,
        secs: u32,
        mark: u32,
    ) -> io::Result<()> {
        let Connection { protocol, .. } = *connection;
        let flags = wire::NLM_F_CREATE | wire::NLM_F_EXCL;
        let back = tuple(protocol, connection.to(), connection.client());
        let mut request = Request::new(CT_NEW, flags, &head(endpoint.is_ipv6()))
            .attribute(CTA_TUPLE_REPLY | NESTED, &back)
            .attribute(CTA_NAT_DST | NESTED, &nat(endpoint))
            .attribute(CTA_TIMEOUT, &secs.to_be_bytes());
        for (kind, value) in connection.key.iter().filter(|(kind, _)| *kind != CTA_ID) {
            request = request.attribute(*kind, value);
        }
        // A kernel without marks takes no notice.
        request = request.attribute(CTA_MARK, &(connection.mark | mark).to_be_bytes());
        self.0.exchange(request, |_| ())
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

/// The ends of a packet, as an attribute.
fn tuple(protocol: u8, from: SocketAddr, to: SocketAddr) -> Vec<u8> {
    let (src, dst) = match from.ip() {
        IpAddr::V4(_) => (CTA_IP_V4_SRC, CTA_IP_V4_DST),
        IpAddr::V6(_) => (CTA_IP_V6_SRC, CTA_IP_V6_DST),
    };
    let addresses = [messages::ip(src, from.ip()), messages::ip(dst, to.ip())].concat();
    let ports = [
        wire::attribute(CTA_PROTO_NUM, &[protocol]),
        wire::attribute(CTA_PROTO_SRC_PORT, &from.port().to_be_bytes()),
        wire::attribute(CTA_PROTO_DST_PORT, &to.port().to_be_bytes()),
    ]
    .concat();
    let (ip, proto) = (CTA_TUPLE_IP | NESTED, CTA_TUPLE_PROTO | NESTED);
    [wire::attribute(ip, &addresses), wire::attribute(proto, &ports)].concat()
}

/// A destination to be given, as an attribute.
fn nat(to: SocketAddr) -> Vec<u8> {
    let (min, max) = match to.ip() {
        IpAddr::V4(_) => (CTA_NAT_V4_MINIP, CTA_NAT_V4_MAXIP),
        IpAddr::V6(_) => (CTA_NAT_V6_MINIP, CTA_NAT_V6_MAXIP),
    };
    let port = to.port().to_be_bytes();
    let ports =
        [wire::attribute(CTA_PROTONAT_PORT_MIN, &port), wire::attribute(CTA_PROTONAT_PORT_MAX, &port)];
    let ports = wire::attribute(CTA_NAT_PROTO | NESTED, &ports.concat());
    [messages::ip(min, to.ip()), messages::ip(max, to.ip()), ports].concat()
}

/// `struct nfgenmsg`.
fn head(v6: bool) -> [u8; 4] {
    [if v6 { libc::AF_INET6 } else { libc::AF_INET } as u8, 0, 0, 0]
}

pub(super) fn parse(message: &Message<'_>) -> Option<Connection> {
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
        client: messages::parse_ip(nested(original, CTA_TUPLE_IP, &[CTA_IP_V4_SRC, CTA_IP_V6_SRC])?)?,
        client_port: port(original, CTA_PROTO_SRC_PORT).unwrap_or_default(),
        to: messages::parse_ip(nested(original, CTA_TUPLE_IP, &[CTA_IP_V4_DST, CTA_IP_V6_DST])?)?,
        to_port: port(original, CTA_PROTO_DST_PORT).unwrap_or_default(),
        from: messages::parse_ip(nested(reply, CTA_TUPLE_IP, &[CTA_IP_V4_SRC, CTA_IP_V6_SRC])?)?,
        from_port: port(reply, CTA_PROTO_SRC_PORT).unwrap_or_default(),
        replied: status & IPS_SEEN_REPLY != 0,
        mark: get(CTA_MARK).and_then(|value| value.try_into().ok()).map_or(0, u32::from_be_bytes),
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

    #[test]
    fn c7_a_connection_is_found_by_its_answers_and_led_elsewhere() {
        in_namespace(|| {
            sh(
                "nft add table inet t; nft 'add chain inet t pre { type nat hook prerouting priority -100; }'",
            );
            let mut netfilter = Netfilter::open().unwrap();
            for (protocol, [client, to, endpoint]) in [
                (6, ["192.0.2.1:4000", "10.96.0.9:80", "192.0.2.3:8080"]),
                (17, ["[2001:db8::1]:4000", "[fd00:96::9]:53", "[2001:db8::3]:5353"]),
            ] {
                let [client, to, endpoint] = [client, to, endpoint].map(|text| text.parse().unwrap());
                let begun = Connection::new(protocol, client, to);
                netfilter.lead(&begun, endpoint, 30, 1 << 28).unwrap();
                let twice = netfilter.lead(&begun, endpoint, 30, 1 << 28).unwrap_err();
                assert_eq!(twice.kind(), io::ErrorKind::AlreadyExists);
                assert_eq!(
                    netfilter.answered(protocol, to, client).unwrap(),
                    None,
                    "it is answered elsewhere"
                );
                assert_eq!(netfilter.answered(protocol, client, to).unwrap(), None, "that is no answer");
                let led = netfilter.answered(protocol, endpoint, client).unwrap().unwrap();
                assert_eq!((led.client(), led.to(), led.replied, led.mark), (client, to, false, 1 << 28));
                assert_eq!(SocketAddr::new(led.from, led.from_port), endpoint);
                netfilter.forget(&led).unwrap();
                assert_eq!(netfilter.answered(protocol, endpoint, client).unwrap(), None);
            }
        });
    }
}
