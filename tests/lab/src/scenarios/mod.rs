//! Everything the lab shows, in one table: a name, a sentence, a function.
//!
//! Names are `group/what`; the group `bare` needs no product, and the group `full` takes so long that it is run only
//! when it is named. A function reads from top to bottom like the sentence
//! it proves and returns an error that says what was expected and what was seen.

mod account;
mod attack;
mod bare;
mod beside;
mod derived;
mod dns;
mod dumps;
mod entry;
mod exit;
mod feed;
mod gaps;
mod headless;
mod input;
mod interop;
mod ipv6;
mod keys;
mod lies;
mod path;
mod reach;
mod relays;
mod restart;
mod sctp;
mod sources;
mod transfer;
mod trust;
mod truth;
mod udp;

use std::path::Path;

use crate::Result;
use crate::mesh::Mesh;
use crate::topology::Lab;
use Run::{Alone, Apart, Bare, Beside, Own, Prepared, Quiet, Shared};

/// What a scenario is given.
#[derive(Debug, Clone, Copy)]
pub enum Run {
    /// The network alone, freshly built.
    Bare(fn(&Lab) -> Result),
    /// A directory; it builds what it needs.
    Alone(fn(&Path) -> Result),
    /// The same, beside other rows.
    Apart(fn(&Path) -> Result),
    /// The same for one that mostly waits: beside all other rows.
    Beside(fn(&Path) -> Result),
    /// Network, server and pods, but no agent yet.
    Prepared(fn(&mut Mesh) -> Result),
    /// A running mesh that other scenarios use too: it must be left as it was found.
    Shared(fn(&mut Mesh) -> Result),
    /// A freshly started mesh of its own.
    Own(fn(&mut Mesh) -> Result),
    /// The same, while no other row runs: time is measured.
    Quiet(fn(&mut Mesh) -> Result),
}

/// One row of the table.
#[derive(Debug, Clone, Copy)]
pub struct Scenario {
    /// `group/what`.
    pub name: &'static str,
    /// What is shown, in one sentence.
    pub shows: &'static str,
    /// How.
    pub run: Run,
}

const fn row(name: &'static str, shows: &'static str, run: Run) -> Scenario {
    Scenario { name, shows, run }
}

/// The table.
pub const ALL: &[Scenario] = &[
    row("bare/leaves-nothing", "a lab leaves no namespace and no process", Alone(bare::leaves_nothing)),
    row("bare/overlap", "pods on all nodes have the same addresses", Bare(bare::addresses_overlap)),
    row("bare/cloud", "pods behind NATs reach the cloud", Bare(bare::cloud_is_reached)),
    row("bare/docker", "Docker's rule hides pods behind their node", Bare(bare::pods_are_masqueraded)),
    row("bare/nat-kinds", "a NAT keeps ports, a symmetric one does not", Bare(bare::nat_kinds)),
    row("bare/unsolicited", "a NAT drops what nobody asked for", Bare(bare::unsolicited_is_dropped)),
    row("bare/policies", "the internet's policies cut UDP and the server off", Bare(bare::policies_cut)),
    row("bare/narrow", "narrow links lose big packets silently", Bare(bare::narrow_links_are_silent)),
    row("bare/capture", "a capture sees payload sent in clear", Bare(bare::captures_see_payload)),
    row("bare/programs", "the programs used do what is expected of them", Bare(bare::programs_work)),
    row("bare/transfers", "transfers are whole, and a stall is seen", Bare(bare::transfers_work)),
    row("bare/lost-answers", "an answer can be lost on the way", Bare(bare::answers_can_be_lost)),
    row("bare/snapshots", "snapshots see what is left behind", Bare(bare::snapshots_see_changes)),
    row("interop/timers", "renewed sessions, keepalives, cookies with wireguard-go", Beside(interop::timers)),
    row("interop/handshakes", "both roles and preshared keys with wireguard-go", Apart(interop::handshakes)),
    row("interop/replays", "replayed and late packets, both sides", Apart(interop::replays)),
    row("interop/roaming", "either side moves", Apart(interop::roaming)),
    row("interop/restarts", "either side restarts", Apart(interop::restarts)),
    row("udp/silence-begins", "a client waits in silence while others run", Shared(udp::silence_begins)),
    row("reach/same-subnet", "scenario 1: two nodes of one subnet", Shared(reach::same_subnet)),
    row("reach/across-nats", "scenario 2: two sites behind NATs", Shared(reach::across_nats)),
    row("reach/edge-cloud", "scenario 3: edge to cloud and back", Shared(reach::edge_and_cloud)),
    row("reach/c8-own-node", "a node's own Service, and a pod itself", Shared(reach::own_node)),
    row("reach/c9-host-client", "a process of the node is a client", Shared(reach::host_client)),
    row("reach/c10-host-network", "a hostNetwork server is an endpoint", Shared(reach::host_network)),
    row("reach/g1-twins", "equal pods on two nodes are both reached", Shared(reach::twins)),
    row("reach/c7-sources", "two client pods are two sources", Shared(reach::pods_keep_their_source)),
    row(
        "reach/c7-one-bridge",
        "a pod sees the pod on its node that asks it",
        Run::Shared(sources::on_one_bridge),
    ),
    row(
        "reach/c7-routed-pods",
        "so do pods of both families without a bridge, and of one domain",
        Run::Prepared(sources::routed_pods),
    ),
    row(
        "reach/c7-derived",
        "nodes of one CNI prove that they are, without a label, until they are not",
        Run::Prepared(derived::domain),
    ),
    row(
        "restart/c7-without-the-agent",
        "what the kernel carries needs no agent",
        Run::Own(sources::without_the_agent),
    ),
    row("reach/c1-sctp", "one number, three protocols; SCTP of others", Shared(sctp::associations)),
    row(
        "reach/c14-exit",
        "endpoints outside the mesh, or on a Node by address",
        Shared(exit::outside_the_mesh),
    ),
    row(
        "reach/c2-empty",
        "a Service without endpoints refuses at once",
        Shared(reach::empty_service_refuses),
    ),
    row(
        "dns/w2-w11-both-transports",
        "answers by UDP and TCP, from where asked",
        Shared(dns::both_transports),
    ),
    row("dns/n1-n2-negative", "NODATA and NXDOMAIN are told apart", Shared(dns::negative)),
    row("dns/w8-update", "an UPDATE for another server goes there", Shared(dns::update_elsewhere)),
    row("dns/u1-u2-partial-names", "kubelet's search list", Shared(dns::partial_names)),
    row("dns/u4-long-search-list", "a long search list", Shared(dns::long_search_list)),
    row("dns/u5-u6-host", "the node and its resolv.conf", Shared(dns::host_and_old_pods)),
    row("dns/u15-hosts-file", "names of /etc/hosts win", Shared(dns::hosts_file)),
    row("dns/g7-kube-dns", "the ClusterIP of kube-dns is answered here", Shared(dns::kube_dns_address)),
    row("dns/g2-headless", "pods with equal addresses have names", Shared(headless::unique_names)),
    row("dns/g3-redis", "a Redis Cluster of such pods", Shared(headless::redis_cluster)),
    row("dns/resolvers", "glibc, busybox, dig and delv understand it", Shared(headless::resolvers)),
    // Early: its two minutes pass while others run.
    row("feed/idle-cost", "an idle node costs its server 1 KB a minute", Prepared(feed::idle_cost)),
    row("dns/n6-cloud-away", "the cloud is away: names stay", Own(dns::cloud_away)),
    row("dns/n5-u16-first-sync", "SERVFAIL until Services are known", Prepared(dns::before_the_first_sync)),
    row("dns/u3-u7-upstream", "names outside the cluster go upstream", Prepared(dns::upstream)),
    row("dns/u8-stub-domains", "stub domains, changed while running", Prepared(dns::stub_domains)),
    row("dns/u16-lameduck", "a stopping agent goes on answering", Prepared(dns::lameduck)),
    row("dns/g7-left-to-others", "beside kube-proxy it is left alone", Prepared(dns::kube_dns_of_others)),
    row(
        "reach/c9-off-node-client",
        "a machine that routes ClusterIPs to a node",
        Shared(entry::off_node_client),
    ),
    row(
        "entry/x1-x2-x3-x8-node-port",
        "a NodePort, for clients on the node and off it",
        Prepared(entry::node_port),
    ),
    row(
        "entry/t4-t5-t6-local-policy",
        "externalTrafficPolicy, and whom endpoints see",
        Prepared(entry::local_policy),
    ),
    row(
        "entry/t5-internal-policy",
        "internalTrafficPolicy is no matter of a NodePort's",
        Run::Prepared(entry::internal_policy),
    ),
    row(
        "entry/x4-x5-x6-x7-addresses",
        "addresses of load balancers, their source ranges, external IPs",
        Prepared(entry::addresses),
    ),
    row(
        "entry/x1-x5-t4-ipv6",
        "NodePorts and external IPs of IPv6, both policies",
        Prepared(ipv6::entry_points),
    ),
    row(
        "docker/t4-t5-entry-points",
        "externalTrafficPolicy beside Docker's own firewall",
        Prepared(entry::local_policy_beside_docker),
    ),
    row(
        "beside/x1-x8-entry-points",
        "a NodePort beside kube-proxy in nftables mode",
        Prepared(entry::beside_kube_proxy),
    ),
    row(
        "entry/q1-q2-udp-moves",
        "a UDP client that never rests, while endpoints come and go",
        Prepared(entry::udp_moves),
    ),
    row("entry/t7-health-check", "the health check port of a load balancer", Prepared(entry::health_check)),
    row("reach/commands", "status, peers, services, ping, explain, dns", Shared(reach::commands)),
    row("reach/manifests", "Services follow their manifests", Shared(reach::services_follow_manifests)),
    row("reach/t13-rolling", "pods are replaced, no request fails", Shared(reach::rolling_update)),
    row("reach/v2-another-range", "ClusterIPs of another range", Shared(reach::another_range)),
    row("tcp/c16-speaks-first", "a server speaks first", Shared(transfer::server_speaks_first)),
    row("tcp/c12-half-close", "a half-closed client is answered", Shared(transfer::half_close)),
    row("tcp/parallel", "200 connections at once", Shared(transfer::parallel)),
    row("tcp/download", "256 MiB come down", Shared(transfer::big_download)),
    row("tcp/upload", "256 MiB go up", Shared(transfer::big_upload)),
    row("tcp/no-offloads", "checksums are right without offloads", Own(transfer::without_offloads)),
    row("tcp/c5-endpoint-leaves", "an endpoint leaves during a download", Shared(transfer::endpoint_leaves)),
    row("udp/c11-sizes", "datagrams of 1 to 65507 bytes", Shared(udp::sizes)),
    row("udp/mixed", "small datagrams of many sizes at once", Own(udp::mixed)),
    row("udp/socat", "socat gets its datagram back", Shared(udp::socat)),
    row("udp/any-address", "a server of a node that is bound to no address", Shared(udp::any_address)),
    row("udp/late-reply", "a reply after 5 s is delivered", Shared(udp::late_reply)),
    row("path/direct", "NATed sites find a direct path", Shared(path::becomes_direct)),
    row("path/moves", "a download while the path moves four times", Own(path::moves_under_a_download)),
    row("path/udp-goes", "UDP goes and returns under a download", Own(path::udp_goes_and_returns)),
    row("path/relay", "no UDP between sites: the relay carries all", Prepared(path::relay_only)),
    row("path/tcp", "no UDP at all: TCP carries all", Prepared(path::tcp_only)),
    row("path/symmetric", "symmetric NATs on both sides", Prepared(path::symmetric_nat)),
    row("path/mtu-1492", "a silent link of MTU 1492", Prepared(path::narrow_1492)),
    row("path/mtu-1400", "a silent link of MTU 1400", Prepared(path::narrow_1400)),
    row("path/mtu-1280", "a silent link of MTU 1280", Prepared(path::narrow_1280)),
    row("path/mtu-shrinks", "a link narrows under a download", Own(path::narrows_under_a_download)),
    row("trust/capture", "the server cannot read what it relays", Prepared(path::server_cannot_read)),
    row("trust/tokens", "wrong, expired and used tokens are refused", Prepared(trust::bad_tokens)),
    row(
        "trust/service-account",
        "nodes join with the ServiceAccount tokens of their pods",
        Prepared(account::joins_with_a_service_account),
    ),
    row("trust/lost-answer", "a join whose answer was lost", Prepared(trust::lost_answer)),
    row("trust/not-an-endpoint", "a peer reaches endpoints only", Prepared(trust::not_an_endpoint)),
    row("trust/lies", "a server that lies is noticed, and not believed", Prepared(lies::are_noticed)),
    row("attack/handshake-flood", "50,000 handshakes a second", Quiet(attack::handshake_flood)),
    row("attack/icmp", "forged ICMP errors about the tunnel", Shared(attack::icmp_errors)),
    row("attack/replays", "captured datagrams and envelopes come again", Own(attack::replays)),
    row("attack/exhaustion", "a pod opens more flows than there are places", Own(attack::exhaustion)),
    row("attack/other-server", "a foreign server at the server's address", Own(attack::other_server)),
    row("keys/revoked", "a node is put out, and comes back with another key", Own(keys::revoked)),
    row("keys/rotated", "nodes and directory change their keys under load", Own(keys::rotated)),
    row("keys/restored", "a server is restored from its backup under load", Own(keys::restored)),
    row("keys/mesh-psk", "a mesh changes its shared key, node by node", Prepared(keys::mesh_psk)),
    row("keys/secrets", "no log, listing or answer holds a secret", Prepared(keys::secrets)),
    row(
        "keys/dumps",
        "a crash leaves no core, and a dump of what runs no secret",
        Prepared(dumps::no_secrets),
    ),
    row("truth/lost-node", "a node vanishes: connections go to another", Own(truth::lost_node)),
    row("truth/g4-dead-pod", "a pod dies while the cloud is away", Own(truth::dead_pod)),
    row("truth/g4-not-ready", "the cloud calls a node lost that runs", Prepared(truth::node_not_ready)),
    row("truth/g5-cold-boot", "a node boots without network", Own(truth::cold_boot)),
    row("truth/g6-new-address", "a node gets another address", Own(truth::new_address)),
    row("truth/slow-disk", "a node's disk hangs", Own(truth::slow_disk)),
    row("feed/on-demand", "a small node in a cluster of 10,000 Services", Prepared(feed::on_demand)),
    row(
        "feed/x8-on-demand",
        "entry points, a domain and another proxy beside a small node's feed",
        Prepared(feed::on_demand_ways),
    ),
    row(
        "relays/same",
        "nodes that reach a relay only, and the directory away",
        Prepared(relays::meets_there),
    ),
    row("relays/other", "one node by a relay, the other by the directory", Prepared(relays::meets_elsewhere)),
    row("relays/dies", "a relay dies, comes back, is put out", Prepared(relays::dies)),
    row("restart/c5-agents", "agents are killed under load", Own(restart::agents_killed)),
    row(
        "restart/fifty",
        "either agent is killed in the middle of fifty transfers",
        Quiet(gaps::fifty_transfers),
    ),
    row("restart/upgrade", "another build takes over, and back", Quiet(gaps::other_builds)),
    row("restart/damaged-flows", "a flow table that was damaged", Own(gaps::damaged_flow_table)),
    row("restart/server", "the server is killed while it relays", Own(restart::server_killed)),
    row("restart/both", "an agent, then at once the server", Own(restart::agent_then_server_killed)),
    row("restart/cloud-away", "the server is away", Own(restart::cloud_away)),
    row(
        "restart/without-the-cloud",
        "the server is away: killed agents find each other where they were",
        Own(restart::without_the_cloud),
    ),
    row("restart/device", "the device is deleted under the agent", Own(restart::device_deleted)),
    row("restart/r6-cleanup", "cleanup leaves nothing", Prepared(restart::cleanup_leaves_nothing)),
    row("restart/r6-cleanup-killed", "cleanup after a kill", Prepared(restart::cleanup_after_kill)),
    row("input/manifests", "bad manifests", Own(input::manifests)),
    row("input/flags", "bad flags and values", Prepared(input::flags)),
    row("input/surroundings", "port, privilege, route, device", Prepared(input::surroundings)),
    row("input/full-disk", "a full disk at the state directory", Prepared(input::full_disk)),
    row("input/w13-garbage", "garbage on every port", Own(input::garbage)),
    row("beside/iptables", "kube-proxy in iptables mode, and Docker", Prepared(beside::iptables)),
    row("beside/legacy", "the same in the legacy tables", Prepared(beside::legacy)),
    row("beside/nftables", "kube-proxy in nftables mode", Prepared(beside::nftables)),
    row("beside/ipvs", "VIPs that are the node's own, as IPVS has them", Prepared(beside::ipvs)),
    row("beside/ipv6", "stand-ins of IPv6 beside kube-proxy", Prepared(ipv6::stand_ins)),
    row(
        "beside/cilium",
        "Cilium's socket load balancer is named, and its end seen",
        Prepared(beside::cilium),
    ),
    row("beside/comes-and-goes", "kube-proxy comes and goes", Own(beside::comes_and_goes)),
    row("beside/domain", "endpoints of one domain go without tunnels", Prepared(beside::domain)),
    row("beside/given-back", "a Service is given back to kube-proxy", Prepared(beside::given_back)),
    row("reach/c5-lingers", "a removed Service keeps its connections", Prepared(beside::lingers)),
    row("restart/r1-restored", "what others delete is back in a second", Prepared(beside::restored)),
    row("docker/forward-drop", "beside Docker's own firewall", Prepared(reach::beside_docker)),
    row("reach/own-manifests", "a node reads manifests of its own", Prepared(reach::manifests_on_the_node)),
    row("full/c11-gigabyte", "1 GiB comes down, and goes up", Own(transfer::gigabyte)),
    row("full/c12-idle", "connections idle for more than two hours", Own(transfer::idle)),
    // Last: its two minutes pass while everything above runs.
    row("udp/silence-ends", "a push after two idle minutes is delivered", Shared(udp::push_arrives)),
];
