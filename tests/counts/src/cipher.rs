//! Sealing and opening, and nothing else.

use crate::LEN;
use edgemesh_aead::FastChaChaPoly;
use edgemesh_core::packet::{HEADROOM, Packet};
use edgemesh_core::tunnel::{self, OpenTicket, RecvKey, SendKey};

/// Seals one packet again and again.
pub struct Sealer {
    pub(crate) key: SendKey<FastChaChaPoly>,
    pub(crate) counter: u64,
    pub(crate) buffer: Vec<u8>,
}

impl Sealer {
    /// Once.
    pub fn seal(&mut self) {
        self.counter += 1;
        let mut packet = Packet::new(&mut self.buffer, HEADROOM, LEN).expect("room");
        tunnel::seal(&self.key, self.counter, &mut packet, usize::MAX).expect("room");
    }
}

/// Opens datagrams of one session.
pub struct Opener {
    pub(crate) key: RecvKey<FastChaChaPoly>,
    pub(crate) sealed: Vec<(OpenTicket, Vec<u8>)>,
}

impl Opener {
    /// All of them; how many.
    pub fn open(&mut self) -> usize {
        for (ticket, bytes) in &mut self.sealed {
            let len = bytes.len();
            let mut packet = Packet::new(bytes, 0, len).expect("all of it");
            tunnel::open(&self.key, *ticket, &mut packet).expect("authentic");
        }
        self.sealed.len()
    }
}
