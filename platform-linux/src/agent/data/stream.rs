//! Relayed datagrams over TCP, where UDP does not pass.
//!
//! The async thread connects; from then on the data thread reads and writes the stream itself, a burst of datagrams with
//! one call, until it fails or is not wanted any more. What the socket does not take at once waits, the oldest going
//! first when that is too much: bulk must not stand in the way of what follows. Bounds: those of [`Frames`], and what
//! [`edgemesh_host::tcp::keep_short`] leaves to the socket.

use super::ready::STREAM;
use super::{BYTES, Data, TURN};
use crate::clock;
use crate::poll::{Interest, Poller};
use crate::udp::MAX_BURST;
use edgemesh_core::node::From;
use edgemesh_core::time::Instant;
use edgemesh_host::frames::{DATAGRAM_MAX, Frames, LENGTH, split};
use std::collections::VecDeque;
use std::io::{self, ErrorKind, IoSlice, Read, Write};
use std::net::TcpStream;
use tokio::sync::oneshot;

/// See the module's documentation.
pub(super) struct Stream {
    socket: TcpStream,
    token: u64,
    /// What the socket takes next, and of which it may have a part.
    begun: VecDeque<u8>,
    waiting: Frames,
    /// The beginning of a frame whose rest has not come.
    rest: Vec<u8>,
    ended: oneshot::Sender<io::Error>,
}

impl Stream {
    /// A connected, nonblocking stream, waited for under `token`; `ended` hears of its failure.
    fn new(
        socket: TcpStream,
        ended: oneshot::Sender<io::Error>,
        poller: &Poller,
        token: u64,
    ) -> io::Result<Self> {
        poller.add(&socket, Interest::Read, token)?;
        let rest = Vec::with_capacity(LENGTH + DATAGRAM_MAX);
        Ok(Self { socket, token, begun: VecDeque::new(), waiting: Frames::default(), rest, ended })
    }

    /// Sends datagrams, at most [`MAX_BURST`]; returns how many were lost, these or older ones.
    fn send(&mut self, poller: &Poller, datagrams: &[IoSlice<'_>]) -> io::Result<u64> {
        let mut taken = 0;
        let was_blocked = self.is_blocked();
        if !was_blocked {
            let mut lengths = [[0; LENGTH]; MAX_BURST];
            let mut parts = [IoSlice::new(&[]); 2 * MAX_BURST];
            for ((length, pair), datagram) in lengths.iter_mut().zip(parts.chunks_mut(2)).zip(datagrams) {
                *length = (datagram.len() as u16).to_le_bytes();
                pair.copy_from_slice(&[IoSlice::new(length), *datagram]);
            }
            taken = write(&self.socket, &parts[..2 * datagrams.len()])?;
        }
        let mut dropped = 0;
        for datagram in datagrams {
            let framed = LENGTH + datagram.len();
            if taken == 0 {
                dropped += self.waiting.push(datagram);
            } else if taken < framed {
                let length = (datagram.len() as u16).to_le_bytes();
                self.begun.extend(length.iter().chain(datagram.iter()).skip(taken));
            }
            taken = taken.saturating_sub(framed);
        }
        if self.is_blocked() && !was_blocked {
            poller.change(&self.socket, Interest::Both, self.token)?;
        }
        Ok(dropped)
    }

    fn is_blocked(&self) -> bool {
        !self.begun.is_empty() || !self.waiting.is_empty()
    }

    /// Sends what waits, as far as there is room.
    fn flush(&mut self, poller: &Poller) -> io::Result<()> {
        if !self.is_blocked() {
            return Ok(());
        }
        loop {
            if self.begun.is_empty() {
                self.waiting.take(&mut self.begun);
                if self.begun.is_empty() {
                    return poller.change(&self.socket, Interest::Read, self.token);
                }
            }
            let (front, back) = self.begun.as_slices();
            match write(&self.socket, &[IoSlice::new(front), IoSlice::new(back)])? {
                0 => return Ok(()),
                taken => _ = self.begun.drain(..taken),
            }
        }
    }

    /// Reads into `buffer`, behind the beginning of a frame that was kept; how many bytes there are then, `None` when
    /// nothing has come.
    ///
    /// # Errors
    /// The stream's; `UnexpectedEof` when the server has ended it.
    fn receive(&mut self, buffer: &mut [u8]) -> io::Result<Option<usize>> {
        let kept = self.rest.len();
        let room = buffer.get_mut(kept..).ok_or(ErrorKind::InvalidData)?;
        match (&self.socket).read(room) {
            Ok(0) => Err(ErrorKind::UnexpectedEof.into()),
            Ok(got) => {
                buffer[..kept].copy_from_slice(&self.rest);
                self.rest.clear();
                Ok(Some(kept + got))
            }
            Err(error) if is_passing(&error) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Keeps the beginning of a frame for the next read.
    ///
    /// # Errors
    /// `InvalidData` when that is longer than any frame.
    fn keep(&mut self, rest: &[u8]) -> io::Result<()> {
        let too_long = rest.first_chunk().is_some_and(|l| usize::from(u16::from_le_bytes(*l)) > DATAGRAM_MAX);
        if too_long {
            return Err(io::Error::new(
                ErrorKind::InvalidData,
                format!("a frame above {DATAGRAM_MAX} bytes"),
            ));
        }
        self.rest.extend_from_slice(rest);
        Ok(())
    }
}

/// Sends datagrams by the stream, if there is one, which a failure ends; returns how many were lost.
pub(super) fn send(stream: &mut Option<Stream>, poller: &Poller, datagrams: &[IoSlice<'_>]) -> u64 {
    let Some(open) = stream else { return datagrams.len() as u64 };
    open.send(poller, datagrams).unwrap_or_else(|error| {
        end(stream, error);
        datagrams.len() as u64
    })
}

/// Ends the stream; whoever made it hears why.
fn end(stream: &mut Option<Stream>, why: io::Error) {
    if let Some(Stream { ended, .. }) = stream.take() {
        let _ = ended.send(why);
    }
}

impl Data {
    pub(super) fn stream_up(&mut self, now: Instant, socket: TcpStream, ended: oneshot::Sender<io::Error>) {
        // Without it, whoever made it hears that it has ended.
        self.stream = Stream::new(socket, ended, &self.poller, STREAM).ok();
        self.engine.relay_tcp_up(now);
    }

    pub(super) fn stream_down(&mut self, now: Instant) {
        self.stream = None;
        self.engine.relay_tcp_down(now);
    }

    /// Sends what waits for the stream, and carries what came by it, up to a turn of it.
    pub(super) fn serve_stream(&mut self) {
        if let Err(error) = self.try_stream() {
            end(&mut self.stream, error);
        }
    }

    fn try_stream(&mut self) -> io::Result<()> {
        let (mut reads, mut bytes) = (0, 0);
        while reads < TURN && bytes < BYTES {
            let Some(stream) = &mut self.stream else { break };
            stream.flush(&self.poller)?;
            let Some(len) = stream.receive(&mut self.inbox)? else { break };
            (reads, bytes) = (reads + 1, bytes + len);
            let now = clock::now();
            let (mut at, mut told) = (0, false);
            while let Some(place) = split(&self.inbox[..len], at) {
                at = place.end;
                told |= self.datagram(now, From::RelayTcp, place);
            }
            self.deliver();
            if let Some(stream) = &mut self.stream {
                stream.keep(&self.inbox[at..len])?;
            }
            if told {
                self.drain(now);
            }
        }
        Ok(())
    }
}

/// How many bytes the socket took; none when it has no room.
fn write(mut socket: &TcpStream, parts: &[IoSlice<'_>]) -> io::Result<usize> {
    match socket.write_vectored(parts) {
        Ok(taken) => Ok(taken),
        Err(error) if is_passing(&error) => Ok(0),
        Err(error) => Err(error),
    }
}

fn is_passing(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    /// A stream and its other end, which takes little at a time.
    fn pair(poller: &Poller) -> (Stream, TcpStream, oneshot::Receiver<io::Error>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let ours = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (theirs, _) = listener.accept().unwrap();
        ours.set_nonblocking(true).unwrap();
        let (tell, told) = oneshot::channel();
        (Stream::new(ours, tell, poller, 1).unwrap(), theirs, told)
    }

    #[test]
    fn what_the_socket_does_not_take_waits_and_the_oldest_is_lost() {
        let mut poller = Poller::new().unwrap();
        let (mut stream, mut theirs, _told) = pair(&poller);
        let (mut sent, mut dropped) = (0u32, 0);
        while dropped < 100 {
            let burst: Vec<Vec<u8>> = (sent..sent + 10)
                .map(|n| [&n.to_le_bytes()[..], &vec![7; n as usize % 1_400]].concat())
                .collect();
            let slices: Vec<_> = burst.iter().map(|datagram| IoSlice::new(datagram)).collect();
            dropped += stream.send(&poller, &slices).unwrap();
            sent += 10;
        }
        let reader = std::thread::spawn(move || {
            let mut bytes = Vec::new();
            theirs.read_to_end(&mut bytes).unwrap();
            bytes
        });
        while stream.is_blocked() {
            poller.wait(None, |_| ()).unwrap();
            stream.flush(&poller).unwrap();
        }
        drop(stream);
        let bytes = reader.join().unwrap();
        let places = std::iter::successors(split(&bytes, 0), |before| split(&bytes, before.end));
        let mut seen = Vec::new();
        for place in places {
            let datagram = &bytes[place];
            let number = u32::from_le_bytes(datagram[..4].try_into().unwrap());
            assert_eq!(datagram.len(), 4 + number as usize % 1_400);
            seen.push(number);
        }
        assert!(seen.is_sorted(), "in order");
        assert_eq!(seen.last(), Some(&(sent - 1)), "the newest is there");
        assert_eq!(seen.len() as u64 + dropped, u64::from(sent));
    }

    #[test]
    fn frames_may_be_cut_anywhere_and_none_is_longer_than_a_datagram() {
        let poller = Poller::new().unwrap();
        let (mut stream, mut theirs, mut told) = pair(&poller);
        let mut buffer = vec![0; 4_096];
        assert_eq!(stream.receive(&mut buffer).unwrap(), None);
        let mut receive = |stream: &mut Stream| loop {
            // The other end has written: it comes.
            if let Some(len) = stream.receive(&mut buffer).unwrap() {
                return buffer[..len].to_vec();
            }
        };
        theirs.write_all(&[3, 0, b'o', b'n', b'e', 3]).unwrap();
        let first = receive(&mut stream);
        assert_eq!(split(&first, 0), Some(2..5));
        stream.keep(&first[5..]).unwrap();
        theirs.write_all(&[0, b't', b'w', b'o']).unwrap();
        assert_eq!(receive(&mut stream), [3, 0, b't', b'w', b'o']);
        assert!(stream.keep(&[0, 8]).is_ok());
        assert_eq!(stream.keep(&[1, 8]).unwrap_err().kind(), ErrorKind::InvalidData);
        drop(theirs);
        let end = loop {
            match stream.receive(&mut vec![0; 4_096]) {
                Ok(_) => {}
                Err(error) => break error,
            }
        };
        assert_eq!(end.kind(), ErrorKind::UnexpectedEof);
        super::end(&mut Some(stream), end);
        assert!(told.try_recv().is_ok());
    }
}
