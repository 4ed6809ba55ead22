//! The name of a peer that all machines share.

/// A peer, by the dense number `1..=peers` of its place in [`Peers`](crate::peer::Peers). What another machine keeps
/// about it lies in the slot of the same number.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct PeerId(pub u32);
