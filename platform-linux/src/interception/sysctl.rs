//! The kernel settings that forwarding needs, and putting them back.
//!
//! Writes only what differs, each into the [`Ledger`] first. Switching forwarding of the whole machine resets
//! that of single devices, so devices that forwarded on their own are written down before and restored after.
//! Stateless.

use std::fs;
use std::io;

use super::ledger::{Ledger, Touched};
use super::{Plan, SetupError};

const ROOT: &str = "/proc/sys";

/// Switches forwarding on in the families of the plan.
pub(super) fn enable_forwarding(plan: &Plan, ledger: &mut Ledger) -> Result<(), SetupError> {
    for mesh in &plan.mesh {
        if mesh.address.is_ipv6() {
            if read("net/ipv6/conf/all/forwarding")? != "1" {
                keep_router_advertisements(ledger)?;
                note_forwarding_devices("net/ipv6/conf", ledger)?;
                write("net/ipv6/conf/all/forwarding", "1", ledger)?;
            }
        } else if read("net/ipv4/ip_forward")? != "1" {
            note_forwarding_devices("net/ipv4/conf", ledger)?;
            write("net/ipv4/ip_forward", "1", ledger)?;
        }
    }
    Ok(())
}

/// Has the device take in packets of whomever this machine reaches by any device: those of connections that were handed
/// over come from pods. Other devices stay as strict as they are, and the setting goes with the device, so it is not
/// written down. Without it nothing is handed over.
pub(super) fn loosen(device: &str) {
    if is_strict(device) {
        let _ = fs::write(format!("{ROOT}/net/ipv4/conf/{device}/rp_filter"), "2");
    }
}

/// Whether the device takes in only what would go out by it (`rp_filter` 1; the larger of two settings counts).
pub fn is_strict(device: &str) -> bool {
    let of = |name: &str| read(&format!("net/ipv4/conf/{name}/rp_filter")).unwrap_or_default();
    of("all").max(of(device)) == "1"
}

/// A forwarding machine ignores router advertisements unless told otherwise, and could lose its own address.
fn keep_router_advertisements(ledger: &mut Ledger) -> Result<(), SetupError> {
    for device in devices("net/ipv6/conf")? {
        let path = format!("net/ipv6/conf/{device}/accept_ra");
        if read(&path)? == "1" {
            write(&path, "2", ledger)?;
        }
    }
    Ok(())
}

fn note_forwarding_devices(conf: &str, ledger: &mut Ledger) -> Result<(), SetupError> {
    for device in devices(conf)? {
        let path = format!("{conf}/{device}/forwarding");
        if read(&path)? == "1" {
            let note = Touched::Sysctl { path, previous: "1".into(), value: "1".into() };
            ledger.record(note).map_err(SetupError::State)?;
        }
    }
    Ok(())
}

fn devices(conf: &str) -> Result<Vec<String>, SetupError> {
    let entries = fs::read_dir(format!("{ROOT}/{conf}")).map_err(|e| failed(conf, e))?;
    let names = entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned());
    Ok(names.filter(|name| name != "all").collect())
}

fn write(path: &str, value: &str, ledger: &mut Ledger) -> Result<(), SetupError> {
    let change = Touched::Sysctl { path: path.into(), previous: read(path)?, value: value.into() };
    ledger.record(change).map_err(SetupError::State)?;
    fs::write(format!("{ROOT}/{path}"), value).map_err(|e| failed(path, e))
}

fn read(path: &str) -> Result<String, SetupError> {
    let text = fs::read_to_string(format!("{ROOT}/{path}")).map_err(|e| failed(path, e))?;
    Ok(text.trim().to_owned())
}

fn failed(path: &str, error: io::Error) -> SetupError {
    SetupError::Sysctl(path.replace('/', "."), error)
}

/// Puts a setting back, unless someone changed it after us; a setting that is gone is fine.
pub(super) fn undo(path: &str, previous: &str, value: &str) -> Result<bool, SetupError> {
    let current = match read(path) {
        Ok(current) => current,
        Err(SetupError::Sysctl(_, e)) if e.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(e) => return Err(e),
    };
    // «Previous» equal to «value» is a device's own forwarding, which the machine-wide switch reset.
    if current == previous || (current != value && previous != value) {
        return Ok(false);
    }
    fs::write(format!("{ROOT}/{path}"), previous).map(|()| true).map_err(|e| failed(path, e))
}
