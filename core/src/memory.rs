//! All memory of an engine, in one value that the shell places: a `static` on a board and on Linux alike.
//!
//! [`Memory::ZERO`] is all-zero, so a static of it is `.bss`: it costs no flash, and on Linux a page costs RAM only
//! once it is used. [`Memory::lend`] hands it to one [`Engine`](crate::node::Engine) as slices; only this type
//! knows the sizes. Counts should be powers of two: an index uses the largest power of two of its part.

use crate::flow::{self, AdmittedSlot, FlowSlot, FragmentSlot};
use crate::node::Event;
use crate::path::{self, AckSlot, PathSlot};
use crate::peer::{LookupSlot, PeerEntry};
use crate::service::{
    self, AffinitySlot, EndpointSlot, NameBlock, NamespaceSlot, PortSlot, ServiceSlot, TargetSlot,
};
use crate::storage::DeadlineEntry;
use crate::tunnel::{BucketSlot, CookieSlot, JobSlot, KEYPAIRS, KeypairSlot, PeerSlot, TunnelResources};

/// Memory for `PEERS` peers with replay windows of `WINDOW` words (64 counters each, one word is overhead),
/// `FLOWS` flows and as many admitted tuples, `SERVICES` services, `ENDPOINTS` endpoints, and `SIDE` places in each
/// table beside these: lookups, events, acknowledgements, fragments, namespaces, affinity, cookies.
pub struct Memory<
    const PEERS: usize,
    const WINDOW: usize,
    const FLOWS: usize,
    const SERVICES: usize,
    const ENDPOINTS: usize,
    const SIDE: usize,
> {
    peers: [PeerEntry; PEERS],
    peer_index: [[u32; 2]; PEERS],
    lookups: [LookupSlot; SIDE],
    events: [Event; SIDE],
    deadlines: [[DeadlineEntry; 3]; FLOWS],
    sessions: [PeerSlot; PEERS],
    keypairs: [[KeypairSlot; KEYPAIRS]; PEERS],
    windows: [[[u64; WINDOW]; KEYPAIRS]; PEERS],
    session_index: [[u32; 8]; PEERS],
    key_index: [[u32; 2]; PEERS],
    jobs: [JobSlot; PEERS],
    cookies: [CookieSlot; SIDE],
    buckets: [BucketSlot; SIDE],
    paths: [PathSlot; PEERS],
    acks: [AckSlot; SIDE],
    relay_sessions: [[u32; 2]; PEERS],
    flows: [FlowSlot; FLOWS],
    by_client: [[u32; 2]; FLOWS],
    by_mapped: [[u32; 2]; FLOWS],
    sources: [u32; SIDE],
    admitted: [AdmittedSlot; FLOWS],
    by_tuple: [[u32; 2]; FLOWS],
    admitters: [u32; SIDE],
    fragments: [FragmentSlot; SIDE],
    services: [ServiceSlot; SERVICES],
    ports: [[PortSlot; 2]; SERVICES],
    targets: [[TargetSlot; 2]; SERVICES],
    endpoints: [EndpointSlot; ENDPOINTS],
    names: [[NameBlock; 3]; SERVICES],
    namespaces: [NamespaceSlot; SIDE],
    affinity: [AffinitySlot; SIDE],
    by_name: [[u32; 2]; SERVICES],
    by_vip: [[u32; 4]; SERVICES],
    by_namespace: [[u32; 2]; SIDE],
    by_address: [[u32; 2]; ENDPOINTS],
    by_endpoint_vip: [[u32; 2]; ENDPOINTS],
    by_ordinal: [[u32; 2]; ENDPOINTS],
}

/// Borrowed memory of all machines.
pub struct Resources<'a> {
    pub(crate) peers: &'a mut [PeerEntry],
    pub(crate) peer_index: &'a mut [u32],
    pub(crate) lookups: &'a mut [LookupSlot],
    pub(crate) events: &'a mut [Event],
    pub(crate) deadlines: &'a mut [DeadlineEntry],
    pub(crate) tunnels: TunnelResources<'a>,
    pub(crate) paths: path::Resources<'a>,
    pub(crate) flows: flow::Resources<'a>,
    pub(crate) services: service::Resources<'a>,
}

impl<'a> Resources<'a> {
    /// Uses these flow slots instead of its own as far as they go: those of an earlier run, on the same clock. The
    /// machine mends or drops what that run left half written.
    #[must_use]
    pub fn with_flows(mut self, flows: &'a mut [FlowSlot], admitted: &'a mut [AdmittedSlot]) -> Self {
        (self.flows.flows, self.flows.admitted) = (flows, admitted);
        self
    }
}

impl<
    const PEERS: usize,
    const WINDOW: usize,
    const FLOWS: usize,
    const SERVICES: usize,
    const ENDPOINTS: usize,
    const SIDE: usize,
> Memory<PEERS, WINDOW, FLOWS, SERVICES, ENDPOINTS, SIDE>
{
    /// Nothing stored.
    pub const ZERO: Self = {
        // Two singles, tunnel and path of each peer and of none, flows, admitted tuples, fragments.
        assert!(FLOWS >= 4 + 2 * PEERS + SIDE, "too few flows for the deadlines of peers and fragments");
        assert!(PEERS >= 2, "handshakes need two places");
        Self {
            peers: [PeerEntry::EMPTY; PEERS],
            peer_index: [[0; 2]; PEERS],
            lookups: [LookupSlot::EMPTY; SIDE],
            events: [Event::ServicesChanged; SIDE],
            deadlines: [[DeadlineEntry::EMPTY; 3]; FLOWS],
            sessions: [PeerSlot::EMPTY; PEERS],
            keypairs: [[KeypairSlot::EMPTY; KEYPAIRS]; PEERS],
            windows: [[[0; WINDOW]; KEYPAIRS]; PEERS],
            session_index: [[0; 8]; PEERS],
            key_index: [[0; 2]; PEERS],
            jobs: [JobSlot::EMPTY; PEERS],
            cookies: [CookieSlot::EMPTY; SIDE],
            buckets: [BucketSlot::EMPTY; SIDE],
            paths: [PathSlot::EMPTY; PEERS],
            acks: [AckSlot::EMPTY; SIDE],
            relay_sessions: [[0; 2]; PEERS],
            flows: [FlowSlot::ZERO; FLOWS],
            by_client: [[0; 2]; FLOWS],
            by_mapped: [[0; 2]; FLOWS],
            sources: [0; SIDE],
            admitted: [AdmittedSlot::ZERO; FLOWS],
            by_tuple: [[0; 2]; FLOWS],
            admitters: [0; SIDE],
            fragments: [FragmentSlot::ZERO; SIDE],
            services: [ServiceSlot::ZERO; SERVICES],
            ports: [[PortSlot::ZERO; 2]; SERVICES],
            targets: [[TargetSlot::ZERO; 2]; SERVICES],
            endpoints: [EndpointSlot::ZERO; ENDPOINTS],
            names: [[NameBlock::ZERO; 3]; SERVICES],
            namespaces: [NamespaceSlot::ZERO; SIDE],
            affinity: [AffinitySlot::ZERO; SIDE],
            by_name: [[0; 2]; SERVICES],
            by_vip: [[0; 4]; SERVICES],
            by_namespace: [[0; 2]; SIDE],
            by_address: [[0; 2]; ENDPOINTS],
            by_endpoint_vip: [[0; 2]; ENDPOINTS],
            by_ordinal: [[0; 2]; ENDPOINTS],
        }
    };

    /// Hands the memory to an engine. It must be all-zero: lend it once.
    pub fn lend(&mut self) -> Resources<'_> {
        Resources {
            peers: &mut self.peers,
            peer_index: self.peer_index.as_flattened_mut(),
            lookups: &mut self.lookups,
            events: &mut self.events,
            deadlines: self.deadlines.as_flattened_mut(),
            tunnels: TunnelResources {
                peers: &mut self.sessions,
                keypairs: self.keypairs.as_flattened_mut(),
                windows: self.windows.as_flattened_mut().as_flattened_mut(),
                indices: self.session_index.as_flattened_mut(),
                keys: self.key_index.as_flattened_mut(),
                jobs: &mut self.jobs,
                cookies: &mut self.cookies,
                buckets: &mut self.buckets,
            },
            paths: path::Resources {
                peers: &mut self.paths,
                acks: &mut self.acks,
                sessions: self.relay_sessions.as_flattened_mut(),
            },
            flows: flow::Resources {
                flows: &mut self.flows,
                by_client: self.by_client.as_flattened_mut(),
                by_mapped: self.by_mapped.as_flattened_mut(),
                sources: &mut self.sources,
                admitted: &mut self.admitted,
                by_tuple: self.by_tuple.as_flattened_mut(),
                admitters: &mut self.admitters,
                fragments: &mut self.fragments,
            },
            services: service::Resources {
                services: &mut self.services,
                ports: self.ports.as_flattened_mut(),
                targets: self.targets.as_flattened_mut(),
                endpoints: &mut self.endpoints,
                names: self.names.as_flattened_mut(),
                namespaces: &mut self.namespaces,
                affinity: &mut self.affinity,
                by_name: self.by_name.as_flattened_mut(),
                by_vip: self.by_vip.as_flattened_mut(),
                by_namespace: self.by_namespace.as_flattened_mut(),
                by_address: self.by_address.as_flattened_mut(),
                by_endpoint_vip: self.by_endpoint_vip.as_flattened_mut(),
                by_ordinal: self.by_ordinal.as_flattened_mut(),
            },
        }
    }
}
