//! The nodes, the server between them, the wire and the clock.

use edgemesh_core::noise::StaticSecret;
use edgemesh_core::path::Route;
use edgemesh_core::rng::Rng;
use edgemesh_core::time::{Instant, WallTime};
use edgemesh_core::wire::feed::{
    ENDPOINT_READY, ENDPOINT_SERVING, EndpointDef, PortDef, Protocol, ServiceDef, ServiceKind, Update,
};
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use crate::Result;
use crate::cloud::{Cloud, Entry};
use crate::node::Node;

const SERVER: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(203, 0, 113, 10)), 20_004);
const NODES: [(u32, &str, SocketAddr); 2] = [
    (1, "edge-1", SocketAddr::new(IpAddr::V4(Ipv4Addr::new(198, 51, 100, 1)), 20_006)),
    (2, "edge-2", SocketAddr::new(IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)), 20_006)),
];
/// The pod behind the Service.
const ENDPOINT: ([u8; 4], u16) = ([172, 17, 0, 2], 8080);

edgemesh_core::memory! {
    pub(crate) struct Room {
        peers: 2,
        window: 2,
        handshakes: 2,
        flows: 16,
        admitted: 16,
        services: 4,
        ports: 8,
        endpoints: 8,
        names: 16,
        namespaces: 8,
        side: 8,
    }
}

/// Everything, and what was seen on the wire.
pub(crate) struct World<'a> {
    pub(crate) now: Instant,
    pub(crate) cloud: Cloud,
    nodes: BTreeMap<u32, Node<'a>>,
    pub(crate) wire: Vec<Vec<u8>>,
}

impl<'a> World<'a> {
    pub(crate) fn new(rooms: &'a mut [Room; 2]) -> Result<Self> {
        let mut rng = Rng::new([1; 32]);
        let keys: [[u8; 32]; 2] = [rng.bytes(), rng.bytes()];
        let public = keys.map(|key| StaticSecret::from_bytes(key).public().0);
        let entry = |((index, name, address), key)| (index, Entry { name, key, address });
        let cloud = Cloud::new(NODES.into_iter().zip(public).map(entry).collect(), Rng::new(rng.bytes()));
        let mut world = Self { now: Instant::ZERO, cloud, nodes: BTreeMap::new(), wire: Vec::new() };
        for (((index, name, address), key), room) in NODES.into_iter().zip(keys).zip(rooms) {
            let identity = StaticSecret::from_bytes(key);
            let mut node = Node::new(name, identity, world.cloud.root(), address, room.lend(), rng.bytes())?;
            for update in service()? {
                node.engine.update(&update)?;
            }
            node.engine.control_up(world.now, SERVER);
            node.engine.control(world.now, &mut world.cloud.greeting()?)?;
            world.nodes.insert(index, node);
        }
        Ok(world)
    }

    pub(crate) fn node(&mut self, index: u32) -> Result<&mut Node<'a>> {
        self.nodes.get_mut(&index).ok_or_else(|| "no such node".into())
    }

    /// Whether the server has accepted every node.
    pub(crate) fn joined(&self) -> bool {
        self.nodes.values().all(|node| node.engine.link().is_up())
    }

    /// What the DNS of a node says.
    pub(crate) fn resolve(&mut self, node: u32, name: &str) -> Result<Ipv4Addr> {
        let now = self.now;
        Ok(self.node(node)?.resolve(now, name)?.into())
    }

    /// A program on a node sends a packet.
    pub(crate) fn send(&mut self, from: u32, packet: &[u8]) -> Result<()> {
        let now = self.now;
        self.node(from)?.send(now, packet)?;
        self.run()
    }

    /// The last packet that a program on a node was given.
    pub(crate) fn delivered(&mut self, to: u32) -> Result<Vec<u8>> {
        self.node(to)?.delivered.pop().ok_or_else(|| "nothing was delivered".into())
    }

    /// Lets everybody compute and talk until nobody has anything left to say. No time passes.
    pub(crate) fn run(&mut self) -> Result<()> {
        loop {
            let mut busy = false;
            for (index, _, address) in NODES {
                let now = self.now;
                let node = self.node(index)?;
                busy |= node.engine.work(now, WallTime { secs: 1_700_000_000, nanos: 0 });
                node.drain(now)?;
                for (to, datagram) in std::mem::take(&mut node.sent) {
                    busy = true;
                    self.wire.push(datagram.clone());
                    self.deliver(index, address, to, datagram)?;
                }
                let mut frame = [0; 1600];
                while let Some(len) = self.node(index)?.engine.poll_frame(now, &mut frame)? {
                    busy = true;
                    let frame = frame.get(..len).unwrap_or_default().to_vec();
                    for (to, mut answer) in self.cloud.frame(index, frame)? {
                        self.node(to)?.engine.control(now, &mut answer)?;
                    }
                }
            }
            if !busy {
                return Ok(());
            }
        }
    }

    fn deliver(&mut self, from: u32, address: SocketAddr, to: SocketAddr, datagram: Vec<u8>) -> Result<()> {
        let now = self.now;
        if to == SERVER {
            let (receiver, datagram) = self.cloud.relay(from, &datagram)?;
            return self.node(receiver)?.receive(now, SERVER, datagram);
        }
        match NODES.iter().find(|node| node.2 == to) {
            Some((receiver, ..)) => self.node(*receiver)?.receive(now, address, datagram),
            None => Ok(()),
        }
    }

    /// How edge-1 reaches its only peer.
    pub(crate) fn path(&self) -> Result<String> {
        let node = self.nodes.get(&1).ok_or("no such node")?;
        let peer = node.engine.peers(self.now).next().ok_or("no peer")?;
        Ok(match peer.path.route {
            Some(Route::Direct { remote, .. }) => format!("directly, at {remote}"),
            Some(_) => "through the relay".to_owned(),
            None => "not at all".to_owned(),
        })
    }

    /// Lets time pass, from one deadline to the next, until probes have found the direct path.
    pub(crate) fn wait_until_direct(&mut self) -> Result<()> {
        for _ in 0..100 {
            if self.path()?.starts_with("directly") {
                return Ok(());
            }
            let next =
                self.nodes.values().filter_map(|node| node.engine.poll_timeout()).map(|(at, _)| at).min();
            self.now = self.now.max(next.ok_or("nobody waits for anything")?);
            for node in self.nodes.values_mut() {
                node.engine.handle_timeout(self.now);
            }
            self.run()?;
        }
        Err("no direct path was found".into())
    }
}

/// Both nodes are told of one Service, whose endpoint is a pod of edge-2.
fn service() -> Result<[Update<'static>; 8]> {
    let kind = ServiceKind::ClusterIp([IpAddr::from([10, 96, 0, 10])].into_iter().collect());
    let conditions = ENDPOINT_READY | ENDPOINT_SERVING;
    let address = IpAddr::from(ENDPOINT.0);
    Ok([
        Update::Begin,
        Update::Namespace("default"),
        Update::Service(ServiceDef { namespace: "default", name: "echo", kind, affinity_secs: 0, flags: 0 }),
        Update::Port(PortDef { name: "", protocol: Protocol::Udp, port: 80 }),
        // 8080, little-endian.
        Update::Targets(&[0x90, 0x1f]),
        Update::Endpoint(EndpointDef { node: 2, address, vip: None, hostname: "", conditions, zones: &[] }),
        Update::Commit,
        Update::End,
    ])
}
