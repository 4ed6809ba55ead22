//! May this process do what the agent has to do?
//!
//! Asked once, before anything is touched: a missing capability would otherwise show as a failure halfway through.
//! Reads `/proc`; where that tells nothing (another kernel, no `/proc`), nothing is refused here and the kernel has
//! the last word.

use std::fs;

/// Devices, addresses, routes and firewall rules.
const NET_ADMIN: u32 = 12;
/// Listening on the DNS port.
const NET_BIND_SERVICE: u32 = 10;
/// Port of the DNS responder.
const DNS_PORT: u32 = 53;

/// Refuses to start without the capabilities that are needed.
///
/// # Errors
/// The text for the user, which names the capability and what it is for.
pub fn check() -> Result<(), String> {
    let Ok(status) = fs::read_to_string("/proc/self/status") else { return Ok(()) };
    let unprivileged = fs::read_to_string("/proc/sys/net/ipv4/ip_unprivileged_port_start");
    let unprivileged = unprivileged.ok().and_then(|text| text.trim().parse().ok()).unwrap_or(1_024);
    missing(&status, unprivileged)
}

/// `status` is the text of `/proc/self/status`; ports from `unprivileged` on are open to everyone.
fn missing(status: &str, unprivileged: u32) -> Result<(), String> {
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let Some(effective) = effective.and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok()) else {
        return Ok(());
    };
    let lacks = |capability: u32| effective & (1 << capability) == 0;
    let refused = |name: &str, purpose: &str| {
        Err(format!("not permitted to {purpose}: run as root or with the capability {name}"))
    };
    if lacks(NET_ADMIN) {
        return refused("CAP_NET_ADMIN", "create network devices, routes and firewall rules");
    }
    if lacks(NET_BIND_SERVICE) && unprivileged > DNS_PORT {
        return refused("CAP_NET_BIND_SERVICE", "listen on port 53 for DNS");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_capability_is_named_with_its_purpose() {
        let status = |caps: u64| format!("Name:\tagent\nCapPrm:\t0\nCapEff:\t{caps:016x}\nCapBnd:\t0\n");
        assert_eq!(missing(&status(u64::MAX), 1_024), Ok(()));
        let error = missing(&status(!(1 << NET_ADMIN)), 1_024).unwrap_err();
        assert!(error.contains("CAP_NET_ADMIN") && error.contains("routes"), "{error}");
        let error = missing(&status(1 << NET_ADMIN), 1_024).unwrap_err();
        assert!(error.contains("CAP_NET_BIND_SERVICE") && error.contains("53"), "{error}");
        assert_eq!(missing(&status(1 << NET_ADMIN), 53), Ok(()));
        assert_eq!(missing("no such line", 1_024), Ok(()));
    }
}
