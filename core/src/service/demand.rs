//! The table as a cache: only Services that are used are held, and the one used longest ago makes room.
//!
//! **Life cycle.** [`Table::hold_on_demand`] once. Use is noted with [`Table::touch`]; [`Table::evict`] takes the
//! least recently used Service out; [`Table::hear_again`] makes [`Table::next_held`] name all that is held, for a
//! server that does not know it. **Bounds.** No memory beside the table's; a stamp takes the place that the number of
//! the last full list has otherwise. It knows neither flows nor the server: callers say what is in use.

use super::slots::ServiceSlot;
use super::view::ServiceView;
use super::{Address, Table};
use crate::storage::link::id;
use crate::wire::ask;
use core::net::IpAddr;

/// What is special about a table on demand.
#[derive(Clone, Copy, Default)]
pub(super) struct Demand {
    on: bool,
    /// A full list arrives, such as a snapshot: stamps are its number until it ends.
    pub(super) listing: bool,
    /// The next slot to be named, 0 when all are.
    next: u32,
}

impl Table<'_> {
    /// Holds only what is asked for from here on: nothing is known to be missing before it was asked for.
    pub fn hold_on_demand(&mut self) {
        self.demand.on = true;
    }

    /// Whether it does.
    pub fn is_on_demand(&self) -> bool {
        self.demand.on
    }

    /// The server has answered for the first time: what it was not asked for is the caller's to find out.
    pub fn answered(&mut self) {
        self.complete = true;
    }

    /// The time of use: it grows with each.
    pub fn used(&self) -> u32 {
        self.list
    }

    /// The service with this handle is used now.
    pub fn touch(&mut self, service: u32) {
        let stamp = self.stamp();
        if let Some(slot) = self.services.get_mut(service).filter(|_| self.demand.on) {
            slot.list = stamp;
        }
    }

    /// The stamp of a use now.
    pub(super) fn stamp(&mut self) -> u32 {
        let counts = self.demand.on && !self.demand.listing;
        self.list = self.list.wrapping_add(counts.into());
        self.list
    }

    /// The service that `address` leads to is used now.
    pub fn touch_address(&mut self, address: IpAddr) {
        let by_endpoint = || self.endpoint_of_vip(address).and_then(|e| e.service()).map(|s| s.id());
        if let Some(service) = self.proxied(address).map(|(id, _)| id).or_else(by_endpoint) {
            self.touch(service);
        }
    }

    /// Removes the service whose last use is longest ago, and `before` at the latest; never one with an endpoint on
    /// node `own`, which has to know what it serves. Its fingerprint. One walk over the table.
    pub fn evict(&mut self, before: u32, own: u32) -> Option<u32> {
        let age = |slot: &ServiceSlot| self.list.wrapping_sub(slot.list);
        let oldest = (1..=self.services.high_water())
            .filter_map(|at| Some((at, self.services.get(at).filter(|slot| slot.live())?)))
            .filter(|(_, slot)| self.demand.on && age(slot) >= self.list.wrapping_sub(before))
            .filter(|(at, _)| {
                ServiceView::new(self, *at).is_some_and(|s| !s.endpoints().any(|e| e.node() == own))
            })
            .max_by_key(|(_, slot)| age(slot))
            .map(|(at, _)| at)?;
        let key = self.fingerprint(oldest);
        self.remove_service(oldest);
        Some(key)
    }

    /// No service has this fingerprint any more. One walk over the table.
    pub fn remove_asked(&mut self, key: u32) {
        for at in 1..=self.services.high_water() {
            let Some(slot) = self.services.get(at).filter(|slot| slot.live()) else { continue };
            let vips = || slot.vips.iter().filter_map(|vip| Address::ip(*vip));
            if self.fingerprint(at) == key || vips().any(|vip| ask::address(vip) == key) {
                self.remove_service(at);
            }
        }
    }

    /// All that is held is to be asked for again.
    pub fn hear_again(&mut self) {
        self.demand.next = u32::from(self.demand.on);
    }

    /// The fingerprint of the next service that is to be asked for again.
    pub fn next_held(&mut self) -> Option<u32> {
        while self.demand.next != 0 {
            let at = self.demand.next;
            self.demand.next = if at < self.services.high_water() { at.saturating_add(1) } else { 0 };
            if self.services.get(at).is_some_and(ServiceSlot::live) {
                return Some(self.fingerprint(at));
            }
        }
        None
    }

    fn fingerprint(&self, service: u32) -> u32 {
        let slot = self.services.get(service).copied().unwrap_or(ServiceSlot::ZERO);
        let namespace = self.namespaces.get(id(slot.namespace)).map_or(super::names::Name::NONE, |n| n.name);
        ask::service(self.names.text(namespace).bytes(), self.names.text(slot.name).bytes())
    }
}
