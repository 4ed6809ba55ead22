//! Hosts, and sites behind boxes, with datagrams on the way between them.
//!
//! Zones form a tree below [`ZoneId::INTERNET`]; each other zone hangs at its parent by a [`Gateway`] and a
//! [`Cable`]. A NAT inside a NAT's zone is a carrier-grade one. A datagram goes up until a zone knows the
//! destination, then down; each box translates at the moment the datagram reaches it. Life cycle: build zones
//! and hosts, [`Network::send`], then [`Network::deliver`] at the times of [`Network::poll_arrival`].
//!
//! What is dropped is counted by [`Fate`]; the sender never hears of it.

use crate::firewall::{Firewall, Inbound};
use crate::link::{Cable, Link, LinkConfig, LinkDrop};
use crate::nat::{Nat, NatDrop};
use crate::pipe::{PipeEvent, PipeId, Pipes};
use crate::seeds;
use edgemesh_core::rng::Rng;
use edgemesh_core::time::Instant;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

/// A host of the network.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct HostId(usize);

/// A place where addresses are known.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct ZoneId(usize);

impl ZoneId {
    /// The zone of public addresses.
    pub const INTERNET: Self = Self(0);
}

/// A UDP datagram as one side sees it: boxes change the addresses on the way.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Datagram {
    /// Source.
    pub src: SocketAddr,
    /// Destination.
    pub dst: SocketAddr,
    /// Payload.
    pub bytes: Vec<u8>,
}

impl Datagram {
    /// Its size as an IP packet.
    fn packet_len(&self) -> usize {
        let headers = if self.dst.is_ipv4() { 20 + 8 } else { 40 + 8 };
        headers + self.bytes.len()
    }
}

/// Something that reached a host.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Arrival {
    /// A datagram.
    Datagram(HostId, Datagram),
    /// News of a pipe.
    Pipe(HostId, PipeId, PipeEvent),
}

/// What stands between a zone and its parent.
///
/// IPv4 is translated when there is a NAT box, and then only the firewall's `udp_out` counts; what is not
/// translated passes the firewall.
#[derive(Clone, Debug)]
pub struct Gateway {
    /// Translates IPv4.
    pub nat: Option<Nat>,
    /// Filters what is not translated.
    pub firewall: Firewall,
}

impl Gateway {
    /// A NAT box; IPv6 passes in both directions.
    pub fn nat(nat: Nat) -> Self {
        Self { nat: Some(nat), firewall: Firewall::new(Inbound::Open) }
    }

    /// No translation.
    pub fn firewall(firewall: Firewall) -> Self {
        Self { nat: None, firewall }
    }

    /// Whether addresses of `ip`'s family are hidden from the parent zone.
    fn hides(&self, ip: IpAddr) -> bool {
        ip.is_ipv4() && self.nat.is_some()
    }
}

/// What became of datagrams.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Fate {
    /// Handed to a host.
    Delivered,
    /// A link doubled it: two fates follow.
    Doubled,
    /// Lost by chance.
    Lost,
    /// A link's queue was full.
    QueueFull,
    /// Above a link's MTU.
    TooBig,
    /// A NAT box had no mapping.
    NoMapping,
    /// A NAT box or firewall did not admit it.
    Filtered,
    /// A NAT box had no room.
    NatFull,
    /// A NAT box does not hairpin.
    NoHairpin,
    /// Nobody has this address, or the sender none of its family.
    Unroutable,
    /// The test blocked this pair of hosts.
    Blocked,
}

impl From<LinkDrop> for Fate {
    fn from(drop: LinkDrop) -> Self {
        match drop {
            LinkDrop::Lost => Self::Lost,
            LinkDrop::QueueFull => Self::QueueFull,
            LinkDrop::TooBig => Self::TooBig,
        }
    }
}

impl From<NatDrop> for Fate {
    fn from(drop: NatDrop) -> Self {
        match drop {
            NatDrop::NoMapping => Self::NoMapping,
            NatDrop::Filtered => Self::Filtered,
            NatDrop::Full => Self::NatFull,
            NatDrop::NoHairpin => Self::NoHairpin,
        }
    }
}

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

    /// Sends a datagram.
    pub fn send(&mut self, now: Instant, from: HostId, port: u16, dst: SocketAddr, bytes: Vec<u8>) {
        let host = &mut self.hosts[from.0];
        let Some(address) = host.addresses.iter().find(|a| a.is_ipv4() == dst.is_ipv4()) else {
            return self.fate(Fate::Unroutable);
        };
        let datagram = Datagram { src: SocketAddr::new(*address, port), dst, bytes };
        let place = Place::Rising(host.zone);
        let exit = host.cable.up.offer(now, datagram.packet_len(), &mut self.rng);
        self.travel(exit, Transit { place, origin: from, datagram });
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
        match transit.place {
            Place::Host(host) if self.blocked.contains(&(transit.origin, host)) => self.fate(Fate::Blocked),
            Place::Host(host) => {
                self.fate(Fate::Delivered);
                return Some((host, transit.datagram));
            }
            Place::Rising(zone) => match self.rise(at, zone, transit) {
                Ok(()) => {}
                Err(fate) => self.fate(fate),
            },
            Place::Falling(zone) => match self.fall(at, zone, transit) {
                Ok(()) => {}
                Err(fate) => self.fate(fate),
            },
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
        let exit = uplink.cable.up.offer(at, transit.datagram.packet_len(), &mut self.rng);
        transit.place = Place::Rising(parent);
        self.travel(exit, transit);
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
        let exit = link.offer(at, transit.datagram.packet_len(), &mut self.rng);
        self.travel(exit, transit);
        Ok(())
    }

    fn travel(&mut self, exit: Result<crate::link::Exit, LinkDrop>, transit: Transit) {
        match exit {
            Err(drop) => self.fate(drop.into()),
            Ok(exit) => {
                if let Some(again) = exit.again {
                    self.fate(Fate::Doubled);
                    self.schedule(again, transit.clone());
                }
                self.schedule(exit.at, transit);
            }
        }
    }

    fn schedule(&mut self, at: Instant, transit: Transit) {
        self.sequence += 1;
        self.transits.insert((at, self.sequence), transit);
    }

    fn fate(&mut self, fate: Fate) {
        *self.fates.entry(fate).or_default() += 1;
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::filter::Behaviour::{AddressDependent, EndpointIndependent};
    use crate::nat::NatConfig;
    use edgemesh_core::time::Duration;

    fn at(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    fn millis(n: u64) -> Instant {
        Instant::ZERO.after(Duration::from_millis(n))
    }

    fn delayed(millis: u64) -> Cable {
        Cable::symmetric(LinkConfig::delayed(millis))
    }

    fn nat(config: NatConfig, external: &str) -> Gateway {
        Gateway::nat(Nat::new(config, external.parse().unwrap()))
    }

    /// Everything that arrives until nothing is under way, with its time in milliseconds.
    fn drain(network: &mut Network) -> Vec<(u64, HostId, Datagram)> {
        let mut seen = Vec::new();
        while let Some(time) = network.poll_arrival() {
            while let Some(arrival) = network.deliver(time) {
                let Arrival::Datagram(host, datagram) = arrival else { panic!("{arrival:?}") };
                seen.push((time.as_micros() / 1000, host, datagram));
            }
        }
        seen
    }

    #[test]
    fn a_nat_shows_its_own_address_and_lets_the_answer_back() {
        let mut network = Network::new(1);
        let server = network.add_host(ZoneId::INTERNET, at("203.0.113.1:0").ip(), delayed(20));
        let site = network.add_zone(ZoneId::INTERNET, nat(NatConfig::linux(), "198.51.100.1"), delayed(5));
        let client = network.add_host(site, at("192.168.1.2:0").ip(), delayed(1));
        network.send(millis(0), client, 5000, at("203.0.113.1:9"), vec![1]);
        let outside = at("198.51.100.1:5000");
        let there = Datagram { src: outside, dst: at("203.0.113.1:9"), bytes: vec![1] };
        assert_eq!(drain(&mut network), [(26, server, there)]);
        network.send(millis(30), server, 9, outside, vec![2]);
        let back = Datagram { src: at("203.0.113.1:9"), dst: at("192.168.1.2:5000"), bytes: vec![2] };
        assert_eq!(drain(&mut network), [(56, client, back)]);
        network.send(millis(60), server, 8, outside, vec![3]);
        network.send(millis(60), server, 9, at("198.51.100.1:5001"), vec![4]);
        network.send(millis(60), server, 9, at("198.51.100.77:1"), vec![5]);
        assert_eq!(drain(&mut network), []);
        let dropped = [Fate::Filtered, Fate::NoMapping, Fate::Unroutable].map(|fate| network.count(fate));
        assert_eq!(dropped, [1, 1, 1]);
    }

    #[test]
    fn neighbours_talk_past_the_box_and_hairpin_through_it() {
        let mut network = Network::new(1);
        let config = NatConfig { hairpin: true, ..NatConfig::linux() };
        let site = network.add_zone(ZoneId::INTERNET, nat(config, "198.51.100.1"), delayed(50));
        let one = network.add_host(site, at("192.168.1.2:0").ip(), delayed(1));
        let two = network.add_host(site, at("192.168.1.3:0").ip(), delayed(1));
        network.send(millis(0), one, 5000, at("192.168.1.3:6000"), vec![]);
        let direct = drain(&mut network);
        assert_eq!((direct[0].0, direct[0].1, direct[0].2.src), (2, two, at("192.168.1.2:5000")));
        network.send(millis(0), two, 6000, at("198.51.100.1:5000"), vec![]);
        network.send(millis(10), one, 5000, at("198.51.100.1:6000"), vec![]);
        let turned = drain(&mut network);
        assert_eq!(turned.len(), 1, "the first finds no mapping, the second is its answer");
        assert_eq!((turned[0].0, turned[0].1, turned[0].2.src), (12, two, at("198.51.100.1:5000")));
        assert_eq!(network.count(Fate::NoMapping), 1);
    }

    #[test]
    fn a_box_behind_a_box_translates_twice() {
        let mut network = Network::new(1);
        let server = network.add_host(ZoneId::INTERNET, at("203.0.113.1:0").ip(), delayed(1));
        let open = || NatConfig::new(EndpointIndependent, EndpointIndependent);
        let carrier = network.add_zone(ZoneId::INTERNET, nat(open(), "198.51.100.1"), delayed(1));
        let home = network.add_zone(carrier, nat(open(), "100.64.0.7"), delayed(1));
        let client = network.add_host(home, at("192.168.1.2:0").ip(), delayed(1));
        network.send(millis(0), client, 5000, at("203.0.113.1:9"), vec![]);
        let there = drain(&mut network);
        assert_eq!((there[0].0, there[0].1, there[0].2.src.ip()), (4, server, at("198.51.100.1:0").ip()));
        network.send(millis(9), server, 1, there[0].2.src, vec![]);
        let back = drain(&mut network);
        assert_eq!((back[0].0, back[0].1, back[0].2.dst), (13, client, at("192.168.1.2:5000")));
    }

    #[test]
    fn ipv6_passes_beside_the_nat_under_the_firewall_rule() {
        let mut network = Network::new(1);
        let mut gateway = nat(NatConfig::linux(), "198.51.100.1");
        gateway.firewall = Firewall::home();
        let site = network.add_zone(ZoneId::INTERNET, gateway, delayed(1));
        let client = network.add_host(site, at("192.168.1.2:0").ip(), delayed(1));
        network.add_address(client, at("[2001:db8:1::2]:0").ip());
        let server = network.add_host(ZoneId::INTERNET, at("[2001:db8:2::1]:0").ip(), delayed(1));
        network.send(millis(0), server, 9, at("[2001:db8:1::2]:5000"), vec![]);
        assert_eq!((drain(&mut network), network.count(Fate::Filtered)), (vec![], 1));
        network.send(millis(1), client, 5000, at("[2001:db8:2::1]:9"), vec![]);
        assert_eq!(drain(&mut network)[0].2.src, at("[2001:db8:1::2]:5000"));
        network.send(millis(2), server, 9, at("[2001:db8:1::2]:5000"), vec![]);
        assert_eq!(drain(&mut network)[0].1, client);
        network.send(millis(3), server, 9, at("198.51.100.1:1"), vec![]);
        assert_eq!(network.count(Fate::Unroutable), 1, "an IPv6 host has no IPv4 to send from");
    }

    #[test]
    fn udp_can_be_shut_off_behind_a_nat_and_between_hosts() {
        let mut network = Network::new(1);
        let site = network.add_zone(ZoneId::INTERNET, nat(NatConfig::linux(), "198.51.100.1"), delayed(1));
        let client = network.add_host(site, at("192.168.1.2:0").ip(), delayed(1));
        let server = network.add_host(ZoneId::INTERNET, at("203.0.113.1:0").ip(), delayed(1));
        let arrives = |network: &mut Network| {
            network.send(millis(0), client, 5000, at("203.0.113.1:9"), vec![]);
            drain(network).len() == 1
        };
        assert!(arrives(&mut network));
        network.block(server, client, true);
        assert!(!arrives(&mut network));
        network.block(client, server, false);
        assert!(arrives(&mut network));
        network.gateway(site).firewall = Firewall::no_udp();
        assert!(!arrives(&mut network));
        assert_eq!([network.count(Fate::Blocked), network.count(Fate::Filtered)], [1, 1]);
    }

    #[test]
    fn links_and_full_boxes_count_what_they_drop() {
        let mut network = Network::new(1);
        let config = NatConfig { capacity: 1, hairpin: false, ..NatConfig::symmetric() };
        let site = network.add_zone(ZoneId::INTERNET, nat(config, "198.51.100.1"), delayed(1));
        let client = network.add_host(site, at("192.168.1.2:0").ip(), delayed(1));
        network.add_host(ZoneId::INTERNET, at("203.0.113.1:0").ip(), delayed(1));
        network.send(millis(0), client, 1, at("203.0.113.1:9"), vec![]);
        network.send(millis(0), client, 2, at("203.0.113.1:9"), vec![]);
        network.send(millis(0), client, 1, at("198.51.100.1:9"), vec![]);
        network.send(millis(0), client, 1, at("203.0.113.1:9"), vec![0; 1473]);
        network.zone_cable(site).configure(LinkConfig { loss: 1_000_000, ..LinkConfig::PERFECT });
        assert_eq!(drain(&mut network).len(), 0);
        network.zone_cable(site).configure(LinkConfig { duplicate: 1_000_000, ..LinkConfig::PERFECT });
        network.send(millis(9), client, 1, at("203.0.113.1:9"), vec![0; 1472]);
        assert_eq!(drain(&mut network).len(), 2);
        let config = LinkConfig { rate: 1, queue: 10, ..LinkConfig::PERFECT };
        network.host_cable(client).configure(config);
        network.send(millis(9), client, 1, at("203.0.113.1:9"), vec![]);
        let fates =
            [Fate::NatFull, Fate::NoHairpin, Fate::TooBig, Fate::Lost, Fate::Doubled, Fate::QueueFull];
        assert_eq!(fates.map(|fate| network.count(fate)), [1; 6]);
    }

    #[test]
    fn rebinding_and_moving_leave_the_old_address_behind() {
        let mut network = Network::new(1);
        let server = network.add_host(ZoneId::INTERNET, at("203.0.113.1:0").ip(), delayed(1));
        let site = network.add_zone(ZoneId::INTERNET, nat(NatConfig::linux(), "198.51.100.1"), delayed(1));
        let client = network.add_host(site, at("192.168.1.2:0").ip(), delayed(1));
        let seen_as = |network: &mut Network, now| {
            network.send(millis(now), client, 5000, at("203.0.113.1:9"), vec![]);
            let arrived = drain(network);
            assert_eq!(arrived[0].1, server);
            arrived[0].2.src.ip().to_string()
        };
        assert_eq!(seen_as(&mut network, 0), "198.51.100.1");
        network.rebind(millis(10), site, at("198.51.100.2:0").ip());
        network.send(millis(10), server, 9, at("198.51.100.1:5000"), vec![]);
        assert_eq!((drain(&mut network), network.count(Fate::Unroutable)), (vec![], 1));
        assert_eq!(seen_as(&mut network, 20), "198.51.100.2");
        network.move_host(millis(30), client, ZoneId::INTERNET, at("203.0.113.7:0").ip());
        assert_eq!(seen_as(&mut network, 30), "203.0.113.7");
        assert_eq!(network.addresses(client), [at("203.0.113.7:0").ip()]);
    }

    #[test]
    fn equal_seeds_replay_equal_networks() {
        let trace = |seed| {
            let mut network = Network::new(seed);
            let config = NatConfig::new(AddressDependent, AddressDependent);
            let bad = Cable::symmetric(LinkConfig::dreadful());
            network.add_host(ZoneId::INTERNET, at("203.0.113.1:0").ip(), bad.clone());
            let site = network.add_zone(ZoneId::INTERNET, nat(config, "198.51.100.1"), bad.clone());
            let client = network.add_host(site, at("192.168.1.2:0").ip(), bad);
            for n in 0..200 {
                network.send(millis(n), client, n as u16, at("203.0.113.1:9"), vec![n as u8; 50]);
            }
            drain(&mut network)
        };
        assert_eq!(trace(1), trace(1));
        assert_ne!(trace(1), trace(2));
    }
}
