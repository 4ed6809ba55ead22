//! What is in the objects, wrong and hostile ones included.

use crate::support::{
    Feed, SERVICES, asked_times, endpoints_of, names_of, plain, service, settings, slice, start, watched,
};
use edgemesh_discovery::kubernetes::Settings;
use edgemesh_discovery::table::Table;
use edgemesh_testapi::{Fault, Options, Order, Resource, Verb};
use serde_json::{Value, json};
use std::time::Duration;

#[tokio::test]
async fn nodes_service_cidrs_and_namespaces_are_in_the_table() {
    let server = plain().await;
    server.put(json!({"kind": "Namespace", "metadata": {"name": "shop"}}));
    server.put(json!({"kind": "ServiceCIDR", "metadata": {"name": "kubernetes"}, "spec": {"cidrs": ["10.96.0.0/16"]}}));
    let node = |ready: &str| {
        json!({"kind": "Node", "metadata": {"name": "n1", "labels": {"topology.kubernetes.io/zone": "z1"}},
               "status": {"addresses": [{"type": "InternalIP", "address": "192.0.2.1"}],
                          "conditions": [{"type": "Ready", "status": ready}],
                          "images": [{"names": ["big"], "sizeBytes": 1}]}})
    };
    server.put(node("True"));
    let mut feed = Feed::new(settings(&server));
    let table = feed.next().await;
    assert!(table.namespaces().contains("shop"));
    assert!(table.service_cidrs().contains(&("10.96.0.0".parse().unwrap(), 16)));
    let n1 = &table.nodes()["n1"];
    assert_eq!((n1.ready, n1.labels.len()), (Some(true), 1));
    assert_eq!(n1.addresses, ["192.0.2.1".parse::<std::net::IpAddr>().unwrap()]);
    watched(&server, Resource::Nodes, 1).await;
    server.put(node("Unknown"));
    feed.until(|t| t.nodes()["n1"].is_down()).await;
}

#[tokio::test]
async fn a_long_list_comes_in_pieces_and_is_no_table_before_its_end() {
    let server = plain().await;
    server.plan(Resource::EndpointSlices, Verb::List, 1, Fault::Slow(Duration::from_millis(500)));
    let names: Vec<String> = (0..2_000).map(|n| format!("s{n:04}")).collect();
    for name in &names {
        server.put(service(name));
    }
    server.put(slice("s0000-1", "s0000", &["10.1.0.1"]));
    let mut feed = Feed::new(settings(&server));
    let table = feed.next().await;
    assert_eq!((names_of(table), endpoints_of(table, "s0000")), (names, vec!["10.1.0.1".to_owned()]));
    assert!(feed.pieces > 0, "the Services came while the slices were waited for");
    server.put(service("one-more"));
    feed.until(|table| table.len() == 2_001).await;
    assert_eq!(feed.count, 2, "then every change makes a table");
}

#[tokio::test]
async fn l11_endpoints_stand_in_where_there_are_no_slices_and_only_there() {
    let server = start(Options { absent: vec![Resource::EndpointSlices], ..Options::default() }).await;
    server.put(service("web"));
    server.put(json!({"kind": "Endpoints", "metadata": {"name": "web"},
                      "subsets": [{"addresses": [{"ip": "10.1.0.1"}], "ports": [{"port": 8080}]}]}));
    let mut feed = Feed::new(settings(&server));
    assert_eq!(endpoints_of(feed.next().await, "web"), ["10.1.0.1"]);
    server.put(slice("web-1", "web", &["10.1.0.2"]));
    server.set_absent(Resource::EndpointSlices, false);
    feed.until(|t| endpoints_of(t, "web") == ["10.1.0.2"]).await;
    watched(&server, Resource::Endpoints, 0).await;
    // Endpoints do not come back when the slices go.
    server.delete(Resource::EndpointSlices, "default", "web-1");
    feed.until(|t| endpoints_of(t, "web").is_empty()).await;
}

fn hostile() -> Vec<(Value, &'static str)> {
    let ports: Vec<Value> = (1..=10_000).map(|p| json!({"port": p, "name": format!("p{p}")})).collect();
    let mut slice = slice("bad-slice", "web", &["10.1.0.300"]);
    slice["metadata"]["namespace"] = "shop".into();
    vec![
        (
            json!({"kind": "Service", "metadata": {"name": "bad-spec"}, "spec": [1, 2]}),
            "Service default/bad-spec: spec",
        ),
        (
            json!({"kind": "Service", "metadata": {"name": "bad-ip"}, "spec": {"clusterIP": "10.0.0.999"}}),
            "Service default/bad-ip: spec.clusterIP",
        ),
        (
            json!({"kind": "Service", "metadata": {"name": "bad-port"}, "spec": {"clusterIP": "None", "ports": [{"port": 70_000}]}}),
            "Service default/bad-port: spec.ports[0].port",
        ),
        (
            json!({"kind": "Service", "metadata": {"name": "bad-many"}, "spec": {"clusterIP": "None", "ports": ports}}),
            "Service default/bad-many: spec.ports: too many",
        ),
        (
            json!({"kind": "Service", "metadata": {"name": "bad-labels", "labels": 7}, "spec": {"clusterIP": "None"}}),
            "Service default/bad-labels: ",
        ),
        (
            json!({"kind": "Service", "metadata": {"name": "BAD_name"}, "spec": {"clusterIP": "None"}}),
            "Service default/BAD_name: metadata.name",
        ),
        (slice, "EndpointSlice shop/bad-slice: endpoints[0].addresses[0]"),
        (
            json!({"kind": "Node", "metadata": {"name": "bad-node"}, "status": {"addresses": "none"}}),
            "Node bad-node: status.addresses",
        ),
    ]
}

#[tokio::test]
async fn objects_that_do_not_apply_are_told_once_and_disturb_nothing() {
    let server = plain().await;
    server.put(service("web"));
    server.put(slice("web-1", "web", &["10.180.00.010", "10.1.0.2"]));
    for (object, _) in hostile() {
        assert!(server.put(object) > 0);
    }
    let mut feed = Feed::new(settings(&server));
    feed.services(&["web"], &[]).await;
    assert_eq!(endpoints_of(feed.latest(), "web"), ["10.1.0.2", "10.180.0.10"]);
    watched(&server, SERVICES, 1).await;
    server.compact();
    server.order(None, Order::Error(410, "Expired"));
    asked_times(&server, Verb::Watch, 2).await;
    watched(&server, Resource::EndpointSlices, 1).await;
    watched(&server, Resource::Nodes, 1).await;
    let reports = feed.reports();
    for (_, expected) in hostile() {
        assert_eq!(
            reports.iter().filter(|r| r.starts_with(expected)).count(),
            1,
            "{expected} in {reports:#?}"
        );
    }
    assert_eq!(feed.health().counters().refused_objects, hostile().len() as u64);
}

#[tokio::test]
async fn the_last_good_version_of_an_object_stays() {
    let server = plain().await;
    server.put(service("web"));
    server.put(service("x"));
    let mut feed = Feed::new(settings(&server));
    feed.services(&["web", "x"], &[]).await;
    watched(&server, SERVICES, 1).await;
    server.put(json!({"kind": "Service", "metadata": {"name": "web"}, "spec": {"clusterIP": "nonsense"}}));
    server.compact();
    server.forget(SERVICES, "default", "x");
    server.order(SERVICES, Order::Error(410, "Expired"));
    feed.services(&["web"], &["web"]).await;
    assert!(
        feed.reports().iter().any(|r| r.contains("default/web") && r.contains("last good version stays"))
    );
    server.delete(SERVICES, "default", "web");
    feed.until(|t| t.is_empty()).await;
}

#[tokio::test]
async fn foreign_kinds_and_odd_events_are_skipped() {
    let server = plain().await;
    server.put(service("a"));
    let mut feed = Feed::new(settings(&server));
    feed.services(&["a"], &[]).await;
    watched(&server, SERVICES, 1).await;
    let lines = [
        json!({"type": "ADDED", "object": {"kind": "Secret", "metadata": {"name": "s"}, "data": {"k": "v"}}}),
        json!({"type": "ADDED", "object": {"kind": "Service", "metadata": {}}}),
        json!({"type": "ADDED", "object": 7}),
        json!({"type": "RENAMED", "object": {"metadata": {"name": "a"}}}),
        json!({"type": "DELETED", "object": null}),
        json!({"type": "DELETED", "object": {"metadata": {"name": "never-was"}}}),
        json!({"type": "BOOKMARK", "object": {}}),
    ];
    for line in lines {
        server.order(SERVICES, Order::Raw(format!("{line}\n").into_bytes()));
    }
    server.put(service("b"));
    feed.services(&["a", "b"], &["a"]).await;
    assert_eq!(names_of(feed.latest()), ["a", "b"]);
    assert!(
        feed.reports().iter().any(|r| r.starts_with("Service default/s: kind: value \"Secret\"")),
        "{:?}",
        feed.reports()
    );
    assert_eq!(crate::support::asked(&server, Verb::Watch).len(), 1);
}

fn pod(namespace: &str, name: &str, addresses: &[&str], phase: &str) -> Value {
    let ips: Vec<Value> = addresses.iter().map(|ip| json!({"ip": ip})).collect();
    json!({"kind": "Pod", "metadata": {"name": name, "namespace": namespace},
           "spec": {"containers": [{"name": "c", "image": "big"}]},
           "status": {"phase": phase, "podIP": addresses.first(), "podIPs": ips}})
}

#[tokio::test]
async fn d25_pods_are_followed_where_their_names_are_to_be_verified_and_only_there() {
    let server = plain().await;
    for n in 0..120 {
        server.put(pod("shop", &format!("p{n}"), &[&format!("10.244.1.{n}")], "Running"));
    }
    server.put(pod("shop", "done", &["10.244.2.1"], "Succeeded"));
    server.put(pod("shop", "both", &["10.244.2.2", "fd00::2"], "Pending"));
    server.put(json!({"kind": "Pod", "metadata": {"name": "odd", "namespace": "shop"}, "status": {"podIPs": "none"}}));
    let ip = |text: &str| text.parse::<std::net::IpAddr>().unwrap();
    let mut feed = Feed::new(Settings { pods: true, ..settings(&server) });
    let all = |t: &Table| (0..120).all(|n| t.pods().has("shop", ip(&format!("10.244.1.{n}"))));
    let pods = feed.until(|t| all(t) && t.pods().has("shop", ip("fd00::2"))).await.pods().clone();
    assert!(pods.has("shop", ip("10.244.2.2")));
    assert!(!pods.has("shop", ip("10.244.2.1")), "it has ended, and its address is another's soon");
    assert!(!pods.has("default", ip("10.244.1.1")), "of another namespace");
    watched(&server, Resource::Pods, 1).await;
    server.put(pod("shop", "p1", &["10.244.3.1"], "Running"));
    server.put(pod("shop", "p2", &["10.244.1.2"], "Failed"));
    feed.until(|t| t.pods().has("shop", ip("10.244.3.1")) && !t.pods().has("shop", ip("10.244.1.2"))).await;
    assert!(!pods.has("shop", ip("10.244.1.1")));
    assert!(server.delete(Resource::Pods, "shop", "p3"));
    feed.until(|t| !t.pods().has("shop", ip("10.244.1.3"))).await;
    assert!(feed.reports().is_empty(), "{:?}", feed.reports());

    let quiet = plain().await;
    quiet.put(service("web"));
    quiet.put(pod("shop", "p", &["10.244.1.1"], "Running"));
    let mut feed = Feed::new(settings(&quiet));
    assert!(!feed.next().await.pods().has("shop", ip("10.244.1.1")));
    assert!(quiet.requests().iter().all(|request| request.resource != Resource::Pods));
}
