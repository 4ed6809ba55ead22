//! The command line: what a flag is called, what it takes, and what it is when nobody says.
//!
//! Every flag of `run` is also an `EDGEMESH_*` variable and a camelCase key of the YAML file; see
//! [`edgemesh_host::config`].

use crate::dns::StubDomain;
use crate::prefix::Prefix;
use clap::{Args, Parser, Subcommand, ValueEnum, value_parser};
use edgemesh_host::admin::Address;
use edgemesh_host::config::{dns_server, http_url, node_name, socket_address, span};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

/// Kubernetes Services for edge nodes behind NATs.
#[derive(Parser, Debug)]
#[command(name = "edgemesh-agent", version, about, arg_required_else_help = true)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Subcommand, Debug)]
pub enum Command {
    /// Run the agent on this node.
    Run(Box<Run>),
    /// Show whether the agent is ready, where its Services come from, and its counters.
    Status(Query),
    /// List peers with path, address, round-trip time and traffic.
    Peers(Query),
    /// List the Services that this node knows.
    Services(Query),
    /// Say what this node's network allows: server, UDP, NAT, candidates.
    Netcheck(Query),
    /// Measure the round trip to a node through the mesh.
    Ping(Named),
    /// Say how a connection to a Service would be carried, step by step: NAME is `svc`, `svc.namespace` or a full
    /// name, with an optional `:PORT`.
    Explain(Named),
    /// Ask this node's responder for a name.
    Dns(Named),
    /// Give this node another key. The directory and the peers follow; sessions go on, and for an hour the node answers to
    /// both keys.
    RotateKey(RotateKey),
    /// Remove every route, rule and device that the agent made, and restore the settings it changed.
    Cleanup(Cleanup),
}

/// Settings of `run`.
#[derive(Args, Debug, Clone)]
pub struct Run {
    /// This node's Kubernetes name.
    #[arg(long, env = "EDGEMESH_NODE", value_name = "NAME", value_parser = node_name)]
    pub node: String,
    /// Join token, or the cluster's address where a ServiceAccount token joins, or @FILE that holds either. Needed
    /// until the node has joined once.
    #[arg(long, env = "EDGEMESH_JOIN", value_name = "TOKEN|@FILE", hide_env_values = true)]
    pub join: Option<String>,
    /// ServiceAccount token (audience edgemesh) of this agent's pod, shown to a server that asks who this node is.
    #[arg(
        long,
        env = "EDGEMESH_SERVICE_ACCOUNT_TOKEN",
        value_name = "FILE",
        default_value = "/var/run/secrets/tokens/edgemesh"
    )]
    pub service_account_token: PathBuf,
    /// Where keys, records and the last good table are kept.
    #[arg(long, env = "EDGEMESH_STATE_DIR", value_name = "DIR", default_value = "/var/lib/edgemesh/agent")]
    pub state_dir: PathBuf,
    /// File of the key that the nodes of this mesh share and no server knows, one a line: the current one and maybe the next
    /// (base64 as of `wg genpsk`, or none). Read again when it changes.
    #[arg(long, env = "EDGEMESH_MESH_PSK", value_name = "FILE")]
    pub mesh_psk: Option<PathBuf>,
    /// UDP address for tunnels.
    #[arg(long, env = "EDGEMESH_LISTEN", value_name = "IP:PORT", default_value = "0.0.0.0:20006", value_parser = socket_address)]
    pub listen: SocketAddr,
    /// Where Services come from: server, kubernetes, or manifests:DIR.
    #[arg(long, env = "EDGEMESH_SOURCE", value_name = "SOURCE", default_value = "server")]
    pub source: Source,
    /// With --source server: the whole table, or only the Services that this node has endpoints of or uses, which needs
    /// --service-cidr.
    #[arg(long, env = "EDGEMESH_FEED", value_enum, default_value_t = Feed::Whole)]
    pub feed: Feed,
    /// With --source kubernetes: where server and credentials are; without it they are those of the pod.
    #[arg(long, env = "EDGEMESH_KUBECONFIG", value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,
    /// With --source kubernetes: URL of the API server, by address instead of a name or VIP that this node serves.
    #[arg(long, env = "EDGEMESH_API_SERVER", value_name = "URL", value_parser = http_url)]
    pub api_server: Option<String>,
    /// With --source kubernetes: URL of KubeEdge's metaServer, such as http://127.0.0.1:10550, in place of an API
    /// server.
    #[arg(long, env = "EDGEMESH_META_SERVER", value_name = "URL", value_parser = http_url)]
    pub meta_server: Option<String>,
    /// Link-local address that the DNS responder listens on.
    #[arg(long, env = "EDGEMESH_DNS", value_name = "IP", default_value_t = IpAddr::V4(Ipv4Addr::new(169, 254, 96, 16)))]
    pub dns: IpAddr,
    /// Service CIDR to route to the mesh as a whole (repeatable); each ClusterIP in no such range is routed alone.
    #[arg(long, env = "EDGEMESH_SERVICE_CIDR", value_name = "CIDR", value_delimiter = ',')]
    pub service_cidr: Vec<Prefix>,
    /// How packets to ClusterIPs are taken: routed to the mesh, or translated to stand-ins before another service
    /// proxy sees them. auto: shadow where kube-proxy or its like is on this node.
    #[arg(long, env = "EDGEMESH_INTERCEPTION", value_enum, default_value_t = Interception::Auto)]
    pub interception: Interception,
    /// DNS server for names outside the cluster domain (repeatable); without it those of /etc/resolv.conf.
    #[arg(long, env = "EDGEMESH_UPSTREAM_DNS", value_name = "IP[:PORT]", value_delimiter = ',', value_parser = dns_server)]
    pub upstream_dns: Vec<SocketAddr>,
    /// Where clients come in from outside the cluster.
    #[command(flatten)]
    pub entry: EntryPoints,
    /// How names are answered.
    #[command(flatten)]
    pub names: Names,
    /// Admin endpoint: unix:/PATH or IP:PORT.
    #[arg(long, env = "EDGEMESH_ADMIN", value_name = "ADDRESS", default_value = DEFAULT_ADMIN)]
    pub admin: Address,
    /// YAML file with any of these settings, in camelCase.
    #[arg(long, env = "EDGEMESH_CONFIG", value_name = "FILE")]
    pub config: Option<PathBuf>,
}

/// Settings of the entry points of this node.
#[derive(Args, Debug, Clone)]
pub struct EntryPoints {
    /// Serve NodePorts, external IPs and load balancer addresses of Services on this node.
    #[arg(long, env = "EDGEMESH_NODE_PORTS")]
    pub node_ports: bool,
    /// With --node-ports: prefixes of this node's addresses that have NodePorts (repeatable); without it the primary
    /// address.
    #[arg(long, env = "EDGEMESH_NODEPORT_ADDRESSES", value_name = "CIDR", value_delimiter = ',')]
    pub nodeport_addresses: Vec<Prefix>,
}

/// Settings of the DNS responder beyond its addresses.
#[derive(Args, Debug, Clone)]
pub struct Names {
    /// DNS server of one domain: NAME=IP[:PORT] (repeatable; several servers may be of one domain).
    #[arg(long, env = "EDGEMESH_STUB_DOMAIN", value_delimiter = ',')]
    pub stub_domain: Vec<StubDomain>,
    /// Answer at the ClusterIP of kube-system/kube-dns too. auto: where nothing else on this node does.
    #[arg(long, env = "EDGEMESH_DNS_VIP", value_enum, default_value_t = DnsVip::Auto)]
    pub dns_vip: DnsVip,
    /// Answer names of pods (a-b-c-d.NAMESPACE.pod): unchecked, only for addresses of endpoints, or not at all.
    #[arg(long, env = "EDGEMESH_DNS_PODS", value_enum, default_value_t = DnsPods::Insecure)]
    pub dns_pods: DnsPods,
    /// TTL of answers about the cluster, in seconds.
    #[arg(long, env = "EDGEMESH_DNS_TTL", default_value_t = 30, value_parser = value_parser!(u32).range(0..=3600))]
    pub dns_ttl: u32,
    /// While no upstream answers, give replies that are too old by at most this, such as 1h (off when absent).
    #[arg(long, env = "EDGEMESH_DNS_SERVE_STALE", value_parser = stale)]
    pub dns_serve_stale: Option<Duration>,
    /// Ask upstreams again before a reply is too old that was given so often (off when absent).
    #[arg(long, env = "EDGEMESH_DNS_PREFETCH")]
    pub dns_prefetch: Option<u32>,
    /// Keep answering for so long after a signal to stop, such as 5s (off when absent).
    #[arg(long, env = "EDGEMESH_LAMEDUCK", value_parser = lameduck)]
    pub lameduck: Option<Duration>,
}

/// How packets to ClusterIPs are taken.
#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
pub enum Interception {
    /// As what is found on this node asks for.
    Auto,
    /// All Services, routed.
    Route,
    /// Those with endpoints elsewhere, translated.
    Shadow,
}

/// What of the server's feed is held.
#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
pub enum Feed {
    /// Everything.
    Whole,
    /// What is used.
    OnDemand,
}

/// Whether the ClusterIP of the cluster's DNS is answered here.
#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
pub enum DnsVip {
    /// Unless another program on this node does.
    Auto,
    /// Always.
    On,
    /// Never.
    Off,
}

/// Which names of pods are answered.
#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
pub enum DnsPods {
    /// All, unchecked.
    Insecure,
    /// Those of pods that are known: all with `--source kubernetes`, else the ready endpoints of Services.
    Verified,
    /// None.
    Disabled,
}

/// The longest time that RFC 8767 lets an old answer live is days; CoreDNS has an hour.
fn stale(text: &str) -> Result<Duration, String> {
    span(text)
        .ok()
        .filter(|time| *time <= Duration::from_secs(3_600))
        .ok_or_else(|| "accepted: a number with s, m or h, at most 1h".to_owned())
}

/// As long as Kubernetes waits by default before it kills.
fn lameduck(text: &str) -> Result<Duration, String> {
    span(text)
        .ok()
        .filter(|time| *time <= Duration::from_secs(30))
        .ok_or_else(|| "accepted: a number with s, at most 30s".to_owned())
}

/// Settings of commands that ask a running agent.
#[derive(Args, Debug)]
pub struct Query {
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
    /// The agent's admin endpoint.
    #[arg(long, env = "EDGEMESH_ADMIN", value_name = "ADDRESS", default_value = DEFAULT_ADMIN)]
    pub admin: Address,
}

/// As [`Query`], about one thing.
#[derive(Args, Debug)]
pub struct Named {
    /// What to ask about.
    pub name: String,
    /// How to ask.
    #[command(flatten)]
    pub query: Query,
}

/// Settings of `rotate-key`.
#[derive(Args, Debug)]
pub struct RotateKey {
    /// The agent's admin endpoint, a Unix socket.
    #[arg(long, env = "EDGEMESH_ADMIN", value_name = "ADDRESS", default_value = DEFAULT_ADMIN)]
    pub admin: Address,
}

/// Settings of `cleanup`.
#[derive(Args, Debug)]
pub struct Cleanup {
    /// State directory of the agent whose changes are undone.
    #[arg(long, env = "EDGEMESH_STATE_DIR", value_name = "DIR", default_value = "/var/lib/edgemesh/agent")]
    pub state_dir: PathBuf,
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
}

/// Where the agent's admin endpoint is unless told otherwise.
pub const DEFAULT_ADMIN: &str = "unix:/run/edgemesh/agent.sock";

/// Where Services come from.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Source {
    /// The server's feed.
    Server,
    /// A Kubernetes API server or KubeEdge's metaServer.
    Kubernetes,
    /// Files in a directory.
    Manifests(PathBuf),
}

impl FromStr for Source {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match (text, text.strip_prefix("manifests:")) {
            ("server", _) => Ok(Self::Server),
            ("kubernetes", _) if cfg!(feature = "kubernetes") => Ok(Self::Kubernetes),
            ("kubernetes", _) => Err("this build has no Kubernetes client".to_owned()),
            (_, Some(dir)) if !dir.is_empty() => Ok(Self::Manifests(dir.into())),
            _ => Err("accepted: server, kubernetes, manifests:DIR".to_owned()),
        }
    }
}

impl std::fmt::Display for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Server => f.write_str("server"),
            Self::Kubernetes => f.write_str("kubernetes"),
            Self::Manifests(dir) => write!(f, "manifests:{}", dir.display()),
        }
    }
}
