//! What went over a machine's interfaces, recorded and searched for bytes.
//!
//! Not here: decoding. The question is only whether a marker that was repeated throughout a payload is to be seen.

use std::fs;
use std::net::{Ipv4Addr, UdpSocket};
use std::path::PathBuf;

use crate::machine::Machine;
use crate::process::Process;
use crate::wait::{secs, wait_until};
use crate::{Context, Result, fail};

/// Sent last, over the machine's loopback: when it is in the file, so is everything before it.
const LAST: &[u8] = b"nothing-is-recorded-after-this-datagram";

/// A running capture of whole packets on all interfaces of a machine.
#[derive(Debug)]
pub struct Capture<'a> {
    machine: &'a Machine,
    recorder: Process,
    file: PathBuf,
}

impl<'a> Capture<'a> {
    /// Starts to record.
    ///
    /// # Errors
    /// When the recorder does not start to listen.
    pub fn start(machine: &'a Machine, label: &str) -> Result<Self> {
        let file = machine.directory().join(format!("{label}.pcap"));
        let recorder = machine.tool(&format!("{label}-capture"), &["capture", &file.to_string_lossy()])?;
        Ok(Self { machine, recorder, file })
    }

    /// Ends the capture and returns everything that was recorded.
    ///
    /// # Errors
    /// When the recorder died or the file cannot be read.
    pub fn stop(self) -> Result<Recording> {
        let file = self.keep()?;
        let recording = fs::read(&file).map(Recording).context(&file)?;
        fs::remove_file(&file).context(&file)?;
        Ok(recording)
    }

    /// Ends the capture and returns where everything is that was recorded.
    ///
    /// # Errors
    /// As [`Capture::stop`].
    pub fn keep(mut self) -> Result<String> {
        self.machine.ns.enter(|| {
            let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).context("bind")?;
            socket.send_to(LAST, (Ipv4Addr::LOCALHOST, 9)).context("send")
        })??;
        self.wait_for(LAST)?;
        self.recorder.kill();
        Ok(self.file.to_string_lossy().into_owned())
    }

    /// Waits until the running capture holds `marker`.
    ///
    /// # Errors
    /// When it does not within 15 s.
    pub fn wait_for(&self, marker: &[u8]) -> Result {
        wait_until("the capture holds the marker", secs(15), || {
            if self.look()?.contains(marker) { Ok(()) } else { fail(self.recorder.log()) }
        })
    }

    fn look(&self) -> Result<Recording> {
        fs::read(&self.file).map(Recording).context(self.file.display())
    }
}

/// The bytes of a capture.
#[derive(Debug)]
pub struct Recording(Vec<u8>);

impl Recording {
    /// Whether the bytes occur anywhere.
    pub fn contains(&self, marker: &[u8]) -> bool {
        self.0.windows(marker.len()).any(|window| window == marker)
    }

    /// Size in bytes; a payload that went past must have left at least its own size.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether nothing at all was recorded.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}
