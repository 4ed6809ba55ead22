//! Which pairs of NAT boxes can be punched: what a test may demand of the path layer.
//!
//! Both sides talk over a relay all the while, ports are random and unknown, each side has one public address.
//! `tests/punch.rs` shows by simulation that plain punching succeeds on every pair called deterministic, and on
//! no other.

use crate::filter::Behaviour;
use crate::nat::NatConfig;

/// A NAT box's class: mapping, then filtering (RFC 4787, sections 4.1 and 5).
pub type NatClass = (Behaviour, Behaviour);

/// What can be had between two boxes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Direct {
    /// A direct path in both directions, within a handful of packets: a test may demand it.
    Deterministic,
    /// Only by guessing ports, many at a time (256 sockets against 1024 ports: about 0.98).
    Probabilistic,
    /// Not even so, unless ports are predictable: the relay stays.
    Relay,
}

/// A row and a column per class, in the order of [`classes`]; both halves are written out.
const TABLE: [&[u8; 9]; 9] = [
    b"DDDDDDDDD",
    b"DDDDDDDDD",
    b"DDDPPPPPP",
    b"DDPDDPDDP",
    b"DDPDPPDPP",
    b"DDPPPXPPX",
    b"DDPDDPDDX",
    b"DDPDPPDPX",
    b"DDPPPXXXX",
];

/// All nine classes: by mapping, then by filtering, mildest first.
pub fn classes() -> impl Iterator<Item = NatClass> {
    Behaviour::ALL.into_iter().flat_map(|mapping| Behaviour::ALL.map(|filtering| (mapping, filtering)))
}

/// The class of a box.
pub fn class(config: &NatConfig) -> NatClass {
    (config.mapping, config.filtering)
}

/// What can be had between a box of class `a` and one of class `b`, in either order.
pub fn direct_path_possible(a: NatClass, b: NatClass) -> Direct {
    let place = |(mapping, filtering): NatClass| 3 * mapping as usize + filtering as usize;
    match TABLE[place(a)][place(b)] {
        b'D' => Direct::Deterministic,
        b'P' => Direct::Probabilistic,
        _ => Direct::Relay,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_symmetric_and_has_25_15_and_5_pairs() {
        let all: Vec<_> = classes().collect();
        let mut counts = [0; 3];
        for (n, a) in all.iter().enumerate() {
            for b in &all[n..] {
                assert_eq!(direct_path_possible(*a, *b), direct_path_possible(*b, *a));
                counts[direct_path_possible(*a, *b) as usize] += 1;
            }
        }
        assert_eq!(counts, [25, 15, 5]);
    }

    #[test]
    fn common_boxes_are_where_they_belong() {
        let (linux, symmetric) = (class(&NatConfig::linux()), class(&NatConfig::symmetric()));
        assert_eq!(direct_path_possible(linux, linux), Direct::Deterministic);
        assert_eq!(direct_path_possible(linux, symmetric), Direct::Probabilistic);
        assert_eq!(direct_path_possible(symmetric, symmetric), Direct::Relay);
    }
}
