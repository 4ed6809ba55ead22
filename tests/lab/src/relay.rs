//! The product's server as a relay without a directory, driven as [`Server`](crate::product::Server) is.

use std::fs;
use std::path::{Path, PathBuf};

use crate::machine::Machine;
use crate::process::Process;
use crate::product::{READY_LIMIT, SERVER_PORT, binary, must_be_ok, server_admin};
use crate::{Context, Result};

/// `edgemesh-server run --role relay` on a machine.
#[derive(Debug)]
pub struct Relay {
    /// The running process.
    pub process: Process,
    directory: PathBuf,
}

impl Relay {
    /// Starts it with a token, with its files below the machine's directory.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(machine: &Machine, token: &str) -> Result<Self> {
        let directory = machine.directory().join("relay");
        fs::create_dir_all(&directory).context(directory.display())?;
        let file = directory.join("token");
        fs::write(&file, token).context(file.display())?;
        let process = Self::launch(machine, &directory, &["--join", &format!("@{}", file.display())])?;
        Ok(Self { process, directory })
    }

    fn launch(machine: &Machine, directory: &Path, more: &[&str]) -> Result<Process> {
        let mut command = machine.command(binary("edgemesh-server")?);
        command
            .args(["run", "--role", "relay", "--listen", &format!("0.0.0.0:{SERVER_PORT}"), "--state-dir"])
            .arg(directory.join("state"))
            .args(["--admin", "127.0.0.1:20005"])
            .args(more);
        machine.spawn_command("edgemesh-relay", &mut command)
    }

    /// Starts it again, without a token.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn restart(&mut self, machine: &Machine) -> Result {
        self.process.kill();
        self.process = Self::launch(machine, &self.directory, &[])?;
        Ok(())
    }

    /// A GET on its admin endpoint.
    ///
    /// # Errors
    /// When nothing listens there or the answer is no HTTP.
    pub fn admin(&self, machine: &Machine, path: &str) -> Result<(u16, String)> {
        server_admin(machine, path)
    }

    /// Waits until `/readyz` says so.
    ///
    /// # Errors
    /// When it ends or does not become ready; the log is in the message.
    pub fn wait_ready(&mut self, machine: &Machine) -> Result {
        self.process
            .wait_until("the relay is ready", READY_LIMIT, |_| must_be_ok(&server_admin(machine, "/readyz")?))
    }
}
