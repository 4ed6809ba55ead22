//! Flows: which packets go to which endpoint under which addresses, and which ones may come in.
//!
//! A client's packet to a VIP opens a flow and leaves with this node's mesh address and a mapped port as
//! source; replies are recognised by (peer, protocol, endpoint, mapped port) and get VIP and client back. One
//! table, two keys per entry. On the endpoint's side nothing is translated, but only what is an endpoint now, or
//! was *admitted* and still flows, passes. A flow to an endpoint on the same node takes the alias as source,
//! because a kernel refuses its own addresses coming in, and its packets go back where they came from.
//!
//! Where the kernel of this node reaches the endpoint itself it may be asked to carry the flow, so that the endpoint
//! sees the client ([`PeerRef::KERNEL`], [`Translated::HandOver`]). Such a flow stays here for a few seconds, for packets
//! that are under way; the shell may give it back ([`Flows::keep`]).
//!
//! Life cycle: [`Flows::outbound`] says [`Translated::Miss`], the node chooses an endpoint, [`Flows::open`]
//! makes the flow, the packet is handed in again. [`Flows::handle_timeout`] ends it. Slots that outlive the process
//! carry it into the next run ([`Flows::new`]).
//!
//! Bounds: every table is borrowed. A full flow table first gives up closing flows, then unreplied, then idle
//! ones, those of the source with most flows first, out of 32 neighbouring entries; a live flow
//! never. While less than a quarter is free (of tuples: an eighth), whoever has more than half only replaces its own.
//! Later fragments that overtook the first wait with the shell ([`Translated::Park`]).
//!
//! Not done here: choosing endpoints, reassembly, TCP sequence tracking (an out-of-window packet passes
//! unharmed, so it cannot cause a reset: row C13), decrementing the TTL (the kernels on both sides forward).

mod admitted;
mod entries;
mod errors;
mod fragments;
mod paths;
mod slots;
mod state;
mod table;

pub use crate::wire::ip::{Checksum, Mesh, pieces};
pub use entries::Kept;
pub use slots::{AdmittedSlot, FlowSlot, FragmentSlot};
pub use table::{FlowRecord, Resources};

use crate::counters::DropReason;
use crate::packet::Packet;
use crate::rng::Rng;
use crate::time::{Duration, Instant};
use crate::wire::ip::{Address, Fragment, Kind, Transport, is_confined, reply};
use admitted::Admitted;
use core::net::{IpAddr, SocketAddr};
use fragments::Fragments;
use table::Table;

/// A node by its cluster-wide index, as the other end of a flow.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Hash)]
pub struct PeerRef(pub u32);

impl PeerRef {
    /// This node: client and endpoint are on the same one.
    pub const SELF: Self = Self(0);
    /// For [`Flows::open`]: client and endpoint are where this node's kernel can carry the flow without us.
    pub const KERNEL: Self = Self(u32::MAX);
}

/// Names the fragments that wait for one first fragment.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub struct Ticket(pub u32);

/// What is to be done with a packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Translated {
    /// Send it through the tunnel to this peer.
    To(PeerRef),
    /// Write it to the TUN device.
    Local,
    /// It is as it came: have the kernel carry its flow to this endpoint, or [`Flows::keep`] it.
    HandOver(SocketAddr),
    /// It opens a flow: choose an endpoint, [`Flows::open`] it, hand the unchanged packet in again. Or
    /// [`Flows::refuse`] it.
    Miss(NewFlow),
    /// The packet was replaced by an answer to its sender: write it to where it came from, without offloads.
    Reply,
    /// A fragment that came before its first one: keep it, unchanged, until its ticket is released or expires.
    Park(Ticket),
    /// Forget it.
    Drop(DropReason),
}

/// A verdict and what else a packet brought about.
#[must_use]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Outcome {
    /// What to do with the packet.
    pub verdict: Translated,
    /// A timer of this machine (key below [`Flows::timers`]) that is to fire at this instant.
    pub deadline: Option<(u32, Instant)>,
    /// Fragments parked under this ticket are to be handed in again, after this packet.
    pub released: Option<Ticket>,
    /// The path carries no more than this in one piece, and the packet may be cut: send the pieces that
    /// [`split`](crate::wire::ip::split) makes of it. Its checksum is complete then, whatever it was.
    pub split: Option<u16>,
}

/// A flow to be opened.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NewFlow {
    /// IP protocol number.
    pub protocol: u8,
    /// Who opens it.
    pub client: IpAddr,
    /// From this port, or with this ICMP identifier.
    pub client_port: u16,
    /// To this VIP.
    pub vip: IpAddr,
    /// And port; 0 for ICMP.
    pub vip_port: u16,
}

impl NewFlow {
    /// The flow that a client's packet belongs to.
    fn of(t: &Transport) -> Self {
        Self {
            protocol: t.protocol,
            client: t.src,
            client_port: t.src_port,
            vip: t.dst,
            vip_port: t.dst_port,
        }
    }
}

/// Where a flow leads.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Endpoint {
    /// The node that has it; [`PeerRef::SELF`] or [`PeerRef::KERNEL`] for this one.
    pub peer: PeerRef,
    /// Its address on that node.
    pub address: IpAddr,
    /// Its port; 0 for ICMP.
    pub port: u16,
}

/// How a packet came.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Offload {
    /// What its transport checksum field holds.
    pub checksum: Checksum,
    /// Length in bytes of the longest IP packet that goes on the wire: the packet's own, or of a segment.
    pub largest: usize,
}

/// What forwarding knows of a destination.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Vip {
    /// No VIP.
    None,
    /// A Service's: only its ports lead anywhere, and this node answers pings.
    Service,
    /// An endpoint's: every protocol and port leads to it.
    Endpoint,
}

/// What the flow table asks of the rest of the node.
pub trait Policy {
    /// What `address` is.
    fn vip(&self, address: IpAddr) -> Vip;
    /// Whether peers may reach this protocol and port (0 for ICMP) of `address` on this node now.
    fn admits(&self, protocol: u8, address: IpAddr, port: u16) -> bool;
    /// Whether a flow to this endpoint may stay there. Asked again only when [`Policy::generation`] changed.
    fn still_serves(&self, flow: &NewFlow, endpoint: &Endpoint) -> bool;
    /// Whether a flow whose client has waited so long for an answer of this endpoint should go to another one; never
    /// when it has only begun.
    fn gives_up(&self, flow: &NewFlow, endpoint: &Endpoint, waited: Duration) -> bool;
    /// Whether this node is proven not to answer.
    fn is_silent(&self, peer: PeerRef) -> bool;
    /// Changes with every change of the Services, and of what is known of their endpoints.
    fn generation(&self) -> u32;
    /// Largest IP packet in bytes that the path to `peer` carries inside the tunnel.
    fn mtu(&self, peer: PeerRef) -> u16;
}

/// What a fired timer brought about.
#[must_use]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Expiry {
    /// When the timer is to fire again.
    pub next: Option<Instant>,
    /// Fragments parked under this ticket are to be dropped ([`DropReason::Fragment`]).
    pub expired: Option<Ticket>,
}

/// The flow machine.
pub struct Flows<'a> {
    mesh: Mesh,
    table: Table<'a>,
    admitted: Admitted<'a>,
    fragments: Fragments<'a>,
}

/// One packet on its way through the machine.
struct Call<'c, 'b> {
    now: Instant,
    /// The peer that it came from, [`PeerRef::SELF`] for the TUN device.
    from: PeerRef,
    packet: &'c mut Packet<'b>,
    t: Transport,
    offload: Offload,
    policy: &'c dyn Policy,
}

impl<'a> Flows<'a> {
    /// A machine whose flows are those that an earlier run kept, if any: the rest of the memory must be all-zero,
    /// and `now` on the same clock; where that began anew (a reboot), start without. Entries that the earlier run
    /// left half written are left out. Set a timer for each of [`Flows::deadlines`].
    pub fn new(now: Instant, memory: Resources<'a>, mesh: Mesh, rng: &mut Rng) -> Self {
        let secret = [rng.u64(), rng.u64()];
        let indices = [memory.by_client, memory.by_mapped];
        Self {
            mesh,
            table: Table::new(now, memory.flows, indices, memory.sources, secret),
            admitted: Admitted::new(now, memory.admitted, memory.by_tuple, memory.admitters, secret),
            fragments: Fragments::new(memory.fragments, secret, rng.u32()),
        }
    }

    /// This node's place in the mesh.
    pub fn mesh(&self) -> Mesh {
        self.mesh
    }

    /// Gives this node its place in the mesh, once it has joined.
    pub fn set_mesh(&mut self, mesh: Mesh) {
        self.mesh = mesh;
    }

    /// Translates a packet from the TUN device: a client's to a VIP, or an endpoint's reply to a peer or, by the
    /// alias, to a client on this node.
    pub fn outbound(
        &mut self,
        now: Instant,
        packet: &mut Packet<'_>,
        offload: Offload,
        policy: &dyn Policy,
    ) -> Outcome {
        let from = PeerRef::SELF;
        let outcome = start(packet).and_then(|t| {
            let call = &mut Call { now, from, packet, t, offload, policy };
            if matches!(t.fragment, Fragment::Later { .. }) {
                return self.follow(call);
            }
            let v6 = t.src.is_ipv6();
            // Only this machine writes packets with the alias as source: one that comes back runs in a circle.
            if t.src == self.mesh.alias(v6) {
                Err(DropReason::SourceAddress)
            } else if t.dst == self.mesh.alias(v6) {
                self.client_receives(call, PeerRef::SELF)
            } else if let Some(index) = self.mesh.index_of(t.dst) {
                self.endpoint_sends(call, PeerRef(index))
            } else {
                self.client_sends(call)
            }
        });
        outcome.unwrap_or_else(drop_it)
    }

    /// Checks and translates a packet that `from` sent through its tunnel.
    pub fn inbound(
        &mut self,
        now: Instant,
        from: PeerRef,
        packet: &mut Packet<'_>,
        offload: Offload,
        policy: &dyn Policy,
    ) -> Outcome {
        let outcome = start(packet).and_then(|t| {
            let call = &mut Call { now, from, packet, t, offload, policy };
            if matches!(t.fragment, Fragment::Later { .. }) {
                return self.follow(call);
            }
            let v6 = t.src.is_ipv6();
            if t.dst == self.mesh.own(v6) {
                self.client_receives(call, from)
            } else if t.src == self.mesh.address(from.0, v6) {
                self.endpoint_receives(call)
            } else {
                Err(DropReason::SourceAddress)
            }
        });
        outcome.unwrap_or_else(drop_it)
    }

    /// The endpoint that a client's packets went to in vain so far: another one should be chosen if there is one.
    pub fn unanswered(&self, new: &NewFlow) -> Option<Endpoint> {
        let id = self.table.find_client(new).filter(|id| self.table.is_unreplied(*id))?;
        Some(self.table.endpoint(id).0)
    }

    /// Makes the flow `new` to `endpoint`; returns its timer. A flow of the same client tuple is replaced. The
    /// mapped port is the client's own when it is free towards this endpoint.
    ///
    /// # Errors
    /// [`DropReason::FlowsFull`], [`DropReason::PortsFull`], or [`DropReason::Malformed`] when the families of
    /// VIP and endpoint differ.
    pub fn open(
        &mut self,
        now: Instant,
        new: &NewFlow,
        endpoint: &Endpoint,
        generation: u32,
        rng: &mut Rng,
    ) -> Result<(u32, Instant), DropReason> {
        self.table.open(now, new, endpoint, generation, rng)
    }

    /// Puts a flow of an earlier run back into the table; returns its timer.
    ///
    /// # Errors
    /// [`DropReason::FlowsFull`] when there is no free slot, [`DropReason::PortsFull`] when either of its keys
    /// is taken, [`DropReason::Family`] for addresses that this build does not keep.
    pub fn restore(&mut self, now: Instant, record: &FlowRecord) -> Result<(u32, Instant), DropReason> {
        self.table.restore(now, record)
    }

    /// The flow of this packet, which was to be handed over, is carried here after all.
    pub fn keep(&mut self, packet: &Packet<'_>) {
        if let Ok(t) = Transport::parse(packet.bytes())
            && let Some(id) = self.table.find_client(&NewFlow::of(&t))
        {
            self.table.keep(id);
        }
    }

    /// Answers a packet that has nowhere to go, so that its sender does not wait: TCP with a reset, SCTP
    /// with an ABORT, the rest with "port unreachable".
    pub fn refuse(&self, packet: &mut Packet<'_>, reason: DropReason) -> Translated {
        let answered = start(packet).and_then(|t| match (t.kind, t.fragment) {
            (_, Fragment::Later { .. }) | (Kind::IcmpError { .. } | Kind::EchoReply | Kind::Opaque, _) => {
                Err(reason)
            }
            (Kind::Tcp { .. }, _) => reply::tcp_reset(packet, &t),
            (Kind::Sctp { .. }, _) => reply::sctp_abort(packet, &t),
            (Kind::Udp | Kind::EchoRequest, _) => reply::port_unreachable(packet, &t),
        });
        answered.map_or_else(Translated::Drop, |()| Translated::Reply)
    }

    /// A timer fired.
    pub fn handle_timeout(&mut self, now: Instant, key: u32) -> Expiry {
        let flows = self.table.capacity();
        let admitted = flows.saturating_add(self.admitted.capacity());
        if key < flows {
            Expiry { next: self.table.expire(now, key.saturating_add(1)), expired: None }
        } else if key < admitted {
            let id = key.saturating_sub(flows).saturating_add(1);
            Expiry { next: self.admitted.expire(now, id), expired: None }
        } else {
            self.fragments.expire(now, key.saturating_sub(admitted))
        }
    }

    /// Timers that this machine uses: keys 0 up to this.
    pub fn timers(&self) -> u32 {
        self.fragment_timer(self.fragments.capacity())
    }

    /// Timer and deadline of all that is in the tables, for a machine that was adopted.
    pub fn deadlines(&self) -> impl Iterator<Item = (u32, Instant)> {
        let admitted = self.admitted.deadlines().map(|(key, at)| (self.admitted_timer(key), at));
        self.table.deadlines().chain(admitted)
    }

    /// Every flow, for listings and for the next run; not those that were handed over.
    pub fn flows(&self, now: Instant) -> impl Iterator<Item = FlowRecord> {
        self.table.records(now)
    }

    /// Flows in the table.
    pub fn len(&self) -> usize {
        self.table.len()
    }

    /// Whether there is no flow.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Tuples admitted from peers.
    pub fn admitted(&self) -> usize {
        self.admitted.len()
    }

    fn admitted_timer(&self, key: u32) -> u32 {
        self.table.capacity().saturating_add(key)
    }

    fn fragment_timer(&self, slot: u32) -> u32 {
        self.table.capacity().saturating_add(self.admitted.capacity()).saturating_add(slot)
    }
}

/// Reads a packet and cuts off what lies behind it.
fn start(packet: &mut Packet<'_>) -> Result<Transport, DropReason> {
    let t = Transport::parse(packet.bytes())?;
    if !Address::holds(t.src) {
        return Err(DropReason::Family);
    }
    packet.shrink(0, packet.len().saturating_sub(t.end))?;
    if is_confined(t.src) {
        return Err(DropReason::SourceAddress);
    }
    if is_confined(t.dst) {
        return Err(DropReason::NoRoute);
    }
    Ok(t)
}

fn send(peer: PeerRef) -> Translated {
    if peer == PeerRef::SELF { Translated::Local } else { Translated::To(peer) }
}

impl From<Translated> for Outcome {
    fn from(verdict: Translated) -> Self {
        Self { verdict, deadline: None, released: None, split: None }
    }
}

fn drop_it(reason: DropReason) -> Outcome {
    Outcome::from(Translated::Drop(reason))
}

#[cfg(test)]
mod tests;
