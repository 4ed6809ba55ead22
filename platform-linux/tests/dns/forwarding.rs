//! Rows U: names that are not ours.

use std::cell::Cell;
use std::net::IpAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use edgemesh_agent::dns::cache::Keeping;
use edgemesh_agent::dns::{Sockets, Source, Transport};
use hickory_proto::op::{Edns, ResponseCode};
use hickory_proto::rr::RecordType::*;

use super::upstream::{Upstream, addresses, closed, code, one};
use super::zone::cluster;
use super::{Node, client, data, own_address, query, receive, run, shared, skip};

#[test]
fn u7_other_names_are_asked_upstream_over_udp() {
    run(async {
        let seen = shared(Vec::new());
        let log = seen.clone();
        let upstream = Upstream::start(move |question, transport| {
            log.borrow_mut().push((question.metadata.id, transport));
            one(&question, 1)
        })
        .await;
        let node = Node::start(cluster(), vec![upstream.address]);
        for name in ["a.test.", "b.test.", "c.test."] {
            assert_eq!(data(&node.udp(&query(name, A)).await), ["192.0.2.1"]);
        }
        let seen = seen.borrow();
        assert!(seen.iter().all(|(_, transport)| *transport == Transport::Udp));
        assert!(seen[0].0 != seen[1].0 || seen[1].0 != seen[2].0, "ids are chosen anew: {seen:?}");
    });
}

#[test]
fn u3_names_of_ours_that_do_not_exist_never_leave_the_node() {
    run(async {
        let upstream = Upstream::start(|question, _| one(&question, 1)).await;
        let node = Node::start(cluster(), vec![upstream.address]);
        for name in ["a.b.testns.svc.cluster.local.", "a.b.svc.cluster.local.", "a.b.cluster.local."] {
            assert_eq!(node.udp(&query(name, A)).await.metadata.response_code, ResponseCode::NXDomain);
        }
        assert_eq!(upstream.asked(), 0);
        assert_eq!(data(&node.udp(&query("a.b.", A)).await), ["192.0.2.1"]);
    });
}

#[test]
fn u7_a_cut_reply_is_fetched_over_tcp() {
    run(async {
        let many = || (0..200).map(|n| IpAddr::from([192, 0, 2, n]));
        let upstream = Upstream::start(move |question, transport| match transport {
            Transport::Tcp => vec![addresses(&question, many())],
            Transport::Udp => {
                let mut cut = addresses(&question, many().take(3));
                cut.metadata.truncation = true;
                vec![cut]
            }
        })
        .await;
        let node = Node::start(cluster(), vec![upstream.address]);
        let asked = query("many.test.", A);
        let udp = node.udp(&asked).await;
        assert!(udp.metadata.truncation && udp.to_vec().unwrap().len() <= 512);
        assert_eq!(node.tcp(&asked).await.answers.len(), 200);
        assert_eq!(upstream.asked(), 2, "the second asker was served from the cache");

        let mut large = asked.clone();
        let mut edns = Edns::new();
        edns.set_max_payload(4096);
        large.set_edns(edns);
        assert_eq!(node.udp(&large).await.answers.len(), 200);
    });
}

#[test]
fn u10_an_upstream_that_speaks_udp_only_still_serves() {
    run(async {
        let upstream = Upstream::start(|question, transport| {
            let mut cut = addresses(&question, [IpAddr::from([192, 0, 2, 1])]);
            cut.metadata.truncation = true;
            if transport == Transport::Udp { vec![cut] } else { vec![] }
        })
        .await;
        let node = Node::start(cluster(), vec![upstream.address]);
        let reply = node.udp(&query("cut.test.", A)).await;
        assert!(reply.metadata.truncation);
        assert_eq!(data(&reply), ["192.0.2.1"]);
    });
}

#[test]
fn u7_the_next_upstream_is_asked_when_one_fails() {
    run(async {
        let good = Upstream::start(|question, _| one(&question, 2)).await;
        let failing = Upstream::start(|question, _| code(&question, ResponseCode::ServFail)).await;
        let silent = Upstream::silent().await;
        for bad in [closed(), failing.address, silent.address] {
            let node = Node::start(cluster(), vec![bad, good.address]);
            assert_eq!(data(&node.udp(&query("a.test.", A)).await), ["192.0.2.2"]);
        }
        // The silent one is not waited for a second time.
        let node = Node::start(cluster(), vec![silent.address, good.address]);
        let before = silent.asked();
        for name in ["a.test.", "b.test.", "c.test."] {
            assert_eq!(data(&node.udp(&query(name, A)).await), ["192.0.2.2"]);
        }
        assert_eq!(silent.asked(), before + 1);
    });
}

#[test]
fn u7_nxdomain_settles_the_question() {
    run(async {
        let first = Upstream::start(|question, _| code(&question, ResponseCode::NXDomain)).await;
        let second = Upstream::start(|question, _| one(&question, 2)).await;
        let node = Node::start(cluster(), vec![first.address, second.address]);
        assert_eq!(node.udp(&query("a.test.", A)).await.metadata.response_code, ResponseCode::NXDomain);
        assert_eq!(second.asked(), 0);
    });
}

#[test]
fn u7_with_every_upstream_down_the_answer_is_servfail() {
    run(async {
        for servers in [vec![], vec![closed()], vec![closed(), Upstream::silent().await.address]] {
            let node = Node::start(cluster(), servers);
            let reply = node.udp(&query("a.test.", A)).await;
            assert_eq!(reply.metadata.response_code, ResponseCode::ServFail);
            assert!(reply.metadata.recursion_available && !reply.metadata.authoritative);
            assert_eq!(node.stat("forward_failed"), 1);
        }
    });
}

#[test]
fn u9_an_upstream_that_is_ourselves_is_found_out() {
    run(async {
        let sockets = Sockets::bind(&[own_address()]).unwrap();
        let itself = sockets.addresses()[0];
        let good = Upstream::start(|question, _| one(&question, 2)).await;
        let node = Node::start_on(sockets, cluster(), vec![itself, good.address]);
        let started = Instant::now();
        assert_eq!(data(&node.udp(&query("a.test.", A)).await), ["192.0.2.2"]);
        assert_eq!(node.stat("upstream_loops"), 1);
        assert!(started.elapsed().as_secs() < 5);
        let before = node.stat("udp_queries");
        assert_eq!(data(&node.udp(&query("b.test.", A)).await), ["192.0.2.2"]);
        assert_eq!(node.stat("udp_queries"), before + 1, "the loop is not asked any more");
    });
}

#[test]
fn u11_a_second_question_is_answered_from_the_cache() {
    run(async {
        let upstream = Upstream::start(|question, _| one(&question, 1)).await;
        let node = Node::start(cluster(), vec![upstream.address]);
        let first = node.udp(&query("Some.TEST.", A)).await;
        let mut again = query("some.test.", A);
        again.metadata.id = 99;
        let second = node.tcp(&again).await;
        assert_eq!(data(&first), data(&second));
        assert_eq!((second.metadata.id, &second.queries), (99, &again.queries));
        assert_eq!((upstream.asked(), node.stat("cache_hits")), (1, 1));
        node.udp(&query("some.test.", AAAA)).await;
        assert_eq!(upstream.asked(), 2, "another type is another question");
    });
}

#[test]
fn u14_forged_replies_are_ignored() {
    run(async {
        let upstream = Upstream::start(|question, _| {
            let (mut wrong_id, mut wrong_name) = (one(&question, 66).remove(0), one(&question, 66).remove(0));
            wrong_id.metadata.id ^= 1;
            wrong_name.queries = query("bank.test.", A).queries;
            [vec![wrong_id, wrong_name, question.clone()], one(&question, 1)].concat()
        })
        .await;
        let node = Node::start(cluster(), vec![upstream.address]);
        assert_eq!(data(&node.udp(&query("a.test.", A)).await), ["192.0.2.1"]);
    });
}

#[test]
fn u14_each_question_has_its_own_port_and_keeps_its_case() {
    run(async {
        let upstream = Upstream::start(|question, _| one(&question, 1)).await;
        let node = Node::start(cluster(), vec![upstream.address]);
        for n in 0..8 {
            node.udp(&query(&format!("N{n}.tEsT."), A)).await;
        }
        let (ports, names) = upstream.seen();
        assert!(ports.len() >= 7, "{ports:?}");
        assert!(names.iter().all(|name| name.starts_with('N') && name.ends_with(".tEsT.")), "{names:?}");
    });
}

#[test]
fn u8_a_stub_domain_has_its_own_servers_and_routes_change_while_running() {
    run(async {
        let (usual, corp) = (
            Upstream::start(|question, _| one(&question, 1)).await,
            Upstream::start(|question, _| one(&question, 2)).await,
        );
        let node = Node::start(cluster(), vec![usual.address]);
        let asked = query("db.corp.test.", A);
        assert_eq!(data(&node.udp(&asked).await), ["192.0.2.1"]);
        let stub = format!("corp.test={}", corp.address).parse().unwrap();
        node.forwarder.reroute(|routes| routes.stubs = vec![stub]);
        assert_eq!(data(&node.udp(&asked).await), ["192.0.2.2"], "not the reply that was kept");
        assert_eq!(data(&node.tcp(&query("www.test.", A)).await), ["192.0.2.1"]);
        node.forwarder.reroute(|routes| routes.stubs.clear());
        assert_eq!(data(&node.udp(&asked).await), ["192.0.2.1"]);
        node.forwarder.reroute(|routes| routes.source = Source::Fixed(vec![corp.address]));
        assert_eq!(data(&node.udp(&asked).await), ["192.0.2.2"]);
    });
}

/// A node with these settings whose only upstream answers with a TTL of 5 s until it is told to fail.
async fn failing(keeping: Keeping) -> (Node, Upstream, Rc<Cell<bool>>) {
    let fails = Rc::new(Cell::new(false));
    let told = fails.clone();
    let upstream = Upstream::start(move |question, _| {
        let mut reply = one(&question, 1);
        reply[0].answers[0].ttl = 5;
        if told.get() { code(&question, ResponseCode::ServFail) } else { reply }
    })
    .await;
    let sockets = Sockets::bind(&[own_address()]).unwrap();
    let node = Node::start_with(sockets, cluster(), vec![upstream.address], keeping);
    (node, upstream, fails)
}

#[test]
fn u12_while_the_upstream_fails_an_old_reply_is_given_on_request() {
    let stale = Keeping { stale: Some(Duration::from_secs(60)), prefetch: None };
    for (keeping, expected) in [(Keeping::default(), 0), (stale, 1)] {
        run(async move {
            let (node, upstream, fails) = failing(keeping).await;
            let asked = query("a.test.", A);
            assert_eq!(node.udp(&asked).await.answers.len(), 1);
            fails.set(true);
            skip(Duration::from_secs(6)).await;
            let old = node.udp(&asked).await;
            assert_eq!(old.answers.len(), expected);
            if expected == 1 {
                assert_eq!((old.answers[0].ttl, node.stat("served_stale")), (30, 1));
                let before = upstream.asked();
                assert_eq!(node.udp(&asked).await.answers.len(), 1);
                assert_eq!(upstream.asked(), before, "not asked again so soon");
                fails.set(false);
                skip(Duration::from_secs(30)).await;
                assert_eq!(node.udp(&asked).await.answers[0].ttl, 5, "renewed");
            } else {
                assert_eq!(old.metadata.response_code, ResponseCode::ServFail);
            }
        });
    }
}

#[test]
fn u13_a_hot_name_is_asked_again_before_its_time_on_request() {
    for (prefetch, expected) in [(None, 1), (Some(2), 2)] {
        run(async move {
            let (node, upstream, _) = failing(Keeping { stale: None, prefetch }).await;
            let asked = query("a.test.", A);
            for _ in 0..3 {
                node.udp(&asked).await;
            }
            skip(Duration::from_millis(4500)).await;
            assert_eq!(node.udp(&asked).await.answers[0].ttl, 1);
            // The renewal runs beside; the next answer shows what it brought.
            while upstream.asked() < expected {
                tokio::task::yield_now().await;
            }
            node.udp(&query("b.test.", A)).await;
            assert_eq!(upstream.asked(), expected + 1);
            assert_eq!(node.stat("prefetched"), expected as u64 - 1);
        });
    }
}

#[test]
fn d19_reverse_names_of_others_are_asked_upstream() {
    run(async {
        let upstream = Upstream::start(|question, _| code(&question, ResponseCode::NXDomain)).await;
        let node = Node::start(cluster(), vec![upstream.address]);
        node.udp(&query("9.9.9.9.in-addr.arpa.", PTR)).await;
        assert_eq!(upstream.asked(), 1);
    });
}

#[test]
fn d20_an_external_name_is_followed_upstream() {
    run(async {
        let upstream = Upstream::start(|question, _| match question.queries[0].query_type() {
            A => one(&question, 7),
            _ => vec![addresses(&question, ["2001:db8::7".parse().unwrap()])],
        })
        .await;
        let node = Node::start(cluster(), vec![upstream.address]);
        let name = "external.testns.svc.cluster.local.";
        let alias = "ext.interwebs.test.".to_owned();
        assert_eq!(data(&node.udp(&query(name, A)).await), [alias.clone(), "192.0.2.7".into()]);
        assert_eq!(data(&node.tcp(&query(name, AAAA)).await), [alias.clone(), "2001:db8::7".into()]);
        assert_eq!(data(&node.udp(&query(name, CNAME)).await).first(), Some(&alias));

        let node = Node::start(cluster(), vec![]);
        let failed = node.udp(&query(name, A)).await;
        assert_eq!((failed.metadata.response_code, data(&failed)), (ResponseCode::ServFail, vec![alias]));
    });
}

#[test]
fn many_questions_at_once_are_each_answered() {
    run(async {
        let upstream = Upstream::start(|question, _| one(&question, 1)).await;
        let node = Node::start(cluster(), vec![upstream.address]);
        let socket = client(node.address).await;
        for id in 0..100 {
            let name =
                if id % 2 == 0 { format!("n{id}.test.") } else { "svc1.testns.svc.cluster.local.".into() };
            let mut message = query(&name, A);
            message.metadata.id = id;
            socket.send(&message.to_vec().unwrap()).await.unwrap();
        }
        let mut ids = Vec::new();
        for _ in 0..100 {
            let reply = receive(&socket).await;
            assert_eq!(reply.answers.len(), 1);
            ids.push(reply.metadata.id);
        }
        ids.sort_unstable();
        ids.dedup();
        assert_eq!(ids.len(), 100);
    });
}
