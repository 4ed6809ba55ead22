//! Memory of the engines. All-zero pages: what is not used is never touched, as in the agent.

use edgemesh_core::memory::Resources;

edgemesh_core::memory! {
    // The agent's sizes, but for twice the flows: 100,000 of them are to fit.
    struct Wide {
        peers: 1_024,
        window: 128,
        handshakes: 1_024,
        flows: 131_072,
        admitted: 65_536,
        services: 16_384,
        ports: 32_768,
        endpoints: 65_536,
        names: 49_152,
        namespaces: 8_192,
        side: 1_024,
    }
}

edgemesh_core::memory! {
    struct Narrow {
        peers: 2,
        window: 3,
        handshakes: 2,
        flows: 2,
        admitted: 2,
        services: 2,
        ports: 2,
        endpoints: 2,
        names: 4,
        namespaces: 2,
        side: 4,
    }
}

/// For the node that is looked at, for ever.
pub(crate) fn wide() -> Resources<'static> {
    // Too large for a stack, and as a static each would take the compiler as long as the agent's.
    // SAFETY: `Wide::ZERO` is all-zero, as `edgemesh_core::memory` says, and so is this.
    let room = unsafe { Box::<Wide>::new_zeroed().assume_init() };
    Box::leak(room).lend()
}

/// For a peer, for ever.
pub(crate) fn narrow() -> Resources<'static> {
    Box::leak(Box::new(Narrow::ZERO)).lend()
}
