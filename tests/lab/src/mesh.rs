//! The lab's network with the product running in it: one server, an agent per node, Services and their servers.
//!
//! | Service | ClusterIP | endpoints |
//! |---|---|---|
//! | park | 10.96.0.10 | b1's first pod (the other site) |
//! | near | 10.96.0.11 | a2's first pod (a1's neighbour) |
//! | sky | 10.96.0.12 | the cloud node's first pod |
//! | own | 10.96.0.13 | a1's first pod |
//! | twins | 10.96.0.14 | the first pods of a2 and b1: the same address and port |
//! | hostweb | 10.96.0.15 | b1 itself (hostNetwork) |
//! | empty | 10.96.0.16 | none |
//! | kube-system/kube-dns | 10.96.0.53 | the cloud node's first pod, where nobody answers |
//!
//! Every first pod runs the same servers ([`PORTS`]). Life cycle: [`Mesh::prepare`] starts all but the agents,
//! [`Mesh::start`] waits until every agent is ready; dropping the value ends everything.
//!
//! Not here: what is to be shown.

use std::collections::BTreeMap;
use std::fs;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use crate::machine::Machine;
use crate::manifests::Service;
use crate::process::Process;
use crate::product::{Agent, AgentOptions, SERVICE_CIDR, Server, may_open_tun};
use crate::topology::{Lab, Node};
use crate::workloads;
use crate::{Context, Result};

/// The ports of every Service: protocol, name, Service port, port of the server behind.
pub const PORTS: [(&str, &str, u16, u16); 6] = [
    ("TCP", "http", 80, 8080),
    ("TCP", "sum", 9001, 9001),
    ("TCP", "greet", 9002, 9002),
    ("UDP", "udp", 7000, 7000),
    ("UDP", "sink", 7001, 7001),
    ("TCP", "iperf", 5201, 5201),
];
/// Size of the big file in MiB.
pub const BIG: u64 = 256;
/// Size of the small file in MiB.
pub const SMALL: u64 = 16;

/// The ClusterIP of the cluster's DNS.
pub const KUBE_DNS: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 53);

/// First pod of every node.
const POD: Ipv4Addr = Ipv4Addr::new(172, 17, 0, 2);

/// A file that is served at `/files/<name>`.
#[derive(Debug, Clone)]
pub struct Served {
    /// Its name.
    pub name: &'static str,
    /// Where it is.
    pub path: PathBuf,
    /// Its SHA-256 in hexadecimal.
    pub sum: String,
}

/// Everything running. Fields are dropped in this order: programs first, their namespaces last.
#[derive(Debug)]
pub struct Mesh {
    /// Agents that were started, in the order of their start.
    pub agents: Vec<Agent>,
    /// The server.
    pub server: Server,
    /// The servers in the first pods, by node.
    workloads: BTreeMap<String, Vec<Process>>,
    /// The server on b1 itself.
    pub host: Process,
    /// What the servers serve.
    files: PathBuf,
    /// A client that waits in silence while other scenarios run.
    pub idle: Option<Process>,
    /// The 256 MiB file.
    pub big: Served,
    /// The 16 MiB file.
    pub small: Served,
    /// The network.
    pub lab: Lab,
}

/// The Services of the table above.
pub fn services() -> Vec<Service> {
    let service = |name, last| {
        let empty = Service::new(name, Ipv4Addr::new(10, 96, 0, last));
        PORTS.iter().fold(empty, |service, (protocol, name, port, target)| {
            service.port(protocol, name, *port, *target)
        })
    };
    vec![
        service("park", 10).endpoint("b1", POD),
        service("near", 11).endpoint("a2", POD),
        service("sky", 12).endpoint("cloud", POD),
        service("own", 13).endpoint("a1", POD),
        service("twins", 14).endpoint("a2", POD).endpoint("b1", POD),
        service("hostweb", 15).endpoint("b1", Ipv4Addr::new(192, 168, 1, 11)),
        service("empty", 16),
    ]
}

/// The cluster's own DNS, as kubeadm makes it; its pod does not run.
pub fn kube_dns() -> Service {
    let empty = Service { namespace: "kube-system", ..Service::new("kube-dns", KUBE_DNS) };
    empty.port("UDP", "dns", 53, 53).port("TCP", "dns-tcp", 53, 53).endpoint("cloud", POD)
}

/// The Service of that name from [`services`].
///
/// # Errors
/// When there is none.
pub fn service(name: &str) -> Result<Service> {
    services().into_iter().find(|service| service.name == name).context(format!("service {name}"))
}

impl Mesh {
    /// The network, the server and the pods' programs; no agent yet.
    ///
    /// # Errors
    /// When a part does not start.
    pub fn prepare(directory: &Path) -> Result<Self> {
        may_open_tun()?;
        let files = directory.join("files");
        fs::create_dir_all(&files).context(files.display())?;
        let (big, small) = (served(&files, "big.bin", BIG)?, served(&files, "small.bin", SMALL)?);
        let lab = Lab::build(directory)?;
        let mut workloads = BTreeMap::new();
        for node in lab.nodes() {
            workloads.insert(node.name.clone(), start_pod_servers(node.pod(1)?, &files)?);
        }
        let host = workloads::nginx(&lab.b1, 8080, &files)?;
        let manifests = lab.server.directory().join("manifests");
        fs::create_dir_all(&manifests).context(manifests.display())?;
        for service in services().into_iter().chain([kube_dns()]) {
            service.write_to(&manifests)?;
        }
        let mut server = Server::start(&lab.server)?;
        server.wait_ready(&lab.server)?;
        Ok(Self { agents: Vec::new(), server, workloads, host, files, idle: None, big, small, lab })
    }

    /// [`Mesh::prepare`], and an agent on every node, ready.
    ///
    /// # Errors
    /// When a part does not start or does not get ready.
    pub fn start(directory: &Path) -> Result<Self> {
        let mut mesh = Self::prepare(directory)?;
        mesh.join_all()?;
        Ok(mesh)
    }

    /// Starts an agent on every node and waits until all are ready.
    ///
    /// # Errors
    /// When one does not start or does not get ready.
    pub fn join_all(&mut self) -> Result {
        for name in ["a1", "a2", "b1", "cloud"] {
            self.join(name)?;
        }
        self.agents.iter_mut().try_for_each(Agent::wait_ready)
    }

    /// Starts the agent of a node with a fresh token and the server as source of Services.
    ///
    /// # Errors
    /// When no token is issued or the agent cannot be started.
    pub fn join(&mut self, name: &str) -> Result {
        let token = self.server.token(&self.lab.server, name, "24h")?;
        let more = vec!["--service-cidr".to_owned(), SERVICE_CIDR.to_owned()];
        self.join_with(name, AgentOptions { token, source: Some("server".to_owned()), more })
    }

    /// Starts the agent of a node with the given options.
    ///
    /// # Errors
    /// When the agent cannot be started.
    pub fn join_with(&mut self, name: &str, options: AgentOptions) -> Result {
        let agent = Agent::start(self.lab.node(name)?, options)?;
        self.agents.push(agent);
        Ok(())
    }

    /// The agent of a node and the node.
    ///
    /// # Errors
    /// When no agent was started there.
    pub fn agent(&self, name: &str) -> Result<(&Agent, &Node)> {
        let agent = self.agents.iter().find(|agent| agent.node == name);
        Ok((agent.context(format!("agent on {name}"))?, self.lab.node(name)?))
    }

    /// [`Mesh::agent`], to kill and start it.
    ///
    /// # Errors
    /// When no agent was started there.
    pub fn agent_mut(&mut self, name: &str) -> Result<(&mut Agent, &Node)> {
        let agent = self.agents.iter_mut().find(|agent| agent.node == name);
        Ok((agent.context(format!("agent on {name}"))?, self.lab.node(name)?))
    }

    /// A further file of that size that the pods serve.
    ///
    /// # Errors
    /// When the disk is full.
    pub fn served(&self, name: &'static str, mebibytes: u64) -> Result<Served> {
        served(&self.files, name, mebibytes)
    }

    /// The first pod of a node.
    ///
    /// # Errors
    /// When there is no such node.
    pub fn pod(&self, node: &str) -> Result<&Machine> {
        self.lab.node(node)?.pod(1)
    }

    /// Ends the servers of a node's first pod; the pod itself stays.
    ///
    /// # Errors
    /// When there is no such node.
    pub fn stop_pod(&mut self, node: &str) -> Result {
        let servers = self.workloads.get_mut(node).context(format!("pod of {node}"))?;
        servers.drain(..).for_each(|mut server| server.kill());
        Ok(())
    }

    /// Starts them again.
    ///
    /// # Errors
    /// When one does not start.
    pub fn start_pod(&mut self, node: &str) -> Result {
        let servers = start_pod_servers(self.pod(node)?, &self.files)?;
        self.workloads.insert(node.to_owned(), servers);
        Ok(())
    }

    /// The last lines of every log, for a report of a failure.
    pub fn logs(&self) -> String {
        let mut text = format!("--- server\n{}\n", crate::product::tail(&self.server.process.log()));
        for agent in &self.agents {
            text.push_str(&format!("--- {}\n{}\n", agent.node, crate::product::tail(&agent.process.log())));
        }
        text
    }
}

fn start_pod_servers(pod: &Machine, files: &Path) -> Result<Vec<Process>> {
    Ok(vec![
        workloads::nginx(pod, 8080, files)?,
        workloads::per_connection(pod, 9001, "sha256sum")?,
        workloads::per_connection(pod, 9002, "echo 220 ready; cat")?,
        pod.tool("udp", &["udp-server", "7000"])?,
        pod.tool("sink", &["udp-sink", "7001"])?,
        workloads::iperf(pod, 5201)?,
    ])
}

/// Makes the file unless it is there: once per run of the lab, by the first of those who want it at once.
///
/// # Errors
/// When the disk is full.
pub fn served(directory: &Path, name: &'static str, mebibytes: u64) -> Result<Served> {
    static MAKING: Mutex<()> = Mutex::new(());
    let _alone = MAKING.lock().unwrap_or_else(PoisonError::into_inner);
    let (path, noted) = (directory.join(name), directory.join(format!("{name}.sha256")));
    if !noted.exists() {
        let sum = workloads::big_file(&path, mebibytes)?;
        fs::write(&noted, sum).context(noted.display())?;
    }
    let sum = fs::read_to_string(&noted).context(noted.display())?;
    Ok(Served { name, path, sum })
}
