use super::*;
use crate::metrics::Text;
use std::io::{Read, Write};
use std::sync::Arc;

struct Fixed;

impl Handler for Fixed {
    async fn ready(&self) -> Result<(), String> {
        Err("no server answers".to_owned())
    }

    async fn metrics(&self, out: &mut Text) {
        out.gauge("peers", "Peers.", 2);
    }

    async fn route(&self, request: Request) -> Response {
        match (request.method, request.path.as_str()) {
            (Method::Get, "/echo") => Response::json(&request.parameter("q")),
            (Method::Post, "/echo") => Response::text(200, String::from_utf8_lossy(&request.body)),
            _ => Response::not_found(),
        }
    }
}

/// Runs `client` on a thread against a served endpoint.
fn against(address: &Address, client: impl FnOnce(Address) + Send + 'static) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let listener = Listener::bind(address).await.unwrap();
        let bound = listener.address().clone();
        let server = tokio::spawn(serve(listener, Arc::new(Fixed)));
        tokio::task::spawn_blocking(move || client(bound)).await.unwrap();
        server.abort();
        let _ = server.await;
    });
}

fn tcp() -> Address {
    "127.0.0.1:0".parse().unwrap()
}

#[test]
fn probes_metrics_and_routes_answer_over_tcp() {
    against(&tcp(), |at| {
        assert_eq!(get(&at, "/livez").unwrap(), b"ok\n");
        let Err(ClientError::Refused(503, text)) = get(&at, "/readyz") else { panic!() };
        assert!(text.contains("no server answers"));
        let metrics = String::from_utf8(get(&at, "/metrics").unwrap()).unwrap();
        assert!(metrics.contains("edgemesh_peers 2\n"));
        let path = format!("/echo?x=1&q={}", encode("a b/é&="));
        assert_eq!(get(&at, &path).unwrap(), "\"a b/é&=\"".as_bytes());
        assert_eq!(post(&at, "/echo", &[b'x'; 60_000]).unwrap().len(), 60_000);
        assert!(matches!(get(&at, "/none"), Err(ClientError::Refused(404, _))));
        assert!(post(&at, "/echo", &vec![0; BODY_MAX + 1]).is_err());
    });
}

#[test]
fn a_unix_socket_is_private_replaced_when_stale_and_removed_at_the_end() {
    use std::os::unix::fs::PermissionsExt;
    let path = std::env::temp_dir().join(format!("edgemesh-admin-{}/a.sock", std::process::id()));
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    let address = Address::Unix(path.clone());
    against(&address, |at| {
        let Address::Unix(path) = &at else { panic!() };
        assert_eq!(std::fs::metadata(path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(get(&at, "/livez").unwrap(), b"ok\n");
        let second = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let error = second.block_on(Listener::bind(&at)).unwrap_err().to_string();
        assert!(error.contains("another process") && error.contains("a.sock"), "{error}");
    });
    assert!(!path.exists());
    let error = get(&address, "/livez").unwrap_err().to_string();
    assert!(error.contains("is it running?"), "{error}");
    std::fs::remove_dir_all(path.parent().unwrap()).unwrap();
}

#[test]
fn garbage_gets_an_error_and_the_endpoint_lives_on() {
    against(&tcp(), |at| {
        let Address::Tcp(tcp) = at else { panic!() };
        let say = |bytes: &[u8]| {
            let mut stream = std::net::TcpStream::connect(tcp).unwrap();
            let _ = stream.write_all(bytes);
            let _ = stream.shutdown(std::net::Shutdown::Write);
            let mut answer = String::new();
            let _ = stream.read_to_string(&mut answer);
            answer
        };
        assert!(say(b"\x00\xff\x16\x03 garbage\r\n\r\n").starts_with("HTTP/1.1 400"));
        assert!(say(b"PUT / HTTP/1.1\r\n\r\n").starts_with("HTTP/1.1 405"));
        assert!(say(b"POST / HTTP/1.1\r\nContent-Length: -3\r\n\r\n").starts_with("HTTP/1.1 400"));
        assert!(say(b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n").starts_with("HTTP/1.1 501"));
        assert_eq!(say(b"GET / HT"), "");
        assert!(
            say(&[b"GET / HTTP/1.1\r\nA: ".as_slice(), &[b'a'; 3 * HEAD_MAX]].concat())
                .starts_with("HTTP/1.1 431")
        );
        assert_eq!(get(&at, "/livez").unwrap(), b"ok\n");
    });
}

#[test]
fn addresses_are_read_as_written() {
    for text in ["unix:/run/x.sock", "127.0.0.1:20005", "[::1]:1"] {
        assert_eq!(text.parse::<Address>().unwrap().to_string(), text);
    }
    for text in ["unix:", "/run/x.sock", "localhost:1", ""] {
        assert!(text.parse::<Address>().unwrap_err().contains("accepted"), "{text}");
    }
    assert_eq!(decode("%zz%4"), "%zz%4");
}
