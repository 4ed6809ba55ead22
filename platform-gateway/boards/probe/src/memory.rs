//! The memory of the reference gateway's engine, and of the node that it talks to here.

/// What an engine's memory may take of the board's 64 KiB.
pub const BUDGET: usize = 28 * 1024;
const _: () = assert!(size_of::<Gateway>() <= BUDGET, "the gateway's tables exceed their budget");

pub const FLOWS: usize = 64;
pub const SERVICES: usize = 64;
pub const ENDPOINTS: usize = 128;
/// 1,024 counters, and one word more, as the tunnel asks.
const WINDOW: usize = 1024 / 64 + 1;

edgemesh_core::memory! {
    /// The reference gateway (docs/gateway.md). A service that is replaced stands beside its old definition for a
    /// moment: one with two endpoints still can be when the table is full.
    pub struct Gateway {
        peers: 4,
        window: WINDOW,
        handshakes: 2,
        flows: FLOWS,
        admitted: FLOWS / 2,
        services: SERVICES,
        ports: SERVICES + 1,
        endpoints: ENDPOINTS + 2,
        names: SERVICES + SERVICES / 4,
        namespaces: 8,
        side: 8,
    }
}

edgemesh_core::memory! {
    /// Just what the other node needs.
    pub struct Far {
        peers: 2,
        window: WINDOW,
        handshakes: 2,
        flows: 2,
        admitted: 4,
        services: 2,
        ports: 2,
        endpoints: 4,
        names: 4,
        namespaces: 4,
        side: 4,
    }
}
