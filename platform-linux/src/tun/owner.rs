//! Whose device is it?
//!
//! Ours carries [`ALIAS`] (`ip link show` prints it). Pure checks and one look through `/proc`; nothing is kept.

use std::fs;
use std::path::Path;

use super::TunError;
use crate::netlink::Link;

/// The alias that marks a device as ours.
pub const ALIAS: &str = "edgemesh-agent";

/// Refuses a device that another program made.
///
/// # Errors
/// [`TunError::Foreign`], which says what it is.
pub fn check(link: &Link) -> Result<(), TunError> {
    let what = match (link.kind.as_str(), link.alias.as_str()) {
        ("tun", ALIAS) => return Ok(()),
        ("tun", "") => "a TUN or TAP device of another program".to_owned(),
        ("tun", alias) => format!("a TUN or TAP device of another program (alias {alias:?})"),
        ("", _) => "a hardware device".to_owned(),
        (kind, _) => format!("a {kind} device of another program"),
    };
    Err(TunError::Foreign { name: link.name.clone(), what })
}

/// The process that has the TUN device `name` open, as `PID (COMMAND)`, when `/proc` lets us see it. One in our
/// network namespace goes before others: several may hold devices of one name there.
pub(super) fn holder(name: &str) -> Option<String> {
    let wanted = format!("iff:\t{name}");
    let ours = fs::read_link("/proc/thread-self/ns/net").ok();
    let mut elsewhere = None;
    for process in fs::read_dir("/proc").ok()?.flatten() {
        let pid = process.file_name().to_string_lossy().into_owned();
        let path = process.path();
        if !pid.bytes().all(|b| b.is_ascii_digit()) || !holds(&path, &wanted) {
            continue;
        }
        let found = format!("{pid} ({})", command(&path));
        if fs::read_link(path.join("ns/net")).ok() == ours {
            return Some(found);
        }
        elsewhere = Some(found);
    }
    elsewhere
}

fn holds(process: &Path, wanted: &str) -> bool {
    let Ok(infos) = fs::read_dir(process.join("fdinfo")) else { return false };
    infos
        .flatten()
        .any(|info| fs::read_to_string(info.path()).is_ok_and(|text| text.lines().any(|line| line == wanted)))
}

fn command(process: &Path) -> String {
    fs::read_to_string(process.join("comm")).map(|text| text.trim().to_owned()).unwrap_or_default()
}
