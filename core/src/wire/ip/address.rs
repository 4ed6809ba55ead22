//! An IP address as 16 plain bytes, for slots and keys: IPv4 is mapped (RFC 4291 2.5.5.2), all zero is none.

use core::net::{IpAddr, Ipv6Addr};

/// 16 bytes that are an IPv4 or IPv6 address, or none. A mapped IPv6 address is the IPv4 address.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Debug, Hash)]
#[repr(transparent)]
pub struct Address([u8; 16]);

impl Address {
    /// No address.
    pub const NONE: Self = Self([0; 16]);

    /// The address, unless it is [`Address::NONE`].
    pub fn ip(self) -> Option<IpAddr> {
        if self.is_none() { None } else { Some(self.ip_or_unspecified()) }
    }

    /// The address; `::` for [`Address::NONE`].
    pub fn ip_or_unspecified(self) -> IpAddr {
        Ipv6Addr::from(self.0).to_canonical()
    }

    /// Whether this is no address.
    pub fn is_none(self) -> bool {
        self == Self::NONE
    }

    /// Its bytes, for hashing.
    pub fn bytes(&self) -> &[u8; 16] {
        &self.0
    }
}

impl From<IpAddr> for Address {
    fn from(ip: IpAddr) -> Self {
        match ip {
            IpAddr::V4(v4) => Self(v4.to_ipv6_mapped().octets()),
            IpAddr::V6(v6) => Self(v6.octets()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_families_come_back_and_none_is_none() {
        for text in ["10.1.2.3", "fd00::1", "0.0.0.0"] {
            let ip: IpAddr = text.parse().unwrap();
            assert_eq!(Address::from(ip).ip(), Some(ip));
        }
        assert_eq!(Address::NONE.ip(), None);
        assert_eq!(Address::from("::ffff:10.1.2.3".parse::<IpAddr>().unwrap()).ip(), "10.1.2.3".parse().ok());
    }
}
