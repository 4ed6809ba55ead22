//! KubeEdge's metaServer, told that it is one or not.

use crate::support::{
    Feed, SERVICES, asked, asked_times, endpoints_of, fill, names_of, plain, quick, service, settings, slice,
    start, watched,
};
use edgemesh_discovery::kubernetes::{Settings, Timing};
use edgemesh_testapi::{ApiServer, Fault, Options, Order, Resource, Verb};
use serde_json::{Value, json};
use std::time::Duration;

async fn meta() -> ApiServer {
    start(Options { meta_server: true, ..Options::default() }).await
}

fn told(server: &ApiServer) -> Settings {
    Settings { meta_server: true, ..settings(server) }
}

#[tokio::test]
async fn k1_what_vanished_between_two_watches_goes() {
    for is_told in [true, false] {
        let mut server = meta().await;
        for name in ["a", "b", "c"] {
            server.put(service(name));
        }
        let mut feed = Feed::new(Settings { meta_server: is_told, ..settings(&server) });
        feed.services(&["a", "b", "c"], &[]).await;
        watched(&server, SERVICES, 1).await;
        server.stop().await;
        server.forget(SERVICES, "default", "b");
        server.put(service("d"));
        server.resume().await.unwrap();
        feed.services(&["a", "c", "d"], &["a", "c"]).await;
        watched(&server, SERVICES, 1).await;
        server.forget(SERVICES, "default", "c");
        server.order(SERVICES, Order::End);
        feed.services(&["a", "d"], &["a", "d"]).await;
    }
}

#[tokio::test]
async fn k2_no_bookmarks_are_needed() {
    let server = meta().await;
    server.put(service("a"));
    let timing = Timing { local_watch: Duration::from_secs(1), ..quick() };
    let mut feed = Feed::new(Settings { timing, ..told(&server) });
    feed.services(&["a"], &[]).await;
    // Watches end by their time, twice, and nothing is lost.
    asked_times(&server, Verb::Watch, 3).await;
    server.put(service("b"));
    feed.services(&["a", "b"], &["a"]).await;
}

#[tokio::test]
async fn k3_errors_that_are_all_500_lead_to_a_list_in_the_end() {
    let server = meta().await;
    server.put(service("a"));
    server.put(service("b"));
    // Not told that it is one, so that nothing but the errors leads to the list.
    let mut feed = Feed::new(settings(&server));
    feed.services(&["a", "b"], &[]).await;
    watched(&server, SERVICES, 1).await;
    server.plan(SERVICES, Verb::Watch, 6, Fault::Status(500, "InternalError", None));
    server.forget(SERVICES, "default", "b");
    server.order(SERVICES, Order::Error(410, "Expired"));
    feed.services(&["a"], &["a"]).await;
    assert_eq!(asked(&server, Verb::List).len(), 2);
}

#[tokio::test]
async fn k4_an_empty_list_without_a_version_is_empty_when_nothing_was_known() {
    let server = meta().await;
    let mut feed = Feed::new(told(&server));
    assert!(feed.next().await.is_empty());
    watched(&server, SERVICES, 1).await;
    server.put(service("a"));
    feed.services(&["a"], &[]).await;
}

#[tokio::test]
async fn k4_k5_an_empty_list_without_a_version_never_wipes() {
    let server = meta().await;
    server.put(service("a"));
    server.put(slice("a-1", "a", &["10.1.0.1"]));
    let mut feed = Feed::new(told(&server));
    feed.services(&["a"], &[]).await;
    watched(&server, SERVICES, 1).await;
    server.plan(None, Verb::List, 4, Fault::Empty);
    for lists in [2, 3] {
        server.order(None, Order::End);
        asked_times(&server, Verb::List, lists).await;
        watched(&server, SERVICES, 1).await;
        watched(&server, Resource::EndpointSlices, 1).await;
    }
    server.put(service("b"));
    feed.services(&["a", "b"], &["a"]).await;
    assert_eq!(endpoints_of(feed.latest(), "a"), ["10.1.0.1"]);
}

#[tokio::test]
async fn k4_an_empty_list_does_not_replace_the_table_of_an_earlier_run() {
    let server = meta().await;
    let mut feed = Feed::new(Settings { known_services: 3, ..told(&server) });
    asked_times(&server, Verb::List, 3).await;
    assert_eq!(feed.more(), 0);
    server.put(service("a"));
    server.put(service("b"));
    server.put(slice("a-1", "a", &["10.1.0.1"]));
    feed.services(&["a", "b"], &[]).await;
}

/// A list of the Services s000 to s004, as a server that has not synced yet would give.
fn partial() -> Fault {
    let items: Vec<Value> = (0..5).map(|n| service(&format!("s{n:03}"))).collect();
    let body = json!({"kind": "ServiceList", "metadata": {"resourceVersion": "1"}, "items": items});
    Fault::Body(body.to_string().into_bytes())
}

#[tokio::test]
async fn k5_a_partial_list_is_not_believed_at_once() {
    let server = meta().await;
    fill(&server, 20);
    let mut feed = Feed::new(told(&server));
    feed.until(|t| t.len() == 20).await;
    watched(&server, SERVICES, 1).await;
    server.plan(SERVICES, Verb::List, 1, partial());
    server.order(SERVICES, Order::End);
    asked_times(&server, Verb::List, 3).await;
    watched(&server, SERVICES, 1).await;
    server.put(service("z"));
    feed.until(|t| t.len() != 20).await;
    assert_eq!(feed.latest().len(), 21);
    assert!(feed.reports().iter().any(|r| r.contains("leaves out most")), "{:?}", feed.reports());
}

#[tokio::test]
async fn k5_a_second_list_that_agrees_is_believed() {
    let server = meta().await;
    fill(&server, 20);
    let mut feed = Feed::new(told(&server));
    feed.until(|t| t.len() == 20).await;
    watched(&server, SERVICES, 1).await;
    for n in 5..20 {
        server.forget(SERVICES, "default", &format!("s{n:03}"));
    }
    server.order(SERVICES, Order::End);
    feed.until(|t| t.len() == 5).await;
    assert_eq!(asked(&server, Verb::List).len(), 3);
}

#[tokio::test]
async fn k5_a_first_list_with_far_less_than_an_earlier_run_knew_is_asked_for_twice() {
    let server = plain().await;
    fill(&server, 20);
    server.plan(SERVICES, Verb::List, 1, partial());
    let mut feed = Feed::new(Settings { known_services: 20, ..settings(&server) });
    assert_eq!(feed.next().await.len(), 20);
}

#[tokio::test]
async fn k5_a_deletion_that_never_was_is_mended() {
    let server = meta().await;
    server.put(service("a"));
    server.put(service("b"));
    let mut feed = Feed::new(told(&server));
    feed.services(&["a", "b"], &[]).await;
    watched(&server, SERVICES, 1).await;
    let event = json!({"type": "DELETED", "object": service("b")});
    server.order(SERVICES, Order::Raw(format!("{event}\n").into_bytes()));
    feed.services(&["a"], &["a"]).await;
    feed.services(&["a", "b"], &["a"]).await;
}

#[tokio::test]
async fn k6_nothing_fancy_is_asked_for() {
    let server = meta().await;
    fill(&server, 120);
    let mut feed = Feed::new(told(&server));
    assert_eq!(feed.next().await.len(), 120);
    let lists = asked(&server, Verb::List);
    assert_eq!((lists.len(), lists[0].query.len()), (1, 0));
}

#[tokio::test]
async fn k7_what_metaserver_needs_is_said() {
    let server = meta().await;
    let feed = Feed::new(Settings { known_services: 1, ..told(&server) });
    asked_times(&server, Verb::Watch, 1).await;
    assert!(feed.reports().iter().any(|r| r.contains("dynamicController")), "{:?}", feed.reports());
}

#[tokio::test]
async fn k8_what_the_server_never_told_is_found_by_listing_now_and_then() {
    let server = plain().await;
    server.put(service("a"));
    server.put(service("b"));
    let timing = Timing { resync: Duration::from_millis(500), ..quick() };
    let mut feed = Feed::new(Settings { timing, ..settings(&server) });
    feed.services(&["a", "b"], &[]).await;
    server.forget(SERVICES, "default", "b");
    feed.services(&["a"], &["a"]).await;
    assert!(feed.health().current().is_some() && feed.health().counters().lists > 5);
}

#[tokio::test]
async fn the_api_servers_own_service_is_none_of_metaservers_business() {
    let server = meta().await;
    server.put(service("kubernetes"));
    server.put(service("web"));
    let mut feed = Feed::new(told(&server));
    feed.services(&["web"], &[]).await;
    let direct = plain().await;
    direct.put(service("kubernetes"));
    Feed::new(settings(&direct)).services(&["kubernetes"], &[]).await;
    assert_eq!(names_of(feed.latest()), ["web"]);
}

#[tokio::test]
async fn endpoints_stand_in_where_slices_fail_with_500() {
    let server =
        start(Options { meta_server: true, absent: vec![Resource::EndpointSlices], ..Options::default() })
            .await;
    server.put(service("web"));
    server.put(json!({"kind": "Endpoints", "metadata": {"name": "web"},
                      "subsets": [{"addresses": [{"ip": "10.1.0.1"}], "ports": [{"port": 8080}]}]}));
    let mut feed = Feed::new(told(&server));
    assert_eq!(endpoints_of(feed.next().await, "web"), ["10.1.0.1"]);
}
