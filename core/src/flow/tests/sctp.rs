//! SCTP associations (rows C1 and C2).

use super::*;
use crate::wire::ip::sctp::{ABORT, INIT, INIT_ACK, SHUTDOWN_COMPLETE};

const DATA: u8 = 0;
const SACK: u8 = 3;
const SHUTDOWN: u8 = 7;
const SHUTDOWN_ACK: u8 = 8;
const COOKIE_ECHO: u8 = 10;
const COOKIE_ACK: u8 = 11;
/// Initiate tags of client and endpoint.
const TAGS: [u32; 2] = [0x0c11_e417, 0x5e47_e400];

/// An INIT or INIT ACK behind its chunk header: tag, window, streams, first number.
fn initiation(tag: u32) -> Vec<u8> {
    [&tag.to_be_bytes()[..], &[0, 1, 0, 0, 0, 10, 0, 10], &7u32.to_be_bytes()].concat()
}

impl Pair {
    /// From the client, who has this port, to the VIP and on to the endpoint.
    fn chunk_there(&mut self, c: Cast, port: u16, chunk: u8) -> Vec<u8> {
        let (tag, value) = if chunk == INIT { (0, initiation(TAGS[0])) } else { (TAGS[1], vec![1, 2, 3]) };
        self.request(&sctp((c.client, port), (c.vip, 38412), tag, chunk, &value))
    }

    /// From the endpoint to this mapped port and on to the client.
    fn chunk_back(&mut self, c: Cast, mapped: u16, chunk: u8) -> Vec<u8> {
        let value = if chunk == INIT_ACK { initiation(TAGS[1]) } else { vec![1, 2, 3] };
        self.response(&sctp((c.pod, 8080), (c.mesh[0], mapped), TAGS[0], chunk, &value))
    }

    fn associate(&mut self, c: Cast, port: u16) {
        let init = self.chunk_there(c, port, INIT);
        let mapped = Transport::parse(&init).unwrap().src_port;
        self.chunk_back(c, mapped, INIT_ACK);
        self.chunk_there(c, port, COOKIE_ECHO);
        self.chunk_back(c, mapped, COOKIE_ACK);
    }

    fn entries(&self) -> (usize, usize) {
        (self.client.len(), self.server.admitted())
    }
}

#[test]
fn c1_an_sctp_association_goes_there_and_back_with_its_crc_right() {
    for c in BOTH {
        let mut pair = Pair::new();
        let other = if c.vip == V4.vip { "172.17.0.3" } else { "fd17::3" };
        let init = pair.chunk_there(c, 4000, INIT);
        assert_eq!(ends(&init), at(c.mesh[0], 4000, c.pod, 8080));
        // Another pod with the same port gets another one, so its CRC changes.
        let second = sctp((other, 4000), (c.vip, 38412), 0, INIT, &initiation(9));
        let second = pair.request(&second);
        let mapped = Transport::parse(&second).unwrap().src_port;
        assert_ne!(mapped, 4000);
        assert_eq!(ends(&second), at(c.mesh[0], mapped, c.pod, 8080));
        for (port, client) in [(4000, c.client), (mapped, other)] {
            for chunk in [INIT_ACK, COOKIE_ACK, DATA, SACK] {
                let back = pair.chunk_back(c, port, chunk);
                assert_eq!(ends(&back), at(c.vip, 38412, client, 4000));
                assert_eq!(Transport::parse(&back).unwrap().sctp_chunk(), chunk);
            }
        }
        assert_eq!(pair.entries(), (2, 2));
    }
}

#[test]
fn c1_an_association_lives_as_long_as_its_state_says() {
    let c = V4;
    let mut pair = Pair::new();
    // Neither an unanswered INIT nor an unconfirmed answer lasts.
    pair.chunk_there(c, 1, INIT);
    pair.chunk_there(c, 2, INIT);
    pair.chunk_back(c, 2, INIT_ACK);
    pair.associate(c, 3);
    assert_eq!(pair.entries(), (3, 3));
    pair.wait(30);
    assert_eq!(pair.entries(), (1, 1));
    // Longer than the silence between two heartbeats.
    pair.wait(179);
    assert_eq!(pair.entries(), (1, 1));
    pair.wait(1);
    assert_eq!(pair.entries(), (0, 0));
}

#[test]
fn c1_an_association_ends_with_its_shutdown_or_abort() {
    let c = V4;
    let mut pair = Pair::new();
    pair.associate(c, 1);
    pair.chunk_there(c, 1, SHUTDOWN);
    pair.chunk_back(c, 1, SHUTDOWN_ACK);
    pair.wait(29);
    assert_eq!(pair.entries(), (1, 1), "the last packet may have to be repeated");
    let (outcome, _) = pair.send(&sctp((c.client, 1), (c.vip, 38412), TAGS[1], SHUTDOWN_COMPLETE, b""));
    assert_eq!(outcome.deadline.unwrap().1, pair.now.after(Duration::from_secs(2)));
    pair.chunk_there(c, 1, SHUTDOWN_COMPLETE);
    // The tuple may be used again at once, on both nodes.
    let init = sctp((c.client, 1), (c.vip, 38412), 0, INIT, &initiation(8));
    assert!(matches!(pair.client_out(&init).0.verdict, Translated::Miss(_)));
    pair.associate(c, 1);
    pair.wait(200);
    assert_eq!(pair.entries(), (1, 1));
    for from_client in [true, false] {
        pair.associate(c, 1);
        if from_client {
            pair.chunk_there(c, 1, ABORT);
        } else {
            pair.chunk_back(c, 1, ABORT);
        }
        assert_eq!(pair.entries(), (0, 0));
    }
}

#[test]
fn c1_a_node_that_lost_its_memory_takes_an_association_up_again() {
    let c = V4;
    let mut pair = Pair::new();
    pair.associate(c, 1);
    pair.server = flows(2, 64);
    pair.chunk_back(c, 1, DATA);
    pair.chunk_there(c, 1, SACK);
    pair.wait(200);
    assert_eq!(pair.entries(), (1, 1), "it counts as established");
    // But it opens nothing by itself.
    let init = sctp((c.pod, 8080), (c.mesh[0], 2), 0, INIT, &initiation(1));
    assert_eq!(pair.server_out(&init).0.verdict, Translated::Drop(DropReason::NoFlow));
}

#[test]
fn c2_sctp_that_leads_nowhere_is_aborted_at_once() {
    for c in BOTH {
        let refused = |bytes: &[u8]| {
            let flows = flows(1, 4);
            with(bytes, |p, _| Outcome::from(flows.refuse(p, DropReason::NoEndpoints)))
        };
        let tag_and_flags = |bytes: &[u8]| {
            assert_eq!(ends(bytes), at(c.vip, 38412, c.client, 1));
            let l4 = Transport::parse(bytes).unwrap().l4;
            assert_eq!((bytes[l4 + 12], &bytes[l4 + 14..]), (ABORT, &[0, 4][..]));
            (u32::from_be_bytes(*bytes[l4 + 4..].first_chunk().unwrap()), bytes[l4 + 13])
        };
        // No endpoints: under the tag that the client expects answers with.
        let init = |tag| sctp((c.client, 1), (c.vip, 38412), 0, INIT, &initiation(tag));
        let (outcome, abort) = refused(&init(TAGS[0]));
        assert_eq!((outcome.verdict, tag_and_flags(&abort)), (Translated::Reply, (TAGS[0], 0)));
        assert_eq!(refused(&init(0)).0.verdict, Translated::Drop(DropReason::NoFlow));
        // An association whose flow was lost: under the tag that it has, with the flag that says so.
        let mut pair = Pair::new();
        let (outcome, abort) =
            pair.client_out(&sctp((c.client, 1), (c.vip, 38412), TAGS[1], DATA, b"some data"));
        assert_eq!((outcome.verdict, tag_and_flags(&abort)), (Translated::Reply, (TAGS[1], 1)));
        for chunk in [ABORT, SHUTDOWN_COMPLETE] {
            let last = sctp((c.client, 1), (c.vip, 38412), TAGS[1], chunk, b"");
            assert_eq!(pair.client_out(&last).0.verdict, Translated::Drop(DropReason::NoFlow));
        }
    }
}
