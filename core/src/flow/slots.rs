//! The machine's plain-data slots. All-zero is empty.

use super::state::Track;
use crate::storage::Slot;
use crate::wire::ip::Address;

/// A translated flow.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct FlowSlot {
    pub(super) track: Track,
    pub(super) client: Address,
    pub(super) vip: Address,
    pub(super) endpoint: Address,
    pub(super) peer: u32,
    /// Generation of the Services under which the endpoint was found good; the link while the slot is free.
    pub(super) generation: u32,
    pub(super) client_port: u16,
    pub(super) vip_port: u16,
    pub(super) endpoint_port: u16,
    pub(super) mapped: u16,
}

impl FlowSlot {
    /// A free slot.
    pub const ZERO: Self = Self {
        track: Track::ZERO,
        client: Address::NONE,
        vip: Address::NONE,
        endpoint: Address::NONE,
        peer: 0,
        generation: 0,
        client_port: 0,
        vip_port: 0,
        endpoint_port: 0,
        mapped: 0,
    };
}

impl Slot for FlowSlot {
    const EMPTY: Self = Self::ZERO;
    fn link(&self) -> u32 {
        self.generation
    }
    fn set_link(&mut self, id: u32) {
        self.generation = id;
    }
}

/// A tuple from a peer's client to one of this node's endpoints.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct AdmittedSlot {
    pub(super) track: Track,
    pub(super) endpoint: Address,
    pub(super) peer: u32,
    pub(super) next: u32,
    pub(super) port: u16,
    pub(super) remote_port: u16,
}

impl AdmittedSlot {
    /// A free slot.
    pub const ZERO: Self =
        Self { track: Track::ZERO, endpoint: Address::NONE, peer: 0, next: 0, port: 0, remote_port: 0 };
}

impl Slot for AdmittedSlot {
    const EMPTY: Self = Self::ZERO;
    fn link(&self) -> u32 {
        self.next
    }
    fn set_link(&mut self, id: u32) {
        self.next = id;
    }
}

/// A fragmented datagram: where its first fragment went, or that it is awaited.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct FragmentSlot {
    /// In microseconds.
    pub(super) expires: u64,
    pub(super) src: Address,
    pub(super) dst: Address,
    pub(super) new_src: Address,
    pub(super) new_dst: Address,
    pub(super) id: u32,
    /// The identification that its fragments get; the ticket while the first is awaited.
    pub(super) new_id: u32,
    /// The peer that it comes from, 0 for this node.
    pub(super) from: u32,
    /// The peer that it goes to, 0 for the TUN device.
    pub(super) to: u32,
    pub(super) protocol: u8,
    /// One of the states of the module `fragments`; 0 is free.
    pub(super) state: u8,
    /// Fragments that wait.
    pub(super) parked: u8,
}

impl FragmentSlot {
    /// A free slot.
    pub const ZERO: Self = Self {
        expires: 0,
        src: Address::NONE,
        dst: Address::NONE,
        new_src: Address::NONE,
        new_dst: Address::NONE,
        id: 0,
        new_id: 0,
        from: 0,
        to: 0,
        protocol: 0,
        state: 0,
        parked: 0,
    };
}

const _: () = assert!(size_of::<FlowSlot>() <= 80);
const _: () = assert!(size_of::<AdmittedSlot>() <= 48);
const _: () = assert!(size_of::<FragmentSlot>() <= 96);
