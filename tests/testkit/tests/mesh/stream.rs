//! A node's connection to a server, as an agent has it: made again after a pause when it ends, cut into frames. Of
//! several servers the next one is tried.

use edgemesh_core::time::{Duration, Instant};
use edgemesh_core::wire::control::Preamble;
use edgemesh_testkit::pipe::PipeId;
use edgemesh_testkit::world::Transmit;
use std::net::SocketAddr;

const FIRST_PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

/// A connection to the server that is made again when it ends.
pub(crate) struct Stream {
    /// The first is the one in use.
    pub(crate) to: Vec<SocketAddr>,
    preamble: Preamble,
    pub(crate) wanted: bool,
    connecting: bool,
    pub(crate) pipe: Option<PipeId>,
    pub(crate) buffer: Vec<u8>,
    pause: Duration,
    pub(crate) retry: Option<Instant>,
}

impl Stream {
    pub(crate) fn new(to: Vec<SocketAddr>, preamble: Preamble) -> Self {
        Self {
            to,
            preamble,
            wanted: false,
            connecting: false,
            pipe: None,
            buffer: Vec::new(),
            pause: FIRST_PAUSE,
            retry: None,
        }
    }

    pub(crate) fn connect(&mut self) -> Option<Transmit> {
        self.retry = None;
        if self.connecting || self.pipe.is_some() || !self.wanted {
            return None;
        }
        self.connecting = !self.to.is_empty();
        self.to.first().map(|to| Transmit::Connect { to: *to })
    }

    pub(crate) fn opened(&mut self, pipe: PipeId) -> Transmit {
        (self.connecting, self.pipe) = (false, Some(pipe));
        self.buffer.clear();
        self.pause = FIRST_PAUSE;
        Transmit::Write { pipe, bytes: self.preamble.bytes().to_vec() }
    }

    /// Whether this is where it is being connected to.
    pub(crate) fn is_to(&self, to: SocketAddr) -> bool {
        self.to.contains(&to)
    }

    /// It ended or could not be made: tried again after a while.
    pub(crate) fn pause(&mut self, now: Instant) {
        (self.connecting, self.pipe) = (false, None);
        let next = 1.min(self.to.len());
        self.to.rotate_left(next);
        self.retry = self.wanted.then(|| now.after(self.pause));
        self.pause = self.pause.times(2).min(LONGEST_PAUSE);
    }

    pub(crate) fn write(&self, frame: &[u8]) -> Option<Transmit> {
        let bytes = [&(frame.len() as u16).to_le_bytes()[..], frame].concat();
        self.pipe.map(|pipe| Transmit::Write { pipe, bytes })
    }

    pub(crate) fn close(&mut self) -> Option<Transmit> {
        self.pipe.take().map(|pipe| Transmit::Close { pipe })
    }

    /// The next whole frame.
    pub(crate) fn frame(&mut self) -> Option<Vec<u8>> {
        let (len, rest) = self.buffer.split_first_chunk::<2>()?;
        let len = usize::from(u16::from_le_bytes(*len));
        let frame = rest.get(..len)?.to_vec();
        self.buffer.drain(..2 + len);
        Some(frame)
    }
}
