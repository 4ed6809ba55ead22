//! What people type and files hold: tokens, addresses, names.

use edgemesh_host::token::{Cluster, Invitation, Token};
use edgemesh_host::{admin, config};

/// Every text parser of agent and server; what is accepted and written again is accepted again.
pub(crate) fn texts(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    if let Ok(token) = text.parse::<Token>() {
        assert_eq!(token.to_string().parse::<Token>().as_ref(), Ok(&token));
    }
    if let Ok(cluster) = text.parse::<Cluster>() {
        assert_eq!(cluster.to_string().parse::<Cluster>().as_ref(), Ok(&cluster));
    }
    let _ = text.parse::<Invitation>();
    if let Ok(address) = config::socket_address(&text) {
        assert_eq!(config::socket_address(&address.to_string()), Ok(address));
    }
    if let Ok(server) = config::dns_server(&text) {
        assert_eq!(config::dns_server(&server.to_string()), Ok(server));
    }
    if let Ok(host) = config::host_port(&text) {
        assert_eq!(config::host_port(&host), Ok(host));
    }
    if let Ok(url) = config::http_url(&text) {
        assert_eq!(config::http_url(&url), Ok(url));
    }
    if let Ok(name) = config::node_name(&text) {
        assert_eq!(config::node_name(&name), Ok(name));
    }
    let _ = config::span(&text);
    // What was encoded for a URL is decoded to the same.
    assert_eq!(admin::decode(&admin::encode(&text)), text);
    let _ = admin::decode(&text);
}
