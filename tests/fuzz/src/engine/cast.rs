//! Who and what there is: addresses, Services, updates and queries, chosen by the bytes.

use super::{SERVER, address};
use crate::input::Input;
use edgemesh_core::node::{Burst, From};
use edgemesh_core::wire::feed::{
    ENDPOINT_READY, ENDPOINT_SERVING, EndpointDef, PortDef, Protocol, ServiceDef, ServiceKind, Update,
};
use edgemesh_core::wire::ip::Checksum;
use std::net::{IpAddr, SocketAddr};

pub(super) fn burst(input: &mut Input<'_>, len: usize) -> Burst {
    match input.byte() {
        0..=199 => Burst::single(len),
        n => Burst { checksum: Checksum::Partial, segments: u16::from(n - 199), largest: input.u16() },
    }
}

pub(super) fn source(input: &mut Input<'_>) -> From {
    match input.byte() % 4 {
        0 => From::RelayTcp,
        1 => From::Socket { local: 0, remote: SERVER },
        _ => From::Socket { local: 0, remote: some_address(input) },
    }
}

pub(super) fn some_address(input: &mut Input<'_>) -> SocketAddr {
    match input.byte() {
        n @ 0..=1 => address(n.into()),
        2 => SERVER,
        3 => SocketAddr::new(IpAddr::from([127, 0, 0, 1]), 80),
        4 => SocketAddr::new(IpAddr::from([0xfe, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]), 80),
        n => SocketAddr::new(IpAddr::from([192, 0, 2, n]), 1_000 + u16::from(n)),
    }
}

pub(super) fn pod(n: u8) -> IpAddr {
    if n & 0x80 == 0 {
        IpAddr::from([172, 17, 0, 2 + (n >> 3 & 3)])
    } else {
        IpAddr::from([0xfd, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2 + (n >> 3 & 3)])
    }
}

pub(super) fn endpoint(n: u8) -> IpAddr {
    pod(n & 0x80 | (n & 3) << 3)
}

pub(super) fn vips(n: u8, v4: bool) -> IpAddr {
    match (n & 15, v4) {
        (n @ 0..=5, true) => IpAddr::from([10, 96, 0, n]),
        (n @ 0..=5, false) => IpAddr::from([0xfd, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, n]),
        // Other nodes, own address and alias, endpoint VIPs, shadow VIPs.
        (n @ 6..=9, true) => IpAddr::from([242, 0, 0, n - 6]),
        (10, true) => IpAddr::from([242, 63, 255, 255]),
        (n @ 11..=13, true) => IpAddr::from([242, 128, 0, n]),
        (14, true) => IpAddr::from([242, 64 + 32, 0, 1]),
        (_, true) => IpAddr::from([172, 17, 0, 2]),
        (n, false) => IpAddr::from([0xfd, 0x65, 0x64, 0x67, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, n - 6]),
    }
}

fn put(out: &mut Vec<u8>, update: &Update<'_>) {
    out.extend(postcard::to_allocvec(update).expect("into memory"));
}

/// The Services that both nodes know at first: one of each node, a headless one, an alias.
pub(crate) fn cluster() -> Vec<u8> {
    let mut out = Vec::new();
    put(&mut out, &Update::Begin);
    put(&mut out, &Update::Namespace("default"));
    for (node, name) in (1..).zip(["sense", "park"]) {
        let vips = [vips(node, true), vips(node, false)];
        service(
            &mut out,
            name,
            ServiceKind::ClusterIp(vips.into_iter().collect()),
            &[(node.into(), 0), (node.into(), 0x80)],
        );
    }
    service(&mut out, "set", ServiceKind::Headless, &[(1, 1), (2, 2)]);
    service(&mut out, "out", ServiceKind::ExternalName("example.org"), &[]);
    put(&mut out, &Update::End);
    out
}

fn service(out: &mut Vec<u8>, name: &str, kind: ServiceKind<'_>, endpoints: &[(u32, u8)]) {
    let headless = kind == ServiceKind::Headless;
    put(out, &Update::Service(ServiceDef { namespace: "default", name, kind, affinity_secs: 0, flags: 0 }));
    for (protocol, port) in [(Protocol::Tcp, 80), (Protocol::Udp, 53)] {
        put(out, &Update::Port(PortDef { name: if port == 80 { "http" } else { "dns" }, protocol, port }));
    }
    put(out, &Update::Targets(&[0x90, 0x1f, 53, 0]));
    for (node, n) in endpoints {
        let vip = headless.then(|| IpAddr::from([242, 128, 0, 10 + (n & 63)]));
        put(
            out,
            &Update::Endpoint(EndpointDef {
                node: *node,
                address: endpoint(*n),
                vip,
                hostname: if headless { ["x", "y", "z"][usize::from(*n % 3)] } else { "" },
                conditions: ENDPOINT_READY | ENDPOINT_SERVING,
                zones: &[],
            }),
        );
    }
    put(out, &Update::Commit);
}

/// Some updates: well-formed ones out of a few numbers, or any bytes.
pub(super) fn update(input: &mut Input<'_>) -> Vec<u8> {
    const NAMES: [&str; 6] =
        ["sense", "park", "set", "a-name-that-is-longer-than-one-block-has-room-for", "c", "d"];
    let mut out = Vec::new();
    for _ in 0..1 + input.below(4) {
        match input.byte() % 8 {
            0 => put(&mut out, &Update::Begin),
            1 => put(&mut out, &Update::End),
            2 => put(&mut out, &Update::Remove { namespace: "default", name: input.pick(&NAMES) }),
            3 => put(&mut out, &Update::Namespace(input.pick(&NAMES))),
            4 => out.extend(input.some()),
            _ => {
                let name = input.pick(&NAMES);
                let kind = match input.byte() {
                    0..=63 => ServiceKind::Headless,
                    n => ServiceKind::ClusterIp(
                        [vips(n, true), vips(n >> 3, false)].into_iter().take(2).collect(),
                    ),
                };
                let ends: Vec<(u32, u8)> =
                    (0..input.below(4)).map(|_| (input.below(4) as u32, input.byte())).collect();
                service(&mut out, name, kind, &ends);
            }
        }
    }
    out
}

/// A query: for a name of the cluster in some form, or any bytes.
pub(crate) fn question(input: &mut Input<'_>) -> Vec<u8> {
    const LABELS: [&[u8]; 20] = [
        b"sense",
        b"park",
        b"set",
        b"out",
        b"default",
        b"svc",
        b"pod",
        b"cluster",
        b"local",
        b"_http",
        b"_tcp",
        b"x",
        b"172-17-0-2",
        b"dns-version",
        b"ns",
        b"dns",
        b"in-addr",
        b"arpa",
        b"172",
        b"*",
    ];
    if input.byte() == 255 {
        return input.some().to_vec();
    }
    let mut query = vec![0, 1, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for _ in 0..input.below(7) {
        let label = match input.byte() {
            n if n & 0x80 != 0 => input.some()[..].get(..usize::from(n & 63)).unwrap_or_default(),
            n => LABELS[usize::from(n) % LABELS.len()],
        };
        if !label.is_empty() {
            query.push(label.len() as u8);
            query.extend(label);
        }
    }
    let tail: &[&[u8]] = match input.byte() % 4 {
        0 => &[],
        1 => &[b"arpa"],
        2 => &[b"cluster", b"local"],
        _ => &[b"default", b"svc", b"cluster", b"local"],
    };
    for label in tail {
        query.push(label.len() as u8);
        query.extend(*label);
    }
    query.push(0);
    let kind = [1_u16, 28, 33, 5, 6, 12, 16, 255, 252, 41][input.below(10)];
    query.extend(kind.to_be_bytes());
    query.extend([0, if input.byte() == 9 { 3 } else { 1 }]);
    if input.flag() {
        query[11] = 1;
        query.extend([0, 0, 41]);
        query.extend(input.u16().to_be_bytes());
        query.extend([0, input.byte(), 0, 0, 0, 0]);
    }
    query
}
