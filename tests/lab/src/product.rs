//! The product's two programs, driven only by their command line, their files and their admin endpoints.
//!
//! Life cycle: [`Server::start`] and [`Agent::start`] start a process and return; readiness is awaited on the admin
//! endpoint; kill, terminate and start again keep state directory, log and addresses.
//!
//! Not here: knowledge of how the product works inside.

use std::fs;
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::time::Duration;

use serde_json::Value;

use crate::machine::{MESH_DNS, Machine};
use crate::process::{Output, Process};
use crate::topology::SERVER;
use crate::wait::{secs, wait_until};
use crate::{Context, Result, ensure, fail};

/// Where agents reach the server.
pub const SERVER_PORT: u16 = 20004;
/// The Service range of the lab's cluster.
pub const SERVICE_CIDR: &str = "10.96.0.0/16";
/// How long a program on a busy machine may take to become ready.
pub const READY_LIMIT: Duration = secs(20);

/// The product's binary of that name: beside the lab's own, or where `EDGEMESH_BIN_DIR` says.
///
/// # Errors
/// When it has not been built.
pub fn binary(name: &str) -> Result<String> {
    let directory = match std::env::var_os("EDGEMESH_BIN_DIR") {
        Some(directory) => PathBuf::from(directory),
        None => {
            let own = std::env::current_exe().context("path of the lab binary")?;
            own.parent().context("directory of the lab binary")?.to_owned()
        }
    };
    let path = directory.join(name);
    ensure!(path.is_file(), "{} is not there: cargo build --workspace --bins", path.display());
    Ok(path.to_string_lossy().into_owned())
}

/// Where agents get their network device from.
const TUN: &str = "/dev/net/tun";

/// Refuses to go on where no agent could run.
///
/// # Errors
/// Naming the file, its mode and what to do.
pub fn may_open_tun() -> Result {
    match fs::File::options().read(true).write(true).open(TUN) {
        Ok(_) => Ok(()),
        Err(error) => {
            let mode = fs::metadata(TUN).map(|file| file.permissions().mode() & 0o7777);
            fail(closed_tun(&error, mode.ok()))
        }
    }
}

fn closed_tun(error: &io::Error, mode: Option<u32>) -> String {
    match mode {
        Some(mode) => format!(
            "{TUN} has mode {mode:04o} and cannot be opened ({error}): run as root, or open it to all as most \
             systems do (chmod 0666 {TUN}); the scenarios bare/ go without it"
        ),
        None => format!("{TUN} cannot be opened ({error}): load the module (modprobe tun)"),
    }
}

/// One GET over any stream: status code and body.
fn get(mut stream: impl Read + Write, path: &str) -> Result<(u16, String)> {
    let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).context("request")?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).context("answer")?;
    let answer = String::from_utf8_lossy(&answer).into_owned();
    let code = answer.split(' ').nth(1).and_then(|code| code.parse().ok()).context("status line")?;
    let body = answer.split_once("\r\n\r\n").map(|(_, body)| body.to_owned()).unwrap_or_default();
    Ok((code, body))
}

pub(crate) fn server_admin(machine: &Machine, path: &str) -> Result<(u16, String)> {
    machine.ns.enter(|| {
        let stream = TcpStream::connect(("127.0.0.1", 20005)).context("admin endpoint")?;
        stream.set_read_timeout(Some(secs(5))).context("timeout")?;
        get(stream, path)
    })?
}

fn agent_admin(socket: &Path, path: &str) -> Result<(u16, String)> {
    let stream = UnixStream::connect(socket).context("admin socket")?;
    stream.set_read_timeout(Some(secs(5))).context("timeout")?;
    get(stream, path)
}

pub(crate) fn must_be_ok(answer: &(u16, String)) -> Result {
    ensure!(answer.0 == 200, "HTTP {}: {}", answer.0, answer.1.trim());
    Ok(())
}

/// `edgemesh-server` on a machine.
#[derive(Debug)]
pub struct Server {
    /// The running process.
    pub process: Process,
    state: PathBuf,
    manifests: PathBuf,
    source: Vec<String>,
}

impl Server {
    /// Starts the server with the manifests that are in its directory.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(machine: &Machine) -> Result<Self> {
        Self::start_in(machine, machine.directory())
    }

    /// [`Server::start`] with state and manifests in another directory: another server.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start_in(machine: &Machine, directory: &Path) -> Result<Self> {
        let (state, manifests) = (directory.join("state"), directory.join("manifests"));
        fs::create_dir_all(&state).context(state.display())?;
        fs::create_dir_all(&manifests).context(manifests.display())?;
        let source = vec!["--manifests".to_owned(), manifests.to_string_lossy().into_owned()];
        let process = Self::launch(machine, &state, &source)?;
        Ok(Self { process, state, manifests, source })
    }

    fn launch(machine: &Machine, state: &Path, source: &[String]) -> Result<Process> {
        let mut command = machine.command(binary("edgemesh-server")?);
        command
            .args(["run", "--listen", &format!("0.0.0.0:{SERVER_PORT}"), "--state-dir"])
            .arg(state)
            .args(["--advertise", &format!("{SERVER}:{SERVER_PORT}"), "--admin", "127.0.0.1:20005"])
            .args(source);
        machine.spawn_command("edgemesh-server", &mut command)
    }

    /// Starts it again after it was killed or has ended.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn restart(&mut self, machine: &Machine) -> Result {
        self.process.kill();
        self.process = Self::launch(machine, &self.state, &self.source)?;
        Ok(())
    }

    /// Starts it again with these words instead of `--manifests DIR`.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn restart_with(&mut self, machine: &Machine, source: &[&str]) -> Result {
        self.source = source.iter().map(|word| (*word).to_owned()).collect();
        self.restart(machine)
    }

    /// The directory whose Service manifests it serves.
    pub fn manifests(&self) -> &Path {
        &self.manifests
    }

    /// Its state directory.
    pub fn state(&self) -> &Path {
        &self.state
    }

    /// A GET on the admin endpoint.
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
        self.process.wait_until("edgemesh-server is ready", READY_LIMIT, |_| {
            must_be_ok(&server_admin(machine, "/readyz")?)
        })
    }

    /// A join token for a node.
    ///
    /// # Errors
    /// When the command fails or prints anything but one line.
    pub fn token(&self, machine: &Machine, node: &str, ttl: &str) -> Result<String> {
        self.invitation(machine, &["--node", node, "--ttl", ttl])
    }

    /// The cluster's address, for nodes that join with a ServiceAccount token.
    ///
    /// # Errors
    /// As [`Server::token`].
    pub fn cluster(&self, machine: &Machine) -> Result<String> {
        self.invitation(machine, &["--cluster"])
    }

    /// What an operator's command prints, such as `nodes`.
    ///
    /// # Errors
    /// When it fails.
    pub fn command(&self, machine: &Machine, words: &[&str]) -> Result<String> {
        let (server, state) = (binary("edgemesh-server")?, self.state.to_string_lossy());
        machine.check(&[&[&*server], words, &["--state-dir", &*state]].concat())
    }

    /// A join token, or the cluster's address, with these words.
    ///
    /// # Errors
    /// When the command fails or prints anything but one line.
    pub fn invitation(&self, machine: &Machine, words: &[&str]) -> Result<String> {
        let (server, state) = (binary("edgemesh-server")?, self.state.to_string_lossy());
        let printed = machine.check(&[&[&*server, "token", "--state-dir", &state], words].concat())?;
        let token = printed.trim();
        ensure!(!token.is_empty() && token.lines().count() == 1, "token printed {printed:?}");
        Ok(token.to_owned())
    }
}

/// What an agent is started with.
#[derive(Debug, Clone)]
pub struct AgentOptions {
    /// `--join`.
    pub token: String,
    /// `--source`; `None` leaves the default.
    pub source: Option<String>,
    /// Further words at the end of the command line.
    pub more: Vec<String>,
}

/// Where a program was copied to, with every occurrence of `from` replaced by `to`: another build of it, as far as it
/// calls itself one.
///
/// # Errors
/// When `from` does not occur, or the lengths differ.
pub fn other_build(name: &str, directory: &Path, from: &str, to: &str) -> Result<PathBuf> {
    ensure!(from.len() == to.len(), "{from:?} and {to:?} differ in length");
    let own = binary(name)?;
    let mut bytes = fs::read(&own).context(&own)?;
    let mut found = 0_u32;
    for at in 0..bytes.len().saturating_sub(from.len()) {
        let here = bytes.get_mut(at..at.saturating_add(from.len())).filter(|here| *here == from.as_bytes());
        if let Some(here) = here {
            here.copy_from_slice(to.as_bytes());
            found = found.saturating_add(1);
        }
    }
    ensure!(found > 0, "{own} does not hold {from:?}");
    let path = directory.join(format!("{name}-{}", to.trim().replace([' ', '/'], "-")));
    fs::write(&path, bytes).context(path.display())?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).context(path.display())?;
    Ok(path)
}

/// `edgemesh-agent` on a node.
#[derive(Debug)]
pub struct Agent {
    /// The running process.
    pub process: Process,
    /// The node's name.
    pub node: String,
    options: AgentOptions,
    program: String,
    /// It logs all there is.
    traced: bool,
    socket: PathBuf,
}

impl Agent {
    /// Starts the agent of a node; the state directory is kept between starts.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(machine: &Machine, options: AgentOptions) -> Result<Self> {
        Self::start_as(machine, options, false)
    }

    /// [`Agent::start`], with all in its log that there is to log.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start_traced(machine: &Machine, options: AgentOptions) -> Result<Self> {
        Self::start_as(machine, options, true)
    }

    fn start_as(machine: &Machine, options: AgentOptions, traced: bool) -> Result<Self> {
        let socket = PathBuf::from("/run/lab").join(format!("{}.sock", machine.ns.name()));
        let program = binary("edgemesh-agent")?;
        let process = Self::launch(machine, &program, &options, traced, &socket)?;
        Ok(Self { process, node: machine.name.clone(), options, program, traced, socket })
    }

    /// The state directory of a node's agent.
    pub fn state(machine: &Machine) -> PathBuf {
        machine.directory().join("state")
    }

    fn launch(
        machine: &Machine,
        program: &str,
        options: &AgentOptions,
        traced: bool,
        socket: &Path,
    ) -> Result<Process> {
        let state = Self::state(machine);
        fs::create_dir_all(&state).context(state.display())?;
        // From a file: a token on the command line can be read by everyone on the machine.
        let token = machine.directory().join("join-token");
        fs::write(&token, &options.token).context(token.display())?;
        let mut command = machine.command(program);
        command
            .args(["run", "--node", &machine.name, "--join", &format!("@{}", token.display()), "--state-dir"])
            .arg(state)
            .args(["--listen", "0.0.0.0:20006", "--dns", &MESH_DNS.to_string()])
            .args(["--admin", &format!("unix:{}", socket.display())]);
        if let Some(source) = &options.source {
            command.args(["--source", source]);
        }
        command.args(&options.more);
        if traced {
            command.env(edgemesh_host::log::VARIABLE, "trace");
        }
        machine.spawn_command("edgemesh-agent", &mut command)
    }

    /// Starts it again after it was killed or has ended.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn restart(&mut self, machine: &Machine) -> Result {
        self.process.kill();
        self.process = Self::launch(machine, &self.program, &self.options, self.traced, &self.socket)?;
        Ok(())
    }

    /// Starts another build in its place.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn replace_by(&mut self, machine: &Machine, program: &Path) -> Result {
        self.program = program.to_string_lossy().into_owned();
        self.restart(machine)
    }

    /// A GET on the admin socket.
    ///
    /// # Errors
    /// When nothing listens there or the answer is no HTTP.
    pub fn admin(&self, path: &str) -> Result<(u16, String)> {
        agent_admin(&self.socket, path)
    }

    /// Waits until `/readyz` says so.
    ///
    /// # Errors
    /// When it ends or does not become ready; the log is in the message.
    pub fn wait_ready(&mut self) -> Result {
        let (what, socket) = (format!("edgemesh-agent on {} is ready", self.node), &self.socket);
        self.process.wait_until(&what, READY_LIMIT, |_| must_be_ok(&agent_admin(socket, "/readyz")?))
    }

    /// Runs `edgemesh-agent <words> --admin ..` on the node.
    ///
    /// # Errors
    /// When it cannot be run. A failing exit code is not an error here.
    pub fn command(&self, machine: &Machine, words: &[&str]) -> Result<Output> {
        let (agent, admin) = (binary("edgemesh-agent")?, format!("unix:{}", self.socket.display()));
        machine.run(&[&[agent.as_str()], words, &["--admin", &admin]].concat())
    }

    /// Runs `edgemesh-agent <word> --json` and parses what it prints.
    ///
    /// # Errors
    /// When it fails or prints no JSON.
    pub fn json(&self, machine: &Machine, word: &str) -> Result<Value> {
        let printed = self.command(machine, &[word, "--json"])?.success()?;
        serde_json::from_str(&printed).context(format!("{word} --json printed {printed:?}"))
    }

    /// The `peers` entry of a node.
    ///
    /// # Errors
    /// When there is none.
    pub fn peer(&self, machine: &Machine, node: &str) -> Result<Value> {
        let peers = self.json(machine, "peers")?;
        let all = peers.as_array().context("peers is no array")?;
        all.iter().find(|peer| peer["node"] == node).cloned().context(format!("no peer {node} in {peers}"))
    }

    /// Waits until the peer's path is one of `paths`, and returns which.
    ///
    /// # Errors
    /// When it is not within `limit`.
    pub fn wait_path(
        &self,
        machine: &Machine,
        node: &str,
        paths: &[&str],
        limit: Duration,
    ) -> Result<String> {
        wait_until(&format!("{} reaches {node} by {}", self.node, paths.join(" or ")), limit, || {
            let peer = self.peer(machine, node)?;
            let path = peer["path"].as_str().unwrap_or("missing").to_owned();
            if paths.contains(&path.as_str()) { Ok(path) } else { fail(peer.to_string()) }
        })
    }

    /// The sum of every sample of a metric whose name and labels contain all `parts`.
    ///
    /// # Errors
    /// When `/metrics` cannot be read.
    pub fn metric(&self, parts: &[&str]) -> Result<f64> {
        Ok(sum_metric(&self.admin("/metrics")?.1, parts))
    }

    /// Runs `edgemesh-agent cleanup` with the node's state directory.
    ///
    /// # Errors
    /// When it cannot be run. A failing exit code is not an error here.
    pub fn cleanup(machine: &Machine) -> Result<Output> {
        let (agent, state) = (binary("edgemesh-agent")?, Self::state(machine));
        machine.run(&[&agent, "cleanup", "--state-dir", &state.to_string_lossy()])
    }

    /// Ends the agent, then runs `edgemesh-agent cleanup`.
    ///
    /// # Errors
    /// When it does not end on SIGTERM, or cleanup fails.
    pub fn stop_and_cleanup(&mut self, machine: &Machine) -> Result<ExitStatus> {
        let status = self.process.terminate(secs(10))?;
        Self::cleanup(machine)?.success()?;
        Ok(status)
    }
}

/// Sums the samples of a Prometheus text whose line contains all `parts`.
pub fn sum_metric(text: &str, parts: &[&str]) -> f64 {
    text.lines()
        .filter(|line| !line.starts_with('#') && parts.iter().all(|part| line.contains(part)))
        .filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
        .sum()
}

/// The last lines of a log, for messages.
pub fn tail(log: &str) -> String {
    let lines: Vec<&str> = log.lines().collect();
    lines.get(lines.len().saturating_sub(15)..).unwrap_or_default().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_closed_device_is_named_with_its_mode() {
        let denied = io::Error::from(io::ErrorKind::PermissionDenied);
        let said = closed_tun(&denied, Some(0o600));
        assert!(said.starts_with("/dev/net/tun has mode 0600"), "{said}");
        let said = closed_tun(&io::Error::from(io::ErrorKind::NotFound), None);
        assert!(said.contains("modprobe tun"), "{said}");
    }

    #[test]
    fn samples_are_summed_by_name_and_label() {
        let text = "# HELP edgemesh_drops_total x\nedgemesh_drops_total{reason=\"a\"} 2\n\
                    edgemesh_drops_total{reason=\"b\"} 3\nedgemesh_up 1\n";
        assert_eq!(sum_metric(text, &["edgemesh_drops_total"]), 5.0);
        assert_eq!(sum_metric(text, &["edgemesh_drops_total", "\"b\""]), 3.0);
    }
}
