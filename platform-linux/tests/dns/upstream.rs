//! An upstream for tests: real sockets on loopback, replies by a closure.

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;

use edgemesh_agent::dns::Transport;
use hickory_proto::op::{Message, ResponseCode};
use hickory_proto::rr::rdata::{A, AAAA};
use hickory_proto::rr::{RData, Record, RecordType};
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, UdpSocket};
use tokio::task::spawn_local;

use super::{framed, own_address, read};

/// An upstream under the test's control.
pub(crate) struct Upstream {
    pub(crate) address: SocketAddr,
    asked: Rc<Cell<usize>>,
    seen: Rc<RefCell<(BTreeSet<u16>, Vec<String>)>>,
}

impl Upstream {
    /// Answers questions with all the messages that `reply` gives, but for probes, which nobody answers.
    pub(crate) async fn start(reply: impl Fn(Message, Transport) -> Vec<Message> + 'static) -> Self {
        let udp = UdpSocket::bind(own_address()).await.unwrap();
        let address = udp.local_addr().unwrap();
        let tcp = TcpListener::bind(address).await.unwrap();
        let asked = Rc::new(Cell::new(0));
        let count = asked.clone();
        let reply = Rc::new(move |question: Message, transport| {
            if question.queries[0].query_type() == RecordType::HINFO {
                return vec![];
            }
            count.set(count.get() + 1);
            reply(question, transport)
        });
        let for_udp = reply.clone();
        let seen = Rc::new(RefCell::new((BTreeSet::new(), Vec::new())));
        let noted = seen.clone();
        spawn_local(async move {
            let mut buffer = [0; 4096];
            loop {
                let (len, client) = udp.recv_from(&mut buffer).await.unwrap();
                let question = Message::from_vec(&buffer[..len]).unwrap();
                if question.queries[0].query_type() != RecordType::HINFO {
                    noted.borrow_mut().0.insert(client.port());
                    noted.borrow_mut().1.push(question.queries[0].name().to_string());
                }
                for reply in for_udp(question, Transport::Udp) {
                    udp.send_to(&reply.to_vec().unwrap(), client).await.unwrap();
                }
            }
        });
        spawn_local(async move {
            loop {
                let (mut stream, _) = tcp.accept().await.unwrap();
                let question = read(&mut stream).await;
                for reply in reply(question, Transport::Tcp) {
                    stream.write_all(&framed(&reply)).await.unwrap();
                }
            }
        });
        Self { address, asked, seen }
    }

    /// How many questions came, probes not counted.
    pub(crate) fn asked(&self) -> usize {
        self.asked.get()
    }

    /// From which ports questions came in datagrams, and for which names.
    pub(crate) fn seen(&self) -> (BTreeSet<u16>, Vec<String>) {
        self.seen.borrow().clone()
    }

    /// An upstream that never answers.
    pub(crate) async fn silent() -> Self {
        Self::start(|_, _| vec![]).await
    }
}

/// An address where nobody listens: the socket is closed again.
pub(crate) fn closed() -> SocketAddr {
    std::net::UdpSocket::bind(own_address()).unwrap().local_addr().unwrap()
}

/// The reply to `question` with these addresses.
pub(crate) fn addresses(question: &Message, addresses: impl IntoIterator<Item = IpAddr>) -> Message {
    let mut message = question.clone().into_response();
    message.metadata.recursion_available = true;
    for address in addresses {
        let data = match address {
            IpAddr::V4(v4) => RData::A(A(v4)),
            IpAddr::V6(v6) => RData::AAAA(AAAA(v6)),
        };
        message.add_answer(Record::from_rdata(question.queries[0].name().clone(), 300, data));
    }
    message
}

/// The reply to `question` with one address that tells this upstream from others.
pub(crate) fn one(question: &Message, last: u8) -> Vec<Message> {
    vec![addresses(question, [IpAddr::from([192, 0, 2, last])])]
}

/// A reply of this code without records.
pub(crate) fn code(question: &Message, code: ResponseCode) -> Vec<Message> {
    let mut message = question.clone().into_response();
    message.metadata.response_code = code;
    vec![message]
}
