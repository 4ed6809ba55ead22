//! What is asked of a server that feeds Services on demand: fingerprints of names and addresses.
//!
//! A fingerprint is 30 bits of FNV-1a over kind and lower-case text, with [`ASK`] set; numbers below are node indices,
//! so one number says what is wanted. Two names may share a fingerprint: then the answer holds the Services of both,
//! and an answer without the one in question still says that there is none.

use core::net::IpAddr;

/// Set in fingerprints.
pub const ASK: u32 = 1 << 31;
/// Set beside it where a fingerprint is no longer of interest.
pub const FORGET: u32 = 1 << 30;

/// Fingerprint of a Service.
pub fn service(namespace: impl Iterator<Item = u8>, name: impl Iterator<Item = u8>) -> u32 {
    fingerprint(core::iter::once(b's').chain(namespace).chain([b'/']).chain(name))
}

/// Fingerprint of a namespace.
pub fn namespace(name: impl Iterator<Item = u8>) -> u32 {
    fingerprint(core::iter::once(b'n').chain(name))
}

/// Fingerprint of a VIP or of what stands for an endpoint.
pub fn address(address: IpAddr) -> u32 {
    match address {
        IpAddr::V4(v4) => fingerprint(core::iter::once(b'4').chain(v4.octets())),
        IpAddr::V6(v6) => fingerprint(core::iter::once(b'6').chain(v6.octets())),
    }
}

fn fingerprint(bytes: impl Iterator<Item = u8>) -> u32 {
    let step = |hash: u32, byte: u8| (hash ^ u32::from(byte.to_ascii_lowercase())).wrapping_mul(0x0100_0193);
    let hash = bytes.fold(0x811c_9dc5, step);
    // The high bits of FNV depend on all bytes; the low ones go into them.
    (hash ^ hash >> 30) & !FORGET | ASK
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fingerprints_stay_the_same_for_ever() {
        let key = service("shop".bytes(), "web".bytes());
        assert_eq!(key, service("Shop".bytes(), "WEB".bytes()));
        assert_ne!(key, service("web".bytes(), "shop".bytes()));
        let all = [
            key,
            namespace("shop".bytes()),
            address([10, 96, 0, 1].into()),
            address("fd00::1".parse().unwrap()),
        ];
        assert!(all.iter().all(|key| key & ASK != 0 && key & FORGET == 0));
        assert_eq!(all, [0xa489_503a, 0xab96_e79f, 0xba04_3506, 0x8376_ec04]);
    }
}
