//! The TUN device: where the node's packets for Services enter and leave.
//!
//! [`Tun::open`] creates the device or takes over the one that an earlier run left (it is persistent, so
//! established flows outlive a restart of the agent), after making sure that it is ours: a device of another
//! program is named in the error and left alone. Reads and writes are one packet or super-packet each, with its
//! [`VnetHdr`], and never block. Offloads are set anew at every opening: stale ones put half-made checksums on
//! the wire.
//!
//! Bounds: one scratch buffer, allocated only when the kernel refuses a super-packet. It does not add addresses
//! or routes ([`crate::interception`]) and does not translate.

mod error;
mod owner;

use std::fs::{File, OpenOptions};
use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::time::{Duration, Instant};

use crate::netlink::{Link, LinkChange, Netlink};
use crate::offload::{self, SuperPacket, VNET_HDR_LEN, VnetHdr};
use crate::sys::device;

pub use error::TunError;
pub use owner::{ALIAS, check as check_ours};

/// Our device's name unless configured.
pub const DEFAULT_NAME: &str = "edgemesh0";
/// MTU unless configured: leaves room for the tunnel's 40 bytes on a path of 1500, IPv6 and relay included.
pub const DEFAULT_MTU: u32 = 1408;
/// Largest super-packet: 45 segments of 1408 bytes, which fit into one UDP send once sealed.
pub const GSO_MAX_SIZE: u32 = 61_072;
/// Bytes that hold any packet of the device.
pub const MAX_PACKET: usize = 65_535;

/// How long a device may still be held by a process that is on its way out.
const HELD_AT_MOST: Duration = Duration::from_millis(500);
/// After so many refused super-packets, [`Tun::takes_super_packets`] says no.
const REFUSALS: u32 = 3;

/// An open TUN device.
pub struct Tun {
    file: File,
    name: String,
    /// This opening created it.
    fresh: bool,
    udp: bool,
    refused: u32,
    scratch: Vec<u8>,
}

impl Tun {
    /// Opens the device `name`, creating it when there is none, and brings it up with the MTU given.
    ///
    /// # Errors
    /// [`TunError`], which names what is in the way.
    pub fn open(name: &str, mtu: u32) -> Result<Self, TunError> {
        if name.is_empty() || name.len() > 15 || name.contains(|c: char| c == '/' || !c.is_ascii_graphic()) {
            return Err(TunError::Name(name.to_owned()));
        }
        let mut netlink = Netlink::open().map_err(|e| TunError::System("opening a netlink socket", e))?;
        let existing = netlink.link(name).map_err(|e| TunError::System("asking for the device", e))?;
        if let Some(link) = &existing {
            owner::check(link)?;
        }
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(libc::O_NONBLOCK)
            .open(error::PATH)
            .map_err(TunError::from_open)?;
        attach(file.as_fd(), name).map_err(|e| TunError::from_attach(name, e))?;
        let udp =
            set_offloads(file.as_fd()).map_err(|e| TunError::System("setting offloads of the device", e))?;
        let link = netlink
            .link(name)
            .and_then(|link| link.ok_or(io::ErrorKind::NotFound.into()))
            .map_err(|e| TunError::System("asking for the device", e))?;
        // Marked as ours before it is made persistent: what outlives us can be told from others' devices.
        configure(&mut netlink, &link, mtu).map_err(|e| TunError::System("configuring the device", e))?;
        device::set_persist(file.as_fd(), true).map_err(|e| TunError::System("keeping the device", e))?;
        let fresh = existing.is_none();
        Ok(Self { file, name: name.to_owned(), fresh, udp, refused: 0, scratch: Vec::new() })
    }

    /// Lets a device that this opening created end with it, because it came to no use. One that an earlier run
    /// left stays.
    ///
    /// # Errors
    /// As `ioctl(2)`.
    pub fn withdraw(&self) -> io::Result<()> {
        if self.fresh { device::set_persist(self.file.as_fd(), false) } else { Ok(()) }
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether UDP may be written and is read as super-packets (Linux 6.2).
    pub fn takes_udp_super_packets(&self) -> bool {
        self.udp && self.takes_super_packets()
    }

    /// Whether super-packets should be written. Some kernels refuse them; [`Tun::write`] then cuts them, and
    /// after three refusals joining is not worth its effort.
    pub fn takes_super_packets(&self) -> bool {
        self.refused < REFUSALS
    }

    /// Reads one packet into `buffer`; `None` when none waits.
    ///
    /// # Errors
    /// [`is_gone`] when the device was deleted: open it anew. `InvalidData` for a packet longer than `buffer`,
    /// which is lost. Otherwise as `readv(2)`.
    pub fn read(&self, buffer: &mut [u8]) -> io::Result<Option<(VnetHdr, usize)>> {
        let mut header = [0; VNET_HDR_LEN];
        let room = buffer.len();
        let mut parts = [IoSliceMut::new(&mut header), IoSliceMut::new(buffer)];
        let n = match (&self.file).read_vectored(&mut parts) {
            Ok(n) => n,
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(None),
            Err(e) => return Err(e),
        };
        let len = n.checked_sub(VNET_HDR_LEN).ok_or(io::ErrorKind::InvalidData)?;
        if len > room {
            return Err(io::ErrorKind::InvalidData.into());
        }
        Ok(Some((VnetHdr::parse(&header), len)))
    }

    /// Writes one packet with a finished checksum.
    ///
    /// # Errors
    /// As `writev(2)`; `EINVAL` for what is no IP packet, `EIO` while the device is down.
    pub fn write_packet(&self, packet: &[u8]) -> io::Result<()> {
        let header = VnetHdr::default().emit();
        (&self.file).write_vectored(&[IoSlice::new(&header), IoSlice::new(packet)]).map(drop)
    }

    /// Writes one packet or super-packet as it was read.
    ///
    /// # Errors
    /// As [`Tun::write_packet`].
    pub fn write_with(&self, header: &VnetHdr, packet: &[u8]) -> io::Result<()> {
        (&self.file).write_vectored(&[IoSlice::new(&header.emit()), IoSlice::new(packet)]).map(drop)
    }

    /// Writes what a [`offload::Coalescer`] made. A super-packet that the kernel refuses is cut and written in
    /// pieces.
    ///
    /// # Errors
    /// As `writev(2)`.
    pub fn write(&mut self, packet: &SuperPacket<'_>) -> io::Result<()> {
        match (&self.file).write_vectored(packet.parts) {
            Err(e) if e.raw_os_error() == Some(libc::EINVAL) && packet.packets > 1 => {
                self.refused = self.refused.saturating_add(1);
                self.write_cut(packet)
            }
            other => other.map(drop),
        }
    }

    fn write_cut(&mut self, packet: &SuperPacket<'_>) -> io::Result<()> {
        let whole: Vec<u8> = packet.parts.iter().skip(1).flat_map(|part| part.iter().copied()).collect();
        let mut scratch = core::mem::take(&mut self.scratch);
        scratch.resize(offload::SEGMENT_BUFFER, 0);
        let written = offload::segment(&packet.header, &whole, &mut scratch)
            .map_err(|_| io::ErrorKind::InvalidData.into())
            .and_then(|segments| {
                (0..segments.count())
                    .try_for_each(|i| self.write_packet(scratch.get(segments.range(i)).unwrap_or_default()))
            });
        self.scratch = scratch;
        written
    }
}

impl AsFd for Tun {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

/// Whether an error of reading or writing means that the device was deleted under us.
pub fn is_gone(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EBADFD | libc::ENODEV))
}

/// Attaches to the device. A process that is just ending, or a child that it forked and that has not yet become
/// another program, still holds it for a moment.
fn attach(fd: BorrowedFd<'_>, name: &str) -> io::Result<()> {
    let give_up = Instant::now() + HELD_AT_MOST;
    loop {
        match device::attach(fd, name, libc::IFF_TUN | libc::IFF_NO_PI | libc::IFF_VNET_HDR) {
            Err(e) if e.raw_os_error() == Some(libc::EBUSY) && Instant::now() < give_up => {
                std::thread::sleep(HELD_AT_MOST / 50);
            }
            other => return other,
        }
    }
}

/// Sets every offload that the kernel has; tells whether UDP is among them.
fn set_offloads(fd: BorrowedFd<'_>) -> io::Result<bool> {
    device::set_header_size(fd, VNET_HDR_LEN as libc::c_int)?;
    let tcp = libc::TUN_F_CSUM | libc::TUN_F_TSO4 | libc::TUN_F_TSO6;
    if device::set_offload(fd, tcp | libc::TUN_F_USO4 | libc::TUN_F_USO6).is_ok() {
        return Ok(true);
    }
    device::set_offload(fd, tcp).map(|()| false)
}

fn configure(netlink: &mut Netlink, link: &Link, mtu: u32) -> io::Result<()> {
    // Spares the engine the kernel's router solicitations; a kernel without IPv6 refuses and has none.
    let quiet = LinkChange { no_link_local: true, ..LinkChange::default() };
    let _ = netlink.change_link(link.index, &quiet);
    let change = LinkChange { mtu: Some(mtu), alias: Some(ALIAS), up: true, ..LinkChange::default() };
    netlink.change_link(link.index, &change)?;
    // A kernel that cannot do this sends bursts that the socket layer splits once more.
    let bound = LinkChange { gso_max_size: Some(GSO_MAX_SIZE), ..LinkChange::default() };
    match netlink.change_link(link.index, &bound) {
        Err(e) if matches!(e.raw_os_error(), Some(libc::EOPNOTSUPP | libc::EINVAL)) => Ok(()),
        other => other,
    }
}

#[cfg(test)]
mod tests;
