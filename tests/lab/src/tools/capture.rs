//! Records every IP packet of the machine it runs on into a pcap file (link type RAW, as Wireshark reads it).
//!
//! tcpdump would do, but gives up its root identity first, which a user namespace does not allow.

use std::fs::File;
use std::io::Write;
use std::os::fd::AsRawFd;
use std::time::{SystemTime, UNIX_EPOCH};

use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, setsockopt, socket, sockopt,
};

use crate::{Context, Result};

/// LINKTYPE_RAW: packets begin with the IP header.
const LINK_TYPE: u32 = 101;
/// Super-packets of segmentation offload are up to 64 KiB and are kept whole.
const SNAP: usize = 1 << 17;
/// A busy machine must not lose what is looked for.
const KERNEL_BUFFER: usize = 64 << 20;

/// Records until it is killed; every packet is in the file before the next is read.
pub(super) fn record(path: &str) -> Result {
    let packets =
        socket(AddressFamily::Packet, SockType::Datagram, SockFlag::SOCK_CLOEXEC, SockProtocol::EthAll)
            .context("packet socket")?;
    // Refused in a user namespace, where the machine-wide limit holds.
    if setsockopt(&packets, sockopt::RcvBufForce, &KERNEL_BUFFER).is_err() {
        setsockopt(&packets, sockopt::RcvBuf, &KERNEL_BUFFER).context("receive buffer")?;
    }
    let mut file = File::create(path).context(path)?;
    let mut header = Vec::new();
    for word in [0xa1b2_c3d4, 2 | (4 << 16), 0, 0, SNAP as u32, LINK_TYPE] {
        header.extend_from_slice(&u32::to_ne_bytes(word));
    }
    file.write_all(&header).context(path)?;
    println!("ready");
    let mut packet = vec![0; SNAP];
    loop {
        let len = recv(packets.as_raw_fd(), &mut packet, MsgFlags::empty()).context("receive")?;
        let bytes = packet.get(..len).unwrap_or_default();
        // ARP and the like come without an IP header.
        if !matches!(bytes.first().map(|first| first >> 4), Some(4 | 6)) {
            continue;
        }
        let now = SystemTime::now().duration_since(UNIX_EPOCH).context("clock")?;
        let size = u32::try_from(len).context("size")?;
        let mut entry = Vec::with_capacity(len.saturating_add(16));
        for word in [u32::try_from(now.as_secs()).unwrap_or(u32::MAX), now.subsec_micros(), size, size] {
            entry.extend_from_slice(&word.to_ne_bytes());
        }
        entry.extend_from_slice(bytes);
        file.write_all(&entry).context(path)?;
    }
}
