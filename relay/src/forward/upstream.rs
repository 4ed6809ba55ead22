//! The relay of a server without a directory, as a member of the directory's server: bound there as a node is, so that
//! datagrams cross between both.
//!
//! Life cycle: [`Switch::stay_bound`] runs as long as the membership holds; where the directory's server was last is
//! remembered after it, so that datagrams go on while the control connection is away. Nothing of it is believed that
//! does not come from there; binds are paced, whoever asks for them.

use super::{Ends, From, Switch, Verdict, Way};
use crate::counters::Loss;
use edgemesh_core::wire::relay::{BIND, Cookie, Message, verify};
use std::net::SocketAddr;
use std::time::Duration;
use tokio::sync::{Mutex, Notify, mpsc};
use tokio::time::timeout;

/// How often the binding is refreshed, as nodes do.
const REFRESH: Duration = Duration::from_secs(20);
/// How long an answer may take.
const RETRY: Duration = Duration::from_secs(1);
/// Binds are at least so far apart, but for the one that answers a challenge.
const PAUSE: Duration = Duration::from_millis(100);
/// Answers that wait.
const ANSWERS: usize = 8;

/// How this relay is known to the directory's server.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Membership {
    pub(crate) server: SocketAddr,
    pub(crate) index: u32,
    /// The key of its binds.
    pub(crate) key: [u8; 32],
    /// Binds carry epochs above this one.
    pub(crate) epoch: u64,
}

/// What the directory's server answers to binds.
pub(crate) struct Upstream {
    answers: mpsc::Sender<[u8; BIND]>,
    heard: Mutex<mpsc::Receiver<[u8; BIND]>>,
    again: Notify,
}

impl Upstream {
    /// Not bound yet.
    pub(crate) fn new() -> Self {
        let (answers, heard) = mpsc::channel(ANSWERS);
        Self { answers, heard: Mutex::new(heard), again: Notify::new() }
    }
}

impl Switch {
    /// A message that only servers send.
    pub(super) fn server_message(&self, from: From<'_>, message: &Message<'_>, datagram: &[u8]) -> Verdict {
        let tables = self.tables();
        let is = tables.upstream.is_some_and(|remote| from.is(&Way::Udp(Ends { remote, local: None })));
        let Some(upstream) = self.upstream.as_ref().filter(|_| is) else {
            drop(tables);
            return self.lose(Loss::Malformed);
        };
        if let Message::Unbound { session } = message {
            // Either this relay is not bound there, or the session is not known: its sender asks for another.
            upstream.again.notify_one();
            let sender = tables.sessions.get(session).and_then(|session| tables.way(session.from));
            return sender.cloned().map_or(Verdict::Nothing, Verdict::Forward);
        }
        if let Ok(answer) = <[u8; BIND]>::try_from(datagram) {
            // Nobody waits for more than fit.
            let _ = upstream.answers.try_send(answer);
        }
        Verdict::Nothing
    }

    /// Keeps this relay bound at the directory's server, for ever.
    pub(crate) async fn stay_bound(&self, membership: &Membership) {
        let Some(upstream) = &self.upstream else { return };
        self.tables().upstream = Some(membership.server);
        let mut heard = upstream.heard.lock().await;
        let mut epoch = membership.epoch;
        let mut cookie = None;
        loop {
            epoch = epoch.saturating_add(1);
            self.send_bind(membership, epoch, cookie.unwrap_or_default());
            match timeout(RETRY, answer(&mut heard, membership, epoch)).await {
                Ok(Some(challenge)) if cookie != Some(challenge) => cookie = Some(challenge),
                Ok(None) => {
                    tokio::select! {
                        () = tokio::time::sleep(REFRESH) => {}
                        () = upstream.again.notified() => tokio::time::sleep(PAUSE).await,
                    }
                }
                Ok(Some(_)) | Err(_) => tokio::time::sleep(PAUSE).await,
            }
        }
    }

    fn send_bind(&self, membership: &Membership, epoch: u64, cookie: Cookie) {
        let mut out = [0; BIND];
        let bind = Message::Bind { index: membership.index, epoch, cookie };
        if let Ok(len) = bind.emit(&membership.key, &mut out) {
            let to = Ends { remote: membership.server, local: None };
            self.send(&to, out.get(..len).unwrap_or_default(), None, None, 0);
        }
    }
}

/// Waits for the answer to the bind of this epoch: a challenge, or `None` once it is accepted.
async fn answer(
    heard: &mut mpsc::Receiver<[u8; BIND]>,
    membership: &Membership,
    bind: u64,
) -> Option<Cookie> {
    while let Some(datagram) = heard.recv().await {
        if !verify(&membership.key, &datagram) {
            continue;
        }
        match Message::parse(&datagram) {
            Ok(Message::Challenge { index, cookie }) if index == membership.index => return Some(cookie),
            Ok(Message::Bound { index, epoch, .. }) if index == membership.index && epoch == bind => {
                return None;
            }
            _ => {}
        }
    }
    std::future::pending().await
}
