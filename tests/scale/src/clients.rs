//! Many nodes on one server: control connections of the real protocol, without what an agent does behind them.

use edgemesh_core::control::{Authority, Credentials, Feed, Link, Message};
use edgemesh_core::noise::StaticSecret;
use edgemesh_core::rng::Rng;
use edgemesh_host::admin::{self, Address};
use edgemesh_host::clock;
use edgemesh_host::token::{self, Invitation, Token};
use edgemesh_lab::{Context, Error, Result, ensure, fail};
use serde_json::json;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::{timeout, timeout_at};

/// How many are on their way to the table at a time: what they do is done by the machine that is measured.
const JOINING: usize = 32;
/// How long all may take.
const WITHIN: Duration = Duration::from_secs(300);

/// A client has a new state of the table.
pub(crate) struct Committed {
    /// Its sequence.
    pub(crate) sequence: u64,
    /// When it was there.
    pub(crate) at: Instant,
}

/// Connected clients.
pub(crate) struct Clients {
    commits: mpsc::UnboundedReceiver<Committed>,
    /// Bytes of frames, both ways.
    bytes: Arc<AtomicU64>,
    count: usize,
    newest: u64,
}

impl Clients {
    /// Makes nodes, and connects them, [`JOINING`] at a time; returns when all have the table, and how long that took.
    ///
    /// # Errors
    /// When the server makes no tokens, or a node is turned away.
    pub(crate) async fn connect(count: usize, server: SocketAddr, state: &Path) -> Result<(Self, Duration)> {
        let socket = Address::Unix(state.join("admin.sock"));
        let mut tokens = Vec::with_capacity(count);
        for n in 0..count {
            tokens.push(make_token(&socket, &format!("client-{n}"))?);
        }
        let (committed, commits) = mpsc::unbounded_channel();
        let bytes = Arc::new(AtomicU64::new(0));
        let (began, turn) = (Instant::now(), Arc::new(Semaphore::new(JOINING)));
        for (n, token) in tokens.into_iter().enumerate() {
            let (committed, bytes, turn) = (committed.clone(), bytes.clone(), turn.clone());
            tokio::spawn(async move {
                let turn = turn.acquire_owned().await.ok();
                if let Err(error) = follow(n, &token, server, turn, &committed, &bytes).await {
                    // Who listens no more has ended the server.
                    if !committed.is_closed() {
                        eprintln!("client {n}: {error}");
                    }
                }
            });
        }
        let mut clients = Self { commits, bytes, count, newest: 0 };
        clients.all(0).await?;
        Ok((clients, began.elapsed()))
    }

    /// Waits until every client has a state after `sequence`: the moments at which they had, and the highest sequence.
    ///
    /// # Errors
    /// When that takes too long.
    pub(crate) async fn all(&mut self, sequence: u64) -> Result<(Vec<Instant>, u64)> {
        let limit = tokio::time::Instant::now() + WITHIN;
        let (mut moments, mut newest) = (Vec::with_capacity(self.count), sequence);
        while moments.len() < self.count {
            let Ok(Some(commit)) = timeout_at(limit, self.commits.recv()).await else {
                return fail(format!("{} of {} clients have the new state", moments.len(), self.count));
            };
            newest = newest.max(commit.sequence);
            if commit.sequence > sequence {
                moments.push(commit.at);
            }
        }
        self.newest = newest;
        Ok((moments, newest))
    }

    /// The newest state that any client has when nothing new came for a second.
    pub(crate) async fn settled(&mut self) -> u64 {
        let mut newest = 0;
        while let Ok(Some(commit)) = timeout(Duration::from_secs(1), self.commits.recv()).await {
            newest = newest.max(commit.sequence);
        }
        newest.max(self.newest)
    }

    /// Bytes of frames, both ways, of all clients so far.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes.load(Relaxed)
    }
}

/// A join token for `node`, as people get it, of the server with this state directory.
///
/// # Errors
/// When the server gives none.
pub(crate) fn token_text(state: &Path, node: &str) -> Result<String> {
    ask_for_token(&Address::Unix(state.join("admin.sock")), node, &[])
}

fn ask_for_token(socket: &Address, node: &str, servers: &[&str]) -> Result<String> {
    let new = json!({"node": node, "ttl": {"secs": 86_400, "nanos": 0}, "servers": servers});
    let order = json!({"Invite": {"Token": new}});
    let text =
        admin::post(socket, "/order", &serde_json::to_vec(&order).context("token")?).context("token")?;
    Ok(String::from_utf8(text).context("token")?.trim().to_owned())
}

fn make_token(socket: &Address, node: &str) -> Result<Token> {
    match token::from_argument(&ask_for_token(socket, node, &[])?).map_err(Error::new)? {
        Invitation::Token(token) => Ok(token),
        Invitation::Cluster(_) => fail("the server gave no join token"),
    }
}

async fn follow(
    n: usize,
    token: &Token,
    server: SocketAddr,
    mut turn: Option<OwnedSemaphorePermit>,
    committed: &mpsc::UnboundedSender<Committed>,
    bytes: &AtomicU64,
) -> Result {
    let mut seed = [0x5C; 32];
    // Not the first byte: a key does not use all of its bits.
    seed[8..16].copy_from_slice(&(n as u64).to_le_bytes());
    let mut rng = Rng::new(seed);
    let credentials = Credentials {
        name: heapless::String::try_from(token.node.as_str()).map_err(|_| Error::new("name"))?,
        secret: Some(token.secret),
        account: false,
        agent: "edgemesh-scale",
        feed: Feed::Whole,
    };
    let authority = Authority { root: token.root, directory: [0; 32], epoch: 0 };
    let mut link = Link::new(StaticSecret::from_bytes(seed), credentials, authority);
    let mut stream = TcpStream::connect(server).await.context("connect")?;
    stream.set_nodelay(true).context("nodelay")?;
    stream.write_all(&Link::preamble()).await.context("preamble")?;
    link.connected(clock::now(), server);
    let (mut inbox, mut buffer, mut out) = (Vec::new(), vec![0; 4_096], [0; 1_600]);
    loop {
        while let Some(len) = link.poll_frame(clock::now(), &mut rng, &mut out, || None).map_err(name)? {
            let mut frame = u16::try_from(len).context("frame")?.to_le_bytes().to_vec();
            frame.extend_from_slice(&out[..len]);
            bytes.fetch_add(frame.len() as u64, Relaxed);
            stream.write_all(&frame).await.context("write")?;
        }
        let due = link.poll_timeout().map(|at| at.since(clock::now()).as_micros());
        let until = tokio::time::Instant::now() + Duration::from_micros(due.unwrap_or(60_000_000));
        match timeout_at(until, stream.read(&mut buffer)).await {
            Err(_) => link.handle_timeout(clock::now()),
            Ok(read) => {
                let len = read.context("read")?;
                ensure!(len > 0, "the server has closed the connection");
                bytes.fetch_add(len as u64, Relaxed);
                inbox.extend_from_slice(&buffer[..len]);
            }
        }
        while let Some((head, rest)) = inbox.split_first_chunk::<2>() {
            let len = usize::from(u16::from_le_bytes(*head));
            if rest.len() < len {
                break;
            }
            let mut frame = rest[..len].to_vec();
            inbox.drain(..len + 2);
            match link.frame(clock::now(), &mut frame).map_err(name)? {
                Some(Message::FeedCommit(commit)) => {
                    drop(turn.take());
                    let _ = committed.send(Committed { sequence: commit.sequence, at: Instant::now() });
                }
                Some(Message::Refused { detail, .. }) => return fail(detail),
                _ => {}
            }
        }
    }
}

fn name(reason: edgemesh_core::counters::DropReason) -> Error {
    Error::new(reason.name())
}
