//! A server that lies: between a node and its server, with the server's key for connections, but not the one that signs.
//!
//! Both ends have a good Noise connection to it; what the server says it passes on as its orders say, which are a
//! word in a file, looked at for each message. Connections that carry relayed datagrams pass as they are.

use std::fs;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use edgemesh_core::noise::ik::{Initiator, Responder, Transport};
use edgemesh_core::noise::{PublicKey, StaticSecret};
use edgemesh_core::rng::Rng;
use edgemesh_core::wire::control::{FRAME_MAX, Greeting, PLAINTEXT_MAX, PROLOGUE, Preamble, ToNode, updates};
use edgemesh_core::wire::feed::{EndpointDef, PortDef, Protocol, ServiceDef, ServiceKind, Update};

use crate::{Context, Result, fail};

/// Where forged endpoints are.
const FORGED: [u8; 4] = [198, 51, 100, 66];
/// Where the key for connections is in the server's file: behind version, root's and directory's.
const NOISE_KEY: core::ops::Range<usize> = 65..97;

/// What is known in the middle.
struct Middle {
    server: String,
    noise: StaticSecret,
    identity: PathBuf,
    orders: PathBuf,
    /// The first list of entry points that passed.
    recorded: Mutex<Vec<u8>>,
}

/// Serves until killed.
pub(super) fn serve(port: u16, server: &str, [keys, identity, orders]: [&Path; 3]) -> Result {
    let keys = fs::read(keys).context(keys.display())?;
    let noise = keys.get(NOISE_KEY).and_then(|key| key.try_into().ok()).context("the server's keys")?;
    let middle = Arc::new(Middle {
        server: server.to_owned(),
        noise: StaticSecret::from_bytes(noise),
        identity: identity.to_owned(),
        orders: orders.to_owned(),
        recorded: Mutex::default(),
    });
    let listener = TcpListener::bind(("0.0.0.0", port)).context("listen")?;
    println!("ready");
    for node in listener.incoming() {
        let (node, middle) = (node.context("accept")?, middle.clone());
        std::thread::spawn(move || {
            if let Err(error) = middle.connection(node) {
                println!("a connection ended: {error}");
            }
        });
    }
    Ok(())
}

impl Middle {
    fn connection(&self, mut node: TcpStream) -> Result {
        let mut preamble = [0; 4];
        node.read_exact(&mut preamble).context("preamble")?;
        let mut server = TcpStream::connect(&self.server).context(&self.server)?;
        server.write_all(&preamble).context("preamble")?;
        if Preamble::parse(preamble) != Ok(Preamble::Control) {
            return both(|from, to| drop(std::io::copy(&mut &*from, &mut &*to)), &node, &server);
        }
        let [with_node, with_server] = self.shake_hands(&node, &server)?;
        let (with_node, with_server) = (Mutex::new(with_node), Mutex::new(with_server));
        let ends = [(&node, &with_node), (&server, &with_server)];
        std::thread::scope(|scope| {
            for (from, to, down) in [(ends[0], ends[1], false), (ends[1], ends[0], true)] {
                scope.spawn(move || {
                    if let Err(error) = self.pass(from, to, down) {
                        println!("{}: {error}", if down { "down" } else { "up" });
                    }
                    let _ = (from.0.shutdown(Shutdown::Both), to.0.shutdown(Shutdown::Both));
                });
            }
        });
        Ok(())
    }

    /// As the server towards the node, and as the node towards the server.
    fn shake_hands(&self, node: &TcpStream, server: &TcpStream) -> Result<[Transport; 2]> {
        let greeting = read_frame(server)?;
        write_frame(node, &greeting)?;
        let said: Greeting<'_> = postcard::from_bytes(&greeting).context("greeting")?;
        let mut seed = [0; 32];
        fs::File::open("/dev/urandom").and_then(|mut file| file.read_exact(&mut seed)).context("seed")?;
        let mut rng = Rng::new(seed);
        let named = |reason: edgemesh_core::counters::DropReason| reason.name();
        let mut message = read_frame(node)?;
        let responder = Responder::new(self.noise.clone(), PROLOGUE);
        let (answer, _) = responder.read_message1(&mut message).map_err(named).context("message 1")?;
        let mut out = [0; 96];
        let (with_node, len) =
            answer.write_message2(&[], &mut out, &mut rng).map_err(named).context("answer")?;
        write_frame(node, out.get(..len).unwrap_or_default())?;
        // The node has made its key by now.
        let key = fs::read(&self.identity).context(self.identity.display())?;
        let key = StaticSecret::from_bytes(key.as_slice().try_into().context("the node's key")?);
        let initiator = Initiator::new(key, PublicKey(said.noise_key), PROLOGUE, &mut rng);
        let mut out = [0; FRAME_MAX];
        let (pending, len) = initiator.write_message1(&[], &mut out).map_err(named).context("message 1")?;
        write_frame(server, out.get(..len).unwrap_or_default())?;
        let mut answer = read_frame(server)?;
        let (with_server, _) = pending.read_message2(&mut answer).map_err(named).context("message 2")?;
        Ok([with_node, with_server])
    }

    /// Passes messages on; those of the server (`down`) as ordered.
    fn pass(&self, from: End<'_>, to: End<'_>, down: bool) -> Result {
        loop {
            let mut frame = read_frame(from.0)?;
            let text =
                lock(from.1).open(&mut frame).map_err(|reason| reason.name()).context("open")?.to_vec();
            let passed = if down { self.altered(text)? } else { Some(text) };
            if let Some(mut text) = passed {
                let len = text.len();
                text.resize(FRAME_MAX, 0);
                let sealed =
                    lock(to.1).seal(&mut text, len).map_err(|reason| reason.name()).context("seal")?;
                write_frame(to.0, text.get(..sealed).unwrap_or_default())?;
            }
        }
    }

    /// What the node is to hear instead, if anything.
    fn altered(&self, text: Vec<u8>) -> Result<Option<Vec<u8>>> {
        let orders = fs::read_to_string(&self.orders).context(self.orders.display())?;
        let message = ToNode::decode(&text).map_err(|reason| reason.name()).context("a message")?;
        Ok(match (orders.trim(), message) {
            ("change", Some(ToNode::Feed(body))) => Some(moved(body)?),
            ("add", Some(ToNode::Feed(body))) => Some(with_another(body)?),
            ("suppress", Some(ToNode::Feed(_)))
            | ("unsigned", Some(ToNode::FeedCommit(_)))
            | ("silence", Some(ToNode::Feed(_) | ToNode::FeedCommit(_))) => None,
            ("replay", Some(ToNode::Entries(_))) => Some(lock(&self.recorded).clone()),
            (_, Some(ToNode::Entries(part))) => {
                let mut recorded = lock(&self.recorded);
                if recorded.is_empty() && part.commit.is_some() && !part.part.is_empty() {
                    recorded.clone_from(&text);
                }
                Some(text)
            }
            _ => Some(text),
        })
    }
}

/// A connection and its keys.
type End<'a> = (&'a TcpStream, &'a Mutex<Transport>);

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn both(copy: impl Fn(&TcpStream, &TcpStream) + Sync, node: &TcpStream, server: &TcpStream) -> Result {
    std::thread::scope(|scope| {
        for (from, to) in [(node, server), (server, node)] {
            let copy = &copy;
            scope.spawn(move || {
                copy(from, to);
                let _ = (from.shutdown(Shutdown::Both), to.shutdown(Shutdown::Both));
            });
        }
    });
    Ok(())
}

/// The updates, with every endpoint somewhere else.
fn moved(body: &[u8]) -> Result<Vec<u8>> {
    let mut out = Vec::new();
    for update in updates(body) {
        let update = match update.map_err(|reason| reason.name()).context("an update")? {
            Update::Endpoint(endpoint) => {
                Update::Endpoint(EndpointDef { address: FORGED.into(), ..endpoint })
            }
            other => other,
        };
        out.extend(postcard::to_allocvec(&update).context("an update")?);
    }
    feed(&out)
}

/// The updates, and a Service that nobody made.
fn with_another(body: &[u8]) -> Result<Vec<u8>> {
    let vip = heapless::Vec::from_iter([[10, 96, 0, 66].into()]);
    let kind = ServiceKind::ClusterIp(vip);
    let head = ServiceDef { namespace: "default", name: "forged", kind, affinity_secs: 0, flags: 0 };
    let port = PortDef { name: "http", protocol: Protocol::Tcp, port: 80 };
    let mut out = body.to_vec();
    for update in
        [Update::Service(head), Update::Port(port), Update::Targets(&80_u16.to_le_bytes()), Update::Commit]
    {
        out.extend(postcard::to_allocvec(&update).context("an update")?);
    }
    feed(&out)
}

fn feed(body: &[u8]) -> Result<Vec<u8>> {
    let mut out = vec![0; PLAINTEXT_MAX];
    let len = ToNode::Feed(body).encode(&mut out).map_err(|reason| reason.name()).context("a message")?;
    out.truncate(len);
    Ok(out)
}

fn read_frame(mut from: &TcpStream) -> Result<Vec<u8>> {
    let mut len = [0; 2];
    from.read_exact(&mut len).context("length")?;
    let len = usize::from(u16::from_le_bytes(len));
    if len > FRAME_MAX {
        return fail(format!("a frame of {len} bytes"));
    }
    let mut frame = vec![0; len];
    from.read_exact(&mut frame).context("frame")?;
    Ok(frame)
}

fn write_frame(mut to: &TcpStream, frame: &[u8]) -> Result {
    let len = u16::try_from(frame.len()).context("length")?;
    to.write_all(&[&len.to_le_bytes()[..], frame].concat()).context("frame")
}
