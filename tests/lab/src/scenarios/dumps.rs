//! What is left of a program that crashes, and what root's debugger takes out of one that runs: no secrets.

use std::collections::HashSet;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
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
const ENGINE_MIN: usize = 16 << 20;
/// As long as a key.
const PIECE: usize = 32;

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

/// A mapping that a program's dumps leave out, whoever makes them.
struct LeftOut {
    /// It is of the memory that the agent was loaded with.
    loaded: bool,
    /// What is in it now.
    bytes: Vec<u8>,
}

/// A program's mappings with that flag.
fn left_out(pid: u32) -> Result<Vec<LeftOut>> {
    let path = format!("/proc/{pid}/smaps");
    let text = fs::read_to_string(&path).context(&path)?;
    let memory = File::open(format!("/proc/{pid}/mem")).context("its memory")?;
    let (mut all, mut end, mut bounds, mut loaded) = (Vec::new(), 0_u64, None, false);
    for line in text.lines() {
        let range = line.split_once(' ').and_then(|(range, _)| range.split_once('-'));
        let range = range.map(|(from, to)| [from, to].map(|hex| u64::from_str_radix(hex, 16)));
        if let Some([Ok(from), Ok(to)]) = range {
            // What is zero at first follows the file, and has no name.
            loaded = line.ends_with("/edgemesh-agent") || loaded && from == end && line.ends_with(' ');
            (end, bounds) = (to, Some((from, to.saturating_sub(from))));
        } else if let (Some(flags), Some((from, len))) = (line.strip_prefix("VmFlags:"), bounds) {
            let flags: Vec<&str> = flags.split_whitespace().collect();
            // Not what the kernel itself shows there, which nobody can read.
            if flags.contains(&"dd") && flags.contains(&"rd") && !flags.contains(&"io") {
                let mut bytes = vec![0; usize::try_from(len).context("a mapping")?];
                let read = memory.read_at(&mut bytes, from).unwrap_or_default();
                bytes.truncate(read);
                all.push(LeftOut { loaded, bytes });
            }
        }
    }
    Ok(all)
}

/// Pieces of memory by which it would be known again: 32 bytes, as long as a key, of which few are alike.
fn pieces(memory: &[LeftOut]) -> HashSet<&[u8]> {
    let of_any_content = |piece: &&[u8]| piece.iter().collect::<HashSet<_>>().len() > 16;
    memory.iter().flat_map(|mapping| mapping.bytes.chunks_exact(PIECE)).filter(of_any_content).collect()
}

/// What root's debugger writes of a running program.
fn dump(machine: &Machine, pid: u32) -> Result<Vec<u8>> {
    let prefix = machine.directory().join("dump").to_string_lossy().into_owned();
    let ended = machine.run_within(&["gcore", "-o", &prefix, &pid.to_string()], b"", secs(60))?;
    let path = format!("{prefix}.{pid}");
    let bytes = fs::read(&path).context(format!("{path}: {}{}", ended.text(), ended.stderr))?;
    fs::remove_file(&path).context(&path)?;
    Ok(bytes)
}

fn holds(bytes: &[u8], secret: &[u8]) -> bool {
    let Some(first) = secret.first() else { return false };
    let starts = bytes.iter().enumerate().filter(|(_, byte)| *byte == first);
    starts.into_iter().any(|(at, _)| bytes.get(at..).is_some_and(|rest| rest.starts_with(secret)))
}

/// Programs that crash leave no core, where another one does. A dump of the running agent holds neither its keys nor
/// anything of the engine's memory, where those of its sessions are; one of the server holds none of its keys.
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
    let (_, shared) = edgemesh_host::psk::parse(&format!("none\n{}", PSK[0])).context("a shared key")?;
    let shared = shared.context("a shared key")?;
    // Where it should be, by the way: so this is the memory that matters.
    let engine = left_out(a1.process.pid())?;
    let size: usize = engine.iter().filter(|mapping| mapping.loaded).map(|mapping| mapping.bytes.len()).sum();
    ensure!(size > ENGINE_MIN, "{size} bytes of the program's own memory are left out of dumps");
    ensure!(
        engine.iter().any(|mapping| holds(&mapping.bytes, &shared[..])),
        "the mesh's key is not where it should be"
    );
    let keys: [(&str, &[u8]); 3] =
        [("the node's key", &identity), ("the join secret", &join), ("the mesh's key", &shared[..])];
    let dump = running(node, a1.process.pid(), &keys)?;
    let known = pieces(&engine);
    ensure!(known.len() > 100, "the engine's memory holds {} pieces of any content", known.len());
    let found = (0..dump.len()).step_by(8).filter_map(|at| dump.get(at..)?.get(..PIECE));
    let found = found.filter(|piece| known.contains(piece)).count();
    ensure!(found == 0, "{found} of {} pieces of the engine's memory are in the dump", known.len());

    let stored = read(&mesh.server.state().join("keys"))?;
    // A version, then the keys of the root, the directory, the connections and the relay.
    let keys = stored.get(1..).unwrap_or_default().chunks_exact(PIECE).take(4);
    let keys: Vec<(&str, &[u8])> = keys.map(|key| ("a key of the server", key)).collect();
    ensure!(keys.len() == 4, "the server's keys are not where they were");
    running(&mesh.lab.server, mesh.server.process.pid(), &keys)?;

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

/// A dump of a running program that holds none of the secrets.
fn running(machine: &Machine, pid: u32, secrets: &[(&str, &[u8])]) -> Result<Vec<u8>> {
    let path = format!("/proc/{pid}/coredump_filter");
    let filter = fs::read_to_string(&path).context(&path)?;
    ensure!(filter.trim() == "00000000", "{path} is {filter}");
    let dump = dump(machine, pid)?;
    ensure!(!dump.is_empty(), "the dump is empty");
    for (what, secret) in secrets {
        ensure!(!holds(&dump, secret), "a dump of {} bytes holds {what}", dump.len());
    }
    Ok(dump)
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
