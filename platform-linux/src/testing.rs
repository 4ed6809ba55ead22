//! What tests share: settings, and for those on real devices network namespaces and the tools to look into them.
//!
//! Each test on devices runs on a thread of its own in a fresh network namespace. Without root the test binary runs the
//! same test again as root of a new user namespace.

use std::process::{Command, Output};
use std::time::{Duration, Instant};

use clap::Parser;

use crate::cli;
use crate::sys::namespace;

/// The settings of a node that joins, with these words at the end of its command line.
pub(crate) fn settings(more: &[&str]) -> cli::Run {
    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        run: cli::Run,
    }
    let words = ["x", "--node", "a", "--join", "t", "--state-dir", "/nowhere"];
    Line::parse_from([&words, more].concat()).run
}

/// Set for the inner run, so that it cannot run itself again.
const INNER: &str = "EDGEMESH_TEST_IN_USER_NAMESPACE";

/// Runs `test` in a network namespace of its own, with the loopback device up. Every other part of the test must
/// stand in `test` too.
pub(crate) fn in_namespace(test: impl FnOnce() + Send + 'static) {
    if namespace::is_root() {
        let outcome = spawn_in_namespace(test).join();
        if let Err(panic) = outcome {
            std::panic::resume_unwind(panic);
        }
        return;
    }
    assert!(std::env::var_os(INNER).is_none(), "a user namespace did not make us root");
    let name = std::thread::current().name().map(str::to_owned).unwrap_or_default();
    let status = Command::new("unshare")
        .args(["--user", "--map-root-user", "--net", "--mount", "--"])
        // iptables locks a file of /run, which is the real root's.
        .args(["sh", "-c", "mount -t tmpfs tmpfs /run && exec \"$@\"", "sh"])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", &name, "--nocapture"])
        .env(INNER, "1")
        .status()
        .expect("unshare of util-linux");
    assert!(status.success(), "{name} failed in its user namespace");
}

/// A thread in a network namespace of its own.
pub(crate) fn spawn_in_namespace<T: Send + 'static>(
    run: impl FnOnce() -> T + Send + 'static,
) -> std::thread::JoinHandle<T> {
    std::thread::spawn(move || {
        namespace::unshare_network().expect("a network namespace");
        sh("ip link set lo up");
        run()
    })
}

/// Runs a shell command in the calling thread's namespace; it must succeed. Returns what it printed.
pub(crate) fn sh(command: &str) -> String {
    let output = sh_output(command);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{command}: {text}{}", String::from_utf8_lossy(&output.stderr));
    text
}

/// The same, whatever its outcome.
pub(crate) fn sh_output(command: &str) -> Output {
    Command::new("sh").args(["-c", command]).output().expect("a shell")
}

/// Waits until `reached`, for at most two seconds; else fails with what `seen` is then.
pub(crate) fn until<S: std::fmt::Display>(mut reached: impl FnMut() -> bool, seen: impl FnOnce() -> S) {
    let deadline = Instant::now() + Duration::from_secs(2);
    while !reached() {
        if Instant::now() >= deadline {
            panic!("not reached: {}", seen());
        }
        std::thread::yield_now();
    }
}

/// A directory that goes with its test.
pub(crate) struct Scratch(std::path::PathBuf);

impl Scratch {
    pub(crate) fn new() -> Self {
        use std::sync::atomic::{AtomicUsize, Ordering};
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let n = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("edgemesh-test-{}-{n}", std::process::id()));
        std::fs::create_dir(&path).expect("a scratch directory");
        Self(path)
    }

    pub(crate) fn path(&self) -> &std::path::Path {
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // A test that failed half-way may have removed it; nothing else depends on it.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
