//! Other user-space tunnels between the nodes of a pair: `wireguard-go` and `boringtun-cli`.
//!
//! Both are set up through WireGuard's cross-platform configuration protocol on a Unix socket, with one peer each.
//! Everything else is as they choose: threads, offloads, buffers. `tests/bench/rivals.sh` fetches them.

use crate::world::Pair;
use edgemesh_lab::Result;
use edgemesh_lab::machine::Machine;
use edgemesh_lab::process::Process;
use edgemesh_lab::wait::{secs, wait_until};
use edgemesh_lab::wireguard::{Device, fetched, hex};
use std::net::Ipv4Addr;
use std::process::Command;
use x25519_dalek::{PublicKey, StaticSecret};

/// What WireGuard's tools choose for a path of 1500 bytes.
const MTU: u32 = 1420;

/// A kind of tunnel.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Kind {
    /// The reference implementation in Go.
    WireguardGo,
    /// Cloudflare's in Rust.
    Boringtun,
}

/// A running tunnel.
pub(crate) struct Rival {
    /// Its name and version.
    pub(crate) name: String,
    /// The near and the far end.
    pub(crate) processes: [Process; 2],
    /// The far node's address in it.
    pub(crate) target: Ipv4Addr,
}

impl Kind {
    fn program(self) -> &'static str {
        match self {
            Self::WireguardGo => "wireguard-go",
            Self::Boringtun => "boringtun-cli",
        }
    }

    fn arguments(self) -> &'static [&'static str] {
        match self {
            Self::WireguardGo => &["--foreground"],
            // It would go on as a user that may not open the device.
            Self::Boringtun => &["--foreground", "--disable-drop-privileges"],
        }
    }

    /// Starts it on both nodes; `None` when it was not fetched, which is told.
    ///
    /// # Errors
    /// When it does not start or refuses its configuration.
    pub(crate) fn start(self, pair: &Pair) -> Result<Option<Rival>> {
        let Some(path) = fetched(self.program())? else {
            println!("{} is not there (tests/bench/rivals.sh fetches it): left out\n", self.program());
            return Ok(None);
        };
        let path = path.to_string_lossy().into_owned();
        let net = 1 + self as u8;
        let [near, far] = [1, 2].map(|number| Ipv4Addr::new(10, 78, net, number));
        let [ours, theirs] = [1, 2].map(|side| StaticSecret::from([16 * net + side; 32]));
        let port = 51_820 + u16::from(net);
        let end = |machine: &Machine, own: Ipv4Addr, secret, peer: &Machine, peer_own, peer_secret| {
            let mut config =
                format!("private_key={}\nlisten_port={port}\n", hex(&StaticSecret::to_bytes(secret)));
            config += &format!("public_key={}\n", hex(PublicKey::from(peer_secret).as_bytes()));
            config += &format!("endpoint={}:{port}\nallowed_ip={peer_own}/32\n", peer.address);
            self.start_end(&path, machine, own, &config)
        };
        let processes = [
            end(&pair.near, near, &ours, &pair.far, far, &theirs)?,
            end(&pair.far, far, &theirs, &pair.near, near, &ours)?,
        ];
        Ok(Some(Rival { name: version(&path), processes, target: far }))
    }

    fn start_end(self, path: &str, machine: &Machine, own: Ipv4Addr, config: &str) -> Result<Process> {
        let device = format!("{}{}", if self == Self::Boringtun { "bt" } else { "wg" }, own.octets()[3]);
        let started = Device::start(machine, &[&[path], self.arguments()].concat(), &device, config)?;
        machine
            .ns
            .ip(&[&format!("addr add {own}/24 dev {device}"), &format!("link set {device} mtu {MTU} up")])?;
        Ok(started.process)
    }
}

impl Rival {
    /// Waits until it carries packets.
    ///
    /// # Errors
    /// When it does not.
    pub(crate) fn wait(&self, near: &Machine) -> Result {
        let target = self.target.to_string();
        wait_until(&format!("{} carries packets", self.name), secs(20), || {
            near.check(&["ping", "-c", "1", "-W", "1", &target]).map(drop)
        })
    }
}

/// The first line of `--version`, with the package's version if there is a note of it.
fn version(path: &str) -> String {
    if let Ok(noted) = std::fs::read_to_string(format!("{path}.version")) {
        return noted.trim().to_owned();
    }
    let said = Command::new(path).arg("--version").output().map(|output| output.stdout).unwrap_or_default();
    String::from_utf8_lossy(&said).lines().next().unwrap_or("unknown version").to_owned()
}
