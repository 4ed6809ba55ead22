//! `ping NODE`: the round trip to a node through the mesh, measured now, with the way that each probe took.
//!
//! The probe is a message inside the session with the node, so an answer proves keys, path and the other agent;
//! it says nothing of the Services there.

use super::listing::{millis, path};
use super::reach::Reached;
use super::{Admin, Failure, Report, stopping};
use crate::clock;
use edgemesh_core::node::Event;
use serde::{Deserialize, Serialize};
use std::time::Duration;
use tokio::time::{sleep, timeout};

const COUNT: usize = 4;
/// Between probes, so that they meet different moments of the network.
const PAUSE: Duration = Duration::from_millis(200);
const ANSWER_PATIENCE: Duration = Duration::from_secs(2);
const SESSION_PATIENCE: Duration = Duration::from_secs(10);

/// The answer to `ping`.
#[derive(Serialize, Deserialize, Debug)]
#[serde(rename_all = "camelCase")]
pub struct Ping {
    /// Node name.
    pub node: String,
    /// The way in use at the end: `direct`, `relay` or `relay-tcp`.
    pub path: String,
    /// Where datagrams go, when straight.
    pub remote: Option<String>,
    /// Largest packet in bytes that the path carries.
    pub mtu: u16,
    /// Probes sent.
    pub sent: usize,
    /// Those that were answered, in order.
    pub replies: Vec<Reply>,
    /// Mean round trip of them in milliseconds.
    pub rtt_ms: Option<f64>,
}

/// An answered probe.
#[derive(Serialize, Deserialize, Debug)]
#[serde(rename_all = "camelCase")]
pub struct Reply {
    /// Round trip in milliseconds.
    pub rtt_ms: f64,
    /// The way that the probe took.
    pub path: String,
    /// Where it went, when straight.
    pub remote: Option<String>,
}

impl Report for Ping {
    fn lines(&self) -> Vec<String> {
        let way = |path: &str, remote: &Option<String>| match remote {
            Some(remote) => format!("{path} {remote}"),
            None => path.to_owned(),
        };
        let mut lines = Vec::new();
        for reply in &self.replies {
            lines.push(format!("{:.1} ms by {}", reply.rtt_ms, way(&reply.path, &reply.remote)));
        }
        let rtts = self.replies.iter().map(|reply| reply.rtt_ms);
        let (least, most) = rtts.fold((f64::MAX, 0.0_f64), |(a, b), rtt| (a.min(rtt), b.max(rtt)));
        let times = match self.rtt_ms {
            Some(mean) => format!(", round trip {least:.1} / {mean:.1} / {most:.1} ms (least, mean, most)"),
            None => String::new(),
        };
        lines.push(format!("{}: {} of {} answered{times}", self.node, self.replies.len(), self.sent));
        lines.push(format!("path {}, packets of up to {} bytes", way(&self.path, &self.remote), self.mtu));
        lines
    }

    fn failure(&self) -> Option<String> {
        // A node that does not answer has no answer to print.
        None
    }
}

impl Admin {
    pub(super) async fn ping(&self, node: &str) -> Result<Ping, Failure> {
        if node == self.shared.node {
            return Err(Failure(400, format!("{node} is this node: name another, such as one of `peers`")));
        }
        let index = self.index_of(node).await?;
        let _measuring = self.measuring.lock().await;
        let mut events = self.watch().await.ok_or_else(stopping)?;
        let reached = self.reach(index, &mut events, SESSION_PATIENCE).await.ok_or_else(stopping)?;
        if !reached.is_up() {
            return Err(unreachable(node, &reached));
        }
        let mut replies = Vec::new();
        for n in 0..COUNT {
            if n > 0 {
                sleep(PAUSE).await;
            }
            let probe = move |data: &mut crate::agent::data::Data| {
                let now = clock::now();
                let peer = data.engine.peers(now).find(|peer| peer.index == index);
                data.engine.ping(now, index).then_some(peer).flatten()
            };
            let Some(peer) = self.handle.inspect(probe).await.ok_or_else(stopping)? else { continue };
            let answered = async {
                loop {
                    match events.recv().await? {
                        Event::Pong { index: from, rtt } if from == index => return Some(rtt),
                        _ => {}
                    }
                }
            };
            if let Ok(Some(rtt)) = timeout(ANSWER_PATIENCE, answered).await {
                let (path, remote) = path(&peer);
                replies.push(Reply { rtt_ms: millis(rtt), path: path.to_owned(), remote });
            }
        }
        let reached = self.look(index).await.ok_or_else(stopping)?;
        match &reached.peer {
            Some(peer) if !replies.is_empty() => {
                let (path, remote) = path(peer);
                let mean = replies.iter().map(|reply| reply.rtt_ms).sum::<f64>() / replies.len() as f64;
                Ok(Ping {
                    node: node.to_owned(),
                    path: path.to_owned(),
                    remote,
                    mtu: peer.path.mtu,
                    sent: COUNT,
                    replies,
                    rtt_ms: Some(mean),
                })
            }
            _ => Err(Failure(504, format!("{node}: none of {COUNT} probes was answered"))),
        }
    }
}

fn unreachable(node: &str, reached: &Reached) -> Failure {
    let (what, remedy) = reached.obstacle(node);
    Failure(504, format!("{what}; {remedy}"))
}
