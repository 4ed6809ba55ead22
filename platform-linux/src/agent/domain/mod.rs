//! Which nodes are of this node's domain although no label says so: those whose pods this node's kernel reaches by
//! itself, as within one CNI, and which prove it.
//!
//! An address alone proves nothing: 172.17.0.2 exists on every node without a CNI. So the agents of two nodes tell
//! each other inside their tunnel's session where they may be probed, on the side of their pods, and make a key for
//! each other ([`message`]). Then probes and answers go from address to address without the tunnel, and have to arrive
//! as they were sent. What is proven is a range of addresses of one node, that of the route that leads there, for as
//! long as it is proven again and the route stays ([`proofs`]).
//!
//! Nobody is asked anything on a node whose kernel has no route of its own to an endpoint, by a gateway that is not
//! that of the default route ([`sight`]): nodes without a CNI spend nothing on this. Where this node has a domain by
//! label nothing is derived here, nor by others of it.
//!
//! Life cycle: [`keep_proving`] runs as long as the agent, looks at routes and endpoints when either has changed, at
//! most once in [`LOOK`], and tells what is proven whenever that changes. Sockets are opened when the first node is
//! asked or asks, one for each address that may be probed, each with a task that reads it. Bounds: those of [`proofs`]
//! and [`sight`]. Not done: nodes whose CNI shows no address on the side of pods, or leads past the kernel's routes.

mod message;
mod proofs;
mod sight;
mod sockets;

pub use proofs::Found;

use super::command::Handle;
use super::data::Data;
use super::status::{Proven, Shared};
use crate::clock;
use crate::netlink::Netlink;
use crate::prefix::Prefix;
use edgemesh_core::wire::feed::ENDPOINT_EXIT;
use edgemesh_host::entropy;
use message::{Answer, Offer, Place, answer, key_for, probe, prober};
use proofs::{Act, Proofs};
use sight::{Routes, Sight};
use sockets::{Came, Sockets};
use std::collections::{BTreeSet, HashMap};
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::Instant;
use zeroize::Zeroizing;

/// Least time between two looks at routes and endpoints, but for the first.
const LOOK: Duration = Duration::from_secs(1);
/// A look at addresses and routes even without news of them.
const LOOK_MAX: Duration = Duration::from_secs(60);

/// What the agent hears that matters here.
#[derive(Debug)]
pub enum Heard {
    /// A message of that node, by its tunnel.
    Message {
        /// Index of the node.
        node: u32,
        /// What it says.
        bytes: Vec<u8>,
    },
    /// The Services have changed, or where this node is.
    Table,
    /// Devices, addresses or routes of this node have.
    Ways,
    /// A connection was led to that address of another node.
    Used(std::net::IpAddr),
}

/// See the module's documentation.
struct Prover {
    handle: Handle,
    status: Arc<Shared>,
    found: mpsc::UnboundedSender<Found>,
    netlink: Netlink,
    sight: Sight,
    /// What was looked up since the last look.
    ranges: HashMap<Place, Option<Prefix>>,
    /// Offers have come that proofs are not aimed at yet.
    aim_due: bool,
    sockets: Sockets,
    proofs: Proofs,
    secret: Zeroizing<[u8; 32]>,
    /// This node's index; 0 while it has none, or a domain by label.
    own: u32,
    told: Found,
}

/// Derives this node's domain for as long as the agent runs.
pub(super) async fn keep_proving(
    handle: Handle,
    status: Arc<Shared>,
    heard: mpsc::UnboundedReceiver<Heard>,
    found: mpsc::UnboundedSender<Found>,
) {
    if let Err(error) = prove(handle, status, heard, found).await {
        tracing::warn!(%error, "domains are by label only");
    }
}

async fn prove(
    handle: Handle,
    status: Arc<Shared>,
    mut heard: mpsc::UnboundedReceiver<Heard>,
    found: mpsc::UnboundedSender<Found>,
) -> io::Result<()> {
    let (came_in, mut came) = mpsc::channel(64);
    let secret = Zeroizing::new(entropy::seed()?);
    let nonce = entropy::seed()?.first_chunk().map(|first| u64::from_le_bytes(*first)).unwrap_or_default();
    let mut prover = Prover {
        handle,
        status,
        found,
        netlink: Netlink::open()?,
        sight: Sight::default(),
        ranges: HashMap::new(),
        aim_due: false,
        sockets: Sockets::new(came_in),
        proofs: Proofs::new(nonce),
        secret,
        own: 0,
        told: Found::default(),
    };
    let (mut looked, mut look_due) = (None::<Instant>, Instant::now());
    loop {
        let due = prover.proofs.due().map_or(look_due, |due| due.min(look_due));
        tokio::select! {
            message = heard.recv() => match message {
                Some(Heard::Message { node, bytes }) => prover.message(node, &bytes).await,
                Some(Heard::Table | Heard::Ways) => look_due = soon(looked),
                Some(Heard::Used(address)) => prover.proofs.used(Instant::now(), address),
                None => return Ok(()),
            },
            Some(came) = came.recv() => prover.datagram(&came),
            () = tokio::time::sleep_until(due) => {}
        }
        if look_due <= Instant::now() {
            prover.look().await;
            (looked, look_due) = (Some(Instant::now()), Instant::now() + LOOK_MAX);
        }
        if prover.aim_due && heard.is_empty() {
            prover.aim();
        }
        prover.act().await;
        prover.tell();
    }
}

/// When to look again after something has changed.
fn soon(looked: Option<Instant>) -> Instant {
    looked.map_or_else(Instant::now, |looked| looked + LOOK)
}

impl Prover {
    /// Looks at routes and endpoints.
    async fn look(&mut self) {
        match Sight::look(&mut self.netlink) {
            Ok(sight) => self.sight = sight,
            Err(error) => return tracing::warn!(%error, "cannot look at this node's routes"),
        }
        let routes = self.sight.routes().cloned();
        let looked = self.handle.inspect(move |data| {
            let own = data.engine.own_index();
            let by_label = data.engine.services().home().domain != 0;
            let nodes = routes.filter(|_| !by_label).map(|routes| candidates(data, own, &routes));
            (if by_label { 0 } else { own }, nodes.unwrap_or_default())
        });
        let Some((own, nodes)) = looked.await else { return };
        self.own = own;
        self.proofs.seek(Instant::now(), &nodes);
        if self.sockets.is_open() {
            self.sockets.open(&self.sight);
        }
        self.ranges.clear();
        self.aim();
    }

    fn aim(&mut self) {
        let Self { proofs, sight, netlink, ranges, .. } = self;
        let mut look = |place: &Place| sight.range(netlink, place.at.ip(), place.pods);
        proofs.aim(Instant::now(), &sight.pods, |place| *ranges.entry(*place).or_insert_with(|| look(place)));
        self.aim_due = false;
    }

    /// Takes a message of another node.
    async fn message(&mut self, node: u32, bytes: &[u8]) {
        let Some(offer) = Offer::parse(bytes) else { return };
        let wanted = offer.wanted;
        self.aim_due |= self.proofs.offered(Instant::now(), node, offer);
        if wanted {
            if self.own == 0 {
                // This node has joined meanwhile, or it has a label.
                self.look().await;
            }
            self.offer(node, false).await;
        }
    }

    /// Makes an offer to another node; `wanted`: it is to make one, too.
    async fn offer(&mut self, node: u32, wanted: bool) {
        if self.own != 0 && !self.sockets.is_open() {
            self.sockets.open(&self.sight);
        }
        let places = if self.own == 0 { Vec::new() } else { self.sockets.places() };
        let offer = Offer { wanted, key: key_for(&self.secret, node), places }.emit();
        let _ = self.handle.inspect(move |data| data.tell_peer(clock::now(), node, &offer)).await;
    }

    /// Takes a datagram that came without a tunnel.
    fn datagram(&mut self, came: &Came) {
        if let Some(answer) = Answer::parse(&came.bytes) {
            self.proofs.answered(Instant::now(), &answer, &self.sight.own);
        } else if let (Some(to), Some(node)) = (came.to, prober(&came.bytes))
            && self.own != 0
            && let Some(answer) = answer(&key_for(&self.secret, node), &came.bytes, to, came.from.ip())
        {
            self.sockets.send(Some(to), came.from, &answer);
        }
    }

    /// Does what is due.
    async fn act(&mut self) {
        for act in self.proofs.act(Instant::now()) {
            match act {
                Act::Ask(node) => self.offer(node, true).await,
                Act::Probe { from, to, key, nonce } => {
                    self.sockets.send(from, to, &probe(&key, self.own, nonce, to.ip()));
                }
            }
        }
    }

    /// Tells what is proven, if that is something else than before.
    fn tell(&mut self) {
        let found = self.proofs.found();
        if !found.ranges.is_empty() || !self.told.ranges.is_empty() {
            let unix = |at: Instant| clock::wall().secs.saturating_sub(at.elapsed().as_secs());
            let counts = |node, range| found.ranges.contains(&(node, range));
            let proven = self.proofs.proven().filter(|(node, range, _)| counts(*node, *range));
            let proven = proven.map(|(node, range, at)| Proven { node, range, unix_secs: unix(at) });
            self.status.proven(proven.collect());
        }
        if found != self.told {
            self.told.clone_from(&found);
            let _ = self.found.send(found);
        }
    }
}

/// The nodes with an endpoint that the kernel has a route of its own to.
fn candidates(data: &Data, own: u32, routes: &Routes) -> BTreeSet<u32> {
    let endpoints = data.engine.services().services().flat_map(|service| service.endpoints());
    let elsewhere = endpoints.filter(|e| own != 0 && e.node() != 0 && e.node() != own);
    let pods = elsewhere.filter(|e| e.conditions() & ENDPOINT_EXIT == 0);
    pods.filter(|e| routes.lead_to(e.address())).map(|e| e.node()).collect()
}
