//! The table of translated flows: two keys per entry, mapped ports, eviction.
//!
//! When it is full, an entry gives way by the rule in the module `flow`; when none may, the new flow is refused.

use super::entries::{Entries, Entry, Kept, hasher, ports};
use super::slots::{AdmittedSlot, FlowSlot, FragmentSlot};
use super::state::Track;
use super::{Endpoint, NewFlow, PeerRef};
use crate::counters::DropReason;
use crate::rng::Rng;
use crate::storage::Link;
use crate::time::{Duration, Instant};
use crate::wire::ip::{Address, Transport};
use core::hash::Hasher;
use core::net::IpAddr;
use serde::{Deserialize, Serialize};

/// Random ports that are tried when the client's own is taken: with half of them taken, one flow in 2^32 finds none.
const PORT_DRAWS: u32 = 32;
/// Ports below are not handed out at random: endpoints may treat them as privileged.
const FIRST_PORT: u16 = 1024;

/// Memory for one flow machine: all-zero, but for what an earlier run left in its slots. Each index should have at
/// least twice the places that its table has slots; a table with a smaller index is used only as far as the index
/// reaches.
pub struct Resources<'a> {
    /// One per flow.
    pub flows: Kept<'a, FlowSlot>,
    /// Index of flows by client tuple.
    pub by_client: &'a mut [Link],
    /// Index of flows by peer, endpoint and mapped port.
    pub by_mapped: &'a mut [Link],
    /// Flows per source, sources hashed into these.
    pub sources: &'a mut [u32],
    /// One per tuple that a peer has with an endpoint of this node.
    pub admitted: Kept<'a, AdmittedSlot>,
    /// Index of admitted tuples.
    pub by_tuple: &'a mut [Link],
    /// Admitted tuples per peer, peers hashed into these.
    pub admitters: &'a mut [u32],
    /// One per fragmented datagram under way; used in sets of four.
    pub fragments: &'a mut [FragmentSlot],
}

/// A flow, for listings and for the next run of the agent.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct FlowRecord {
    /// IP protocol number.
    pub protocol: u8,
    /// The client.
    pub client: (IpAddr, u16),
    /// What the client connected to.
    pub vip: (IpAddr, u16),
    /// Index of the endpoint's node, 0 for this one.
    pub peer: u32,
    /// The endpoint.
    pub endpoint: (IpAddr, u16),
    /// The source port that the endpoint sees.
    pub mapped: u16,
    /// Whether both sides have been heard.
    pub established: bool,
    /// Seconds since its last packet.
    pub idle_secs: u32,
}

pub(super) struct Table<'a> {
    entries: Entries<'a, FlowSlot, 2>,
}

/// The keys: as its client sees a flow, and as its endpoint does.
const CLIENT: usize = 0;
const MAPPED: usize = 1;

impl<'a> Table<'a> {
    /// The flows that an earlier run kept; the other memory must be all-zero.
    pub(super) fn new(
        now: Instant,
        kept: Kept<'a, FlowSlot>,
        indices: [&'a mut [Link]; 2],
        sources: &'a mut [u32],
        secret: [u64; 2],
    ) -> Self {
        Self { entries: Entries::new(now, kept, indices, sources, secret) }
    }

    /// Timer and deadline of every flow.
    pub(super) fn deadlines(&self) -> impl Iterator<Item = (u32, Instant)> {
        self.entries.deadlines()
    }

    pub(super) fn find_client(&self, flow: &NewFlow) -> Option<u32> {
        self.entries.find(CLIENT, &client_slot(flow))
    }

    pub(super) fn find_mapped(&self, protocol: u8, endpoint: &Endpoint, mapped: u16) -> Option<u32> {
        let probe = FlowSlot {
            track: Track::ahead(Instant::ZERO, protocol, false),
            peer: endpoint.peer.0,
            endpoint: endpoint.address.into(),
            endpoint_port: endpoint.port,
            mapped,
            ..FlowSlot::ZERO
        };
        self.entries.find(MAPPED, &probe)
    }

    /// The flow's endpoint and mapped port.
    pub(super) fn endpoint(&self, id: u32) -> (Endpoint, u16) {
        let s = self.slot(id);
        let address = s.endpoint.ip_or_unspecified();
        (Endpoint { peer: PeerRef(s.peer), address, port: s.endpoint_port }, s.mapped)
    }

    /// The flow as its client sees it.
    pub(super) fn client(&self, id: u32) -> NewFlow {
        let s = self.slot(id);
        NewFlow {
            protocol: s.track.protocol(),
            client: s.client.ip_or_unspecified(),
            client_port: s.client_port,
            vip: s.vip.ip_or_unspecified(),
            vip_port: s.vip_port,
        }
    }

    pub(super) fn is_closing(&self, id: u32) -> bool {
        self.slot(id).track.is_closing()
    }

    pub(super) fn is_handed(&self, id: u32) -> bool {
        self.slot(id).track.is_handed()
    }

    /// A flow that was handed over is ours after all.
    pub(super) fn keep(&mut self, id: u32) {
        if let Some(slot) = self.entries.get_mut(id).filter(|slot| slot.track.is_handed()) {
            slot.track.hand_over(false);
        }
    }

    pub(super) fn is_unreplied(&self, id: u32) -> bool {
        self.slot(id).track.is_unreplied()
    }

    /// How long the flow has been there.
    pub(super) fn age(&self, now: Instant, id: u32) -> Duration {
        self.slot(id).track.age(now)
    }

    pub(super) fn generation(&self, id: u32) -> u32 {
        self.slot(id).generation
    }

    pub(super) fn set_generation(&mut self, id: u32, generation: u32) {
        if let Some(slot) = self.entries.get_mut(id) {
            slot.generation = generation;
        }
    }

    /// Takes note of a packet; returns the timer when it is to fire sooner than it was told.
    pub(super) fn progress(
        &mut self,
        now: Instant,
        id: u32,
        from_client: bool,
        t: &Transport,
    ) -> Option<(u32, Instant)> {
        self.entries.progress(now, id, from_client, t)
    }

    pub(super) fn open(
        &mut self,
        now: Instant,
        new: &NewFlow,
        endpoint: &Endpoint,
        generation: u32,
        rng: &mut Rng,
    ) -> Result<(u32, Instant), DropReason> {
        if new.vip.is_ipv6() != endpoint.address.is_ipv6() {
            return Err(DropReason::Malformed);
        }
        if let Some(old) = self.find_client(new) {
            self.remove(old);
        }
        let handed = endpoint.peer == PeerRef::KERNEL;
        let mut slot = FlowSlot {
            track: Track::ahead(now, new.protocol, false),
            endpoint: endpoint.address.into(),
            peer: if handed { PeerRef::SELF.0 } else { endpoint.peer.0 },
            generation,
            endpoint_port: endpoint.port,
            ..client_slot(new)
        };
        if handed {
            slot.track.hand_over(true);
        }
        slot.mapped = self.free_port(&slot, rng).ok_or(DropReason::PortsFull)?;
        let room = self.entries.make_room(now, &slot, rng.u32());
        room.then(|| self.entries.insert(slot)).flatten().ok_or(DropReason::FlowsFull)
    }

    pub(super) fn restore(
        &mut self,
        now: Instant,
        record: &FlowRecord,
    ) -> Result<(u32, Instant), DropReason> {
        if ![record.client.0, record.vip.0, record.endpoint.0].into_iter().all(Address::holds) {
            return Err(DropReason::Family);
        }
        let slot = FlowSlot {
            track: Track::ahead(now, record.protocol, record.established),
            client: record.client.0.into(),
            vip: record.vip.0.into(),
            endpoint: record.endpoint.0.into(),
            peer: record.peer,
            generation: 0,
            client_port: record.client.1,
            vip_port: record.vip.1,
            endpoint_port: record.endpoint.1,
            mapped: record.mapped,
        };
        if [CLIENT, MAPPED].into_iter().any(|key| self.entries.find(key, &slot).is_some()) {
            return Err(DropReason::PortsFull);
        }
        self.entries.insert(slot).ok_or(DropReason::FlowsFull)
    }

    pub(super) fn remove(&mut self, id: u32) {
        self.entries.remove(id);
    }

    /// Ends the flow if its time is over, else says when that will be.
    pub(super) fn expire(&mut self, now: Instant, id: u32) -> Option<Instant> {
        self.entries.expire(now, id)
    }

    pub(super) fn records(&self, now: Instant) -> impl Iterator<Item = FlowRecord> {
        self.entries.iter().filter(|(_, s)| !s.track.is_handed()).map(move |(id, s)| {
            let (flow, (endpoint, mapped)) = (self.client(id), self.endpoint(id));
            FlowRecord {
                protocol: flow.protocol,
                client: (flow.client, flow.client_port),
                vip: (flow.vip, flow.vip_port),
                peer: endpoint.peer.0,
                endpoint: (endpoint.address, endpoint.port),
                mapped,
                established: !s.track.is_unreplied(),
                idle_secs: u32::try_from(s.track.idle(now).as_secs()).unwrap_or(u32::MAX),
            }
        })
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(super) fn capacity(&self) -> u32 {
        self.entries.capacity()
    }

    fn slot(&self, id: u32) -> FlowSlot {
        self.entries.get(id).copied().unwrap_or(FlowSlot::ZERO)
    }

    /// A port that no other flow to this endpoint uses: the client's own, else a random one.
    fn free_port(&self, slot: &FlowSlot, rng: &mut Rng) -> Option<u16> {
        let free = |mapped: &u16| self.entries.find(MAPPED, &FlowSlot { mapped: *mapped, ..*slot }).is_none();
        if free(&slot.client_port) {
            return Some(slot.client_port);
        }
        let span = u32::from(u16::MAX).saturating_sub(u32::from(FIRST_PORT)).saturating_add(1);
        (0..PORT_DRAWS).map(|_| FIRST_PORT.saturating_add(rng.below(span) as u16)).find(free)
    }
}

fn client_slot(flow: &NewFlow) -> FlowSlot {
    FlowSlot {
        track: Track::ahead(Instant::ZERO, flow.protocol, false),
        client: flow.client.into(),
        vip: flow.vip.into(),
        client_port: flow.client_port,
        vip_port: flow.vip_port,
        ..FlowSlot::ZERO
    }
}

impl Entry for FlowSlot {
    const RESERVE: u64 = 2;

    fn track(&self) -> &Track {
        &self.track
    }

    fn track_mut(&mut self) -> &mut Track {
        &mut self.track
    }

    fn is_whole(&self) -> bool {
        [self.client, self.vip, self.endpoint].iter().all(|address| !address.is_none())
    }

    fn hash(&self, key: usize, secret: [u64; 2]) -> u64 {
        let mut hasher = hasher(secret);
        if key == CLIENT {
            hasher.write(self.client.bytes());
            hasher.write(self.vip.bytes());
            hasher.write_u64(ports(self.client_port, self.vip_port, self.track.protocol()));
        } else {
            hasher.write(self.endpoint.bytes());
            hasher.write_u64(ports(self.mapped, self.endpoint_port, self.track.protocol()));
            hasher.write_u32(self.peer);
        }
        hasher.finish()
    }

    fn same(&self, key: usize, other: &Self) -> bool {
        if key == CLIENT {
            (self.client_port, self.vip_port, self.track.protocol())
                == (other.client_port, other.vip_port, other.track.protocol())
                && self.client == other.client
                && self.vip == other.vip
        } else {
            (self.mapped, self.endpoint_port, self.peer, self.track.protocol())
                == (other.mapped, other.endpoint_port, other.peer, other.track.protocol())
                && self.endpoint == other.endpoint
        }
    }

    fn owner(&self, secret: [u64; 2]) -> u64 {
        let mut hasher = hasher(secret);
        hasher.write(self.client.bytes());
        hasher.finish()
    }
}
