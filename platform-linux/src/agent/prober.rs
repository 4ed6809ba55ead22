//! Whether this node's endpoints answer, while nobody else can say so.
//!
//! A pod's readiness is decided in the cloud. While the source of Services is away, or says that this Node is not
//! ready ([`ENDPOINT_HELD`]), the last word stands, and this node finds out for itself: every [`ROUND`] it connects to
//! the TCP ports of its endpoints. One that accepted on none of them twice in a row is down: new flows of this node
//! and of its peers, which the engine tells, avoid it until it accepts again.
//!
//! Bounds: [`ENDPOINTS_MAX`] endpoints are tried, [`PARALLEL`] at a time, each port for [`PATIENCE`]. Others, and those
//! without a TCP port, count as answering. Nothing is refused because of this: where every endpoint of a Service is
//! down one of them is chosen all the same, and its kernel has the last word.

use super::command::Handle;
use super::data::Data;
use super::status::Shared;
use crate::cli::Source;
use crate::clock;
use edgemesh_core::peer::ROUND;
use edgemesh_core::wire::feed::{ENDPOINT_HELD, Protocol};
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::timeout;

/// A connection that takes longer is none.
const PATIENCE: Duration = Duration::from_secs(1);
/// Endpoints that are tried in a round.
const ENDPOINTS_MAX: usize = 256;
/// Endpoints that are tried at a time.
const PARALLEL: usize = 32;
/// Rounds in vain, in a row, after which an endpoint is down.
const ROUNDS: u32 = 2;
/// A Kubernetes API that was not heard for so long is away.
const AWAY_SECS: u64 = 60;

/// TCP ports of endpoints.
type Ports = BTreeMap<IpAddr, BTreeSet<u16>>;

/// What the list of endpoints depends on.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
struct Stamp {
    generation: u32,
    own: u32,
    away: bool,
}

/// Tries the endpoints of this node for as long as the agent runs.
pub(super) async fn keep_probing(handle: Handle, status: Arc<Shared>, source: Source) {
    let (mut list, mut stamp) = (Ports::new(), Stamp::default());
    let mut rounds = Rounds::default();
    loop {
        tokio::time::sleep(Duration::from_micros(ROUND.as_micros())).await;
        let (known, silent) = (stamp, is_silent(&status, &source));
        let Some(found) = handle.inspect(move |data| endpoints(data, silent, known)).await else { return };
        if let Some(found) = found {
            (stamp, list) = found;
        }
        if let Some(down) = rounds.next(try_all(&list).await) {
            let told = handle.inspect(move |data| data.engine.set_down(clock::now(), &down)).await;
            if told.is_none() {
                return;
            }
        }
    }
}

/// Whether the source has no word for us, as far as this thread can tell; `None` when the connection to the server
/// decides.
fn is_silent(status: &Shared, source: &Source) -> Option<bool> {
    match source {
        Source::Server => None,
        Source::Manifests(_) => Some(false),
        Source::Kubernetes => Some(status.age_secs().is_none_or(|secs| secs > AWAY_SECS)),
    }
}

/// The endpoints to try, unless they are those that are `known`.
fn endpoints(data: &mut Data, silent: Option<bool>, known: Stamp) -> Option<(Stamp, Ports)> {
    let (table, own) = (data.engine.services(), data.engine.own_index());
    let away = silent.unwrap_or(!data.engine.link().is_up());
    let stamp = Stamp { generation: table.generation(), own, away };
    if stamp == known {
        return None;
    }
    let mut list = Ports::new();
    for service in table.services() {
        let ours = service.endpoints().filter(|e| own != 0 && e.node() == own);
        for endpoint in ours.filter(|e| away || e.conditions() & ENDPOINT_HELD != 0) {
            let tcp = service.ports().filter(|port| port.protocol() == Protocol::Tcp);
            let ports: BTreeSet<_> = tcp.filter_map(|port| endpoint.target(port.index())).collect();
            if !ports.is_empty() && (list.len() < ENDPOINTS_MAX || list.contains_key(&endpoint.address())) {
                list.entry(endpoint.address()).or_default().extend(ports);
            }
        }
    }
    Some((stamp, list))
}

/// Which of the endpoints accept a connection.
async fn try_all(list: &Ports) -> BTreeMap<IpAddr, bool> {
    let mut all = BTreeMap::new();
    let (mut waiting, mut running) = (list.iter(), JoinSet::new());
    loop {
        while running.len() < PARALLEL {
            let Some((address, ports)) = waiting.next() else { break };
            let (address, ports) = (*address, ports.clone());
            running.spawn(async move { (address, accepts(address, &ports).await) });
        }
        match running.join_next().await {
            Some(Ok((address, accepted))) => drop(all.insert(address, accepted)),
            Some(Err(_)) => {}
            None => return all,
        }
    }
}

async fn accepts(address: IpAddr, ports: &BTreeSet<u16>) -> bool {
    for port in ports {
        let connected = timeout(PATIENCE, TcpStream::connect(SocketAddr::new(address, *port))).await;
        if matches!(connected, Ok(Ok(_))) {
            return true;
        }
    }
    false
}

/// What was found out so far.
#[derive(Default)]
struct Rounds {
    /// Rounds in vain, by endpoint.
    vain: BTreeMap<IpAddr, u32>,
    /// The engine has been told of some.
    said: bool,
}

impl Rounds {
    /// Takes a round; the endpoints that are down, unless none is and none was.
    fn next(&mut self, round: BTreeMap<IpAddr, bool>) -> Option<Vec<IpAddr>> {
        self.vain.retain(|address, rounds| {
            let vain = round.get(address) == Some(&false);
            if !vain && *rounds >= ROUNDS {
                tracing::info!("endpoint {address} of this node is not avoided any more");
            }
            vain
        });
        for (address, _) in round.into_iter().filter(|(_, accepted)| !accepted) {
            let rounds = self.vain.entry(address).or_default();
            *rounds = rounds.saturating_add(1);
            if *rounds == ROUNDS {
                tracing::warn!("endpoint {address} of this node accepts no connection: it is avoided");
            }
        }
        let down: Vec<_> = self.vain.iter().filter(|(_, n)| **n >= ROUNDS).map(|(ip, _)| *ip).collect();
        let news = !down.is_empty() || self.said;
        self.said = !down.is_empty();
        news.then_some(down)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::TcpListener;

    #[tokio::test]
    async fn g4_an_endpoint_answers_when_one_of_its_ports_accepts() {
        let [up, down] = [[127, 77, 0, 1], [127, 77, 0, 2]].map(IpAddr::from);
        let open = TcpListener::bind((up, 0)).await.unwrap();
        let closed = TcpListener::bind((up, 0)).await.unwrap().local_addr().unwrap().port();
        let open = open.local_addr().unwrap().port();
        let list = Ports::from([(up, [closed, open].into()), (down, [open].into())]);
        assert_eq!(try_all(&list).await, BTreeMap::from([(up, true), (down, false)]));
        let many: Ports = (0..100).map(|n| (IpAddr::from([127, 78, 0, n]), [open].into())).collect();
        let tried = try_all(&many).await;
        assert_eq!((tried.len(), tried.values().any(|accepted| *accepted)), (100, false));
    }

    #[test]
    fn g4_two_rounds_in_vain_count_and_the_end_of_it_is_told_once() {
        let [a, b] = [[172, 17, 0, 2], [172, 17, 0, 3]].map(IpAddr::from);
        let mut rounds = Rounds::default();
        assert_eq!(rounds.next([(a, true), (b, false)].into()), None);
        assert_eq!(rounds.next([(a, false), (b, false)].into()), Some(vec![b]));
        assert_eq!(rounds.next([(a, true), (b, false)].into()), Some(vec![b]), "it is said again");
        assert_eq!(rounds.next([(a, false), (b, true)].into()), Some(vec![]));
        assert_eq!(rounds.next([(a, false)].into()), Some(vec![a]));
        assert_eq!(rounds.next([].into()), Some(vec![]), "it is not this node's to try any more");
        assert_eq!(rounds.next([].into()), None);
    }
}
