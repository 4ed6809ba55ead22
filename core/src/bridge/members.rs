//! Who belongs to the mesh, as it concerns several machines.

use super::timers::{Timer, Timers};
use crate::PeerId;
use crate::control::{Link, Revocation};
use crate::path::Paths;
use crate::peer::{Lookups, Peers};
use crate::time::Instant;
use crate::tunnel::Tunnels;

/// The server has accepted this node, and may have forgotten the relay sessions that it gave out before: who is wanted is
/// asked for, and so is everybody whose record is of an epoch that is over. Their sessions go on.
pub(crate) fn ask_again(
    peers: &mut Peers<'_>,
    tunnels: &Tunnels<'_>,
    lookups: &mut Lookups<'_>,
    link: &Link,
    now: Instant,
) {
    if link.revocations() == 0 {
        peers.forget_revocations();
    }
    let epoch = link.authority().epoch;
    for (id, index) in peers.iter() {
        if tunnels.is_wanted(id) || peers.is_older(id, epoch) {
            let _ = lookups.want(now, index);
        }
    }
}

/// Does what is due for the peer's sessions. Who does not answer may have forgotten this node: the
/// directory tells it anew when it is asked.
pub(crate) fn due(
    timers: &mut Timers<'_>,
    tunnels: &mut Tunnels<'_>,
    peers: &Peers<'_>,
    lookups: &mut Lookups<'_>,
    now: Instant,
    peer: u32,
) {
    let id = PeerId(peer);
    timers.set(Timer::Tunnel(peer), tunnels.handle_timeout(now, id));
    if tunnels.is_doubtful(id) {
        let _ = lookups.want(now, peers.index(id));
    }
}

/// Takes in the directory's revocation with this number, if it is the next one; the index of the peer that is gone.
pub(crate) fn put_out(
    peers: &mut Peers<'_>,
    tunnels: &mut Tunnels<'_>,
    paths: &mut Paths<'_>,
    link: &mut Link,
    (number, revocation): (u32, Revocation),
) -> Option<u32> {
    if !link.take_revocation(number) {
        return None;
    }
    let id: PeerId = peers.revoke(number, revocation)?;
    tunnels.remove_peer(id);
    paths.remove(id);
    Some(revocation.index)
}
