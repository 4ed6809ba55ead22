//! How many places each client address has taken: no client may take all of them.
//!
//! A place is taken by [`Clients::enter`] and given back when it is dropped. Bounds: as many entries as places.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The places that are taken, by client address.
pub(super) struct Clients {
    most: usize,
    most_per_client: usize,
    taken: Mutex<ByClient>,
}

#[derive(Default)]
struct ByClient {
    all: usize,
    each: HashMap<IpAddr, usize>,
}

impl Clients {
    /// So many places in all, and so many for one address.
    pub(super) fn new(most: usize, most_per_client: usize) -> Arc<Self> {
        Arc::new(Self { most, most_per_client, taken: Mutex::default() })
    }

    fn taken(&self) -> MutexGuard<'_, ByClient> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A place for this client, if it may have one more.
    pub(super) fn enter(clients: &Arc<Self>, client: IpAddr) -> Option<Place> {
        let mut taken = clients.taken();
        let own = taken.each.get(&client).copied().unwrap_or_default();
        if taken.all >= clients.most || own >= clients.most_per_client {
            return None;
        }
        taken.each.insert(client, own + 1);
        taken.all += 1;
        Some(Place { clients: clients.clone(), client })
    }
}

/// One place.
pub(super) struct Place {
    clients: Arc<Clients>,
    client: IpAddr,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.clients.taken();
        match taken.each.get_mut(&self.client) {
            Some(count) if *count > 1 => *count -= 1,
            _ => {
                taken.each.remove(&self.client);
            }
        }
        taken.all -= 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn w13_places_are_bounded_per_client_and_in_all() {
        let clients = Clients::new(256, 32);
        let mut places = Vec::new();
        for client in 0..=u8::MAX {
            let client = IpAddr::from([127, 0, 0, client]);
            places.extend((0..=32).map_while(|_| Clients::enter(&clients, client)));
        }
        assert_eq!((places.len(), clients.taken().all), (256, 256));
        assert_eq!(clients.taken().each.len(), 8);
        drop(places);
        assert!(clients.taken().each.is_empty() && clients.taken().all == 0);
    }
}
