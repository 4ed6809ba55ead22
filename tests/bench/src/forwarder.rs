//! What every tunnel of this shape pays: packets between a TUN device and a UDP socket, and nothing else.
//!
//! One thread with the agent's own parts for the system calls, the same offloads, turns of about the same length and
//! single packets that leave together; no cipher, no header, no addresses, no flows, one peer. So what it reaches is
//! what an agent on this machine could reach at best, and what it costs is the kernel's share. It protects nothing
//! and is no product.
//!
//! Life cycle: [`start`] runs it on both nodes of a pair as `edgemesh-bench __forward`; it ends with its process.

use crate::rivals::Rival;
use crate::world::Pair;
use edgemesh_agent::offload::{Coalescer, GsoType, SEGMENT_BUFFER, VnetHdr, segment};
use edgemesh_agent::poll::{Event, Interest, Poller};
use edgemesh_agent::tun::{DEFAULT_MTU, GSO_MAX_SIZE, MAX_PACKET, Tun};
use edgemesh_agent::udp::{MAX_BURST, RECEIVE_BUFFER, Socket};
use edgemesh_lab::machine::Machine;
use edgemesh_lab::process::Process;
use edgemesh_lab::wait::{secs, wait_until};
use edgemesh_lab::{Context, Result};
use std::ffi::OsString;
use std::io::{self, IoSlice};
use std::net::{Ipv4Addr, SocketAddr};
use std::ops::Range;
use std::process::ExitCode;

/// The hidden command that runs one end.
pub(crate) const FORWARD: &str = "__forward";

/// Reads of either side in one turn, unless they bring so many bytes.
const READS: usize = 64;
const BYTES: usize = 2 * GSO_MAX_SIZE as usize;
const DEVICE: &str = "plain";
const TUN: u64 = 0;
const SOCKET: u64 = 1;

/// Runs it on both nodes.
///
/// # Errors
/// When it does not start.
pub(crate) fn start(pair: &Pair) -> Result<Rival> {
    let [near, far] = [1, 2].map(|number| Ipv4Addr::new(10, 78, 0, number));
    let processes = [start_end(&pair.near, near, &pair.far)?, start_end(&pair.far, far, &pair.near)?];
    Ok(Rival { name: "forwarding alone, no cipher".to_owned(), processes, target: far })
}

fn start_end(machine: &Machine, own: Ipv4Addr, peer: &Machine) -> Result<Process> {
    let program = std::env::current_exe().context("path of the own binary")?.to_string_lossy().into_owned();
    let process = machine.spawn(DEVICE, &[&program, FORWARD, &peer.address.to_string()])?;
    wait_until("its device is there", secs(10), || {
        machine.ns.ip(&[&format!("addr replace {own}/24 dev {DEVICE}")])
    })?;
    Ok(process)
}

/// One end, between the device and the peer whose address is the argument, for ever.
///
/// # Errors
/// When device or socket fail.
pub(crate) fn run(arguments: &[OsString]) -> Result<ExitCode> {
    const PORT: u16 = 51_819;
    let peer: Ipv4Addr = arguments
        .first()
        .and_then(|word| word.to_str()?.parse().ok())
        .context("the peer's IPv4 address is missing")?;
    let tun = Tun::open(DEVICE, DEFAULT_MTU).context("the device")?;
    tun.withdraw().context("the device")?;
    let socket = Socket::bind(SocketAddr::from((Ipv4Addr::UNSPECIFIED, PORT))).context("the socket")?;
    let mut poller = Poller::new().context("epoll")?;
    poller.add(&tun, Interest::Read, TUN).context("epoll")?;
    poller.add(&socket, Interest::Read, SOCKET).context("epoll")?;
    let mut forwarder = Forwarder {
        coalescer: Coalescer::new(tun.takes_udp_super_packets()),
        tun,
        socket,
        peer: (peer, PORT).into(),
        packet: vec![0; MAX_PACKET],
        segments: vec![0; SEGMENT_BUFFER],
        batch: Vec::with_capacity(MAX_BURST),
        inbox: vec![0; RECEIVE_BUFFER],
    };
    loop {
        let mut ready = [false; 2];
        poller
            .wait(None, |event| {
                if let Event::Ready(token) = event {
                    ready[usize::from(token == SOCKET)] = true;
                }
            })
            .context("epoll")?;
        if ready[1] {
            forwarder.inbound();
        }
        if ready[0] {
            forwarder.outbound().context("the device")?;
        }
    }
}

struct Forwarder {
    tun: Tun,
    socket: Socket,
    peer: SocketAddr,
    coalescer: Coalescer,
    packet: Vec<u8>,
    segments: Vec<u8>,
    /// Single packets of one size in the segment buffer.
    batch: Vec<Range<usize>>,
    inbox: Vec<u8>,
}

impl Forwarder {
    fn inbound(&mut self) {
        let (mut reads, mut bytes) = (0, 0);
        while reads < READS && bytes < BYTES {
            let Ok(Some(received)) = self.socket.receive(&mut self.inbox) else { return };
            (reads, bytes) = (reads + 1, bytes + received.len);
            for place in received.datagrams() {
                if self.coalescer.push(&self.inbox, place.start, place.len()).is_err() {
                    self.deliver();
                    let _ = self.coalescer.push(&self.inbox, place.start, place.len());
                }
            }
            self.deliver();
        }
    }

    fn deliver(&mut self) {
        let Self { coalescer, inbox, tun, .. } = self;
        coalescer.drain(inbox, |packet| {
            let _ = tun.write(&packet);
        });
    }

    fn outbound(&mut self) -> io::Result<()> {
        let (mut reads, mut bytes) = (0, 0);
        while reads < READS && bytes < BYTES {
            let Some((header, len)) = self.tun.read(&mut self.packet)? else { break };
            (reads, bytes) = (reads + 1, bytes + len);
            self.send(&header, len);
        }
        self.flush();
        Ok(())
    }

    fn send(&mut self, header: &VnetHdr, len: usize) {
        let single = header.gso_type == GsoType::None;
        let size = self.batch.first().map_or(len, ExactSizeIterator::len);
        let ended = self.batch.last().is_some_and(|last| last.len() < size);
        if !single || len > size || ended || self.batch.len() == MAX_BURST {
            self.flush();
        }
        let start = self.batch.last().map_or(0, |last| last.end);
        let Ok(segments) = segment(header, &self.packet[..len], &mut self.segments[start..]) else { return };
        let places = (0..segments.count()).map(|i| segments.range(i));
        self.batch.extend(places.map(|place| start + place.start..start + place.end));
        if !single {
            self.flush();
        }
    }

    fn flush(&mut self) {
        for burst in self.batch.chunks(MAX_BURST) {
            let mut slices = [IoSlice::new(&[]); MAX_BURST];
            for (slice, place) in slices.iter_mut().zip(burst) {
                *slice = IoSlice::new(&self.segments[place.clone()]);
            }
            self.socket.send(self.peer, None, &slices[..burst.len()]);
        }
        self.batch.clear();
    }
}
