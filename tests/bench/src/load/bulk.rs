//! Streams that send as fast as they can.

use super::{Sink, dial};
use crate::meter::{Cost, Meter};
use edgemesh_lab::machine::Machine;
use edgemesh_lab::{Context, Result, ensure};
use std::io::Write;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// Bytes of one write.
const PIECE: usize = 256 << 10;
/// Until a stream runs as fast as it will.
const WARM: Duration = Duration::from_millis(700);

/// Running streams; dropping them ends them.
pub(crate) struct Sources {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Sources {
    /// Connects and begins; returns when they run.
    ///
    /// # Errors
    /// When nobody accepts.
    pub(crate) fn start(from: &Machine, to: SocketAddr, streams: usize) -> Result<Self> {
        let mut sources = Self { stop: Arc::default(), threads: Vec::new() };
        for _ in 0..streams {
            let mut stream = dial(from, to)?;
            stream.set_write_timeout(Some(Duration::from_millis(200))).context("timeout")?;
            let stop = Arc::clone(&sources.stop);
            sources.threads.push(thread::spawn(move || {
                let piece = vec![0x5a; PIECE];
                while !stop.load(Ordering::Relaxed) {
                    // A timeout is not the end; what is, shows as too few bytes.
                    let _ = stream.write(&piece);
                }
            }));
        }
        thread::sleep(WARM);
        Ok(sources)
    }
}

impl Drop for Sources {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

/// What `streams` streams cost for a while, once they run.
///
/// # Errors
/// When nobody accepts, nothing arrives, or a program ends.
pub(crate) fn bulk(
    from: &Machine,
    to: SocketAddr,
    streams: usize,
    sink: &Sink,
    meter: &Meter,
    span: Duration,
) -> Result<Cost> {
    let sources = Sources::start(from, to, streams)?;
    let (before, taken) = (meter.sample()?, sink.bytes());
    thread::sleep(span);
    let cost = meter.since(&before, sink.bytes() - taken)?;
    drop(sources);
    sink.rest()?;
    ensure!(cost.amount > 0, "nothing arrived from {to}");
    Ok(cost)
}
