//! A server process on loopback, its state directory, and the commands for operators.

use edgemesh_host::admin::{self, Address};
use edgemesh_host::token::{Cluster, Token};
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

pub(crate) const WAIT: Duration = Duration::from_secs(30);
pub(crate) const BINARY: &str = env!("CARGO_BIN_EXE_edgemesh-server");

/// A directory that goes away with the test.
pub(crate) struct Scratch(pub(crate) PathBuf);

impl Scratch {
    pub(crate) fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("edgemesh-server-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    pub(crate) fn write(&self, name: &str, text: &str) {
        let temporary = self.0.join(".new");
        std::fs::write(&temporary, text).unwrap();
        std::fs::rename(temporary, self.0.join(name)).unwrap();
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A running server. Killed when dropped.
pub(crate) struct Server {
    pub(crate) child: Child,
    pub(crate) state: PathBuf,
    pub(crate) address: SocketAddr,
    lines: mpsc::Receiver<String>,
}

impl Server {
    /// Starts a server on a port of the system's choice, or `port`.
    pub(crate) fn start(state: &Path, port: u16, args: &[&str]) -> Self {
        let mut command = Command::new(BINARY);
        command.args(["run", "--listen", &format!("127.0.0.1:{port}"), "--admin"]);
        command.arg(format!("unix:{}", state.join("public.sock").display())).arg("--state-dir").arg(state);
        Self::spawn(command.args(args), state)
    }

    /// Starts what `command` says and waits until it is up.
    pub(crate) fn spawn(command: &mut Command, state: &Path) -> Self {
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let stderr = BufReader::new(child.stderr.take().unwrap());
        let (sender, lines) = mpsc::channel();
        std::thread::spawn(move || {
            stderr.lines().map_while(Result::ok).for_each(|line| drop(sender.send(line)));
        });
        let mut server =
            Self { child, state: state.to_owned(), address: "127.0.0.1:0".parse().unwrap(), lines };
        server.wait_up();
        server
    }

    /// Waits until it says that it is up, and where.
    pub(crate) fn wait_up(&mut self) {
        let line = self.log(" is up");
        let listen = line.split("listen=").nth(1).unwrap().split(' ').next().unwrap();
        self.address = listen.parse().unwrap();
    }

    /// Waits for a log line with `text` in it.
    pub(crate) fn log(&self, text: &str) -> String {
        let deadline = Instant::now() + WAIT;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let line = self.lines.recv_timeout(left).unwrap_or_else(|_| panic!("no log line with {text:?}"));
            if line.contains(text) {
                return line;
            }
        }
    }

    /// What it has logged that was not looked at, once it has ended.
    pub(crate) fn rest_of_log(&self) -> String {
        self.lines.iter().map(|line| line + "\n").collect()
    }

    pub(crate) fn admin(&self) -> Address {
        Address::Unix(self.state.join("public.sock"))
    }

    pub(crate) fn get(&self, path: &str) -> String {
        String::from_utf8(admin::get(&self.admin(), path).unwrap()).unwrap()
    }

    pub(crate) fn json(&self, path: &str) -> serde_json::Value {
        serde_json::from_str(&self.get(path)).unwrap()
    }

    /// A sample of the metrics.
    pub(crate) fn metric(&self, name: &str) -> u64 {
        let text = self.get("/metrics");
        let sample = text.lines().find_map(|l| l.strip_prefix(&format!("edgemesh_{name} ")));
        sample.unwrap_or_else(|| panic!("no metric {name}")).parse().unwrap()
    }

    /// Runs a command for operators on the server's state directory.
    pub(crate) fn operate(&self, args: &[&str]) -> Output {
        operate(&self.state, args)
    }

    pub(crate) fn token(&self, node: &str, args: &[&str]) -> Token {
        let output = token_command(&self.state, node, args);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let text = String::from_utf8(output.stdout).unwrap();
        assert_eq!(text.lines().count(), 1);
        text.parse().unwrap()
    }

    /// The cluster's address, without a secret.
    pub(crate) fn cluster(&self) -> Cluster {
        let mut command = Command::new(BINARY);
        let output = command.args(["token", "--cluster", "--state-dir"]).arg(&self.state).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap().parse().unwrap()
    }

    /// SIGKILL, and a new server with the same state on the same port.
    pub(crate) fn kill_and_restart(mut self, args: &[&str]) -> Self {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        Self::start(&self.state.clone(), self.address.port(), args)
    }

    /// SIGTERM; the exit code.
    pub(crate) fn terminate(&mut self) -> Option<i32> {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
        self.child.wait().unwrap().code()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Looks until `so`, which asks a server about what it does by itself and nobody is told of.
pub(crate) fn look_until(what: &str, mut so: impl FnMut() -> bool) {
    let deadline = Instant::now() + WAIT;
    while !so() {
        assert!(Instant::now() < deadline, "not in {WAIT:?}: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Runs a command for operators on a state directory.
pub(crate) fn operate(state: &Path, args: &[&str]) -> Output {
    Command::new(BINARY).args(args).arg("--state-dir").arg(state).output().unwrap()
}

/// What a command that went well has printed.
pub(crate) fn printed(output: Output) -> String {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// What a command that failed has said.
pub(crate) fn complaint(output: Output) -> String {
    assert!(!output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    String::from_utf8(output.stderr).unwrap()
}

pub(crate) fn token_command(state: &Path, node: &str, args: &[&str]) -> Output {
    Command::new(BINARY)
        .args(["token", "--node", node, "--state-dir"])
        .arg(state)
        .args(args)
        .output()
        .unwrap()
}
