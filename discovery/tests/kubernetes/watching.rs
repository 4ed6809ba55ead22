//! Lists, watches, and what follows one from the other.

use crate::support::{
    Feed, SERVICES, asked, asked_times, endpoints_of, fill, names_of, plain, quick, service, settings, slice,
    start, watched,
};
use edgemesh_discovery::kubernetes::{Settings, Timing};
use edgemesh_testapi::{Fault, Options, Order, Resource, Verb};
use std::time::{Duration, Instant};

#[tokio::test]
async fn objects_are_heard_changed_and_deleted() {
    let server = plain().await;
    server.put(service("web"));
    server.put(slice("web-1", "web", &["10.1.0.1"]));
    let mut feed = Feed::new(settings(&server));
    let table = feed.next().await;
    assert_eq!(endpoints_of(table, "web"), ["10.1.0.1"]);
    watched(&server, Resource::EndpointSlices, 1).await;
    server.put(slice("web-1", "web", &["10.1.0.1", "10.1.0.2"]));
    feed.until(|t| endpoints_of(t, "web").len() == 2).await;
    server.delete(SERVICES, "default", "web");
    feed.until(|t| t.is_empty()).await;
    assert_eq!(feed.reports(), Vec::<String>::new());
}

#[tokio::test]
async fn l1_gone_in_the_stream_leads_to_a_list_and_a_sweep() {
    let server = plain().await;
    for name in ["a", "b", "c"] {
        server.put(service(name));
    }
    let mut feed = Feed::new(settings(&server));
    feed.services(&["a", "b", "c"], &[]).await;
    watched(&server, SERVICES, 1).await;
    server.forget(SERVICES, "default", "b");
    server.compact();
    server.order(SERVICES, Order::Error(410, "Expired"));
    feed.services(&["a", "c"], &["a", "c"]).await;
    asked_times(&server, Verb::Watch, 2).await;
    let lists = asked(&server, Verb::List);
    assert_eq!((lists.len(), lists[1].parameter("resourceVersion")), (2, ""));
}

#[tokio::test]
async fn l2_gone_or_too_large_by_status_leads_to_a_list() {
    for fault in
        [Fault::Status(410, "Expired", None), Fault::Status(504, "Too large resource version", Some(0))]
    {
        let server = plain().await;
        server.put(service("a"));
        server.put(service("b"));
        let mut feed = Feed::new(settings(&server));
        feed.services(&["a", "b"], &[]).await;
        watched(&server, SERVICES, 1).await;
        server.plan(SERVICES, Verb::Watch, 1, fault);
        server.forget(SERVICES, "default", "b");
        server.order(SERVICES, Order::End);
        feed.services(&["a"], &["a"]).await;
        assert_eq!(asked(&server, Verb::List).len(), 2);
    }
}

#[tokio::test]
async fn l2_a_compacted_server_that_answers_by_status() {
    let server = start(Options { gone_by_status: true, ..Options::default() }).await;
    server.put(service("a"));
    let mut feed = Feed::new(settings(&server));
    feed.services(&["a"], &[]).await;
    watched(&server, SERVICES, 1).await;
    server.compact();
    server.put(service("b"));
    server.cut();
    feed.services(&["a", "b"], &["a"]).await;
    // The event after the compaction came over the watch or, if the cut was faster, out of the list.
    asked_times(&server, Verb::Watch, 2).await;
}

#[tokio::test]
async fn l3_pages_and_continue_tokens_that_expire() {
    let server = plain().await;
    fill(&server, 120);
    server.plan(SERVICES, Verb::List, 1, Fault::Slow(Duration::ZERO));
    server.plan(SERVICES, Verb::List, 1, Fault::Status(410, "Expired", None));
    let mut feed = Feed::new(settings(&server));
    assert_eq!(feed.next().await.len(), 120);
    let lists = asked(&server, Verb::List);
    let limits: Vec<_> = lists.iter().map(|l| l.parameter("limit")).collect();
    assert_eq!(limits, ["50", "50", "500"]);
    assert!(!lists[1].parameter("continue").is_empty() && lists[2].parameter("continue").is_empty());
}

#[tokio::test]
async fn l3_all_pages_of_a_list_are_one_list() {
    let server = plain().await;
    fill(&server, 120);
    let mut feed = Feed::new(settings(&server));
    assert_eq!(feed.next().await.len(), 120);
    assert_eq!(asked(&server, Verb::List).len(), 3);
    assert_eq!(feed.more(), 0);
}

#[tokio::test]
async fn l4_bookmarks_move_the_resource_version_and_nothing_waits_for_them() {
    let server = plain().await;
    server.put(service("a"));
    let mut feed = Feed::new(settings(&server));
    feed.services(&["a"], &[]).await;
    watched(&server, SERVICES, 1).await;
    let version = server.put(slice("x", "a", &["10.0.0.1"]));
    feed.until(|t| !endpoints_of(t, "a").is_empty()).await;
    server.order(SERVICES, Order::Bookmark);
    server.order(SERVICES, Order::End);
    asked_times(&server, Verb::Watch, 2).await;
    let watches = asked(&server, Verb::Watch);
    assert_eq!(watches[0].parameter("allowWatchBookmarks"), "true");
    assert_eq!(watches[1].parameter("resourceVersion"), version.to_string());
    assert_eq!(asked(&server, Verb::List).len(), 1);
}

#[tokio::test]
async fn l5_no_streamed_lists_are_asked_for() {
    let server = plain().await;
    server.put(service("a"));
    let mut feed = Feed::new(settings(&server));
    feed.services(&["a"], &[]).await;
    watched(&server, Resource::Nodes, 1).await;
    assert!(server.requests().iter().all(|r| r.parameter("sendInitialEvents").is_empty()));
}

#[tokio::test]
async fn l6_a_dead_connection_is_noticed() {
    let timing = Timing { watch: Duration::from_secs(1), ..quick() };
    let server = plain().await;
    server.put(service("a"));
    let mut feed = Feed::new(Settings { timing, ..settings(&server) });
    feed.services(&["a"], &[]).await;
    watched(&server, SERVICES, 1).await;
    server.freeze(true);
    let begun = Instant::now();
    let watches = asked(&server, Verb::Watch).len();
    server.put(service("b"));
    asked_times(&server, Verb::Watch, watches + 1).await;
    assert!(begun.elapsed() < Duration::from_secs(5));
    server.freeze(false);
    feed.services(&["a", "b"], &["a"]).await;
    assert_eq!(asked(&server, Verb::List).len(), 1);
    let product = Timing::default();
    assert!(product.watch + product.silence <= Duration::from_secs(60));
    assert!(product.dead <= Duration::from_secs(60));
}

#[tokio::test]
async fn l9_a_restart_of_the_server_is_resumed_not_listed() {
    let mut server = plain().await;
    server.put(service("a"));
    let mut feed = Feed::new(settings(&server));
    feed.services(&["a"], &[]).await;
    watched(&server, SERVICES, 1).await;
    server.stop().await;
    server.put(service("b"));
    server.resume().await.unwrap();
    feed.services(&["a", "b"], &["a"]).await;
    let lists = asked(&server, Verb::List);
    assert_eq!((lists.len(), lists[0].parameter("resourceVersion")), (1, "0"));
    assert_eq!(lists[0].parameter("resourceVersionMatch"), "NotOlderThan");
}

#[tokio::test]
async fn l9_lists_that_the_server_forces_are_spread() {
    let server = plain().await;
    server.put(service("a"));
    let timing = Timing { spread: Duration::from_millis(500), ..quick() };
    let mut feeds: Vec<Feed> = (0..8).map(|_| Feed::new(Settings { timing, ..settings(&server) })).collect();
    for feed in &mut feeds {
        feed.services(&["a"], &[]).await;
    }
    watched(&server, SERVICES, 8).await;
    let before = asked(&server, Verb::List).len();
    server.order(SERVICES, Order::Error(410, "Expired"));
    asked_times(&server, Verb::List, before + 8).await;
    let times: Vec<Instant> = asked(&server, Verb::List)[before..].iter().map(|l| l.at).collect();
    let (first, last) = (times.iter().min().unwrap(), times.iter().max().unwrap());
    assert!(*last - *first > Duration::from_millis(50), "{:?}", *last - *first);
}

#[tokio::test]
async fn l10_headless_objects_are_kept_and_nothing_is_selected() {
    let server = plain().await;
    let mut headless = service("db");
    headless["spec"]["clusterIP"] = "None".into();
    server.put(headless);
    let mut labelled = slice("db-1", "db", &["10.1.0.1"]);
    labelled["metadata"]["labels"]["service.kubernetes.io/headless"] = "".into();
    server.put(labelled);
    let mut feed = Feed::new(settings(&server));
    assert_eq!(endpoints_of(feed.next().await, "db"), ["10.1.0.1"]);
    for request in server.requests() {
        assert_eq!((request.parameter("fieldSelector"), request.parameter("labelSelector")), ("", ""));
    }
}

#[tokio::test]
async fn a_change_of_nothing_makes_no_table() {
    let server = plain().await;
    server.put(service("a"));
    let mut feed = Feed::new(settings(&server));
    feed.services(&["a"], &[]).await;
    watched(&server, SERVICES, 1).await;
    let mut same = service("a");
    same["metadata"]["annotations"] = serde_json::json!({"x": "y"});
    server.put(same);
    server.put(service("b"));
    let table = feed.next().await;
    assert_eq!(names_of(table), ["a", "b"]);
    assert_eq!(feed.more(), 0);
}
