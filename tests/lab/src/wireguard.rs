//! Other programs' WireGuard devices, set up through WireGuard's cross-platform configuration protocol: text on a Unix
//! socket below `/run/wireguard`, no tool of theirs.
//!
//! Not here: what is in the configuration, and what is tried with it.

use core::fmt::Write as _;
use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;

use crate::machine::Machine;
use crate::process::Process;
use crate::wait::secs;
use crate::{Context, Result, ensure};

/// A program that was fetched to compare with: `bin/<name>` where `tests/bench/rivals.sh` and `tests/lab/wireguard-go.sh`
/// put it in a build directory; `None` when it was not fetched.
///
/// # Errors
/// When the running binary cannot tell where it is.
pub fn fetched(program: &str) -> Result<Option<PathBuf>> {
    let own = std::env::current_exe().context("path of the own binary")?;
    let target = own.parent().and_then(|at| at.parent()).context("the target directory")?;
    let path = target.join("rivals/bin").join(program);
    Ok(path.is_file().then_some(path))
}

/// Bytes as the protocol writes keys.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        // Writing into a String cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// A key as [`hex`] writes it.
///
/// # Errors
/// When it is none.
pub fn unhex(text: &str) -> Result<[u8; 32]> {
    let digits = (0..text.len()).step_by(2).filter_map(|at| text.get(at..at.saturating_add(2)));
    let bytes: core::result::Result<Vec<u8>, _> = digits.map(|pair| u8::from_str_radix(pair, 16)).collect();
    bytes.context(text)?.try_into().map_err(|_| crate::Error::new(format!("{text} is no key")))
}

/// A device and the program that makes it; the program ends with the value, and the device with it.
#[derive(Debug)]
pub struct Device {
    /// The program.
    pub process: Process,
    name: String,
}

impl Device {
    /// Starts the program, the words without the device's name, on a machine and gives the device its configuration.
    ///
    /// # Errors
    /// When it does not start or refuses the configuration.
    pub fn start(machine: &Machine, words: &[&str], name: &str, configuration: &str) -> Result<Self> {
        let process = machine.spawn(name, &[words, &[name]].concat())?;
        let mut device = Self { process, name: name.to_owned() };
        device.wait_for_socket()?;
        device.set(configuration)?;
        Ok(device)
    }

    fn wait_for_socket(&mut self) -> Result {
        let name = self.name.clone();
        self.process.wait_until("it listens for its configuration", secs(10), |_| connect(&name).map(drop))
    }

    /// Changes the configuration: lines of `key=value`.
    ///
    /// # Errors
    /// When the program refuses a line.
    pub fn set(&self, lines: &str) -> Result {
        let answer = self.ask(&format!("set=1\n{lines}\n"))?;
        ensure!(answer.starts_with("errno=0"), "{} refused {lines:?}: {answer}", self.name);
        Ok(())
    }

    /// A value of the device, or of its only peer.
    ///
    /// # Errors
    /// When it has no such value.
    pub fn get(&self, key: &str) -> Result<String> {
        let answer = self.ask("get=1\n\n")?;
        let value = answer.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='));
        Ok(value.context(format!("{key} of {} in {answer}", self.name))?.to_owned())
    }

    /// [`Device::get`] of a number.
    ///
    /// # Errors
    /// When it is none.
    pub fn number(&self, key: &str) -> Result<u64> {
        let value = self.get(key)?;
        value.parse().context(format!("{key}={value}"))
    }

    fn ask(&self, request: &str) -> Result<String> {
        let mut stream = connect(&self.name)?;
        stream.write_all(request.as_bytes()).context("configuration")?;
        // The answer ends with an empty line; programs that serve one request a connection end it there.
        stream.shutdown(Shutdown::Write).context("configuration")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).context("answer")?;
        Ok(answer)
    }
}

fn connect(device: &str) -> Result<UnixStream> {
    let socket = format!("/run/wireguard/{device}.sock");
    let stream = UnixStream::connect(&socket).context(&socket)?;
    stream.set_read_timeout(Some(secs(5))).context("timeout")?;
    Ok(stream)
}
