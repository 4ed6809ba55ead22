//! Mesh addresses as this node sees them: which address is whose, the alias for same-node flows,
//! and the stand-ins of VIPs beside another service proxy.

use crate::wire::control::{Network, mesh_address, mesh_capacity};
use core::net::IpAddr;

/// Bits that VIPs with the same [`Mesh::shadow`] share at least, at their end.
pub const SHADOW_BITS: u32 = 16;

/// The mesh prefixes and this node's place in them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Mesh {
    network: Network,
    own: u32,
}

impl Mesh {
    /// Of a node that has not joined: no address is in it.
    pub const NONE: Self =
        Self { network: Network { mesh_v4: [0; 4], mesh_v4_len: 32, mesh_v6: [0; 16] }, own: 0 };

    /// `own`: this node's index, from 1.
    pub const fn new(network: Network, own: u32) -> Self {
        Self { network, own }
    }

    /// This node's index.
    pub const fn own_index(&self) -> u32 {
        self.own
    }

    /// The mesh address of the node with `index`.
    pub fn address(&self, index: u32, v6: bool) -> IpAddr {
        mesh_address(&self.network, index, v6)
    }

    /// This node's mesh address.
    pub fn own(&self, v6: bool) -> IpAddr {
        self.address(self.own, v6)
    }

    /// The source of same-node flows: last address of the node quarter, assigned to no interface, because a
    /// kernel refuses packets that arrive with one of its own addresses as source.
    pub fn alias(&self, v6: bool) -> IpAddr {
        if v6 {
            let prefix = u128::from_be_bytes(self.network.mesh_v6);
            IpAddr::from((prefix | u128::from(u64::MAX >> 2)).to_be_bytes())
        } else {
            self.address(mesh_capacity(&self.network).saturating_add(1), false)
        }
    }

    /// The stand-in of a Service's VIP on nodes where another service proxy claims the VIP itself: in the quarter
    /// behind the nodes', with the last bits of the VIP, so that it is the same after every restart. `None` before
    /// this node has joined, and where the quarter has room for fewer than [`SHADOW_BITS`].
    pub fn shadow(&self, vip: IpAddr) -> Option<IpAddr> {
        let (quarter, mask) = self.shadows(vip.is_ipv6())?;
        Some(match (vip, quarter) {
            (IpAddr::V4(vip), IpAddr::V4(quarter)) => {
                IpAddr::from((u32::from(quarter) | u32::from(vip) & mask as u32).to_be_bytes())
            }
            (IpAddr::V6(vip), IpAddr::V6(quarter)) => {
                IpAddr::from((u128::from(quarter) | u128::from(vip) & u128::from(mask)).to_be_bytes())
            }
            _ => return None,
        })
    }

    /// Whether `ip` lies in the quarter of [`Mesh::shadow`].
    pub fn is_shadow(&self, ip: IpAddr) -> bool {
        self.shadow(ip) == Some(ip)
    }

    /// First address of the quarter, and the bits that a VIP gives.
    fn shadows(&self, v6: bool) -> Option<(IpAddr, u64)> {
        let bits = if v6 { 62 } else { 30u32.checked_sub(self.network.mesh_v4_len.into())? };
        let first = 1u64.checked_shl(bits).filter(|_| self.own != 0 && bits >= SHADOW_BITS)?;
        let quarter = if v6 {
            IpAddr::from((u128::from_be_bytes(self.network.mesh_v6) | u128::from(first)).to_be_bytes())
        } else {
            IpAddr::from((u32::from_be_bytes(self.network.mesh_v4) | first as u32).to_be_bytes())
        };
        Some((quarter, first.saturating_sub(1)))
    }

    /// Whether `ip` lies in the mesh prefixes, whatever it is there.
    pub fn contains(&self, ip: IpAddr) -> bool {
        match ip {
            IpAddr::V4(v4) => {
                let host = u32::from(v4) ^ u32::from_be_bytes(self.network.mesh_v4);
                host.checked_shr(32u32.saturating_sub(self.network.mesh_v4_len.into())).unwrap_or(0) == 0
            }
            IpAddr::V6(v6) => (u128::from(v6) ^ u128::from_be_bytes(self.network.mesh_v6)) >> 64 == 0,
        }
    }

    /// The index of the node that has mesh address `ip`; `None` outside the node quarter and for the alias.
    pub fn index_of(&self, ip: IpAddr) -> Option<u32> {
        let host = match ip {
            IpAddr::V4(v4) => u32::from(v4) ^ u32::from_be_bytes(self.network.mesh_v4),
            IpAddr::V6(v6) => {
                u32::try_from(u128::from(v6) ^ u128::from_be_bytes(self.network.mesh_v6)).ok()?
            }
        };
        (1..=mesh_capacity(&self.network)).contains(&host).then_some(host)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn indices_round_trip_and_the_alias_is_nobody() {
        let network = Network {
            mesh_v4: [242, 0, 0, 0],
            mesh_v4_len: 8,
            mesh_v6: "fd00:242::".parse::<core::net::Ipv6Addr>().unwrap().octets(),
        };
        let mesh = Mesh::new(network, 7);
        assert_eq!(mesh.own(false).to_string(), "242.0.0.7");
        assert_eq!(mesh.own(true).to_string(), "fd00:242::7");
        assert_eq!(mesh.alias(false).to_string(), "242.63.255.255");
        assert_eq!(mesh.alias(true).to_string(), "fd00:242::3fff:ffff:ffff:ffff");
        for v6 in [false, true] {
            assert_eq!(mesh.index_of(mesh.address(0x3f_fffe, v6)), Some(0x3f_fffe));
            assert_eq!(mesh.index_of(mesh.alias(v6)), None);
            assert_eq!(mesh.index_of(mesh.address(0, v6)), None);
        }
        assert_eq!(mesh.index_of("242.64.0.1".parse().unwrap()), None);
        assert_eq!(mesh.index_of("10.0.0.1".parse().unwrap()), None);
        for (ip, inside) in
            [("242.255.0.1", true), ("243.0.0.1", false), ("fd00:242::f", true), ("fd00:243::f", false)]
        {
            assert_eq!(mesh.contains(ip.parse().unwrap()), inside, "{ip}");
        }
    }

    #[test]
    fn shadows_keep_the_last_bits_of_their_vips() {
        let network = |len| Network {
            mesh_v4: [242, 0, 0, 0],
            mesh_v4_len: len,
            mesh_v6: "fd00:242::".parse::<core::net::Ipv6Addr>().unwrap().octets(),
        };
        let mesh = Mesh::new(network(8), 7);
        for (vip, shadow) in [
            ("10.96.0.10", "242.96.0.10"),
            ("10.111.255.255", "242.111.255.255"),
            ("172.20.1.2", "242.84.1.2"),
            ("fd00:96::a", "fd00:242::4000:0:0:a"),
            ("fd00:96::ffff:0:0:a", "fd00:242::7fff:0:0:a"),
        ] {
            let shadow: IpAddr = shadow.parse().unwrap();
            assert_eq!(mesh.shadow(vip.parse().unwrap()), Some(shadow), "{vip}");
            assert!(mesh.is_shadow(shadow) && mesh.contains(shadow));
            assert_eq!(mesh.index_of(shadow), None);
        }
        for other in ["10.96.0.10", "242.0.0.7", "242.63.255.255", "242.128.0.1", "fd00:242::7", "fd00:96::a"]
        {
            assert!(!mesh.is_shadow(other.parse().unwrap()), "{other}");
        }
        let vip = "10.96.0.10".parse().unwrap();
        assert_eq!(Mesh::new(network(14), 1).shadow(vip), Some("242.1.0.10".parse().unwrap()));
        assert_eq!(Mesh::new(network(15), 1).shadow(vip), None, "too few bits");
        assert_eq!(Mesh::NONE.shadow(vip), None);
    }

    use std::string::ToString;
}
