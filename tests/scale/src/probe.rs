//! When a change has its effect: UDP packets to a Service's VIP, which arrive where its endpoint is.

use crate::cluster::{self, PROBE};
use edgemesh_lab::{Context, Result, ensure};
use edgemesh_testapi::ApiServer;
use std::io::ErrorKind;
use std::net::{IpAddr, UdpSocket};
use std::time::{Duration, Instant};

/// How long a change may take at most.
const LIMIT: Duration = Duration::from_secs(60);
/// Pause between packets.
const PAUSE: Duration = Duration::from_millis(1);

/// Two sockets that the endpoint moves between.
pub(crate) struct Probe {
    here: IpAddr,
    sockets: [UdpSocket; 2],
    at: usize,
}

impl Probe {
    /// Sockets at an address of this machine.
    ///
    /// # Errors
    /// When they cannot be had.
    pub(crate) fn new(here: IpAddr) -> Result<Self> {
        let socket = || -> Result<UdpSocket> {
            let socket = UdpSocket::bind((here, 0)).context("socket of the probe")?;
            socket.set_nonblocking(true).context("socket of the probe")?;
            Ok(socket)
        };
        Ok(Self { here, sockets: [socket()?, socket()?], at: 0 })
    }

    /// Moves the endpoint to the other socket; how long it takes until a packet arrives there.
    ///
    /// # Errors
    /// When none does.
    pub(crate) fn change(&mut self, api: &ApiServer) -> Result<Duration> {
        self.at = 1 - self.at;
        self.arrives();
        let port = self.sockets[self.at].local_addr().context("probe")?.port();
        let began = Instant::now();
        cluster::probe(api, self.here, port);
        self.wait(began)
    }

    /// How long after `began` a packet arrives.
    ///
    /// # Errors
    /// When none does.
    pub(crate) fn wait(&self, began: Instant) -> Result<Duration> {
        let (_, vip, port) = PROBE;
        loop {
            // A new client each time: flows that there are stay where they are.
            let client = UdpSocket::bind("0.0.0.0:0").context("client")?;
            // Refused, or no route yet: then nothing arrives.
            let _ = client.send_to(b"probe", (vip, port));
            std::thread::sleep(PAUSE);
            let took = began.elapsed();
            if self.arrives() {
                return Ok(took);
            }
            ensure!(took < LIMIT, "nothing arrived within {LIMIT:?}");
        }
    }

    /// Whether packets have arrived where the endpoint is; they are taken.
    fn arrives(&self) -> bool {
        let mut any = false;
        let mut buffer = [0; 64];
        loop {
            match self.sockets[self.at].recv(&mut buffer) {
                Ok(_) => any = true,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => return any,
            }
        }
    }
}

/// The value below which `percent` of all are.
pub(crate) fn percentile(all: &mut [Duration], percent: usize) -> Duration {
    all.sort_unstable();
    let at = (all.len() * percent).div_ceil(100).saturating_sub(1);
    all.get(at).copied().unwrap_or_default()
}
