//! Servers and connections that fail.

use crate::support::{
    Feed, SERVICES, asked, asked_times, fill, names_of, plain, quick, service, settings, start, watched,
};
use edgemesh_discovery::kubernetes::{Settings, Timing};
use edgemesh_testapi::{Fault, Options, Order, Resource, Verb};
use std::time::Duration;

#[tokio::test]
async fn l7_every_error_is_backed_off_from() {
    for fault in [
        Fault::Status(500, "InternalError", None),
        Fault::Status(403, "Forbidden", None),
        Fault::Close,
        Fault::Body(b"<html>hello</html>".to_vec()),
        Fault::Body(Vec::new()),
        Fault::Body(br#"{"kind":"Status","code":500}"#.to_vec()),
        Fault::Status(410, "Expired", None),
    ] {
        let server = plain().await;
        server.put(service("a"));
        server.plan(SERVICES, Verb::List, 8, fault.clone());
        let mut feed = Feed::new(settings(&server));
        feed.services(&["a"], &[]).await;
        let lists = asked(&server, Verb::List);
        let spent = lists[8].at - lists[0].at;
        // At least the fixed half of 10, 20, 40, 80 and four times 100 ms.
        assert!(lists.len() == 9 && spent >= Duration::from_millis(275), "{fault:?}: {spent:?}");
        assert_eq!(feed.reports().iter().filter(|r| r.starts_with("Service")).count(), 1, "{fault:?}");
    }
}

#[tokio::test]
async fn l7_watches_that_fail_at_once_are_backed_off_from() {
    for fault in
        [Fault::Status(500, "InternalError", None), Fault::ErrorEvent(500, "InternalError"), Fault::Close]
    {
        let server = plain().await;
        server.put(service("a"));
        server.plan(SERVICES, Verb::Watch, 8, fault.clone());
        let mut feed = Feed::new(settings(&server));
        feed.services(&["a"], &[]).await;
        asked_times(&server, Verb::Watch, 9).await;
        let watches = asked(&server, Verb::Watch);
        let spent = watches[8].at - watches[0].at;
        assert!(spent >= Duration::from_millis(275), "{fault:?}: {spent:?}");
        assert!(asked(&server, Verb::List).len() <= 4, "{fault:?}");
    }
}

#[tokio::test]
async fn l7_retry_after_is_honoured() {
    let server = plain().await;
    server.put(service("a"));
    server.plan(SERVICES, Verb::List, 1, Fault::Status(429, "TooManyRequests", Some(1)));
    server.plan(SERVICES, Verb::Watch, 1, Fault::Status(503, "ServiceUnavailable", Some(1)));
    let mut feed = Feed::new(settings(&server));
    feed.services(&["a"], &[]).await;
    let lists = asked(&server, Verb::List);
    assert!(lists[1].at - lists[0].at >= Duration::from_secs(1));
    asked_times(&server, Verb::Watch, 2).await;
    let watches = asked(&server, Verb::Watch);
    assert!(watches[1].at - watches[0].at >= Duration::from_secs(1));
}

#[tokio::test]
async fn l7_whoever_reaches_the_server_again_wakes_the_others() {
    let mut server = plain().await;
    server.put(service("a"));
    let timing =
        Timing { backoff_min: Duration::from_secs(1), backoff_max: Duration::from_secs(4), ..quick() };
    let mut feed = Feed::new(Settings { timing, ..settings(&server) });
    feed.services(&["a"], &[]).await;
    let kinds =
        [SERVICES, Resource::EndpointSlices, Resource::Namespaces, Resource::Nodes, Resource::ServiceCidrs];
    for kind in kinds {
        watched(&server, kind, 1).await;
    }
    server.stop().await;
    // The first pauses are half as long.
    let health = feed.health();
    while health.counters().failures < 2 * kinds.len() as u64 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let before = server.requests().len();
    server.resume().await.unwrap();
    for kind in kinds {
        watched(&server, kind, 1).await;
    }
    let since = server.requests().split_off(before);
    let spent = since[since.len() - 1].at - since[0].at;
    assert!(spent < Duration::from_millis(500), "their pauses are of 1 to 4 s: {spent:?}");
}

#[tokio::test]
async fn a_list_that_is_cut_takes_nothing_away() {
    let server = plain().await;
    fill(&server, 40);
    let mut feed = Feed::new(settings(&server));
    assert_eq!(feed.next().await.len(), 40);
    watched(&server, SERVICES, 1).await;
    server.plan(SERVICES, Verb::List, 3, Fault::Cut(3_000));
    server.compact();
    server.forget(SERVICES, "default", "s000");
    server.order(SERVICES, Order::Error(410, "Expired"));
    while names_of(feed.latest()).len() != 39 {
        assert_eq!(names_of(feed.latest()).len(), 40);
        feed.next().await;
    }
    assert_eq!(asked(&server, Verb::List).len(), 5);
}

#[tokio::test]
async fn a_watch_that_is_cut_in_the_middle_of_a_line_goes_on() {
    let server = plain().await;
    server.put(service("a"));
    let mut feed = Feed::new(settings(&server));
    feed.services(&["a"], &[]).await;
    watched(&server, SERVICES, 1).await;
    for order in
        [Order::Cut, Order::Raw(b"<html>\n".to_vec()), Order::Raw(b"{\"type\":\"ADDED\",\"obj\n".to_vec())]
    {
        let watches = asked(&server, Verb::Watch).len();
        server.order(SERVICES, order);
        asked_times(&server, Verb::Watch, watches + 1).await;
        watched(&server, SERVICES, 1).await;
    }
    server.put(service("b"));
    feed.services(&["a", "b"], &["a"]).await;
    assert_eq!(asked(&server, Verb::List).len(), 1);
}

#[tokio::test]
async fn a_slow_list_is_waited_for_and_a_silent_one_is_given_up() {
    let server = plain().await;
    fill(&server, 30);
    server.plan(SERVICES, Verb::List, 1, Fault::Silence);
    server.plan(SERVICES, Verb::List, 1, Fault::Trickle(500, Duration::from_millis(20)));
    let timing = Timing { patience: Duration::from_millis(250), ..quick() };
    let mut feed = Feed::new(Settings { timing, ..settings(&server) });
    assert_eq!(feed.next().await.len(), 30);
    assert_eq!(asked(&server, Verb::List).len(), 2);
}

#[tokio::test]
async fn a_server_that_comes_later_is_waited_for() {
    let mut server = plain().await;
    server.put(service("a"));
    server.stop().await;
    let mut feed = Feed::new(settings(&server));
    server.resume().await.unwrap();
    feed.services(&["a"], &[]).await;
}

#[tokio::test]
async fn r4_the_last_good_table_stays_and_its_age_is_known() {
    let mut server = plain().await;
    server.put(service("a"));
    let mut feed = Feed::new(settings(&server));
    assert_eq!(feed.health().current(), None);
    feed.services(&["a"], &[]).await;
    let current = feed.health().current().unwrap();
    server.stop().await;
    let failures = feed.health().counters().failures;
    feed.reached(|feed| feed.health().counters().failures >= failures + 20).await;
    assert!(feed.health().current().unwrap() <= current + 1);
    assert_eq!((feed.more(), names_of(feed.latest())), (0, vec!["a".to_owned()]));
    server.resume().await.unwrap();
    server.put(service("b"));
    feed.services(&["a", "b"], &["a"]).await;
}

#[tokio::test]
async fn kinds_that_are_absent_are_done_without() {
    let absent = vec![
        Resource::ServiceCidrs,
        Resource::Nodes,
        Resource::Namespaces,
        Resource::EndpointSlices,
        Resource::Endpoints,
    ];
    let server = start(Options { absent, ..Options::default() }).await;
    server.put(service("a"));
    let mut feed = Feed::new(settings(&server));
    feed.services(&["a"], &[]).await;
    assert_eq!(feed.reports(), Vec::<String>::new());
    server.set_absent(Resource::Nodes, false);
    server.put(serde_json::json!({"kind": "Node", "metadata": {"name": "n1"}}));
    feed.until(|t| t.nodes().contains_key("n1")).await;
}

#[tokio::test]
async fn kinds_that_are_forbidden_do_not_hold_up_the_others() {
    let server = plain().await;
    server.put(service("a"));
    server.plan(Resource::Nodes, Verb::List, 1_000, Fault::Status(403, "nodes is forbidden", None));
    let mut feed = Feed::new(settings(&server));
    feed.services(&["a"], &[]).await;
    assert_eq!(feed.reports().len(), 1);
    assert!(feed.reports()[0].contains("nodes is forbidden"), "{:?}", feed.reports());
}
