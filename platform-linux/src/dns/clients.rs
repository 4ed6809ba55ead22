//! How many places each client address has taken: no client may take all of them.
//!
//! A place is taken by [`Clients::enter`] and given back when it is dropped. Bounds: as many entries as places.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::net::IpAddr;
use std::rc::Rc;

/// The places that are taken, by client address.
pub(super) struct Clients {
    most: usize,
    most_per_client: usize,
    taken: Cell<usize>,
    by_client: RefCell<HashMap<IpAddr, usize>>,
}

impl Clients {
    /// So many places in all, and so many for one address.
    pub(super) fn new(most: usize, most_per_client: usize) -> Rc<Self> {
        Rc::new(Self { most, most_per_client, taken: Cell::default(), by_client: RefCell::default() })
    }

    /// A place for this client, if it may have one more.
    pub(super) fn enter(clients: &Rc<Self>, client: IpAddr) -> Option<Place> {
        let mut by_client = clients.by_client.borrow_mut();
        let own = by_client.get(&client).copied().unwrap_or_default();
        if clients.taken.get() >= clients.most || own >= clients.most_per_client {
            return None;
        }
        by_client.insert(client, own + 1);
        clients.taken.set(clients.taken.get() + 1);
        Some(Place { clients: clients.clone(), client })
    }
}

/// One place.
pub(super) struct Place {
    clients: Rc<Clients>,
    client: IpAddr,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut by_client = self.clients.by_client.borrow_mut();
        match by_client.get_mut(&self.client) {
            Some(count) if *count > 1 => *count -= 1,
            _ => {
                by_client.remove(&self.client);
            }
        }
        self.clients.taken.set(self.clients.taken.get() - 1);
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
        assert_eq!((places.len(), clients.taken.get()), (256, 256));
        assert_eq!(clients.by_client.borrow().len(), 8);
        drop(places);
        assert!(clients.by_client.borrow().is_empty() && clients.taken.get() == 0);
    }
}
