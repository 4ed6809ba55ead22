//! The cluster that the test API server tells of: Services and slices by number, and one Service to probe with.

use edgemesh_testapi::ApiServer;
use serde_json::{Value, json};
use std::net::{IpAddr, Ipv4Addr};

/// How large everything is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Size {
    /// Services.
    pub(crate) services: u32,
    /// Endpoints of each.
    pub(crate) endpoints: u32,
    /// Namespaces.
    pub(crate) namespaces: u32,
    /// Nodes that endpoints are on.
    pub(crate) nodes: u32,
}

/// The node that the agent under test is.
pub(crate) const NODE: &str = "edge-0";
/// The Service that packets are sent to; the last one in every list.
pub(crate) const PROBE: (&str, Ipv4Addr, u16) = ("zz-probe", Ipv4Addr::new(10, 112, 0, 10), 9);

/// Puts the whole cluster.
pub(crate) fn fill(api: &ApiServer, size: Size, here: IpAddr) {
    for n in 0..size.namespaces {
        api.put(json!({"kind": "Namespace", "metadata": {"name": namespace(n, size)}}));
    }
    for n in 0..size.services {
        api.put(service(n, size));
        api.put(slice(n, 0, size));
    }
    let (name, vip, port) = PROBE;
    api.put(json!({
        "kind": "Service", "metadata": meta(name, name),
        "spec": {"clusterIP": vip.to_string(), "clusterIPs": [vip.to_string()], "type": "ClusterIP",
                 "ports": [{"name": "probe", "port": port, "protocol": "UDP"}]},
    }));
    probe(api, here, 1);
}

/// The endpoint of the probed Service is here on this port, as told now.
pub(crate) fn probe(api: &ApiServer, here: IpAddr, port: u16) {
    let (name, ..) = PROBE;
    let mut slice = json!({
        "kind": "EndpointSlice", "metadata": meta(name, name), "addressType": "IPv4",
        "ports": [{"name": "probe", "port": port, "protocol": "UDP"}],
        "endpoints": [endpoint(&here.to_string(), NODE)],
    });
    slice["metadata"]["labels"] = json!({"kubernetes.io/service-name": name});
    api.put(slice);
}

/// Changes one endpoint of the Service with this number.
pub(crate) fn change(api: &ApiServer, n: u32, version: u32, size: Size) {
    api.put(slice(n % size.services, version, size));
}

fn namespace(n: u32, size: Size) -> String {
    format!("team-{}", n % size.namespaces)
}

fn service(n: u32, size: Size) -> Value {
    let vip = Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 96, 1, 0)) + n).to_string();
    json!({
        "kind": "Service", "metadata": meta(&format!("service-{n}"), &namespace(n, size)),
        "spec": {"clusterIP": vip, "clusterIPs": [vip], "type": "ClusterIP", "selector": {"app": format!("service-{n}")},
                 "ports": [{"name": "http", "port": 80, "targetPort": 8080, "protocol": "TCP"}]},
    })
}

fn slice(n: u32, version: u32, size: Size) -> Value {
    let endpoints: Vec<Value> = (0..size.endpoints)
        .map(|k| {
            // The first endpoint is another one in every version.
            let host = if k == 0 { version % 200 } else { k };
            let address = format!("172.{}.{}.{}", 17 + (n >> 8) % 8, n & 0xff, 2 + host);
            // Not the node under test: what is there is only the probe.
            endpoint(&address, &format!("edge-{}", 1 + (n * 7 + k) % size.nodes))
        })
        .collect();
    let mut slice = json!({
        "kind": "EndpointSlice", "metadata": meta(&format!("service-{n}-x7k2p"), &namespace(n, size)),
        "addressType": "IPv4", "endpoints": endpoints,
        "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}],
    });
    slice["metadata"]["labels"] = json!({"kubernetes.io/service-name": format!("service-{n}"),
        "endpointslice.kubernetes.io/managed-by": "endpointslice-controller.k8s.io"});
    slice
}

fn endpoint(address: &str, node: &str) -> Value {
    json!({"addresses": [address], "nodeName": node, "conditions": {"ready": true, "serving": true, "terminating": false},
           "targetRef": {"kind": "Pod", "name": format!("pod-{address}"), "uid": "00000000-0000-4000-8000-000000000000"}})
}

/// Metadata with the ballast that real objects have.
fn meta(name: &str, namespace: &str) -> Value {
    json!({
        "name": name, "namespace": namespace, "creationTimestamp": "2025-01-01T00:00:00Z",
        "annotations": {"kubectl.kubernetes.io/last-applied-configuration": "{}".repeat(150)},
        "managedFields": [{"manager": "kubectl", "operation": "Update", "apiVersion": "v1", "time": "2025-01-01T00:00:00Z",
                           "fieldsV1": {"f:metadata": {"f:labels": {".": {}}}, "f:spec": {"f:ports": {".": {}}}}}],
    })
}
