//! Mesh addresses as this node sees them: which address is whose, and the alias for same-node flows.

use crate::wire::control::{Network, mesh_address, mesh_capacity};
use core::net::IpAddr;

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
    use std::string::ToString;
}
