//! Length-prefixed frames on a control connection.

use edgemesh_core::wire::control::FRAME_MAX;
use std::io;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::time::timeout;

const WRITE_WITHIN: Duration = Duration::from_secs(30);

/// Reads frames. Giving up the wait for one loses nothing.
pub(crate) struct Reader {
    read: OwnedReadHalf,
    buffer: Vec<u8>,
    /// How much of the buffer the frame before took.
    taken: usize,
}

impl Reader {
    pub(crate) fn new(read: OwnedReadHalf) -> Self {
        Self { read, buffer: Vec::new(), taken: 0 }
    }

    /// The next frame, without its length.
    ///
    /// # Errors
    /// At the end of the connection, and for an impossible length.
    pub(crate) async fn next(&mut self) -> io::Result<&mut [u8]> {
        self.buffer.drain(..std::mem::take(&mut self.taken));
        loop {
            if let Some((head, rest)) = self.buffer.split_first_chunk::<2>() {
                let len = usize::from(u16::from_le_bytes(*head));
                if len == 0 || len > FRAME_MAX {
                    return Err(io::ErrorKind::InvalidData.into());
                }
                if rest.len() >= len {
                    self.taken = 2 + len;
                    break;
                }
            }
            self.buffer.reserve(512);
            if self.read.read_buf(&mut self.buffer).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        self.buffer.get_mut(2..self.taken).ok_or_else(|| io::ErrorKind::InvalidData.into())
    }
}

/// Writes a frame.
///
/// # Errors
/// When the connection is gone, or takes nothing for 30 s.
pub(crate) async fn write(to: &mut OwnedWriteHalf, frame: &[u8]) -> io::Result<()> {
    let len = u16::try_from(frame.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
    let mut bytes = Vec::with_capacity(frame.len() + 2);
    bytes.extend_from_slice(&len.to_le_bytes());
    bytes.extend_from_slice(frame);
    timeout(WRITE_WITHIN, to.write_all(&bytes)).await?
}
