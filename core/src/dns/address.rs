//! Addresses inside names: reverse names (RFC 1035 §3.5, RFC 3596 §2.5) and the dashed form of pods and endpoints.

use core::fmt::Write;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::Label;
use crate::wire::dns::Name;

/// The address that a reverse name in lower case stands for; `None` for other names and for whole subtrees.
pub(super) fn from_reverse(name: Name<'_>) -> Option<IpAddr> {
    match name.labels().count() {
        6 if ends_with(name, 4, [b"in-addr", b"arpa"]) => {
            let mut octets = [0; 4];
            for (octet, label) in octets.iter_mut().rev().zip(name.labels()) {
                *octet = decimal(label)?;
            }
            Some(Ipv4Addr::from(octets).into())
        }
        34 if ends_with(name, 32, [b"ip6", b"arpa"]) => {
            let mut bits: u128 = 0;
            for (place, label) in (0u32..).zip(name.labels().take(32)) {
                let [digit] = label else { return None };
                let nibble = char::from(*digit).to_digit(16)?;
                bits |= u128::from(nibble) << place.saturating_mul(4);
            }
            Some(Ipv6Addr::from(bits).into())
        }
        _ => None,
    }
}

fn ends_with(name: Name<'_>, before: usize, suffix: [&[u8]; 2]) -> bool {
    name.labels().skip(before).eq(suffix)
}

/// An octet as reverse names write it: without leading zeros.
fn decimal(label: &[u8]) -> Option<u8> {
    let canonical = label.len() == 1 || label.first() != Some(&b'0');
    if !canonical || !label.iter().all(u8::is_ascii_digit) {
        return None;
    }
    core::str::from_utf8(label).ok()?.parse().ok()
}

/// The label of an endpoint without hostname: `10-1-2-3`, `5678-abcd--1`; a final dash gets a 0, because a label
/// must not end with one (row D14).
pub(super) fn dashed(address: IpAddr) -> Label {
    let mut text: heapless::String<46> = heapless::String::new();
    // The longest address has 45 characters, so this cannot fail.
    let _ = write!(text, "{address}");
    let mut label: Label = text.bytes().map(|b| if b == b'.' || b == b':' { b'-' } else { b }).collect();
    if label.ends_with(b"-") {
        let _ = label.push(b'0');
    }
    label
}

/// The address that a dashed label stands for, as in the names of pods; `None` for other labels.
pub fn from_dashed(label: &[u8]) -> Option<IpAddr> {
    let undash = |separator| -> Option<heapless::String<46>> {
        let mut text = heapless::String::new();
        for byte in label {
            text.push(if *byte == b'-' { separator } else { char::from(*byte) }).ok()?;
        }
        Some(text)
    };
    let v4 = || undash('.')?.parse::<Ipv4Addr>().ok().map(IpAddr::V4);
    let v6 = || undash(':')?.parse::<Ipv6Addr>().ok().map(IpAddr::V6);
    // A dot or colon inside the label would be read as a separator of its own.
    let plain = label.iter().all(|byte| *byte == b'-' || byte.is_ascii_hexdigit());
    if plain { v4().or_else(v6) } else { None }
}

#[cfg(test)]
mod tests {
    use std::borrow::ToOwned;

    use super::*;
    use crate::wire::dns::write_text;

    fn reverse(text: &str) -> Option<IpAddr> {
        let mut wire = [0; 255];
        let len = write_text(text.as_bytes(), &mut wire).unwrap();
        from_reverse(Name::parse(&wire[..len], 0).unwrap())
    }

    #[test]
    fn d8_reverse_names_of_both_families() {
        assert_eq!(reverse("3.2.1.10.in-addr.arpa"), Some("10.1.2.3".parse().unwrap()));
        let nibbles = "1.0.0.0.".to_owned() + &"0.".repeat(20) + "d.c.b.a.8.7.6.5.ip6.arpa";
        assert_eq!(reverse(&nibbles), Some("5678:abcd::1".parse().unwrap()));
    }

    #[test]
    fn other_names_under_arpa_are_no_addresses() {
        for name in ["2.1.10.in-addr.arpa", "x.2.1.10.in-addr.arpa", "256.2.1.10.in-addr.arpa"] {
            assert_eq!(reverse(name), None, "{name}");
        }
        for name in
            ["03.2.1.10.in-addr.arpa", "+3.2.1.10.in-addr.arpa", "4.3.2.1.10.in-addr.arpa", "1.ip6.arpa"]
        {
            assert_eq!(reverse(name), None, "{name}");
        }
        assert_eq!(reverse(&("g.".repeat(32) + "ip6.arpa")), None);
    }

    #[test]
    fn d14_dashed_labels_read_back() {
        let cases = [
            ("10.1.2.3", "10-1-2-3"),
            ("5678:abcd::1", "5678-abcd--1"),
            ("fd00::", "fd00--0"),
            ("::1", "--1"),
        ];
        for (address, label) in cases {
            let address: IpAddr = address.parse().unwrap();
            assert_eq!(dashed(address), label.as_bytes());
            assert_eq!(from_dashed(label.as_bytes()), Some(address));
        }
        let longest: IpAddr = "1111:2222:3333:4444:5555:6666:7777:8888".parse().unwrap();
        assert_eq!(from_dashed(&dashed(longest)), Some(longest));
        for label in [&b"10-1-2"[..], b"10-1-2-3-4", b"a.b-1-2", b"1:-2", b"", &[b'-'; 63]] {
            assert_eq!(from_dashed(label), None, "{label:?}");
        }
    }
}
