//! What takes the load, on the far node. All run until the process ends.

use edgemesh_lab::machine::Machine;
use edgemesh_lab::wait::{secs, wait_until};
use edgemesh_lab::{Context, Error, Result, ensure};
use socket2::{Domain, Socket, Type};
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;

/// Bytes of one read.
const PIECE: usize = 256 << 10;
/// What a UDP server asks for as receive buffer.
const BUFFER: usize = 8 << 20;

/// Takes bytes over TCP, and datagrams.
#[derive(Clone, Default)]
pub(crate) struct Sink {
    bytes: Arc<AtomicU64>,
    datagrams: Arc<AtomicU64>,
    connections: Arc<AtomicU64>,
}

impl Sink {
    /// Listens on a port of the machine.
    ///
    /// # Errors
    /// When the port is taken.
    pub(crate) fn serve(&self, machine: &Machine, port: u16) -> Result {
        let sink = self.clone();
        serve(machine, port, move |stream| {
            let sink = sink.clone();
            thread::spawn(move || {
                sink.connections.fetch_add(1, Ordering::Relaxed);
                sink.take(stream);
                sink.connections.fetch_sub(1, Ordering::Relaxed);
            });
        })?;
        for socket in udp_servers(machine, port)? {
            let datagrams = Arc::clone(&self.datagrams);
            thread::spawn(move || {
                let mut buffer = [0; 2048];
                loop {
                    if socket.recv(&mut buffer).is_ok() {
                        datagrams.fetch_add(1, Ordering::Relaxed);
                    }
                }
            });
        }
        Ok(())
    }

    fn take(&self, mut stream: TcpStream) {
        let mut buffer = vec![0; PIECE];
        while let Ok(n) = stream.read(&mut buffer) {
            if n == 0 {
                return;
            }
            self.bytes.fetch_add(n as u64, Ordering::Relaxed);
        }
    }

    /// Bytes taken over TCP so far.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Datagrams taken so far.
    pub(crate) fn datagrams(&self) -> u64 {
        self.datagrams.load(Ordering::Relaxed)
    }

    /// Waits until no stream is left.
    ///
    /// # Errors
    /// When one does not end.
    pub(crate) fn rest(&self) -> Result {
        wait_until("earlier streams have ended", secs(20), || {
            let left = self.connections.load(Ordering::Relaxed);
            ensure!(left == 0, "{left} are left");
            Ok(())
        })
    }
}

/// Gives back each byte and each datagram.
///
/// # Errors
/// When the port is taken.
pub(crate) fn serve_echo(machine: &Machine, port: u16) -> Result {
    serve(machine, port, |stream| {
        thread::spawn(move || echo(stream));
    })?;
    for socket in udp_servers(machine, port)? {
        thread::spawn(move || {
            let mut buffer = [0; 2048];
            loop {
                if let Ok((n, from)) = socket.recv_from(&mut buffer) {
                    // A client that is gone does not matter.
                    let _ = socket.send_to(buffer.get(..n).unwrap_or_default(), from);
                }
            }
        });
    }
    Ok(())
}

fn echo(mut stream: TcpStream) {
    let mut buffer = [0; 4096];
    let _ = stream.set_nodelay(true);
    while let Ok(n) = stream.read(&mut buffer) {
        if n == 0 || stream.write_all(buffer.get(..n).unwrap_or_default()).is_err() {
            return;
        }
    }
}

/// Sends one byte to whoever connects, and closes.
///
/// # Errors
/// When the port is taken.
pub(crate) fn serve_once(machine: &Machine, port: u16) -> Result {
    serve(machine, port, |mut stream| {
        // A client that is gone does not matter.
        let _ = stream.write_all(b"!");
    })
}

/// Keeps what connects open.
#[derive(Clone, Default)]
pub(crate) struct Held(Arc<Mutex<Vec<TcpStream>>>);

impl Held {
    /// Listens on a port of the machine.
    ///
    /// # Errors
    /// When the port is taken.
    pub(crate) fn serve(&self, machine: &Machine, port: u16) -> Result {
        let held = self.clone();
        serve(machine, port, move |stream| held.streams().push(stream))
    }

    /// Closes all of them.
    pub(crate) fn release(&self) {
        self.streams().clear();
    }

    fn streams(&self) -> MutexGuard<'_, Vec<TcpStream>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Hands what connects to that port to `each`, one after the other.
fn serve(machine: &Machine, port: u16, mut each: impl FnMut(TcpStream) + Send + 'static) -> Result {
    let listener =
        machine.ns.enter(|| TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)))?.context("listen")?;
    thread::spawn(move || listener.incoming().flatten().for_each(&mut each));
    Ok(())
}

/// One at the machine's own address, so that answers come from where was asked, and one for all other addresses.
fn udp_servers(machine: &Machine, port: u16) -> Result<[UdpSocket; 2]> {
    let server = |address: Ipv4Addr| -> io::Result<UdpSocket> {
        let socket = Socket::new(Domain::IPV4, Type::DGRAM, None)?;
        socket.set_reuse_address(true)?;
        socket.bind(&SocketAddr::from((address, port)).into())?;
        // The system's limit holds; then more is lost.
        let _ = socket.set_recv_buffer_size(BUFFER);
        Ok(socket.into())
    };
    let both = || Ok([server(machine.address)?, server(Ipv4Addr::UNSPECIFIED)?]);
    machine.ns.enter(both)?.map_err(|error: io::Error| Error::new(format!("UDP server: {error}")))
}
