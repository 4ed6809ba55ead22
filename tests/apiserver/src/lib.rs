//! An API server for tests: real HTTP/1.1 (and TLS), list and watch as clients of Kubernetes know them, and every
//! way in which a real one fails.
//!
//! * [`ApiServer`]: the handle that tests hold; objects in and out, faults, restarts
//! * [`Resource`]: what is served and under which paths
//! * [`Options::meta_server`]: behaves as KubeEdge's metaServer, defects included (rows K1 to K6)
//!
//! Life of a server: [`ApiServer::start`] binds, [`ApiServer::stop`] closes every connection and
//! [`ApiServer::resume`] serves the same objects on the same port again. It keeps everything in memory, validates
//! nothing of an object but its name, and assigns nothing but `uid` and `resourceVersion`. No admission, no
//! defaulting, no protobuf, no patches: what is put is what is served.
//!
//! There is no path of its own: the programs under test and `curl -X PUT` see nothing that an API server lacks.

mod answer;
mod connection;
mod fault;
mod requests;
mod resource;
mod server;
mod storage;
mod tls;
mod watch;

pub use fault::{Fault, Verb};
pub use requests::Request;
pub use resource::Resource;
pub use server::{ApiServer, Options};
pub use watch::Order;
