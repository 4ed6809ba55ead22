//! What the probe runs, in order, and what the steps share.
//!
//! A step works on the shared [`Bench`], so that later ones continue where earlier ones stopped (a handshake,
//! then a query, then a flow through the session). It returns what was wrong, in words for the log.

use crate::memory::{self, FLOWS, Far, Memory};
use crate::{machines, primitives};
use core::hint::black_box;
use edgemesh_core::flow::Flows;
use edgemesh_core::noise::StaticSecret;
use edgemesh_core::packet::{HEADROOM, Packet, TAILROOM};
use edgemesh_core::path::{Config, Paths};
use edgemesh_core::peer::{Lookups, Peers};
use edgemesh_core::rng::Rng;
use edgemesh_core::service::Table;
use edgemesh_core::storage::{DeadlineEntry, Deadlines, Index, Pool, Ring, Slot};
use edgemesh_core::time::{Duration, Instant};
use edgemesh_core::tunnel::Tunnels;
use edgemesh_core::wire::ip::Mesh;

/// One thing to run and check.
pub struct Step {
    pub name: &'static str,
    pub run: fn(&mut Bench) -> Result<(), &'static str>,
}

/// In the order they run.
pub const STEPS: &[Step] = &[
    Step { name: "rng", run: rng },
    Step { name: "storage", run: storage },
    Step { name: "packet", run: packet },
    Step { name: "blake2s", run: |_| primitives::blake2s() },
    Step { name: "chacha20poly1305", run: |_| primitives::chacha20poly1305() },
    Step { name: "x25519", run: |_| primitives::x25519() },
    Step { name: "signature, good and bad", run: |_| primitives::signature() },
    Step { name: "tunnel: introduce", run: machines::introduce },
    Step { name: "tunnel: handshake", run: machines::handshake },
    Step { name: "tunnel: packet each way", run: machines::data },
    Step { name: "control: handshake, both sides", run: machines::control },
    Step { name: "peers: records and lookups", run: machines::peers },
    Step { name: "path: first probes", run: machines::path },
    Step { name: "services: full list", run: machines::service_list },
    Step { name: "services: choose", run: machines::service_select },
    Step { name: "flow: SYN and answer through both nodes", run: machines::flow },
];

/// Everything the steps share, in a static.
pub struct Bench {
    pub deadlines: &'static mut [DeadlineEntry],
    /// This board's tunnel, and one that plays the other node.
    pub tunnels: [Tunnels<'static>; 2],
    pub flows: [Flows<'static>; 2],
    pub services: Table<'static>,
    pub peers: Peers<'static>,
    pub lookups: Lookups<'static>,
    pub paths: Paths<'static>,
    pub rng: Rng,
    scratch: Scratch,
    /// One packet with room around it.
    pub buffer: [u8; 1500],
}

impl Bench {
    /// The machines on their memory. `far` is the other node's.
    #[inline(never)]
    pub fn new(memory: &'static mut Memory, far: &'static mut Far) -> Self {
        let mut rng = Rng::new([42; 32]);
        let mut tunnel = |memory: &'static mut memory::Tunnel| {
            Tunnels::new(memory.lend(), StaticSecret::generate(&mut rng), 0)
        };
        let tunnels = [tunnel(&mut memory.tunnel), tunnel(&mut far.tunnel)];
        let flows = [
            Flows::new(memory.flows.lend(), Mesh::new(machines::NETWORK, 1), &mut rng),
            Flows::new(far.flows.lend(), Mesh::new(machines::NETWORK, 2), &mut rng),
        ];
        let services = Table::new(memory.services.lend(), &mut rng);
        let peers = Peers::new(&mut memory.peers.entries, &mut memory.peers.index);
        let lookups = Lookups::new(&mut memory.peers.lookups);
        let paths = Paths::new(memory.paths.lend(), Config { inner_mtu_max: 1408 }, &mut rng);
        Self {
            deadlines: &mut memory.deadlines,
            tunnels,
            flows,
            services,
            peers,
            lookups,
            paths,
            rng,
            scratch: Scratch::ZERO,
            buffer: [0; 1500],
        }
    }
}

/// A small table for the containers themselves.
struct Scratch {
    keys: [u32; 4 * FLOWS],
    cells: [Cell; FLOWS],
    queue: [u32; 16],
}

impl Scratch {
    const ZERO: Self = Self { keys: [0; 4 * FLOWS], cells: [Cell::EMPTY; FLOWS], queue: [0; 16] };
}

#[derive(Clone, Copy)]
struct Cell {
    key: u64,
    link: u32,
}

impl Slot for Cell {
    const EMPTY: Self = Self { key: 0, link: 0 };
    fn link(&self) -> u32 {
        self.link
    }
    fn set_link(&mut self, id: u32) {
        self.link = id;
    }
}

/// `Ok` when `truth`, else `what`.
pub fn ensure(truth: bool, what: &'static str) -> Result<(), &'static str> {
    if truth { Ok(()) } else { Err(what) }
}

fn rng(bench: &mut Bench) -> Result<(), &'static str> {
    let (mut one, mut same) = (Rng::new(black_box([7; 32])), Rng::new(black_box([7; 32])));
    one.fill(&mut bench.buffer);
    ensure(bench.buffer.chunks_exact(8).all(|c| c == same.bytes::<8>()), "equal seeds drew different bytes")?;
    ensure(Rng::new(black_box([8; 32])).u64() != Rng::new([7; 32]).u64(), "different seeds drew equal bytes")
}

/// Fills a flow-like table to the brim, finds every entry, lets every deadline fire in order, and empties it.
fn storage(bench: &mut Bench) -> Result<(), &'static str> {
    let Scratch { keys, cells, queue } = &mut bench.scratch;
    let capacity = cells.len() as u64;
    let hash = |key: u64| key.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let (mut pool, mut index) = (Pool::new(cells), Index::new(keys));
    let (mut deadlines, mut ring) = (Deadlines::new(bench.deadlines), Ring::new(queue));
    for key in 0..black_box(capacity) {
        let id = pool.insert(Cell { key, link: 0 }).ok_or("the pool was full too early")?;
        ensure(index.insert(hash(key), id), "the index was full too early")?;
        deadlines.set(id, Some(Instant::ZERO.after(Duration::from_millis(capacity - key))));
    }
    ensure(pool.insert(Cell { key: 0, link: 0 }).is_none(), "a full pool took one more")?;
    let late = Instant::ZERO.after(Duration::from_secs(1));
    for key in (0..capacity).rev() {
        let id = index
            .find(hash(key), |id| pool.get(id).is_some_and(|cell| cell.key == key))
            .ok_or("a stored key was not found")?;
        ensure(deadlines.pop_due(late) == Some(id), "deadlines fired out of order")?;
        index.remove(hash(key), id, |id| pool.get(id).map_or(0, |cell| hash(cell.key)));
        pool.remove(id);
        if ring.push(id).is_err() {
            let oldest = ring.pop().ok_or("a full ring was empty")?;
            ensure(oldest > id, "the ring lost its order")?;
            ring.push(id).map_err(|_| "the ring stayed full")?;
        }
    }
    ensure(pool.is_empty() && deadlines.first().is_none() && ring.len() == 16, "something was left behind")
}

fn packet(bench: &mut Bench) -> Result<(), &'static str> {
    let mut packet = Packet::new(&mut bench.buffer, HEADROOM, black_box(100)).map_err(|r| r.name())?;
    packet.bytes_mut().fill(0xab);
    packet.grow(HEADROOM, TAILROOM).map_err(|r| r.name())?;
    ensure(packet.start() == 0 && packet.len() == 100 + HEADROOM + TAILROOM, "grown to a wrong size")?;
    ensure(packet.grow(1, 0).is_err(), "grown out of its buffer")?;
    packet.shrink(HEADROOM, TAILROOM).map_err(|r| r.name())?;
    ensure(packet.bytes().iter().all(|b| *b == 0xab), "moved its bytes")
}
