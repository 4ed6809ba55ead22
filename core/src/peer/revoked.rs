//! Nodes that are members no more; when full, the further ones are not kept by name: then records that were signed before
//! them are refused, whoever's they are, until the directory has signed them anew.
//!
//! So a board without room for any of them is as safe as an agent that has room for all, and only asks again more often.
//! Life cycle: the directory's list in its order, from an empty one in each epoch. It does not check signatures.

use crate::counters::DropReason;
use crate::wire::control::{NodeRecord, Revocation};

/// See the module's documentation.
pub(super) struct Revoked<'a> {
    slots: &'a mut [Revocation],
    /// Number of the last revocation that found no slot.
    unnamed: u32,
}

impl<'a> Revoked<'a> {
    /// Over all-zero memory.
    pub(super) fn new(slots: &'a mut [Revocation]) -> Self {
        Self { slots, unnamed: 0 }
    }

    /// Takes in the directory's revocation with this number.
    pub(super) fn add(&mut self, number: u32, revocation: Revocation) {
        match self.slots.iter_mut().find(|slot| slot.index == revocation.index || slot.index == 0) {
            Some(slot) => *slot = revocation,
            None => self.unnamed = number,
        }
    }

    /// Whether the record still counts.
    ///
    /// # Errors
    /// [`DropReason::Revoked`], or [`DropReason::OldRecord`] where that cannot be told.
    pub(super) fn check(&self, record: &NodeRecord<'_>) -> Result<(), DropReason> {
        let named =
            self.slots.iter().take_while(|slot| slot.index != 0).find(|slot| slot.index == record.index);
        if named.is_some_and(|slot| record.serial <= slot.serial) {
            return Err(DropReason::Revoked);
        }
        if record.listed < self.unnamed { Err(DropReason::OldRecord) } else { Ok(()) }
    }

    /// A new epoch has a new list.
    pub(super) fn clear(&mut self) {
        self.slots.fill(Revocation::default());
        self.unnamed = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn revoked(serial: u64, index: u32) -> Revocation {
        Revocation { serial, index }
    }

    fn record(index: u32, serial: u64, listed: u32) -> NodeRecord<'static> {
        NodeRecord { index, serial, listed, ..NodeRecord::default() }
    }

    #[test]
    fn records_up_to_the_serial_are_void_and_later_ones_are_not() {
        let mut slots = [Revocation::default(); 2];
        let mut list = Revoked::new(&mut slots);
        assert_eq!(list.check(&record(7, 1, 0)), Ok(()));
        list.add(1, revoked(3, 7));
        assert_eq!(list.check(&record(7, 3, 0)), Err(DropReason::Revoked));
        assert_eq!(list.check(&record(7, 4, 0)), Ok(()));
        assert_eq!(list.check(&record(8, 1, 0)), Ok(()));
        list.add(2, revoked(5, 7));
        assert_eq!(list.check(&record(7, 4, 1)), Err(DropReason::Revoked), "it came back and went again");
        list.clear();
        assert_eq!(list.check(&record(7, 1, 0)), Ok(()));
    }

    #[test]
    fn a_full_list_believes_only_what_was_signed_since() {
        for room in [0, 1] {
            let mut slots = [Revocation::default(); 1];
            let mut list = Revoked::new(&mut slots[..room]);
            list.add(1, revoked(3, 7));
            list.add(2, revoked(3, 8));
            assert_eq!(list.check(&record(8, 3, 1)), Err(DropReason::OldRecord));
            assert_eq!(list.check(&record(9, 1, 1)), Err(DropReason::OldRecord), "it may be revoked");
            assert_eq!(list.check(&record(9, 1, 2)), Ok(()), "signed since");
            assert_eq!(list.check(&record(7, 3, 2)).is_err(), room == 1);
        }
    }
}
