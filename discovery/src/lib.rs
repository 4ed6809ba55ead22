//! Where Services come from: Kubernetes objects in, service table updates out.
//!
//! * [`object`]: the few fields of Services, their endpoints, Namespaces, Nodes and ServiceCIDRs that matter, validated
//! * [`manifests`]: a directory of unmodified YAML or JSON files, watched for changes
//! * `kubernetes` (a feature): an API server or KubeEdge's metaServer, listed and watched
//! * [`change`]: what either says is new
//! * [`table`]: the objects joined by port name and protocol into what a node needs to know
//! * [`place`]: which node an endpoint is reached through
//! * [`entry`]: what of a table only nodes need that serve NodePorts and the like
//! * [`encoded`]: a table in its wire form, its digest, and the way from one state of it to another
//! * [`served`]: table, places and wire form together
//! * [`replica`], [`snapshot`]: the receiver's copy, and the file that keeps it
//!
//! Life of a change: a file is replaced, [`manifests::Manifests::scan`] reads it and tells the objects that differ;
//! [`served::Served::apply`] puts them into the table, which knows the Services that this concerns (what an entry says
//! is a pure function of the objects, so neither order nor history matters); [`served::Served::encode`] joins these
//! anew, resolves node names to indices and asks for endpoint VIPs, and [`encoded::Encoded::way`] yields what feed
//! frames, the engine and the snapshot take. A change costs what it changes.
//! Only `kubernetes` opens sockets, and no server or agent state lives here.

pub mod change;
mod claims;
pub mod encoded;
pub mod entry;
mod held;
#[cfg(feature = "kubernetes")]
pub mod kubernetes;
pub mod manifests;
mod names;
pub mod object;
pub mod place;
pub mod pods;
pub mod replica;
pub mod served;
pub mod snapshot;
pub mod table;
#[cfg(test)]
mod testing;
mod watch;
