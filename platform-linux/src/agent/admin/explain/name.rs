//! What `explain` is asked about.

use std::net::IpAddr;

/// A Service, and a port of it perhaps.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Target {
    pub(super) service: Which,
    pub(super) port: Wanted,
}

/// The Service.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Which {
    /// By name.
    Name { namespace: String, name: String, host: Option<String> },
    /// By ClusterIP or endpoint VIP.
    Address(IpAddr),
}

/// The port.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Wanted {
    /// All of them.
    Any,
    /// The one with this number.
    Port(u16),
    /// The one with this name.
    PortName(String),
}

impl Target {
    /// Reads `svc`, `svc.namespace`, a full name or an address, each with an optional `:PORT`.
    pub(super) fn parse(text: &str, domain: &str) -> Result<Self, String> {
        if let Ok(address) = text.parse::<IpAddr>() {
            return Ok(Self { service: Which::Address(address), port: Wanted::Any });
        }
        let (name, port) = match text.rsplit_once(':') {
            None => (text, Wanted::Any),
            Some((name, port)) => match port.parse::<u16>() {
                Ok(number) if number != 0 => (name, Wanted::Port(number)),
                _ if port.starts_with(|c: char| c.is_ascii_lowercase()) => {
                    (name, Wanted::PortName(port.to_owned()))
                }
                _ => {
                    return Err(format!("port {port:?} in {text:?}: accepted are 1 to 65535 and port names"));
                }
            },
        };
        let inner = name.trim_start_matches('[').trim_end_matches(']');
        if let Ok(address) = inner.parse::<IpAddr>() {
            return Ok(Self { service: Which::Address(address), port });
        }
        let lower = name.trim_end_matches('.').to_ascii_lowercase();
        let below = lower.strip_suffix(&format!(".{}", domain.to_ascii_lowercase())).unwrap_or(&lower);
        let labels: Vec<&str> = below.split('.').collect();
        let which = |namespace: &str, name: &str, host: Option<&str>| Which::Name {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            host: host.map(str::to_owned),
        };
        let service = match labels.as_slice() {
            [name] if !name.is_empty() => which("default", name, None),
            [name, namespace] | [name, namespace, "svc"] => which(namespace, name, None),
            [host, name, namespace, "svc"] => which(namespace, name, Some(host)),
            _ => {
                return Err(format!(
                    "{name:?} is no name of a Service: accepted are svc, svc.namespace, \
                     svc.namespace.svc.{domain} and an address, each with an optional :PORT"
                ));
            }
        };
        Ok(Self { service, port })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_of_a_name_is_read() {
        let name = |text: &str| Target::parse(text, "cluster.local").unwrap();
        let is = |namespace: &str, name: &str, host: Option<&str>, port| Target {
            service: Which::Name {
                namespace: namespace.into(),
                name: name.into(),
                host: host.map(str::to_owned),
            },
            port,
        };
        assert_eq!(name("park"), is("default", "park", None, Wanted::Any));
        assert_eq!(name("park:80"), is("default", "park", None, Wanted::Port(80)));
        assert_eq!(name("Park.prod:http"), is("prod", "park", None, Wanted::PortName("http".into())));
        for full in ["park.prod.svc", "park.prod.svc.cluster.local", "park.prod.svc.cluster.local."] {
            assert_eq!(name(full), is("prod", "park", None, Wanted::Any), "{full}");
        }
        assert_eq!(name("db-0.db.prod.svc.cluster.local"), is("prod", "db", Some("db-0"), Wanted::Any));
        let address = |ip: &str| Which::Address(ip.parse().unwrap());
        assert_eq!(name("10.96.0.10:80"), Target { service: address("10.96.0.10"), port: Wanted::Port(80) });
        assert_eq!(name("[fd00::1]:80").service, address("fd00::1"));
        assert_eq!(name("fd00::1").service, address("fd00::1"));
        for wrong in ["", "park:0", "park:70000", "a.b.c.d.e", "www.example.org"] {
            assert!(Target::parse(wrong, "cluster.local").is_err(), "{wrong}");
        }
    }
}
