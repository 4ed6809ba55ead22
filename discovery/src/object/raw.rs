//! The objects as people write them. Every field may be absent or null; unknown ones are ignored.

use serde::Deserialize;
use std::collections::BTreeMap;

#[derive(Deserialize)]
pub(super) struct TypeMeta {
    pub(super) kind: Option<String>,
    pub(super) items: Option<Vec<serde_json::Value>>,
}

#[derive(Deserialize)]
pub(super) struct ObjectMeta {
    pub(super) metadata: Metadata,
}

#[derive(Deserialize)]
pub(super) struct Metadata {
    pub(super) name: String,
    pub(super) namespace: Option<String>,
    pub(super) labels: Option<BTreeMap<String, String>>,
    pub(super) annotations: Option<Annotations>,
    #[serde(rename = "creationTimestamp")]
    pub(super) created: Option<String>,
}

/// The annotations that matter; others are often large and are skipped.
#[derive(Deserialize, Default)]
pub(super) struct Annotations {
    #[serde(rename = "edgemesh.io/prefer")]
    pub(super) prefer: Option<String>,
}

#[derive(Deserialize)]
pub(super) struct Service {
    pub(super) metadata: Metadata,
    pub(super) spec: Option<ServiceSpec>,
    pub(super) status: Option<ServiceStatus>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase")]
pub(super) struct ServiceSpec {
    pub(super) r#type: Option<ServiceType>,
    #[serde(rename = "clusterIP")]
    pub(super) cluster_ip: Option<String>,
    #[serde(rename = "clusterIPs")]
    pub(super) cluster_ips: Option<Vec<String>>,
    pub(super) external_name: Option<String>,
    pub(super) ports: Option<Vec<ServicePort>>,
    pub(super) session_affinity: Option<Affinity>,
    pub(super) session_affinity_config: Option<AffinityConfig>,
    pub(super) internal_traffic_policy: Option<TrafficPolicy>,
    pub(super) external_traffic_policy: Option<TrafficPolicy>,
    #[serde(rename = "externalIPs")]
    pub(super) external_ips: Option<Vec<String>>,
    pub(super) load_balancer_source_ranges: Option<Vec<String>>,
    pub(super) health_check_node_port: Option<u16>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase")]
pub(super) struct ServiceStatus {
    pub(super) load_balancer: Option<LoadBalancerStatus>,
}

#[derive(Deserialize, Default)]
pub(super) struct LoadBalancerStatus {
    pub(super) ingress: Option<Vec<Ingress>>,
}

/// Without an `ip` it is a name, which nobody can forward to.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Ingress {
    pub(super) ip: Option<String>,
    pub(super) ip_mode: Option<String>,
}

#[derive(Deserialize, Clone, Copy, PartialEq)]
pub(super) enum ServiceType {
    #[serde(rename = "ClusterIP")]
    ClusterIp,
    NodePort,
    LoadBalancer,
    ExternalName,
}

#[derive(Deserialize, PartialEq)]
pub(super) enum Affinity {
    None,
    #[serde(rename = "ClientIP")]
    ClientIp,
}

#[derive(Deserialize, PartialEq)]
pub(super) enum TrafficPolicy {
    Cluster,
    Local,
}

#[derive(Deserialize)]
pub(super) struct AffinityConfig {
    #[serde(rename = "clientIP")]
    pub(super) client_ip: Option<ClientIpConfig>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct ClientIpConfig {
    pub(super) timeout_seconds: Option<u32>,
}

#[derive(Deserialize, Clone, Copy)]
pub(super) enum Protocol {
    #[serde(rename = "TCP")]
    Tcp,
    #[serde(rename = "UDP")]
    Udp,
    #[serde(rename = "SCTP")]
    Sctp,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct ServicePort {
    pub(super) name: Option<String>,
    pub(super) protocol: Option<Protocol>,
    pub(super) port: u16,
    pub(super) node_port: Option<u16>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct EndpointSlice {
    pub(super) metadata: Metadata,
    pub(super) address_type: AddressType,
    pub(super) endpoints: Option<Vec<SliceEndpoint>>,
    pub(super) ports: Option<Vec<EndpointPort>>,
}

#[derive(Deserialize, Clone, Copy, PartialEq)]
pub(super) enum AddressType {
    IPv4,
    IPv6,
    #[serde(rename = "FQDN")]
    Fqdn,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct SliceEndpoint {
    pub(super) addresses: Option<Vec<String>>,
    pub(super) conditions: Option<Conditions>,
    pub(super) hostname: Option<String>,
    pub(super) node_name: Option<String>,
    pub(super) hints: Option<Hints>,
}

/// Both lists name at most eight, says the API.
#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase")]
pub(super) struct Hints {
    pub(super) for_zones: Option<Vec<Named>>,
    pub(super) for_nodes: Option<Vec<Named>>,
}

#[derive(Deserialize)]
pub(super) struct Named {
    pub(super) name: String,
}

#[derive(Deserialize, Default)]
pub(super) struct Conditions {
    pub(super) ready: Option<bool>,
    pub(super) serving: Option<bool>,
    pub(super) terminating: Option<bool>,
}

#[derive(Deserialize)]
pub(super) struct EndpointPort {
    pub(super) name: Option<String>,
    pub(super) protocol: Option<Protocol>,
    pub(super) port: Option<u16>,
}

#[derive(Deserialize)]
pub(super) struct Endpoints {
    pub(super) metadata: Metadata,
    pub(super) subsets: Option<Vec<Subset>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Subset {
    pub(super) addresses: Option<Vec<EndpointAddress>>,
    pub(super) not_ready_addresses: Option<Vec<EndpointAddress>>,
    pub(super) ports: Option<Vec<EndpointPort>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct EndpointAddress {
    pub(super) ip: String,
    pub(super) hostname: Option<String>,
    pub(super) node_name: Option<String>,
}
