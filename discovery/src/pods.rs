//! Which addresses pods have, by namespace: what DNS needs for names of pods (row D25), and nothing else of them.
//!
//! Shared between who hears of pods and who answers queries; locked for moments. Bounded by the pods that the source
//! has: about 300 bytes each.

use crate::table::Key;
use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{PoisonError, RwLock};

/// See the module's documentation.
#[derive(Debug, Default)]
pub struct Pods {
    inner: RwLock<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    pods: HashMap<Key, Box<[IpAddr]>>,
    /// How many pods of which namespace have an address: those with `hostNetwork` share it.
    at: HashMap<IpAddr, Vec<(Box<str>, u32)>>,
}

impl Pods {
    /// A pod has these addresses now; none when it has ended or is gone.
    pub(crate) fn set(&self, pod: Key, addresses: &[IpAddr]) {
        let mut inner = self.inner.write().unwrap_or_else(PoisonError::into_inner);
        let Inner { pods, at } = &mut *inner;
        for address in pods.remove(&pod).iter().flatten() {
            let namespaces = at.entry(*address).or_default();
            namespaces.iter_mut().filter(|(name, _)| **name == *pod.namespace).for_each(|(_, n)| *n -= 1);
            namespaces.retain(|(_, n)| *n > 0);
            if namespaces.is_empty() {
                at.remove(address);
            }
        }
        for address in addresses {
            let namespaces = at.entry(*address).or_default();
            match namespaces.iter_mut().find(|(name, _)| **name == *pod.namespace) {
                Some((_, n)) => *n += 1,
                None => namespaces.push((pod.namespace.as_str().into(), 1)),
            }
        }
        if !addresses.is_empty() {
            pods.insert(pod, addresses.into());
        }
    }

    /// Whether a pod of this namespace has this address; the namespace in small letters.
    pub fn has(&self, namespace: &str, address: IpAddr) -> bool {
        let inner = self.inner.read().unwrap_or_else(PoisonError::into_inner);
        inner.at.get(&address).is_some_and(|all| all.iter().any(|(name, _)| **name == *namespace))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn d25_an_address_is_of_a_namespace_while_a_pod_of_it_has_it() {
        let pods = Pods::default();
        let key = |namespace: &str, name: &str| Key { namespace: namespace.into(), name: name.into() };
        let [host, v4, v6] = ["192.0.2.1", "10.244.1.2", "fd00::2"].map(|ip| ip.parse().unwrap());
        pods.set(key("a", "one"), &[host]);
        pods.set(key("a", "two"), &[host]);
        pods.set(key("b", "one"), &[v4, v6]);
        for (namespace, address, there) in
            [("a", host, true), ("b", host, false), ("a", v4, false), ("b", v4, true), ("b", v6, true)]
        {
            assert_eq!(pods.has(namespace, address), there, "{namespace} {address}");
        }
        pods.set(key("a", "one"), &[]);
        assert!(pods.has("a", host), "the other one");
        pods.set(key("a", "two"), &[v4]);
        pods.set(key("b", "one"), &[v6]);
        assert!(!pods.has("a", host) && pods.has("a", v4) && !pods.has("b", v4) && pods.has("b", v6));
        pods.set(key("a", "two"), &[]);
        pods.set(key("b", "one"), &[]);
        pods.set(key("b", "never"), &[]);
        let inner = pods.inner.read().unwrap();
        assert!(inner.pods.is_empty() && inner.at.is_empty());
    }
}
