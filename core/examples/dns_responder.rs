//! Kubernetes DNS on a UDP socket: the engine's responder over its Service table, and the shell that it needs.
//!
//!     cargo run -p edgemesh-core --example dns_responder                      # asks itself once and ends
//!     cargo run -p edgemesh-core --example dns_responder -- 127.0.0.1:5353    # serves until it is killed
//!     dig -p 5353 @127.0.0.1 park.default.svc.cluster.local
//!
//! It deliberately leaves out what a real shell adds: a listener for TCP, upstreams for other names, a control
//! connection that brings the Services.
#![allow(clippy::std_instead_of_core, reason = "an example is a shell: it has an operating system")]

use edgemesh_core::control::{Authority, Credentials};
use edgemesh_core::dns::{Domain, PodRecords, Settings, Transport, Verdict};
use edgemesh_core::memory::Resources;
use edgemesh_core::node::{Config, Engine};
use edgemesh_core::noise::StaticSecret;
use edgemesh_core::path;
use edgemesh_core::time::Instant;
use edgemesh_core::wire::feed::{
    ENDPOINT_READY, ENDPOINT_SERVING, EndpointDef, PortDef, Protocol, ServiceDef, ServiceKind, Update,
};
use std::error::Error;
use std::net::{IpAddr, Ipv4Addr, UdpSocket};
use std::time::Duration;

type Result<T> = std::result::Result<T, Box<dyn Error>>;

const NAME: &str = "park.default.svc.cluster.local";
const CLUSTER_IP: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 10);

edgemesh_core::memory! {
    struct Memory {
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

fn main() -> Result<()> {
    let mut memory = Box::new(Memory::ZERO);
    let mut engine = engine(memory.lend())?;
    define_service(&mut engine)?;
    let Some(address) = std::env::args().nth(1) else {
        println!("{NAME} is at {}", ask_oneself(&mut engine)?);
        return Ok(());
    };
    let socket = UdpSocket::bind(&address)?;
    println!("ask me: dig -p {} @{} {NAME}", socket.local_addr()?.port(), socket.local_addr()?.ip());
    loop {
        serve(&mut engine, &socket)?;
    }
}

/// An engine that belongs to no mesh. Its keys are of no use to anybody, so they need not be random.
fn engine(memory: Resources<'_>) -> Result<Engine<'_>> {
    let dns = Settings {
        domain: Domain::new("cluster.local")?,
        ttl: 30,
        negative_ttl: 30,
        address: None,
        pods: PodRecords::Insecure,
        recursion: false,
    };
    let credentials = Credentials {
        name: heapless::String::try_from("example")?,
        secret: None,
        account: false,
        agent: "example",
        feed: edgemesh_core::control::Feed::None,
    };
    let config = Config {
        identity: StaticSecret::from_bytes([1; 32]),
        credentials,
        authority: Authority { root: [0; 32], directory: [0; 32], epoch: 0 },
        dns,
        paths: path::Config { inner_mtu_max: 1408 },
        stamp: 0,
        seed: [2; 32],
    };
    Ok(Engine::new(Instant::ZERO, memory, config))
}

/// What a source of Services says: one Service with one port and one endpoint. It takes effect with the commit.
fn define_service(engine: &mut Engine<'_>) -> Result<()> {
    let kind = ServiceKind::ClusterIp([IpAddr::V4(CLUSTER_IP)].into_iter().collect());
    let service = ServiceDef { namespace: "default", name: "park", kind, affinity_secs: 0, flags: 0 };
    let endpoint = EndpointDef {
        node: 1,
        address: IpAddr::from([172, 17, 0, 2]),
        vip: None,
        hostname: "",
        conditions: ENDPOINT_READY | ENDPOINT_SERVING,
        zones: &[],
    };
    for update in [
        Update::Begin,
        Update::Namespace("default"),
        Update::Service(service),
        Update::Port(PortDef { name: "http", protocol: Protocol::Tcp, port: 80 }),
        Update::Targets(&8080_u16.to_le_bytes()),
        Update::Endpoint(endpoint),
        Update::Commit,
        Update::End,
    ] {
        engine.update(&update)?;
    }
    Ok(())
}

/// Answers the next query.
fn serve(engine: &mut Engine<'_>, socket: &UdpSocket) -> Result<()> {
    let (mut query, mut answer) = ([0; 512], [0; 1232]);
    let (len, client) = socket.recv_from(&mut query)?;
    let query = query.get(..len).unwrap_or_default();
    match engine.query(Instant::ZERO, Transport::Udp, query, &mut answer) {
        Verdict::Answer { len, .. } | Verdict::Chase { len } => {
            socket.send_to(answer.get(..len).unwrap_or_default(), client)?;
        }
        Verdict::Forward => println!("{client} asked for a name that is not ours"),
        Verdict::Wait(_) => println!("{client} waits: only a table on demand asks a server"),
        Verdict::Drop(reason) => println!("{client}: {reason}"),
    }
    Ok(())
}

/// Asks over loopback and serves the question: the address in the answer.
fn ask_oneself(engine: &mut Engine<'_>) -> Result<Ipv4Addr> {
    let server = UdpSocket::bind("127.0.0.1:0")?;
    let client = UdpSocket::bind("127.0.0.1:0")?;
    client.set_read_timeout(Some(Duration::from_secs(5)))?;
    client.send_to(&query(NAME)?, server.local_addr()?)?;
    serve(engine, &server)?;
    let mut answer = [0; 512];
    let len = client.recv(&mut answer)?;
    let (_, address) =
        answer.get(..len).and_then(|bytes| bytes.split_last_chunk::<4>()).ok_or("too short")?;
    Ok(Ipv4Addr::from(*address))
}

/// A question for the IPv4 address of `name` (RFC 1035, section 4.1).
fn query(name: &str) -> Result<Vec<u8>> {
    let mut query = vec![0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in name.split('.') {
        query.push(u8::try_from(label.len())?);
        query.extend(label.as_bytes());
    }
    query.extend([0, 0, 1, 0, 1]);
    Ok(query)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_is_found_by_its_name() -> Result<()> {
        let mut memory = Box::new(Memory::ZERO);
        let mut engine = engine(memory.lend())?;
        define_service(&mut engine)?;
        assert_eq!(ask_oneself(&mut engine)?, CLUSTER_IP);
        Ok(())
    }
}
