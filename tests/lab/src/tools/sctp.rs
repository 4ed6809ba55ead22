//! SCTP clients and a server of an independent implementation (sctp-proto, as WebRTC uses it), whose packets travel over
//! raw sockets: no kernel with SCTP is asked for.
//!
//! What arrives with a wrong CRC32c is dropped by that implementation, so whatever is echoed had a right one both ways.
//! Not here: several addresses of one association, and what has no use in the lab, such as its time-outs.

use std::collections::HashMap;
use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs, UdpSocket};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use sctp_proto::{
    Association, AssociationHandle, ClientConfig, DatagramEvent, Endpoint, EndpointConfig, EndpointEvent,
    Event, Payload, PayloadProtocolIdentifier, ServerConfig, StreamEvent, Transmit, TransportConfig,
};
use socket2::{Domain, Protocol, Socket, Type};

use crate::{Context, Result, ensure, fail};

/// Its number among IP's protocols.
const PROTOCOL: i32 = 132;
/// Where the first chunk of a packet begins, with its type, and the type by which an end agrees to a shutdown.
const CHUNKS: usize = 12;
const SHUTDOWN_ACK: u8 = 8;
/// The only stream.
const STREAM: u16 = 1;
/// How long an association, an echo or a shutdown may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// Between two messages of an association that is held.
const PACE: Duration = Duration::from_millis(50);
/// How long a turn without a packet takes.
const TURN: Duration = Duration::from_millis(5);
/// Sizes of messages; the larger ones are cut into many packets.
const SIZES: [usize; 7] = [1, 100, 1_000, 1_200, 5_000, 20_000, 60_000];

/// Echoes every message of every association; tells of each where it comes from, and when it has been shut down.
pub(super) fn server(family: &str, port: u16) -> Result {
    let domain = if family == "6" { Domain::IPV6 } else { Domain::IPV4 };
    let mut server = Wire::new(raw(domain)?, port, Some(Arc::new(ServerConfig::default())));
    println!("ready");
    loop {
        server.turn(|from, association, event| {
            match event {
                Event::Connected => println!("associated {from}"),
                Event::AssociationLost { .. } => println!("closed {from}"),
                Event::Stream(StreamEvent::Readable { id }) => {
                    while let Some(message) = read(association, id)? {
                        write(association, id, &message)?;
                    }
                }
                _ => {}
            }
            Ok(())
        })?;
    }
}

/// Associates from the local port, sends messages of every size, each of which must come back as it was, and shuts down.
pub(super) fn echo(target: &str, local_port: u16) -> Result {
    let mut client = Client::associate(target, local_port)?;
    for size in SIZES {
        client.echoed(&pattern(size))?;
    }
    client.association()?.shutdown().context("shutdown")?;
    // This implementation does not tell; the turn that heard of it has answered that the shutdown is complete.
    client.until("the other end agrees to the shutdown", |client| {
        Ok((client.wire.last_chunk == SHUTDOWN_ACK).then_some(()))
    })?;
    println!("{} messages echoed, shut down", SIZES.len());
    Ok(())
}

/// Associates from the local port and has small messages echoed for ever.
pub(super) fn hold(target: &str, local_port: u16) -> Result {
    let mut client = Client::associate(target, local_port)?;
    client.echoed(b"hello")?;
    println!("ready");
    for count in 1_u64.. {
        client.echoed(format!("message {count}").as_bytes())?;
        println!("echoed {count}");
        std::thread::sleep(PACE);
    }
    Ok(())
}

/// Bytes that differ with the size.
fn pattern(size: usize) -> Vec<u8> {
    (0..size).map(|at| (at.wrapping_mul(31).wrapping_add(size) % 251).try_into().unwrap_or(0)).collect()
}

/// A raw socket, which is told of every packet of the protocol, whatever its ports.
fn raw(domain: Domain) -> Result<UdpSocket> {
    let socket = Socket::new(domain, Type::RAW, Some(Protocol::from(PROTOCOL))).context("raw socket")?;
    socket.set_read_timeout(Some(TURN)).context("timeout")?;
    // What a datagram socket of the standard library does with a descriptor is what is wanted of it.
    Ok(UdpSocket::from(OwnedFd::from(socket)))
}

fn read(association: &mut Association, id: u16) -> Result<Option<Vec<u8>>> {
    let message = association.stream(id).context("stream")?.read().context("read")?;
    let Some(message) = message else { return Ok(None) };
    let mut bytes = vec![0; message.len()];
    message.read(&mut bytes).context("message")?;
    Ok(Some(bytes))
}

fn write(association: &mut Association, id: u16, message: &[u8]) -> Result {
    let kind = PayloadProtocolIdentifier::Binary;
    let sent = association.stream(id).context("stream")?.write_with_ppi(message, kind).context("write")?;
    ensure!(sent == message.len(), "{sent} of {} bytes are on their way", message.len());
    Ok(())
}

/// The associations of one port, and the socket that carries them.
struct Wire {
    socket: UdpSocket,
    port: u16,
    endpoint: Endpoint,
    associations: HashMap<AssociationHandle, (SocketAddr, Association)>,
    /// The type of the first chunk of the last packet.
    last_chunk: u8,
}

impl Wire {
    fn new(socket: UdpSocket, port: u16, server: Option<Arc<ServerConfig>>) -> Self {
        let endpoint = Endpoint::new(Arc::new(EndpointConfig::new()), server);
        Self { socket, port, endpoint, associations: HashMap::new(), last_chunk: 0 }
    }

    /// Takes what has arrived, lets timers run, tells what happened and sends what is to be sent.
    fn turn(&mut self, mut tell: impl FnMut(SocketAddr, &mut Association, Event) -> Result) -> Result {
        self.receive()?;
        let now = Instant::now();
        while let Some(transmit) = self.endpoint.poll_transmit() {
            self.send(transmit);
        }
        let handles: Vec<_> = self.associations.keys().copied().collect();
        for handle in handles {
            let Some((from, mut association)) = self.associations.remove(&handle) else { continue };
            association.handle_timeout(now);
            self.send_all(&mut association, now);
            let mut over = false;
            while let Some(event) = association.poll() {
                over |= matches!(event, Event::AssociationLost { .. });
                tell(from, &mut association, event)?;
            }
            self.send_all(&mut association, now);
            if over {
                let _ = self.endpoint.handle_event(handle, EndpointEvent::drained());
            } else {
                self.associations.insert(handle, (from, association));
            }
        }
        Ok(())
    }

    fn send_all(&self, association: &mut Association, now: Instant) {
        while let Some(transmit) = association.poll_transmit(now) {
            self.send(transmit);
        }
    }

    /// Waits a moment for a packet.
    fn receive(&mut self) -> Result {
        let mut buffer = vec![0; usize::from(u16::MAX)];
        match self.socket.recv_from(&mut buffer) {
            Ok((len, from)) => {
                let packet = without_header(buffer.get(..len).unwrap_or_default(), from.ip());
                self.take(from.ip(), packet);
                Ok(())
            }
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => Ok(()),
            Err(error) => fail(format!("receive: {error}")),
        }
    }

    fn take(&mut self, from: IpAddr, packet: &[u8]) {
        let port = |at: usize| packet.get(at..)?.first_chunk().map(|bytes| u16::from_be_bytes(*bytes));
        let (Some(source), Some(to)) = (port(0), port(2)) else { return };
        if to != self.port {
            return;
        }
        self.last_chunk = packet.get(CHUNKS).copied().unwrap_or_default();
        let remote = SocketAddr::new(from, source);
        let bytes = Bytes::copy_from_slice(packet);
        match self.endpoint.handle(Instant::now(), remote, None, None, bytes) {
            Some((handle, DatagramEvent::NewAssociation(association))) => {
                self.associations.insert(handle, (remote, association));
            }
            Some((handle, DatagramEvent::AssociationEvent(event))) => {
                if let Some((_, association)) = self.associations.get_mut(&handle) {
                    association.handle_event(event);
                }
            }
            None => {}
        }
    }

    fn send(&self, transmit: Transmit) {
        let Payload::RawEncode(packets) = transmit.payload else { return };
        for packet in packets {
            // A raw socket has no ports. What is lost is sent again.
            let _ = self.socket.send_to(&packet, SocketAddr::new(transmit.remote.ip(), 0));
        }
    }
}

/// What is behind the IP header, which a raw socket shows of IPv4.
fn without_header(packet: &[u8], from: IpAddr) -> &[u8] {
    let header = match (from, packet.first()) {
        (IpAddr::V4(_), Some(first)) => usize::from(first & 15).saturating_mul(4),
        _ => 0,
    };
    packet.get(header..).unwrap_or_default()
}

/// One association and its only stream.
struct Client {
    wire: Wire,
    handle: AssociationHandle,
    heard: Vec<Vec<u8>>,
    /// Why it has ended.
    lost: Option<String>,
}

impl Client {
    fn associate(target: &str, local_port: u16) -> Result<Self> {
        let remote = target.to_socket_addrs().context(target)?.next().context(target)?;
        let socket = raw(if remote.is_ipv6() { Domain::IPV6 } else { Domain::IPV4 })?;
        let mut wire = Wire::new(socket, local_port, None);
        let transport =
            TransportConfig::default().with_local_port(local_port).with_remote_port(remote.port());
        let mut config = ClientConfig::new();
        config.transport = Arc::new(transport);
        let (handle, association) = wire.endpoint.connect(config, remote).context(target)?;
        wire.associations.insert(handle, (remote, association));
        let mut client = Self { wire, handle, heard: Vec::new(), lost: None };
        let started = Instant::now();
        client.until("there is an association", |client| {
            ensure!(
                client.lost.is_none(),
                "refused after {} ms: {}",
                started.elapsed().as_millis(),
                client.lost.as_deref().unwrap_or_default()
            );
            Ok((!client.association()?.is_handshaking()).then_some(()))
        })?;
        let kind = PayloadProtocolIdentifier::Binary;
        client.association()?.open_stream(STREAM, kind).context("stream")?;
        Ok(client)
    }

    fn association(&mut self) -> Result<&mut Association> {
        let association = self.wire.associations.get_mut(&self.handle);
        Ok(&mut association.context("the association has ended")?.1)
    }

    /// Sends the message, which must come back as it was.
    fn echoed(&mut self, message: &[u8]) -> Result {
        write(self.association()?, STREAM, message)?;
        let heard = self.until("the echo", |client| Ok(client.heard.pop()))?;
        ensure!(heard == message, "{} bytes came back otherwise, as {}", message.len(), heard.len());
        Ok(())
    }

    fn until<T>(&mut self, what: &str, mut found: impl FnMut(&mut Self) -> Result<Option<T>>) -> Result<T> {
        let started = Instant::now();
        loop {
            let (heard, lost) = (&mut self.heard, &mut self.lost);
            self.wire.turn(|_, association, event| {
                match event {
                    Event::AssociationLost { reason } => *lost = Some(reason.to_string()),
                    Event::HandshakeFailed { reason } => *lost = Some(reason.to_string()),
                    Event::Stream(StreamEvent::Readable { id }) => {
                        while let Some(message) = read(association, id)? {
                            heard.push(message);
                        }
                    }
                    _ => {}
                }
                Ok(())
            })?;
            if let Some(found) = found(self)? {
                return Ok(found);
            }
            ensure!(started.elapsed() < PATIENCE, "waited {} s until {what}", PATIENCE.as_secs());
        }
    }
}
