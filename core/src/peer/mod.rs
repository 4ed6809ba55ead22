//! The other nodes that this one knows or asks for.
//!
//! [`Peers`] maps cluster-wide indices to the dense ids that tunnel and path share; [`Lookups`] holds what
//! a packet or a name needed and the server is asked about: nodes by index, Services by fingerprint. What nodes say
//! of the health of their endpoints is with the peers, and so is who was revoked. Records are verified before they come here; sessions and
//! addresses live in `tunnel/` and `path/`.

mod health;
mod lookups;
mod revoked;
mod table;

pub use health::{DownSlot, ROUND};
pub use lookups::{LookupSlot, Lookups};
pub use table::{KEEP, Learned, PeerEntry, Peers};
