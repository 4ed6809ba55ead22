//! A NAT box: RFC 4787's mapping x filtering, expiry, port allocation, hairpin, and rebinding on command.
//!
//! Sans-IO and without chance of its own: the caller passes time and the generator for random ports. One public
//! address ("paired pooling"). A port belongs to one mapping; filters are per mapping. When `capacity` mappings
//! live, new ones are refused, as carrier-grade boxes do with a subscriber over quota.
//!
//! It deliberately knows no TCP and sends no ICMP.

use crate::filter::{Behaviour, Permissions, Scope};
use edgemesh_core::rng::Rng;
use edgemesh_core::time::{Duration, Instant};
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;

/// Which external port a new mapping gets.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ports {
    /// The internal one when it is free, else the next free one above.
    Preserving,
    /// Any free one.
    Random,
    /// The one after the last given out.
    Sequential,
}

/// What happens to packets for the box that no mapping or filter lets through.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Unsolicited {
    /// Nothing, as it should be.
    Drop,
    /// The box remembers (port, remote) as a flow of its own, as Linux does when its input chain accepts. A
    /// mapping that needs this very pair then gets another port: an early probe spoils the punch.
    Poison,
}

/// A NAT box's character.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NatConfig {
    /// RFC 4787, section 4.1.
    pub mapping: Behaviour,
    /// RFC 4787, section 5.
    pub filtering: Behaviour,
    /// RFC 4787, section 4.2.
    pub ports: Ports,
    /// External ports to give out; a carrier's port block is a short range.
    pub range: RangeInclusive<u16>,
    /// How long a mapping and each of its permissions live unused (RFC 4787, section 4.3: at least 2 min).
    pub expiry: Duration,
    /// Whether packets from outside keep a mapping alive too.
    pub inbound_refreshes: bool,
    /// Whether inside hosts reach each other through their external addresses (RFC 4787, section 6).
    pub hairpin: bool,
    /// Mappings that may live at once.
    pub capacity: usize,
    /// What unsolicited packets do.
    pub unsolicited: Unsolicited,
}

impl NatConfig {
    /// A box of the given class with random ports, 2 min expiry, hairpin and room for 4096 mappings.
    pub fn new(mapping: Behaviour, filtering: Behaviour) -> Self {
        Self {
            mapping,
            filtering,
            ports: Ports::Random,
            range: 1024..=u16::MAX,
            expiry: Duration::from_secs(120),
            inbound_refreshes: true,
            hairpin: true,
            capacity: 4096,
            unsolicited: Unsolicited::Drop,
        }
    }

    /// What Linux's `masquerade` does: ports kept, address and port dependent filter, 30 s, no hairpin.
    pub fn linux() -> Self {
        Self {
            ports: Ports::Preserving,
            expiry: Duration::from_secs(30),
            hairpin: false,
            ..Self::new(Behaviour::EndpointIndependent, Behaviour::AddressAndPortDependent)
        }
    }

    /// A "symmetric" NAT: everything depends on everything.
    pub fn symmetric() -> Self {
        Self::new(Behaviour::AddressAndPortDependent, Behaviour::AddressAndPortDependent)
    }
}

/// Why a box dropped a packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum NatDrop {
    /// No mapping at this external port, or it has expired.
    NoMapping,
    /// The mapping's filter refuses this remote.
    Filtered,
    /// No room, or no port, for another mapping.
    Full,
    /// From inside to the box's own address, which does not hairpin.
    NoHairpin,
}

#[derive(Clone, Debug)]
struct Mapping {
    key: Key,
    used: Instant,
    permissions: Permissions,
}

/// An internal endpoint, and the remotes that share its mapping.
type Key = (SocketAddr, Scope);

/// A NAT box.
#[derive(Clone, Debug)]
pub struct Nat {
    config: NatConfig,
    external: IpAddr,
    by_port: BTreeMap<u16, Mapping>,
    by_key: BTreeMap<Key, u16>,
    poisoned: BTreeMap<(u16, SocketAddr), Instant>,
    last_port: u16,
}

impl Nat {
    /// An empty box whose outside address is `external`.
    pub fn new(config: NatConfig, external: IpAddr) -> Self {
        let last_port = config.range.start().saturating_sub(1);
        Self {
            config,
            external,
            by_port: BTreeMap::new(),
            by_key: BTreeMap::new(),
            poisoned: BTreeMap::new(),
            last_port,
        }
    }

    /// The outside address.
    pub fn external(&self) -> IpAddr {
        self.external
    }

    /// Its character.
    pub fn config(&self) -> &NatConfig {
        &self.config
    }

    /// Mappings that are alive.
    pub fn mappings(&self, now: Instant) -> usize {
        self.by_port.values().filter(|mapping| self.alive(mapping, now)).count()
    }

    /// Forgets everything, as after a reboot or a new lease; `external` is the outside address from now on.
    /// The port sequence goes on, so a sequential box does not give out the same ports again.
    pub fn rebind(&mut self, external: IpAddr) {
        self.external = external;
        self.by_port.clear();
        self.by_key.clear();
        self.poisoned.clear();
    }

    /// A packet from inside, `from` to `to`: its source on the outside.
    ///
    /// # Errors
    /// [`NatDrop::Full`].
    pub fn outbound(
        &mut self,
        now: Instant,
        from: SocketAddr,
        to: SocketAddr,
        rng: &mut Rng,
    ) -> Result<SocketAddr, NatDrop> {
        let mut port = self.map(now, (from, self.config.mapping.scope(to)), to, rng)?;
        if self.is_poisoned(now, port, to) {
            port = self.map(now, (from, Scope::Endpoint(to)), to, rng)?;
        }
        let filtering = self.config.filtering;
        if let Some(mapping) = self.by_port.get_mut(&port) {
            mapping.used = now;
            mapping.permissions.grant(now, filtering, to);
        }
        Ok(SocketAddr::new(self.external, port))
    }

    /// A packet from outside, `from` to the external `port`: its destination on the inside.
    ///
    /// # Errors
    /// [`NatDrop::NoMapping`] or [`NatDrop::Filtered`].
    pub fn inbound(&mut self, now: Instant, from: SocketAddr, port: u16) -> Result<SocketAddr, NatDrop> {
        let outcome = self.admit(now, from, port);
        if outcome.is_err() && self.config.unsolicited == Unsolicited::Poison {
            self.poisoned.insert((port, from), now);
        }
        outcome
    }

    /// A packet from inside to the box's own address: its outside source and its inside destination.
    ///
    /// # Errors
    /// Any [`NatDrop`].
    pub fn hairpin(
        &mut self,
        now: Instant,
        from: SocketAddr,
        to: SocketAddr,
        rng: &mut Rng,
    ) -> Result<(SocketAddr, SocketAddr), NatDrop> {
        if !self.config.hairpin {
            return Err(NatDrop::NoHairpin);
        }
        let source = self.outbound(now, from, to, rng)?;
        Ok((source, self.inbound(now, source, to.port())?))
    }

    fn admit(&mut self, now: Instant, from: SocketAddr, port: u16) -> Result<SocketAddr, NatDrop> {
        let NatConfig { filtering, expiry, inbound_refreshes, .. } = self.config;
        let mapping = self
            .by_port
            .get_mut(&port)
            .filter(|mapping| now < mapping.used.after(expiry))
            .ok_or(NatDrop::NoMapping)?;
        let open = filtering == Behaviour::EndpointIndependent
            || mapping.permissions.allows(now, filtering, expiry, from);
        if !open {
            return Err(NatDrop::Filtered);
        }
        if inbound_refreshes {
            mapping.used = now;
            mapping.permissions.grant(now, filtering, from);
        }
        Ok(mapping.key.0)
    }

    /// The external port of `key`, made when there is none.
    fn map(&mut self, now: Instant, key: Key, to: SocketAddr, rng: &mut Rng) -> Result<u16, NatDrop> {
        if let Some(port) = self.by_key.get(&key).copied()
            && self.by_port.get(&port).is_some_and(|mapping| self.alive(mapping, now))
        {
            return Ok(port);
        }
        self.forget_expired(now);
        if self.by_port.len() >= self.config.capacity {
            return Err(NatDrop::Full);
        }
        let port = self.allocate(now, key.0.port(), to, rng).ok_or(NatDrop::Full)?;
        self.by_key.insert(key, port);
        self.by_port.insert(port, Mapping { key, used: now, permissions: Permissions::default() });
        Ok(port)
    }

    fn allocate(&mut self, now: Instant, wanted: u16, to: SocketAddr, rng: &mut Rng) -> Option<u16> {
        let (low, high) = (*self.config.range.start(), *self.config.range.end());
        let first = match self.config.ports {
            Ports::Preserving => wanted,
            Ports::Random => low + rng.below(u32::from(high - low) + 1) as u16,
            Ports::Sequential => self.last_port.wrapping_add(1),
        };
        let first = if self.config.range.contains(&first) { first } else { low };
        let port = (first..=high)
            .chain(low..first)
            .find(|port| !self.by_port.contains_key(port) && !self.is_poisoned(now, *port, to))?;
        self.last_port = port;
        Some(port)
    }

    fn alive(&self, mapping: &Mapping, now: Instant) -> bool {
        now < mapping.used.after(self.config.expiry)
    }

    fn is_poisoned(&self, now: Instant, port: u16, remote: SocketAddr) -> bool {
        self.poisoned.get(&(port, remote)).is_some_and(|seen| now < seen.after(self.config.expiry))
    }

    fn forget_expired(&mut self, now: Instant) {
        let expiry = self.config.expiry;
        self.by_port.retain(|_, mapping| now < mapping.used.after(expiry));
        self.by_key.retain(|_, port| self.by_port.contains_key(port));
        self.poisoned.retain(|_, seen| now < seen.after(expiry));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::seeds::rng;
    use Behaviour::{AddressAndPortDependent, AddressDependent, EndpointIndependent};

    fn at(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    fn secs(n: u64) -> Instant {
        Instant::ZERO.after(Duration::from_secs(n))
    }

    fn nat(config: NatConfig) -> Nat {
        Nat::new(config, "198.51.100.1".parse().unwrap())
    }

    const INSIDE: &str = "192.168.1.2:5000";

    /// External ports towards the same endpoint, another port of the same address, and another address.
    fn mapped(mapping: Behaviour) -> [u16; 3] {
        let (mut nat, mut rng) = (nat(NatConfig::new(mapping, EndpointIndependent)), rng(1, 0));
        ["203.0.113.1:1", "203.0.113.1:2", "203.0.113.2:1"]
            .map(|to| nat.outbound(secs(0), at(INSIDE), at(to), &mut rng).unwrap().port())
    }

    #[test]
    fn mappings_depend_on_what_their_class_says() {
        let [one, other_port, other_address] = mapped(EndpointIndependent);
        assert!(one == other_port && one == other_address);
        let [one, other_port, other_address] = mapped(AddressDependent);
        assert!(one == other_port && one != other_address);
        let [one, other_port, other_address] = mapped(AddressAndPortDependent);
        assert!(one != other_port && one != other_address && other_port != other_address);
    }

    /// Who gets in after the inside sent to 203.0.113.1:1: that endpoint, its other port, another address.
    fn admitted(filtering: Behaviour) -> [bool; 3] {
        let (mut nat, mut rng) = (nat(NatConfig::new(EndpointIndependent, filtering)), rng(1, 0));
        let port = nat.outbound(secs(0), at(INSIDE), at("203.0.113.1:1"), &mut rng).unwrap().port();
        ["203.0.113.1:1", "203.0.113.1:2", "203.0.113.2:1"].map(|from| {
            match nat.inbound(secs(1), at(from), port) {
                Ok(inside) => inside == at(INSIDE),
                Err(reason) => {
                    assert_eq!(reason, NatDrop::Filtered);
                    false
                }
            }
        })
    }

    #[test]
    fn filters_depend_on_what_their_class_says() {
        assert_eq!(admitted(EndpointIndependent), [true, true, true]);
        assert_eq!(admitted(AddressDependent), [true, true, false]);
        assert_eq!(admitted(AddressAndPortDependent), [true, false, false]);
    }

    #[test]
    fn nothing_gets_in_before_something_went_out() {
        let mut nat = nat(NatConfig::new(EndpointIndependent, EndpointIndependent));
        assert_eq!(nat.inbound(secs(0), at("203.0.113.1:1"), 5000), Err(NatDrop::NoMapping));
    }

    #[test]
    fn a_filter_belongs_to_its_mapping() {
        // Address-dependent mapping: the mapping towards A does not admit B, though the host has sent to B.
        let (mut nat, mut rng) = (nat(NatConfig::new(AddressDependent, AddressDependent)), rng(1, 0));
        let (a, b) = (at("203.0.113.1:1"), at("203.0.113.2:1"));
        let towards_a = nat.outbound(secs(0), at(INSIDE), a, &mut rng).unwrap().port();
        nat.outbound(secs(0), at(INSIDE), b, &mut rng).unwrap();
        assert_eq!(nat.inbound(secs(0), b, towards_a), Err(NatDrop::Filtered));
    }

    #[test]
    fn mappings_expire_unused_and_each_permission_by_itself() {
        let config = NatConfig { inbound_refreshes: false, ..NatConfig::linux() };
        let (mut nat, mut rng) = (nat(config), rng(1, 0));
        let (a, b) = (at("203.0.113.1:1"), at("203.0.113.2:1"));
        let port = nat.outbound(secs(0), at(INSIDE), a, &mut rng).unwrap().port();
        nat.outbound(secs(20), at(INSIDE), b, &mut rng).unwrap();
        assert_eq!(nat.inbound(secs(29), a, port), Ok(at(INSIDE)));
        assert_eq!(nat.inbound(secs(30), a, port), Err(NatDrop::Filtered));
        assert_eq!(nat.inbound(secs(49), b, port), Ok(at(INSIDE)));
        assert_eq!(nat.inbound(secs(50), b, port), Err(NatDrop::NoMapping));
        assert_eq!(nat.mappings(secs(49)), 1);
        assert_eq!(nat.mappings(secs(50)), 0);
    }

    #[test]
    fn packets_from_outside_keep_a_mapping_alive_where_the_box_says_so() {
        let (mut nat, mut rng) = (nat(NatConfig::linux()), rng(1, 0));
        let remote = at("203.0.113.1:1");
        let port = nat.outbound(secs(0), at(INSIDE), remote, &mut rng).unwrap().port();
        for n in 1..10 {
            assert_eq!(nat.inbound(secs(n * 20), remote, port), Ok(at(INSIDE)));
        }
    }

    #[test]
    fn ports_are_preserved_sequential_or_random() {
        let ports = |ports| {
            let config = NatConfig { ports, ..NatConfig::symmetric() };
            let (mut nat, mut rng) = (nat(config), rng(4, 0));
            [1, 2, 3].map(|n| {
                let to = SocketAddr::new("203.0.113.1".parse().unwrap(), n);
                nat.outbound(secs(0), at(INSIDE), to, &mut rng).unwrap().port()
            })
        };
        assert_eq!(ports(Ports::Preserving), [5000, 5001, 5002]);
        assert_eq!(ports(Ports::Sequential), [1024, 1025, 1026]);
        let [a, b, c] = ports(Ports::Random);
        assert!(a.abs_diff(b) > 1 && b.abs_diff(c) > 1, "{a} {b} {c}");
    }

    #[test]
    fn two_hosts_with_one_port_get_two_and_a_full_box_refuses() {
        let config = NatConfig { capacity: 2, ..NatConfig::linux() };
        let (mut nat, mut rng) = (nat(config), rng(1, 0));
        let remote = at("203.0.113.1:1");
        let mut send = |now, from| nat.outbound(secs(now), at(from), remote, &mut rng).map(|out| out.port());
        assert_eq!(send(0, "192.168.1.2:5000"), Ok(5000));
        assert_eq!(send(0, "192.168.1.3:5000"), Ok(5001));
        assert_eq!(send(0, "192.168.1.4:5000"), Err(NatDrop::Full));
        assert_eq!(send(29, "192.168.1.3:5000"), Ok(5001));
        assert_eq!(send(30, "192.168.1.4:5000"), Ok(5000), "an expired mapping makes room");
    }

    #[test]
    fn a_port_block_can_run_out() {
        let config = NatConfig { range: 2000..=2001, ..NatConfig::symmetric() };
        let (mut nat, mut rng) = (nat(config), rng(1, 0));
        let mut to = |port| {
            let to = SocketAddr::new("203.0.113.1".parse().unwrap(), port);
            nat.outbound(secs(0), at(INSIDE), to, &mut rng).map(|out| out.port())
        };
        let mut given = [to(1).unwrap(), to(2).unwrap()];
        given.sort_unstable();
        assert_eq!(given, [2000, 2001]);
        assert_eq!(to(3), Err(NatDrop::Full));
    }

    #[test]
    fn hairpin_shows_the_outside_source_or_drops() {
        let other = "192.168.1.3:6000";
        for hairpin in [true, false] {
            let config = NatConfig { hairpin, ..NatConfig::new(EndpointIndependent, EndpointIndependent) };
            let (mut nat, mut rng) = (nat(config), rng(1, 0));
            let remote = at("203.0.113.1:1");
            let from = nat.outbound(secs(0), at(INSIDE), remote, &mut rng).unwrap();
            let to = nat.outbound(secs(0), at(other), remote, &mut rng).unwrap();
            let turned = nat.hairpin(secs(0), at(INSIDE), to, &mut rng);
            assert_eq!(turned, if hairpin { Ok((from, at(other))) } else { Err(NatDrop::NoHairpin) });
        }
    }

    #[test]
    fn rebinding_forgets_and_gives_other_ports() {
        let config = NatConfig { ports: Ports::Sequential, ..NatConfig::symmetric() };
        let (mut nat, mut rng) = (nat(config), rng(1, 0));
        let remote = at("203.0.113.1:1");
        let before = nat.outbound(secs(0), at(INSIDE), remote, &mut rng).unwrap();
        nat.rebind("198.51.100.9".parse().unwrap());
        assert_eq!(nat.inbound(secs(0), remote, before.port()), Err(NatDrop::NoMapping));
        let after = nat.outbound(secs(0), at(INSIDE), remote, &mut rng).unwrap();
        assert_eq!(after, at("198.51.100.9:1025"));
    }

    #[test]
    fn an_early_probe_poisons_a_box_that_accepts_it() {
        for unsolicited in [Unsolicited::Drop, Unsolicited::Poison] {
            let (mut nat, mut rng) = (nat(NatConfig { unsolicited, ..NatConfig::linux() }), rng(1, 0));
            let (server, peer) = (at("203.0.113.1:1"), at("203.0.113.2:1"));
            let mapped = nat.outbound(secs(0), at(INSIDE), server, &mut rng).unwrap();
            assert!(nat.inbound(secs(0), peer, mapped.port()).is_err());
            let towards_peer = nat.outbound(secs(1), at(INSIDE), peer, &mut rng).unwrap();
            assert_eq!(towards_peer == mapped, unsolicited == Unsolicited::Drop);
            assert_eq!(nat.outbound(secs(1), at(INSIDE), server, &mut rng), Ok(mapped));
        }
    }
}
