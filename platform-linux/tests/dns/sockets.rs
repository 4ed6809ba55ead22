//! Rows W: sockets and framing.

use edgemesh_agent::dns::{MAX_ASKED, MAX_PER_CLIENT, Sockets};
use hickory_proto::op::ResponseCode;
use hickory_proto::rr::RecordType::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::upstream::Upstream;
use super::zone::{big, cluster};
use super::{Node, PATIENCE, client, client_at, data, framed, own_address, query, read, receive, run};

const SVC1: &str = "svc1.testns.svc.cluster.local.";

#[test]
fn w2_every_record_over_udp_and_tcp() {
    run(async {
        let node = Node::start(cluster(), vec![]);
        let cases = [
            (SVC1, A),
            (SVC1, AAAA),
            (SVC1, SRV),
            ("_http._tcp.hdls1.testns.svc.cluster.local.", SRV),
            ("db-0.db.default.svc.cluster.local.", A),
            ("1.0.128.242.in-addr.arpa.", PTR),
            ("internal.testns.svc.cluster.local.", A),
            ("dns-version.cluster.local.", TXT),
            ("nope.testns.svc.cluster.local.", A),
        ];
        for (name, rtype) in cases {
            let asked = query(name, rtype);
            let (udp, tcp) = (node.udp(&asked).await, node.tcp(&asked).await);
            assert_eq!(udp, tcp, "{name}");
            assert!(udp.metadata.authoritative);
            assert_eq!(udp.answers.is_empty(), rtype == AAAA || name.starts_with("nope"), "{name}");
        }
        assert_eq!((node.stat("udp_queries"), node.stat("tcp_queries")), (9, 9));
    });
}

#[test]
fn w3_a_thousand_addresses_are_cut_over_udp_and_whole_over_tcp() {
    run(async {
        let node = Node::start(big(1000), vec![]);
        let asked = query("big.default.svc.cluster.local.", A);
        assert!(node.udp(&asked).await.metadata.truncation);
        let whole = node.tcp(&asked).await;
        assert_eq!((whole.answers.len(), whole.metadata.truncation), (1000, false));
    });
}

#[test]
fn w7_garbage_and_responses_get_no_answer_and_harm_nobody() {
    run(async {
        let node = Node::start(cluster(), vec![]);
        let socket = client(node.address).await;
        let response = query(SVC1, A).into_response().to_vec().unwrap();
        for scrap in [&b""[..], b"x", &[0xff; 600], &response] {
            socket.send(scrap).await.unwrap();
        }
        socket.send(&query(SVC1, A).to_vec().unwrap()).await.unwrap();
        let first = receive(&socket).await;
        assert_eq!(data(&first), ["10.0.0.1"]);
        assert_eq!(node.stat("dropped"), 4);
        for scrap in [&b"\x00\x00"[..], b"\xff\xff", b"\x00\x05abcde"] {
            let mut stream = TcpStream::connect(node.address).await.unwrap();
            stream.write_all(scrap).await.unwrap();
            stream.shutdown().await.unwrap();
            let mut rest = Vec::new();
            timeout(PATIENCE, stream.read_to_end(&mut rest)).await.unwrap().unwrap();
            assert!(rest.is_empty(), "{scrap:?}");
        }
        assert_eq!(data(&node.tcp(&query(SVC1, A)).await), ["10.0.0.1"]);
    });
}

#[test]
fn w9_queries_are_pipelined_and_framing_may_be_split_anywhere() {
    run(async {
        let node = Node::start(cluster(), vec![]);
        let mut stream = TcpStream::connect(node.address).await.unwrap();
        stream.set_nodelay(true).unwrap();
        let mut bytes = Vec::new();
        for id in 0..5 {
            let mut message = query(SVC1, A);
            message.metadata.id = id;
            bytes.extend(framed(&message));
        }
        for part in bytes.chunks(7) {
            stream.write_all(part).await.unwrap();
            tokio::task::yield_now().await;
        }
        let mut ids = Vec::new();
        for _ in 0..5 {
            ids.push(read(&mut stream).await.metadata.id);
        }
        ids.sort_unstable();
        assert_eq!(ids, [0, 1, 2, 3, 4]);
    });
}

#[test]
fn w9_a_slow_question_does_not_hold_up_the_next() {
    run(async {
        let node = Node::start(cluster(), vec![Upstream::silent().await.address]);
        let mut stream = TcpStream::connect(node.address).await.unwrap();
        let both = [framed(&query("slow.test.", A)), framed(&query(SVC1, A))].concat();
        stream.write_all(&both).await.unwrap();
        assert_eq!(data(&read(&mut stream).await), ["10.0.0.1"]);
        assert_eq!(read(&mut stream).await.metadata.response_code, ResponseCode::ServFail);
    });
}

#[test]
fn w9_a_connection_ends_after_128_queries() {
    run(async {
        let node = Node::start(cluster(), vec![]);
        let mut stream = TcpStream::connect(node.address).await.unwrap();
        for _ in 0..128 {
            stream.write_all(&framed(&query(SVC1, A))).await.unwrap();
            read(&mut stream).await;
        }
        assert_eq!(timeout(PATIENCE, stream.read(&mut [0])).await.unwrap().unwrap(), 0);
    });
}

#[test]
fn w9_a_connection_that_is_silent_or_drips_is_closed() {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
    runtime.block_on(tokio::task::LocalSet::new().run_until(async {
        let node = Node::start(cluster(), vec![]);
        for start in [&b""[..], b"\x00", b"\x00\x20\x12\x34"] {
            let mut stream = TcpStream::connect(node.address).await.unwrap();
            stream.write_all(start).await.unwrap();
            assert_eq!(stream.read(&mut [0]).await.unwrap(), 0, "{start:?}");
        }
        assert_eq!(node.stat("connections_cut"), 3);
    }));
}

#[test]
fn w11_a_reply_leaves_from_the_address_that_was_asked() {
    run(async {
        let sockets = Sockets::bind(&[own_address(), own_address()]).unwrap();
        let bound = sockets.addresses();
        let mut node = Node::start_on(sockets, cluster(), vec![]);
        for address in bound {
            node.address = address;
            assert_eq!(data(&node.udp(&query(SVC1, A)).await), ["10.0.0.1"]);
            assert_eq!(data(&node.tcp(&query(SVC1, A)).await), ["10.0.0.1"]);
        }
    });
}

#[test]
fn w13_one_client_cannot_take_every_connection() {
    run(async {
        let node = Node::start(cluster(), vec![]);
        let mut open = Vec::new();
        for _ in 0..MAX_PER_CLIENT {
            let mut stream = TcpStream::connect(node.address).await.unwrap();
            stream.write_all(&framed(&query(SVC1, A))).await.unwrap();
            read(&mut stream).await;
            open.push(stream);
        }
        let mut refused = TcpStream::connect(node.address).await.unwrap();
        assert_eq!(timeout(PATIENCE, refused.read(&mut [0])).await.unwrap().unwrap(), 0);
        assert_eq!(node.stat("connections_cut"), 1);
        assert_eq!(data(&node.udp(&query(SVC1, A)).await), ["10.0.0.1"]);
    });
}

#[test]
fn w13_a_client_with_too_much_under_way_is_refused_and_others_are_not() {
    run(async {
        let node = Node::start(cluster(), vec![Upstream::silent().await.address]);
        let (greedy, modest) = (client(node.address).await, client_at("127.0.0.2:0", node.address).await);
        let mut refused = 0;
        for id in 0..=MAX_ASKED as u16 {
            let mut slow = query(&format!("n{id}.test."), A);
            slow.metadata.id = id;
            greedy.send(&slow.to_vec().unwrap()).await.unwrap();
            // Give the node its turn, so that its socket's buffer does not overflow.
            while node.stat("udp_queries") < u64::from(id) {
                tokio::task::yield_now().await;
            }
        }
        let first = receive(&greedy).await;
        refused += usize::from(first.metadata.response_code == ResponseCode::Refused);
        modest.send(&query(SVC1, A).to_vec().unwrap()).await.unwrap();
        assert_eq!(data(&receive(&modest).await), ["10.0.0.1"]);
        assert_eq!((refused, node.stat("overload")), (1, 1));
        for _ in 0..MAX_ASKED {
            assert_eq!(receive(&greedy).await.metadata.response_code, ResponseCode::ServFail);
        }
        greedy.send(&query(SVC1, A).to_vec().unwrap()).await.unwrap();
        assert_eq!(data(&receive(&greedy).await), ["10.0.0.1"], "served again");
    });
}

#[test]
fn a_taken_port_is_named_in_the_error() {
    let taken = std::net::UdpSocket::bind(own_address()).unwrap();
    let address = taken.local_addr().unwrap();
    let error = Sockets::bind(&[address]).err().unwrap();
    assert_eq!(error.kind(), std::io::ErrorKind::AddrInUse);
    assert!(error.to_string().contains(&format!("{address} (UDP)")), "{error}");
}
