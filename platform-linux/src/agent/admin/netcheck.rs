//! `netcheck`: what this node's network allows, and what to do where it does not.
//!
//! It reports what the running agent has found out; nothing is sent for it. One server sees one mapping of the
//! NAT, so whether the mapping depends on the destination cannot be told from here.

use super::listing::millis;
use super::{Admin, Failure, Report, stopping};
use crate::agent::locals;
use crate::tun::DEFAULT_MTU;
use edgemesh_core::path::RelayLeg;
use serde::{Deserialize, Serialize};
use std::net::SocketAddr;

/// The answer to `netcheck`.
#[derive(Serialize, Deserialize, Debug)]
#[serde(rename_all = "camelCase")]
pub struct Netcheck {
    /// Servers, in the order in which they are tried.
    pub servers: Vec<String>,
    /// Whether one has accepted this node on the control connection (TCP).
    pub connected: bool,
    /// Its address.
    pub server: Option<String>,
    /// How the relay is reached: `udp`, `tcp` or `none`.
    pub relay: String,
    /// Round trip to the relay in milliseconds.
    pub relay_rtt_ms: Option<f64>,
    /// UDP address for tunnels.
    pub listen: String,
    /// This node's own addresses, as other nodes are told.
    pub candidates: Vec<String>,
    /// This node's address as the relay sees it.
    pub observed: Option<String>,
    /// `none`, `keeps the port`, `changes the port` or `unknown`.
    pub nat: String,
    /// MTU of the mesh device in bytes.
    pub mtu: u16,
    /// Smallest packet size in bytes that a path in use allows.
    pub smallest_path_mtu: Option<u16>,
    /// What stands in the way, with what to do about it.
    pub problems: Vec<String>,
}

impl Report for Netcheck {
    fn lines(&self) -> Vec<String> {
        let dash = |text: &Option<String>| text.clone().unwrap_or_else(|| "unknown".into());
        let rtt = self.relay_rtt_ms.map_or(String::new(), |ms| format!(", round trip {ms:.1} ms"));
        let mut lines = vec![
            match &self.server {
                Some(server) if self.connected => format!("server      connected to {server} (TCP)"),
                _ => format!("server      not connected; tried {}", self.servers.join(", ")),
            },
            match self.relay.as_str() {
                "none" => "relay       not usable".to_owned(),
                leg => format!("relay       by {}{rtt}", leg.to_uppercase()),
            },
            format!("listen      {} (UDP)", self.listen),
            format!(
                "candidates  {}",
                if self.candidates.is_empty() { "none".into() } else { self.candidates.join(", ") }
            ),
            format!("seen as     {}", dash(&self.observed)),
            format!("NAT         {}", self.nat),
            format!(
                "MTU         {} bytes, smallest in use {}",
                self.mtu,
                dash(&self.smallest_path_mtu.map(|n| n.to_string()))
            ),
        ];
        lines.extend(self.problems.iter().map(|problem| format!("problem: {problem}")));
        lines
    }

    fn failure(&self) -> Option<String> {
        let works = self.connected && self.relay != "none";
        (!works).then(|| "this node's network does not let the agent do all of its work".to_owned())
    }
}

impl Admin {
    pub(super) async fn netcheck(&self) -> Result<Netcheck, Failure> {
        let look = |data: &mut crate::agent::data::Data| {
            let paths = data.engine.paths();
            let sizes =
                data.engine.peers(crate::clock::now()).filter(|peer| peer.up).map(|peer| peer.path.mtu);
            let link = data.engine.link();
            let relay = (paths.relay_leg(), paths.relay_rtt(), paths.reflexive());
            (link.is_up(), link.server(), relay, sizes.min())
        };
        let (connected, server, (leg, rtt, observed), smallest) =
            self.handle.inspect(look).await.ok_or_else(stopping)?;
        let listen = self.shared.listen;
        let candidates: Vec<SocketAddr> = locals::addresses(listen.port())
            .map_err(|error| Failure(500, format!("cannot list this node's addresses: {error}")))?
            .into_iter()
            .map(|local| local.address)
            .collect();
        let mut netcheck = Netcheck {
            servers: self.shared.servers.clone(),
            connected,
            server: server.map(|server| server.to_string()),
            relay: match leg {
                RelayLeg::None => "none",
                RelayLeg::Udp => "udp",
                RelayLeg::Tcp => "tcp",
            }
            .to_owned(),
            relay_rtt_ms: rtt.map(millis),
            listen: listen.to_string(),
            nat: nat(observed.filter(|_| leg == RelayLeg::Udp), &candidates, listen.port()).to_owned(),
            candidates: candidates.iter().map(SocketAddr::to_string).collect(),
            observed: observed.map(|observed| observed.to_string()),
            mtu: u16::try_from(DEFAULT_MTU).unwrap_or(u16::MAX),
            smallest_path_mtu: smallest,
            problems: Vec::new(),
        };
        netcheck.problems = problems(&netcheck, self.shared.obstacle());
        Ok(netcheck)
    }
}

/// What the NAT does, as far as one observer can see.
fn nat(observed: Option<SocketAddr>, candidates: &[SocketAddr], port: u16) -> &'static str {
    match observed {
        None => "unknown",
        Some(observed) if candidates.contains(&observed) => "none",
        Some(observed) if observed.port() == port => "keeps the port",
        Some(_) => "changes the port",
    }
}

fn problems(found: &Netcheck, obstacle: Option<String>) -> Vec<String> {
    let mut problems = Vec::new();
    let server = found.server.clone().unwrap_or_else(|| found.servers.join(", "));
    if !found.connected {
        let servers = found.servers.join(", ");
        problems.push(format!(
            "no control connection: TCP to {servers} must be allowed, and the server must run"
        ));
    }
    match found.relay.as_str() {
        "tcp" => problems.push(format!(
            "UDP to {server} is blocked, so TCP carries relayed traffic, more slowly: allow UDP to that port"
        )),
        "none" if found.connected => {
            problems.push(format!("the relay does not answer by UDP or TCP: check the server at {server}"));
        }
        _ => {}
    }
    if found.candidates.is_empty() {
        problems.push("no interface has an address that other nodes could use: is the network up?".into());
    }
    problems.extend(obstacle);
    problems
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nat_is_judged_by_address_and_port() {
        let at = |text: &str| text.parse::<SocketAddr>().unwrap();
        let own = [at("192.168.1.5:20006")];
        assert_eq!(nat(None, &own, 20006), "unknown");
        assert_eq!(nat(Some(at("192.168.1.5:20006")), &own, 20006), "none");
        assert_eq!(nat(Some(at("203.0.113.5:20006")), &own, 20006), "keeps the port");
        assert_eq!(nat(Some(at("203.0.113.5:41000")), &own, 20006), "changes the port");
    }

    #[test]
    fn each_problem_says_what_to_do() {
        let found = |connected, relay: &str| Netcheck {
            servers: vec!["mesh.example:20004".into()],
            connected,
            server: None,
            relay: relay.into(),
            relay_rtt_ms: None,
            listen: "0.0.0.0:20006".into(),
            candidates: vec!["192.168.1.5:20006".into()],
            observed: None,
            nat: "unknown".into(),
            mtu: 1408,
            smallest_path_mtu: None,
            problems: Vec::new(),
        };
        assert_eq!(problems(&found(true, "udp"), None), [""; 0]);
        assert!(problems(&found(true, "tcp"), None)[0].contains("allow UDP"));
        assert!(problems(&found(false, "none"), None)[0].contains("TCP to mesh.example:20004"));
        assert!(problems(&found(true, "none"), None)[0].contains("relay"));
        assert_eq!(found(true, "tcp").failure(), None);
        assert!(found(false, "udp").failure().is_some());
    }
}
