//! Formats: views over untrusted bytes, and validated values that write themselves.
//!
//! **No-panic contract.** Every `parse`/`new` takes any bytes and returns a value or a
//! [`DropReason`](crate::counters::DropReason); every accessor of a parsed view stays inside the length that was
//! checked. Nothing here keeps state, reads a clock or decides what happens next.

pub mod aside;
pub mod ask;
pub mod control;
pub mod dns;
pub mod feed;
pub mod health;
pub mod ip;
pub mod path;
pub mod relay;
pub mod wireguard;

use core::net::IpAddr;

/// An address as datagrams carry it: its family, 4 or 6, and 16 bytes that begin with it.
fn ip_bytes(ip: IpAddr) -> (u8, [u8; 16]) {
    match ip {
        IpAddr::V4(v4) => {
            let [a, b, c, d] = v4.octets();
            (4, [a, b, c, d, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0])
        }
        IpAddr::V6(v6) => (6, v6.octets()),
    }
}

/// The address of [`ip_bytes`], if the family is known.
fn ip_of(family: u8, bytes: &[u8; 16]) -> Option<IpAddr> {
    match family {
        4 => Some(IpAddr::from(*bytes.first_chunk::<4>()?)),
        6 => Some(IpAddr::from(*bytes)),
        _ => None,
    }
}
