//! Which servers a name is asked of: those of the longest stub domain that it is in, else the node's upstreams.
//!
//! Each group of servers is a [`Servers`]. Bounds: [`MAX_STUB_DOMAINS`] groups beside the node's own, the ones
//! named first. A group whose every server is left out answers nothing: its names do not go elsewhere.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

use edgemesh_core::rng::Rng;
use edgemesh_core::wire::dns::{LowerName, MAX_NAME, Name, write_text};
use edgemesh_host::config::dns_server;
use tokio::time::Instant;

use super::servers::{Servers, Source};

/// Stub domains in use.
pub const MAX_STUB_DOMAINS: usize = 64;

/// A server of a domain, as settings name it: `NAME=IP[:PORT]`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct StubDomain {
    /// The domain in wire form, in lower case.
    domain: Box<[u8]>,
    text: String,
    server: SocketAddr,
}

impl FromStr for StubDomain {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let accepted = || "accepted: NAME=IP or NAME=IP:PORT, such as corp.example=10.0.0.2".to_owned();
        let (name, server) = text.split_once('=').ok_or_else(accepted)?;
        let mut wire = [0; MAX_NAME];
        let len = write_text(name.as_bytes(), &mut wire).map_err(|_| accepted())?;
        let domain = wire.get(..len).ok_or_else(accepted)?.to_ascii_lowercase().into();
        Ok(Self { domain, text: name.to_owned(), server: dns_server(server).map_err(|_| accepted())? })
    }
}

impl fmt::Display for StubDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}={}", self.text, self.server)
    }
}

/// Where names are asked. What changes while the agent runs.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Routes {
    /// Where the node's upstreams come from.
    pub source: Source,
    /// Servers of single domains; several may name one domain.
    pub stubs: Vec<StubDomain>,
    /// Addresses that are ours: a server with one of them would be a loop.
    pub own: Vec<IpAddr>,
}

/// The servers of one domain.
struct Group {
    domain: Box<[u8]>,
    servers: Servers,
}

/// All servers.
pub(super) struct Upstreams {
    others: Servers,
    stubs: Vec<Group>,
}

impl Upstreams {
    pub(super) fn new(routes: &Routes) -> Self {
        let mut domains: Vec<(&[u8], Vec<SocketAddr>)> = Vec::new();
        for stub in &routes.stubs {
            if let Some((_, known)) = domains.iter_mut().find(|(domain, _)| *domain == &*stub.domain) {
                known.push(stub.server);
            } else if domains.len() < MAX_STUB_DOMAINS {
                domains.push((&stub.domain, vec![stub.server]));
            } else {
                tracing::warn!(%stub, "stub domain left out: there are {MAX_STUB_DOMAINS} others");
            }
        }
        // The longest first, so that the first one that fits is the closest.
        domains.sort_by_key(|(domain, _)| std::cmp::Reverse(domain.len()));
        let group = |(domain, servers): (&[u8], Vec<SocketAddr>)| Group {
            domain: domain.into(),
            servers: Servers::new(Source::Fixed(servers), routes.own.clone()),
        };
        Self {
            others: Servers::new(routes.source.clone(), routes.own.clone()),
            stubs: domains.into_iter().map(group).collect(),
        }
    }

    fn each(&mut self) -> impl Iterator<Item = &mut Servers> {
        self.stubs.iter_mut().map(|group| &mut group.servers).chain([&mut self.others])
    }

    /// Reads the lists that may have changed; the servers to probe, each with its probe.
    pub(super) fn refresh(&mut self, now: Instant, rng: &mut Rng) -> Vec<(SocketAddr, Vec<u8>)> {
        self.each().flat_map(|servers| servers.refresh(now, rng)).collect()
    }

    /// The servers of `name` in the order in which to ask them.
    pub(super) fn in_order(&self, name: Name<'_>, now: Instant) -> Vec<SocketAddr> {
        let lower = LowerName::new(name);
        let is_in = |group: &&Group| {
            Name::parse(&group.domain, 0).is_ok_and(|domain| lower.as_name().labels_before(domain).is_some())
        };
        let group = self.stubs.iter().find(is_in).map_or(&self.others, |group| &group.servers);
        group.in_order(now)
    }

    /// `server` answered, or it did not.
    pub(super) fn report(&mut self, server: SocketAddr, now: Instant, answered: bool) {
        self.each().for_each(|servers| servers.report(server, now, answered));
    }

    /// Whether `name` is a probe of ours that came back; its server is not used any more.
    pub(super) fn is_probe(&mut self, name: Name<'_>) -> bool {
        self.each().any(|servers| servers.is_probe(name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn upstreams(stubs: &[&str]) -> Upstreams {
        let routes = Routes {
            source: Source::Fixed(vec!["192.0.2.1:53".parse().unwrap()]),
            stubs: stubs.iter().map(|stub| stub.parse().unwrap()).collect(),
            own: vec!["169.254.96.16".parse().unwrap()],
        };
        let mut upstreams = Upstreams::new(&routes);
        let _ = upstreams.refresh(Instant::now(), &mut Rng::new([1; 32]));
        upstreams
    }

    fn asked(upstreams: &Upstreams, name: &str) -> Vec<String> {
        let mut wire = [0; MAX_NAME];
        let len = write_text(name.as_bytes(), &mut wire).unwrap();
        let order = upstreams.in_order(Name::parse(&wire[..len], 0).unwrap(), Instant::now());
        order.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn u8_the_longest_stub_domain_that_fits_is_asked() {
        let stubs = ["corp.test=10.0.0.2", "lab.Corp.test.=10.0.0.3:5353", "corp.test=fd00::2"];
        let upstreams = upstreams(&stubs);
        for name in ["corp.test", "a.b.CORP.test"] {
            assert_eq!(asked(&upstreams, name), ["10.0.0.2:53", "[fd00::2]:53"], "{name}");
        }
        assert_eq!(asked(&upstreams, "x.lab.corp.test"), ["10.0.0.3:5353"]);
        for name in ["xcorp.test", "test", "corp.test.example"] {
            assert_eq!(asked(&upstreams, name), ["192.0.2.1:53"], "{name}");
        }
    }

    #[test]
    fn u8_a_stub_domain_that_leads_to_ourselves_goes_nowhere_else() {
        let upstreams = upstreams(&["corp.test=169.254.96.16"]);
        assert!(asked(&upstreams, "a.corp.test").is_empty());
    }

    #[test]
    fn u8_stub_domains_are_bounded() {
        let many: Vec<String> =
            (0..=MAX_STUB_DOMAINS).map(|n| format!("d{n}.test=10.0.0.{}", n + 1)).collect();
        let upstreams = upstreams(&many.iter().map(String::as_str).collect::<Vec<_>>());
        assert_eq!(upstreams.stubs.len(), MAX_STUB_DOMAINS);
        assert_eq!(asked(&upstreams, "d63.test"), ["10.0.0.64:53"]);
        assert_eq!(asked(&upstreams, "d64.test"), ["192.0.2.1:53"]);
    }

    #[test]
    fn u8_what_is_no_stub_domain_is_refused_with_what_is() {
        for text in ["corp.test", "=10.0.0.2", "corp.test=", "a..b=10.0.0.2", "corp.test=ns.example"] {
            let error = text.parse::<StubDomain>().unwrap_err();
            assert!(error.starts_with("accepted: NAME=IP"), "{text}: {error}");
        }
        assert_eq!("Corp.test=10.0.0.2".parse::<StubDomain>().unwrap().to_string(), "Corp.test=10.0.0.2:53");
    }
}
