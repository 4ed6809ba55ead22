//! The Kubernetes source against a real server on real sockets. Tests name the rows of the checklist that they
//! show: L for any API server, K for KubeEdge's metaServer.

mod access;
mod failing;
mod meta;
mod objects;
mod reviewing;
mod support;
mod watching;
