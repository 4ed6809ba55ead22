//! How the other threads talk to the data thread: commands in, and an eventfd to wake it.
//!
//! The data thread owns the engine alone, so nothing here is locked per packet. A command either carries input
//! for the engine or a closure that looks at it; answers come back over channels that the asker made.

use crate::agent::data::Data;
use crate::poll::Waker;
use edgemesh_core::dns::{Transport, Verdict};
use std::io;
use std::net::{SocketAddr, TcpStream};
use std::sync::mpsc;
use tokio::sync::oneshot;

/// Input for the data thread.
pub enum Command {
    /// A DNS query that did not come by a [`Listener`](crate::dns::Listener), or waits.
    Query {
        /// What carried it.
        transport: Transport,
        /// Its bytes.
        query: Vec<u8>,
        /// Who waits for the answer.
        reply: oneshot::Sender<QueryReply>,
    },
    /// The control connection to this server is open.
    ControlUp(SocketAddr),
    /// A frame came on the control connection.
    Frame(Vec<u8>),
    /// The control connection is gone.
    ControlDown,
    /// The TCP relay connection is open: it is the data thread's, which says why it ended.
    RelayUp(TcpStream, oneshot::Sender<io::Error>),
    /// The TCP relay connection is gone, or is not wanted any more.
    RelayDown,
    /// Look at the engine, or change it.
    Inspect(Box<dyn FnOnce(&mut Data) + Send>),
    /// Finish.
    Stop,
}

/// What became of a query.
#[derive(Debug)]
pub struct QueryReply {
    /// What is to be done.
    pub verdict: Verdict,
    /// The answer, if there is one.
    pub answer: Vec<u8>,
    /// How many answers of the server about Services had come when one of them was found that this query waited for;
    /// 0 for a query that did not wait.
    pub learnt: u64,
}

/// Sends commands from any thread.
#[derive(Clone)]
pub struct Handle {
    commands: mpsc::Sender<Command>,
    waker: Waker,
}

impl Handle {
    /// A handle, and the end that the data thread reads.
    pub fn new(waker: Waker) -> (Self, mpsc::Receiver<Command>) {
        let (commands, receiver) = mpsc::channel();
        (Self { commands, waker }, receiver)
    }

    /// Hands a command over. After the data thread has ended, commands vanish.
    pub fn send(&self, command: Command) {
        if self.commands.send(command).is_ok() {
            self.waker.wake();
        }
    }

    /// What the engine makes of a DNS query, after the server has said what it had to be asked for that; `None` when that
    /// thread has ended.
    pub async fn query(&self, transport: Transport, query: Vec<u8>) -> Option<QueryReply> {
        let (reply, answered) = oneshot::channel();
        self.send(Command::Query { transport, query, reply });
        answered.await.ok()
    }

    /// Runs `look` on the data thread and returns what it found; `None` when that thread has ended.
    pub async fn inspect<T: Send + 'static>(
        &self,
        look: impl FnOnce(&mut Data) -> T + Send + 'static,
    ) -> Option<T> {
        let (tell, told) = oneshot::channel();
        self.send(Command::Inspect(Box::new(move |data| {
            let _ = tell.send(look(data));
        })));
        told.await.ok()
    }
}
