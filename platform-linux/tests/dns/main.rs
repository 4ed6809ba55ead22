//! The DNS sockets with the real responder behind them, over loopback, asked by an independent encoder and decoder.
//! Test names begin with the row of the parity checklist that they hold.

mod forwarding;
mod sockets;
mod upstream;
#[path = "../../../core/tests/support/zone.rs"]
mod zone;

use std::future::Future;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use edgemesh_agent::dns::cache::Keeping;
use edgemesh_agent::dns::forward::{Forwarder, Settings};
use edgemesh_agent::dns::{Listener, Resolve, Resolved, Routes, Server, Sockets, Source, Stats, Transport};
use edgemesh_agent::poll::{Event, Interest, Poller, Waker};
use edgemesh_core::dns::{Domain, PodRecords, Responder, Verdict};
use edgemesh_core::rng::Rng;
use hickory_proto::op::{Message, Query};
use hickory_proto::rr::{Name, RecordType};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::task::{LocalSet, spawn_local};
use tokio::time::timeout;
use zone::MemoryZone;

/// Longer than anything here takes; only a failing test waits for it.
const PATIENCE: Duration = Duration::from_secs(20);

/// The responder, asked directly.
#[derive(Clone)]
struct Direct(Arc<Engine>);

struct Engine {
    responder: Responder,
    zone: MemoryZone,
}

impl Direct {
    fn query(&self, query: &[u8], transport: Transport, out: &mut [u8]) -> Verdict {
        let Engine { responder, zone } = &*self.0;
        responder.query(zone, query, transport, 0, out)
    }
}

impl Resolve for Direct {
    async fn resolve(
        &self,
        _: SocketAddr,
        query: &[u8],
        transport: Transport,
        out: &mut Vec<u8>,
    ) -> Resolved {
        out.resize(65_535, 0);
        let verdict = self.query(query, transport, out);
        if let Verdict::Answer { len, .. } | Verdict::Chase { len } = verdict {
            out.truncate(len);
        }
        verdict.into()
    }
}

/// Reads a socket whenever it is ready, as the data thread does, until it is woken.
fn read_datagrams(mut listener: Listener, engine: Direct) -> Waker {
    let mut poller = Poller::new().unwrap();
    let waker = poller.waker();
    std::thread::spawn(move || {
        poller.add(&listener, Interest::Read, 0).unwrap();
        let mut ended = false;
        while !ended {
            poller.wait(None, |event| ended |= event == Event::Woken).unwrap();
            listener.read(1, |query, out| engine.query(query, Transport::Udp, out));
        }
    });
    waker
}

/// A served node.
pub(crate) struct Node {
    pub(crate) address: SocketAddr,
    pub(crate) stats: Arc<Stats>,
    pub(crate) forwarder: Rc<Forwarder>,
    readers: Vec<Waker>,
}

impl Drop for Node {
    fn drop(&mut self) {
        self.readers.iter().for_each(Waker::wake);
    }
}

impl Node {
    /// Serves `zone` on a loopback address and forwards to `servers`.
    pub(crate) fn start(zone: MemoryZone, servers: Vec<SocketAddr>) -> Self {
        Self::start_on(Sockets::bind(&[own_address()]).unwrap(), zone, servers)
    }

    pub(crate) fn start_on(sockets: Sockets, zone: MemoryZone, servers: Vec<SocketAddr>) -> Self {
        Self::start_with(sockets, zone, servers, Keeping::default())
    }

    pub(crate) fn start_with(
        sockets: Sockets,
        zone: MemoryZone,
        servers: Vec<SocketAddr>,
        keeping: Keeping,
    ) -> Self {
        let address = sockets.addresses()[0];
        let responder = Responder::new(edgemesh_core::dns::Settings {
            domain: Domain::new("cluster.local").unwrap(),
            ttl: 30,
            negative_ttl: 30,
            address: Some(address.ip()),
            pods: PodRecords::Insecure,
            recursion: true,
        });
        let stats = Arc::new(Stats::default());
        let routes = Routes { source: Source::Fixed(servers), stubs: vec![], own: vec![] };
        let settings = Settings { timeout: Duration::from_secs(1), keeping, ..Settings::new(routes) };
        let forwarder = Forwarder::new(settings, Rng::new([3; 32]), stats.clone());
        let engine = Direct(Arc::new(Engine { responder, zone }));
        let (listeners, rest) = Server::new(engine.clone(), forwarder.clone()).serve(sockets);
        spawn_local(async move { rest.await.unwrap() });
        let readers = listeners.into_iter().map(|listener| read_datagrams(listener, engine.clone()));
        Self { address, stats, forwarder, readers: readers.collect() }
    }

    pub(crate) fn stat(&self, name: &str) -> u64 {
        self.stats.each().find(|(known, _)| *known == name).unwrap().1
    }

    /// One query over UDP.
    pub(crate) async fn udp(&self, query: &Message) -> Message {
        let socket = client(self.address).await;
        socket.send(&query.to_vec().unwrap()).await.unwrap();
        let reply = receive(&socket).await;
        assert_eq!((reply.metadata.id, &reply.queries), (query.metadata.id, &query.queries));
        reply
    }

    /// One query over TCP.
    pub(crate) async fn tcp(&self, query: &Message) -> Message {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        stream.write_all(&framed(query)).await.unwrap();
        read(&mut stream).await
    }
}

/// A loopback address that no other test uses, so that its ports are free for both protocols.
pub(crate) fn own_address() -> SocketAddr {
    static NEXT: AtomicU16 = AtomicU16::new(1);
    let [high, low] = NEXT.fetch_add(1, Ordering::Relaxed).to_be_bytes();
    let process = 1 + (std::process::id() % 250) as u8;
    SocketAddr::from(([127, process, high, low], 0))
}

/// A socket that hears only replies from the very address it asks (row W11).
pub(crate) async fn client(server: SocketAddr) -> UdpSocket {
    client_at("127.0.0.1:0", server).await
}

/// The same, from this address.
pub(crate) async fn client_at(own: &str, server: SocketAddr) -> UdpSocket {
    let socket = UdpSocket::bind(own).await.unwrap();
    socket.connect(server).await.unwrap();
    socket
}

pub(crate) async fn receive(socket: &UdpSocket) -> Message {
    let mut buffer = vec![0; 65_535];
    let len = timeout(PATIENCE, socket.recv(&mut buffer)).await.unwrap().unwrap();
    Message::from_vec(&buffer[..len]).unwrap()
}

pub(crate) fn framed(message: &Message) -> Vec<u8> {
    let bytes = message.to_vec().unwrap();
    [&(bytes.len() as u16).to_be_bytes(), &bytes[..]].concat()
}

pub(crate) async fn read(stream: &mut TcpStream) -> Message {
    let message = async {
        let len = stream.read_u16().await.unwrap();
        let mut bytes = vec![0; len.into()];
        stream.read_exact(&mut bytes).await.unwrap();
        Message::from_vec(&bytes).unwrap()
    };
    timeout(PATIENCE, message).await.unwrap()
}

pub(crate) fn query(name: &str, rtype: RecordType) -> Message {
    let mut message = Message::query();
    message.metadata.id = 4711;
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), rtype));
    message
}

/// The data of the answer section.
pub(crate) fn data(message: &Message) -> Vec<String> {
    message.answers.iter().map(|record| record.data.to_string()).collect()
}

/// Runs a test on the one thread that the agent has for DNS.
pub(crate) fn run(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(LocalSet::new().run_until(test));
}

pub(crate) fn shared<T>(value: T) -> Rc<std::cell::RefCell<T>> {
    Rc::new(std::cell::RefCell::new(value))
}

/// Lets so much time pass at once. Nothing may be under way.
pub(crate) async fn skip(time: Duration) {
    tokio::time::pause();
    tokio::time::advance(time).await;
    tokio::time::resume();
}
