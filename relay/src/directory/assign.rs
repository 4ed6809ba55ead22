//! Numbers that Services need: indices of nodes that they name, and endpoint VIPs. Given out at first mention, in the
//! order of mention, never twice.

use super::{Directory, Entry, FeedMark, Node};
use edgemesh_core::wire::control::Network;
use edgemesh_discovery::encoded::{Resolver, VipKey};
use edgemesh_host::state::StateError;
use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr};

impl Directory {
    /// Runs `encode` with a resolver that assigns indices and endpoint VIPs at first mention, and makes these and
    /// the feed's new mark durable. The mark's sequence grows exactly when the digest changes.
    pub(crate) fn assign<T>(
        &mut self,
        encode: impl FnOnce(&mut Assigner<'_>) -> (T, [u8; 32]),
    ) -> Result<(T, FeedMark), StateError> {
        let mut assigner =
            Assigner { directory: self, entries: Vec::new(), names: HashMap::new(), vips: HashMap::new() };
        let (out, digest) = encode(&mut assigner);
        let mut entries = assigner.entries;
        if digest != self.mark.digest || self.mark.sequence == 0 {
            entries.push(Entry::Feed { sequence: self.mark.sequence.saturating_add(1), digest });
        }
        self.commit(entries)?;
        Ok((out, self.mark))
    }
}

/// Assigns numbers on top of a directory without changing it yet.
pub(crate) struct Assigner<'d> {
    directory: &'d Directory,
    entries: Vec<Entry>,
    names: HashMap<String, u32>,
    vips: HashMap<String, u32>,
}

impl Resolver for Assigner<'_> {
    fn node(&mut self, name: &str) -> u32 {
        if let Some(index) = self.directory.index_of(name).or_else(|| self.names.get(name).copied()) {
            return index;
        }
        let Some(index) = self.directory.free_index(self.names.len() as u32) else { return 0 };
        self.names.insert(name.to_owned(), index);
        let node = Node { name: name.to_owned(), key: None, serial: 0, revoked: false };
        self.entries.push(Entry::Node(index, node));
        index
    }

    fn endpoint_vip(&mut self, endpoint: &VipKey<'_>) -> Option<IpAddr> {
        let network = self.directory.settings.as_ref()?.network;
        let text = endpoint.text();
        let known = self.directory.vips.get(&text).or_else(|| self.vips.get(&text)).copied();
        let number = match known {
            Some(number) => number,
            None => {
                let number =
                    u32::try_from(self.directory.vips.len() + self.vips.len()).ok()?.checked_add(1)?;
                self.entries.push(Entry::Vip(text.clone(), number));
                self.vips.insert(text, number);
                number
            }
        };
        endpoint_vip(&network, number, endpoint.address.is_ipv4())
    }
}

/// Endpoint VIP `number` (from 1): the upper half of the mesh prefix.
pub(super) fn endpoint_vip(network: &Network, number: u32, v4: bool) -> Option<IpAddr> {
    if !v4 {
        let upper = u128::from_be_bytes(network.mesh_v6) | (1 << 63) | u128::from(number);
        return Some(IpAddr::from(upper.to_be_bytes()));
    }
    let half = 1u32.checked_shl(31u32.checked_sub(u32::from(network.mesh_v4_len))?)?;
    // The last address of the prefix stays free: it looks like a broadcast address.
    (number < half - 1).then(|| Ipv4Addr::from(u32::from_be_bytes(network.mesh_v4) | half | number).into())
}
