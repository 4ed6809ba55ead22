//! Destinations whose path the kernel cannot cut bursts for, because one datagram exceeds its MTU.
//!
//! A direct-mapped table of 32 places; a destination that falls on another's place takes it (both then merely
//! try in vain now and then). A path may widen: every thousandth burst is tried again.

use std::net::IpAddr;

const PLACES: usize = 32;
const TRY_AGAIN: u16 = 1000;

#[derive(Clone, Copy)]
struct Place {
    to: IpAddr,
    /// Datagrams of this size or more did not pass.
    size: usize,
    skipped: u16,
}

pub(super) struct Narrow {
    places: [Option<Place>; PLACES],
}

impl Narrow {
    pub(super) fn new() -> Self {
        Self { places: [None; PLACES] }
    }

    /// Whether a burst of datagrams of `size` bytes to `to` is worth a try.
    pub(super) fn allows(&mut self, to: IpAddr, size: usize) -> bool {
        match self.places.get_mut(place_of(to)) {
            Some(Some(place)) if place.to == to && size >= place.size => {
                place.skipped += 1;
                if place.skipped >= TRY_AGAIN {
                    place.skipped = 0;
                    return true;
                }
                false
            }
            _ => true,
        }
    }

    /// Remembers that a burst of datagrams of `size` bytes to `to` was refused.
    pub(super) fn learn(&mut self, to: IpAddr, size: usize) {
        if let Some(place) = self.places.get_mut(place_of(to)) {
            let known = place.filter(|place| place.to == to).map_or(usize::MAX, |place| place.size);
            *place = Some(Place { to, size: size.min(known), skipped: 0 });
        }
    }
}

fn place_of(to: IpAddr) -> usize {
    let mix = |bytes: &[u8]| bytes.iter().fold(0usize, |mix, byte| mix.wrapping_mul(31) ^ usize::from(*byte));
    match to {
        IpAddr::V4(v4) => mix(&v4.octets()) % PLACES,
        IpAddr::V6(v6) => mix(&v6.octets()) % PLACES,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_size_is_remembered_per_destination_and_tried_again() {
        let mut narrow = Narrow::new();
        let (a, b) = (IpAddr::from([10, 0, 0, 1]), IpAddr::from([10, 0, 0, 2]));
        narrow.learn(a, 1400);
        assert!(!narrow.allows(a, 1400) && !narrow.allows(a, 1448));
        assert!(narrow.allows(a, 1200) && narrow.allows(b, 1448));
        let tried = (0..2 * usize::from(TRY_AGAIN)).filter(|_| narrow.allows(a, 1448)).count();
        assert_eq!(tried, 2);
        narrow.learn(a, 1300);
        narrow.learn(a, 1400);
        assert!(!narrow.allows(a, 1300));
    }
}
