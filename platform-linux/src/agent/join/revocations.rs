//! Nodes that are members no more: the directory's list of this epoch, kept on disk, so that it holds without a cloud too.
//!
//! Life cycle: an epoch begins with an empty list; from there it only grows, in the directory's order. Bounds: what the
//! engine has room for by name is [`NAMED`]; on disk all of them, 12 bytes each.

use super::Join;
use crate::agent::state::Membership;
use edgemesh_core::wire::control::{NodeRecord, Revocation};

/// Revoked nodes that the engine knows by name.
pub(in crate::agent) const NAMED: usize = 16_384;

/// See the module's documentation.
#[derive(Clone, Default)]
pub(super) struct Revocations {
    epoch: u32,
    pub(super) list: Vec<Revocation>,
}

impl Revocations {
    /// What was stored, if it is of the epoch that the node is in.
    pub(super) fn of(membership: &Membership, (epoch, list): (u32, Vec<Revocation>)) -> Self {
        let now = membership.joined.as_ref().map_or(0, |joined| joined.epoch);
        Self { epoch: now, list: if epoch == now { list } else { Vec::new() } }
    }

    /// The node is in this epoch.
    pub(super) fn begin(&mut self, epoch: u32) {
        if self.epoch != epoch {
            *self = Self { epoch, list: Vec::new() };
        }
    }

    /// As it is stored.
    pub(super) fn stored(&self) -> (u32, Vec<Revocation>) {
        (self.epoch, self.list.clone())
    }

    /// Takes in what follows the first `after`; those that are new.
    fn extend<'l>(&mut self, after: u32, list: &'l [Revocation]) -> &'l [Revocation] {
        let known = self.list.len().saturating_sub(after as usize);
        let new = if after as usize > self.list.len() { None } else { list.get(known..) };
        self.list.extend(new.unwrap_or_default());
        new.unwrap_or_default()
    }
}

impl Join {
    /// The directory has put nodes out. The engine knows already.
    pub(super) fn revoked(&mut self, after: u32, list: &[Revocation]) {
        for revocation in self.revocations.extend(after, list) {
            let node = self.status.name_of(revocation.index);
            tracing::warn!(node, "this node was revoked: what it says counts no more");
            let serial = |stored: &super::StoredRecord| Some(NodeRecord::decode(&stored.record).ok()?.serial);
            let void = self.records.get(&revocation.index).and_then(serial);
            if void.is_some_and(|serial| serial <= revocation.serial) {
                self.records.remove(&revocation.index);
                self.forget_hint(revocation.index);
                self.disk.records(super::STORE_RECORDS_AFTER);
            }
            self.disk.revocations();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn revoked(index: u32) -> Revocation {
        Revocation { serial: 1, index }
    }

    #[test]
    fn the_list_grows_in_order_and_begins_anew_with_an_epoch() {
        let mut list = Revocations::default();
        list.begin(3);
        assert_eq!(list.extend(0, &[revoked(1), revoked(2)]), [revoked(1), revoked(2)]);
        assert_eq!(list.extend(0, &[revoked(1), revoked(2)]), [], "told twice");
        assert_eq!(list.extend(1, &[revoked(2), revoked(3)]), [revoked(3)]);
        assert_eq!(list.extend(5, &[revoked(9)]), [], "some are missing");
        assert_eq!(list.stored(), (3, vec![revoked(1), revoked(2), revoked(3)]));
        list.begin(3);
        assert_eq!(list.list.len(), 3);
        list.begin(4);
        assert_eq!(list.stored(), (4, vec![]));
    }
}
