//! Queries in datagrams, read by the thread that owns the engine: what it knows is answered at once, without another
//! thread's help. What it does not know takes a place and goes to the [`Server`](super::Server), which answers by the
//! same socket.
//!
//! Life cycle: a [`Listener`] is made with the sockets of a server and read whenever its descriptor is ready. Bounds: the
//! places, see [`super`]; an answer of at most [`ANSWER`] octets. It never waits: an answer for which the socket has no
//! room is lost, as nobody waits for that one.

use std::io::ErrorKind;
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

use edgemesh_core::dns::Verdict;
use tokio::sync::mpsc::UnboundedSender;

use super::{MAX_QUERY, Places, Stats, Taken, Transport, turned_away};

/// Room for an answer, in octets: more than any resolver asks for.
const ANSWER: usize = 4_096;

/// A query that waits for somebody else.
pub(super) struct Pending {
    pub(super) socket: Arc<UdpSocket>,
    pub(super) client: SocketAddr,
    pub(super) query: Vec<u8>,
    pub(super) verdict: Verdict,
    /// What the engine has written of the answer.
    pub(super) begun: Vec<u8>,
    pub(super) taken: Taken,
}

/// A socket for queries in datagrams.
pub struct Listener {
    socket: Arc<UdpSocket>,
    places: Arc<Places>,
    /// It is bounded by the places.
    pending: UnboundedSender<Pending>,
    query: Box<[u8]>,
    answer: Box<[u8]>,
}

impl Listener {
    pub(super) fn new(socket: UdpSocket, places: Arc<Places>, pending: UnboundedSender<Pending>) -> Self {
        let buffer = |len: usize| vec![0; len].into_boxed_slice();
        Self { socket: Arc::new(socket), places, pending, query: buffer(MAX_QUERY), answer: buffer(ANSWER) }
    }

    /// Takes what has come, at most `most` queries; `resolve` answers one into the buffer that it is given.
    pub fn read(&mut self, most: usize, mut resolve: impl FnMut(&[u8], &mut [u8]) -> Verdict) {
        for _ in 0..most {
            let (len, client) = match self.socket.recv_from(&mut self.query) {
                Ok(received) => received,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                // An ICMP message about an earlier answer.
                Err(_) => continue,
            };
            self.places.stats.query(Transport::Udp);
            let query = self.query.get(..len).unwrap_or_default();
            let verdict = resolve(query, &mut self.answer);
            match verdict {
                Verdict::Answer { len, .. } => self.send(self.answer.get(..len).unwrap_or_default(), client),
                Verdict::Drop(_) => Stats::add(&self.places.stats.dropped),
                Verdict::Chase { len: begun } => self.hand_over(query, client, verdict, begun),
                Verdict::Forward | Verdict::Wait(_) => self.hand_over(query, client, verdict, 0),
            }
        }
    }

    fn hand_over(&self, query: &[u8], client: SocketAddr, verdict: Verdict, begun: usize) {
        match self.places.enter(client.ip()) {
            Ok(taken) => {
                let (socket, query) = (self.socket.clone(), query.to_vec());
                let begun = self.answer.get(..begun).unwrap_or_default().to_vec();
                // Nobody answers any more when the server has ended.
                let _ = self.pending.send(Pending { socket, client, query, verdict, begun, taken });
            }
            Err(rcode) => {
                Stats::add(&self.places.stats.overload);
                if let Some(answer) = turned_away(query, rcode) {
                    let _ = self.socket.send_to(&answer, client);
                }
            }
        }
    }

    fn send(&self, answer: &[u8], client: SocketAddr) {
        if self.socket.send_to(answer, client).is_err() {
            Stats::add(&self.places.stats.overload);
        }
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}
