//! The table of translated flows: two keys per entry, mapped ports, eviction.
//!
//! When it is full, an entry gives way by the rule in the module `flow`; when none may, the new flow is refused.

use super::slots::{AdmittedSlot, FlowSlot, FragmentSlot};
use super::state::{Class, Progress, Track};
use super::{Endpoint, NewFlow, PeerRef};
use crate::counters::DropReason;
use crate::rng::Rng;
use crate::storage::{Index, Link, Pool};
use crate::time::{Duration, Instant};
use crate::wire::ip::{Address, Transport};
use core::cmp::Reverse;
use core::hash::Hasher;
use core::net::IpAddr;
use serde::{Deserialize, Serialize};
use siphasher::sip::SipHasher13;

/// Entries that are looked at to make room for a new one.
pub const SAMPLE: u32 = 32;
/// Random ports that are tried when the client's own is taken: with half of them taken, one flow in 2^32 finds none.
const PORT_DRAWS: u32 = 32;
/// Ports below are not handed out at random: endpoints may treat them as privileged.
const FIRST_PORT: u16 = 1024;

/// All-zero memory for one flow machine. Each index should have at least twice the places that its table has
/// slots; a table with a smaller index is used only as far as the index reaches.
pub struct Resources<'a> {
    /// One per flow.
    pub flows: &'a mut [FlowSlot],
    /// Index of flows by client tuple.
    pub by_client: &'a mut [Link],
    /// Index of flows by peer, endpoint and mapped port.
    pub by_mapped: &'a mut [Link],
    /// Flows per source, sources hashed into these.
    pub sources: &'a mut [u32],
    /// One per tuple that a peer has with an endpoint of this node.
    pub admitted: &'a mut [AdmittedSlot],
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

/// Entries per hashed source; a collision only makes two sources share.
pub(super) struct Shares<'a> {
    counts: &'a mut [u32],
}

impl<'a> Shares<'a> {
    pub(super) fn new(counts: &'a mut [u32]) -> Self {
        Self { counts }
    }

    pub(super) fn get(&self, hash: u64) -> u32 {
        self.counts.get(self.place(hash)).copied().unwrap_or_default()
    }

    pub(super) fn change(&mut self, hash: u64, by: i32) {
        let place = self.place(hash);
        if let Some(count) = self.counts.get_mut(place) {
            *count = count.saturating_add_signed(by);
        }
    }

    pub(super) fn same(&self, a: u64, b: u64) -> bool {
        self.place(a) == self.place(b)
    }

    fn place(&self, hash: u64) -> usize {
        hash.checked_rem(self.counts.len() as u64).unwrap_or_default() as usize
    }
}

/// Least first: by class, then the source with most entries, then the one silent for longest.
type Rank = (Class, Reverse<u32>, Reverse<Duration>);

/// The entry that gives way to one of the source `newcomer`, out of [`SAMPLE`] behind a random one.
/// `look`: what it takes to judge an entry, and its source's hash. `own_only`: only the newcomer's own entries.
pub(super) fn victim(
    (now, draw): (Instant, u32),
    capacity: u32,
    shares: &Shares<'_>,
    newcomer: u64,
    own_only: bool,
    look: impl Fn(u32) -> Option<(Track, u64)>,
) -> Option<u32> {
    let mut best: Option<(Rank, u32)> = None;
    for step in 0..SAMPLE.min(capacity) {
        let id = draw.wrapping_add(step).checked_rem(capacity)?.saturating_add(1);
        let Some((track, source)) = look(id) else { continue };
        let Some(class) = track.class(now) else { continue };
        if own_only && !shares.same(source, newcomer) {
            continue;
        }
        let rank = (class, Reverse(shares.get(source)), Reverse(track.idle(now)));
        if best.is_none_or(|(least, _)| rank < least) {
            best = Some((rank, id));
        }
    }
    best.map(|(_, id)| id)
}

/// Whether a source may take what is free, or has to replace an entry of its own.
pub(super) fn has_its_share(capacity: u32, len: usize, count: u32) -> bool {
    let (capacity, len) = (u64::from(capacity), len as u64);
    len.saturating_mul(8) >= capacity.saturating_mul(7) && u64::from(count).saturating_mul(2) > capacity
}

pub(super) struct Table<'a> {
    flows: Pool<'a, FlowSlot>,
    by_client: Index<'a>,
    by_mapped: Index<'a>,
    sources: Shares<'a>,
    keys: [u64; 2],
}

impl<'a> Table<'a> {
    pub(super) fn new(
        flows: &'a mut [FlowSlot],
        by_client: &'a mut [Link],
        by_mapped: &'a mut [Link],
        sources: &'a mut [u32],
        keys: [u64; 2],
    ) -> Self {
        let (by_client, by_mapped) = (Index::new(by_client), Index::new(by_mapped));
        let flows = Pool::at_most(flows, by_client.capacity().min(by_mapped.capacity()));
        Self { flows, by_client, by_mapped, sources: Shares::new(sources), keys }
    }

    /// Takes over the slots of another run. Entries that cannot be told apart, or are none, are left out.
    pub(super) fn adopt(
        now: Instant,
        flows: &'a mut [FlowSlot],
        by_client: &'a mut [Link],
        by_mapped: &'a mut [Link],
        sources: &'a mut [u32],
        keys: [u64; 2],
    ) -> Self {
        by_client.fill(0);
        by_mapped.fill(0);
        sources.fill(0);
        let (by_client, by_mapped) = (Index::new(by_client), Index::new(by_mapped));
        let most = by_client.capacity().min(by_mapped.capacity());
        let flows = Pool::adopt(flows, most, |s| {
            let whole = [s.client, s.vip, s.endpoint].iter().all(|a| !a.is_none());
            whole && s.track.mend(now)
        });
        let mut table = Self { flows, by_client, by_mapped, sources: Shares::new(sources), keys };
        for id in 1..=table.flows.high_water() {
            let slot = table.slot(id);
            if table.find_same_client(&slot).is_some() || table.find_same_mapped(&slot).is_some() {
                table.flows.remove(id);
            } else {
                table.enter(id, &slot);
            }
        }
        table
    }

    /// Timer and deadline of every flow.
    pub(super) fn deadlines(&self) -> impl Iterator<Item = (u32, Instant)> {
        (1..=self.flows.high_water()).filter_map(|id| {
            let slot = self.flows.get(id).filter(|s| s.track.live())?;
            Some((id.saturating_sub(1), slot.track.deadline()))
        })
    }

    pub(super) fn find_client(&self, flow: &NewFlow) -> Option<u32> {
        self.find_same_client(&client_slot(flow))
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
        self.find_same_mapped(&probe)
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
            tried: None,
        }
    }

    pub(super) fn is_closing(&self, id: u32) -> bool {
        self.slot(id).track.is_closing()
    }

    pub(super) fn is_unreplied(&self, id: u32) -> bool {
        self.slot(id).track.is_unreplied()
    }

    pub(super) fn generation(&self, id: u32) -> u32 {
        self.slot(id).generation
    }

    pub(super) fn set_generation(&mut self, id: u32, generation: u32) {
        if let Some(slot) = self.flows.get_mut(id) {
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
        let slot = self.flows.get_mut(id)?;
        match slot.track.packet(now, from_client, t) {
            Progress::On => None,
            Progress::Sooner => Some((id.saturating_sub(1), slot.track.deadline())),
            Progress::Over => {
                self.remove(id);
                None
            }
        }
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
        let mut slot = FlowSlot {
            track: Track::ahead(now, new.protocol, false),
            endpoint: endpoint.address.into(),
            peer: endpoint.peer.0,
            generation,
            endpoint_port: endpoint.port,
            ..client_slot(new)
        };
        slot.mapped = self.free_port(&slot, rng).ok_or(DropReason::PortsFull)?;
        self.make_room(now, &slot, rng)?;
        self.insert(slot).ok_or(DropReason::FlowsFull)
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
        if self.find_same_client(&slot).is_some() || self.find_same_mapped(&slot).is_some() {
            return Err(DropReason::PortsFull);
        }
        self.insert(slot).ok_or(DropReason::FlowsFull)
    }

    pub(super) fn remove(&mut self, id: u32) {
        let Some(slot) = self.flows.get(id).copied().filter(|s| s.track.live()) else { return };
        let (keys, flows) = (self.keys, &self.flows);
        let slot_of = |id| flows.get(id).copied().unwrap_or(FlowSlot::ZERO);
        self.by_client.remove(client_hash(keys, &slot), id, |id| client_hash(keys, &slot_of(id)));
        self.by_mapped.remove(mapped_hash(keys, &slot), id, |id| mapped_hash(keys, &slot_of(id)));
        self.sources.change(source_hash(keys, slot.client), -1);
        self.flows.remove(id);
    }

    /// Ends the flow if its time is over, else says when that will be.
    pub(super) fn expire(&mut self, now: Instant, id: u32) -> Option<Instant> {
        let at = self.flows.get(id).filter(|s| s.track.live())?.track.deadline();
        if at > now {
            return Some(at);
        }
        self.remove(id);
        None
    }

    pub(super) fn records(&self, now: Instant) -> impl Iterator<Item = FlowRecord> {
        (1..=self.flows.high_water()).filter_map(move |id| {
            let s = self.flows.get(id).filter(|s| s.track.live())?;
            let (flow, (endpoint, mapped)) = (self.client(id), self.endpoint(id));
            Some(FlowRecord {
                protocol: flow.protocol,
                client: (flow.client, flow.client_port),
                vip: (flow.vip, flow.vip_port),
                peer: endpoint.peer.0,
                endpoint: (endpoint.address, endpoint.port),
                mapped,
                established: !s.track.is_unreplied(),
                idle_secs: u32::try_from(s.track.idle(now).as_secs()).unwrap_or(u32::MAX),
            })
        })
    }

    pub(super) fn len(&self) -> usize {
        self.flows.len()
    }

    pub(super) fn capacity(&self) -> u32 {
        self.flows.capacity() as u32
    }

    fn slot(&self, id: u32) -> FlowSlot {
        self.flows.get(id).copied().unwrap_or(FlowSlot::ZERO)
    }

    fn find_same_client(&self, probe: &FlowSlot) -> Option<u32> {
        let is_it = |id| self.flows.get(id).is_some_and(|s| same_client(s, probe));
        self.by_client.find(client_hash(self.keys, probe), is_it)
    }

    fn find_same_mapped(&self, probe: &FlowSlot) -> Option<u32> {
        let is_it = |id| self.flows.get(id).is_some_and(|s| same_mapped(s, probe));
        self.by_mapped.find(mapped_hash(self.keys, probe), is_it)
    }

    /// A port that no other flow to this endpoint uses: the client's own, else a random one.
    fn free_port(&self, slot: &FlowSlot, rng: &mut Rng) -> Option<u16> {
        let free = |mapped: &u16| self.find_same_mapped(&FlowSlot { mapped: *mapped, ..*slot }).is_none();
        if free(&slot.client_port) {
            return Some(slot.client_port);
        }
        let span = u32::from(u16::MAX).saturating_sub(u32::from(FIRST_PORT)).saturating_add(1);
        (0..PORT_DRAWS).map(|_| FIRST_PORT.saturating_add(rng.below(span) as u16)).find(free)
    }

    fn make_room(&mut self, now: Instant, slot: &FlowSlot, rng: &mut Rng) -> Result<(), DropReason> {
        let source = source_hash(self.keys, slot.client);
        let own_only = has_its_share(self.capacity(), self.len(), self.sources.get(source));
        if !own_only && self.flows.len() < self.flows.capacity() {
            return Ok(());
        }
        let look = |id| {
            let s = self.flows.get(id).filter(|s| s.track.live())?;
            Some((s.track, source_hash(self.keys, s.client)))
        };
        let draw = (now, rng.u32());
        let victim = victim(draw, self.capacity(), &self.sources, source, own_only, look);
        self.remove(victim.ok_or(DropReason::FlowsFull)?);
        Ok(())
    }

    fn insert(&mut self, slot: FlowSlot) -> Option<(u32, Instant)> {
        let id = self.flows.insert(slot)?;
        self.enter(id, &slot);
        Some((id.saturating_sub(1), slot.track.deadline()))
    }

    fn enter(&mut self, id: u32, slot: &FlowSlot) {
        self.by_client.insert(client_hash(self.keys, slot), id);
        self.by_mapped.insert(mapped_hash(self.keys, slot), id);
        self.sources.change(source_hash(self.keys, slot.client), 1);
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

fn same_client(a: &FlowSlot, b: &FlowSlot) -> bool {
    (a.client_port, a.vip_port, a.track.protocol()) == (b.client_port, b.vip_port, b.track.protocol())
        && a.client == b.client
        && a.vip == b.vip
}

fn same_mapped(a: &FlowSlot, b: &FlowSlot) -> bool {
    (a.mapped, a.endpoint_port, a.peer, a.track.protocol())
        == (b.mapped, b.endpoint_port, b.peer, b.track.protocol())
        && a.endpoint == b.endpoint
}

fn client_hash(keys: [u64; 2], s: &FlowSlot) -> u64 {
    let mut hasher = hasher(keys);
    hasher.write(s.client.bytes());
    hasher.write(s.vip.bytes());
    hasher.write_u64(ports(s.client_port, s.vip_port, s.track.protocol()));
    hasher.finish()
}

fn mapped_hash(keys: [u64; 2], s: &FlowSlot) -> u64 {
    let mut hasher = hasher(keys);
    hasher.write(s.endpoint.bytes());
    hasher.write_u64(ports(s.mapped, s.endpoint_port, s.track.protocol()));
    hasher.write_u32(s.peer);
    hasher.finish()
}

fn source_hash(keys: [u64; 2], client: Address) -> u64 {
    let mut hasher = hasher(keys);
    hasher.write(client.bytes());
    hasher.finish()
}

pub(super) fn ports(a: u16, b: u16, protocol: u8) -> u64 {
    u64::from(a) << 32 | u64::from(b) << 16 | u64::from(protocol)
}

pub(super) fn hasher([a, b]: [u64; 2]) -> SipHasher13 {
    SipHasher13::new_with_keys(a, b)
}
