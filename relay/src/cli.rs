//! The command line.

use crate::relays::PREFIX;
use clap::{Args, Parser, Subcommand, ValueEnum};
use edgemesh_core::control::NAME_MAX;
use edgemesh_core::wire::control::Network;
use edgemesh_host::admin::Address;
use edgemesh_host::config::{host_port, http_url, node_name, socket_address, span};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

/// The part of EdgeMesh that has a public address: node directory, rendezvous, relay and service feed.
#[derive(Parser, Debug)]
#[command(name = "edgemesh-server", version, about, arg_required_else_help = true)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Subcommand, Debug)]
pub(crate) enum Command {
    /// Run the server.
    Run(Run),
    /// Print a join token for a node, or the cluster's address for nodes that join with their ServiceAccount; works
    /// while the server runs.
    Token(Token),
    /// List the nodes: name, index, fingerprint of the key, whether connected, when last seen.
    Nodes(Nodes),
    /// Put a node out: its key counts no more, its sessions end wherever the news arrives, tokens for it are void.
    Revoke(Revoke),
    /// Print a join token that lets a revoked node in again, with a new key.
    Rejoin(Rejoin),
    /// Give the directory a new key, certified by the root that nodes pin. Nodes follow by themselves; what the old key
    /// signed counts no more.
    RotateKey(Common),
    /// Write a backup of keys and directory to FILE, mode 0600. It holds the root key: whoever has it can be this server.
    Backup(Backup),
    /// Restore a backup, also while the server runs, which then starts again. Every node follows by itself. Nodes that
    /// joined after the backup join again; who was revoked after it has to be revoked again.
    Restore(Backup),
}

/// What a server does.
#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Role {
    /// Knows the nodes, signs their records, feeds Services.
    Directory,
    /// Relays datagrams between nodes that have no direct path.
    Relay,
}

/// What every subcommand is told.
#[derive(Args, Debug)]
pub(crate) struct Common {
    /// Where the server keeps keys, nodes and tokens.
    #[arg(long, env = "EDGEMESH_STATE_DIR", value_name = "DIR")]
    pub(crate) state_dir: PathBuf,
    /// YAML file with any of these settings, in camelCase.
    #[arg(long, env = "EDGEMESH_CONFIG", value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
}

#[derive(Args, Debug)]
pub(crate) struct Run {
    /// Address for nodes, UDP and TCP.
    #[arg(long, env = "EDGEMESH_LISTEN", value_name = "IP:PORT", value_parser = socket_address, default_value = "0.0.0.0:20004")]
    pub(crate) listen: SocketAddr,
    #[command(flatten)]
    pub(crate) common: Common,
    /// Address at which nodes reach this server, for join tokens; may be given several times.
    #[arg(long, env = "EDGEMESH_ADVERTISE", value_name = "HOST:PORT", value_parser = host_port, value_delimiter = ',')]
    pub(crate) advertise: Vec<String>,
    /// Directory of Service and EndpointSlice manifests to feed to the nodes; changes apply at once.
    #[arg(long, env = "EDGEMESH_MANIFESTS", value_name = "DIR")]
    pub(crate) manifests: Option<PathBuf>,
    /// Feed the Services of a Kubernetes API server: that of the pod, or as the next two settings say.
    #[arg(long, env = "EDGEMESH_KUBERNETES")]
    pub(crate) kubernetes: bool,
    /// Where the API server and the credentials for it are.
    #[arg(long, env = "EDGEMESH_KUBECONFIG", value_name = "FILE")]
    pub(crate) kubeconfig: Option<PathBuf>,
    /// URL of the API server in place of the configured one.
    #[arg(long, env = "EDGEMESH_API_SERVER", value_name = "URL", value_parser = http_url)]
    pub(crate) api_server: Option<String>,
    /// ServiceAccount whose tokens let nodes join: that of the agents. Needs --kubernetes.
    #[arg(long, env = "EDGEMESH_SERVICE_ACCOUNT", value_name = "NAMESPACE:NAME")]
    pub(crate) service_account: Option<String>,
    /// Node through which endpoints outside the mesh are reached, beside Nodes with the label edgemesh.io/exit=true;
    /// may be given several times: two or more, so that one may fail.
    #[arg(long, env = "EDGEMESH_EXIT", value_name = "NODE", value_parser = node_name, value_delimiter = ',')]
    pub(crate) exit: Vec<String>,
    /// What this server does. One that only relays is a member of a directory, as nodes are: see --join.
    #[arg(long, env = "EDGEMESH_ROLE", value_delimiter = ',', default_value = "directory,relay")]
    pub(crate) role: Vec<Role>,
    /// Token of `edgemesh-server token --relay`, or @FILE that holds it: for --role relay, until it has joined once.
    #[arg(long, env = "EDGEMESH_JOIN", value_name = "TOKEN|@FILE", hide_env_values = true)]
    pub(crate) join: Option<String>,
    /// Where probes, metrics and JSON are served: IP:PORT or unix:/PATH.
    #[arg(long, env = "EDGEMESH_ADMIN", value_name = "ADDRESS", default_value = "127.0.0.1:20005")]
    pub(crate) admin: Address,
    /// IPv4 prefix of the mesh, 8 to 24 bits; fixed once the first server start has chosen it [default: 242.0.0.0/8]
    #[arg(long, env = "EDGEMESH_MESH_CIDR", value_name = "CIDR", value_parser = mesh_prefix)]
    pub(crate) mesh_cidr: Option<MeshPrefix>,
    /// Cluster domain that nodes answer for.
    #[arg(long, env = "EDGEMESH_CLUSTER_DOMAIN", value_name = "DOMAIN", value_parser = node_name, default_value = "cluster.local")]
    pub(crate) cluster_domain: String,
}

/// What a join token holds beside the node's name.
#[derive(Args, Debug)]
pub(crate) struct Terms {
    /// How long the token may be used.
    #[arg(long, env = "EDGEMESH_TTL", value_name = "SPAN", value_parser = span, default_value = "24h")]
    pub(crate) ttl: Duration,
    /// Address to put into the token instead of what the server advertises.
    #[arg(long, env = "EDGEMESH_ADVERTISE", value_name = "HOST:PORT", value_parser = host_port, value_delimiter = ',')]
    pub(crate) advertise: Vec<String>,
}

#[derive(Args, Debug)]
pub(crate) struct Token {
    /// Kubernetes name of the node that is to join.
    #[arg(long, env = "EDGEMESH_NODE", value_name = "NAME", value_parser = node_name, required_unless_present_any = ["cluster", "relay"])]
    pub(crate) node: Option<String>,
    /// Name of the server that is to join with --role relay.
    #[arg(long, env = "EDGEMESH_RELAY", value_name = "NAME", value_parser = relay_name, conflicts_with = "node")]
    pub(crate) relay: Option<String>,
    /// Print servers and root key without a secret, for `--join` of all agents that have a ServiceAccount token.
    #[arg(long, env = "EDGEMESH_CLUSTER", conflicts_with_all = ["node", "relay", "ttl"])]
    pub(crate) cluster: bool,
    #[command(flatten)]
    pub(crate) terms: Terms,
    #[command(flatten)]
    pub(crate) common: Common,
}

#[derive(Args, Debug)]
pub(crate) struct Nodes {
    /// Print JSON.
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) common: Common,
}

#[derive(Args, Debug)]
pub(crate) struct Revoke {
    /// Kubernetes name of the node, or relay/NAME.
    #[arg(long, env = "EDGEMESH_NODE", value_name = "NAME", value_parser = member_name)]
    pub(crate) node: String,
    #[command(flatten)]
    pub(crate) common: Common,
}

#[derive(Args, Debug)]
pub(crate) struct Rejoin {
    /// Kubernetes name of the node, or relay/NAME.
    #[arg(long, env = "EDGEMESH_NODE", value_name = "NAME", value_parser = member_name)]
    pub(crate) node: String,
    #[command(flatten)]
    pub(crate) terms: Terms,
    #[command(flatten)]
    pub(crate) common: Common,
}

#[derive(Args, Debug)]
pub(crate) struct Backup {
    /// The backup.
    #[arg(value_name = "FILE")]
    pub(crate) file: PathBuf,
    #[command(flatten)]
    pub(crate) common: Common,
}

/// An IPv4 prefix for the mesh.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct MeshPrefix {
    pub(crate) address: [u8; 4],
    pub(crate) len: u8,
}

impl MeshPrefix {
    /// The default: class E, which Linux routes and nobody else uses.
    pub(crate) const DEFAULT: Self = Self { address: [242, 0, 0, 0], len: 8 };

    /// The prefix of a network.
    pub(crate) const fn of(network: &Network) -> Self {
        Self { address: network.mesh_v4, len: network.mesh_v4_len }
    }
}

impl std::fmt::Display for MeshPrefix {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", Ipv4Addr::from(self.address), self.len)
    }
}

/// The name of a relay: with its prefix it is no longer than a node's may be.
fn relay_name(text: &str) -> Result<String, String> {
    match node_name(text) {
        Ok(name) if name.len() + PREFIX.len() <= NAME_MAX => Ok(name),
        _ => Err("accepted: lower-case letters, digits, '-' and '.', at most 247 characters".to_owned()),
    }
}

/// The name of a node, or of a relay as the directory has it.
fn member_name(text: &str) -> Result<String, String> {
    match text.strip_prefix(PREFIX) {
        Some(name) => relay_name(name).map(|name| format!("{PREFIX}{name}")),
        None => node_name(text),
    }
}

fn mesh_prefix(text: &str) -> Result<MeshPrefix, String> {
    let accepted =
        || "accepted: an IPv4 prefix of 8 to 24 bits without host bits, such as 242.0.0.0/8".to_owned();
    let (address, len) = text.split_once('/').ok_or_else(accepted)?;
    let address: Ipv4Addr = address.parse().map_err(|_| accepted())?;
    let len: u8 = len.parse().ok().filter(|len| (8..=24).contains(len)).ok_or_else(accepted)?;
    if u32::from(address) << len != 0 {
        return Err(accepted());
    }
    Ok(MeshPrefix { address: address.octets(), len })
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn names_of_relays_have_room_for_their_prefix() {
        let (long, longer) = ("a".repeat(247), "a".repeat(248));
        assert_eq!(relay_name(&long), Ok(long));
        assert!(relay_name(&longer).unwrap_err().contains("247"));
        assert_eq!(member_name("relay/eu"), Ok("relay/eu".to_owned()));
        assert_eq!(member_name("edge-1"), Ok("edge-1".to_owned()));
        for bad in ["relay/", "relay/EU", "other/eu", "relay/eu/x"] {
            assert!(member_name(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn prefixes_are_checked() {
        assert_eq!(mesh_prefix("242.0.0.0/8"), Ok(MeshPrefix::DEFAULT));
        assert_eq!(mesh_prefix("10.1.2.0/24").unwrap().to_string(), "10.1.2.0/24");
        for bad in ["242.0.0.0", "242.0.0.0/7", "242.0.0.0/25", "242.0.0.1/8", "x/8", "fd00::/8"] {
            assert!(mesh_prefix(bad).unwrap_err().contains("accepted"), "{bad}");
        }
    }
}
