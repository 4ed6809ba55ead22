//! From the network to the TUN.

use super::super::park::Origin;
use super::{BYTES, Data, Ready, TURN};
use crate::clock;
use crate::offload::{self, VnetHdr};
use edgemesh_aead::FastChaChaPoly;
use edgemesh_core::node::{Classified, From, Inbound};
use edgemesh_core::packet::{HEADROOM, Packet};
use edgemesh_core::time::Instant;
use edgemesh_core::{PeerId, tunnel};
use std::ops::Range;

impl Data {
    /// Carries what waits at the ready sockets, up to a turn of each. Whether more waits than that.
    pub(super) fn read_sockets(&mut self, ready: Ready) -> bool {
        let mut more = false;
        for (number, _) in ready.sockets.into_iter().enumerate().filter(|(_, ready)| *ready) {
            let (mut reads, mut bytes) = (0, 0);
            loop {
                if reads == TURN || bytes >= BYTES {
                    more = true;
                    break;
                }
                let Some(Some(socket)) = self.sockets.get_mut(number) else { break };
                reads += 1;
                // An error here is an ICMP message about an earlier datagram; the next call goes on.
                let received = match socket.receive(&mut self.inbox) {
                    Ok(Some(received)) => received,
                    Ok(None) => break,
                    Err(_) => continue,
                };
                bytes += received.len;
                let now = clock::now();
                let from = From::Socket { local: number as u8, remote: received.from };
                let mut told = false;
                for range in received.datagrams() {
                    told |= self.datagram(now, from, range);
                }
                self.deliver();
                // As with what is sent: packets that are only carried leave little to say, which can wait.
                if told {
                    self.drain(now);
                }
            }
        }
        more
    }

    /// Carries the datagram at `range` of the inbox; packets for the TUN are collected. Whether the engine may have
    /// something to say about it.
    pub(super) fn datagram(&mut self, now: Instant, from: From, range: Range<usize>) -> bool {
        self.traffic.received += 1;
        match self.engine.classify(now, from, &self.inbox[range.clone()]) {
            Classified::Data(ticket, source, start) => {
                let Some(key) = self.engine.tunnels().recv_key::<FastChaChaPoly>(ticket.key) else {
                    return false;
                };
                let start = range.start + start;
                let Ok(mut packet) = Packet::new(&mut self.inbox, start, range.end - start) else {
                    return false;
                };
                let opened = match tunnel::open(&key, ticket, &mut packet) {
                    Ok(opened) => opened,
                    Err(reason) => {
                        self.engine.count(reason);
                        return false;
                    }
                };
                let place = packet.start()..packet.start() + packet.len();
                match self.engine.arrive(now, source, opened, packet.bytes()) {
                    Ok(peer) => self.forward(now, peer, place),
                    Err(done) => {
                        self.accept(now, ticket.peer, done.into(), place);
                        true
                    }
                }
            }
            Classified::Message(sender, start) => {
                self.engine.message(now, sender, &mut self.inbox[range.start + start..range.end]);
                true
            }
            Classified::Handled | Classified::Drop(_) => true,
        }
    }

    /// Carries a peer's packet at `place` of the inbox. One that continues another goes where the engine had that one go
    /// just now.
    fn forward(&mut self, now: Instant, peer: PeerId, place: Range<usize>) -> bool {
        // Without the tunnel's padding.
        let place = place.start..place.start + offload::length(&self.inbox[place]);
        let seen = self.coalescer.look(&self.inbox[place.clone()], peer.0);
        if self.coalescer.join(&self.inbox, place.clone(), &seen) {
            return false;
        }
        let Ok(mut packet) = Packet::new(&mut self.inbox, place.start, place.len()) else { return false };
        let verdict = self.engine.again(now, peer, &mut packet);
        let place = packet.start()..packet.start() + packet.len();
        if verdict != Inbound::Deliver {
            self.accept(now, peer, verdict, place);
            return true;
        }
        if self.coalescer.begin(&self.inbox, place.clone(), &seen).is_err() {
            self.deliver();
            // Just emptied: there is room for one.
            let _ = self.coalescer.begin(&self.inbox, place, &seen);
        }
        false
    }

    /// Does what the engine wants with a packet that is not for the TUN.
    fn accept(&mut self, now: Instant, peer: PeerId, verdict: Inbound, place: Range<usize>) {
        match verdict {
            Inbound::Answer(grant) => {
                let len = place.len();
                self.packet[HEADROOM..HEADROOM + len].copy_from_slice(&self.inbox[place]);
                self.send(&VnetHdr::default(), len, &grant);
            }
            Inbound::Park(ticket, peer) => {
                self.parking.park(ticket, Origin::Peer(peer), &self.inbox[place]);
            }
            Inbound::Drop(reason) => self.refused(now, peer, reason, place),
            Inbound::Aside => self.aside(now, peer, place),
            Inbound::Handled | Inbound::Deliver => {}
        }
    }

    /// Takes a parked packet of a peer, in the packet buffer, again.
    pub(super) fn again(&mut self, now: Instant, peer: PeerId, len: usize) {
        let Ok(mut packet) = Packet::new(&mut self.packet, HEADROOM, len) else { return };
        let verdict = self.engine.again(now, peer, &mut packet);
        let place = packet.start()..packet.start() + packet.len();
        match verdict {
            Inbound::Deliver => {
                let written = self.tun.write_packet(&self.packet[place]);
                self.wrote(written);
            }
            Inbound::Park(ticket, peer) => {
                self.parking.park(ticket, Origin::Peer(peer), &self.packet[place]);
            }
            Inbound::Answer(grant) => self.send(&VnetHdr::default(), place.len(), &grant),
            Inbound::Aside | Inbound::Handled | Inbound::Drop(_) => {}
        }
    }

    /// Writes the collected packets to the TUN, joined where that is possible.
    pub(super) fn deliver(&mut self) {
        let Self { coalescer, inbox, tun, traffic, .. } = self;
        coalescer.drain(inbox, |packet| match tun.write(&packet) {
            Ok(()) => traffic.tun_written += 1,
            Err(_) => traffic.tun_errors += 1,
        });
    }
}
