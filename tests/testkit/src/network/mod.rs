//! Hosts, and sites behind boxes, with datagrams on the way between them.
//!
//! Zones form a tree below [`ZoneId::INTERNET`]; each other zone hangs at its parent by a [`Gateway`] and a
//! [`Cable`]. A NAT inside a NAT's zone is a carrier-grade one. A datagram goes up until a zone knows the
//! destination, then down; each box translates at the moment the datagram reaches it. Life cycle: build zones
//! and hosts, [`Network::send`], then [`Network::deliver`] at the times of [`Network::poll_arrival`].
//!
//! What is dropped is counted by [`Fate`]; the sender never hears of it. A test that accounts for every datagram lets
//! it be written down ([`Network::record`]).

mod parts;
#[cfg(test)]
mod tests;

pub use parts::{Arrival, Datagram, Fate, Gateway, HostId, Tail, ZoneId};

use crate::firewall::Inbound;
use crate::link::{Cable, Exit, Link, LinkConfig, LinkDrop, chance};
use crate::nat::Nat;
use crate::pipe::Pipes;
use crate::seeds;
use edgemesh_core::rng::Rng;
use edgemesh_core::time::Instant;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Owner {
    Host(HostId),
    Child(ZoneId),
}

#[derive(Debug)]
struct Host {
    zone: ZoneId,
    addresses: Vec<IpAddr>,
    cable: Cable,
}

#[derive(Debug, Default)]
struct Zone {
    up: Option<Uplink>,
    addresses: BTreeMap<IpAddr, Owner>,
}

#[derive(Debug)]
struct Uplink {
    parent: ZoneId,
    gateway: Gateway,
    cable: Cable,
}

/// Where a datagram is when its time comes.
#[derive(Clone, Copy, Debug)]
enum Place {
    /// In a zone, from below: from one of its hosts or a child zone.
    Rising(ZoneId),
    /// At a zone's gateway, from above.
    Falling(ZoneId),
    /// At the host.
    Host(HostId),
}

#[derive(Clone, Debug)]
struct Transit {
    place: Place,
    origin: HostId,
    datagram: Datagram,
}

/// The way between two hosts, for pipes.
pub(crate) struct Route {
    pub(crate) to: HostId,
    /// Every link passed: there, and its opposite direction back.
    pub(crate) links: Vec<(LinkConfig, LinkConfig)>,
    /// Every zone whose gateway is passed.
    pub(crate) zones: Vec<ZoneId>,
    /// The source as the far side sees it.
    pub(crate) source: IpAddr,
}

/// The network.
pub struct Network {
    hosts: Vec<Host>,
    zones: Vec<Zone>,
    transits: BTreeMap<(Instant, u64), Transit>,
    sequence: u64,
    fates: BTreeMap<Fate, u64>,
    record: Option<Vec<(Fate, Tail)>>,
    blocked: BTreeSet<(HostId, HostId)>,
    rng: Rng,
    pub(crate) pipes: Pipes,
}

impl Network {
    /// The internet, without hosts.
    pub fn new(seed: u64) -> Self {
        Self {
            hosts: Vec::new(),
            zones: vec![Zone::default()],
            transits: BTreeMap::new(),
            sequence: 0,
            fates: BTreeMap::new(),
            record: None,
            blocked: BTreeSet::new(),
            rng: seeds::rng(seed, 0),
            pipes: Pipes::new(seeds::rng(seed, 1)),
        }
    }

    /// A zone below `parent`.
    ///
    /// # Panics
    /// When the gateway's outside address is taken in `parent`.
    pub fn add_zone(&mut self, parent: ZoneId, gateway: Gateway, cable: Cable) -> ZoneId {
        let zone = ZoneId(self.zones.len());
        let external = gateway.nat.as_ref().map(Nat::external);
        self.zones.push(Zone { up: Some(Uplink { parent, gateway, cable }), addresses: BTreeMap::new() });
        if let Some(external) = external {
            self.register(parent, external, Owner::Child(zone));
        }
        zone
    }

    /// A host with one address; [`Network::add_address`] adds more.
    ///
    /// # Panics
    /// When the address is taken in `zone`.
    pub fn add_host(&mut self, zone: ZoneId, address: IpAddr, cable: Cable) -> HostId {
        let host = HostId(self.hosts.len());
        self.hosts.push(Host { zone, addresses: Vec::new(), cable });
        self.add_address(host, address);
        host
    }

    /// One more address of a host. It sends from its first address of the destination's family.
    ///
    /// # Panics
    /// When the address is taken.
    pub fn add_address(&mut self, host: HostId, address: IpAddr) {
        self.register(self.hosts[host.0].zone, address, Owner::Host(host));
        self.hosts[host.0].addresses.push(address);
    }

    /// Moves a host to another zone, with one new address. Its pipes are cut.
    ///
    /// # Panics
    /// When the address is taken.
    pub fn move_host(&mut self, now: Instant, host: HostId, zone: ZoneId, address: IpAddr) {
        for old in std::mem::take(&mut self.hosts[host.0].addresses) {
            self.unregister(self.hosts[host.0].zone, old);
        }
        self.hosts[host.0].zone = zone;
        self.add_address(host, address);
        self.cut_pipes_of(now, host);
    }

    /// Makes the NAT box of `zone` forget its mappings and take `external` as its outside address. Pipes
    /// through it are cut.
    ///
    /// # Panics
    /// When the zone has no NAT box, or the address is another's.
    pub fn rebind(&mut self, now: Instant, zone: ZoneId, external: IpAddr) {
        let uplink = self.zones[zone.0].up.as_mut().expect("the internet has no gateway");
        let nat = uplink.gateway.nat.as_mut().expect("this zone has no NAT box");
        let (parent, old) = (uplink.parent, nat.external());
        nat.rebind(external);
        self.unregister(parent, old);
        self.register(parent, external, Owner::Child(zone));
        self.pipes.cut_where(now, |pipe| pipe.zones.contains(&zone));
    }

    /// The gateway above a zone, to change.
    ///
    /// # Panics
    /// For the internet, which has none.
    pub fn gateway(&mut self, zone: ZoneId) -> &mut Gateway {
        &mut self.zones[zone.0].up.as_mut().expect("the internet has no gateway").gateway
    }

    /// The cable above a zone, to change.
    ///
    /// # Panics
    /// For the internet, which has none.
    pub fn zone_cable(&mut self, zone: ZoneId) -> &mut Cable {
        &mut self.zones[zone.0].up.as_mut().expect("the internet has no uplink").cable
    }

    /// A host's cable, to change.
    pub fn host_cable(&mut self, host: HostId) -> &mut Cable {
        &mut self.hosts[host.0].cable
    }

    /// A host's addresses.
    pub fn addresses(&self, host: HostId) -> &[IpAddr] {
        &self.hosts[host.0].addresses
    }

    /// The zone a host is in.
    pub fn zone_of(&self, host: HostId) -> ZoneId {
        self.hosts[host.0].zone
    }

    /// Drops, or no longer drops, datagrams between two hosts in both directions, whatever their addresses.
    pub fn block(&mut self, one: HostId, other: HostId, block: bool) {
        for pair in [(one, other), (other, one)] {
            if block {
                self.blocked.insert(pair);
            } else {
                self.blocked.remove(&pair);
            }
        }
    }

    /// How many datagrams had this fate.
    pub fn count(&self, fate: Fate) -> u64 {
        self.fates.get(&fate).copied().unwrap_or_default()
    }

    /// Writes down from here on what becomes of datagrams, but for their delivery.
    pub fn record(&mut self) {
        self.record.get_or_insert_default();
    }

    /// What was written down since this was asked last.
    pub fn take_record(&mut self) -> Vec<(Fate, Tail)> {
        self.record.as_mut().map(std::mem::take).unwrap_or_default()
    }

    /// Whether any datagram is on its way.
    pub fn is_carrying(&self) -> bool {
        !self.transits.is_empty()
    }

    /// Sends a datagram.
    pub fn send(&mut self, now: Instant, from: HostId, port: u16, dst: SocketAddr, bytes: Vec<u8>) {
        let host = &mut self.hosts[from.0];
        let Some(address) = host.addresses.iter().find(|a| a.is_ipv4() == dst.is_ipv4()) else {
            return self.fate(Fate::Unroutable, Tail::of(&bytes));
        };
        let datagram = Datagram { src: SocketAddr::new(*address, port), dst, bytes };
        let place = Place::Rising(host.zone);
        let (exit, corrupt) = offer(&mut host.cable.up, now, &datagram, &mut self.rng);
        self.travel(exit, corrupt, Transit { place, origin: from, datagram });
    }

    /// When [`Network::deliver`] has something to do next. It may be a box on the way, and deliver nothing.
    #[must_use]
    pub fn poll_arrival(&self) -> Option<Instant> {
        let datagram = self.transits.first_key_value().map(|((at, _), _)| *at);
        datagram.into_iter().chain(self.pipes.poll_arrival()).min()
    }

    /// Takes the next arrival at or before `now`; call until `None`.
    pub fn deliver(&mut self, now: Instant) -> Option<Arrival> {
        while let Some((&(at, number), _)) = self.transits.first_key_value()
            && at <= now
        {
            let transit = self.transits.remove(&(at, number))?;
            if let Some((host, datagram)) = self.advance(at, transit) {
                return Some(Arrival::Datagram(host, datagram));
            }
        }
        self.pipes.deliver(now).map(|(host, pipe, event)| Arrival::Pipe(host, pipe, event))
    }

    fn advance(&mut self, at: Instant, transit: Transit) -> Option<(HostId, Datagram)> {
        let tail = Tail::of(&transit.datagram.bytes);
        let moved = match transit.place {
            Place::Host(host) if self.blocked.contains(&(transit.origin, host)) => Err(Fate::Blocked),
            Place::Host(host) => {
                self.fate(Fate::Delivered, tail);
                return Some((host, transit.datagram));
            }
            Place::Rising(zone) => self.rise(at, zone, transit),
            Place::Falling(zone) => self.fall(at, zone, transit),
        };
        if let Err(fate) = moved {
            self.fate(fate, tail);
        }
        None
    }

    /// In a zone, from below: down to who has the address, or on through the gateway.
    fn rise(&mut self, at: Instant, zone: ZoneId, mut transit: Transit) -> Result<(), Fate> {
        if let Some(owner) = self.zones[zone.0].addresses.get(&transit.datagram.dst.ip()).copied() {
            return self.descend(at, owner, transit);
        }
        let Transit { datagram: Datagram { src, dst, .. }, .. } = &mut transit;
        let uplink = self.zones[zone.0].up.as_mut().ok_or(Fate::Unroutable)?;
        let Gateway { nat, firewall } = &mut uplink.gateway;
        if !firewall.outbound(at, *src, *dst) {
            return Err(Fate::Filtered);
        }
        if let Some(nat) = nat.as_mut().filter(|_| dst.is_ipv4()) {
            if dst.ip() == nat.external() {
                (*src, *dst) = nat.hairpin(at, *src, *dst, &mut self.rng)?;
                let owner = self.zones[zone.0].addresses.get(&dst.ip()).copied().ok_or(Fate::Unroutable)?;
                return self.descend(at, owner, transit);
            }
            *src = nat.outbound(at, *src, *dst, &mut self.rng)?;
        }
        let parent = uplink.parent;
        let (exit, corrupt) = offer(&mut uplink.cable.up, at, &transit.datagram, &mut self.rng);
        transit.place = Place::Rising(parent);
        self.travel(exit, corrupt, transit);
        Ok(())
    }

    /// At a zone's gateway, from above: in, if the gateway lets it.
    fn fall(&mut self, at: Instant, zone: ZoneId, mut transit: Transit) -> Result<(), Fate> {
        let Transit { datagram: Datagram { src, dst, .. }, .. } = &mut transit;
        let uplink = self.zones[zone.0].up.as_mut().ok_or(Fate::Unroutable)?;
        let Gateway { nat, firewall } = &mut uplink.gateway;
        match nat {
            Some(nat) if dst.ip() == nat.external() => {
                *dst = nat.inbound(at, *src, dst.port())?;
                if !firewall.udp_out {
                    return Err(Fate::Filtered);
                }
            }
            _ if !firewall.inbound(at, *src, *dst) => return Err(Fate::Filtered),
            _ => {}
        }
        let owner = self.zones[zone.0].addresses.get(&dst.ip()).copied().ok_or(Fate::Unroutable)?;
        self.descend(at, owner, transit)
    }

    fn descend(&mut self, at: Instant, owner: Owner, mut transit: Transit) -> Result<(), Fate> {
        let link: &mut Link = match owner {
            Owner::Host(host) => {
                transit.place = Place::Host(host);
                &mut self.hosts[host.0].cable.down
            }
            Owner::Child(zone) => {
                transit.place = Place::Falling(zone);
                &mut self.zones[zone.0].up.as_mut().ok_or(Fate::Unroutable)?.cable.down
            }
        };
        let (exit, corrupt) = offer(link, at, &transit.datagram, &mut self.rng);
        self.travel(exit, corrupt, transit);
        Ok(())
    }

    fn travel(&mut self, exit: Result<Exit, LinkDrop>, corrupt: bool, mut transit: Transit) {
        let tail = Tail::of(&transit.datagram.bytes);
        match exit {
            Err(drop) => self.fate(drop.into(), tail),
            Ok(exit) => {
                if let Some(again) = exit.again {
                    self.fate(Fate::Doubled, tail);
                    self.schedule(again, transit.clone());
                }
                // Not in its tail, so that it is known again.
                if let Some(len @ 1..) = transit.datagram.bytes.len().checked_sub(Tail::LEN)
                    && corrupt
                {
                    self.fate(Fate::Corrupted, tail);
                    let at = self.rng.below(len as u32) as usize;
                    transit.datagram.bytes[at] ^= 1 << self.rng.below(8);
                }
                self.schedule(exit.at, transit);
            }
        }
    }

    fn schedule(&mut self, at: Instant, transit: Transit) {
        self.sequence += 1;
        self.transits.insert((at, self.sequence), transit);
    }

    pub(crate) fn fate(&mut self, fate: Fate, tail: Tail) {
        *self.fates.entry(fate).or_default() += 1;
        if let Some(record) = self.record.as_mut().filter(|_| fate != Fate::Delivered) {
            record.push((fate, tail));
        }
    }

    /// Makes `ip` known in `zone`, and above it as far as no NAT hides it.
    fn register(&mut self, mut zone: ZoneId, ip: IpAddr, owner: Owner) {
        let mut owner = owner;
        loop {
            let before = self.zones[zone.0].addresses.insert(ip, owner);
            assert!(before.is_none(), "{ip} is taken");
            match &self.zones[zone.0].up {
                Some(uplink) if !uplink.gateway.hides(ip) => {
                    owner = Owner::Child(zone);
                    zone = uplink.parent;
                }
                _ => return,
            }
        }
    }

    fn unregister(&mut self, mut zone: ZoneId, ip: IpAddr) {
        loop {
            self.zones[zone.0].addresses.remove(&ip);
            match &self.zones[zone.0].up {
                Some(uplink) if !uplink.gateway.hides(ip) => zone = uplink.parent,
                _ => return,
            }
        }
    }

    /// The way of a connection that `from` opens to `dst`; `None` when there is none. NAT boxes and firewalls
    /// let it out and nothing in.
    pub(crate) fn route(&self, from: HostId, dst: IpAddr) -> Option<Route> {
        let host = &self.hosts[from.0];
        let mut source = *host.addresses.iter().find(|a| a.is_ipv4() == dst.is_ipv4())?;
        let mut links = vec![(host.cable.up.config, host.cable.down.config)];
        let (mut zones, mut zone) = (Vec::new(), host.zone);
        let mut owner = loop {
            if let Some(owner) = self.zones[zone.0].addresses.get(&dst) {
                break *owner;
            }
            let uplink = self.zones[zone.0].up.as_ref()?;
            if let Some(nat) = uplink.gateway.nat.as_ref().filter(|_| dst.is_ipv4()) {
                source = nat.external();
            }
            links.push((uplink.cable.up.config, uplink.cable.down.config));
            zones.push(zone);
            zone = uplink.parent;
        };
        loop {
            match owner {
                Owner::Host(to) => {
                    let cable = &self.hosts[to.0].cable;
                    links.push((cable.down.config, cable.up.config));
                    return Some(Route { to, links, zones, source });
                }
                Owner::Child(child) => {
                    let uplink = self.zones[child.0].up.as_ref()?;
                    let closed =
                        uplink.gateway.hides(dst) || uplink.gateway.firewall.inbound != Inbound::Open;
                    if closed {
                        return None;
                    }
                    links.push((uplink.cable.down.config, uplink.cable.up.config));
                    zones.push(child);
                    owner = *self.zones[child.0].addresses.get(&dst)?;
                }
            }
        }
    }
}

/// Offers a datagram to a link; when it comes out, and whether changed.
fn offer(link: &mut Link, at: Instant, datagram: &Datagram, rng: &mut Rng) -> (Result<Exit, LinkDrop>, bool) {
    (link.offer(at, datagram.packet_len(), rng), chance(rng, link.config.corrupt))
}
