//! An IP address as plain bytes, for slots and keys; all zero is none.
//!
//! 16 bytes, an IPv4 address mapped (RFC 4291 2.5.5.2); under the feature `compact` 4 bytes and IPv4 only. What
//! [`Address::holds`] refuses must not enter a table: the tables refuse and the flow machine counts it.

use core::net::IpAddr;
#[cfg(not(feature = "compact"))]
use core::net::Ipv6Addr;

#[cfg(not(feature = "compact"))]
const LEN: usize = 16;
#[cfg(feature = "compact")]
const LEN: usize = 4;

/// An IPv4 or IPv6 address, or none. A mapped IPv6 address is the IPv4 address.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Debug, Hash)]
#[repr(transparent)]
pub struct Address([u8; LEN]);

impl Address {
    /// No address.
    pub const NONE: Self = Self([0; LEN]);

    /// Whether this build keeps such addresses; one that it does not would become [`Address::NONE`].
    pub const fn holds(ip: IpAddr) -> bool {
        cfg!(not(feature = "compact")) || matches!(ip.to_canonical(), IpAddr::V4(_))
    }

    /// The address, unless it is [`Address::NONE`].
    pub fn ip(self) -> Option<IpAddr> {
        if self.is_none() { None } else { Some(self.ip_or_unspecified()) }
    }

    /// The address; the unspecified one for [`Address::NONE`].
    pub fn ip_or_unspecified(self) -> IpAddr {
        #[cfg(not(feature = "compact"))]
        return Ipv6Addr::from(self.0).to_canonical();
        #[cfg(feature = "compact")]
        return IpAddr::from(self.0);
    }

    /// Whether this is no address.
    pub fn is_none(self) -> bool {
        self == Self::NONE
    }

    /// Its bytes, for hashing.
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }
}

impl From<IpAddr> for Address {
    #[cfg(not(feature = "compact"))]
    fn from(ip: IpAddr) -> Self {
        match ip {
            IpAddr::V4(v4) => Self(v4.to_ipv6_mapped().octets()),
            IpAddr::V6(v6) => Self(v6.octets()),
        }
    }

    #[cfg(feature = "compact")]
    fn from(ip: IpAddr) -> Self {
        match ip.to_canonical() {
            IpAddr::V4(v4) => Self(v4.octets()),
            IpAddr::V6(_) => Self::NONE,
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
