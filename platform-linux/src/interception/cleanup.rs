//! Undoing everything, with or without an agent.
//!
//! First what the ledger tells, newest first, then whatever else can be recognised as ours: the state directory
//! may be lost. Nothing stops at a failure; each is told. Running it again is harmless.

use std::collections::BTreeSet;
use std::path::Path;

use edgemesh_host::state::Directory;

use super::ledger::{Ledger, Touched};
use super::{SetupError, TABLES, firewall, nft, sysctl};
use crate::netlink::Netlink;
use crate::tun;

/// What a cleanup did.
#[derive(Debug, Default)]
pub struct Cleaned {
    /// What was removed or restored, in words for people; empty when there was nothing.
    pub done: Vec<String>,
    /// What could not be, with reasons.
    pub failed: Vec<String>,
}

impl Cleaned {
    fn note(&mut self, what: impl ToString, outcome: Result<bool, SetupError>) -> bool {
        match outcome {
            Ok(true) => self.done.push(what.to_string()),
            Ok(false) => {}
            Err(e) => {
                self.failed.push(format!("{}: {e}", what.to_string()));
                return false;
            }
        }
        true
    }
}

/// Removes every route, rule, device and table that an agent made, and restores settings. `state` is the agent's
/// state directory, which may be missing; `device` the TUN device's name.
///
/// # Errors
/// When an agent is running on this state directory, or the ledger there cannot be read: nothing was done.
pub fn cleanup(state: &Path, device: &str) -> Result<Cleaned, SetupError> {
    let mut cleaned = Cleaned::default();
    let mut devices = BTreeSet::from([device.to_owned()]);
    if state.exists() {
        let mut lock = Directory::open(state).map_err(SetupError::State)?;
        lock.lock().map_err(SetupError::State)?;
        let mut ledger = Ledger::open(state).map_err(SetupError::State)?;
        for touched in ledger.touched().to_vec().into_iter().rev() {
            if let Touched::Device { name } = &touched {
                devices.insert(name.clone());
            }
            let outcome = undo(&touched, ledger.is_current());
            if cleaned.note(&touched, outcome) {
                let struck = ledger.strike(&touched).map(|()| false).map_err(SetupError::State);
                cleaned.note("the ledger", struck);
            }
        }
        sweep(&devices, &mut cleaned);
        return Ok(cleaned);
    }
    sweep(&devices, &mut cleaned);
    Ok(cleaned)
}

fn undo(touched: &Touched, same_boot: bool) -> Result<bool, SetupError> {
    match touched {
        Touched::Device { name } => delete_device(name),
        Touched::Sysctl { path, previous, value } if same_boot => sysctl::undo(path, previous, value),
        Touched::Sysctl { .. } => Ok(false),
        Touched::Rule { .. } => Ok(firewall::remove(touched)?),
    }
}

/// What is ours by its marks.
fn sweep(devices: &BTreeSet<String>, cleaned: &mut Cleaned) {
    for (family, table) in ["ip", "ip6"].into_iter().flat_map(|family| TABLES.map(|table| (family, table))) {
        let outcome = nft::delete(table, family).map_err(SetupError::Tool);
        cleaned.note(format!("nftables table {family} {table}"), outcome);
    }
    for device in devices {
        for rule in firewall::candidates(device) {
            let outcome = firewall::remove(&rule).map_err(SetupError::Tool);
            cleaned.note(&rule, outcome);
        }
        let outcome = delete_device(device);
        cleaned.note(format!("device {device}, its addresses and routes"), outcome);
    }
    let outcome = delete_routes();
    cleaned.note("routes of ours", outcome);
}

fn delete_device(name: &str) -> Result<bool, SetupError> {
    let failed = |e| SetupError::Netlink("removing the device", e);
    let mut netlink = Netlink::open().map_err(failed)?;
    match netlink.link(name).map_err(failed)? {
        Some(link) if tun::check_ours(&link).is_ok() => {
            netlink.delete_link(link.index).map(|()| true).map_err(failed)
        }
        _ => Ok(false),
    }
}

/// Routes that outlived their device's change of hands.
fn delete_routes() -> Result<bool, SetupError> {
    let failed = |e| SetupError::Netlink("removing a route", e);
    let mut netlink = Netlink::open().map_err(failed)?;
    let mut any = false;
    for route in netlink.routes().map_err(failed)?.iter().filter(|route| route.is_ours()) {
        match netlink.delete_route(route.to, route.device) {
            Err(e) if e.raw_os_error() != Some(libc::ESRCH) => return Err(failed(e)),
            _ => any = true,
        }
    }
    Ok(any)
}
