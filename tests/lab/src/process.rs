//! Child processes: short ones that are waited for, long ones that live as long as their owner.
//!
//! Every child leads a process group of its own, and the whole group ends with it: programs that fork per
//! connection leave nothing behind. Output goes to a file (long) or is collected (short).
//!
//! Not here: in which namespace a program runs (see [`crate::machine`]).

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;

use crate::wait::wait_until;
use crate::{Context, Error, Result, fail};

/// What a short command did.
#[derive(Debug)]
pub struct Output {
    /// The command line, for messages.
    pub line: String,
    /// How it ended.
    pub status: ExitStatus,
    /// Everything it wrote to standard output.
    pub stdout: Vec<u8>,
    /// Everything it wrote to standard error.
    pub stderr: String,
    /// Wall time from start to end.
    pub took: Duration,
}

impl Output {
    /// Standard output as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }

    /// Standard output of a command that must have succeeded.
    ///
    /// # Errors
    /// When the exit code is not 0: the command, the code and what it complained about.
    pub fn success(&self) -> Result<String> {
        if self.status.success() {
            return Ok(self.text());
        }
        let printed = self.text();
        let said = if self.stderr.trim().is_empty() { printed.trim() } else { self.stderr.trim() };
        fail(format!("`{}` ended with {}: {said}", self.line, self.status))
    }
}

/// Runs a command to its end, feeding `input`, and collects what it says.
///
/// # Errors
/// When it cannot be started, or is still running after `limit` (it is killed then).
pub fn run(command: &mut Command, input: &[u8], limit: Duration) -> Result<Output> {
    let line = describe(command);
    let started = Instant::now();
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .spawn()
        .context(format!("start `{line}`"))?;
    let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    let pid = child.id();
    let (over, ended) = mpsc::channel::<()>();
    std::thread::scope(|scope| {
        scope.spawn(move || {
            // A program that does not read its input is free to close it.
            let _ = stdin.map(|mut pipe| pipe.write_all(input));
        });
        let stdout = scope.spawn(move || drain(stdout));
        let stderr = scope.spawn(move || drain(stderr));
        let watchdog = scope.spawn(move || {
            let late = ended.recv_timeout(limit) == Err(mpsc::RecvTimeoutError::Timeout);
            if late {
                kill_group(pid);
            }
            late
        });
        let status = child.wait().context(format!("wait for `{line}`"));
        drop(over);
        // Also the helpers of a program that ended, or the readers below would wait for them.
        kill_group(pid);
        let late = watchdog.join().unwrap_or_default();
        let output = Output {
            line,
            status: status?,
            stdout: stdout.join().unwrap_or_default(),
            stderr: String::from_utf8_lossy(&stderr.join().unwrap_or_default()).into_owned(),
            took: started.elapsed(),
        };
        if late {
            let said = output.text() + &output.stderr;
            return fail(format!("`{}` still ran after {} s: {said}", output.line, limit.as_secs()));
        }
        Ok(output)
    })
}

fn drain(pipe: Option<impl Read>) -> Vec<u8> {
    let mut all = Vec::new();
    if let Some(mut pipe) = pipe {
        // What was read before a broken pipe is still worth showing.
        let _ = pipe.read_to_end(&mut all);
    }
    all
}

fn kill_group(pid: u32) {
    // ESRCH means that the whole group has ended already.
    let _ = killpg(pid_of(pid), Signal::SIGKILL);
}

fn pid_of(pid: u32) -> Pid {
    Pid::from_raw(i32::try_from(pid).unwrap_or(i32::MAX))
}

/// The command line as a person would type it, without the lab's own wrapping.
fn describe(command: &Command) -> String {
    let words: Vec<String> = core::iter::once(command.get_program())
        .chain(command.get_args())
        .map(|word| word.to_string_lossy().into_owned())
        .collect();
    match words.get(1).map(String::as_str) {
        Some(crate::machine::EXEC) => words.get(4..).unwrap_or_default().join(" "),
        _ => words.join(" "),
    }
}

/// A long-lived program; its process group is killed when the value is dropped.
#[derive(Debug)]
pub struct Process {
    line: String,
    child: Child,
    log: PathBuf,
    log_start: usize,
    ended: Option<ExitStatus>,
}

impl Process {
    /// Starts a program with both outputs appended to `log`.
    ///
    /// # Errors
    /// When the log cannot be opened or the program cannot be started.
    pub fn spawn(command: &mut Command, log: &Path) -> Result<Self> {
        let line = describe(command);
        let log_start = fs::metadata(log).map(|file| file.len()).unwrap_or(0);
        let open = || File::options().create(true).append(true).open(log).context(log.display());
        let child = command
            .stdin(Stdio::null())
            .stdout(open()?)
            .stderr(open()?)
            .process_group(0)
            .spawn()
            .context(format!("start `{line}`"))?;
        let log_start = usize::try_from(log_start).unwrap_or(0);
        Ok(Self { line, child, log: log.to_owned(), log_start, ended: None })
    }

    /// The process id inside the sandbox.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Everything the program has printed since this start; the file keeps earlier ones too.
    pub fn log(&self) -> String {
        let all = fs::read(&self.log).unwrap_or_default();
        String::from_utf8_lossy(all.get(self.log_start..).unwrap_or_default()).into_owned()
    }

    /// Whether it has not ended yet.
    pub fn is_running(&mut self) -> bool {
        self.poll().is_none()
    }

    fn poll(&mut self) -> Option<ExitStatus> {
        if self.ended.is_none() {
            self.ended = self.child.try_wait().ok().flatten();
        }
        self.ended
    }

    /// Sends a signal to the program (not to its group).
    ///
    /// # Errors
    /// When it has ended.
    pub fn signal(&self, signal: Signal) -> Result {
        kill(pid_of(self.child.id()), signal).context(format!("{signal} to `{}`", self.line))
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// When it still runs after `limit`.
    pub fn wait(&mut self, limit: Duration) -> Result<ExitStatus> {
        let line = self.line.clone();
        wait_until(&format!("`{line}` ends"), limit, || self.poll().context("still running"))
    }

    /// Waits until `probe` succeeds; gives up at once when the program ends.
    ///
    /// # Errors
    /// When it ends, or the probe still fails after `limit`: how it stands and the end of its log.
    pub fn wait_until<T>(
        &mut self,
        what: &str,
        limit: Duration,
        mut probe: impl FnMut(&Self) -> Result<T>,
    ) -> Result<T> {
        let outcome = wait_until(what, limit, || {
            // What a program that ended has said before still counts.
            let running = self.is_running();
            match probe(self) {
                Err(cause) if !running => Ok(Err(cause)),
                other => other.map(Ok),
            }
        });
        let story = |error| {
            let (fate, log) = (self.fate(), crate::product::tail(&self.log()));
            Error::new(format!("until {what}: {error}\n`{}`: {fate}; log:\n{log}", self.line))
        };
        outcome.and_then(|ended| ended).map_err(story)
    }

    /// Waits until the log holds `text`.
    ///
    /// # Errors
    /// When the program ends without saying it, or does not say it within `limit`.
    pub fn wait_log(&mut self, text: &str, limit: Duration) -> Result {
        self.wait_until(&format!("it says {text:?}"), limit, |process| {
            if process.log().contains(text) { Ok(()) } else { fail("not yet") }
        })
    }

    /// SIGKILL to the whole group, and waits for the end.
    pub fn kill(&mut self) {
        kill_group(self.child.id());
        if self.poll().is_none() {
            self.ended = self.child.wait().ok();
        }
    }

    /// SIGTERM, and waits for the end.
    ///
    /// # Errors
    /// When it does not end within `limit`.
    pub fn terminate(&mut self, limit: Duration) -> Result<ExitStatus> {
        self.signal(Signal::SIGTERM)?;
        let status = self.wait(limit)?;
        kill_group(self.child.id());
        Ok(status)
    }

    /// Resident memory in bytes, from `/proc`.
    ///
    /// # Errors
    /// When the program has ended.
    pub fn rss(&self) -> Result<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid())).context("process status")?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("VmRSS")?;
        let kib: u64 = line.trim().trim_end_matches(" kB").parse().context(line)?;
        Ok(kib.saturating_mul(1024))
    }

    /// How it ended, in words: `exit code 2`, `signal 9`, or `still running`.
    pub fn fate(&mut self) -> String {
        match self.poll() {
            None => "still running".to_owned(),
            Some(status) => match (status.code(), status.signal()) {
                (Some(code), _) => format!("exit code {code}"),
                (None, Some(signal)) => format!("signal {signal}"),
                (None, None) => "unknown".to_owned(),
            },
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}
