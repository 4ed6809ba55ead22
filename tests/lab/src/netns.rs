//! One network namespace by name, and ways to act in it.
//!
//! Life cycle: [`Netns::create`] makes it under the sandbox's private `/run/netns`; dropping the value deletes it,
//! and with it every interface, route and rule inside.
//!
//! Not here: processes (see [`crate::process`]); what a namespace stands for (see [`crate::machine`]).

use std::fs::{self, File};
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use nix::sched::{CloneFlags, setns};

use crate::process::run;
use crate::{Context, Result, fail};

/// Long enough for any one configuration command on a loaded machine.
const COMMAND_LIMIT: Duration = Duration::from_secs(30);

/// A named network namespace, deleted when dropped.
#[derive(Debug)]
pub struct Netns {
    name: String,
}

impl Netns {
    /// Creates the namespace and brings its loopback up.
    ///
    /// # Errors
    /// When `ip netns add` fails, e.g. because the name is taken.
    pub fn create(name: &str) -> Result<Self> {
        run(Command::new("ip").args(["netns", "add", name]), b"", COMMAND_LIMIT)?.success()?;
        let ns = Self { name: name.to_owned() };
        // Addresses are there at once and stay as they are: nobody else could have them.
        ns.sysctl("net/ipv6/conf/default/accept_dad", "0")?;
        ns.sysctl("net/ipv6/conf/all/accept_dad", "0")?;
        ns.ip(&["link set lo up"])?;
        Ok(ns)
    }

    /// The name under `/run/netns`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The file that stands for the namespace.
    pub fn path(&self) -> PathBuf {
        PathBuf::from("/run/netns").join(&self.name)
    }

    /// Runs `ip` commands in the namespace, as one batch that stops at the first failure.
    ///
    /// # Errors
    /// When a line is refused; the message names it.
    pub fn ip(&self, lines: &[&str]) -> Result {
        let batch = lines.join("\n") + "\n";
        run(Command::new("ip").args(["-n", &self.name, "-batch", "-"]), batch.as_bytes(), COMMAND_LIMIT)?
            .success()
            .context(format!("ip in {}: {}", self.name, lines.join("; ")))?;
        Ok(())
    }

    /// Loads an nft ruleset, whole or not at all.
    ///
    /// # Errors
    /// When nft refuses it.
    pub fn nft(&self, ruleset: &str) -> Result {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.name, "nft", "-f", "-"]);
        run(&mut command, ruleset.as_bytes(), COMMAND_LIMIT)?
            .success()
            .context(format!("nft in {}: {ruleset}", self.name))?;
        Ok(())
    }

    /// Runs any configuration command in the namespace and returns what it printed.
    ///
    /// # Errors
    /// When it cannot be started, takes too long or fails.
    pub fn exec(&self, words: &[&str]) -> Result<String> {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.name]).args(words);
        run(&mut command, b"", COMMAND_LIMIT)?.success().context(format!("in {}", self.name))
    }

    /// Writes a sysctl given as a path below `/proc/sys`, e.g. `net/ipv4/ip_forward`.
    ///
    /// # Errors
    /// When the kernel refuses the value or the file is not there.
    pub fn sysctl(&self, path: &str, value: &str) -> Result {
        let file = format!("/proc/sys/{path}");
        self.enter(|| fs::write(&file, value))?.context(format!("sysctl {path}={value} in {}", self.name))
    }

    /// Runs `work` on a thread that lives in the namespace. Sockets made there stay there.
    ///
    /// # Errors
    /// When the namespace cannot be entered.
    pub fn enter<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T> {
        let file = File::open(self.path()).context(format!("namespace {}", self.name))?;
        let entered = std::thread::scope(|scope| {
            scope
                .spawn(|| {
                    setns(&file, CloneFlags::CLONE_NEWNET).context("setns")?;
                    Ok(work())
                })
                .join()
        });
        match entered {
            Ok(result) => result,
            Err(_) => fail(format!("work in namespace {} panicked", self.name)),
        }
    }
}

impl Drop for Netns {
    fn drop(&mut self) {
        // The sandbox ends with everything in it; a failure here cannot leak to the machine.
        let _ = Command::new("ip").args(["netns", "del", &self.name]).status();
    }
}
