//! Memory of nodes: enough, or too little.

use edgemesh_core::memory::Resources;

edgemesh_core::memory! {
    pub(crate) struct WideRoom {
        peers: 8,
        window: 17,
        handshakes: 4,
        flows: 128,
        admitted: 128,
        services: 9,
        ports: 18,
        endpoints: 9,
        names: 24,
        namespaces: 16,
        side: 16,
    }
}

// Too little for what the pods do.
edgemesh_core::memory! {
    pub(crate) struct TightRoom {
        peers: 3,
        window: 3,
        handshakes: 2,
        flows: 6,
        admitted: 5,
        services: 9,
        ports: 18,
        endpoints: 9,
        names: 24,
        namespaces: 16,
        side: 4,
    }
}

/// The memory of one life of a node.
pub(crate) enum Room {
    Wide(Box<WideRoom>),
    Tight(Box<TightRoom>),
}

impl Room {
    /// Memory for so many lives.
    pub(crate) fn several(tight: bool, lives: usize) -> Vec<Self> {
        let room = |_| match tight {
            true => Self::Tight(Box::new(TightRoom::ZERO)),
            false => Self::Wide(Box::new(WideRoom::ZERO)),
        };
        (0..lives).map(room).collect()
    }

    pub(crate) fn lend(&mut self) -> Resources<'_> {
        match self {
            Self::Wide(room) => room.lend(),
            Self::Tight(room) => room.lend(),
        }
    }
}
