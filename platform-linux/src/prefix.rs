//! An IP prefix: an address and a length in bits.
//!
//! A plain value, always canonical (host bits are zero).

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

/// A range of addresses that share their first `len` bits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Prefix {
    address: IpAddr,
    len: u8,
}

impl Prefix {
    /// The prefix of `len` bits that holds `address`; `None` when the family has fewer bits.
    pub fn new(address: IpAddr, len: u8) -> Option<Self> {
        if len > bits(address) {
            return None;
        }
        let address = match address {
            IpAddr::V4(v4) => {
                let mask = u32::MAX.checked_shl(32 - u32::from(len)).unwrap_or(0);
                IpAddr::V4(Ipv4Addr::from_bits(v4.to_bits() & mask))
            }
            IpAddr::V6(v6) => {
                let mask = u128::MAX.checked_shl(128 - u32::from(len)).unwrap_or(0);
                IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() & mask))
            }
        };
        Some(Self { address, len })
    }

    /// The prefix that holds only `address`.
    pub fn host(address: IpAddr) -> Self {
        Self { address, len: bits(address) }
    }

    /// Its first address.
    pub fn address(&self) -> IpAddr {
        self.address
    }

    /// Its length in bits.
    pub fn bits(&self) -> u8 {
        self.len
    }

    /// Whether it is of IPv6.
    pub fn is_ipv6(&self) -> bool {
        self.address.is_ipv6()
    }

    /// Whether `address` lies in it.
    pub fn contains(&self, address: IpAddr) -> bool {
        self.address.is_ipv4() == address.is_ipv4() && Self::new(address, self.len) == Some(*self)
    }

    /// Whether the two share an address.
    pub fn overlaps(&self, other: &Self) -> bool {
        if self.len <= other.len { self.contains(other.address) } else { other.contains(self.address) }
    }
}

fn bits(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.len)
    }
}

/// Text that is no prefix, with what is accepted.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ParseError(String);

impl fmt::Display for ParseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:?} is not a prefix; accepted: an address, or ADDRESS/BITS without host bits, such as 10.96.0.0/12",
            self.0
        )
    }
}

impl std::error::Error for ParseError {}

impl FromStr for Prefix {
    type Err = ParseError;

    /// Reads `ADDRESS/BITS` or a bare address. Host bits that are set are refused: they are a typing error.
    fn from_str(text: &str) -> Result<Self, ParseError> {
        let refuse = || ParseError(text.to_owned());
        let (address, len) = match text.split_once('/') {
            Some((address, len)) => (address, Some(len.parse().map_err(|_| refuse())?)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().map_err(|_| refuse())?;
        let prefix = Self::new(address, len.unwrap_or(bits(address))).ok_or_else(refuse)?;
        if prefix.address == address { Ok(prefix) } else { Err(refuse()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn p(text: &str) -> Prefix {
        text.parse().unwrap()
    }

    #[test]
    fn text_goes_both_ways() {
        for text in ["0.0.0.0/0", "10.96.0.0/12", "242.0.0.1/32", "::/0", "fd00::/8", "fd00::1/128"] {
            assert_eq!(p(text).to_string(), text);
        }
        assert_eq!(p("10.0.0.1"), Prefix::host("10.0.0.1".parse().unwrap()));
    }

    #[test]
    fn what_is_no_prefix_is_refused() {
        for text in ["", "10.0.0.0/33", "10.0.0.1/8", "fd00::/129", "x/8", "10.0.0.0/-1", "10.0.0.0/"] {
            assert!(text.parse::<Prefix>().is_err(), "{text}");
        }
    }

    #[test]
    fn overlap_is_symmetric_and_stays_in_its_family() {
        for (a, b, expected) in [
            ("10.0.0.0/8", "10.1.0.0/16", true),
            ("10.0.0.0/8", "11.0.0.0/8", false),
            ("0.0.0.0/0", "242.0.0.0/8", true),
            ("0.0.0.0/0", "fd00::/8", false),
            ("242.0.0.0/8", "242.0.0.0/8", true),
        ] {
            assert_eq!(p(a).overlaps(&p(b)), expected, "{a} {b}");
            assert_eq!(p(b).overlaps(&p(a)), expected, "{b} {a}");
        }
    }
}
