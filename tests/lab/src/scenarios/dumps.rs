//! What is left of a program that crashes, and what root's debugger takes out of one that runs: no secrets.

use std::fs;
use std::path::{Path, PathBuf};

use nix::sys::signal::Signal;

use crate::machine::Machine;
use crate::mesh::Mesh;
use crate::process::Process;
use crate::product::{Agent, AgentOptions, SERVICE_CIDR};
use crate::wait::{secs, wait_until};
use crate::{Context, Error, Result, ensure};

use super::keys::{PSK, read, write_psk};
use super::reach::answers;

/// What the kernel does with a core.
const PATTERN: &str = "/proc/sys/kernel/core_pattern";
/// The engine's memory has more bytes than this, and nothing else of what the program is loaded with has.
const ENGINE_MIN: u64 = 16 << 20;

/// Cores are files in the directory that a program was started in, until this is dropped.
struct Cores(Option<String>);

impl Cores {
    fn to_files() -> Result<Self> {
        let before = fs::read_to_string(PATTERN).context(PATTERN)?;
        if !before.starts_with(['|', '/']) {
            return Ok(Self(None));
        }
        fs::write(PATTERN, "core").context(PATTERN)?;
        Ok(Self(Some(before)))
    }
}

impl Drop for Cores {
    fn drop(&mut self) {
        if let Some(before) = &self.0 {
            let _ = fs::write(PATTERN, before);
        }
    }
}

/// Crashes a program that was allowed a core of any size; the core, if there is one.
fn crash(machine: &Machine, process: &mut Process) -> Result<Option<PathBuf>> {
    machine.check(&["prlimit", "--pid", &process.pid().to_string(), "--core=unlimited"])?;
    wait_until("it crashes", secs(10), || {
        // Twice: the first one only takes away the runtime's own handler, which looks for a stack that overflowed.
        let _ = process.signal(Signal::SIGSEGV);
        ensure!(!process.is_running(), "it runs");
        Ok(())
    })?;
    ensure!(process.fate() == "signal 11", "{}", process.fate());
    let entries = fs::read_dir(machine.directory()).context(machine.directory().display())?;
    let is_core = |path: &PathBuf| {
        path.is_file() && path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("core"))
    };
    Ok(entries.flatten().map(|entry| entry.path()).find(is_core))
}

/// Bytes of the memory that the program was loaded with which a dump leaves out, whoever makes it.
fn left_out(pid: u32) -> Result<u64> {
    let path = format!("/proc/{pid}/smaps");
    let text = fs::read_to_string(&path).context(&path)?;
    let (mut end, mut len, mut loaded, mut sum) = (0_u64, 0_u64, false, 0_u64);
    for line in text.lines() {
        let range = line.split_once(' ').and_then(|(range, _)| range.split_once('-'));
        let bounds = range.map(|(from, to)| [from, to].map(|hex| u64::from_str_radix(hex, 16)));
        if let Some([Ok(from), Ok(to)]) = bounds {
            // What is zero at first follows the file, and has no name.
            loaded = line.ends_with("/edgemesh-agent") || loaded && from == end && line.ends_with(' ');
            (end, len) = (to, to.saturating_sub(from));
        } else if let Some(flags) = line.strip_prefix("VmFlags:") {
            let out = loaded && flags.split(' ').any(|flag| flag == "dd");
            sum = sum.saturating_add(if out { len } else { 0 });
        }
    }
    Ok(sum)
}

/// What root's debugger writes of a running program, if there is one on this machine.
fn dump(machine: &Machine, pid: u32) -> Result<Option<Vec<u8>>> {
    let prefix = machine.directory().join("dump").to_string_lossy().into_owned();
    if machine.run(&["sh", "-c", "command -v gcore"])?.success().is_err() {
        return Ok(None);
    }
    let ended = machine.run_within(&["gcore", "-o", &prefix, &pid.to_string()], b"", secs(60))?;
    let path = format!("{prefix}.{pid}");
    let bytes = fs::read(&path).context(format!("{path}: {}{}", ended.text(), ended.stderr))?;
    fs::remove_file(&path).context(&path)?;
    Ok(Some(bytes))
}

fn holds(bytes: &[u8], secret: &[u8]) -> bool {
    let Some(first) = secret.first() else { return false };
    let starts = bytes.iter().enumerate().filter(|(_, byte)| *byte == first);
    starts.into_iter().any(|(at, _)| bytes.get(at..).is_some_and(|rest| rest.starts_with(secret)))
}

/// Programs that crash leave no core, where another one does; and a dump of the running agent holds neither session
/// keys, nor the node's, nor the mesh's.
pub(super) fn no_secrets(mesh: &mut Mesh) -> Result {
    let psk = write_psk(mesh, "a1", &["none", PSK[0]])?;
    let token = mesh.server.token(&mesh.lab.server, "a1", "24h")?;
    let words = ["--service-cidr", SERVICE_CIDR, "--mesh-psk", &psk.to_string_lossy()];
    let more = words.map(str::to_owned).to_vec();
    let join = token.parse::<edgemesh_host::token::Token>().context("token")?.secret;
    mesh.join_with("a1", AgentOptions { token, source: Some("server".to_owned()), more })?;
    mesh.join("b1")?;
    for name in ["a1", "b1"] {
        mesh.agent_mut(name)?.0.wait_ready()?;
    }
    wait_until("b1 is reached", secs(20), || answers(mesh.pod("a1")?, "park", "b1-p1"))?;
    let (a1, node) = mesh.agent("a1")?;
    let identity = read(&Agent::state(node).join("identity"))?;
    running(node, a1.process.pid(), &[("the node's key", &identity), ("the join secret", &join)])?;

    let _cores = Cores::to_files()?;
    let mut other = mesh.lab.a2.spawn("sleep", &["sleep", "1000"])?;
    let core = crash(&mesh.lab.a2, &mut other)?.context("nothing leaves a core here: nothing is shown")?;
    fs::remove_file(&core).context(core.display())?;
    let (a1, node) = mesh.agent_mut("a1")?;
    none_left(crash(node, &mut a1.process)?.as_deref(), "the agent")?;
    none_left(crash(&mesh.lab.server, &mut mesh.server.process)?.as_deref(), "the server")
}

fn none_left(core: Option<&Path>, whose: &str) -> Result {
    core.map_or(Ok(()), |path| Err(Error::new(format!("{whose} left {}", path.display()))))
}

fn running(machine: &Machine, pid: u32, secrets: &[(&str, &[u8])]) -> Result {
    let left_out = left_out(pid)?;
    ensure!(left_out > ENGINE_MIN, "{left_out} bytes of the program's own memory are left out of dumps");
    let path = format!("/proc/{pid}/coredump_filter");
    let filter = fs::read_to_string(&path).context(&path)?;
    ensure!(filter.trim() == "00000000", "{path} is {filter}");
    let Some(dump) = dump(machine, pid)? else { return Ok(()) };
    ensure!(!dump.is_empty(), "the dump is empty");
    for (what, secret) in secrets {
        ensure!(!holds(&dump, secret), "a dump of {} bytes holds {what}", dump.len());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_found_wherever_it_is() {
        let secret = [1, 1, 2];
        for (bytes, found) in
            [(&[1, 1, 1, 2][..], true), (&[1, 1], false), (&[0, 1, 1, 2, 0], true), (&[], false)]
        {
            assert_eq!(holds(bytes, &secret), found, "{bytes:?}");
        }
    }
}
