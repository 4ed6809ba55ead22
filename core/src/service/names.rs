//! Names in chained blocks of 28 bytes; when no block is left, the name is refused and nothing is kept of it.

use super::{Part, TableError};
use crate::storage::{Pool, Slot};
use core::fmt;

const BLOCK: usize = 28;

/// A piece of a name.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct NameBlock {
    next: u32,
    text: [u8; BLOCK],
}

impl NameBlock {
    /// A free block.
    pub const ZERO: Self = Self { next: 0, text: [0; BLOCK] };
}

impl Slot for NameBlock {
    const EMPTY: Self = Self::ZERO;
    fn link(&self) -> u32 {
        self.next
    }
    fn set_link(&mut self, id: u32) {
        self.next = id;
    }
}

/// Where a name is stored; all-zero is the empty name.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(C)]
pub(super) struct Name {
    /// The first block in the upper 24 bits, the length in the lower 8.
    packed: u32,
}

impl Name {
    pub(super) const NONE: Self = Self { packed: 0 };

    fn first(self) -> u32 {
        self.packed >> 8
    }

    fn len(self) -> usize {
        (self.packed & 0xff) as usize
    }
}

pub(super) struct Names<'a> {
    blocks: Pool<'a, NameBlock>,
}

impl<'a> Names<'a> {
    pub(super) fn new(blocks: &'a mut [NameBlock]) -> Self {
        // Ids have 24 bits in a `Name`.
        let len = blocks.len().min(0x00ff_ffff);
        Self { blocks: Pool::new(blocks.split_at_mut(len).0) }
    }

    pub(super) fn store(&mut self, text: &str) -> Result<Name, TableError> {
        let len = u8::try_from(text.len()).map_err(|_| TableError::Name)?;
        if !text.is_ascii() {
            return Err(TableError::Name);
        }
        let mut first = 0;
        // From the end, so that each block knows its successor when it is stored.
        for piece in text.as_bytes().chunks(BLOCK).rev() {
            let mut block = NameBlock { next: first, text: [0; BLOCK] };
            for (to, from) in block.text.iter_mut().zip(piece) {
                *to = *from;
            }
            match self.blocks.insert(block) {
                Some(id) => first = id,
                None => {
                    self.free_chain(first);
                    return Err(TableError::Full(Part::Names));
                }
            }
        }
        Ok(Name { packed: first << 8 | u32::from(len) })
    }

    pub(super) fn free(&mut self, name: Name) {
        self.free_chain(name.first());
    }

    pub(super) fn text(&self, name: Name) -> Text<'_> {
        Text { blocks: &self.blocks, name }
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.blocks.len()
    }

    fn free_chain(&mut self, mut id: u32) {
        while let Some(next) = self.blocks.get(id).map(|b| b.next) {
            self.blocks.remove(id);
            id = next;
        }
    }
}

/// A stored name: ASCII, at most 255 bytes.
#[derive(Clone, Copy)]
pub struct Text<'t> {
    blocks: &'t Pool<'t, NameBlock>,
    name: Name,
}

impl<'t> Text<'t> {
    /// Its bytes.
    pub fn bytes(&self) -> impl Iterator<Item = u8> + 't {
        self.pieces().flatten().copied()
    }

    /// Its length in bytes.
    pub fn len(&self) -> usize {
        self.name.len()
    }

    /// Whether it is the empty name.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether it is `other`, whatever the case of either.
    pub fn eq_ignore_case(&self, other: &str) -> bool {
        self.len() == other.len() && self.bytes().zip(other.bytes()).all(|(a, b)| a.eq_ignore_ascii_case(&b))
    }

    /// Copies it to the front of `out`; `None` when there is not enough room.
    pub fn copy_to<'o>(&self, out: &'o mut [u8]) -> Option<&'o str> {
        let out = out.get_mut(..self.len())?;
        for (to, from) in out.iter_mut().zip(self.bytes()) {
            *to = from;
        }
        core::str::from_utf8(out).ok()
    }

    fn pieces(&self) -> impl Iterator<Item = &'t [u8]> + use<'t> {
        let blocks = self.blocks;
        let (mut id, mut left) = (self.name.first(), self.len());
        core::iter::from_fn(move || {
            let block = blocks.get(id)?;
            let piece = block.text.get(..left.min(BLOCK))?;
            (id, left) = (block.next, left.saturating_sub(BLOCK));
            Some(piece)
        })
    }
}

impl fmt::Display for Text<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.pieces().try_for_each(|piece| f.write_str(core::str::from_utf8(piece).unwrap_or_default()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::string::ToString;

    #[test]
    fn names_of_every_length_come_back_and_a_full_store_keeps_nothing() {
        let mut memory = [NameBlock::ZERO; 12];
        let mut names = Names::new(&mut memory);
        for len in [0, 1, 27, 28, 29, 63, 253, 255] {
            let text = "Abc-".repeat(64)[..len].to_string();
            let name = names.store(&text).unwrap();
            assert_eq!(names.text(name).to_string(), text);
            assert!(names.text(name).eq_ignore_case(&text.to_uppercase()));
            assert!(!names.text(name).eq_ignore_case("abc"));
            assert_eq!(names.text(name).copy_to(&mut [0; 255]), Some(&*text));
            names.free(name);
            assert!(names.blocks.is_empty());
        }
        let held = names.store(&"x".repeat(255)).unwrap();
        assert_eq!(names.store(&"y".repeat(60)), Err(TableError::Full(Part::Names)));
        assert_eq!(names.blocks.len(), 10);
        names.free(held);
        assert_eq!(names.store(&"z".repeat(256)), Err(TableError::Name));
        assert_eq!(names.store("käse"), Err(TableError::Name));
    }
}
