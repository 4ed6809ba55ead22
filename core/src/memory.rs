//! All memory of an engine, in one value that the shell places: a `static` on a board and on Linux alike.
//!
//! [`memory!`](crate::memory!) makes a type of it from the sizes that the shell names. Its `ZERO` is all-zero, so a
//! static of it is `.bss`: it costs no flash, and on Linux a page costs RAM only once it is used. `lend` hands it to
//! one [`Engine`](crate::node::Engine) as slices; only that type knows the sizes. It must be all-zero: lend it once.
//!
//! What follows from the sizes is exact: an index has twice the places of its table, rounded down to a power of two
//! as [`Index`](crate::storage::Index) would; every timer has its place among the deadlines.

use crate::flow::{self, AdmittedSlot, FlowSlot, Kept};
use crate::node::Event;
use crate::path;
use crate::peer::{DownSlot, LookupSlot, PeerEntry};
use crate::service;
use crate::storage::{DeadlineEntry, Link};
use crate::tunnel::TunnelResources;
use crate::wire::control::Revocation;

/// Borrowed memory of all machines.
pub struct Resources<'a> {
    /// One per peer.
    pub peers: &'a mut [PeerEntry],
    /// Index of peers, of twice their number.
    pub peer_index: &'a mut [Link],
    /// One per endpoint that does not answer, here or elsewhere.
    pub down: &'a mut [DownSlot],
    /// One per node that was revoked, as far as they are to be known by name.
    pub revoked: &'a mut [Revocation],
    /// One per node that the directory is asked about at a time.
    pub lookups: &'a mut [LookupSlot],
    /// One per event that waits for the shell.
    pub events: &'a mut [Event],
    /// [`timers`] of them.
    pub deadlines: &'a mut [DeadlineEntry],
    /// The tunnels'.
    pub tunnels: TunnelResources<'a>,
    /// The path layer's.
    pub paths: path::Resources<'a>,
    /// The flow machine's.
    pub flows: flow::Resources<'a>,
    /// The Service table's.
    pub services: service::Resources<'a>,
}

impl<'a> Resources<'a> {
    /// Uses these flow slots instead of its own as far as they go: those of an earlier run, on the same clock. The
    /// machine mends or drops what that run left half written.
    #[must_use]
    pub fn with_flows(mut self, flows: Kept<'a, FlowSlot>, admitted: Kept<'a, AdmittedSlot>) -> Self {
        (self.flows.flows, self.flows.admitted) = (flows, admitted);
        self
    }

    /// Room for what the shell says of addresses that the kernel reaches
    /// ([`Engine::set_reached`](crate::node::Engine::set_reached)), all empty; without this there is none.
    #[must_use]
    pub fn with_reached(mut self, reached: &'a mut [service::Reached]) -> Self {
        self.services.reached = reached;
        self
    }

    /// Knows so many revoked nodes by name; without this none.
    #[must_use]
    pub fn with_revoked(mut self, revoked: &'a mut [Revocation]) -> Self {
        self.revoked = revoked;
        self
    }
}

/// Deadlines of an engine: two of its own, tunnel and path of each peer and of none, flows, admitted tuples,
/// fragments.
pub const fn timers(peers: usize, flows: usize, admitted: usize, fragments: usize) -> usize {
    peers
        .saturating_add(2)
        .saturating_mul(2)
        .saturating_add(flows)
        .saturating_add(admitted)
        .saturating_add(fragments)
}

/// Places of an index over `slots`.
pub const fn places(slots: usize) -> usize {
    match slots.saturating_mul(2).checked_ilog2() {
        Some(bits) => 1 << bits,
        None => 0,
    }
}

/// Makes the type of an engine's memory:
///
/// ```
/// edgemesh_core::memory! {
///     /// Room for a small site.
///     pub struct SmallMemory {
///         peers: 8,
///         window: 17,     // words of each replay window: 64 counters each, one word is overhead
///         handshakes: 2,  // messages that are computed on at a time
///         flows: 256,
///         admitted: 256,  // tuples that peers have with endpoints of this node
///         services: 64,
///         ports: 96,      // service ports, and groups of endpoints
///         endpoints: 256,
///         names: 128,     // blocks of 28 bytes
///         namespaces: 16,
///         side: 16,       // each table beside these: lookups, events, health, acknowledgements, fragments,
///                         // affinity, cookies
///     }
/// }
/// static mut MEMORY: SmallMemory = SmallMemory::ZERO;
/// ```
#[macro_export]
macro_rules! memory {
    (
        $(#[$doc:meta])*
        $vis:vis struct $name:ident {
            peers: $peers:expr,
            window: $window:expr,
            handshakes: $handshakes:expr,
            flows: $flows:expr,
            admitted: $admitted:expr,
            services: $services:expr,
            ports: $ports:expr,
            endpoints: $endpoints:expr,
            names: $names:expr,
            namespaces: $namespaces:expr,
            side: $side:expr $(,)?
        }
    ) => {
        $crate::memory! {
            @type $(#[$doc])* $vis struct $name;
            peers: $crate::peer::PeerEntry = $crate::peer::PeerEntry::EMPTY; $peers,
            peer_index: $crate::storage::Link = 0; $crate::memory::places($peers),
            down: $crate::peer::DownSlot = $crate::peer::DownSlot::EMPTY; $side,
            lookups: $crate::peer::LookupSlot = $crate::peer::LookupSlot::EMPTY; $side,
            events: $crate::node::Event = $crate::node::Event::ServicesChanged; $side,
            deadlines: $crate::storage::DeadlineEntry = $crate::storage::DeadlineEntry::EMPTY;
                $crate::memory::timers($peers, $flows, $admitted, $side),
            sessions: $crate::tunnel::PeerSlot = $crate::tunnel::PeerSlot::EMPTY; $peers,
            keypairs: $crate::tunnel::KeypairSlot = $crate::tunnel::KeypairSlot::EMPTY;
                $crate::tunnel::KEYPAIRS * $peers,
            windows: u64 = 0; $window * $crate::tunnel::KEYPAIRS * $peers,
            session_index: $crate::storage::Link = 0; 8 * $peers,
            key_index: $crate::storage::Link = 0; $crate::memory::places($peers),
            jobs: $crate::tunnel::JobSlot = $crate::tunnel::JobSlot::EMPTY; $handshakes,
            cookies: $crate::tunnel::CookieSlot = $crate::tunnel::CookieSlot::EMPTY; $side,
            buckets: $crate::tunnel::BucketSlot = $crate::tunnel::BucketSlot::EMPTY; $side,
            paths: $crate::path::PathSlot = $crate::path::PathSlot::EMPTY; $peers,
            acks: $crate::path::AckSlot = $crate::path::AckSlot::EMPTY; $side,
            relay_sessions: $crate::storage::Link = 0; $crate::memory::places($peers),
            flows: $crate::flow::FlowSlot = $crate::flow::FlowSlot::ZERO; $flows,
            by_client: $crate::storage::Link = 0; $crate::memory::places($flows),
            by_mapped: $crate::storage::Link = 0; $crate::memory::places($flows),
            sources: u32 = 0; $side,
            admitted: $crate::flow::AdmittedSlot = $crate::flow::AdmittedSlot::ZERO; $admitted,
            by_tuple: $crate::storage::Link = 0; $crate::memory::places($admitted),
            admitters: u32 = 0; $side,
            fragments: $crate::flow::FragmentSlot = $crate::flow::FragmentSlot::ZERO; $side,
            services: $crate::service::ServiceSlot = $crate::service::ServiceSlot::ZERO; $services,
            ports: $crate::service::PortSlot = $crate::service::PortSlot::ZERO; $ports,
            targets: $crate::service::TargetSlot = $crate::service::TargetSlot::ZERO; $ports,
            endpoints: $crate::service::EndpointSlot = $crate::service::EndpointSlot::ZERO; $endpoints,
            names: $crate::service::NameBlock = $crate::service::NameBlock::ZERO; $names,
            namespaces: $crate::service::NamespaceSlot = $crate::service::NamespaceSlot::ZERO; $namespaces,
            affinity: $crate::service::AffinitySlot = $crate::service::AffinitySlot::ZERO; $side,
            by_name: $crate::storage::Link = 0; $crate::memory::places($services),
            by_vip: $crate::storage::Link = 0; $crate::memory::places($crate::service::VIPS * $services),
            by_namespace: $crate::storage::Link = 0; $crate::memory::places($namespaces),
            by_address: $crate::storage::Link = 0; $crate::memory::places($endpoints),
            by_endpoint_vip: $crate::storage::Link = 0; $crate::memory::places($endpoints),
            by_ordinal: $crate::storage::Link = 0; $crate::memory::places($endpoints),
        }
        const _: () = assert!($handshakes >= 2, "an initiation and a response at a time need two places");
    };
    (@type $(#[$doc:meta])* $vis:vis struct $name:ident; $($field:ident: $slot:ty = $zero:expr; $len:expr,)+) => {
        $(#[$doc])*
        $vis struct $name {
            $($field: [$slot; $len],)+
        }

        impl $name {
            /// Nothing stored.
            #[allow(unreachable_pub, reason = "the caller chooses who sees the type")]
            pub const ZERO: Self = Self { $($field: [$zero; $len],)+ };

            /// Hands the memory to an engine. It must be all-zero: lend it once.
            #[allow(unreachable_pub, reason = "as above")]
            pub fn lend(&mut self) -> $crate::memory::Resources<'_> {
                let Self { $($field),+ } = self;
                $crate::memory! { @resources $($field)+ }
            }
        }
    };
    (
        @resources $peers:ident $peer_index:ident $down:ident $lookups:ident $events:ident $deadlines:ident
        $sessions:ident $keypairs:ident $windows:ident $session_index:ident $key_index:ident $jobs:ident
        $cookies:ident $buckets:ident $paths:ident $acks:ident $relay_sessions:ident $flows:ident
        $by_client:ident $by_mapped:ident $sources:ident $admitted:ident $by_tuple:ident $admitters:ident
        $fragments:ident $services:ident $ports:ident $targets:ident $endpoints:ident $names:ident
        $namespaces:ident $affinity:ident $by_name:ident $by_vip:ident $by_namespace:ident $by_address:ident
        $by_endpoint_vip:ident $by_ordinal:ident
    ) => {
        $crate::memory::Resources {
            peers: $peers,
            peer_index: $peer_index,
            down: $down,
            revoked: &mut [],
            lookups: $lookups,
            events: $events,
            deadlines: $deadlines,
            tunnels: $crate::tunnel::TunnelResources {
                peers: $sessions,
                keypairs: $keypairs,
                windows: $windows,
                indices: $session_index,
                keys: $key_index,
                jobs: $jobs,
                cookies: $cookies,
                buckets: $buckets,
            },
            paths: $crate::path::Resources { peers: $paths, acks: $acks, sessions: $relay_sessions },
            flows: $crate::flow::Resources {
                flows: $crate::flow::Kept::none($flows),
                by_client: $by_client,
                by_mapped: $by_mapped,
                sources: $sources,
                admitted: $crate::flow::Kept::none($admitted),
                by_tuple: $by_tuple,
                admitters: $admitters,
                fragments: $fragments,
            },
            services: $crate::service::Resources {
                services: $services,
                ports: $ports,
                targets: $targets,
                endpoints: $endpoints,
                names: $names,
                namespaces: $namespaces,
                affinity: $affinity,
                by_name: $by_name,
                by_vip: $by_vip,
                by_namespace: $by_namespace,
                by_address: $by_address,
                by_endpoint_vip: $by_endpoint_vip,
                by_ordinal: $by_ordinal,
                reached: &mut [],
            },
        }
    };
}
