//! Segmentation and receive offloads in user space: the packet arithmetic of the data path.
//!
//! Pure functions and one batch-sized table; no descriptor, clock or allocation per packet. [`segment()`] cuts
//! what the kernel hands out as one, [`Coalescer`] joins what arrives one by one. Neither translates addresses:
//! that is the engine's part, in between.

mod checksum;
mod coalesce;
mod headers;
mod segment;
mod vnet;

#[cfg(test)]
mod tests;

pub use coalesce::{Coalescer, Full, MAX_BATCH, MAX_SEGMENTS, Seen, SuperPacket};
pub use headers::length;
pub use segment::{SEGMENT_BUFFER, SegmentError, Segments, count, finish_checksum, fragment, segment};
pub use vnet::{GsoType, VNET_HDR_LEN, VnetHdr};
