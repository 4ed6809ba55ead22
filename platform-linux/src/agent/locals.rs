//! The node's own addresses that a peer may reach it by.
//!
//! Looked at every few seconds: interfaces of edge boxes come and go. Bridges and devices of container runtimes
//! are left out: 172.17.0.1 exists on every node, so as a candidate it would lead a peer to itself.

use super::command::{Command, Handle};
use crate::clock;
use crate::netlink::Netlink;
use edgemesh_core::path::Local;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

const EVERY: Duration = Duration::from_secs(5);
/// Device names that container runtimes and other overlays use.
const FOREIGN: &[&str] = &[
    "docker",
    "br-",
    "cni",
    "flannel",
    "cali",
    "cilium",
    "virbr",
    "kube-",
    "nodelocaldns",
    "edgemesh",
    "podman",
];
/// Kinds of device that never lead to another node by themselves.
const KINDS: &[&str] = &["tun", "dummy", "wireguard", "vxlan", "ipip"];

/// Tells the engine this node's addresses, again whenever they change.
pub async fn keep_told(handle: Handle, port: u16) {
    let mut told = None;
    loop {
        match addresses(port) {
            Ok(found) if told.as_ref() != Some(&found) => {
                let list: Vec<_> = found.clone();
                handle.send(Command::Inspect(Box::new(move |data| {
                    data.engine.set_local(clock::now(), &list);
                })));
                told = Some(found);
            }
            Ok(_) => {}
            Err(error) => tracing::warn!(%error, "cannot list this node's addresses"),
        }
        tokio::time::sleep(EVERY).await;
    }
}

/// All of them, with `port`.
///
/// # Errors
/// When the kernel does not list them.
pub fn addresses(port: u16) -> std::io::Result<Vec<Local>> {
    let mut netlink = Netlink::open()?;
    let links = netlink.links()?;
    let usable = |index: u32| {
        links.iter().any(|link| {
            link.index == index
                && link.up
                && link.name != "lo"
                && !KINDS.contains(&link.kind.as_str())
                && !is_foreign(&link.name)
        })
    };
    let mut found: Vec<Local> = netlink
        .addresses()?
        .into_iter()
        .filter(|address| usable(address.index) && !is_link_local(address.ip))
        .map(|address| Local {
            socket: u8::from(address.ip.is_ipv6()),
            address: SocketAddr::new(address.ip, port),
        })
        .collect();
    found.sort_by_key(|local| local.address);
    Ok(found)
}

/// Whether a container runtime or another overlay made the device of this name.
pub(super) fn is_foreign(device: &str) -> bool {
    FOREIGN.iter().any(|prefix| device.starts_with(prefix))
}

fn is_link_local(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(v4) => v4.is_link_local() || v4.is_loopback(),
        IpAddr::V6(v6) => v6.is_unicast_link_local() || v6.is_loopback(),
    }
}
