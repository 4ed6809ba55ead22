//! Which node an endpoint is reached through.
//!
//! Most endpoints name their node. One that names none (the API server's, a database outside the cluster) is on the
//! Node with its address, if there is one. What is left, and what is on a node without an agent, is reached through
//! *exits*: nodes that the operator chose for that, by the label [`EXIT_LABEL`] or by a setting. Every exit stands for
//! the endpoint, so that a client takes another one when the first does not answer.

use crate::object::{Endpoint, Node};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;

/// Label of Nodes that are exits, with the value `true`.
pub const EXIT_LABEL: &str = "edgemesh.io/exit";

/// Label of Nodes that reach each other's pods without the mesh, such as those of one CNI: its value names them.
pub const DOMAIN_LABEL: &str = "edgemesh.io/domain";

/// See the module's documentation.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Placement {
    by_address: HashMap<IpAddr, String>,
    exits: Vec<String>,
    /// Nodes with an agent; `None` when every node is taken to have one.
    agents: Option<BTreeSet<String>>,
    /// Domains of the Nodes that are in one, as the feed writes them.
    domains: HashMap<String, u32>,
}

/// Where an endpoint is reached.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Place<'p> {
    /// On this node.
    Node(&'p str),
    /// Through this one.
    Exit(&'p str),
    /// Nowhere.
    Nowhere,
}

impl Placement {
    /// By what is known of the Nodes; `exits` are those of the settings, `agents` the nodes that have joined, if
    /// that is known.
    pub fn new(nodes: &BTreeMap<String, Node>, exits: &[String], agents: Option<BTreeSet<String>>) -> Self {
        let mut by_address = HashMap::new();
        for (name, node) in nodes {
            for address in &node.addresses {
                by_address.entry(*address).or_insert_with(|| name.clone());
            }
        }
        let exits: BTreeSet<String> = labelled(nodes).chain(exits).cloned().collect();
        let domains = nodes.iter().map(|(name, node)| (name.clone(), node.home().domain));
        let domains = domains.filter(|(_, domain)| *domain != 0).collect();
        let placement = Self { by_address, exits: Vec::new(), agents, domains };
        let exits = exits.into_iter().filter(|exit| placement.has_agent(exit)).collect();
        Self { exits, ..placement }
    }

    /// Whether any node is meant to be an exit: otherwise it does not matter to a placement who has an agent.
    pub fn has_exits(nodes: &BTreeMap<String, Node>, exits: &[String]) -> bool {
        labelled(nodes).chain(exits).next().is_some()
    }

    /// Whether there is an exit: then it matters to every endpoint which nodes have an agent.
    pub(crate) fn exits(&self) -> bool {
        !self.exits.is_empty()
    }

    fn has_agent(&self, node: &str) -> bool {
        self.agents.as_ref().is_none_or(|agents| agents.contains(node))
    }

    /// The domain of a node, 0 without one.
    pub fn domain(&self, node: &str) -> u32 {
        self.domains.get(node).copied().unwrap_or_default()
    }

    /// The places of an endpoint, at least one. `single`: only the first of several exits, for endpoints that have
    /// an address of their own in DNS.
    pub fn of<'p>(&'p self, endpoint: &'p Endpoint, single: bool) -> Vec<Place<'p>> {
        let named = Some(&*endpoint.node).filter(|name| !name.is_empty());
        let node = named.or_else(|| self.by_address.get(&endpoint.address).map(String::as_str));
        match node {
            Some(node) if self.exits.is_empty() || self.has_agent(node) => vec![Place::Node(node)],
            None if self.exits.is_empty() => vec![Place::Nowhere],
            _ => {
                let most = if single { 1 } else { usize::MAX };
                self.exits.iter().take(most).map(|exit| Place::Exit(exit)).collect()
            }
        }
    }
}

/// The Nodes that are exits by their label.
fn labelled(nodes: &BTreeMap<String, Node>) -> impl Iterator<Item = &String> {
    let is_exit = |node: &Node| node.labels.get(EXIT_LABEL).is_some_and(|value| value == "true");
    nodes.iter().filter(move |(_, node)| is_exit(node)).map(|(name, _)| name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(address: &str, exit: bool) -> Node {
        let labels =
            if exit { BTreeMap::from([(EXIT_LABEL.into(), "true".into())]) } else { BTreeMap::new() };
        Node { addresses: vec![address.parse().unwrap()], labels, ..Node::default() }
    }

    fn endpoint(address: &str, node: &str) -> Endpoint {
        Endpoint {
            address: address.parse().unwrap(),
            node: node.into(),
            hostname: "".into(),
            conditions: 0,
            zones: [].into(),
        }
    }

    fn nodes() -> BTreeMap<String, Node> {
        BTreeMap::from([
            ("cloud-1".into(), node("10.0.0.1", true)),
            ("cloud-2".into(), node("10.0.0.2", false)),
            ("cloud-3".into(), node("10.0.0.3", true)),
        ])
    }

    fn agents(names: &[&str]) -> Option<BTreeSet<String>> {
        Some(names.iter().map(|name| (*name).to_owned()).collect())
    }

    #[test]
    fn c14_an_endpoint_without_a_node_is_on_the_node_with_its_address() {
        let placement = Placement::new(&nodes(), &[], agents(&["cloud-1", "cloud-2"]));
        assert_eq!(placement.of(&endpoint("10.0.0.2", ""), false), [Place::Node("cloud-2")]);
        assert_eq!(placement.of(&endpoint("10.0.0.2", "cloud-1"), false), [Place::Node("cloud-1")]);
    }

    #[test]
    fn what_is_on_no_node_of_ours_is_reached_through_every_exit_that_has_an_agent() {
        let all = agents(&["cloud-1", "cloud-2", "edge-1", "cloud-3"]);
        let placement = Placement::new(&nodes(), &["edge-1".into(), "never-joined".into()], all);
        let exits = [Place::Exit("cloud-1"), Place::Exit("cloud-3"), Place::Exit("edge-1")];
        assert_eq!(placement.of(&endpoint("192.0.2.1", ""), false), exits);
        assert_eq!(placement.of(&endpoint("172.17.0.2", "no-agent"), false), exits, "its node has no agent");
        assert_eq!(placement.of(&endpoint("192.0.2.1", ""), true), exits[..1]);
        assert_eq!(placement.of(&endpoint("172.17.0.2", "edge-1"), false), [Place::Node("edge-1")]);
    }

    #[test]
    fn without_an_exit_it_is_where_it_says_or_nowhere() {
        let nobody = Placement::new(&BTreeMap::new(), &[], agents(&[]));
        assert_eq!(nobody.of(&endpoint("192.0.2.1", ""), false), [Place::Nowhere]);
        assert_eq!(
            nobody.of(&endpoint("172.17.0.2", "edge-1"), false),
            [Place::Node("edge-1")],
            "it may join"
        );
        let unknown = Placement::new(&BTreeMap::new(), &[], None);
        assert_eq!(unknown.of(&endpoint("172.17.0.2", "edge-1"), false), [Place::Node("edge-1")]);
    }
}
