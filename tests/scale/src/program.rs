//! The product's programs, and what they cost.

use edgemesh_host::admin::{self, Address};
use edgemesh_lab::product::binary;
use edgemesh_lab::wait::{secs, wait_until};
use edgemesh_lab::{Context, Result, fail};
use serde_json::Value;
use std::fs;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// A running program; dropping it ends it.
pub(crate) struct Program {
    child: Child,
    admin: Address,
}

impl Program {
    /// Starts `name` with `arguments`; its log is a file of that name, its admin endpoint a socket, below `directory`.
    ///
    /// # Errors
    /// When it cannot be started.
    pub(crate) fn start(name: &str, arguments: &[&str], directory: &Path) -> Result<Self> {
        let socket = PathBuf::from(format!("/run/lab/{name}.sock"));
        let path = directory.join(format!("{name}.log"));
        let log = File::options().create(true).append(true).open(&path).context(path.display())?;
        let mut command = Command::new(binary(name)?);
        command.arg("run").args(arguments).arg("--admin").arg(format!("unix:{}", socket.display()));
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn().context(name)?;
        Ok(Self { child, admin: Address::Unix(socket) })
    }

    /// `/status` as JSON.
    ///
    /// # Errors
    /// When the program does not answer.
    pub(crate) fn status(&self) -> Result<Value> {
        let bytes = admin::get(&self.admin, "/status").context("status")?;
        serde_json::from_slice(&bytes).context("status")
    }

    /// Waits until `/status` is as wanted.
    ///
    /// # Errors
    /// When it never is.
    pub(crate) fn until(&self, what: &str, wanted: impl Fn(&Value) -> bool) -> Result {
        wait_until(what, secs(120), || match self.status() {
            Ok(status) if wanted(&status) => Ok(()),
            Ok(status) => fail(status.to_string()),
            Err(error) => Err(error),
        })
    }

    /// Resident memory now and its highest since [`Program::forget_peak`], in bytes.
    ///
    /// # Errors
    /// When the kernel does not tell.
    pub(crate) fn memory(&self) -> Result<(u64, u64)> {
        let text = fs::read_to_string(format!("/proc/{}/status", self.child.id())).context("memory")?;
        let field = |name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(name));
            line.and_then(|line| line.trim().strip_suffix(" kB")?.parse::<u64>().ok()).context(name)
        };
        Ok((field("VmRSS:")? << 10, field("VmHWM:")? << 10))
    }

    /// The highest memory is that of now.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub(crate) fn forget_peak(&self) -> Result {
        fs::write(format!("/proc/{}/clear_refs", self.child.id()), "5").context("peak of memory")
    }

    /// Processor time used so far.
    ///
    /// # Errors
    /// When the kernel does not tell.
    pub(crate) fn cpu(&self) -> Result<Duration> {
        let text = fs::read_to_string(format!("/proc/{}/stat", self.child.id())).context("processor time")?;
        let fields: Vec<&str> = text.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
        let ticks: u64 = [11, 12].iter().filter_map(|n| fields.get(*n)?.parse::<u64>().ok()).sum();
        // USER_HZ is 100 on every Linux.
        Ok(Duration::from_millis(ticks * 10))
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
