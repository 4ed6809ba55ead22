//! Flows that this node's kernel can carry itself.

use super::fragments::{fragments, reassembled};
use super::*;

#[test]
fn c7_what_the_kernel_can_carry_is_handed_over_as_it_came() {
    for c in BOTH {
        for first in [tcp((c.client, 4000), (c.vip, 80), SYN, b""), udp((c.client, 4000), (c.vip, 53), b"?")]
        {
            let mut pair = Pair::new();
            pair.node = PeerRef::KERNEL.0;
            let over = Translated::HandOver(SocketAddr::new(ip(c.pod), 8080));
            // The first, and what was on its way here when it came.
            for _ in 0..2 {
                let (outcome, bytes) = pair.send(&first);
                assert_eq!((outcome.verdict, bytes), (over, first.clone()));
            }
            let flow = NewFlow::of(&Transport::parse(&first).unwrap());
            assert_eq!(pair.client.unanswered(&flow), None, "who does not answer here may answer the kernel");
            assert_eq!((pair.client.len(), pair.client.flows(pair.now).count()), (1, 0));
            pair.wait(4);
            assert_eq!(pair.client_out(&first).0.verdict, over);
            pair.wait(5);
            assert!(pair.client.is_empty(), "it is the kernel's");
        }
    }
}

#[test]
fn c7_what_the_kernel_does_not_take_is_carried_here() {
    for c in BOTH {
        let mut pair = Pair::new();
        pair.node = PeerRef::KERNEL.0;
        let syn = tcp((c.client, 4000), (c.vip, 80), SYN, b"");
        let (outcome, mut bytes) = pair.send(&syn);
        assert!(matches!(outcome.verdict, Translated::HandOver(_)));
        let len = bytes.len();
        pair.client.keep(&Packet::new(&mut bytes, 0, len).unwrap());
        let (outcome, there) = pair.client_out(&syn);
        assert_eq!((outcome.verdict, ends(&there)), (Translated::Local, at(c.alias, 4000, c.pod, 8080)));
        let (outcome, back) = pair.client_out(&tcp((c.pod, 8080), (c.alias, 4000), SYN | ACK, b""));
        assert_eq!((outcome.verdict, ends(&back)), (Translated::Local, at(c.vip, 80, c.client, 4000)));
        pair.wait(50);
        assert_eq!(pair.client.len(), 1);
    }
}

#[test]
fn c7_a_datagram_in_pieces_stays_here_whole() {
    for c in BOTH {
        let mut pair = Pair::new();
        pair.node = PeerRef::KERNEL.0;
        let sent = fragments((c.client, 4000), (c.vip, 53), 77).map(|part| {
            let (outcome, bytes) = pair.send(&part);
            assert_eq!(outcome.verdict, Translated::Local);
            bytes
        });
        assert_eq!(reassembled(&sent), at(c.alias, 4000, c.pod, 8080));
        let (outcome, _) = pair.send(&udp((c.client, 4000), (c.vip, 53), b"the next"));
        assert_eq!(outcome.verdict, Translated::Local, "and so does its flow");
    }
}
