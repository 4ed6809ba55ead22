//! Which upstreams there are, which of them answer, and which lead back to us.
//!
//! The list comes from settings or from a resolv.conf, whose change is noticed at the next forwarded query, at most
//! once in [`CHECK`]. A server that failed is asked last for [`REST`]. A server of our own address is left out; one
//! that brings our probe back to us (row U9) is left out until the list changes.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use edgemesh_core::rng::Rng;
use edgemesh_core::wire::dns::{CLASS_IN, Name};
use tokio::time::Instant;

/// How often the file is looked at.
const CHECK: Duration = Duration::from_secs(1);
/// How long a server that failed is asked last.
const REST: Duration = Duration::from_secs(10);
/// As many servers as resolv.conf(5) allows.
const MAX_SERVERS: usize = 3;
/// The address of systemd-resolved's stub.
const STUB: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(127, 0, 0, 53));
/// Where systemd-resolved writes the servers behind its stub.
const BEHIND_STUB: &str = "/run/systemd/resolve/resolv.conf";

/// Where the list of upstreams comes from.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Source {
    /// Settings.
    Fixed(Vec<SocketAddr>),
    /// A file in the format of resolv.conf(5), usually `/etc/resolv.conf`.
    File(PathBuf),
}

/// An upstream.
struct Server {
    address: SocketAddr,
    rests_until: Option<Instant>,
    loops: bool,
    /// The name under which this server was probed, in wire form.
    probe: [u8; PROBE],
}

/// A probe's name: two labels of 16 hexadecimal digits.
const PROBE: usize = 35;

/// What of a file shows that it changed.
type Stamp = Option<(SystemTime, u64)>;

/// The same of the file and of the one behind systemd-resolved's stub, which changes without the other.
type Stamps = (Stamp, Stamp);

/// The upstreams.
pub(super) struct Servers {
    source: Source,
    own: Vec<IpAddr>,
    servers: Vec<Server>,
    stamp: Stamps,
    behind_stub: PathBuf,
    checked: Option<Instant>,
}

impl Servers {
    pub(super) fn new(source: Source, own: Vec<IpAddr>) -> Self {
        let behind_stub = BEHIND_STUB.into();
        Self { source, own, servers: Vec::new(), stamp: (None, None), behind_stub, checked: None }
    }

    /// Reads the list if it may have changed; the servers to probe, each with its probe, if it did.
    pub(super) fn refresh(&mut self, now: Instant, rng: &mut Rng) -> Vec<(SocketAddr, Vec<u8>)> {
        let first = self.checked.is_none();
        if self.checked.is_some_and(|checked| now < checked + CHECK) {
            return Vec::new();
        }
        self.checked = Some(now);
        let addresses = match &self.source {
            Source::Fixed(_) if !first => return Vec::new(),
            Source::Fixed(addresses) => addresses.clone(),
            Source::File(path) => {
                let stamp = (stamp(path), stamp(&self.behind_stub));
                // While a file is being replaced there may be none: the last list stays.
                if !first && (stamp == self.stamp || stamp.0.is_none()) {
                    return Vec::new();
                }
                self.stamp = stamp;
                read(path, &self.behind_stub)
            }
        };
        self.replace(&addresses, rng);
        self.servers.iter().map(|server| (server.address, probe_query(&server.probe))).collect()
    }

    fn replace(&mut self, addresses: &[SocketAddr], rng: &mut Rng) {
        self.servers.clear();
        for address in addresses.iter().take(MAX_SERVERS) {
            if self.own.contains(&address.ip()) || address.ip().is_unspecified() {
                tracing::warn!(server = %address, "upstream DNS server is this agent itself and is not used");
                continue;
            }
            self.servers.push(Server {
                address: *address,
                rests_until: None,
                loops: false,
                probe: probe_name(rng),
            });
        }
        let used: Vec<_> = self.servers.iter().map(|server| server.address).collect();
        tracing::info!(servers = ?used, "upstream DNS servers");
    }

    /// The servers in the order in which to ask them.
    pub(super) fn in_order(&self, now: Instant) -> Vec<SocketAddr> {
        let rests = |server: &&Server| server.rests_until.is_some_and(|until| now < until);
        let usable = || self.servers.iter().filter(|server| !server.loops);
        usable().filter(|s| !rests(s)).chain(usable().filter(rests)).map(|s| s.address).collect()
    }

    /// `address` answered, or it did not.
    pub(super) fn report(&mut self, address: SocketAddr, now: Instant, answered: bool) {
        for server in self.servers.iter_mut().filter(|server| server.address == address) {
            server.rests_until = (!answered).then_some(now + REST);
        }
    }

    /// Whether `name` is a probe of ours that came back; its server is not used any more.
    pub(super) fn is_probe(&mut self, name: Name<'_>) -> bool {
        let Some(server) = self.servers.iter_mut().find(|s| name.as_bytes().eq_ignore_ascii_case(&s.probe))
        else {
            return false;
        };
        if !server.loops {
            server.loops = true;
            tracing::warn!(server = %server.address, "upstream DNS server leads back to this agent and is not used");
        }
        true
    }
}

fn probe_name(rng: &mut Rng) -> [u8; PROBE] {
    let mut name = [0; PROBE];
    let (labels, _end) = name.as_chunks_mut::<17>();
    for [length, digits @ ..] in labels {
        *length = 16;
        digits.copy_from_slice(format!("{:016x}", rng.u64()).as_bytes());
    }
    name
}

/// A query for the probe. HINFO because nobody else asks for it.
fn probe_query(name: &[u8]) -> Vec<u8> {
    const HINFO: u16 = 13;
    let header = [0u16, 0x0100, 1, 0, 0, 0].map(u16::to_be_bytes);
    let fields = [HINFO, CLASS_IN].map(u16::to_be_bytes);
    [header.as_flattened(), name, fields.as_flattened()].concat()
}

fn stamp(path: &Path) -> Stamp {
    let metadata = std::fs::metadata(path).ok()?;
    Some((metadata.modified().ok()?, metadata.len()))
}

/// The servers that the file names; those behind systemd-resolved's stub where it names the stub.
fn read(path: &Path, behind_stub: &Path) -> Vec<SocketAddr> {
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) => {
            tracing::warn!(path = %path.display(), %error, "upstream DNS servers: reading");
            return Vec::new();
        }
    };
    let servers = parse_resolv_conf(&text);
    if servers.iter().any(|server| server.ip() == STUB) {
        let behind = std::fs::read_to_string(behind_stub).map(|text| parse_resolv_conf(&text));
        return behind.ok().filter(|behind| !behind.is_empty()).unwrap_or(servers);
    }
    servers
}

/// The name servers of a resolv.conf(5). Lines that name none are skipped, and so are addresses with a zone.
pub fn parse_resolv_conf(text: &str) -> Vec<SocketAddr> {
    let server = |line: &str| {
        let mut words = line.split_whitespace();
        (words.next()? == "nameserver").then_some(())?;
        Some(SocketAddr::new(words.next()?.parse().ok()?, 53))
    };
    text.lines().filter_map(server).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    #[test]
    fn resolv_conf_names_servers() {
        let text = "# nameserver 9.9.9.9\nsearch a b\n nameserver\t192.0.2.1 # x\nnameserver fd00::1\n\
                    nameserver fe80::1%eth0\nnameserver\nnameservers 192.0.2.9\n;nameserver 192.0.2.8\n";
        assert_eq!(parse_resolv_conf(text), [address("192.0.2.1:53"), address("[fd00::1]:53")]);
    }

    #[test]
    fn u7_a_server_that_failed_is_asked_last_for_a_while() {
        let [a, b] = ["192.0.2.1:53", "192.0.2.2:53"].map(address);
        let (mut rng, now) = (Rng::new([1; 32]), Instant::now());
        let mut servers = Servers::new(Source::Fixed(vec![a, b]), vec![]);
        assert_eq!(servers.refresh(now, &mut rng).len(), 2);
        assert_eq!(servers.in_order(now), [a, b]);
        servers.report(a, now, false);
        assert_eq!(servers.in_order(now), [b, a]);
        servers.report(b, now, false);
        assert_eq!(servers.in_order(now), [a, b], "all down: tried anyway");
        servers.report(b, now, true);
        assert_eq!(servers.in_order(now), [b, a]);
        assert_eq!(servers.in_order(now + REST), [a, b]);
    }

    #[test]
    fn u9_our_own_addresses_and_servers_that_lead_back_are_not_used() {
        let [own, other] = ["169.254.96.16:53", "192.0.2.2:53"].map(address);
        let (mut rng, now) = (Rng::new([1; 32]), Instant::now());
        let mut servers = Servers::new(Source::Fixed(vec![own, other]), vec![own.ip()]);
        let probes = servers.refresh(now, &mut rng);
        assert_eq!(probes.len(), 1);
        let (server, query) = &probes[0];
        assert_eq!(*server, other);
        let query = edgemesh_core::wire::dns::Query::parse(query).unwrap();
        assert!(!servers.is_probe(Name::parse(b"\x01a\x00", 0).unwrap()));
        assert_eq!(servers.in_order(now), [other]);
        assert!(servers.is_probe(query.name));
        assert!(servers.in_order(now).is_empty());
    }

    #[test]
    fn u9_behind_a_local_stub_its_own_servers_are_used_and_followed() {
        let directory = std::env::temp_dir().join(format!("edgemesh-stub-{}", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        let (stub, behind) = (directory.join("stub"), directory.join("behind"));
        std::fs::write(&stub, "nameserver 127.0.0.53\n").unwrap();
        std::fs::write(&behind, "nameserver 192.0.2.1\n").unwrap();
        let (mut rng, now) = (Rng::new([1; 32]), Instant::now());
        let mut servers = Servers::new(Source::File(stub), vec![]);
        servers.behind_stub = behind.clone();
        servers.refresh(now, &mut rng);
        assert_eq!(servers.in_order(now), [address("192.0.2.1:53")]);
        std::fs::write(&behind, "nameserver 192.0.2.22\n").unwrap();
        servers.refresh(now + CHECK, &mut rng);
        assert_eq!(servers.in_order(now), [address("192.0.2.22:53")]);
        std::fs::remove_dir_all(&directory).unwrap();
    }

    #[test]
    fn u8_a_changed_file_is_read_again() {
        let path = std::env::temp_dir().join(format!("edgemesh-resolv-{}", std::process::id()));
        let (mut rng, now) = (Rng::new([1; 32]), Instant::now());
        std::fs::write(&path, "nameserver 192.0.2.1\n").unwrap();
        let mut servers = Servers::new(Source::File(path.clone()), vec![]);
        servers.refresh(now, &mut rng);
        assert_eq!(servers.in_order(now), [address("192.0.2.1:53")]);
        std::fs::write(&path, "nameserver 192.0.2.22\n").unwrap();
        assert!(servers.refresh(now + CHECK / 2, &mut rng).is_empty());
        assert_eq!(servers.refresh(now + CHECK, &mut rng).len(), 1);
        assert_eq!(servers.in_order(now), [address("192.0.2.22:53")]);
        assert!(servers.refresh(now + CHECK * 2, &mut rng).is_empty(), "unchanged");
        std::fs::remove_file(&path).unwrap();
        assert!(servers.refresh(now + CHECK * 3, &mut rng).is_empty());
        assert_eq!(servers.in_order(now), [address("192.0.2.22:53")], "the last list stays");
    }
}
