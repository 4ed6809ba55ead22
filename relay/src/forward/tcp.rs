//! Relayed datagrams over TCP, for nodes that UDP does not reach.
//!
//! After the preamble both sides send frames: u16 little-endian length and a relay message. A connection that
//! has not bound within 10 s, or was silent for 90 s, is closed.

use super::{From, Queue, Switch, Verdict};
use crate::counters::Loss;
use edgemesh_core::wire::relay::{BIND, ENVELOPE};
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::time::timeout;

/// Largest relayed datagram: an envelope around a full tunnel datagram.
const DATAGRAM_MAX: usize = 2_048;
const BIND_WITHIN: Duration = Duration::from_secs(10);
/// Nodes refresh their binding every 15 to 25 s.
const SILENT_MAX: Duration = Duration::from_secs(90);
const WRITE_WITHIN: Duration = Duration::from_secs(20);
const WRITE_AT_ONCE: usize = 16 * 1024;

/// Serves a connection until it ends.
pub(crate) async fn serve(switch: &Switch, stream: TcpStream, peer: SocketAddr) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let queue = Arc::new(Queue::new(peer));
    let (read, write) = stream.into_split();
    let ended = tokio::select! {
        ended = receive(switch, read, &queue, peer) => ended,
        ended = transmit(write, &queue) => ended,
    };
    switch.closed(&queue);
    ended
}

async fn receive(
    switch: &Switch,
    read: OwnedReadHalf,
    queue: &Arc<Queue>,
    peer: SocketAddr,
) -> io::Result<()> {
    let mut read = BufReader::with_capacity(8 * 1024, read);
    let mut datagram = [0; DATAGRAM_MAX];
    let mut out = [0; BIND];
    let mut patience = BIND_WITHIN;
    loop {
        let frame = async {
            let len = usize::from(read.read_u16_le().await?);
            let place =
                datagram.get_mut(..len).filter(|_| len >= ENVELOPE).ok_or(io::ErrorKind::InvalidData)?;
            read.read_exact(place).await?;
            io::Result::Ok(len)
        };
        let len = timeout(patience, frame).await??;
        let datagram = datagram.get(..len).unwrap_or_default();
        match switch.datagram(From::Tcp(queue, peer), datagram, &mut out) {
            Verdict::Forward(way) => switch.deliver(&way, datagram),
            Verdict::Answer(len) => {
                if len == BIND {
                    patience = SILENT_MAX;
                }
                queue.push(out.get(..len).unwrap_or_default());
            }
            // Whoever cannot bind is no node of ours.
            Verdict::Nothing if patience == BIND_WITHIN => {
                switch.counters.count(Loss::Tcp, 1);
                return Err(io::ErrorKind::PermissionDenied.into());
            }
            Verdict::Nothing => {}
        }
    }
}

async fn transmit(mut write: OwnedWriteHalf, queue: &Queue) -> io::Result<()> {
    let mut bytes = Vec::new();
    loop {
        queue.take(&mut bytes, WRITE_AT_ONCE).await;
        timeout(WRITE_WITHIN, write.write_all(&bytes)).await??;
        bytes.clear();
    }
}
