//! The server as its clients see it: bytes over a socket.

use edgemesh_testapi::{ApiServer, Fault, Options, Order, Resource, Verb};
use serde_json::{Value, json};
use std::net::SocketAddr;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;

async fn send(address: SocketAddr, method: &str, path: &str, body: &str) -> TcpStream {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let head = format!(
        "{method} {path} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer secret\r\nconnection: close\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    stream.write_all(body.as_bytes()).await.unwrap();
    stream
}

/// Status line and the JSON of a body that comes in one piece.
async fn ask(address: SocketAddr, method: &str, path: &str, body: &str) -> (String, Value) {
    let mut text = String::new();
    send(address, method, path, body).await.read_to_string(&mut text).await.unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    let line = body.lines().find(|l| l.starts_with('{')).unwrap_or("null");
    (head.to_lowercase(), serde_json::from_str(line).unwrap())
}

/// The events of a watch until it ends.
async fn events(address: SocketAddr, path: &str) -> BufReader<TcpStream> {
    BufReader::new(send(address, "GET", path, "").await)
}

async fn next(events: &mut BufReader<TcpStream>) -> Option<(String, String)> {
    let mut line = String::new();
    while events.read_line(&mut line).await.is_ok_and(|n| n > 0) {
        if line.starts_with('{') {
            let value: Value = serde_json::from_str(&line).unwrap();
            let name = value.pointer("/object/metadata/name").or(value.pointer("/object/code"));
            return Some((value["type"].as_str()?.to_owned(), name?.to_string().replace('"', "")));
        }
        line.clear();
    }
    None
}

fn service(name: &str) -> Value {
    json!({"kind": "Service", "metadata": {"name": name}, "spec": {"clusterIP": "None"}})
}

fn pair(a: &str, b: &str) -> Option<(String, String)> {
    Some((a.to_owned(), b.to_owned()))
}

#[tokio::test]
async fn objects_are_written_listed_in_pages_and_watched() {
    let server = ApiServer::start(Options::default()).await.unwrap();
    let at = server.address();
    for name in ["a", "b", "c"] {
        assert!(server.put(service(name)) > 0);
    }
    let (_, first) = ask(at, "GET", "/api/v1/services?limit=2", "").await;
    assert_eq!((first["kind"].as_str(), first["items"].as_array().unwrap().len()), (Some("ServiceList"), 2));
    let token = first["metadata"]["continue"].as_str().unwrap();
    let path = format!("/api/v1/services?limit=2&continue={token}");
    let (_, second) = ask(at, "GET", &path, "").await;
    assert_eq!(second["items"][0]["metadata"]["name"], "c");
    assert_eq!(second["metadata"].get("continue"), None);
    server.expire_pages();
    assert!(ask(at, "GET", &path, "").await.0.starts_with("http/1.1 410"));

    let version = first["metadata"]["resourceVersion"].as_str().unwrap();
    let mut watch = events(at, &format!("/api/v1/services?watch=1&resourceVersion={version}")).await;
    server.watched(Resource::Services, 1).await;
    let one = "/api/v1/namespaces/default/services/d";
    assert!(ask(at, "PUT", one, &service("d").to_string()).await.0.starts_with("http/1.1 200"));
    assert!(ask(at, "DELETE", one, "").await.0.starts_with("http/1.1 200"));
    assert!(ask(at, "DELETE", one, "").await.0.starts_with("http/1.1 404"));
    assert_eq!(next(&mut watch).await, pair("ADDED", "d"));
    assert_eq!(next(&mut watch).await, pair("DELETED", "d"));
    server.order(Resource::Services, Order::Error(410, "Expired"));
    assert_eq!(next(&mut watch).await, pair("ERROR", "410"));
    assert_eq!(next(&mut watch).await, None);

    server.compact();
    let mut late = events(at, &format!("/api/v1/services?watch=1&resourceVersion={version}")).await;
    assert_eq!(next(&mut late).await, pair("ERROR", "410"));
    let ahead = ask(at, "GET", "/api/v1/services?resourceVersion=999999", "").await;
    assert!(ahead.0.starts_with("http/1.1 504") && ahead.0.contains("retry-after: 1"));
}

#[tokio::test]
async fn the_meta_server_has_its_defects() {
    let options = Options { meta_server: true, ..Options::default() };
    let server = ApiServer::start(options).await.unwrap();
    let at = server.address();
    let (head, empty) = ask(at, "GET", "/api/v1/services?limit=1", "").await;
    assert!(head.starts_with("http/1.1 200"));
    assert_eq!((empty["metadata"].clone(), empty["items"].clone()), (json!({}), json!([])));
    server.put(service("a"));
    let version = server.put(service("b"));
    let (_, all) = ask(at, "GET", "/api/v1/services?limit=1", "").await;
    assert_eq!(all["items"].as_array().unwrap().len(), 2);
    assert!(server.forget(Resource::Services, "default", "a"));
    let path = format!("/api/v1/services?watch=1&resourceVersion={version}&allowWatchBookmarks=true");
    let mut watch = events(at, &path).await;
    assert_eq!(next(&mut watch).await, pair("ADDED", "b"));
    server.watched(Resource::Services, 1).await;
    server.order(None, Order::Error(410, "Expired"));
    assert_eq!(next(&mut watch).await, pair("ERROR", "500"));
    assert!(ask(at, "GET", "/api/v1/services/a", "").await.0.starts_with("http/1.1 500"));
}

#[tokio::test]
async fn tokens_faults_and_restarts() {
    let options = Options { token: Some("secret".to_owned()), ..Options::default() };
    let mut server = ApiServer::start(options).await.unwrap();
    let at = server.address();
    assert!(ask(at, "GET", "/api/v1/nodes", "").await.0.starts_with("http/1.1 200"));
    server.know_token("pod", json!({"username": "system:serviceaccount:a:b"}));
    let review = |token: &str| json!({"kind": "TokenReview", "spec": {"token": token}}).to_string();
    let path = "/apis/authentication.k8s.io/v1/tokenreviews";
    let (_, good) = ask(at, "POST", path, &review("pod")).await;
    assert_eq!(good["status"]["user"]["username"], "system:serviceaccount:a:b");
    assert_eq!(ask(at, "POST", path, &review("other")).await.1["status"]["authenticated"], false);
    server.know_token_for("mesh", "theirs", json!({"username": "system:serviceaccount:a:c"}));
    assert_eq!(ask(at, "POST", path, &review("theirs")).await.1["status"]["authenticated"], false);
    let asked = json!({"kind": "TokenReview", "spec": {"token": "theirs", "audiences": ["x", "mesh"]}});
    assert_eq!(ask(at, "POST", path, &asked.to_string()).await.1["status"]["audiences"], json!(["mesh"]));
    server.let_review(false);
    assert!(ask(at, "POST", path, &review("pod")).await.0.starts_with("http/1.1 403"));
    server.plan(Resource::Nodes, Verb::List, 1, Fault::Status(429, "TooManyRequests", Some(7)));
    let (head, _) = ask(at, "GET", "/api/v1/nodes", "").await;
    assert!(head.starts_with("http/1.1 429") && head.contains("retry-after: 7"));
    server.set_token(Some("another"));
    assert!(ask(at, "GET", "/api/v1/nodes", "").await.0.starts_with("http/1.1 401"));
    server.set_absent(Resource::EndpointSlices, true);
    server.set_token(None);
    let slices = "/apis/discovery.k8s.io/v1/endpointslices";
    assert!(ask(at, "GET", slices, "").await.0.starts_with("http/1.1 404"));
    let mut watch = events(at, "/api/v1/nodes?watch=1").await;
    server.watched(Resource::Nodes, 1).await;
    server.stop().await;
    assert_eq!(next(&mut watch).await, None);
    assert!(TcpStream::connect(at).await.is_err());
    server.resume().await.unwrap();
    assert!(ask(at, "GET", "/api/v1/nodes", "").await.0.starts_with("http/1.1 200"));
}
