//! What the probe runs, in order, and what the steps share.
//!
//! A step works on the shared [`Bench`], so that later ones continue where earlier ones stopped (a handshake,
//! then a query, then a flow through the session). It returns what was wrong, in words for the log.

use crate::world::World;
use crate::{node, primitives};
use core::hint::black_box;
use edgemesh_core::packet::{HEADROOM, Packet, TAILROOM};
use edgemesh_core::rng::Rng;
use edgemesh_core::storage::{DeadlineEntry, Deadlines, Index, Link, Pool, Ring, Slot};
use edgemesh_core::time::{Duration, Instant};

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
    Step { name: "control: greeting and handshake", run: |b| node::control(&mut b.world) },
    Step { name: "control: welcome, relay bound", run: |b| node::welcome(&mut b.world) },
    Step { name: "control: feed fills the table", run: |b| node::feed(&mut b.world) },
    Step { name: "dns: query, lookup, handshake", run: |b| node::query(&mut b.world) },
    Step { name: "flow: SYN and answer", run: |b| node::flow(&mut b.world) },
    Step { name: "flow: a full table", run: |b| node::full(&mut b.world) },
    Step { name: "path: relay's TCP connection", run: |b| node::relay_tcp(&mut b.world) },
    Step { name: "timers: five minutes", run: |b| node::timers(&mut b.world) },
    Step { name: "the other calls", run: |b| node::others(&mut b.world) },
];

/// Everything the steps share.
pub struct Bench {
    pub world: World,
    pub scratch: &'static mut Scratch,
}

/// A small table for the containers themselves.
pub struct Scratch {
    keys: [Link; 4 * CELLS],
    cells: [Cell; CELLS],
    /// Keys are ids, from 1.
    deadlines: [DeadlineEntry; CELLS + 1],
    queue: [u32; 16],
}

const CELLS: usize = 64;

impl Scratch {
    pub const ZERO: Self = Self {
        keys: [0; 4 * CELLS],
        cells: [Cell::EMPTY; CELLS],
        deadlines: [DeadlineEntry::EMPTY; CELLS + 1],
        queue: [0; 16],
    };
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
    let buffer = &mut bench.world.buffers.packet;
    one.fill(buffer);
    ensure(buffer.chunks_exact(8).all(|c| c == same.bytes::<8>()), "equal seeds drew different bytes")?;
    ensure(Rng::new(black_box([8; 32])).u64() != Rng::new([7; 32]).u64(), "different seeds drew equal bytes")
}

/// Fills a flow-like table to the brim, finds every entry, lets every deadline fire in order, and empties it.
fn storage(bench: &mut Bench) -> Result<(), &'static str> {
    let Scratch { keys, cells, deadlines, queue } = &mut *bench.scratch;
    let capacity = cells.len() as u64;
    let hash = |key: u64| key.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let (mut pool, mut index) = (Pool::new(cells), Index::new(keys));
    let (mut deadlines, mut ring) = (Deadlines::new(deadlines), Ring::new(queue));
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
    let mut packet =
        Packet::new(&mut bench.world.buffers.packet, HEADROOM, black_box(100)).map_err(|r| r.name())?;
    packet.bytes_mut().fill(0xab);
    packet.grow(HEADROOM, TAILROOM).map_err(|r| r.name())?;
    ensure(packet.start() == 0 && packet.len() == 100 + HEADROOM + TAILROOM, "grown to a wrong size")?;
    ensure(packet.grow(1, 0).is_err(), "grown out of its buffer")?;
    packet.shrink(HEADROOM, TAILROOM).map_err(|r| r.name())?;
    ensure(packet.bytes().iter().all(|b| *b == 0xab), "moved its bytes")
}
