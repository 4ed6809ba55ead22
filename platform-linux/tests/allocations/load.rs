//! Programs on two nodes: what they send through the Service, and the endpoint that answers.

use edgemesh_agent::poll::{Interest, Poller};
use edgemesh_agent::udp::{RECEIVE_BUFFER, Socket};
use edgemesh_testkit::star::packets;
use std::io::{IoSlice, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::thread;

/// Bytes of the stream each way.
const STREAM: usize = 16 << 20;
/// Datagrams that are answered one by one.
pub(crate) const DATAGRAMS: u64 = 3_000;
/// Super-packets of UDP, and datagrams of each but a last short one.
pub(crate) const BURSTS: u64 = 100;
pub(crate) const BURST: u64 = 30;
const QUERIES: usize = 1_000;
/// Connections and flows of UDP that begin and end, of each.
const FLOWS: usize = 100;

/// Echoes datagrams and streams at the endpoint, for ever; says when it begins.
pub(crate) fn serve(endpoint: SocketAddr, begins: impl FnOnce()) {
    let datagrams = UdpSocket::bind(endpoint).unwrap();
    let streams = TcpListener::bind(endpoint).unwrap();
    begins();
    thread::spawn(move || {
        let mut buffer = [0; 2_048];
        loop {
            let (len, from) = datagrams.recv_from(&mut buffer).unwrap();
            // Bursts are not answered.
            if len < 1_000 {
                datagrams.send_to(&buffer[..len], from).unwrap();
            }
        }
    });
    for stream in streams.incoming() {
        let mut stream = stream.unwrap();
        thread::spawn(move || {
            let mut buffer = vec![0; 1 << 20];
            while let Ok(len) = stream.read(&mut buffer)
                && len > 0
                && stream.write_all(&buffer[..len]).is_ok()
            {}
        });
    }
}

/// The programs of the near node, with what they have open.
pub(crate) struct Programs {
    to: SocketAddr,
    stream: TcpStream,
    datagrams: UdpSocket,
    bursts: Socket,
    resolver: UdpSocket,
}

impl Programs {
    pub(crate) fn start(to: SocketAddr, own: Ipv4Addr, resolver: SocketAddr) -> Self {
        let datagrams = connected(to);
        let asks = connected(resolver);
        let bursts = Socket::bind((own, 0).into()).unwrap();
        Self { to, stream: TcpStream::connect(to).unwrap(), datagrams, bursts, resolver: asks }
    }

    /// Everything once.
    pub(crate) fn run(&mut self) {
        self.stream_both_ways();
        for n in 0..DATAGRAMS {
            echo(&self.datagrams, &n.to_le_bytes());
        }
        self.send_bursts();
        for _ in 0..QUERIES {
            self.resolver.send(&packets::query(&packets::name(0))).unwrap();
            let mut answer = [0; 1_232];
            let len = self.resolver.recv(&mut answer).unwrap();
            let vip = packets::vip(0).octets();
            assert!(answer[..len].windows(4).any(|four| four == vip), "no answer");
        }
        for n in 0..FLOWS {
            echo(&connected(self.to), &n.to_le_bytes());
            let mut stream = TcpStream::connect(self.to).unwrap();
            stream.write_all(b"new").unwrap();
            stream.read_exact(&mut [0; 3]).unwrap();
        }
    }

    fn stream_both_ways(&self) {
        let (mut writer, mut reader) = (&self.stream, &self.stream);
        thread::scope(|scope| {
            scope.spawn(move || {
                let chunk = vec![7; 1 << 20];
                (0..STREAM / chunk.len()).for_each(|_| writer.write_all(&chunk).unwrap());
            });
            let mut buffer = vec![0; 1 << 20];
            let mut left = STREAM;
            while left > 0 {
                left -= reader.read(&mut buffer).unwrap();
            }
        });
    }

    /// Super-packets of UDP. The last datagram of each is answered, so no queue overflows.
    pub(crate) fn send_bursts(&mut self) {
        let (long, short) = ([7; 1_200], [7; 8]);
        let mut parts = vec![IoSlice::new(&long); BURST as usize];
        parts.push(IoSlice::new(&short));
        let mut poller = Poller::new().unwrap();
        poller.add(&self.bursts, Interest::Read, 0).unwrap();
        let mut buffer = vec![0; RECEIVE_BUFFER];
        for _ in 0..BURSTS {
            assert_eq!(self.bursts.send(self.to, None, &parts), parts.len());
            poller.wait(None, |_| ()).unwrap();
            while self.bursts.receive(&mut buffer).unwrap().is_some() {}
        }
    }
}

fn connected(to: SocketAddr) -> UdpSocket {
    let socket = UdpSocket::bind((IpAddr::from(Ipv4Addr::UNSPECIFIED), 0)).unwrap();
    socket.connect(to).unwrap();
    socket
}

fn echo(socket: &UdpSocket, payload: &[u8]) {
    socket.send(payload).unwrap();
    let mut answer = [0; 2_048];
    let len = socket.recv(&mut answer).unwrap();
    assert_eq!(&answer[..len], payload);
}
