//! The Service table as a cache of the server's: what makes room in it, and what waits for an answer.

use crate::counters::DropReason;
use crate::flow::Flows;
use crate::packet::Packet;
use crate::peer::Lookups;
use crate::service::{Table, TableError, Update};
use crate::time::Instant;
use crate::wire::ask;
use crate::wire::ip::Transport;

/// Takes one step of the feed. In a full table on demand the Service makes room that was used longest ago, but none
/// that a flow leads to; the server is told of it.
pub(crate) fn feed(
    services: &mut Table<'_>,
    flows: &Flows<'_>,
    lookups: &mut Lookups<'_>,
    own: u32,
    now: Instant,
    update: &Update<'_>,
) -> Result<(), TableError> {
    services.apply_or(update, &mut |table| {
        let before = table.used();
        if table.is_on_demand() {
            flows.flows(now).for_each(|flow| table.touch_address(flow.vip.0));
        }
        table.evict(before, own).map(|key| lookups.unsettle(now, key)).is_some()
    })
}

/// What has to be asked before this packet, refused for `reason`, is known to lead nowhere, if anything.
pub(crate) fn unasked(
    services: &Table<'_>,
    lookups: &Lookups<'_>,
    packet: &Packet<'_>,
    reason: DropReason,
) -> Option<u32> {
    if reason != DropReason::NoRoute || !services.is_on_demand() {
        return None;
    }
    let key = ask::address(Transport::parse(packet.bytes()).ok()?.dst);
    (!lookups.is_settled(key)).then_some(key)
}

/// The server has answered about the Services with this fingerprint; `found` of them there are.
pub(crate) fn settle(
    services: &mut Table<'_>,
    lookups: &mut Lookups<'_>,
    now: Instant,
    key: u32,
    found: u32,
) {
    services.answered();
    if found == 0 {
        services.remove_asked(key);
    }
    if key & ask::ASK != 0 {
        lookups.settle(now, key);
    }
}
