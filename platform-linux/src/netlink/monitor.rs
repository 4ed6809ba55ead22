//! News of changes to links, addresses, routes and nftables tables.
//!
//! Two nonblocking netlink sockets in multicast groups. [`Monitor::drain`] reads what came and tells the few
//! kinds of change that matter to us; it lives as long as the keeper. When the kernel had to drop news
//! ([`Change::Missed`]), everything must be looked at again. It does not say what is wrong, only where to look.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd};

use super::wire;
use crate::sys;

/// Where to look again.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Change {
    /// A device came, went or changed.
    Link,
    /// An address came or went.
    Address,
    /// A route came or went.
    Route,
    /// The nftables table of the name given to [`Monitor::open`] lost something.
    Table,
    /// The kernel had more news than room for them.
    Missed,
}

const RTNLGRP_LINK: libc::c_int = 1;
const RTNLGRP_IPV4_IFADDR: libc::c_int = 5;
const RTNLGRP_IPV4_ROUTE: libc::c_int = 7;
const RTNLGRP_IPV6_IFADDR: libc::c_int = 9;
const RTNLGRP_IPV6_ROUTE: libc::c_int = 11;
const NETLINK_ADD_MEMBERSHIP: libc::c_int = 1;

const NFT_SUBSYSTEM: u16 = 10;
const NFT_MSG_DELTABLE: u16 = 2;
const NFT_MSG_DELCHAIN: u16 = 5;
const NFT_MSG_NEWRULE: u16 = 6;
const NFT_MSG_DELRULE: u16 = 8;
/// `NFTA_TABLE_NAME`, `NFTA_CHAIN_TABLE` and `NFTA_RULE_TABLE` alike.
const NFTA_TABLE: u16 = 1;

/// The stream of changes in the network namespace of the thread that opened it.
pub struct Monitor {
    routing: File,
    nftables: Option<File>,
    table: String,
    buffer: Vec<u8>,
}

impl Monitor {
    /// Starts listening. Without CAP_NET_ADMIN, or on a kernel without nftables, table changes are not heard of.
    ///
    /// # Errors
    /// As `socket(2)`.
    pub fn open(table: &str) -> io::Result<Self> {
        let groups =
            [RTNLGRP_LINK, RTNLGRP_IPV4_IFADDR, RTNLGRP_IPV4_ROUTE, RTNLGRP_IPV6_IFADDR, RTNLGRP_IPV6_ROUTE];
        let routing = listen(libc::NETLINK_ROUTE, &groups)?;
        let nftables = listen(libc::NETLINK_NETFILTER, &[libc::NFNLGRP_NFTABLES]).ok();
        Ok(Self { routing, nftables, table: table.to_owned(), buffer: vec![0; 32 * 1024] })
    }

    /// What to wait for reading on.
    pub fn descriptors(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        [Some(&self.routing), self.nftables.as_ref()].into_iter().flatten().map(File::as_fd)
    }

    /// Reads all news; each kind is reported at least once.
    pub fn drain(&mut self, mut report: impl FnMut(Change)) {
        drain_one(&mut self.routing, &mut self.buffer, |message| match message.kind {
            16 | 17 => report(Change::Link),
            20 | 21 => report(Change::Address),
            24 | 25 => report(Change::Route),
            OVERRUN => report(Change::Missed),
            _ => {}
        });
        let Some(nftables) = self.nftables.as_mut() else { return };
        drain_one(nftables, &mut self.buffer, |message| {
            if message.kind == OVERRUN || (concerns(message, &self.table)) {
                report(if message.kind == OVERRUN { Change::Missed } else { Change::Table });
            }
        });
    }
}

/// Stands for «the socket overran»; netlink itself uses the number for the same (`NLMSG_OVERRUN`).
const OVERRUN: u16 = 4;

fn listen(family: libc::c_int, groups: &[libc::c_int]) -> io::Result<File> {
    let fd = sys::socket::netlink(family)?;
    for group in groups {
        sys::option::set(fd.as_fd(), libc::SOL_NETLINK, NETLINK_ADD_MEMBERSHIP, *group)?;
    }
    sys::option::set_nonblocking(fd.as_fd())?;
    Ok(File::from(fd))
}

fn drain_one(socket: &mut File, buffer: &mut [u8], mut each: impl FnMut(&wire::Message<'_>)) {
    loop {
        match socket.read(buffer) {
            Ok(n) => wire::messages(buffer.get(..n).unwrap_or_default()).for_each(|message| each(&message)),
            Err(e) if e.raw_os_error() == Some(libc::ENOBUFS) => {
                each(&wire::Message { kind: OVERRUN, flags: 0, sequence: 0, body: &[] });
            }
            Err(_) => return,
        }
    }
}

/// Whether an nftables message tells of something that `table` lost, or of a rule put into it.
fn concerns(message: &wire::Message<'_>, table: &str) -> bool {
    let kinds = [NFT_MSG_DELTABLE, NFT_MSG_DELCHAIN, NFT_MSG_NEWRULE, NFT_MSG_DELRULE];
    message.kind >> 8 == NFT_SUBSYSTEM
        && kinds.contains(&(message.kind & 0xff))
        && wire::attributes(message.body.get(4..).unwrap_or_default())
            .any(|(kind, value)| kind == NFTA_TABLE && wire::text(value) == table)
}
