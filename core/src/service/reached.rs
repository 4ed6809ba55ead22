//! Addresses of other nodes that this node's kernel reaches without the mesh, as the shell has found out.
//!
//! The list says it for nodes without a label: where this node or the endpoint's has a domain by label, that alone
//! counts. It is looked at while an endpoint is built; after a new list the shell hands in again what it concerns.
//!
//! Bounds: what the shell lends, nothing under the feature `compact`; what finds no room is not reached.

use core::net::IpAddr;

/// A range of addresses of a node.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Reached {
    node: u32,
    first: u128,
    last: u128,
}

impl Reached {
    /// No node.
    pub const EMPTY: Self = Self { node: 0, first: 0, last: 0 };

    /// The addresses of the node of this index that have the first `bits` of `address`.
    pub fn new(node: u32, address: IpAddr, bits: u8) -> Self {
        let width: u32 = if address.is_ipv4() { 32 } else { 128 };
        let free = u128::MAX.checked_shl(width.saturating_sub(bits.into())).unwrap_or_default();
        Self { node, first: number(address) & free, last: number(address) | !free }
    }

    /// Whether the address of that node is one of them.
    pub fn holds(&self, node: u32, address: IpAddr) -> bool {
        self.node == node && (self.first..=self.last).contains(&number(address))
    }
}

fn number(ip: IpAddr) -> u128 {
    match ip {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().to_bits(),
        IpAddr::V6(v6) => v6.to_bits(),
    }
}

/// The list, by node.
pub(super) struct List<'a> {
    #[cfg(not(feature = "compact"))]
    slots: &'a mut [Reached],
    #[cfg(feature = "compact")]
    slots: core::marker::PhantomData<&'a mut [Reached]>,
}

#[cfg(not(feature = "compact"))]
impl<'a> List<'a> {
    pub(super) fn new(slots: &'a mut [Reached]) -> Self {
        Self { slots }
    }

    pub(super) fn set(&mut self, list: &[Reached]) {
        self.slots.fill(Reached::EMPTY);
        self.slots.iter_mut().zip(list).for_each(|(slot, reached)| *slot = *reached);
        self.slots.sort_unstable_by_key(|slot| slot.node);
    }

    pub(super) fn holds(&self, node: u32, address: IpAddr) -> bool {
        let from = self.slots.partition_point(|slot| slot.node < node);
        let same = self.slots.iter().skip(from).take_while(|slot| slot.node == node);
        node != 0 && same.into_iter().any(|slot| slot.holds(node, address))
    }
}

#[cfg(feature = "compact")]
impl<'a> List<'a> {
    pub(super) fn new(_: &'a mut [Reached]) -> Self {
        Self { slots: core::marker::PhantomData }
    }

    pub(super) fn set(&mut self, _: &[Reached]) {}

    pub(super) fn holds(&self, _: u32, _: IpAddr) -> bool {
        false
    }
}

#[cfg(all(test, not(feature = "compact")))]
mod tests {
    use super::*;
    use std::vec::Vec;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn a_range_is_of_one_node_and_one_family() {
        let pods = Reached::new(2, ip("10.244.2.7"), 24);
        for (node, address, held) in [
            (2, "10.244.2.0", true),
            (2, "10.244.2.255", true),
            (2, "10.244.3.0", false),
            (3, "10.244.2.1", false),
            (2, "::10.244.2.1", false),
        ] {
            assert_eq!(pods.holds(node, ip(address)), held, "{node} {address}");
        }
        assert!(Reached::new(2, ip("fd10:244:2::1"), 64).holds(2, ip("fd10:244:2::ffff")));
        assert!(!Reached::new(2, ip("fd10:244:2::1"), 128).holds(2, ip("fd10:244:2::")));
        let all = Reached::new(2, ip("0.0.0.0"), 0);
        assert!(all.holds(2, ip("255.1.1.1")) && !all.holds(2, ip("fd00::1")));
    }

    #[test]
    fn a_list_is_replaced_as_a_whole_and_what_has_no_room_is_not_reached() {
        let mut slots = [Reached::EMPTY; 4];
        let mut list = List::new(&mut slots);
        assert!(!list.holds(0, ip("0.0.0.0")));
        let range = |node| Reached::new(node, ip("10.0.0.0"), 8);
        let all: Vec<_> = [5, 2, 9, 3, 7].into_iter().map(range).collect();
        list.set(&all);
        let held =
            |list: &List<'_>| (0..10).filter(|node| list.holds(*node, ip("10.1.1.1"))).collect::<Vec<_>>();
        assert_eq!(held(&list), [2, 3, 5, 9]);
        list.set(&[range(2), Reached::new(2, ip("192.0.2.1"), 32)]);
        assert_eq!(held(&list), [2]);
        assert!(list.holds(2, ip("192.0.2.1")) && !list.holds(2, ip("192.0.2.2")));
    }
}
