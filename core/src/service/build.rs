//! Updates: a service is built aside, then takes the old one's place as a whole.

use super::names::Name;
use super::slots::{
    ALL_HINTS, CLUSTER_IP, CONDITIONS, EXTERNAL_NAME, EndpointSlot, FLAGS, HEADLESS, PortSlot, ServiceSlot,
    TARGETS, TargetSlot, missing_hints, zone_conditions,
};
use super::{MAX_PORTS, Part, Table, TableError, protocol_number};
use crate::storage::Slot;
use crate::storage::link::{id, link};
use crate::wire::feed::{ENDPOINT_READY, EndpointDef, PortDef, ServiceDef, ServiceKind, Update};
use crate::wire::ip::{Address, is_confined};

/// The service being defined.
#[derive(Clone, Copy)]
pub(super) enum Pending {
    /// None has begun.
    None,
    /// It was refused: what still comes of it is skipped.
    Refused,
    /// Not in any index yet.
    Building(Building),
}

#[derive(Clone, Copy)]
pub(super) struct Building {
    service: ServiceSlot,
    last_port: u32,
    last_endpoint: u32,
    /// Of the endpoints that follow.
    domain: u32,
    ports: u8,
}

impl Table<'_> {
    /// Takes one step of an update. A refused service leaves its old definition in force, and the rest of the
    /// refused definition is skipped without further errors.
    ///
    /// # Errors
    /// See [`TableError`].
    pub fn apply(&mut self, update: &Update<'_>) -> Result<(), TableError> {
        self.apply_or(update, &mut |_| false)
    }

    /// As [`Table::apply`]; while the table is full and `make_room` says that there is some now, it tries again.
    ///
    /// # Errors
    /// As [`Table::apply`].
    pub fn apply_or(
        &mut self,
        update: &Update<'_>,
        make_room: &mut dyn FnMut(&mut Self) -> bool,
    ) -> Result<(), TableError> {
        match update {
            Update::Begin => {
                self.discard();
                self.list = self.list.wrapping_add(1);
                self.demand.listing = true;
                Ok(())
            }
            Update::Service(def) => {
                self.discard();
                self.or_refuse(Some((def.namespace, def.name)), make_room, |t| t.begin(def))?;
                let ServiceKind::ClusterIp(vips) = &def.kind else { return Ok(()) };
                if vips.iter().copied().all(Address::holds) { Ok(()) } else { Err(TableError::Family) }
            }
            Update::Port(def) => self.or_refuse(None, make_room, |t| t.add_port(def)),
            Update::Targets(ports) => self.or_refuse(None, make_room, |t| t.add_targets(ports)),
            Update::Endpoint(def) => match (self.pending, unusable(def)) {
                (Pending::Building(_), Some(error)) => Err(error),
                _ => self.or_refuse(None, make_room, |t| t.add_endpoint(def)),
            },
            Update::Commit => self.or_refuse(None, make_room, Self::commit),
            Update::Remove { namespace, name } => {
                if let Some(id) = self.find_service(namespace, name) {
                    self.remove_service(id);
                }
                Ok(())
            }
            Update::Namespace(name) => {
                let id = self.namespace(name)?;
                let list = self.list.wrapping_add(1).max(1);
                if let Some(slot) = self.namespaces.get_mut(id) {
                    slot.list = list;
                }
                Ok(())
            }
            Update::Home(home) => {
                self.home = *home;
                Ok(())
            }
            Update::Domain(domain) => self.or_refuse(None, make_room, |t| {
                if let Pending::Building(b) = &mut t.pending {
                    b.domain = *domain;
                }
                Ok(())
            }),
            Update::End => {
                self.discard();
                self.sweep();
                (self.complete, self.demand.listing) = (true, false);
                Ok(())
            }
        }
    }

    /// Runs a step of a definition; when it fails, the definition is given up and the old one stays.
    fn or_refuse(
        &mut self,
        name: Option<(&str, &str)>,
        make_room: &mut dyn FnMut(&mut Self) -> bool,
        step: impl Fn(&mut Self) -> Result<(), TableError>,
    ) -> Result<(), TableError> {
        if name.is_none() {
            match self.pending {
                Pending::None => return Err(TableError::OutOfOrder),
                Pending::Refused => return Ok(()),
                Pending::Building(_) => {}
            }
        }
        let error = loop {
            match step(self) {
                Ok(()) => return Ok(()),
                Err(TableError::Full(_)) if make_room(self) => {}
                Err(error) => break error,
            }
        };
        let old = match (name, self.pending) {
            (_, Pending::Building(b)) => self.find_same(&b.service),
            (Some((namespace, name)), _) => self.find_service(namespace, name),
            (None, _) => None,
        };
        let list = self.list;
        if let Some(old) = old.and_then(|id| self.services.get_mut(id)) {
            old.list = list;
        }
        self.discard();
        self.pending = Pending::Refused;
        Err(error)
    }

    fn begin(&mut self, def: &ServiceDef<'_>) -> Result<(), TableError> {
        if def.name.is_empty() || def.namespace.is_empty() {
            return Err(TableError::Name);
        }
        let mut service = ServiceSlot {
            list: self.list,
            affinity_secs: def.affinity_secs,
            flags: def.flags & FLAGS,
            namespace: link(self.namespace(def.namespace)?),
            ..ServiceSlot::EMPTY
        };
        // Counted from here on, so that the namespace stays while its first service is built.
        self.count_in_namespace(id(service.namespace), 1);
        service.name = self.name_or_release(def.name, &service)?;
        match &def.kind {
            ServiceKind::ClusterIp(vips) => {
                service.kind = CLUSTER_IP;
                let kept = vips.iter().copied().filter(|vip| Address::holds(*vip));
                for (place, vip) in service.vips.iter_mut().zip(kept) {
                    *place = vip.into();
                }
            }
            ServiceKind::Headless => service.kind = HEADLESS,
            ServiceKind::ExternalName(name) => {
                service.kind = EXTERNAL_NAME;
                service.external = self.name_or_release(name, &service)?;
            }
        }
        let (last_port, last_endpoint, domain, ports) = (0, 0, 0, 0);
        self.pending = Pending::Building(Building { service, last_port, last_endpoint, domain, ports });
        if service.vips.iter().filter_map(|vip| vip.ip()).any(is_confined) {
            return Err(TableError::Address);
        }
        Ok(())
    }

    fn name_or_release(&mut self, text: &str, service: &ServiceSlot) -> Result<Name, TableError> {
        self.names.store(text).inspect_err(|_| self.release(service))
    }

    fn add_port(&mut self, def: &PortDef<'_>) -> Result<(), TableError> {
        let Pending::Building(mut b) = self.pending else { return Ok(()) };
        if usize::from(b.ports) >= MAX_PORTS || b.service.targets != 0 {
            return Err(TableError::Ports);
        }
        let name = self.names.store(def.name)?;
        let protocol = protocol_number(def.protocol);
        let slot = PortSlot { next: 0, name, port: def.port, protocol, index: b.ports };
        let Some(new) = self.ports.insert(slot) else {
            self.names.free(name);
            return Err(TableError::Full(Part::Ports));
        };
        match self.ports.get_mut(b.last_port) {
            Some(last) => last.next = link(new),
            None => b.service.ports = link(new),
        }
        (b.last_port, b.ports) = (new, b.ports.saturating_add(1));
        self.pending = Pending::Building(b);
        Ok(())
    }

    fn add_targets(&mut self, bytes: &[u8]) -> Result<(), TableError> {
        let Pending::Building(mut b) = self.pending else { return Ok(()) };
        if bytes.len() != usize::from(b.ports).saturating_mul(2) {
            return Err(TableError::Ports);
        }
        let mut first = 0;
        // From the end, so that each slot knows its successor; one slot even for a service without ports.
        for start in (0..bytes.len().max(1)).step_by(TARGETS.saturating_mul(2)).rev() {
            let mut slot = TargetSlot { next: link(first), ..TargetSlot::EMPTY };
            for (port, pair) in
                slot.ports.iter_mut().zip(bytes.get(start..).unwrap_or_default().chunks_exact(2))
            {
                *port = pair.try_into().map(u16::from_le_bytes).unwrap_or_default();
            }
            match self.targets.insert(slot) {
                Some(id) => first = id,
                None => {
                    self.free_targets(first);
                    return Err(TableError::Full(Part::Targets));
                }
            }
        }
        if let Some(slot) = self.targets.get_mut(first) {
            slot.next_group = b.service.targets;
        }
        b.service.targets = link(first);
        self.pending = Pending::Building(b);
        Ok(())
    }

    fn add_endpoint(&mut self, def: &EndpointDef<'_>) -> Result<(), TableError> {
        let Pending::Building(mut b) = self.pending else { return Ok(()) };
        if b.service.targets == 0 {
            return Err(TableError::OutOfOrder);
        }
        let hostname = self.names.store(def.hostname)?;
        let slot = EndpointSlot {
            targets: b.service.targets,
            node: def.node,
            address: def.address.into(),
            vip: def.vip.map_or(Address::NONE, Address::from),
            hostname,
            conditions: def.conditions & CONDITIONS | zone_conditions(def.zones, self.home.zone),
            in_domain: match (b.domain, self.home.domain) {
                (0, 0) => self.reached.holds(def.node, def.address),
                (its, own) => its == own,
            },
            ..EndpointSlot::EMPTY
        };
        let Some(new) = self.endpoints.insert(slot) else {
            self.names.free(hostname);
            return Err(TableError::Full(Part::Endpoints));
        };
        match self.endpoints.get_mut(b.last_endpoint) {
            Some(last) => last.next = link(new),
            None => b.service.endpoints = link(new),
        }
        b.last_endpoint = new;
        self.pending = Pending::Building(b);
        Ok(())
    }

    fn commit(&mut self) -> Result<(), TableError> {
        let Pending::Building(Building { mut service, .. }) = self.pending else { return Ok(()) };
        let id = match self.find_same(&service) {
            Some(id) => {
                let old = self.services.get(id).copied().unwrap_or(ServiceSlot::EMPTY);
                self.leave(id, &old);
                self.release(&old);
                service.uid = if old.vips == service.vips { old.uid } else { self.fresh_uid() };
                id
            }
            None => {
                let id = self.services.insert(service).ok_or(TableError::Full(Part::Services))?;
                service.uid = self.fresh_uid();
                id
            }
        };
        service.list = self.stamp();
        self.pending = Pending::None;
        self.enter(id, service);
        self.generation = self.generation.wrapping_add(1);
        Ok(())
    }

    /// Puts a service and its endpoints into the indices.
    fn enter(&mut self, owner: u32, mut service: ServiceSlot) {
        let mut at = id(service.endpoints);
        (service.ready, service.flags) = (0, service.flags & FLAGS | ALL_HINTS);
        while let Some(endpoint) = self.endpoints.get_mut(at) {
            endpoint.service = link(owner);
            if endpoint.has(ENDPOINT_READY) {
                service.ready = service.ready.saturating_add(1);
                service.flags &= !missing_hints(endpoint);
                endpoint.ordinal = service.ready;
            }
            let e = *endpoint;
            self.by_address.insert(self.keys.address(e.node, e.address), at);
            if e.ordinal != 0 {
                self.by_ordinal.insert(self.keys.ordinal(owner, id(e.ordinal)), at);
            }
            if !e.vip.is_none() {
                self.by_endpoint_vip.insert(self.keys.address(0, e.vip), at);
            }
            at = id(e.next);
        }
        for (place, vip) in service.vips.iter().enumerate() {
            if !vip.is_none() {
                self.by_vip.insert(self.keys.vip(*vip), vip_key(owner, place));
            }
        }
        let hash = self.keys.name(id(service.namespace), self.names.text(service.name).bytes());
        self.by_name.insert(hash, owner);
        if let Some(slot) = self.services.get_mut(owner) {
            *slot = service;
        }
    }

    /// Takes a service and its endpoints out of the indices.
    fn leave(&mut self, which: u32, service: &ServiceSlot) {
        let (keys, endpoints, services, names) = (self.keys, &self.endpoints, &self.services, &self.names);
        let endpoint = |at| endpoints.get(at).copied().unwrap_or(EndpointSlot::EMPTY);
        let owner = |at| services.get(at).copied().unwrap_or(ServiceSlot::EMPTY);
        let by_address = |at| keys.address(endpoint(at).node, endpoint(at).address);
        let by_ordinal = |at| keys.ordinal(id(endpoint(at).service), id(endpoint(at).ordinal));
        let by_endpoint_vip = |at| keys.address(0, endpoint(at).vip);
        let mut at = id(service.endpoints);
        while at != 0 {
            self.by_address.remove(by_address(at), at, by_address);
            self.by_ordinal.remove(by_ordinal(at), at, by_ordinal);
            self.by_endpoint_vip.remove(by_endpoint_vip(at), at, by_endpoint_vip);
            at = id(endpoint(at).next);
        }
        let by_vip =
            |key: u32| keys.vip(owner(key >> 1).vips.get(key as usize & 1).copied().unwrap_or_default());
        for place in 0..service.vips.len() {
            let key = vip_key(which, place);
            self.by_vip.remove(by_vip(key), key, by_vip);
        }
        let by_name = |at| keys.name(id(owner(at).namespace), names.text(owner(at).name).bytes());
        self.by_name.remove(by_name(which), which, by_name);
    }

    /// Frees all that belongs to a service, except its own slot.
    fn release(&mut self, service: &ServiceSlot) {
        self.names.free(service.name);
        self.names.free(service.external);
        let mut at = id(service.ports);
        while let Some(port) = self.ports.get(at).copied() {
            self.names.free(port.name);
            self.ports.remove(at);
            at = id(port.next);
        }
        let mut at = id(service.endpoints);
        while let Some(endpoint) = self.endpoints.get(at).copied() {
            self.names.free(endpoint.hostname);
            self.endpoints.remove(at);
            at = id(endpoint.next);
        }
        let mut group = id(service.targets);
        while let Some(next) = self.targets.get(group).map(|slot| id(slot.next_group)) {
            self.free_targets(group);
            group = next;
        }
        self.count_in_namespace(id(service.namespace), -1);
        self.drop_unused_namespace(id(service.namespace));
    }

    fn free_targets(&mut self, mut at: u32) {
        while let Some(next) = self.targets.get(at).map(|slot| id(slot.next)) {
            self.targets.remove(at);
            at = next;
        }
    }

    /// Gives up the service being defined.
    fn discard(&mut self) {
        if let Pending::Building(b) = core::mem::replace(&mut self.pending, Pending::None) {
            self.release(&b.service);
        }
    }

    pub(super) fn remove_service(&mut self, id: u32) {
        let Some(old) = self.services.get(id).copied() else { return };
        self.leave(id, &old);
        self.release(&old);
        self.services.remove(id);
        self.generation = self.generation.wrapping_add(1);
    }

    /// Removes what the full list that ends now did not name. One walk over the table.
    fn sweep(&mut self) {
        for id in 1..=self.services.high_water() {
            if self.services.get(id).is_some_and(|s| s.live() && s.list != self.list) {
                self.remove_service(id);
            }
        }
        let list = self.list.wrapping_add(1).max(1);
        for id in 1..=self.namespaces.high_water() {
            if let Some(slot) = self.namespaces.get_mut(id)
                && slot.list != 0
                && slot.list != list
            {
                slot.list = 0;
                if slot.services == 0 {
                    // A moment without either would make it look free already.
                    slot.list = list;
                    self.remove_namespace(id);
                }
            }
        }
    }

    fn find_same(&self, service: &ServiceSlot) -> Option<u32> {
        let name = self.names.text(service.name);
        let is_it = |at| {
            self.services.get(at).is_some_and(|s| {
                let other = self.names.text(s.name);
                s.namespace == service.namespace
                    && other.len() == name.len()
                    && other.bytes().zip(name.bytes()).all(|(a, b)| a.eq_ignore_ascii_case(&b))
            })
        };
        self.by_name.find(self.keys.name(id(service.namespace), name.bytes()), is_it)
    }

    /// The namespace of this name, made when it is new.
    fn namespace(&mut self, name: &str) -> Result<u32, TableError> {
        if name.is_empty() {
            return Err(TableError::Name);
        }
        if let Some(id) = self.find_namespace(name) {
            return Ok(id);
        }
        let stored = self.names.store(name)?;
        let slot = super::NamespaceSlot { name: stored, ..super::NamespaceSlot::EMPTY };
        let Some(id) = self.namespaces.insert(slot) else {
            self.names.free(stored);
            return Err(TableError::Full(Part::Namespaces));
        };
        self.by_namespace.insert(self.keys.name(0, name.bytes()), id);
        Ok(id)
    }

    fn count_in_namespace(&mut self, id: u32, change: i32) {
        if let Some(slot) = self.namespaces.get_mut(id) {
            slot.services = slot.services.saturating_add_signed(change);
        }
    }

    fn drop_unused_namespace(&mut self, id: u32) {
        if self.namespaces.get(id).is_some_and(|slot| !slot.live()) {
            self.remove_namespace(id);
        }
    }

    fn remove_namespace(&mut self, id: u32) {
        let (keys, namespaces, names) = (self.keys, &self.namespaces, &self.names);
        let by_name =
            |id| keys.name(0, names.text(namespaces.get(id).map_or(Name::NONE, |slot| slot.name)).bytes());
        self.by_namespace.remove(by_name(id), id, by_name);
        if let Some(name) = self.namespaces.get(id).map(|slot| slot.name) {
            self.names.free(name);
        }
        self.namespaces.remove(id);
    }

    fn fresh_uid(&mut self) -> u32 {
        self.next_uid = self.next_uid.wrapping_add(1);
        self.next_uid
    }
}

/// Why an endpoint is left out of its service.
fn unusable(def: &EndpointDef<'_>) -> Option<TableError> {
    if is_confined(def.address) {
        Some(TableError::Address)
    } else if !Address::holds(def.address) || !def.vip.is_none_or(Address::holds) {
        Some(TableError::Family)
    } else {
        None
    }
}

/// A service's key in the VIP index: its id and which of its VIPs.
fn vip_key(id: u32, place: usize) -> u32 {
    id << 1 | (place as u32 & 1)
}
