//! News of changes to links, addresses, routes and nftables tables.
//!
//! Two nonblocking netlink sockets in multicast groups. [`Monitor::drain`] reads what came and tells the few
//! kinds of change that matter to us; it lives as long as the keeper. When the kernel had to drop news
//! ([`Change::Missed`]), everything must be looked at again. It does not say what is wrong, only where to look.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd};

use super::{Address, Link, Route, messages, wire};
use crate::sys;

/// Where to look again.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Change {
    /// A device came, went or changed.
    Link(Link),
    /// An address came or went.
    Address(Address),
    /// A route came or went.
    Route(Route),
    /// Chains or rules of the nftables table with this name changed, or it lost elements, or it went.
    Table(String),
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
const NFT_MSG_NEWCHAIN: u16 = 3;
const NFT_MSG_DELCHAIN: u16 = 5;
const NFT_MSG_NEWRULE: u16 = 6;
const NFT_MSG_DELRULE: u16 = 8;
const NFT_MSG_DELSETELEM: u16 = 14;
/// `NFTA_TABLE_NAME`, `NFTA_CHAIN_TABLE`, `NFTA_RULE_TABLE` and `NFTA_SET_ELEM_LIST_TABLE` alike.
const NFTA_TABLE: u16 = 1;

/// The stream of changes in the network namespace of the thread that opened it.
pub struct Monitor {
    routing: File,
    nftables: Option<File>,
    tables: Vec<String>,
    buffer: Vec<u8>,
}

impl Monitor {
    /// Starts listening; of nftables only tables with one of the names given are told of. Without CAP_NET_ADMIN, or on a kernel without nftables, table changes are not heard of.
    ///
    /// # Errors
    /// As `socket(2)`.
    pub fn open(tables: &[&str]) -> io::Result<Self> {
        let groups =
            [RTNLGRP_LINK, RTNLGRP_IPV4_IFADDR, RTNLGRP_IPV4_ROUTE, RTNLGRP_IPV6_IFADDR, RTNLGRP_IPV6_ROUTE];
        let routing = listen(libc::NETLINK_ROUTE, &groups)?;
        let nftables = listen(libc::NETLINK_NETFILTER, &[libc::NFNLGRP_NFTABLES]).ok();
        Ok(Self {
            routing,
            nftables,
            tables: tables.iter().map(|table| (*table).to_owned()).collect(),
            buffer: vec![0; 32 * 1024],
        })
    }

    /// What to wait for reading on.
    pub fn descriptors(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        [Some(&self.routing), self.nftables.as_ref()].into_iter().flatten().map(File::as_fd)
    }

    /// Reads all news; each kind is reported at least once.
    pub fn drain(&mut self, mut report: impl FnMut(Change)) {
        drain_one(&mut self.routing, &mut self.buffer, |message| {
            let change = messages::parse_link(message)
                .map(Change::Link)
                .or_else(|| messages::parse_address(message).map(Change::Address))
                .or_else(|| messages::parse_route(message).map(Change::Route))
                .or((message.kind == OVERRUN).then_some(Change::Missed));
            change.into_iter().for_each(&mut report);
        });
        let Some(nftables) = self.nftables.as_mut() else { return };
        drain_one(nftables, &mut self.buffer, |message| match table_of(message) {
            Some(table) if self.tables.contains(&table) => report(Change::Table(table)),
            None if message.kind == OVERRUN => report(Change::Missed),
            _ => {}
        });
    }
}

/// Stands for «the socket overran»; netlink itself uses the number for the same (`NLMSG_OVERRUN`).
const OVERRUN: u16 = 4;

fn listen(family: libc::c_int, groups: &[libc::c_int]) -> io::Result<File> {
    let fd = sys::socket::netlink(family, false)?;
    for group in groups {
        sys::option::set(fd.as_fd(), libc::SOL_NETLINK, NETLINK_ADD_MEMBERSHIP, *group)?;
    }
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

/// The table that an nftables message tells a change of its chains or rules of.
fn table_of(message: &wire::Message<'_>) -> Option<String> {
    let kinds = [
        NFT_MSG_DELTABLE,
        NFT_MSG_NEWCHAIN,
        NFT_MSG_DELCHAIN,
        NFT_MSG_NEWRULE,
        NFT_MSG_DELRULE,
        NFT_MSG_DELSETELEM,
    ];
    if message.kind >> 8 != NFT_SUBSYSTEM || !kinds.contains(&(message.kind & 0xff)) {
        return None;
    }
    wire::attributes(message.body.get(4..)?)
        .find(|(kind, _)| *kind == NFTA_TABLE)
        .map(|(_, name)| wire::text(name))
}
