//! The relay's UDP socket: its own thread, bursts in (GRO) and bursts out (GSO).
//!
//! A received burst of equal segments in one session goes out as one burst, unchanged and uncopied; mixed ones are
//! split where the session changes. The socket never waits for room: what it does not take at once is dropped.

use super::{Ends, From, Switch, Verdict, Way};
use crate::counters::Loss;
use edgemesh_core::wire::relay::BIND;
use quinn_udp::{EcnCodepoint, RecvMeta, Transmit, UdpSockRef, UdpSocketState};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::io::{self, IoSliceMut};
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::Duration;

/// Messages read by one call; each may be a burst of up to 64 KiB.
const MESSAGES: usize = 4;
const BURST: usize = 64 * 1024;
/// Socket buffers asked for, in bytes; the system may grant less.
const SOCKET_BUFFER: usize = 4 << 20;
/// Most bytes of one burst out: the largest UDP payload.
const BURST_OUT: usize = 65_507;
const ERROR_PAUSE: Duration = Duration::from_millis(1);

/// Starts the thread. It ends with the process.
///
/// # Errors
/// When the socket cannot be set up or no thread can be made.
pub(crate) fn spawn(switch: Arc<Switch>, socket: UdpSocket) -> io::Result<()> {
    let state = UdpSocketState::new(UdpSockRef::from(&socket))?;
    // Best effort: without the privilege the system's limit holds.
    let _ = state.set_recv_buffer_size(UdpSockRef::from(&socket), SOCKET_BUFFER);
    let _ = state.set_send_buffer_size(UdpSockRef::from(&socket), SOCKET_BUFFER);
    let mut relay = Relay { switch, socket, state };
    let work = move || relay.run();
    std::thread::Builder::new().name("relay-udp".to_owned()).stack_size(256 * 1024).spawn(work)?;
    Ok(())
}

struct Relay {
    switch: Arc<Switch>,
    socket: UdpSocket,
    state: UdpSocketState,
}

impl Relay {
    fn run(&mut self) {
        let mut space = vec![0u8; MESSAGES * BURST];
        let mut metas = [RecvMeta::default(); MESSAGES];
        loop {
            let mut places = space.chunks_mut(BURST);
            let mut slices: [IoSliceMut<'_>; MESSAGES] =
                std::array::from_fn(|_| IoSliceMut::new(places.next().unwrap_or_default()));
            match self.state.recv(UdpSockRef::from(&self.socket), &mut slices, &mut metas) {
                Ok(count) => {
                    for (meta, buffer) in metas.iter().zip(space.chunks(BURST)).take(count) {
                        self.burst(meta, buffer.get(..meta.len).unwrap_or_default());
                    }
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => self.wait(),
                // Errors of single destinations (ICMP) surface here; the socket goes on. The pause keeps an error
                // that stays from taking a core.
                Err(_) => std::thread::sleep(ERROR_PAUSE),
            }
        }
    }

    fn wait(&self) {
        let mut fds = [PollFd::new(&self.socket, PollFlags::IN)];
        let forever: Option<&Timespec> = None;
        let _ = poll(&mut fds, forever);
    }

    /// Relays one received burst: segments of `meta.stride` bytes, the last one maybe shorter.
    fn burst(&self, meta: &RecvMeta, bytes: &[u8]) {
        let remote = SocketAddr::new(meta.addr.ip().to_canonical(), meta.addr.port());
        let source = Ends { remote, local: meta.dst_ip };
        let stride = meta.stride.max(1);
        let mut rest = bytes;
        while !rest.is_empty() {
            let (run, after) = rest.split_at(run_length(rest, stride));
            let first = run.get(..stride.min(run.len())).unwrap_or_default();
            let mut out = [0; BIND];
            match self.switch.datagram(From::Udp(source), first, &mut out) {
                Verdict::Forward(way) => self.forward(&way, run, stride, meta.ecn),
                Verdict::Answer(len) => {
                    let answer = out.get(..len).unwrap_or_default();
                    self.switch.send(&source, answer, None, None, 0);
                }
                Verdict::Nothing => {}
            }
            rest = after;
        }
    }

    fn forward(&self, way: &Way, run: &[u8], stride: usize, ecn: Option<EcnCodepoint>) {
        match way {
            Way::Tcp(_) => self.switch.deliver(way, &run.chunks(stride).collect::<Vec<_>>()),
            Way::Udp(to) => {
                let segments = self.state.max_gso_segments().max(1).min((BURST_OUT / stride).max(1));
                for part in run.chunks(stride.saturating_mul(segments)) {
                    let count = part.len().div_ceil(stride);
                    self.switch.send(to, part, (count > 1).then_some(stride), ecn, count as u64);
                }
            }
        }
    }
}

/// What datagrams leave by, from any thread.
pub(super) struct Outlet {
    socket: UdpSocket,
    state: UdpSocketState,
    /// The socket speaks IPv6, also to IPv4 nodes.
    v6: bool,
}

impl Outlet {
    pub(super) fn new(socket: UdpSocket) -> io::Result<Self> {
        let state = UdpSocketState::new(UdpSockRef::from(&socket))?;
        let v6 = socket.local_addr()?.is_ipv6();
        Ok(Self { socket, state, v6 })
    }
}

impl Switch {
    /// Sends datagrams, in bursts where their sizes allow.
    pub(super) fn send_together(&self, to: &Ends, datagrams: &[&[u8]]) {
        let mut rest = datagrams;
        while let Some(first) = rest.first() {
            let (burst, after) = rest.split_at(burst_length(rest, self.udp.state.max_gso_segments()));
            let segment = (burst.len() > 1).then_some(first.len());
            self.send(to, &burst.concat(), segment, None, burst.len() as u64);
            rest = after;
        }
    }

    /// Sends, counting `relayed` datagrams; 0 for an answer of our own.
    pub(super) fn send(
        &self,
        to: &Ends,
        contents: &[u8],
        segment_size: Option<usize>,
        ecn: Option<EcnCodepoint>,
        relayed: u64,
    ) {
        let Outlet { socket, state, v6 } = &self.udp;
        let destination = match to.remote.ip() {
            IpAddr::V4(v4) if *v6 => SocketAddr::new(v4.to_ipv6_mapped().into(), to.remote.port()),
            _ => to.remote,
        };
        let transmit = Transmit { destination, ecn, contents, segment_size, src_ip: to.local };
        match state.try_send(UdpSockRef::from(socket), &transmit) {
            Ok(()) if relayed > 0 => self.counters.relayed(relayed, contents.len()),
            Ok(()) => {}
            Err(_) => self.counters.count(Loss::Send, relayed.max(1)),
        }
    }
}

/// How many of `datagrams` can leave as one burst: all of one size, the last maybe shorter.
fn burst_length(datagrams: &[&[u8]], most: usize) -> usize {
    let size = datagrams.first().map_or(0, |first| first.len());
    let most = most.min(BURST_OUT / size.max(1)).max(1);
    let full = datagrams.iter().take(most).take_while(|datagram| datagram.len() == size).count();
    let shorter = datagrams.get(full).is_some_and(|next| next.len() < size);
    full + usize::from(shorter && full < most)
}

/// How many leading bytes are datagrams that share their fate with the first: data of the same session.
fn run_length(bytes: &[u8], stride: usize) -> usize {
    let head = |segment: &[u8]| segment.first_chunk::<8>().copied();
    let mut segments = bytes.chunks(stride);
    let Some(first) = segments.next() else { return 0 };
    let wanted = head(first).filter(|[kind, ..]| *kind == edgemesh_core::wire::relay::envelope(0)[0]);
    let same = segments.take_while(|s| wanted.is_some() && head(s) == wanted);
    first.len() + same.map(<[u8]>::len).sum::<usize>()
}

#[cfg(test)]
mod tests {
    use super::{burst_length, run_length};
    use edgemesh_core::wire::relay::envelope;

    #[test]
    fn datagrams_of_one_size_leave_together() {
        let sizes = |sizes: &[usize], most| {
            let all = vec![0; 65_536];
            let datagrams: Vec<&[u8]> = sizes.iter().map(|size| &all[..*size]).collect();
            burst_length(&datagrams, most)
        };
        assert_eq!(sizes(&[100, 100, 100], 64), 3);
        assert_eq!(sizes(&[100, 100, 40, 40], 64), 3, "one that is shorter is the last");
        assert_eq!(sizes(&[100, 101], 64), 1);
        assert_eq!(sizes(&[100, 100, 100], 2), 2);
        assert_eq!(sizes(&[100, 40], 1), 1);
        assert_eq!(sizes(&[1_400; 64], 64), 46, "no longer than a datagram may be");
        assert_eq!(sizes(&[0, 0], 64), 2);
    }

    #[test]
    fn a_burst_is_split_where_the_session_changes() {
        let datagram = |session: u32, len: usize| [&envelope(session)[..], &vec![0; len - 8]].concat();
        let same = [datagram(1, 100), datagram(1, 100), datagram(1, 40)].concat();
        assert_eq!(run_length(&same, 100), 240);
        let mixed = [datagram(1, 100), datagram(2, 100), datagram(1, 40)].concat();
        assert_eq!(run_length(&mixed, 100), 100);
        assert_eq!(run_length(&mixed[100..], 100), 100);
        assert_eq!(run_length(&[0xE1; 300], 100), 100, "binds are looked at one by one");
        assert_eq!(run_length(&[1, 2, 3], 100), 3);
        assert_eq!(run_length(&[], 1), 0);
    }
}
