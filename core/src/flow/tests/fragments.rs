//! Datagrams in pieces.

use super::*;

/// The three fragments of a datagram from `src` to `dst`.
pub(super) fn fragments(c: (&str, u16), to: (&str, u16), id: u32) -> [Vec<u8>; 3] {
    let whole = spec(c.0, to.0, UDP, udp_body(c.1, to.1, &[id as u8; 88])).build();
    let body = whole[whole.len() - 96..].to_vec();
    [(0, 40, true), (40, 80, true), (80, 96, false)].map(|(from, to_, more)| {
        let mut part = Spec {
            fragment: Some((id, from as u16, more)),
            ..spec(c.0, to.0, UDP, body[from..to_].to_vec())
        }
        .build();
        // The checksum is over the whole datagram.
        if from == 0 {
            let at = part.len() - 40 + 6;
            part[at..at + 2].copy_from_slice(&body[6..8]);
        }
        part
    })
}

/// Puts fragments together and checks the datagram.
pub(super) fn reassembled(parts: &[Vec<u8>]) -> (IpAddr, u16, IpAddr, u16) {
    let first = Transport::parse(&parts[0]).unwrap();
    let id = |t: &Transport| match t.fragment {
        Fragment::First { id } | Fragment::Later { id, .. } => id,
        Fragment::None => panic!("whole"),
    };
    let mut body = vec![];
    for part in parts {
        let t = Transport::parse(part).unwrap();
        assert_eq!((id(&t), t.src, t.dst), (id(&first), first.src, first.dst));
        body.extend_from_slice(&part[t.l4..]);
    }
    let whole = Spec {
        src: first.src,
        dst: first.dst,
        protocol: UDP,
        body: body.clone(),
        fragment: None,
        options: 0,
    };
    let whole = whole.build();
    assert_eq!(whole[whole.len() - body.len()..], body[..], "checksum of the datagram");
    ends(&whole)
}

#[test]
fn fragments_follow_their_first_one_there_and_back() {
    for c in BOTH {
        let mut pair = Pair::new();
        let there = fragments((c.client, 4000), (c.vip, 53), 77).map(|f| pair.request(&f));
        assert_eq!(reassembled(&there), at(c.mesh[0], 4000, c.pod, 8080));
        let back = fragments((c.pod, 8080), (c.mesh[0], 4000), 78).map(|f| pair.response(&f));
        assert_eq!(reassembled(&back), at(c.vip, 53, c.client, 4000));
        // A copy of the first fragment joins the same datagram.
        let again = pair.request(&fragments((c.client, 4000), (c.vip, 53), 77)[0]);
        assert_eq!(
            reassembled(&[again, there[1].clone(), there[2].clone()]),
            at(c.mesh[0], 4000, c.pod, 8080)
        );
    }
}

#[test]
fn two_clients_with_equal_identifications_are_not_mixed() {
    let c = V4;
    let mut pair = Pair::new();
    let first = fragments((c.client, 4000), (c.vip, 53), 5).map(|f| pair.send(&f).1);
    let second = fragments(("172.17.0.3", 4000), (c.vip, 53), 5).map(|f| pair.send(&f).1);
    assert_ne!(first[0][4..6], second[0][4..6]);
    reassembled(&first);
    reassembled(&second);
}

#[test]
fn fragments_that_overtook_the_first_wait_for_it() {
    for c in BOTH {
        let mut pair = Pair::new();
        let parts = fragments((c.client, 4000), (c.vip, 53), 5);
        let (last, parked) = pair.send(&parts[2]);
        let Translated::Park(ticket) = last.verdict else { panic!("{last:?}") };
        assert_eq!(parked, parts[2]);
        let (key, when) = last.deadline.unwrap();
        assert_eq!(pair.send(&parts[1]).0.verdict, Translated::Park(ticket));
        let (first, sent) = pair.send(&parts[0]);
        assert_eq!((first.verdict, first.released), (Translated::To(PeerRef(2)), Some(ticket)));
        let sent = [sent, pair.send(&parts[1]).1, pair.send(&parts[2]).1];
        assert_eq!(reassembled(&sent), at(c.mesh[0], 4000, c.pod, 8080));
        assert_eq!(pair.client.handle_timeout(when, key), Expiry { next: None, expired: None });
        // One whose first never comes.
        let (lost, _) = pair.send(&fragments((c.client, 4000), (c.vip, 53), 6)[1]);
        let (key, when) = lost.deadline.unwrap();
        let early = pair.client.handle_timeout(pair.now, key);
        assert_eq!(early, Expiry { next: Some(when), expired: None });
        let Translated::Park(ticket) = lost.verdict else { panic!("{lost:?}") };
        assert_eq!(pair.client.handle_timeout(when, key), Expiry { next: None, expired: Some(ticket) });
    }
}
