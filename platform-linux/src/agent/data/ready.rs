//! What the poller tells of, and under which tokens. The two tunnel sockets have theirs by number.

use super::names::LISTENERS;
use crate::poll;

pub(super) const TUN: u64 = 100;
pub(super) const STREAM: u64 = 101;
/// And those that follow.
pub(super) const NAMES: u64 = 200;

/// What the poller has told of.
#[derive(Clone, Copy, Default)]
pub(super) struct Ready {
    /// Anything at all, a wake-up included.
    pub(super) any: bool,
    pub(super) sockets: [bool; 2],
    pub(super) tun: bool,
    pub(super) stream: bool,
    pub(super) names: [bool; LISTENERS],
}

impl Ready {
    pub(super) fn note(&mut self, event: poll::Event) {
        self.any = true;
        match event {
            poll::Event::Ready(TUN) => self.tun = true,
            poll::Event::Ready(STREAM) => self.stream = true,
            poll::Event::Ready(token) => {
                let place = match token.checked_sub(NAMES) {
                    Some(number) => self.names.get_mut(number as usize),
                    None => self.sockets.get_mut(token as usize),
                };
                if let Some(ready) = place {
                    *ready = true;
                }
            }
            poll::Event::Woken => {}
        }
    }
}
