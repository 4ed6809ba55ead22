//! What agents say to each other beside the packets of their pods, and which addresses of other nodes the kernel is
//! used for: both for [`domain`](crate::agent::domain).
//!
//! Bounds: [`ROOM`] messages a second are passed on, of [`LEN`] bytes each; an address is told of once in [`PAUSE`],
//! [`LED`] of them in that time. Everything beyond is dropped.

use super::{Data, Note};
use crate::offload::VnetHdr;
use edgemesh_core::PeerId;
use edgemesh_core::packet::HEADROOM;
use edgemesh_core::time::{Duration, Instant};
use std::collections::HashSet;
use std::net::IpAddr;
use std::ops::Range;

/// Longest message.
const LEN: usize = 256;
const ROOM: u32 = 64;
const SECOND: Duration = Duration::from_secs(1);
const PAUSE: Duration = Duration::from_secs(5);
const LED: usize = 256;

/// See the module's documentation.
pub struct Aside {
    /// Whether it is of interest where connections lead.
    pub follows: bool,
    led: HashSet<IpAddr>,
    led_until: Instant,
    heard: u32,
    heard_until: Instant,
}

impl Default for Aside {
    fn default() -> Self {
        let (led_until, heard_until) = (Instant::ZERO, Instant::ZERO);
        Self { follows: false, led: HashSet::new(), led_until, heard: 0, heard_until }
    }
}

impl Data {
    /// Says something to the agent of the node of this index, by their tunnel, which is opened for it.
    pub fn tell_peer(&mut self, now: Instant, index: u32, message: &[u8]) {
        let len = message.len();
        let room = self.packet.get_mut(HEADROOM..HEADROOM + len).filter(|_| len <= LEN);
        if let Some(room) = room {
            room.copy_from_slice(message);
            self.resume(now, &VnetHdr::default(), len, index);
        }
    }

    /// Another agent says what lies at `place` of the inbox.
    pub(super) fn aside(&mut self, now: Instant, peer: PeerId, place: Range<usize>) {
        let aside = &mut self.aside;
        if now >= aside.heard_until {
            (aside.heard, aside.heard_until) = (0, now.after(SECOND));
        }
        let node = self.engine.index_of(peer);
        let bytes = self.inbox.get(place).filter(|bytes| bytes.len() <= LEN && aside.heard < ROOM);
        if let Some(bytes) = bytes {
            aside.heard += 1;
            let _ = self.outputs.notes.send(Note::Aside { node, bytes: bytes.to_vec() });
        }
    }

    /// The kernel leads a connection to this endpoint.
    pub(super) fn led(&mut self, now: Instant, endpoint: IpAddr) {
        let aside = &mut self.aside;
        if now >= aside.led_until {
            aside.led.clear();
            aside.led_until = now.after(PAUSE);
        }
        if aside.follows && aside.led.len() < LED && aside.led.insert(endpoint) {
            let _ = self.outputs.notes.send(Note::Led(endpoint));
        }
    }
}
