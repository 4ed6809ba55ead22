//! The network of one part: pairs of nodes with the product on both, and the server between them.
//!
//! ```text
//!            hub: edgemesh-server 203.0.113.10
//!        uplink |                    | uplink
//!             near ----- direct ----- far        a pair `direct` has the cable, the others have not;
//!                                                 of a pair `relay-tcp` no UDP reaches the hub
//! ```
//!
//! Programs run on the nodes themselves, without bridge and pods, so that nothing but the tunnels is between the
//! two ends. A pair's Service leads to the far node. Life cycle: [`World::build`] returns when every pair's tunnel
//! takes the way it should; dropping the value ends everything.

use crate::meter::Meter;
use crate::rivals::Rival;
use edgemesh_lab::machine::Machine;
use edgemesh_lab::manifests::Service;
use edgemesh_lab::process::Process;
use edgemesh_lab::product::{Agent, AgentOptions, SERVICE_CIDR, Server, may_open_tun};
use edgemesh_lab::topology::{SERVER, connect};
use edgemesh_lab::wait::{secs, wait_until};
use edgemesh_lab::{Context, Result};
use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::Path;
use std::time::Instant;

/// What takes bytes and says nothing.
pub(crate) const SINK: u16 = 5001;
/// What gives back each byte.
pub(crate) const ECHO: u16 = 5002;
/// What sends one byte and closes.
pub(crate) const ONCE: u16 = 5003;
/// What keeps connections open.
pub(crate) const HOLD: u16 = 5004;

/// Services beside those that are connected to, in a cluster of usual size: `s0`, `s1` and so on.
pub(crate) const NAMES: u16 = 100;

/// The ClusterIP of the Service with that number.
pub(crate) fn name_address(number: u16) -> Ipv4Addr {
    let [high, low] = number.to_be_bytes();
    Ipv4Addr::new(10, 96, 1 + high, low)
}

/// How the tunnel of a pair goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Way {
    /// Straight over a cable.
    Direct,
    /// Over the server by UDP.
    Relay,
    /// Over the server by TCP, as UDP is lost.
    RelayTcp,
}

impl Way {
    /// As the agent calls it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::Relay => "relay",
            Self::RelayTcp => "relay-tcp",
        }
    }

    /// The ClusterIP of the pair's Service.
    fn service(self) -> Ipv4Addr {
        Ipv4Addr::new(10, 96, 0, 10 + self as u8)
    }
}

/// Two nodes.
pub(crate) struct Pair {
    agents: [Agent; 2],
    /// Where clients are.
    pub(crate) near: Machine,
    /// Where servers are.
    pub(crate) far: Machine,
    way: Way,
}

/// Everything running. Programs are dropped before their namespaces.
pub(crate) struct World {
    pairs: Vec<Pair>,
    server: Server,
    _hub: Machine,
}

/// Something that carries packets from a near node to a far one.
pub(crate) struct Contender {
    /// Its name in tables.
    pub(crate) name: String,
    /// Where the far node's servers are reached.
    pub(crate) target: Ipv4Addr,
    /// Its programs.
    pub(crate) meter: Meter,
}

impl Contender {
    /// Whether there is no tunnel.
    pub(crate) fn is_bare(&self) -> bool {
        self.meter.is_empty()
    }

    /// A port of the far node.
    pub(crate) fn at(&self, port: u16) -> SocketAddr {
        SocketAddr::from((self.target, port))
    }
}

impl World {
    /// Builds one pair for each way and so many other Services, and waits until the tunnels go so. Servers on the far
    /// nodes must be started by `serve` meanwhile: the first connection opens the tunnel.
    ///
    /// # Errors
    /// When a part does not start, or a tunnel does not take its way.
    pub(crate) fn build(
        directory: &Path,
        ways: &[Way],
        names: u16,
        serve: impl Fn(&Machine) -> Result,
    ) -> Result<Self> {
        may_open_tun()?;
        let hub = Machine::create("eb-", "hub", SERVER, directory)?;
        hub.ns.ip(&[&format!("addr add {SERVER}/32 dev lo")])?;
        let manifests = hub.directory().join("manifests");
        fs::create_dir_all(&manifests).context(manifests.display())?;
        let mut nodes = Vec::new();
        for &way in ways {
            let near = node(&hub, way, "near", 1, directory)?;
            let far = node(&hub, way, "far", 2, directory)?;
            if way == Way::Direct {
                cable(&near, &far)?;
            }
            serve(&far)?;
            service(way, &far).write_to(&manifests)?;
            nodes.push((way, near, far));
        }
        let (_, _, far) = nodes.last().context("no way")?;
        for number in 0..names {
            let name = format!("s{number}").leak();
            let service = Service::new(name, name_address(number)).endpoint(&far.name, far.address);
            service.port("TCP", "http", 80, 80).write_to(&manifests)?;
        }
        let mut server = Server::start(&hub)?;
        server.wait_ready(&hub)?;
        let mut pairs = Vec::new();
        for (way, near, far) in nodes {
            let agents = [agent(&server, &hub, &near)?, agent(&server, &hub, &far)?];
            pairs.push(Pair { agents, near, far, way });
        }
        pairs.iter_mut().try_for_each(Pair::open)?;
        Ok(Self { pairs, server, _hub: hub })
    }

    /// The pair whose tunnel goes that way.
    ///
    /// # Errors
    /// When there is none.
    pub(crate) fn pair(&self, way: Way) -> Result<&Pair> {
        self.pairs.iter().find(|pair| pair.way == way).context(way.name())
    }

    /// Kills the agent on the near node and starts it again; returns the moment of that start.
    ///
    /// # Errors
    /// As [`World::pair`]; when it cannot be started.
    pub(crate) fn restart(&mut self, way: Way) -> Result<Instant> {
        let pair = self.pairs.iter_mut().find(|pair| pair.way == way).context(way.name())?;
        pair.agents[0].process.kill();
        let began = Instant::now();
        pair.agents[0].restart(&pair.near)?;
        Ok(began)
    }

    /// The product on that way, the server included where it relays.
    ///
    /// # Errors
    /// As [`World::pair`].
    pub(crate) fn product(&self, way: Way) -> Result<Contender> {
        let mut programs: Vec<u32> = self.pair(way)?.agents.iter().map(|agent| agent.process.pid()).collect();
        if way != Way::Direct {
            programs.push(self.server.process.pid());
        }
        let name = format!("EdgeMesh, {}", way.name());
        Ok(Contender { name, target: way.service(), meter: Meter::new(programs) })
    }

    /// The near node's agent by itself.
    ///
    /// # Errors
    /// As [`World::pair`].
    pub(crate) fn agent_alone(&self, way: Way) -> Result<Contender> {
        let meter = Meter::new([self.pair(way)?.agents[0].process.pid()]);
        Ok(Contender { name: "EdgeMesh".to_owned(), target: way.service(), meter })
    }
}

impl Pair {
    /// No tunnel at all.
    pub(crate) fn bare(&self) -> Contender {
        Contender { name: "no tunnel".to_owned(), target: self.far.address, meter: Meter::default() }
    }

    /// Another tunnel between the same nodes.
    pub(crate) fn rival(&self, rival: &Rival) -> Contender {
        let programs = rival.processes.iter().map(Process::pid);
        Contender { name: rival.name.clone(), target: rival.target, meter: Meter::new(programs) }
    }

    /// Opens the tunnel and waits until both ends send the way they should.
    fn open(&mut self) -> Result {
        self.agents.iter_mut().try_for_each(Agent::wait_ready)?;
        let target = SocketAddr::from((self.way.service(), ECHO));
        wait_until("the Service answers", secs(30), || {
            self.near.ns.enter(|| TcpStream::connect_timeout(&target, secs(1)))?.context("connect")
        })?;
        for (agent, here, there) in
            [(&self.agents[0], &self.near, &self.far), (&self.agents[1], &self.far, &self.near)]
        {
            agent.wait_path(here, &there.name, &[self.way.name()], secs(60))?;
        }
        Ok(())
    }
}

/// A node with an uplink to the hub and no other way out.
fn node(hub: &Machine, way: Way, side: &str, number: u8, directory: &Path) -> Result<Machine> {
    let net = 4 * way as u8;
    let name = format!("{}-{side}", way.name());
    let uplink = net + number;
    let own = if way == Way::Direct {
        Ipv4Addr::new(10, 77, net, number)
    } else {
        Ipv4Addr::new(10, 77, uplink, 2)
    };
    let node = Machine::create("eb-", &name, own, directory)?;
    let port = format!("to-{uplink}");
    connect((&node, "uplink"), (hub, &port))?;
    // The server answers from whatever address its kernel chooses: it has to be the one that was asked.
    hub.ns.ip(&[
        &format!("addr add 10.77.{uplink}.1/24 dev {port}"),
        &format!("link set {port} up"),
        &format!("route replace 10.77.{uplink}.0/24 dev {port} src {SERVER}"),
    ])?;
    node.ns.ip(&[
        &format!("addr add 10.77.{uplink}.2/24 dev uplink"),
        "link set uplink up",
        &format!("route add {SERVER} via 10.77.{uplink}.1"),
    ])?;
    node.ns.sysctl("net/ipv4/ip_forward", "1")?;
    if way == Way::RelayTcp {
        node.ns.nft(
            "table ip bench {
               chain out {
                 type filter hook output priority 0
                 oifname uplink meta l4proto udp drop
               }
             }",
        )?;
    }
    Ok(node)
}

fn cable(near: &Machine, far: &Machine) -> Result {
    connect((near, "direct"), (far, "direct"))?;
    for node in [near, far] {
        node.ns.ip(&[&format!("addr add {}/24 dev direct", node.address), "link set direct up"])?;
    }
    Ok(())
}

fn service(way: Way, far: &Machine) -> Service {
    let ports = [("TCP", "sink", SINK), ("TCP", "echo", ECHO), ("TCP", "once", ONCE), ("TCP", "hold", HOLD)];
    let udp = [("UDP", "udp-sink", SINK), ("UDP", "udp-echo", ECHO)];
    let empty = Service::new(way.name(), way.service()).endpoint(&far.name, far.address);
    ports
        .into_iter()
        .chain(udp)
        .fold(empty, |service, (protocol, name, port)| service.port(protocol, name, port, port))
}

fn agent(server: &Server, hub: &Machine, node: &Machine) -> Result<Agent> {
    let token = server.token(hub, &node.name, "1h")?;
    let more = vec!["--service-cidr".to_owned(), SERVICE_CIDR.to_owned()];
    Agent::start(node, AgentOptions { token, source: Some("server".to_owned()), more })
}
