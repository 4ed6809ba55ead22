//! A machine of the lab: a namespace with a name, an address, a resolver file and programs that run in it.
//!
//! Nodes, pods, servers and routers are all machines. A program is started through the lab's own [`EXEC`] command,
//! which enters the namespace, shows the machine's `resolv.conf` and then *becomes* the program: the process id
//! stays, so that a signal reaches the program itself.
//!
//! Not here: how machines are wired (see [`crate::topology`]).

use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::net::Ipv4Addr;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, setns, unshare};

use crate::netns::Netns;
use crate::process::{Output, Process, run};
use crate::{Context, Error, Result};

/// The lab's hidden command that starts a program in a namespace.
pub const EXEC: &str = "__exec";

/// The link-local address on which every node's mesh answers DNS.
pub const MESH_DNS: Ipv4Addr = Ipv4Addr::new(169, 254, 96, 16);

/// Where a machine's BPF file system is in its directory, if it has one.
const BPF: &str = "bpf";

/// A limit for commands that should be over in a moment.
const SHORT: Duration = Duration::from_secs(30);

/// The resolv.conf of every machine.
pub fn resolver() -> String {
    format!(
        "nameserver {MESH_DNS}\nsearch default.svc.cluster.local svc.cluster.local cluster.local\n\
         options ndots:5 timeout:2 attempts:3\n"
    )
}

/// One machine of the lab.
#[derive(Debug)]
pub struct Machine {
    /// Its name in messages and log files, e.g. `a1` or `a1-p1`.
    pub name: String,
    /// Its main address.
    pub address: Ipv4Addr,
    /// Its namespace.
    pub ns: Netns,
    directory: PathBuf,
    resolver: PathBuf,
}

impl Machine {
    /// Makes the machine's namespace and its files below `directory`.
    ///
    /// # Errors
    /// When the namespace or the files cannot be made.
    pub fn create(prefix: &str, name: &str, address: Ipv4Addr, directory: &Path) -> Result<Self> {
        let ns = Netns::create(&format!("{prefix}{name}"))?;
        let directory = directory.join(name);
        fs::create_dir_all(&directory).context(directory.display())?;
        let resolver = directory.join("resolv.conf");
        fs::write(&resolver, self::resolver()).context(resolver.display())?;
        Ok(Self { name: name.to_owned(), address, ns, directory, resolver })
    }

    /// A directory of the machine's own, for logs, state and served files.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// A command that will run in the machine.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new("/proc/self/exe");
        command.arg(EXEC).arg(self.ns.path()).arg(&self.resolver).arg(program);
        command.current_dir(&self.directory).env("LC_ALL", "C");
        command
    }

    /// Runs a short command line in the machine; the first word is the program.
    ///
    /// # Errors
    /// When it cannot be started or takes more than 30 s. A failing exit code is not an error here.
    pub fn run(&self, words: &[&str]) -> Result<Output> {
        self.run_within(words, b"", SHORT)
    }

    /// [`Machine::run`] with input and a limit of its own.
    ///
    /// # Errors
    /// When it cannot be started or takes longer than `limit`.
    pub fn run_within(&self, words: &[&str], input: &[u8], limit: Duration) -> Result<Output> {
        let (program, rest) = words.split_first().context("an empty command")?;
        run(self.command(program).args(rest), input, limit).context(format!("on {}", self.name))
    }

    /// Runs a short command that must succeed and returns what it printed.
    ///
    /// # Errors
    /// When it fails in any way.
    pub fn check(&self, words: &[&str]) -> Result<String> {
        self.run(words)?.success().context(format!("on {}", self.name))
    }

    /// Starts a long-lived program; its log is `<label>.log` in the machine's directory.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn spawn(&self, label: &str, words: &[&str]) -> Result<Process> {
        let (program, rest) = words.split_first().context("an empty command")?;
        self.spawn_command(label, self.command(program).args(rest))
    }

    /// Starts a command made by [`Machine::command`].
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn spawn_command(&self, label: &str, command: &mut Command) -> Result<Process> {
        Process::spawn(command, &self.log_path(label)).context(format!("on {}", self.name))
    }

    /// A BPF file system of the machine's own, which programs see at `/sys/fs/bpf` that are started while it is there.
    ///
    /// # Errors
    /// When the kernel has none, or refuses.
    pub fn bpf(&self) -> Result<Bpf> {
        let at = self.directory.join(BPF);
        fs::create_dir_all(&at).context(at.display())?;
        mount(Some("bpf"), &at, Some("bpf"), MsFlags::empty(), None::<&str>).context("mount bpf")?;
        Ok(Bpf { at })
    }

    /// Where the program with that label logs to.
    pub fn log_path(&self, label: &str) -> PathBuf {
        self.directory.join(format!("{label}.log"))
    }

    /// Starts one of the lab's own tools (see [`crate::tools`]) and waits until it says that it is ready.
    ///
    /// # Errors
    /// When it does not get ready.
    pub fn tool(&self, label: &str, words: &[&str]) -> Result<Process> {
        let mut tool = self.spawn_command(label, self.command(own_binary()?).arg("tool").args(words))?;
        tool.wait_log("ready", SHORT)?;
        Ok(tool)
    }

    /// Runs one of the lab's own client tools to its end.
    ///
    /// # Errors
    /// When it fails or takes longer than `limit`.
    pub fn run_tool(&self, words: &[&str], limit: Duration) -> Result<String> {
        let mut command = self.command(own_binary()?);
        run(command.arg("tool").args(words), b"", limit)?.success().context(format!("on {}", self.name))
    }
}

/// A mounted BPF file system; it is gone when dropped.
#[derive(Debug)]
pub struct Bpf {
    /// Where it is.
    pub at: PathBuf,
}

impl Drop for Bpf {
    fn drop(&mut self) {
        // Programs may still look at it; the directory below is the lab's to remove.
        let _ = umount2(&self.at, MntFlags::MNT_DETACH);
    }
}

/// The path of the running lab binary.
fn own_binary() -> Result<PathBuf> {
    std::env::current_exe().context("path of the lab binary")
}

/// The [`EXEC`] command: `<namespace file> <resolv.conf> <program> <arguments..>`. Returns only on failure.
pub fn exec(arguments: &[OsString]) -> Error {
    match try_exec(arguments) {
        Ok(never) => match never {},
        Err(error) => error,
    }
}

fn try_exec(arguments: &[OsString]) -> Result<core::convert::Infallible> {
    let [namespace, resolver, program, rest @ ..] = arguments else {
        return Err(Error::new("usage: __exec NAMESPACE RESOLV_CONF PROGRAM [ARGUMENT..]"));
    };
    let file = File::open(namespace).context("namespace file")?;
    setns(&file, CloneFlags::CLONE_NEWNET).context("enter namespace")?;
    unshare(CloneFlags::CLONE_NEWNS).context("unshare mounts")?;
    let none: Option<&str> = None;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).context("make mounts private")?;
    mount(Some(resolver.as_os_str()), "/etc/resolv.conf", none, MsFlags::MS_BIND, none)
        .context("show resolv.conf")?;
    // The machine's own devices under /sys/class/net; programs that do not look there do not need it.
    let _ = mount(Some("sysfs"), "/sys", Some("sysfs"), MsFlags::MS_RDONLY, none);
    let bpf = Path::new(resolver).with_file_name(BPF);
    if bpf.exists() {
        mount(Some(&bpf), "/sys/fs/bpf", none, MsFlags::MS_BIND, none).context("show the BPF file system")?;
    }
    Err(Command::new(program).args(rest).exec()).context(format!("exec {}", program.to_string_lossy()))
}
