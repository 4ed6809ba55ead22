//! The TCP connections to a server: control, and relayed datagrams where UDP does not pass.
//!
//! The control connection lives as long as the agent: servers are tried in order, with a growing, jittered
//! pause after each failure, and while it is not the first one's, those before it are tried now and then. It only moves
//! length-prefixed frames between the socket and the engine; what they mean is the engine's. The relay connection
//! exists while the engine wants it; once it stands, the data thread reads and writes it.

use crate::agent::command::{Command, Handle};
use edgemesh_core::wire::control::{FRAME_MAX, Preamble};
use edgemesh_host::tcp;
use std::future;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::timeout;

const FIRST_PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);
/// When servers before the connected one are tried first; then after twice as long each time.
const FIRST_RETURN: Duration = Duration::from_secs(10);
const LONGEST_RETURN: Duration = Duration::from_secs(15 * 60);
/// A connection to a server, and where that is.
type Connection = (TcpStream, SocketAddr);

/// Keeps a control connection to one of `servers` (`HOST:PORT`). Ends when `frames` does.
pub async fn keep_connected(
    handle: Handle,
    servers: Vec<String>,
    mut frames: mpsc::UnboundedReceiver<Vec<u8>>,
) {
    let (mut at, mut opened) = (0, None);
    let (mut pause, mut way_back) = (FIRST_PAUSE, FIRST_RETURN);
    while let Some(server) = servers.get(at) {
        match connected(server, opened.take()).await {
            Ok((stream, address)) => {
                tracing::info!(%server, %address, "connected to the server");
                while frames.try_recv().is_ok() {} // meant for the connection before
                handle.send(Command::ControlUp(address));
                let started = tokio::time::Instant::now();
                let ended = tokio::select! {
                    ended = exchange(&handle, stream, &mut frames) => ended.map(|()| None),
                    earlier = earlier(&servers[..at], &mut way_back) => Ok(Some(earlier)),
                };
                handle.send(Command::ControlDown);
                match ended {
                    Ok(None) => return,
                    Ok(Some((earlier, connection))) => {
                        (at, opened) = (earlier, Some(connection));
                        continue;
                    }
                    Err(error) => tracing::warn!(%server, %error, "control connection ended"),
                }
                if started.elapsed() > LONGEST_PAUSE {
                    pause = FIRST_PAUSE;
                }
                if started.elapsed() > LONGEST_RETURN {
                    way_back = FIRST_RETURN;
                }
            }
            Err(error) => tracing::warn!(%server, %error, "cannot reach the server"),
        }
        at = (at + 1) % servers.len();
        tokio::time::sleep(jittered(pause)).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

/// `opened`, or a new connection.
async fn connected(server: &str, opened: Option<Connection>) -> io::Result<Connection> {
    match opened {
        Some(connection) => Ok(connection),
        None => tcp::connect_server(server, Preamble::Control).await,
    }
}

/// Waits until the directory answers at one of `servers`; for ever if there are none.
async fn earlier(servers: &[String], pause: &mut Duration) -> (usize, Connection) {
    if servers.is_empty() {
        return future::pending().await;
    }
    loop {
        tokio::time::sleep(jittered(*pause)).await;
        *pause = (*pause * 2).min(LONGEST_RETURN);
        for (at, server) in servers.iter().enumerate() {
            match greeted(server).await {
                Ok(connection) => {
                    tracing::info!(%server, "an earlier server answers again");
                    return (at, connection);
                }
                Err(error) => tracing::debug!(%server, %error, "an earlier server is still away"),
            }
        }
    }
}

/// A connection whose other end has said something, as a directory does first: a relay that cannot pass it on does not.
async fn greeted(server: &str) -> io::Result<Connection> {
    let (stream, address) = tcp::connect_server(server, Preamble::Control).await?;
    match timeout(tcp::SERVER_WITHIN, stream.peek(&mut [0])).await?? {
        0 => Err(io::ErrorKind::UnexpectedEof.into()),
        _ => Ok((stream, address)),
    }
}

/// Moves frames both ways until the connection fails, or `Ok` when the agent has no more to send.
async fn exchange(
    handle: &Handle,
    stream: TcpStream,
    frames: &mut mpsc::UnboundedReceiver<Vec<u8>>,
) -> io::Result<()> {
    let source = stream.local_addr()?.ip();
    let (read, mut write) = stream.into_split();
    let inbound = receive(read, handle);
    let lost = tcp::source_lost(source);
    tokio::pin!(inbound, lost);
    loop {
        tokio::select! {
            ended = &mut inbound => return ended,
            error = &mut lost => return Err(error),
            frame = frames.recv() => match frame {
                // An empty frame is the engine's wish to end this connection.
                Some(frame) if frame.is_empty() => return Err(io::ErrorKind::ConnectionAborted.into()),
                Some(frame) => send(&mut write, &frame).await?,
                None => return Ok(()),
            },
        }
    }
}

/// Keeps the TCP relay connection while `wanted` names a server.
pub async fn keep_relay(handle: Handle, mut wanted: watch::Receiver<Option<SocketAddr>>) {
    let mut pause = FIRST_PAUSE;
    loop {
        let Some(server) = *wanted.borrow_and_update() else {
            if wanted.changed().await.is_err() {
                return;
            }
            pause = FIRST_PAUSE;
            continue;
        };
        match tcp::connect_server(&server.to_string(), Preamble::Relay).await {
            Ok((stream, _)) => {
                tracing::info!(%server, "relaying over TCP");
                let ended = tokio::select! {
                    error = relay(&handle, stream) => Err(error),
                    _ = wanted.changed() => Ok(()),
                };
                handle.send(Command::RelayDown);
                if let Err(error) = ended {
                    tracing::warn!(%server, %error, "TCP relay connection ended");
                }
            }
            Err(error) => {
                tracing::warn!(%server, %error, "cannot open the TCP relay connection");
                handle.send(Command::RelayDown);
            }
        }
        tokio::time::sleep(jittered(pause)).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

/// Leaves the stream to the data thread until it fails.
async fn relay(handle: &Handle, stream: TcpStream) -> io::Error {
    let (end, ended) = oneshot::channel();
    let prepared = || {
        tcp::keep_short(&stream)?;
        Ok((stream.local_addr()?.ip(), stream.into_std()?))
    };
    let source = match prepared() {
        Ok((source, stream)) => {
            handle.send(Command::RelayUp(stream, end));
            source
        }
        Err(error) => return error,
    };
    tokio::select! {
        ended = ended => ended.unwrap_or_else(|_| io::ErrorKind::ConnectionAborted.into()),
        lost = tcp::source_lost(source) => lost,
    }
}

/// Hands every frame over; returns only with an error.
async fn receive(read: OwnedReadHalf, handle: &Handle) -> io::Result<()> {
    let mut read = BufReader::with_capacity(16 * 1024, read);
    loop {
        let len = usize::from(read.read_u16_le().await?);
        if len > FRAME_MAX {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                format!("a frame of {len} bytes, at most {FRAME_MAX}"),
            ));
        }
        let mut frame = vec![0; len];
        read.read_exact(&mut frame).await?;
        handle.send(Command::Frame(frame));
    }
}

async fn send(write: &mut OwnedWriteHalf, frame: &[u8]) -> io::Result<()> {
    let len = u16::try_from(frame.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
    let mut bytes = Vec::with_capacity(2 + frame.len());
    bytes.extend_from_slice(&len.to_le_bytes());
    bytes.extend_from_slice(frame);
    write.write_all(&bytes).await
}

/// Between half and all of `pause`, so that a site's agents do not come back in step.
fn jittered(pause: Duration) -> Duration {
    let mut byte = [0u8; 1];
    let _ = getrandom::fill(&mut byte);
    pause / 2 + pause.mul_f64(f64::from(byte[0]) / 510.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::TcpListener;

    /// A server that says `greeting` to everybody and hangs up.
    async fn server(greeting: &'static [u8]) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut preamble = Preamble::Control.bytes();
                stream.read_exact(&mut preamble).await.unwrap();
                stream.write_all(greeting).await.unwrap();
            }
        });
        address.to_string()
    }

    #[tokio::test]
    async fn only_an_earlier_server_that_says_something_is_gone_back_to() {
        let servers = ["127.0.0.1:1".to_owned(), server(b"").await, server(b"hello").await];
        let mut pause = Duration::from_millis(1);
        let (at, (mut stream, _)) = earlier(&servers, &mut pause).await;
        assert_eq!(at, 2);
        let mut said = String::new();
        stream.read_to_string(&mut said).await.unwrap();
        assert_eq!(said, "hello", "the greeting is for the engine");
        assert!(pause > Duration::from_millis(1), "ever more rarely");
        let nobody = timeout(Duration::from_millis(50), earlier(&servers[..2], &mut pause)).await;
        assert!(nobody.is_err(), "there is nobody to go back to");
    }
}
