//! The data thread: one loop over TUN, UDP sockets, commands and the engine's deadlines.
//!
//! It owns the engine alone; nothing here locks or allocates per packet once its buffers are warm. Packets are
//! handled in turns of bounded length, so that neither direction starves the other, and never waited for to fill
//! a batch. Everything else of the agent runs on the async thread and talks to this one by
//! [`Command`](super::command::Command)s; what that one should store or act on goes there as [`Note`]s.

mod aside;
mod batch;
mod forgotten;
pub mod handover;
mod inbound;
mod long;
mod names;
mod outbound;
mod patience;
mod ready;
mod server;
mod stream;
mod waiting;

use super::command::Command;
use super::park::ParkingLot;
use super::pod_names::PodNames;
use super::refusals::{Refusal, Refusals};
use crate::clock;
use crate::dns::Listener;
use crate::offload::{Coalescer, SEGMENT_BUFFER};
use crate::poll::{Interest, Poller};
use crate::sys::mapping;
use crate::tun::{DEFAULT_MTU, GSO_MAX_SIZE, MAX_PACKET, Tun, is_gone};
use crate::udp::{RECEIVE_BUFFER, Socket};
pub use aside::Aside;
use batch::Batch;
use edgemesh_core::PeerId;
use edgemesh_core::counters::DropReason;
use edgemesh_core::node::{Destination, Engine, Event, Ticket};
use edgemesh_core::packet::{HEADROOM, TAILROOM};
use edgemesh_core::path::Route;
use edgemesh_core::time::Instant;
use edgemesh_core::wire::control::Revocation;
use edgemesh_host::registers;
use handover::Handover;
use long::Long;
use names::LISTENERS;
use patience::{Carried, Patience};
use ready::{Ready, TUN};
use std::io::{self, IoSlice};
use std::net::{IpAddr, SocketAddr};
use std::ops::Range;
use std::sync::mpsc as commands;
use stream::Stream;
use tokio::sync::{mpsc, watch};
use waiting::{Query, Waiting};

/// Reads of a socket in one turn, unless they bring so much that less is enough.
const TURN: usize = 8;
/// Bytes after which a turn ends: what somebody else's packet waits for.
const BYTES: usize = 2 * GSO_MAX_SIZE as usize;
/// Key exchanges in one turn: each costs about 0.1 ms. While more datagrams wait than a turn takes it is one only: what
/// comes faster than it can be computed has to pile up, so that it is met with cookies instead of the packets' time.
const WORK: usize = 8;
/// Room for a datagram or frame of the engine's own.
const OWN: usize = 2_048;

/// What the async thread should know or store.
#[derive(Debug)]
pub enum Note {
    /// The server accepted this node; postcard of the signed record, and what else it said.
    Welcome(Box<super::state::Joined>),
    /// The server turned this node away.
    Refused {
        /// Why, in words.
        why: String,
        /// This node's key was revoked.
        revoked: bool,
    },
    /// What the server said is not believed, for this reason.
    Disbelieved(&'static str),
    /// The server does not know this node and would take a ServiceAccount token.
    Prove,
    /// A node's signed record.
    Record {
        /// Postcard bytes.
        record: Vec<u8>,
        /// The directory's signature.
        signature: Vec<u8>,
    },
    /// Updates of the server's feed.
    Feed(Vec<u8>),
    /// The directory knows no node of this name.
    NoNode(String),
    /// The server has answered about some Services, from the state with this sequence.
    Answer(u64),
    /// The feed is consistent.
    FeedCommit {
        /// Its sequence.
        sequence: u64,
        /// Digest of the table.
        digest: [u8; 32],
    },
    /// A part of the server's list of entry points.
    Entries {
        /// The next bytes of it.
        part: Vec<u8>,
        /// With the last: sequence and digest of all, which the directory signed.
        signed: Option<(u64, [u8; 32])>,
    },
    /// Nodes are members no more.
    Revocations {
        /// How many revocations there were before.
        after: u32,
        /// The next ones.
        list: Vec<Revocation>,
    },
    /// The directory says that this node's key is this one.
    Rekeyed([u8; 32]),
    /// Store this before the next handshake.
    Stamp(u64),
    /// Datagrams for a node go straight to it.
    Direct {
        /// Its index.
        node: u32,
        /// Where it is.
        at: SocketAddr,
    },
    /// A peer's packet was refused.
    PeerRefused(Refusal),
    /// Another node's agent says something to this one.
    Aside {
        /// Index of that node.
        node: u32,
        /// What it says, as its session padded it.
        bytes: Vec<u8>,
    },
    /// A connection was handed over that leads to this address of another node.
    Led(IpAddr),
    /// The TUN device was deleted and made anew.
    TunReopened,
    /// The TUN device is gone for good: nothing can be carried.
    TunLost(String),
}

/// Where the data thread's output for the async thread goes.
pub struct Outputs {
    /// Frames for the control connection; an empty one ends it.
    pub frames: mpsc::UnboundedSender<Vec<u8>>,
    /// The server to keep a TCP relay connection to.
    pub relay: watch::Sender<Option<SocketAddr>>,
    /// Everything else.
    pub notes: mpsc::UnboundedSender<Note>,
}

/// What was sent, received or lost, beside the engine's drop counters.
#[derive(Clone, Copy, Default, Debug)]
pub struct Traffic {
    /// Packets read from the TUN, super-packets counting once.
    pub tun_read: u64,
    /// Packets written to the TUN, super-packets counting once.
    pub tun_written: u64,
    /// Writes that the TUN refused.
    pub tun_errors: u64,
    /// Connections that the kernel carries now.
    pub handed_over: u64,
    /// Those that it might have, were it not for where their ends are.
    pub not_handed_over: u64,
    /// Packets of connections that the kernel refused at the last moment.
    pub handover_lost: u64,
    /// Connections to stand-ins that the kernel was made to forget, and tracks again.
    pub put_back: u64,
    /// Datagrams sent.
    pub sent: u64,
    /// Datagrams received.
    pub received: u64,
    /// Datagrams for the TCP relay connection that were lost, as there is none or others took their place in its queue.
    pub relay_full: u64,
}

impl Traffic {
    fn carried(&self) -> Carried {
        Carried { packets: self.tun_read + self.tun_written, datagrams: self.sent + self.received }
    }
}

/// Everything that the data thread owns.
pub struct Data {
    /// The engine.
    pub engine: Engine<'static>,
    /// Counters.
    pub traffic: Traffic,
    /// Packets that wait.
    pub parking: ParkingLot,
    /// Who hears of every event, until it goes away.
    pub watcher: Option<mpsc::UnboundedSender<Event>>,
    /// For connections that the kernel carries, if it can.
    pub handover: Option<Handover>,
    /// Addresses of pods, for names of pods that are to be verified.
    pub pods: Option<PodNames>,
    /// See [`Aside`].
    pub aside: Aside,
    /// UDP sockets by number: 0 for IPv4, 1 for IPv6.
    pub sockets: [Option<Socket>; 2],
    poller: Poller,
    tun: Tun,
    /// The TCP relay connection.
    stream: Option<Stream>,
    /// Where names are asked, by the address that this is for.
    names: [Option<(IpAddr, Listener)>; LISTENERS],
    waiting: Waiting,
    patience: Patience,
    /// Answers of the server about Services so far.
    answers: u64,
    outputs: Outputs,
    refusals: Refusals,
    coalescer: Coalescer,
    packet: Box<[u8]>,
    long: Long,
    segments: Box<[u8]>,
    batch: Batch,
    inbox: Box<[u8]>,
    own: Box<[u8]>,
}

impl Data {
    /// All parts together.
    pub fn new(
        engine: Engine<'static>,
        poller: Poller,
        tun: Tun,
        sockets: [Option<Socket>; 2],
        outputs: Outputs,
    ) -> Self {
        let buffer = |len: usize| vec![0; len].into_boxed_slice();
        Self {
            engine,
            traffic: Traffic::default(),
            parking: ParkingLot::default(),
            watcher: None,
            handover: None,
            pods: None,
            aside: Aside::default(),
            sockets,
            coalescer: Coalescer::new(tun.takes_udp_super_packets()),
            poller,
            tun,
            stream: None,
            names: Default::default(),
            waiting: Waiting::default(),
            patience: Patience::default(),
            answers: 0,
            outputs,
            refusals: Refusals::default(),
            packet: buffer(HEADROOM + MAX_PACKET + TAILROOM),
            long: Long::new(HEADROOM + MAX_PACKET + TAILROOM),
            segments: buffer(SEGMENT_BUFFER),
            batch: Batch::with_room(),
            inbox: buffer(HEADROOM + RECEIVE_BUFFER),
            own: buffer(OWN),
        }
    }

    /// Runs until told to stop, or until the TUN is gone. The calling thread is this loop's alone.
    ///
    /// # Errors
    /// When descriptors cannot be waited for, or the thread's stack cannot be kept out of dumps.
    pub fn run(mut self, inputs: &commands::Receiver<Command>) -> io::Result<Self> {
        // Keys that are in use are on it, and this node's own.
        mapping::undumped_stack()?;
        self.poller.add(&self.tun, Interest::Read, TUN)?;
        for (number, socket) in (0u64..).zip(&self.sockets) {
            if let Some(socket) = socket {
                self.poller.add(socket, Interest::Read, number)?;
            }
        }
        let mut more_work = false;
        loop {
            let busy = more_work || !self.long.is_empty();
            if !busy {
                // It may rest, and what it last copied was perhaps a key.
                registers::forget();
            }
            let deadline =
                if busy { Some(Instant::ZERO) } else { self.engine.poll_timeout().map(|(at, _)| at) };
            let ready = self.wait(deadline)?;
            loop {
                match inputs.try_recv() {
                    Ok(Command::Stop) | Err(commands::TryRecvError::Disconnected) => return Ok(self),
                    Ok(command) => self.command(clock::now(), command),
                    Err(commands::TryRecvError::Empty) => break,
                }
            }
            self.read_names(ready);
            let pressed = self.read_sockets(ready);
            if ready.stream {
                self.serve_stream();
            }
            if (ready.tun || !self.long.is_empty())
                && let Err(error) = self.read_tun()
                && let Err(why) = self.reopen(&error)
            {
                let _ = self.outputs.notes.send(Note::TunLost(why));
                return Ok(self);
            }
            let now = clock::now();
            self.engine.handle_timeout(now);
            let work = if pressed { 1 } else { WORK };
            more_work = (0..work).all(|_| self.engine.work(now, clock::wall()));
            self.drain(now);
            self.patience.turn(now, self.traffic.carried());
        }
    }

    /// Waits until there is something to do. What is ready and is not looked at to its end in a turn is told again.
    fn wait(&mut self, deadline: Option<Instant>) -> io::Result<Ready> {
        let mut ready = Ready::default();
        if let Some(until) = self.patience.until() {
            let until = deadline.map_or(until, |deadline| until.min(deadline));
            while !ready.any && clock::now() < until {
                std::thread::yield_now();
                self.poller.wait(Some(Instant::ZERO), |event| ready.note(event))?;
            }
        }
        if !ready.any {
            self.poller.wait(deadline, |event| ready.note(event))?;
        }
        Ok(ready)
    }

    /// Makes a deleted device anew; the keeper of routes sees it and puts its addresses back.
    fn reopen(&mut self, error: &io::Error) -> Result<(), String> {
        if !is_gone(error) {
            return Err(error.to_string());
        }
        self.tun = Tun::open(self.tun.name(), DEFAULT_MTU).map_err(|error| error.to_string())?;
        self.poller.add(&self.tun, Interest::Read, TUN).map_err(|error| error.to_string())?;
        let _ = self.outputs.notes.send(Note::TunReopened);
        Ok(())
    }

    /// Hands connections over to the kernel from now on, where it can carry them.
    ///
    /// # Errors
    /// What is in the way, in words: everything is carried here then.
    pub fn begin_handover(&mut self) -> Result<(), String> {
        let opened = Handover::open();
        self.engine.hand_over(opened.is_ok());
        opened.map(|handover| self.handover = Some(handover))
    }

    /// Lets the device end with this run if this run made it.
    pub fn withdraw_device(&mut self) {
        if let Err(error) = self.tun.withdraw() {
            tracing::warn!(%error, device = self.tun.name(), "the device stays");
        }
    }

    /// The packet of a peer at `place` of the inbox went no further.
    fn refused(&mut self, now: Instant, peer: PeerId, reason: DropReason, place: Range<usize>) {
        let node = self.engine.index_of(peer);
        let packet = self.inbox.get(place).unwrap_or_default();
        if let Some(refusal) = self.refusals.take(now, node, reason, packet) {
            let _ = self.outputs.notes.send(Note::PeerRefused(refusal));
        }
    }

    fn command(&mut self, now: Instant, command: Command) {
        match command {
            Command::Query { transport, query, reply } => {
                self.query(now, Query { transport, query, reply, waited: false });
            }
            Command::ControlUp(server) => self.engine.control_up(now, server),
            Command::ControlDown => self.engine.control_down(now),
            Command::Frame(mut frame) => self.frame(now, &mut frame),
            Command::RelayUp(socket, ended) => self.stream_up(now, socket, ended),
            Command::RelayDown => self.stream_down(now),
            Command::Inspect(look) => look(self),
            Command::Stop => {}
        }
        self.drain(now);
    }

    /// Takes everything that the engine has to say, and sends what waits to be sent.
    fn drain(&mut self, now: Instant) {
        loop {
            while let Some(event) = self.engine.poll_event() {
                self.event(now, event);
            }
            let Some(transmit) = self.engine.poll_transmit(now, &mut self.own) else { break };
            let datagram = &self.own[transmit.range.clone()];
            match transmit.to {
                Destination::Socket { local, remote } => {
                    if let Some(Some(socket)) = self.sockets.get_mut(usize::from(local)) {
                        self.traffic.sent += 1;
                        if transmit.dont_fragment {
                            // A probe that is too long for the first link has done its work.
                            let _ = socket.send_probe(remote, None, datagram);
                        } else {
                            socket.send(remote, None, &[IoSlice::new(datagram)]);
                        }
                    }
                }
                Destination::RelayTcp => {
                    self.traffic.relay_full +=
                        stream::send(&mut self.stream, &self.poller, &[IoSlice::new(datagram)]);
                }
            }
        }
        while let Ok(Some(len)) = self.engine.poll_frame(now, &mut self.own) {
            let _ = self.outputs.frames.send(self.own[..len].to_vec());
        }
        if self.engine.link().must_close() {
            let _ = self.outputs.frames.send(Vec::new());
        }
        self.flush();
    }

    fn event(&mut self, now: Instant, event: Event) {
        if self.watcher.as_ref().is_some_and(|watcher| watcher.send(event).is_err()) {
            self.watcher = None;
        }
        match event {
            Event::Ready(ticket) => self.unpark(now, ticket),
            Event::Expired(ticket) => {
                self.parking.drop_all(ticket);
                if let Ticket::Service(key) = ticket {
                    self.waiting.take(key).into_iter().for_each(|query| query.fail(key));
                }
            }
            Event::ServicesChanged | Event::Pong { .. } => {}
            Event::PersistStamp(stamp) => {
                let _ = self.outputs.notes.send(Note::Stamp(stamp));
            }
            Event::OpenRelayTcp => {
                let _ = self.outputs.relay.send(self.engine.link().server());
            }
            Event::CloseRelayTcp => {
                let _ = self.outputs.relay.send(None);
            }
            Event::PathChanged(index) => {
                let path = self.engine.peers(now).find(|p| p.index == index).map(|p| p.path);
                tracing::info!(node = index, ?path, "path changed");
                if let Some(Route::Direct { remote: at, .. }) = path.and_then(|path| path.route) {
                    let _ = self.outputs.notes.send(Note::Direct { node: index, at });
                }
            }
        }
    }

    fn unpark(&mut self, now: Instant, ticket: Ticket) {
        if let Ticket::Service(key) = ticket {
            self.waiting.take(key).into_iter().for_each(|query| self.query(now, query));
        }
        for parked in self.parking.take(ticket) {
            self.packet[HEADROOM..HEADROOM + parked.bytes.len()].copy_from_slice(&parked.bytes);
            match (parked.origin, ticket) {
                (super::park::Origin::Tun(header), Ticket::Peer(index)) => {
                    self.resume(now, &header, parked.bytes.len(), index);
                }
                (super::park::Origin::Tun(header), Ticket::Fragment(_) | Ticket::Service(_)) => {
                    let _ = self.outbound(now, &header, parked.bytes.len());
                }
                (super::park::Origin::Peer(peer), _) => self.again(now, peer, parked.bytes.len()),
            }
        }
    }
}
