//! A node made of the core's own parts: its control connection, and its sockets at the relay.

use crate::process::WAIT;
use edgemesh_core::control::{Authority, Credentials, Feed, Link, Question};
use edgemesh_core::counters::DropReason;
use edgemesh_core::noise::StaticSecret;
use edgemesh_core::rng::Rng;
use edgemesh_core::wire::control::{EntriesPart, PROOF_PART_MAX, Preamble, Revocation, ToNode};
use edgemesh_core::wire::relay::{BIND, Message, verify};
use edgemesh_host::clock;
use edgemesh_host::token::{Cluster, Token};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

/// What a node heard, owned.
#[derive(Debug, Clone)]
pub(crate) enum Heard {
    Welcome {
        index: u32,
        relay_key: [u8; 32],
        relay_epoch: u64,
        name: String,
    },
    Refused(String, String),
    Peer {
        index: u32,
        name: String,
        key: [u8; 32],
        send: u32,
        receive: u32,
    },
    NoPeer(u32),
    Feed(Vec<u8>),
    Commit(u64, [u8; 32]),
    /// A part of the entry points, and with the last one their digest.
    Entries(Vec<u8>, Option<[u8; 32]>),
    /// Fingerprint and how many there are.
    Answer(u32, u32),
    /// How many revocations there were before, and the next ones.
    Revocations(u32, Vec<Revocation>),
    /// The node's key, as the directory has it now, and the one before.
    Rekeyed([u8; 32], Option<[u8; 32]>),
}

/// A node with its control connection.
pub(crate) struct Node {
    pub(crate) secret: StaticSecret,
    pub(crate) link: Link,
    pub(crate) stream: TcpStream,
    pub(crate) rng: Rng,
    pub(crate) index: u32,
    pub(crate) relay_key: [u8; 32],
    pub(crate) relay_epoch: u64,
    proof: Vec<u8>,
}

/// A node without a secret shows a ServiceAccount token.
fn credentials(name: &str, secret: Option<[u8; 16]>, feed: Feed) -> Credentials {
    let name = heapless::String::try_from(name).unwrap();
    Credentials { name, account: secret.is_none(), secret, agent: "test 1", feed }
}

impl Node {
    /// Connects with a token and no key known to the server.
    pub(crate) fn connect(token: &Token, server: SocketAddr, seed: u8, feed: bool, sequence: u64) -> Self {
        let feed = if feed { Feed::Whole } else { Feed::None };
        let credentials = credentials(&token.node, Some(token.secret), feed);
        Self::with(credentials, token.root, server, seed, sequence)
    }

    /// Connects as a node that shows `proof` when asked for a ServiceAccount token.
    pub(crate) fn show(proof: &[u8], name: &str, cluster: &Cluster, server: SocketAddr, seed: u8) -> Self {
        let credentials = credentials(name, None, Feed::None);
        let mut node = Self::with(credentials, cluster.root, server, seed, 0);
        node.proof = proof.to_vec();
        node
    }

    fn with(credentials: Credentials, root: [u8; 32], server: SocketAddr, seed: u8, sequence: u64) -> Self {
        let authority = Authority { root, directory: [0; 32], epoch: 0 };
        Self::believing(credentials, authority, server, seed, sequence)
    }

    fn believing(
        credentials: Credentials,
        authority: Authority,
        server: SocketAddr,
        seed: u8,
        sequence: u64,
    ) -> Self {
        let secret = StaticSecret::from_bytes([seed; 32]);
        let mut link = Link::new(secret.clone(), credentials, authority);
        link.set_sequence(sequence);
        let mut stream = TcpStream::connect(server).unwrap();
        stream.set_read_timeout(Some(WAIT)).unwrap();
        stream.write_all(&Preamble::Control.bytes()).unwrap();
        link.connected(clock::now(), server);
        Self {
            secret,
            link,
            stream,
            rng: Rng::new([seed ^ 0x55; 32]),
            index: 0,
            relay_key: [0; 32],
            relay_epoch: 0,
            proof: Vec::new(),
        }
    }

    /// Connects as a node that has joined before, with whatever epoch and keys it believes.
    pub(crate) fn come_back(name: &str, authority: Authority, server: SocketAddr, seed: u8) -> Self {
        let mut credentials = credentials(name, None, Feed::None);
        credentials.account = false;
        Self::believing(credentials, authority, server, seed, 0)
    }

    /// The same, fed with Services after `sequence`.
    pub(crate) fn come_back_fed(
        name: &str,
        authority: Authority,
        server: SocketAddr,
        seed: u8,
        sequence: u64,
    ) -> Self {
        let mut credentials = credentials(name, None, Feed::Whole);
        credentials.account = false;
        Self::believing(credentials, authority, server, seed, sequence)
    }

    /// Whether the server's first words are those of an epoch that is over.
    pub(crate) fn greeting_is_refused(&mut self) -> bool {
        let mut frame = self.read().unwrap();
        self.link.frame(clock::now(), &mut frame) == Err(DropReason::OldRecord) && self.link.must_close()
    }

    /// The next message, which is a welcome.
    pub(crate) fn welcomed(mut self) -> Self {
        match self.hear() {
            Some(Heard::Welcome { index, relay_key, relay_epoch, .. }) => {
                (self.index, self.relay_key, self.relay_epoch) = (index, relay_key, relay_epoch);
                self
            }
            other => panic!("{other:?} instead of a welcome"),
        }
    }

    /// The next message, which is a refusal: why.
    pub(crate) fn refused(mut self) -> String {
        match self.hear() {
            Some(Heard::Refused(reason, _)) => reason,
            other => panic!("{other:?} instead of a refusal"),
        }
    }

    /// The next revocations.
    pub(crate) fn hear_revocations(&mut self) -> (u32, Vec<Revocation>) {
        loop {
            match self.hear() {
                Some(Heard::Revocations(after, list)) => return (after, list),
                Some(Heard::Peer { .. }) => {}
                other => panic!("{other:?} instead of revocations"),
            }
        }
    }

    /// Asks for another key.
    pub(crate) fn rekey(&mut self, key: [u8; 32]) {
        self.say(&Question::Rekey(key));
    }

    /// Says something of its own.
    pub(crate) fn say(&mut self, question: &Question<'_>) {
        let mut out = [0; 1600];
        let len = self.link.ask(question, &mut out).unwrap().unwrap();
        self.send(&out[..len]);
    }

    /// Connects and waits for the welcome.
    pub(crate) fn join(token: &Token, server: SocketAddr, seed: u8, feed: bool) -> Self {
        Self::join_from(token, server, seed, feed, 0)
    }

    /// As [`Node::join`], holding the feed up to `sequence`.
    pub(crate) fn join_from(token: &Token, server: SocketAddr, seed: u8, feed: bool, sequence: u64) -> Self {
        let mut node = Self::connect(token, server, seed, feed, sequence);
        match node.hear() {
            Some(Heard::Welcome { index, relay_key, relay_epoch, name }) => {
                assert_eq!(name, token.node);
                (node.index, node.relay_key, node.relay_epoch) = (index, relay_key, relay_epoch);
            }
            other => panic!("{other:?} instead of a welcome"),
        }
        node
    }

    /// Connects and joins as a node that asks for Services one by one.
    pub(crate) fn join_on_demand(token: &Token, server: SocketAddr, seed: u8) -> Self {
        let credentials = credentials(&token.node, Some(token.secret), Feed::OnDemand);
        let mut node = Self::with(credentials, token.root, server, seed, 0);
        assert!(matches!(node.hear(), Some(Heard::Welcome { .. })));
        node
    }

    fn flush(&mut self, mut lookup: Option<u32>) {
        let mut out = [0; 1600];
        while let Some(len) =
            self.link.poll_frame(clock::now(), &mut self.rng, &mut out, || lookup.take()).unwrap()
        {
            self.send(&out[..len]);
        }
    }

    fn send(&mut self, frame: &[u8]) {
        let mut bytes = (frame.len() as u16).to_le_bytes().to_vec();
        bytes.extend_from_slice(frame);
        // A connection that is closed shows when it is read.
        let _ = self.stream.write_all(&bytes);
    }

    fn prove(&mut self) {
        let mut out = [0; 1600];
        let proof = std::mem::take(&mut self.proof);
        let parts = proof.len().div_ceil(PROOF_PART_MAX).max(1);
        for n in 0..parts {
            let part = proof.chunks(PROOF_PART_MAX).nth(n).unwrap_or_default();
            let message = Question::Proof { part, last: n + 1 == parts };
            let len = self.link.ask(&message, &mut out).unwrap().unwrap();
            self.send(&out[..len]);
        }
    }

    /// Asks for a node, or for Services by their fingerprint.
    pub(crate) fn ask(&mut self, index: u32) {
        self.flush(Some(index));
    }

    /// Asks for the entry points, holding those with this digest.
    pub(crate) fn want_entries(&mut self, held: [u8; 32]) {
        let mut out = [0; 1600];
        let len = self.link.ask(&Question::Entries(held), &mut out).unwrap().unwrap();
        self.send(&out[..len]);
    }

    /// Only the handshake and the hello are sent; nothing is read after them.
    pub(crate) fn send_hello_and_hang_up(mut self) {
        for _ in 0..2 {
            let frame = self.read().unwrap();
            let mut frame = frame;
            let heard = self.link.frame(clock::now(), &mut frame).unwrap();
            assert!(heard.is_none());
            self.flush(None);
        }
    }

    fn read(&mut self) -> Option<Vec<u8>> {
        let mut len = [0; 2];
        self.stream.read_exact(&mut len).ok()?;
        let mut frame = vec![0; usize::from(u16::from_le_bytes(len))];
        self.stream.read_exact(&mut frame).ok()?;
        Some(frame)
    }

    /// The next message; `None` when the server has closed.
    pub(crate) fn hear(&mut self) -> Option<Heard> {
        loop {
            self.flush(None);
            let mut frame = self.read()?;
            let authority = *self.link.authority();
            let message = self.link.frame(clock::now(), &mut frame).unwrap();
            let Some(message) = message else { continue };
            if message == ToNode::Prove {
                self.prove();
                continue;
            }
            let authority = if authority.directory == [0; 32] { None } else { Some(authority) };
            return Some(match message {
                ToNode::Welcome(w) => {
                    let record = authority.unwrap().record(&w.record).unwrap();
                    let own = self.secret.public().0;
                    assert!(record.key == own || record.follows == Some(own));
                    Heard::Welcome {
                        index: record.index,
                        relay_key: w.relay_key,
                        relay_epoch: w.relay_epoch,
                        name: record.name.to_owned(),
                    }
                }
                ToNode::Refused { reason, detail } => {
                    Heard::Refused(format!("{reason:?}"), detail.to_owned())
                }
                ToNode::Peer(p) => {
                    let record = authority.unwrap().record(&p.record).unwrap();
                    Heard::Peer {
                        index: record.index,
                        name: record.name.to_owned(),
                        key: record.key,
                        send: p.send_session,
                        receive: p.receive_session,
                    }
                }
                ToNode::NoPeer { index, .. } => Heard::NoPeer(index),
                ToNode::Feed(bytes) => Heard::Feed(bytes.to_vec()),
                ToNode::FeedCommit(commit) => {
                    authority.unwrap().commit(&commit).unwrap();
                    Heard::Commit(commit.sequence, commit.digest)
                }
                ToNode::Entries(EntriesPart { part, commit }) => {
                    commit.iter().for_each(|commit| authority.unwrap().entries(commit).unwrap());
                    Heard::Entries(part.to_vec(), commit.map(|commit| commit.digest))
                }
                // Its signature was checked by the link.
                ToNode::Answer(answer) => Heard::Answer(answer.key, answer.found),
                ToNode::Revocations(r) => {
                    // Its signature too.
                    Heard::Revocations(r.after, r.numbered().map(|each| each.unwrap().1).collect())
                }
                ToNode::Rekeyed(record) => {
                    let record = authority.unwrap().record(&record).unwrap();
                    Heard::Rekeyed(record.key, record.follows)
                }
                ToNode::Pong(_) | ToNode::Prove | ToNode::Relay(_) => continue,
            });
        }
    }

    /// The record and sessions of a peer, asked for or not.
    pub(crate) fn hear_peer(&mut self) -> (u32, u32, u32) {
        match self.hear() {
            Some(Heard::Peer { index, send, receive, .. }) => (index, send, receive),
            other => panic!("{other:?} instead of a peer"),
        }
    }

    /// Binds a UDP socket at the relay.
    pub(crate) fn bind_udp(&mut self, server: SocketAddr) -> UdpSocket {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.connect(server).unwrap();
        socket.set_read_timeout(Some(WAIT)).unwrap();
        self.rebind(&socket);
        socket
    }

    /// Binds `socket` (again). Nodes repeat a bind that is not answered: a relay may not have heard of them yet.
    pub(crate) fn rebind(&mut self, socket: &UdpSocket) {
        let deadline = Instant::now() + WAIT;
        socket.set_read_timeout(Some(Duration::from_millis(250))).unwrap();
        let mut cookie = [0; 16];
        while Instant::now() < deadline {
            self.relay_epoch += 1;
            let bind = Message::Bind { index: self.index, epoch: self.relay_epoch, cookie };
            let mut datagram = [0; BIND];
            bind.emit(&self.relay_key, &mut datagram).unwrap();
            socket.send(&datagram).unwrap();
            let Ok(len) = socket.recv(&mut datagram) else { continue };
            assert!(verify(&self.relay_key, &datagram[..len]));
            match Message::parse(&datagram[..len]).unwrap() {
                Message::Challenge { cookie: new, .. } => cookie = new,
                Message::Bound { observed, epoch, .. } => {
                    assert_eq!((observed, epoch), (socket.local_addr().unwrap(), self.relay_epoch));
                    socket.set_read_timeout(Some(WAIT)).unwrap();
                    return;
                }
                other => panic!("{other:?}"),
            }
        }
        panic!("not bound");
    }

    /// Binds a TCP connection at the relay.
    pub(crate) fn bind_tcp(&mut self, server: SocketAddr) -> TcpStream {
        let mut stream = TcpStream::connect(server).unwrap();
        stream.set_read_timeout(Some(WAIT)).unwrap();
        stream.write_all(&Preamble::Relay.bytes()).unwrap();
        self.rebind_tcp(&mut stream);
        stream
    }

    /// Binds `stream` (again).
    pub(crate) fn rebind_tcp(&mut self, stream: &mut TcpStream) {
        self.relay_epoch += 1;
        let mut datagram = [0; BIND];
        let bind = Message::Bind { index: self.index, epoch: self.relay_epoch, cookie: [0; 16] };
        bind.emit(&self.relay_key, &mut datagram).unwrap();
        tcp_send(stream, &datagram);
        let answer = tcp_receive(stream).unwrap();
        assert!(matches!(Message::parse(&answer), Ok(Message::Bound { .. })));
    }
}

/// Has `a` look `b` up: the relay sessions between them, there and back, of which both are told.
pub(crate) fn meet(a: &mut Node, b: &mut Node) -> (u32, u32) {
    a.ask(b.index);
    let (_, ab, ba) = a.hear_peer();
    assert_eq!(b.hear_peer(), (a.index, ba, ab));
    (ab, ba)
}

/// The next datagram.
pub(crate) fn receive(socket: &UdpSocket) -> Vec<u8> {
    let mut buffer = [0; 2048];
    let len = socket.recv(&mut buffer).unwrap();
    buffer[..len].to_vec()
}

pub(crate) fn tcp_send(stream: &mut TcpStream, datagram: &[u8]) {
    let mut bytes = (datagram.len() as u16).to_le_bytes().to_vec();
    bytes.extend_from_slice(datagram);
    stream.write_all(&bytes).unwrap();
}

pub(crate) fn tcp_receive(stream: &mut TcpStream) -> std::io::Result<Vec<u8>> {
    let mut len = [0; 2];
    stream.read_exact(&mut len)?;
    let mut datagram = vec![0; usize::from(u16::from_le_bytes(len))];
    stream.read_exact(&mut datagram)?;
    Ok(datagram)
}

/// A tunnel datagram in its envelope.
pub(crate) fn data(session: u32, payload: &[u8]) -> Vec<u8> {
    let mut out = vec![0; payload.len() + 8];
    Message::Data { session, payload }.emit(&[0; 32], &mut out).unwrap();
    out
}
