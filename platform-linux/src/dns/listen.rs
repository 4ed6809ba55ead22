//! Sockets: datagrams, and streams with their two-octet length framing (RFC 1035 §4.2.2, RFC 7766).
//!
//! A datagram lives for one task. A connection may have [`PIPELINE`] queries under way, whose answers leave as they
//! come; it ends after [`QUERIES`] queries, or when a whole query, or the reading of an answer, takes longer than
//! [`IDLE`].

use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::{Mutex, Semaphore};
use tokio::task::{JoinSet, spawn_local};
use tokio::time::{sleep, timeout};

use edgemesh_core::wire::dns::Rcode;

use super::clients::Clients;
use super::{MAX_QUERY, Resolve, Service, Stats, Transport, turned_away};

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
    udp: Vec<std::net::UdpSocket>,
    tcp: Vec<std::net::TcpListener>,
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

/// Serves all sockets. Ends only with the first error of registering one.
pub(super) async fn run<R: Resolve + 'static>(sockets: Sockets, service: Rc<Service<R>>) -> io::Result<()> {
    let mut tasks = JoinSet::new();
    for socket in sockets.udp {
        tasks.spawn_local(datagrams(Rc::new(UdpSocket::from_std(socket)?), service.clone()));
    }
    for listener in sockets.tcp {
        tasks.spawn_local(accept(TcpListener::from_std(listener)?, service.clone()));
    }
    while tasks.join_next().await.is_some() {}
    Ok(())
}

async fn datagrams<R: Resolve + 'static>(socket: Rc<UdpSocket>, service: Rc<Service<R>>) {
    let mut buffer = vec![0; MAX_QUERY];
    loop {
        let (len, client) = match socket.recv_from(&mut buffer).await {
            Ok(received) => received,
            Err(error) => {
                tracing::warn!(%error, "DNS over UDP: receiving");
                sleep(PAUSE).await;
                continue;
            }
        };
        let free = service.in_flight.clone().try_acquire_owned().map_err(|_| Rcode::SERVFAIL);
        let own = || Clients::enter(&service.asking, client.ip()).ok_or(Rcode::REFUSED);
        let places = match free.and_then(|permit| Ok((permit, own()?))) {
            Ok(places) => places,
            Err(rcode) => {
                Stats::add(&service.stats().overload);
                if let Some(answer) = turned_away(buffer.get(..len).unwrap_or_default(), rcode) {
                    // No room to send means that nobody waits for this one.
                    let _ = socket.try_send_to(&answer, client);
                }
                continue;
            }
        };
        let query: Box<[u8]> = buffer.get(..len).unwrap_or_default().into();
        let (socket, service) = (socket.clone(), service.clone());
        spawn_local(async move {
            if let Some(answer) = service.answer(client, &query, Transport::Udp).await
                && socket.send_to(&answer, client).await.is_err()
            {
                Stats::add(&service.stats().overload);
            }
            drop(places);
        });
    }
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
            let permit = service.in_flight.clone().acquire_owned().await;
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
    let length = usize::from(u16::from_be_bytes([u8::from_be_bytes(high), stream.read_u8().await?]));
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
