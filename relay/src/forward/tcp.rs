//! Relayed datagrams over TCP, for nodes that UDP does not reach.
//!
//! After the preamble both sides send frames: u16 little-endian length and a relay message. What one read brings is
//! split in place, and datagrams of one session that follow each other go on together. A connection that has not
//! bound within 10 s, or was silent for 90 s, is closed.

use super::{From, Queue, Switch, Verdict};
use crate::counters::Loss;
use edgemesh_core::wire::relay::{BIND, ENVELOPE};
use edgemesh_host::frames::{self, DATAGRAM_MAX};
use edgemesh_host::tcp;
use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::time::timeout;

const BIND_WITHIN: Duration = Duration::from_secs(10);
/// Nodes refresh their binding every 15 to 25 s.
const SILENT_MAX: Duration = Duration::from_secs(90);
/// How long a connection may take nothing.
const WRITE_WITHIN: Duration = Duration::from_secs(20);
/// Bytes of a read, at first and of a connection that brings much.
const READ: usize = 8 * 1024;
const READ_MAX: usize = 64 * 1024;

/// Serves a connection until it ends.
pub(crate) async fn serve(switch: &Switch, stream: TcpStream, peer: SocketAddr) -> io::Result<()> {
    stream.set_nodelay(true)?;
    tcp::keep_short(&stream)?;
    let queue = Arc::new(Queue::new(peer));
    let (read, write) = stream.into_split();
    let mut inbound = Inbound { switch, queue: &queue, peer, patience: BIND_WITHIN };
    let ended = tokio::select! {
        ended = inbound.receive(read) => ended,
        ended = transmit(write, &queue) => ended,
    };
    switch.closed(&queue);
    ended
}

/// What a connection brings.
struct Inbound<'s> {
    switch: &'s Switch,
    queue: &'s Arc<Queue>,
    peer: SocketAddr,
    patience: Duration,
}

impl Inbound<'_> {
    async fn receive(&mut self, mut read: OwnedReadHalf) -> io::Result<()> {
        let mut bytes = vec![0; READ];
        let mut filled = 0;
        loop {
            let room = bytes.get_mut(filled..).unwrap_or_default();
            filled += match timeout(self.patience, read.read(room)).await?? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                more => more,
            };
            let taken = self.take(bytes.get(..filled).unwrap_or_default())?;
            bytes.copy_within(taken..filled, 0);
            if filled == bytes.len() {
                bytes.resize(READ_MAX, 0);
            }
            filled -= taken;
        }
    }

    /// Takes the whole frames at the beginning of `bytes`; how many bytes they are.
    fn take(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let (mut at, mut run) = (0, Vec::new());
        while let Some(first) = datagram(bytes, at)? {
            let head = |datagram: &[u8]| datagram.first_chunk::<ENVELOPE>().copied();
            let wanted = head(first);
            run.clear();
            run.push(first);
            at += frames::LENGTH + first.len();
            let mut out = [0; BIND];
            match self.switch.datagram(From::Tcp(self.queue, self.peer), first, &mut out) {
                Verdict::Forward(way) => {
                    while let Some(next) = datagram(bytes, at)?.filter(|next| head(next) == wanted) {
                        at += frames::LENGTH + next.len();
                        run.push(next);
                    }
                    self.switch.deliver(&way, &run);
                }
                Verdict::Answer(len) => {
                    if len == BIND {
                        self.patience = SILENT_MAX;
                    }
                    self.queue.push(&[out.get(..len).unwrap_or_default()]);
                }
                // Whoever cannot bind is no node of ours.
                Verdict::Nothing if self.patience == BIND_WITHIN => {
                    self.switch.counters.count(Loss::Tcp, 1);
                    return Err(io::ErrorKind::PermissionDenied.into());
                }
                Verdict::Nothing => {}
            }
        }
        Ok(at)
    }
}

/// The datagram whose frame begins at `at`; `None` while the rest of it has not come.
fn datagram(bytes: &[u8], at: usize) -> io::Result<Option<&[u8]>> {
    let length = bytes.get(at..).and_then(|rest| rest.first_chunk());
    let length = length.map(|length| usize::from(u16::from_le_bytes(*length)));
    if length.is_some_and(|length| !(ENVELOPE..=DATAGRAM_MAX).contains(&length)) {
        return Err(io::ErrorKind::InvalidData.into());
    }
    Ok(frames::split(bytes, at).and_then(|place| bytes.get(place)))
}

async fn transmit(mut write: OwnedWriteHalf, queue: &Queue) -> io::Result<()> {
    let mut bytes = VecDeque::new();
    loop {
        queue.take(&mut bytes).await;
        while !bytes.is_empty() {
            timeout(WRITE_WITHIN, write.write_buf(&mut bytes)).await??;
        }
    }
}
