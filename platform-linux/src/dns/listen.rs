//! Sockets: datagrams that wait, and streams with their two-octet length framing (RFC 1035 §4.2.2, RFC 7766).
//!
//! A datagram that waits lives for one task. A connection may have [`PIPELINE`] queries under way, whose answers leave
//! as they come; it ends after [`QUERIES`] queries, or when a whole query, or the reading of an answer, takes longer
//! than [`IDLE`].

use std::io;
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use edgemesh_core::dns::Verdict;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::sync::{Mutex, Semaphore};
use tokio::task::{JoinSet, spawn_local};
use tokio::time::{sleep, timeout};

use super::clients::Clients;
use super::datagrams::Pending;
use super::{MAX_QUERY, Resolve, Service, Stats, Transport};
use crate::sys::option;

/// Room for datagrams that is asked for, in bytes: about 20 ms of all queries that one core answers.
const SOCKET_BUFFER: libc::c_int = 1 << 20;
/// Queries of one connection under way.
const PIPELINE: usize = 16;
/// Queries that one connection may bring.
const QUERIES: usize = 128;
/// How long a connection may take for a query, or to take an answer.
const IDLE: Duration = Duration::from_secs(10);
/// How long to wait after an error of a listening socket, such as too many open files.
const PAUSE: Duration = Duration::from_millis(100);

/// The bound sockets, one of each kind for every address.
pub struct Sockets {
    pub(super) udp: Vec<std::net::UdpSocket>,
    pub(super) tcp: Vec<std::net::TcpListener>,
}

impl Sockets {
    /// Binds UDP and TCP on each address. With port 0, TCP gets the port that UDP was given.
    ///
    /// # Errors
    /// The socket's error, with address and protocol in its text.
    pub fn bind(addresses: &[SocketAddr]) -> io::Result<Self> {
        let mut sockets = Self { udp: Vec::new(), tcp: Vec::new() };
        for address in addresses {
            let udp = std::net::UdpSocket::bind(address).map_err(|e| named(e, *address, "UDP"))?;
            let local = udp.local_addr()?;
            let tcp = std::net::TcpListener::bind(local).map_err(|e| named(e, local, "TCP"))?;
            udp.set_nonblocking(true)?;
            option::set_buffers(udp.as_fd(), SOCKET_BUFFER);
            tcp.set_nonblocking(true)?;
            sockets.udp.push(udp);
            sockets.tcp.push(tcp);
        }
        Ok(sockets)
    }

    /// Where it listens.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.udp.iter().filter_map(|socket| socket.local_addr().ok()).collect()
    }
}

fn named(error: io::Error, address: SocketAddr, protocol: &str) -> io::Error {
    io::Error::new(error.kind(), format!("DNS cannot listen on {address} ({protocol}): {error}"))
}

/// Serves streams, and datagrams that wait. Ends only with the first error of registering a socket.
pub(super) async fn run<R: Resolve + 'static>(
    streams: Vec<std::net::TcpListener>,
    mut waiting: UnboundedReceiver<Pending>,
    service: Rc<Service<R>>,
) -> io::Result<()> {
    for listener in streams {
        spawn_local(accept(TcpListener::from_std(listener)?, service.clone()));
    }
    while let Some(pending) = waiting.recv().await {
        spawn_local(settle(pending, service.clone()));
    }
    // Nobody reads datagrams any more; streams go on.
    std::future::pending().await
}

/// Answers a datagram that the engine did not know the answer to.
async fn settle<R: Resolve>(pending: Pending, service: Rc<Service<R>>) {
    let Pending { socket, client, query, verdict, begun, taken } = pending;
    let answer = match verdict {
        // It is asked of the server meanwhile: the resolver waits for that.
        Verdict::Wait(_) => service.answer(client, &query, Transport::Udp).await,
        verdict => service.complete(verdict.into(), &query, Transport::Udp, begun).await,
    };
    // No room to send means that nobody waits for this one.
    if answer.is_some_and(|answer| socket.send_to(&answer, client).is_err()) {
        Stats::add(&service.stats().overload);
    }
    drop(taken);
}

async fn accept<R: Resolve + 'static>(listener: TcpListener, service: Rc<Service<R>>) {
    loop {
        let (stream, client) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "DNS over TCP: accepting");
                sleep(PAUSE).await;
                continue;
            }
        };
        let Some(place) = Clients::enter(&service.connected, client.ip()) else {
            Stats::add(&service.stats().connections_cut);
            continue;
        };
        let service = service.clone();
        spawn_local(async move {
            if connection(stream, client, &service).await.is_err() {
                Stats::add(&service.stats().connections_cut);
            }
            drop(place);
        });
    }
}

/// Serves one connection until the client closes it or a bound is reached.
async fn connection<R: Resolve + 'static>(
    stream: TcpStream,
    client: SocketAddr,
    service: &Rc<Service<R>>,
) -> io::Result<()> {
    let (mut read, write) = stream.into_split();
    let write = Rc::new(Mutex::new(write));
    let pipeline = Arc::new(Semaphore::new(PIPELINE));
    let mut answers = JoinSet::new();
    let mut served = Ok(());
    for _ in 0..QUERIES {
        let Ok(place) = pipeline.clone().acquire_owned().await else { break };
        let query = match timeout(IDLE, read_message(&mut read, MAX_QUERY)).await {
            Ok(Ok(Some(query))) => query,
            Ok(Ok(None)) => break,
            Ok(Err(error)) => {
                served = Err(error);
                break;
            }
            Err(_) => {
                served = Err(io::ErrorKind::TimedOut.into());
                break;
            }
        };
        let (write, service) = (write.clone(), service.clone());
        answers.spawn_local(async move {
            let permit = service.places.in_flight.clone().acquire_owned().await;
            service.stats().query(Transport::Tcp);
            if let Some(answer) = service.answer(client, &query, Transport::Tcp).await {
                let mut write = write.lock().await;
                if !matches!(timeout(IDLE, write_message(&mut *write, &answer)).await, Ok(Ok(()))) {
                    Stats::add(&service.stats().overload);
                }
            }
            drop((permit, place));
        });
    }
    while answers.join_next().await.is_some() {}
    served
}

/// The next framed message; `None` at a clean end of the stream. Memory grows with what has arrived.
///
/// # Errors
/// `InvalidData` for a length of 0 or above `most`, `UnexpectedEof` when the stream ends inside a message.
pub(super) async fn read_message(
    stream: &mut (impl AsyncRead + Unpin),
    most: usize,
) -> io::Result<Option<Vec<u8>>> {
    let mut high = [0; 1];
    if stream.read(&mut high).await? == 0 {
        return Ok(None);
    }
    let [high] = high;
    let length = usize::from(u16::from_be_bytes([high, stream.read_u8().await?]));
    if length == 0 || length > most {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut message = Vec::new();
    stream.take(length as u64).read_to_end(&mut message).await?;
    if message.len() < length { Err(io::ErrorKind::UnexpectedEof.into()) } else { Ok(Some(message)) }
}

/// Writes `message` with its length in one segment where it fits one.
///
/// # Errors
/// The stream's, and `InvalidInput` above 65,535 octets.
pub(super) async fn write_message(stream: &mut (impl AsyncWrite + Unpin), message: &[u8]) -> io::Result<()> {
    let length = u16::try_from(message.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
    let framed = [&length.to_be_bytes(), message].concat();
    stream.write_all(&framed).await
}
