//! From the network to the TUN.

use super::super::park::Origin;
use super::{BYTES, Data, Ready, TURN};
use crate::clock;
use crate::offload::VnetHdr;
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
                let verdict = self.engine.inbound(now, source, opened, &mut packet);
                let place = packet.start()..packet.start() + packet.len();
                let carried = matches!(verdict, Inbound::Deliver);
                self.accept(now, ticket.peer, verdict, place);
                !carried
            }
            Classified::Message(sender, start) => {
                self.engine.message(now, sender, &mut self.inbox[range.start + start..range.end]);
                true
            }
            Classified::Handled | Classified::Drop(_) => true,
        }
    }

    fn accept(&mut self, now: Instant, peer: PeerId, verdict: Inbound, place: Range<usize>) {
        match verdict {
            Inbound::Deliver => {
                if self.coalescer.push(&self.inbox, place.start, place.len()).is_err() {
                    self.deliver();
                    // Just emptied: there is room for one.
                    let _ = self.coalescer.push(&self.inbox, place.start, place.len());
                }
            }
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
            Inbound::Handled => {}
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
