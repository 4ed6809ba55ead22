//! Addresses that a Service claims and may not have: a Node's, the API server's, and one that another Service had
//! before it.
//!
//! An API server hands out no such address; manifests can. What another has would stop to be reached: a ClusterIP
//! is routed to the mesh on every node. The claim alone is left out, the Service keeps its name and the rest. Of
//! two Services the one made first wins, by `creationTimestamp` where both have one, else by namespace and name:
//! the outcome depends on the objects only, not on their order. Who claims what is known by address, so that a
//! change concerns only the Services that claim the same.

use crate::object::{Service, ServiceKind};
use crate::table::Key;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

/// Who claims which address.
#[derive(Clone, Debug, Default)]
pub(crate) struct Claims {
    services: BTreeMap<IpAddr, Vec<Arc<Key>>>,
    nodes: BTreeMap<IpAddr, BTreeSet<String>>,
    api_servers: BTreeSet<IpAddr>,
}

/// The ClusterIPs that a Service asks for.
pub(crate) fn asked(service: Option<&Service>) -> &[IpAddr] {
    match service.map(|service| &service.kind) {
        Some(ServiceKind::ClusterIp(ips)) => ips,
        _ => &[],
    }
}

/// Of two claimants the smaller one has the address.
fn precedence<'k>(service: &'k Service, key: &'k Key) -> (bool, &'k str, &'k Key) {
    (service.created.is_empty(), &service.created, key)
}

impl Claims {
    /// A Service asked for `before` and asks for `after`: all Services that this concerns.
    pub(crate) fn service(&mut self, key: &Arc<Key>, before: &[IpAddr], after: &[IpAddr]) -> Vec<Arc<Key>> {
        let concerned = before.iter().chain(after).filter_map(|ip| self.services.get(ip));
        let concerned = concerned.flatten().filter(|other| *other != key).cloned().collect();
        for ip in before {
            if let Some(claimants) = self.services.get_mut(ip) {
                claimants.retain(|other| other != key);
                if claimants.is_empty() {
                    self.services.remove(ip);
                }
            }
        }
        for ip in after {
            let claimants = self.services.entry(*ip).or_insert_with(|| Vec::with_capacity(1));
            if !claimants.contains(key) {
                claimants.push(key.clone());
            }
        }
        concerned
    }

    /// A Node had the addresses `before` and has `after`: the Services that claim one of them.
    pub(crate) fn node(&mut self, name: &str, before: &[IpAddr], after: &[IpAddr]) -> Vec<Arc<Key>> {
        for ip in before {
            if let Some(names) = self.nodes.get_mut(ip) {
                names.remove(name);
                if names.is_empty() {
                    self.nodes.remove(ip);
                }
            }
        }
        for ip in after {
            self.nodes.entry(*ip).or_default().insert(name.to_owned());
        }
        self.claimants(before.iter().chain(after))
    }

    /// The API server is reached at these addresses: the Services that claim one that it had or has.
    pub(crate) fn api_servers(&mut self, addresses: BTreeSet<IpAddr>) -> Vec<Arc<Key>> {
        let before = std::mem::replace(&mut self.api_servers, addresses);
        self.claimants(before.symmetric_difference(&self.api_servers))
    }

    fn claimants<'i>(&self, ips: impl Iterator<Item = &'i IpAddr>) -> Vec<Arc<Key>> {
        ips.filter_map(|ip| self.services.get(ip)).flatten().cloned().collect()
    }

    /// Takes away what this Service may not have; what of it does not apply, in words. `others`: the Services by their
    /// keys.
    pub(crate) fn settle<'s>(
        &self,
        key: &Key,
        service: &mut Service,
        others: impl Fn(&Key) -> Option<&'s Service>,
    ) -> Option<String> {
        let mut problem = of_its_own(service);
        let asked = asked(Some(service)).to_vec();
        let kept = asked.into_iter().filter(|ip| match self.owner(*ip, key, service, &others) {
            Some(owner) => {
                problem = Some(format!("its ClusterIP {ip} is {owner}; left out"));
                false
            }
            None => true,
        });
        let kept = kept.collect();
        if let ServiceKind::ClusterIp(ips) = &mut service.kind {
            *ips = kept;
        }
        problem
    }

    /// Whose an address is, if not this Service's.
    fn owner<'s>(
        &self,
        ip: IpAddr,
        key: &Key,
        service: &Service,
        others: impl Fn(&Key) -> Option<&'s Service>,
    ) -> Option<String> {
        if let Some(name) = self.nodes.get(&ip).and_then(BTreeSet::first) {
            return Some(format!("an address of node {name}"));
        }
        if self.api_servers.contains(&ip) {
            return Some("the API server's".to_owned());
        }
        let claimants = self.services.get(&ip)?.iter();
        let ranks = claimants.filter_map(|other| Some(precedence(others(other)?, other)));
        let (.., owner) = ranks.filter(|rank| *rank < precedence(service, key)).min()?;
        Some(format!("that of {}/{}", owner.namespace, owner.name))
    }
}

/// What is wrong with a Service by itself and is no reason to do without the rest of it.
fn of_its_own(service: &Service) -> Option<String> {
    let texts: Vec<String> = service.problems.iter().map(ToString::to_string).collect();
    (!texts.is_empty()).then(|| texts.join("; "))
}

/// Problems that were told already.
#[derive(Debug, Default)]
pub(crate) struct Told(BTreeMap<Arc<Key>, String>);

impl Told {
    /// Takes note of what is wrong with a Service now; a text with its name if that is news.
    pub(crate) fn news(&mut self, key: &Arc<Key>, problem: Option<String>) -> Option<String> {
        match problem {
            None => {
                self.0.remove(key);
                None
            }
            Some(text) if self.0.get(key) == Some(&text) => None,
            Some(text) => {
                let told = format!("Service {}/{}: {text}", key.namespace, key.name);
                self.0.insert(key.clone(), text);
                Some(told)
            }
        }
    }
}
