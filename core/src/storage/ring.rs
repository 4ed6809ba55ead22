//! First in, first out; when full, [`Ring::push`] hands the value back.

/// A bounded queue over borrowed memory.
pub struct Ring<'a, T> {
    slots: &'a mut [T],
    head: usize,
    len: usize,
}

impl<'a, T: Copy> Ring<'a, T> {
    /// An empty queue over `slots`; what they hold does not matter.
    pub fn new(slots: &'a mut [T]) -> Self {
        Self { slots, head: 0, len: 0 }
    }

    /// Appends `value`.
    ///
    /// # Errors
    /// The value itself when the queue is full.
    pub fn push(&mut self, value: T) -> Result<(), T> {
        if self.len >= self.slots.len() {
            return Err(value);
        }
        let at = self.place(self.len);
        if let Some(slot) = self.slots.get_mut(at) {
            *slot = value;
            self.len = self.len.saturating_add(1);
        }
        Ok(())
    }

    /// Takes the oldest value.
    pub fn pop(&mut self) -> Option<T> {
        let value = self.front()?;
        self.head = self.place(1);
        self.len = self.len.saturating_sub(1);
        Some(value)
    }

    /// The oldest value.
    pub fn front(&self) -> Option<T> {
        if self.len == 0 {
            return None;
        }
        self.slots.get(self.head).copied()
    }

    /// Values in the queue.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether the queue is empty.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    fn place(&self, offset: usize) -> usize {
        self.head.saturating_add(offset).checked_rem(self.slots.len()).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_order_round_the_end_and_refuses_when_full() {
        let mut memory = [0; 3];
        let mut ring = Ring::new(&mut memory);
        for round in 0..5 {
            assert_eq!(ring.push(round), Ok(()));
            assert_eq!(ring.push(round + 10), Ok(()));
            assert_eq!(ring.pop(), Some(round));
            assert_eq!(ring.pop(), Some(round + 10));
        }
        assert_eq!(
            [ring.push(1), ring.push(2), ring.push(3), ring.push(4)],
            [Ok(()), Ok(()), Ok(()), Err(4)]
        );
        assert_eq!(Ring::new(&mut [] as &mut [u8]).push(1), Err(1));
    }
}
