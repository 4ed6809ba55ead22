use super::*;
use crate::agent::state::{Joined, Membership};
use crate::dns::Stats;
use crate::testing::{in_namespace, settings};
use edgemesh_core::wire::control::Network;
use std::net::Ipv4Addr;
use tokio::task::{LocalSet, yield_now};

/// A node that serves.
pub(in super::super) fn serving() -> Arc<Shared> {
    let network = Network { mesh_v4: [242, 0, 0, 0], mesh_v4_len: 8, mesh_v6: [0xFD; 16] };
    let joined =
        Joined { index: 1, network, domain: "cluster.local".into(), directory_key: [1; 32], epoch: 1 };
    let membership = Membership {
        node: "a".into(),
        servers: Vec::new(),
        root: [0; 32],
        secret: Vec::new(),
        joined: Some(joined),
    };
    let status = Arc::new(Shared::new(&settings(&[]), &membership));
    status.touched(Vec::new());
    status.dns(Arc::new(Stats::default()));
    status.heard(1);
    assert_eq!(status.obstacle(), None);
    status
}

#[test]
fn a_node_is_ready_once_the_kernel_has_its_first_routes() {
    let status = serving();
    status.asked_kernel();
    assert!(status.obstacle().is_some_and(|text| text.contains("routes")));
    status.kernel_done();
    assert_eq!(status.obstacle(), None);
    status.asked_kernel();
    assert_eq!(status.obstacle(), None, "changes later on do not matter");
}

const HERE: [IpAddr; 1] = [IpAddr::V4(Ipv4Addr::LOCALHOST)];

fn check(name: &str, port: u16, ready_here: usize) -> Check {
    Check { namespace: "ns".into(), name: name.into(), port, ready_here }
}

/// Health check ports, free in the test's own network namespace.
const WEB: u16 = 32_000;
const OTHER: u16 = 32_001;
const TAKEN: u16 = 32_002;

fn run<T: Future>(test: impl FnOnce() -> T + Send + 'static) {
    in_namespace(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(LocalSet::new().run_until(test()));
    });
}

async fn get(port: u16) -> io::Result<String> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await?;
    stream.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").await?;
    let mut text = String::new();
    stream.read_to_string(&mut text).await?;
    Ok(text)
}

#[test]
fn t7_the_answer_is_kube_proxys() {
    run(async || {
        let status = serving();
        let mut servers = Servers::new(status.clone());
        assert!(servers.set(&[check("web", WEB, 2)], &HERE).await.is_empty());
        let answer = get(WEB).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
        assert!(answer.contains("\r\nX-Load-Balancing-Endpoint-Weight: 2\r\n"), "{answer}");
        let body: serde_json::Value = serde_json::from_str(answer.split("\r\n\r\n").nth(1).unwrap()).unwrap();
        let wanted = serde_json::json!({
            "service": {"namespace": "ns", "name": "web"}, "localEndpoints": 2, "serviceProxyHealthy": true,
        });
        assert_eq!(body, wanted);

        assert!(servers.set(&[check("web", WEB, 0)], &HERE).await.is_empty());
        let answer = get(WEB).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 503 ") && answer.contains("-Weight: 0\r\n"), "{answer}");

        status.stopping();
        assert!(servers.set(&[check("web", WEB, 2)], &HERE).await.is_empty());
        let answer = get(WEB).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
        assert!(answer.contains("\"serviceProxyHealthy\":false"), "{answer}");
    });
}

#[test]
fn t7_ports_follow_their_services_and_one_in_use_stops_nothing_else() {
    run(async || {
        let mut servers = Servers::new(serving());
        let taken = std::net::TcpListener::bind(("127.0.0.1", TAKEN)).unwrap();
        let wanted = [check("bad", TAKEN, 1), check("good", WEB, 1), check("twin", WEB, 1)];
        let problems = servers.set(&wanted, &HERE).await;
        let text =
            format!("Service ns/bad: its healthCheckNodePort {TAKEN} cannot be bound at 127.0.0.1:{TAKEN}: ");
        assert!(problems.iter().any(|problem| problem.starts_with(&text)), "{problems:?}");
        let text = format!("Service ns/twin: its healthCheckNodePort {WEB} is that of ns/good; not served");
        assert!(problems.contains(&text) && problems.len() == 2, "{problems:?}");
        assert!(get(WEB).await.unwrap().starts_with("HTTP/1.1 200"));

        drop(taken);
        // A program that another test begins has copies of our sockets until its own text is loaded.
        let bound = async {
            while !servers.set(&wanted[..2], &HERE).await.is_empty() {
                yield_now().await
            }
        };
        timeout(WITHIN, bound).await.expect("tried again");
        assert!(get(TAKEN).await.unwrap().starts_with("HTTP/1.1 200"));

        assert!(servers.set(&[check("good", OTHER, 1)], &HERE).await.is_empty());
        assert!(get(OTHER).await.unwrap().starts_with("HTTP/1.1 200"));
        // The old listener closes when its task is next looked at; until then a connection to it is reset.
        let refused = async { while TcpStream::connect(("127.0.0.1", WEB)).await.is_ok() {} };
        timeout(WITHIN, refused).await.unwrap();
    });
}
