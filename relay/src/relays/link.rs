//! The link to the directory's server: a control connection as nodes have one, over which it says which nodes came by this
//! relay, and hears who is bound here.
//!
//! Life cycle: servers are tried in order, for ever, with a growing pause. While there is no connection the relay goes
//! on with what it knows. With a new one both tell each other everything; the relay does so once more when its nodes
//! have had time to come back, and is told of those that went elsewhere meanwhile.

use super::state::State;
use super::{ToDirectory, ToRelay};
use crate::control::frames::{self, Reader};
use crate::forward::{Membership, Met, News, Switch};
use edgemesh_core::control::{Credentials, Feed, Link, Message, Question};
use edgemesh_core::rng::Rng;
use edgemesh_core::wire::control::{FRAME_MAX, Preamble};
use edgemesh_host::{clock, tcp};
use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::net::tcp::OwnedWriteHalf;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

const FIRST_PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);
/// By then nodes that lost their connections have others.
const NODES_BACK: Duration = Duration::from_secs(30);

/// Keys of the binds of the nodes that came by this relay.
#[derive(Default)]
pub(super) struct Keys(Mutex<HashMap<u32, [u8; 32]>>);

impl Keys {
    fn all(&self) -> MutexGuard<'_, HashMap<u32, [u8; 32]>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn get(&self, index: u32) -> Option<[u8; 32]> {
        self.all().get(&index).copied()
    }
}

/// The running link.
pub(super) struct Upward {
    pub(super) state: State,
    pub(super) switch: Arc<Switch>,
    pub(super) keys: Arc<Keys>,
    /// What the directory's server is to hear.
    pub(super) news: mpsc::Receiver<News>,
    /// How this relay is a member while the connection stands.
    pub(super) membership: watch::Sender<Option<Membership>>,
    pub(super) rng: Rng,
    /// When the directory's server is told once more who is bound here.
    pub(super) report_again: Option<Instant>,
}

impl Upward {
    /// Keeps the connection, for ever.
    pub(super) async fn run(mut self) {
        let credentials = Credentials {
            name: self.state.name().try_into().unwrap_or_default(),
            secret: self.state.secret(),
            account: false,
            agent: concat!("edgemesh-server ", env!("CARGO_PKG_VERSION")),
            feed: Feed::None,
        };
        let mut link = Link::new(self.state.identity(), credentials, self.state.authority());
        let servers = self.state.servers().to_vec();
        let mut pause = FIRST_PAUSE;
        for server in servers.iter().cycle() {
            match tcp::connect_server(server, Preamble::Control).await {
                Ok((stream, address)) => {
                    let started = Instant::now();
                    let error = self.exchange(&mut link, stream, address).await;
                    link.disconnected();
                    self.membership.send_replace(None);
                    tracing::warn!(%server, %error, "connection to the directory's server ended");
                    if started.elapsed() > LONGEST_PAUSE {
                        pause = FIRST_PAUSE;
                    }
                }
                Err(error) => tracing::warn!(%server, %error, "cannot reach the directory's server"),
            }
            tokio::time::sleep(pause.mul_f64(0.5 + f64::from(self.rng.below(500)) / 1_000.0)).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    /// Serves a connection until it fails.
    async fn exchange(&mut self, link: &mut Link, stream: TcpStream, server: SocketAddr) -> io::Error {
        let (read, write) = stream.into_split();
        let (mut reader, mut write) = (Reader::new(read), write);
        link.connected(clock::now(), server);
        loop {
            if let Err(error) = self.turn(link, &mut reader, &mut write).await {
                return error;
            }
        }
    }

    async fn turn(
        &mut self,
        link: &mut Link,
        reader: &mut Reader,
        write: &mut OwnedWriteHalf,
    ) -> io::Result<()> {
        self.say(link, write).await?;
        let due = link.poll_timeout().map(|at| Duration::from_micros(at.since(clock::now()).as_micros()));
        let again = self.report_again;
        tokio::select! {
            frame = reader.next() => {
                for answer in self.frame(link, frame?)? {
                    self.tell(link, write, &answer).await?;
                }
            }
            () = tokio::time::sleep(due.unwrap_or(LONGEST_PAUSE)) => link.handle_timeout(clock::now()),
            () = tokio::time::sleep_until(again.unwrap_or_else(Instant::now)), if again.is_some() => {
                self.report_again = None;
                for bound in self.bound() {
                    self.tell(link, write, &bound).await?;
                }
            }
            Some(news) = self.news.recv() => {
                if let Some(message) = message(news) {
                    self.tell(link, write, &message).await?;
                }
            }
        }
        Ok(())
    }

    /// Who is bound here.
    fn bound(&self) -> Vec<ToDirectory> {
        self.switch.bound().into_iter().map(|(index, epoch)| ToDirectory::Bound { index, epoch }).collect()
    }

    /// Writes what the link has to say.
    async fn say(&mut self, link: &mut Link, write: &mut OwnedWriteHalf) -> io::Result<()> {
        let mut out = [0; FRAME_MAX];
        while let Some(len) =
            link.poll_frame(clock::now(), &mut self.rng, &mut out, || None).map_err(io::Error::other)?
        {
            frames::write(write, out.get(..len).unwrap_or_default()).await?;
        }
        if link.must_close() {
            return Err(io::Error::other(
                "the directory's server breaks the protocol, is silent, or refuses this relay",
            ));
        }
        Ok(())
    }

    /// Says something of a node; nothing while this relay is not accepted: who is bound is said then.
    async fn tell(
        &self,
        link: &mut Link,
        write: &mut OwnedWriteHalf,
        message: &ToDirectory,
    ) -> io::Result<()> {
        let body = postcard::to_allocvec(message).map_err(io::Error::other)?;
        let mut out = [0; FRAME_MAX];
        match link.ask(&Question::Relay(&body), &mut out).map_err(io::Error::other)? {
            Some(len) => frames::write(write, out.get(..len).unwrap_or_default()).await,
            None => Ok(()),
        }
    }

    /// Takes a frame; what is to be said to it.
    fn frame(&mut self, link: &mut Link, frame: &mut [u8]) -> io::Result<Vec<ToDirectory>> {
        match link.frame(clock::now(), frame).map_err(io::Error::other)? {
            Some(Message::Welcome(welcome)) => {
                let (key, epoch) = (welcome.relay_key, welcome.relay_epoch);
                let authority = *link.authority();
                let index = authority.record(&welcome.record).map_err(io::Error::other)?.index;
                self.state.joined(&authority).map_err(io::Error::other)?;
                let server = link.server().ok_or(io::ErrorKind::NotConnected)?;
                tracing::info!(%server, index, "member of the directory");
                self.membership.send_replace(Some(Membership { server, index, key, epoch }));
                self.report_again = Some(Instant::now() + NODES_BACK);
                Ok(self.bound())
            }
            Some(Message::Refused { reason, detail }) => {
                Err(io::Error::other(format!("this relay is refused ({reason:?}): {detail}")))
            }
            Some(Message::Relay(body)) => Ok(self.told(body).into_iter().collect()),
            Some(Message::Revocations(all)) => {
                for (number, revocation) in all.numbered().map_while(Result::ok) {
                    if link.take_revocation(number) {
                        self.forget(revocation.index);
                    }
                }
                Ok(Vec::new())
            }
            _ => Ok(Vec::new()),
        }
    }

    fn told(&self, body: &[u8]) -> Option<ToDirectory> {
        match postcard::from_bytes(body) {
            Ok(ToRelay::Node { index, key }) => {
                self.keys.all().insert(index, key);
                let is_bound = self.switch.binding(index).is_some();
                return is_bound.then(|| ToDirectory::Bound { index, epoch: self.switch.epoch(index) });
            }
            Ok(ToRelay::Session { session, from, to }) => self.switch.enter(session, from, to),
            Ok(ToRelay::Gone { index }) => self.forget(index),
            // Of the future.
            Err(_) => {}
        }
        None
    }

    /// The node is elsewhere, or no member any more.
    fn forget(&self, index: u32) {
        self.keys.all().remove(&index);
        self.switch.unbind(index);
    }
}

fn message(news: News) -> Option<ToDirectory> {
    match news {
        News::Met(Met { from, to }) => Some(ToDirectory::Met { from, to }),
        News::Bound { index, epoch } => Some(ToDirectory::Bound { index, epoch }),
        News::Unbound { index } => Some(ToDirectory::Unbound { index }),
        // No relay has relays of its own.
        News::Left { .. } => None,
    }
}
