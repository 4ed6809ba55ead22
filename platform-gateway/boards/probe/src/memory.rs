//! The tables of the reference gateway, const-built; one part per machine, so that the probe can say who takes what
//! of the budget.
//!
//! The reference has 64 services and 128 endpoints. Their tables alone would take 23 KB of the 28, and flows take
//! 11, so a quarter of them is here: slots have to shrink before the counts can grow.

use edgemesh_core::flow::{self, AdmittedSlot, FlowSlot, FragmentSlot};
use edgemesh_core::path::{self, AckSlot, PathSlot};
use edgemesh_core::peer::{LookupSlot, PeerEntry};
use edgemesh_core::service::{
    self, AffinitySlot, EndpointSlot, NameBlock, NamespaceSlot, PortSlot, ServiceSlot, TargetSlot,
};
use edgemesh_core::storage::DeadlineEntry;
use edgemesh_core::tunnel::{
    BucketSlot, CookieSlot, JobSlot, KEYPAIRS, KeypairSlot, PeerSlot, TunnelResources,
};

/// What the core's tables may take of the board's 64 KiB.
pub const BUDGET: usize = 28 * 1024;
const _: () = assert!(size_of::<Memory>() <= BUDGET, "the gateway's tables exceed their budget");

pub const PEERS: usize = 4;
pub const FLOWS: usize = 64;
pub const SERVICES: usize = 16;
pub const ENDPOINTS: usize = 32;
/// 1,024 counters, and one word more, as the tunnel asks.
const WINDOW: usize = 1024 / 64 + 1;
/// Blocks of 28 bytes: one for most services, and some for ports and namespaces.
const NAMES: usize = 24;

/// What one kind of table takes, for the log.
pub const PARTS: [(&str, usize); 6] = [
    ("deadlines", size_of::<[DeadlineEntry; KEYS]>()),
    ("peers", size_of::<Peers>()),
    ("tunnel", size_of::<Tunnel>()),
    ("path", size_of::<Paths>()),
    ("flows", size_of::<Flows<FLOWS>>()),
    ("services", size_of::<Services>()),
];

/// Two single timers, tunnel and path of each peer, flows, admitted tuples, fragments.
const KEYS: usize = 2 + 2 * PEERS + 2 * FLOWS + FRAGMENTS;
const FRAGMENTS: usize = 8;

/// All of a gateway's tables.
pub struct Memory {
    pub deadlines: [DeadlineEntry; KEYS],
    pub peers: Peers,
    pub tunnel: Tunnel,
    pub paths: Paths,
    pub flows: Flows<FLOWS>,
    pub services: Services,
}

impl Memory {
    pub const ZERO: Self = Self {
        deadlines: [DeadlineEntry::EMPTY; KEYS],
        peers: Peers {
            entries: [PeerEntry::EMPTY; PEERS],
            index: [0; 2 * PEERS],
            lookups: [LookupSlot::EMPTY; PEERS],
        },
        tunnel: Tunnel::ZERO,
        paths: Paths {
            peers: [PathSlot::EMPTY; PEERS],
            acks: [AckSlot::EMPTY; 2 * PEERS],
            sessions: [0; 2 * PEERS],
        },
        flows: Flows::ZERO,
        services: Services::ZERO,
    };
}

/// `N` flows, and as many tuples admitted from peers.
pub struct Flows<const N: usize> {
    flows: [FlowSlot; N],
    by_client: [[u32; 2]; N],
    by_mapped: [[u32; 2]; N],
    sources: [u32; 16],
    admitted: [AdmittedSlot; N],
    by_tuple: [[u32; 2]; N],
    admitters: [u32; 2 * PEERS],
    fragments: [FragmentSlot; FRAGMENTS],
}

impl<const N: usize> Flows<N> {
    pub const ZERO: Self = Self {
        flows: [FlowSlot::ZERO; N],
        by_client: [[0; 2]; N],
        by_mapped: [[0; 2]; N],
        sources: [0; 16],
        admitted: [AdmittedSlot::ZERO; N],
        by_tuple: [[0; 2]; N],
        admitters: [0; 2 * PEERS],
        fragments: [FragmentSlot::ZERO; FRAGMENTS],
    };

    pub fn lend(&mut self) -> flow::Resources<'_> {
        flow::Resources {
            flows: &mut self.flows,
            by_client: self.by_client.as_flattened_mut(),
            by_mapped: self.by_mapped.as_flattened_mut(),
            sources: &mut self.sources,
            admitted: &mut self.admitted,
            by_tuple: self.by_tuple.as_flattened_mut(),
            admitters: &mut self.admitters,
            fragments: &mut self.fragments,
        }
    }
}

/// What the node at the other end needs: a tunnel, and room for a few flows.
pub struct Far {
    pub tunnel: Tunnel,
    pub flows: Flows<4>,
}

impl Far {
    pub const ZERO: Self = Self { tunnel: Tunnel::ZERO, flows: Flows::ZERO };
}

pub struct Peers {
    pub entries: [PeerEntry; PEERS],
    pub index: [u32; 2 * PEERS],
    pub lookups: [LookupSlot; PEERS],
}

pub struct Paths {
    peers: [PathSlot; PEERS],
    acks: [AckSlot; 2 * PEERS],
    sessions: [u32; 2 * PEERS],
}

impl Paths {
    pub fn lend(&mut self) -> path::Resources<'_> {
        path::Resources { peers: &mut self.peers, acks: &mut self.acks, sessions: &mut self.sessions }
    }
}

pub struct Tunnel {
    peers: [PeerSlot; PEERS],
    keypairs: [KeypairSlot; PEERS * KEYPAIRS],
    windows: [u64; PEERS * KEYPAIRS * WINDOW],
    indices: [u32; 8 * PEERS],
    keys: [u32; 2 * PEERS],
    jobs: [JobSlot; 4],
    cookies: [CookieSlot; 2],
    buckets: [BucketSlot; 8],
}

impl Tunnel {
    pub const ZERO: Self = Self {
        peers: [PeerSlot::EMPTY; PEERS],
        keypairs: [KeypairSlot::EMPTY; PEERS * KEYPAIRS],
        windows: [0; PEERS * KEYPAIRS * WINDOW],
        indices: [0; 8 * PEERS],
        keys: [0; 2 * PEERS],
        jobs: [JobSlot::EMPTY; 4],
        cookies: [CookieSlot::EMPTY; 2],
        buckets: [BucketSlot::EMPTY; 8],
    };

    pub fn lend(&mut self) -> TunnelResources<'_> {
        TunnelResources {
            peers: &mut self.peers,
            keypairs: &mut self.keypairs,
            windows: &mut self.windows,
            indices: &mut self.indices,
            keys: &mut self.keys,
            jobs: &mut self.jobs,
            cookies: &mut self.cookies,
            buckets: &mut self.buckets,
        }
    }
}

pub struct Services {
    services: [ServiceSlot; SERVICES],
    ports: [PortSlot; SERVICES],
    targets: [TargetSlot; SERVICES],
    endpoints: [EndpointSlot; ENDPOINTS],
    names: [NameBlock; NAMES],
    namespaces: [NamespaceSlot; 4],
    affinity: [AffinitySlot; 4],
    by_name: [u32; 2 * SERVICES],
    by_vip: [u32; 4 * SERVICES],
    by_namespace: [u32; 8],
    by_address: [u32; 2 * ENDPOINTS],
    by_endpoint_vip: [u32; 2 * ENDPOINTS],
    by_ordinal: [u32; 2 * ENDPOINTS],
}

impl Services {
    const ZERO: Self = Self {
        services: [ServiceSlot::ZERO; SERVICES],
        ports: [PortSlot::ZERO; SERVICES],
        targets: [TargetSlot::ZERO; SERVICES],
        endpoints: [EndpointSlot::ZERO; ENDPOINTS],
        names: [NameBlock::ZERO; NAMES],
        namespaces: [NamespaceSlot::ZERO; 4],
        affinity: [AffinitySlot::ZERO; 4],
        by_name: [0; 2 * SERVICES],
        by_vip: [0; 4 * SERVICES],
        by_namespace: [0; 8],
        by_address: [0; 2 * ENDPOINTS],
        by_endpoint_vip: [0; 2 * ENDPOINTS],
        by_ordinal: [0; 2 * ENDPOINTS],
    };

    pub fn lend(&mut self) -> service::Resources<'_> {
        service::Resources {
            services: &mut self.services,
            ports: &mut self.ports,
            targets: &mut self.targets,
            endpoints: &mut self.endpoints,
            names: &mut self.names,
            namespaces: &mut self.namespaces,
            affinity: &mut self.affinity,
            by_name: &mut self.by_name,
            by_vip: &mut self.by_vip,
            by_namespace: &mut self.by_namespace,
            by_address: &mut self.by_address,
            by_endpoint_vip: &mut self.by_endpoint_vip,
            by_ordinal: &mut self.by_ordinal,
        }
    }
}
