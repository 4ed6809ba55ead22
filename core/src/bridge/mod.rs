//! What machines need to meet: the values that go in and out of the engine, the Service table as DNS sees it, the
//! node as the flow machine may ask it, and one range of timers for each.
//!
//! No state of its own beside the timers, and no decision: those are the machines'. Who calls whom and when is in
//! [`node`](crate::node), which shows the public part of this to shells.

mod demand;
mod members;
mod policy;
mod timers;
mod types;
mod ways;
mod zone;

pub(crate) use crate::wire::aside::is_aside;
pub(crate) use demand::{feed, settle, unasked};
pub(crate) use members::{ask_again, due, put_out};
pub(crate) use policy::{Distances, NodePolicy, endpoint, place};
pub use timers::Timer;
pub(crate) use timers::Timers;
pub use types::{
    Arrived, Burst, Classified, Config, Destination, Event, From, Grant, Inbound, NoPacket, Outbound,
    PeerStatus, Sender, Ticket, Transmit, Way,
};
pub(crate) use ways::{finish, heard, origin, said, seal_own, side, terms, way_of, way_to};
pub(crate) use zone::TableZone;
