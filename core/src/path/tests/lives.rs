//! Whatever happens to the network, in any order.

use super::nat::KINDS;
use super::world::{SECOND, Site, World};
use crate::path::Local;
use crate::time::Duration;
use proptest::prelude::*;
use std::net::SocketAddr;

/// A step of a random life.
#[derive(Clone, Debug)]
enum Step {
    Run(u64),
    Cut(bool, bool),
    Block(bool, bool),
    Server(bool),
    Reboot(usize),
    Mtu(usize),
    Loss(u64),
    Traffic(usize, u64),
    Move(usize, u8),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (1u64..30_000).prop_map(Step::Run),
        2 => any::<(bool, bool)>().prop_map(|(a, b)| Step::Cut(a, b)),
        1 => any::<(bool, bool)>().prop_map(|(a, b)| Step::Block(a, b)),
        1 => any::<bool>().prop_map(Step::Server),
        1 => (0usize..2).prop_map(Step::Reboot),
        1 => prop_oneof![Just(1_500), Just(1_492), Just(1_300), Just(1_280)].prop_map(Step::Mtu),
        1 => prop_oneof![Just(0), Just(10), Just(3)].prop_map(Step::Loss),
        2 => (0usize..2, 0u64..5_000).prop_map(|(n, gap)| Step::Traffic(n, gap)),
        1 => (0usize..2, 20u8..200).prop_map(|(n, host)| Step::Move(n, host)),
    ]
}

fn site() -> impl Strategy<Value = Site> {
    let nat = (0usize..9).prop_map(|n| Site::Nat(KINDS[n].0, KINDS[n].1));
    prop_oneof![3 => nat, 1 => Just(Site::Public)]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// Whatever happens to the network: callers that know only `poll_deadline` are never late, handled deadlines
    /// make progress (both checked by the world), and once the network is well again datagrams arrive.
    #[test]
    fn any_life_keeps_honest_deadlines_and_recovers(
        a in site(), b in site(), steps in proptest::collection::vec(step(), 1..40)
    ) {
        let mut world = World::new(a, b);
        world.bind();
        world.connect();
        for step in steps {
            match step {
                Step::Run(ms) => world.run(Duration::from_millis(ms)),
                Step::Cut(a, b) => world.cut = [a, b],
                Step::Block(a, b) => world.udp_blocked = [a, b],
                Step::Server(down) => world.server_down = down,
                Step::Reboot(n) => if let Some(nat) = &mut world.nats[n] { nat.reboot() },
                Step::Mtu(mtu) => world.mtu = mtu,
                Step::Loss(loss) => world.loss = loss,
                Step::Traffic(n, gap) => {
                    world.traffic[n] = (gap > 10).then_some((Duration::from_millis(gap), 200));
                }
                Step::Move(n, host) => {
                    let mut octets = match world.nodes[n].inside.ip() {
                        std::net::IpAddr::V4(v4) => v4.octets(),
                        std::net::IpAddr::V6(_) => unreachable!("all here is IPv4"),
                    };
                    octets[3] = host + n as u8;
                    let address = SocketAddr::from((octets, 20_006));
                    if world.nodes[1 - n].inside != address {
                        world.nodes[n].inside = address;
                        let now = world.now;
                        world.nodes[n].paths.set_local(now, &[Local { socket: 0, address }]);
                    }
                }
            }
            world.drain();
        }
        (world.cut, world.udp_blocked, world.server_down) = ([false; 2], [false; 2], false);
        (world.mtu, world.loss) = (1_500, 0);
        world.traffic = [Some((Duration::from_millis(500), 200)); 2];
        // A node that was on TCP tries UDP once a minute; one that lost both tries TCP every half.
        world.run(SECOND.times(95));
        let before = world.nodes.each_ref().map(|n| n.got.len());
        world.run(SECOND.times(10));
        for (node, before) in world.nodes.iter().zip(before) {
            let got = node.got.len() - before;
            prop_assert!(got >= 19, "{} of 20 arrived", got);
        }
    }
}
