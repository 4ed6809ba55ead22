//! Whatever comes in: no panic, no answer above the limit, and what goes out can be read.

use edgemesh_core::dns::{Responder, Verdict, chase};
use hickory_proto::op::Message;
use hickory_proto::serialize::binary::{BinDecodable, BinDecoder};
use proptest::prelude::*;

use super::zone::{big, cluster};
use super::{Transport, query, settings};

fn check(bytes: &[u8], transport: Transport, room: usize, rotate: u32) -> Result<(), TestCaseError> {
    let mut out = vec![0; room];
    let verdict = Responder::new(settings()).query(&big(40), bytes, transport, rotate, &mut out);
    if let Verdict::Answer { len, .. } | Verdict::Chase { len } = verdict {
        prop_assert!(len <= room);
        let mut decoder = BinDecoder::new(&out[..len]);
        let message = Message::read(&mut decoder);
        prop_assert!(message.is_ok() && decoder.is_empty(), "{message:?}");
        // With no more than this much OPT the limit of a datagram is the one without it.
        prop_assert!(transport == Transport::Tcp || bytes[11] != 0 || len <= 512);
    }
    Ok(())
}

fn names() -> impl Strategy<Value = String> {
    let label = prop_oneof![
        Just("svc1".to_owned()),
        Just("hdls1".to_owned()),
        Just("testns".to_owned()),
        Just("svc".to_owned()),
        Just("_http".to_owned()),
        Just("_tcp".to_owned()),
        Just("external".to_owned()),
        Just("big".to_owned()),
        Just("default".to_owned()),
        Just("twice".to_owned()),
        Just("10-100-0-3".to_owned()),
        "[a-z0-9-]{1,63}",
    ];
    let below = prop::sample::select(vec![
        "svc.cluster.local.",
        "svc.cluster.local.",
        "pod.cluster.local.",
        "cluster.local.",
        "10.in-addr.arpa.",
    ]);
    let labels = prop::collection::vec(label, 0..6);
    (labels, below)
        .prop_map(|(labels, below)| labels.join(".") + if labels.is_empty() { "" } else { "." } + below)
}

proptest! {
    #[test]
    fn arbitrary_bytes(bytes in prop::collection::vec(any::<u8>(), 0..300), room in 0usize..2000, tcp: bool) {
        let transport = if tcp { Transport::Tcp } else { Transport::Udp };
        check(&bytes, transport, room, 0)?;
    }

    #[test]
    fn damaged_queries(
        name in names(), rtype in prop::sample::select(vec![1u16, 2, 5, 6, 12, 16, 28, 33, 65, 255]), at in 2usize..60,
        value: u8, damage: bool, cut in 0usize..8, room in 0usize..2000, rotate: u32,
    ) {
        let Ok(name) = name.parse::<hickory_proto::rr::Name>() else { return Ok(()) };
        let mut bytes = query(&name.to_string(), rtype.into()).to_vec().unwrap();
        if damage {
            let at = at % bytes.len();
            bytes[at] = value;
            bytes.truncate(bytes.len() - cut);
        }
        check(&bytes, Transport::Udp, room, rotate)?;
        check(&bytes, Transport::Tcp, room.max(600), rotate)?;
    }

    #[test]
    fn every_name_of_ours_is_answered_the_same_in_any_case(name in names(), upper: u64) {
        let Ok(parsed) = name.parse::<hickory_proto::rr::Name>() else { return Ok(()) };
        let lower = query(&parsed.to_string(), 1.into()).to_vec().unwrap();
        let mut mixed = lower.clone();
        let end = mixed.len() - 4;
        for (n, byte) in mixed[12..end].iter_mut().enumerate() {
            if upper >> (n % 64) & 1 == 1 {
                byte.make_ascii_uppercase();
            }
        }
        let answer = |bytes: &[u8]| super::verdict(&cluster(), bytes, Transport::Tcp, 0);
        let ((one, first), (two, second)) = (answer(&lower), answer(&mixed));
        prop_assert_eq!(one, two);
        // Reverse names that nobody here has.
        if one == Verdict::Forward {
            return Ok(());
        }
        prop_assert_eq!(first.len(), second.len());
        prop_assert_eq!(&first[..12], &second[..12]);
        prop_assert!(first.eq_ignore_ascii_case(&second));
        prop_assert_eq!(&second[12..end], &mixed[12..end]);
    }

    #[test]
    fn arbitrary_upstream_replies(
        reply in prop::collection::vec(any::<u8>(), 0..400), answers in 0u8..4, room in 0usize..700,
    ) {
        let asked = query("external.testns.svc.cluster.local.", 1.into()).to_vec().unwrap();
        let (_, answer) = super::verdict(&cluster(), &asked, Transport::Udp, 0);
        // A plausible start, so that the records are reached.
        let mut bytes = answer.clone();
        bytes[7] = answers;
        bytes.extend(reply);
        let mut out = vec![0; room];
        if let Ok(len) = chase::complete(&asked, Transport::Udp, &answer, &bytes, &mut out) {
            prop_assert!(len <= room.min(512));
            prop_assert!(Message::from_vec(&out[..len]).is_ok());
        }
        let _ = chase::question(&bytes, 1, &mut out);
    }
}
