//! Two agents' data threads with a session and a direct path, one TUN device each.

use crate::counting::asked;
use edgemesh_agent::agent::command::{Command, Handle};
use edgemesh_agent::agent::data::{Data, Note, Outputs, Traffic};
use edgemesh_agent::clock;
use edgemesh_agent::dns::Listener;
use edgemesh_agent::poll::Poller;
use edgemesh_agent::tun::Tun;
use edgemesh_agent::udp::Socket;
use edgemesh_core::node::Engine;
use edgemesh_core::time::{Duration, Instant};
use edgemesh_testkit::star::{Star, packets};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::mpsc::sync_channel;
use std::sync::{Mutex, PoisonError};
use std::thread::JoinHandle;
use tokio::sync::{mpsc, watch};

edgemesh_core::memory! {
    struct Room {
        peers: 2,
        window: 128,
        handshakes: 2,
        flows: 4_096,
        admitted: 4_096,
        services: 4,
        ports: 8,
        endpoints: 8,
        names: 16,
        namespaces: 8,
        side: 16,
    }
}
static ROOMS: Mutex<[Room; 2]> = Mutex::new([Room::ZERO, Room::ZERO]);

/// The Service that both know, with its endpoint at the second one.
pub(crate) const SERVICE: u32 = 0;
/// Time jumps while engines get acquainted: so far back it begins, for all of it to have passed.
const EARLIER: u64 = 10_000_000;

/// The engines of nodes at these addresses, acquainted.
pub(crate) fn engines(addresses: [SocketAddr; 2]) -> Vec<Engine<'static>> {
    let rooms = Box::leak(Box::new(ROOMS.lock().unwrap_or_else(PoisonError::into_inner)));
    let start = Instant::from_micros(clock::now().as_micros().saturating_sub(EARLIER));
    let mut star = Star::new(start, rooms.iter_mut().map(Room::lend).zip(addresses));
    for index in [1, 2] {
        packets::define(star.engine(index), SERVICE + 1, |_| 2);
    }
    star.connect();
    assert!(star.now.since(start) < Duration::from_micros(EARLIER), "the engines live in the future");
    star.into_engines()
}

/// A running data thread.
pub(crate) struct Agent {
    handle: Handle,
    thread: JoinHandle<io::Result<Data>>,
    /// Kept, so that what the thread says goes somewhere.
    _outputs: (
        mpsc::UnboundedReceiver<Vec<u8>>,
        watch::Receiver<Option<SocketAddr>>,
        mpsc::UnboundedReceiver<Note>,
    ),
}

impl Agent {
    pub(crate) fn start(engine: Engine<'static>, tun: Tun, socket: Socket) -> Self {
        let poller = Poller::new().unwrap();
        let (handle, inputs) = Handle::new(poller.waker());
        let (frames, frames_out) = mpsc::unbounded_channel();
        let (relay, relay_out) = watch::channel(None);
        let (notes, notes_out) = mpsc::unbounded_channel();
        let data = Data::new(engine, poller, tun, [Some(socket), None], Outputs { frames, relay, notes });
        let thread = std::thread::spawn(move || data.run(&inputs));
        // The server went with the star.
        handle.send(Command::ControlDown);
        Self { handle, thread, _outputs: (frames_out, relay_out, notes_out) }
    }

    pub(crate) fn listen(&self, address: IpAddr, listener: Listener) {
        self.look(move |data| data.listen(address, listener));
    }

    /// How often the data thread has asked for memory so far, and what it has carried.
    pub(crate) fn asked(&self) -> (u64, Traffic) {
        self.look(|data| (asked(), data.traffic))
    }

    /// What the data thread finds. The way back has its room beforehand: it does not count.
    pub(crate) fn look<T: Send + 'static>(&self, look: impl FnOnce(&mut Data) -> T + Send + 'static) -> T {
        let (tell, told) = sync_channel(1);
        self.handle.send(Command::Inspect(Box::new(move |data| {
            let _ = tell.try_send(look(data));
        })));
        told.recv().expect("the data thread lives")
    }

    pub(crate) fn stop(self) {
        self.handle.send(Command::Stop);
        self.thread.join().expect("it ends").expect("without an error");
    }
}
