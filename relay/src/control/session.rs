//! One control connection: handshake, admission, then messages, pushes and the feed.
//!
//! Answers and pushes go before feed frames, and the feed goes one frame at a time, so a node that receives ten
//! thousand Services still gets the record it asks for. A node that says nothing for a minute is gone.

use super::demand::Interest;
use super::frames::{self, Reader};
use super::hub::{Entered, Origin};
use super::lookups::{introduce, lookup, rekey};
use super::revocations::Told;
use super::{Shared, account};
use crate::accept::HANDSHAKE_WITHIN;
use crate::counters::Loss;
use crate::entries::Follower;
use crate::feed::{Cursor, Version};
use crate::relays;
use edgemesh_core::noise::ik::{Responder, Transport};
use edgemesh_core::wire::control::{
    FEATURE_ACCOUNT, FEATURE_ON_DEMAND, FRAME_MAX, Held, PLAINTEXT_MAX, PROLOGUE, Refusal, SignedRecord,
    ToNode, ToServer, Welcome,
};
use edgemesh_core::wire::feed::Home;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::net::tcp::OwnedWriteHalf;
use tokio::sync::{OwnedSemaphorePermit, watch};
use tokio::time::timeout;

/// Nodes ping every 15 to 20 s.
const SILENT_MAX: Duration = Duration::from_secs(60);

/// Serves a connection from after its preamble to its end.
pub(super) async fn serve(
    shared: &Shared,
    stream: TcpStream,
    origin: Origin,
    handshake: OwnedSemaphorePermit,
) -> io::Result<()> {
    let (read, write) = stream.into_split();
    let mut reader = Reader::new(read);
    let mut sender = Sender { write, transport: None, index: 0, key: [0; 32], is_relay: false };
    let admission = admit(shared, &mut reader, &mut sender, origin);
    let admitted = match timeout(HANDSHAKE_WITHIN, admission).await {
        Ok(result) => result.inspect_err(|_| shared.counters.count(Loss::Tcp, 1))?,
        Err(_) => {
            shared.counters.count(Loss::Timeout, 1);
            return Err(io::ErrorKind::TimedOut.into());
        }
    };
    drop(handshake);
    let Some(admitted) = admitted else { return Ok(()) };
    let index = sender.index;
    let ended = Session { shared, reader, sender, admitted }.run().await;
    ended.inspect_err(|error| tracing::debug!(index, %error, "control connection ended"))
}

/// The sending side, encrypted once the handshake is done.
pub(crate) struct Sender {
    write: OwnedWriteHalf,
    transport: Option<Transport>,
    /// The node's index once it is admitted.
    pub(super) index: u32,
    /// The key that it has shown.
    pub(super) key: [u8; 32],
    /// It is a server without a directory.
    is_relay: bool,
}

impl Sender {
    pub(crate) async fn message(&mut self, message: &ToNode<'_>) -> io::Result<()> {
        let mut out = [0; PLAINTEXT_MAX];
        let len = message.encode(&mut out).map_err(|_| io::ErrorKind::InvalidInput)?;
        self.plaintext(out.get(..len).unwrap_or_default()).await
    }

    async fn plaintext(&mut self, plaintext: &[u8]) -> io::Result<()> {
        let mut frame = [0; FRAME_MAX];
        frame.get_mut(..plaintext.len()).ok_or(io::ErrorKind::InvalidInput)?.copy_from_slice(plaintext);
        let transport = self.transport.as_mut().ok_or(io::ErrorKind::NotConnected)?;
        let len = transport.seal(&mut frame, plaintext.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
        frames::write(&mut self.write, frame.get(..len).unwrap_or_default()).await
    }

    pub(super) fn open<'f>(&mut self, frame: &'f mut [u8]) -> io::Result<Option<ToServer<'f>>> {
        let transport = self.transport.as_mut().ok_or(io::ErrorKind::NotConnected)?;
        let text = transport.open(frame).map_err(|_| io::ErrorKind::InvalidData)?;
        ToServer::decode(text).map_err(|_| io::ErrorKind::InvalidData.into())
    }
}

/// What the node's hello asked for.
struct Admitted {
    name: String,
    entered: Entered,
    feed: Option<watch::Receiver<Option<Arc<Version>>>>,
    /// The state of the feed that the node has: as it says, later as it was sent.
    held: Option<u64>,
    /// Where it was told that it is.
    home: Option<Home>,
    /// It asked for the entry points.
    entries: Option<Follower>,
    /// What it asked for, when it is fed on demand.
    interest: Option<Interest>,
    /// It asked for revocations.
    told: Option<Told>,
}

/// Handshake and hello. `None` when the node was turned away.
async fn admit(
    shared: &Shared,
    reader: &mut Reader,
    sender: &mut Sender,
    origin: Origin,
) -> io::Result<Option<Admitted>> {
    let peer = origin.peer;
    let (greeting, noise) = {
        let directory = shared.directory();
        (directory.keys.greeting(directory.epoch()), directory.keys.noise())
    };
    frames::write(&mut sender.write, &greeting).await?;
    let refused = |_| io::Error::from(io::ErrorKind::InvalidData);
    let mut message2 = [0; 96];
    let (key, len) = {
        let message1 = reader.next().await?;
        let (answer, _) = Responder::new(noise, PROLOGUE).read_message1(message1).map_err(refused)?;
        let key = answer.initiator().0;
        let (transport, len) =
            answer.write_message2(&[], &mut message2, &mut shared.rng()).map_err(refused)?;
        sender.transport = Some(transport);
        (key, len)
    };
    frames::write(&mut sender.write, message2.get(..len).unwrap_or_default()).await?;
    let frame = reader.next().await?;
    let hello = match sender.open(frame)? {
        Some(ToServer::Hello(hello)) => hello,
        None => {
            let detail = "this server does not understand the node's version";
            refuse(shared, sender, "", peer, Refusal::Version, detail).await?;
            return Ok(None);
        }
        Some(_) => return Err(io::ErrorKind::InvalidData.into()),
    };
    let now = edgemesh_host::clock::wall().secs;
    let (name, agent) = (hello.name.to_owned(), hello.agent.to_owned());
    let (wants_feed, sequence, features) = (hello.feed, hello.sequence, hello.features);
    let mut result = shared.directory().admit(&name, key, hello.secret, now);
    let unknown = hello.secret.is_empty() && matches!(result, Ok(Err((Refusal::NotEnrolled, _))));
    if unknown && features & FEATURE_ACCOUNT != 0 {
        result = match account::vouched(shared, reader, sender, &name).await? {
            Ok(()) => shared.directory().admit_vouched(&name, key, now),
            Err(refused) => Ok(Err(refused)),
        };
    }
    let admission = match result {
        Ok(Ok(admission)) => admission,
        Ok(Err((reason, detail))) => {
            refuse(shared, sender, &name, peer, reason, &detail).await?;
            return Ok(None);
        }
        Err(error) => {
            tracing::error!(%error, node = name, "cannot enrol");
            return Ok(None); // the node tries again
        }
    };
    if admission.enrolled {
        shared.counters.enrolled.fetch_add(1, Relaxed);
        shared.switch.unbind(admission.index);
        shared.feed.nodes_changed();
        shared.list_changed();
        tracing::info!(node = name, index = admission.index, %peer, "node enrolled");
    }
    (sender.index, sender.key, sender.is_relay) = (admission.index, key, name.starts_with(relays::PREFIX));
    // Entered first: whoever is revoked from here on is found.
    let entered = shared.hub.enter(admission.index, origin, &agent, sender.is_relay);
    relays::attached(shared, admission.index, origin.via);
    if let Err(error) = welcome(shared, sender, origin, now).await {
        shared.hub.leave(admission.index, entered.id);
        return Err(error);
    }
    tracing::info!(node = name, index = admission.index, %peer, agent, "node connected");
    let on_demand = !wants_feed && features & FEATURE_ON_DEMAND != 0;
    let interest = on_demand.then(|| Interest::new(admission.index));
    let mut feed = (wants_feed || on_demand).then(|| shared.feed.subscribe());
    feed.iter_mut().for_each(watch::Receiver::mark_changed);
    let (held, home, entries, told) = (Some(sequence), None, None, None);
    Ok(Some(Admitted { name, entered, feed, held, home, entries, interest, told }))
}

async fn refuse(
    shared: &Shared,
    sender: &mut Sender,
    node: &str,
    peer: SocketAddr,
    reason: Refusal,
    detail: &str,
) -> io::Result<()> {
    if let Some(counter) = shared.counters.refused.get(reason as usize) {
        counter.fetch_add(1, Relaxed);
    }
    tracing::warn!(node, %peer, ?reason, detail, "node refused");
    sender.message(&ToNode::Refused { reason, detail }).await
}

async fn welcome(shared: &Shared, sender: &mut Sender, origin: Origin, now: u64) -> io::Result<()> {
    let gone = || io::Error::from(io::ErrorKind::NotFound);
    let (record, signature, relay_key, settings) = {
        let directory = shared.directory();
        let (record, signature) = directory.record(sender.index).ok_or_else(gone)?;
        let relay_key = directory.relay_key(sender.index).ok_or_else(gone)?;
        (record, signature, relay_key, directory.settings().cloned().ok_or_else(gone)?)
    };
    let welcome = Welcome {
        record: SignedRecord { record: &record, signature: &signature },
        network: settings.network,
        domain: &settings.domain,
        relay_key: relays::key_by(relay_key, origin.via),
        relay_epoch: shared.switch.epoch(sender.index),
        unix_secs: now,
        observed: origin.peer,
        features: 0,
    };
    sender.message(&ToNode::Welcome(welcome)).await?;
    if sender.is_relay { relays::tell_all(shared, sender, sender.index).await } else { Ok(()) }
}

/// An admitted node's connection.
struct Session<'s> {
    shared: &'s Shared,
    reader: Reader,
    sender: Sender,
    admitted: Admitted,
}

/// What there is to do next.
enum Turn {
    Answered,
    Push(Option<Vec<u8>>),
    Newer,
    FeedFrame,
    Entries,
    Revocations,
}

impl Session<'_> {
    async fn run(mut self) -> io::Result<()> {
        let end = self.admitted.entered.end.clone();
        // Also in the middle of a frame that the node does not take.
        let ended = tokio::select! {
            biased;
            () = end.notified() => Ok(()),
            ended = self.turns() => ended,
        };
        self.shared.hub.leave(self.sender.index, self.admitted.entered.id);
        tracing::info!(index = self.sender.index, "node disconnected");
        ended
    }

    async fn turns(&mut self) -> io::Result<()> {
        let mut cursor: Option<Cursor> = None;
        let mut heard = tokio::time::Instant::now();
        loop {
            let turn = tokio::select! {
                biased;
                push = self.admitted.entered.pushes.recv() => Turn::Push(push),
                () = revocations(self.admitted.told.as_mut()) => Turn::Revocations,
                frame = self.reader.next() => {
                    heard = tokio::time::Instant::now();
                    let interest = self.admitted.interest.as_mut();
                    match answer(self.shared, &mut self.sender, interest, frame?).await? {
                        Some(Follow::Entries(held)) => {
                            self.admitted.entries = Some(Follower::new(self.shared.feed.entries(), held));
                        }
                        Some(Follow::Revocations(held)) => {
                            self.admitted.told = Some(Told::new(self.shared, &self.admitted.name, held));
                        }
                        None => {}
                    }
                    if cursor.is_none() {
                        cursor = self.asked();
                    }
                    Turn::Answered
                }
                () = tokio::time::sleep_until(heard + SILENT_MAX) => return Err(io::ErrorKind::TimedOut.into()),
                () = newer(self.admitted.feed.as_mut()), if cursor.is_none() => Turn::Newer,
                () = std::future::ready(()), if cursor.is_some() => Turn::FeedFrame,
                () = entries(self.admitted.entries.as_mut()) => Turn::Entries,
            };
            match turn {
                Turn::Answered => {}
                Turn::Push(Some(message)) => self.sender.plaintext(&message).await?,
                Turn::Push(None) => return Ok(()),
                Turn::Newer => cursor = self.newest(),
                Turn::FeedFrame => self.feed_frame(&mut cursor).await?,
                Turn::Entries => self.entries_frame().await?,
                Turn::Revocations => {
                    if let Some(told) = &mut self.admitted.told {
                        told.tell(self.shared, &mut self.sender).await?;
                    }
                }
            }
        }
    }

    /// The next answer to what the node asked.
    fn asked(&mut self) -> Option<Cursor> {
        let interest = self.admitted.interest.as_mut().filter(|interest| interest.is_due())?;
        let home = self.shared.feed.newest()?.home(&self.admitted.name);
        let before = self.admitted.home.replace(home);
        if before.is_some_and(|before| before != home) {
            interest.tell_again();
        }
        interest.next(self.shared, (before != Some(home)).then_some(home))
    }

    /// The way to the newest state of the feed.
    fn newest(&mut self) -> Option<Cursor> {
        if let Some(interest) = &mut self.admitted.interest {
            interest.look_again();
            return self.asked();
        }
        let feed = &self.shared.feed;
        let home = feed.newest()?.home(&self.admitted.name);
        let held = self.admitted.held.take();
        let before = self.admitted.home.replace(home);
        // Elsewhere hints and domains mean something else: everything is to be heard again.
        let held = held.filter(|_| before.is_none_or(|before| before == home));
        let (version, way) = feed.way(held)?;
        Some(Cursor::new(version, way, (before != Some(home)).then_some(home)))
    }

    async fn entries_frame(&mut self) -> io::Result<()> {
        let mut out = [0; PLAINTEXT_MAX];
        match self.admitted.entries.as_mut().and_then(|follower| follower.next(&mut out)) {
            Some(len) => {
                self.shared.counters.feed_bytes.fetch_add(len as u64, Relaxed);
                self.sender.plaintext(out.get(..len).unwrap_or_default()).await
            }
            None => Ok(()),
        }
    }

    async fn feed_frame(&mut self, cursor: &mut Option<Cursor>) -> io::Result<()> {
        let Some(open) = cursor else { return Ok(()) };
        let mut out = [0; PLAINTEXT_MAX];
        match open.next(&mut out) {
            Some(len) => {
                self.shared.counters.feed_bytes.fetch_add(len as u64, Relaxed);
                self.sender.plaintext(out.get(..len).unwrap_or_default()).await
            }
            None => {
                self.admitted.held = Some(open.version().sequence);
                *cursor = self.asked();
                Ok(())
            }
        }
    }
}

/// Waits until there is a list of entry points to send; for ever when the node wants none.
async fn entries(follower: Option<&mut Follower>) {
    match follower {
        Some(follower) => follower.due().await,
        None => std::future::pending().await,
    }
}

/// Waits until there is a newer version; for ever when the node wants no feed.
async fn newer(feed: Option<&mut watch::Receiver<Option<Arc<Version>>>>) {
    match feed {
        Some(feed) => {
            if feed.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
        None => std::future::pending().await,
    }
}

/// Waits until there are revocations to be told; for ever when the node did not ask.
async fn revocations(told: Option<&mut Told>) {
    match told {
        Some(told) => told.due().await,
        None => std::future::pending().await,
    }
}

/// What a node wants to hear of from here on, and how much of it it has.
enum Follow {
    Entries([u8; 32]),
    Revocations(Held),
}

/// Answers a message.
async fn answer(
    shared: &Shared,
    sender: &mut Sender,
    interest: Option<&mut Interest>,
    frame: &mut [u8],
) -> io::Result<Option<Follow>> {
    match (sender.open(frame)?, interest) {
        (Some(ToServer::Want(key)), Some(interest)) => interest.want(key),
        (Some(ToServer::Forget(key)), Some(interest)) => interest.forget(key, sender.index),
        (Some(ToServer::Ping(number)), _) => sender.message(&ToNode::Pong(number)).await?,
        (Some(ToServer::LookupIndex(index)), _) => lookup(shared, sender, Some(index), index, "").await?,
        (Some(ToServer::LookupName(name)), _) => {
            let index = shared.directory().index_of(name);
            lookup(shared, sender, index, 0, name).await?;
        }
        (Some(ToServer::Rekey(key)), _) => rekey(shared, sender, key).await?,
        (Some(ToServer::Entries(held)), _) => return Ok(Some(Follow::Entries(held))),
        (Some(ToServer::Revocations(held)), _) => return Ok(Some(Follow::Revocations(held))),
        (Some(ToServer::Relay(body)), _) if sender.is_relay => {
            relays::heard(shared, sender.index, body).into_iter().for_each(|met| introduce(shared, met));
        }
        // A second hello, a late proof, questions of a node that is fed the whole table and words of a relay that is
        // none have nothing to add; kinds of the future are skipped.
        (Some(ToServer::Hello(_) | ToServer::Proof { .. } | ToServer::Want(_)), _)
        | (Some(ToServer::Forget(_) | ToServer::Relay(_)) | None, _) => {}
    }
    Ok(None)
}
