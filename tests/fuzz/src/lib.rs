//! What is fuzzed: one function for each [target](TARGETS), which takes any bytes and panics when something is wrong.
//!
//! The functions are plain code without a fuzzer. `tests/replay.rs` runs them over the committed corpora and
//! regressions with every `cargo test`; the crate in `driver/` gives them to libFuzzer (`make fuzz`). See `README.md`.
//!
//! A target asserts more than that nothing panics: what was read and is written again reads the same, what is
//! answered can be parsed, tables keep their bounds, deadlines make progress. It is deterministic: equal bytes, equal
//! course.

mod discovery;
mod engine;
mod host;
mod input;
mod linux;
mod noise;
mod packets;
mod responder;
mod wire;

/// Takes any bytes; panics when something is wrong.
pub type Target = fn(&[u8]);

/// Every target by name.
pub const TARGETS: &[(&str, Target)] = &[
    ("wire_ip", wire::ip),
    ("wire_dns", wire::dns),
    ("wire_wireguard", wire::wireguard),
    ("wire_path", wire::path),
    ("wire_relay", wire::relay),
    ("wire_control", wire::control),
    ("wire_health", wire::health),
    ("services", wire::services),
    ("responder", responder::query),
    ("chase", responder::chase),
    ("noise", noise::handshake),
    ("engine", engine::run),
    ("objects_json", discovery::json),
    ("objects_yaml", discovery::yaml),
    ("snapshot", discovery::snapshot),
    ("host_input", host::texts),
    ("agent_input", linux::texts),
    ("segment", linux::segment),
    ("coalesce", linux::coalesce),
    ("netlink", linux::netlink),
];

/// The target of this name.
pub fn target(name: &str) -> Option<Target> {
    TARGETS.iter().find(|(known, _)| *known == name).map(|(_, target)| *target)
}
