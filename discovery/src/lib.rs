//! Where Services come from: Kubernetes objects in, service table updates out.
//!
//! * [`object`]: the few fields of Service, EndpointSlice, Endpoints and Namespace that matter, validated
//! * [`manifests`]: a directory of unmodified YAML or JSON files, watched for changes
//! * `kubernetes` (a feature): an API server or KubeEdge's metaServer, listed and watched
//! * [`table`]: the objects joined by port name and protocol into what a node needs to know
//! * [`place`]: which node an endpoint is reached through
//! * [`entry`]: what of a table only nodes need that serve NodePorts and the like
//! * [`encoded`]: a table in its wire form, its digest, the difference of two, and the snapshot file
//!
//! Life of a change: a file is replaced, [`manifests::Manifests::scan`] reads it, [`table::Table::join`] builds
//! the whole table anew (a pure function of the objects, so neither order nor history matters),
//! [`encoded::Encoded::new`] resolves node names to indices and asks for endpoint VIPs, and
//! [`encoded::Encoded::changes_since`] yields what feed frames, the engine and the snapshot take.
//! Only `kubernetes` opens sockets, and no server or agent state lives here.

mod claims;
pub mod encoded;
pub mod entry;
#[cfg(feature = "kubernetes")]
pub mod kubernetes;
pub mod manifests;
pub mod object;
pub mod place;
pub mod table;
mod watch;
