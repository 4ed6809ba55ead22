//! Bounded containers over memory that the caller lends.
//!
//! All-zero memory is an empty container, so a table is `.bss` on a board and untouched pages on Linux. Ids are
//! `u32`, kept as [`Link`]; 0 is none. Each container says its overflow rule in its first line; none allocates, none panics.

mod deadlines;
mod index;
pub(crate) mod link;
mod pool;
mod ring;

pub use deadlines::{DeadlineEntry, Deadlines};
pub use index::Index;
pub use link::Link;
pub use pool::{Pool, Slot};
pub use ring::Ring;
