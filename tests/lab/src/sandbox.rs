//! The private world of one run: mount, network and process namespaces, and a user namespace when not root.
//!
//! Life cycle: the outer process makes a work directory, unshares and starts itself again as process 1 of the new
//! world, which sets the mounts up, starts the lab proper and reaps what nobody waits for. When process 1 ends, for
//! whatever reason, the kernel kills every process of the world and thereby frees its namespaces; the outer process
//! removes the directory. When the outer one is killed, the kernel kills process 1 with it. So nothing can be left
//! but the directory, which [`cleanup`] finds by its name.
//!
//! Not here: limits on memory or processor time.

use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::Signal;
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{getgid, getuid};

use crate::{Context, Result, fail};

/// Tells the inner processes that they are in the world, and where its files go.
const DIRECTORY: &str = "EDGEMESH_LAB_DIR";
/// Exists only below the world's own `/run`; sockets of the programs under test go there.
const MARK: &str = "/run/lab";
/// Start of every work directory's name; the outer process's id follows.
const PREFIX: &str = "edgemesh-lab-";

/// Where a process stands.
#[derive(Debug)]
pub enum Place {
    /// Inside a prepared world; files go below the path.
    Inside(PathBuf),
    /// Outside; a world was made, used and left with this exit code.
    Left(u8),
}

/// Runs the same command line in a new world, or prepares the world when already inside.
///
/// # Errors
/// When namespaces or mounts are refused; the message says what to do about it.
pub fn enter(arguments: &[OsString]) -> Result<Place> {
    if let Some(directory) = std::env::var_os(DIRECTORY) {
        let directory = PathBuf::from(directory);
        if std::process::id() == 1 {
            prepare(&directory)?;
            return first_process(arguments).map(Place::Left);
        }
        if !Path::new(MARK).exists() {
            return fail(format!("{DIRECTORY} is set, but this is not the lab's own world"));
        }
        return Ok(Place::Inside(directory));
    }
    let directory = std::env::temp_dir().join(format!("{PREFIX}{}", std::process::id()));
    fs::create_dir_all(&directory).context(directory.display())?;
    fs::set_permissions(&directory, fs::Permissions::from_mode(0o755)).context(directory.display())?;
    let code = run_inside(arguments, &directory);
    if code.as_ref().is_ok_and(|code| *code == 0) {
        fs::remove_dir_all(&directory).context(format!("remove {}", directory.display()))?;
    } else {
        eprintln!("logs are kept in {} (`edgemesh-lab cleanup` removes them)", directory.display());
    }
    Ok(Place::Left(code?))
}

fn run_inside(arguments: &[OsString], directory: &Path) -> Result<u8> {
    let (uid, gid) = (getuid(), getgid());
    // By its path, not by `/proc/self/exe`: that one stays in the mounts that are left here, which end when nobody
    // else lives in them, and would then no longer say where the programs under test are.
    let own = std::env::current_exe().context("path of the lab binary")?;
    let mut flags = CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWPID;
    if !uid.is_root() {
        flags |= CloneFlags::CLONE_NEWUSER;
    }
    unshare(flags).context(
        "cannot make namespaces (run as root, or allow unprivileged user namespaces: \
         kernel.unprivileged_userns_clone=1, kernel.apparmor_restrict_unprivileged_userns=0)",
    )?;
    if !uid.is_root() {
        fs::write("/proc/self/setgroups", "deny").context("setgroups")?;
        fs::write("/proc/self/uid_map", format!("0 {uid} 1")).context("uid_map")?;
        fs::write("/proc/self/gid_map", format!("0 {gid} 1")).context("gid_map")?;
    }
    let status = Command::new(own)
        .args(arguments)
        .env(DIRECTORY, directory)
        .status()
        .context("start the lab inside its namespaces")?;
    Ok(status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(1))
}

fn prepare(directory: &Path) -> Result {
    set_pdeathsig(Signal::SIGKILL).context("pdeathsig")?;
    let none: Option<&str> = None;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).context("make mounts private")?;
    mount(Some("proc"), "/proc", Some("proc"), MsFlags::empty(), none)
        .context("mount /proc (a container that masks /proc cannot host the lab)")?;
    mount(Some("tmpfs"), "/run", Some("tmpfs"), MsFlags::empty(), Some("mode=755")).context("mount /run")?;
    for made in ["/run/netns", "/run/lock", MARK] {
        fs::create_dir_all(made).context(made)?;
    }
    // Plain DNS for getaddrinfo, whatever the machine's own lookup order is.
    if Path::new("/etc/nsswitch.conf").exists() {
        let own = directory.join("nsswitch.conf");
        fs::write(&own, "passwd: files\ngroup: files\nhosts: files dns\n").context(own.display())?;
        mount(Some(&own), "/etc/nsswitch.conf", none, MsFlags::MS_BIND, none).context("nsswitch.conf")?;
    }
    // A stub resolver's link points into the /run that was just covered; give it something to point at.
    if let Ok(link) = fs::read_link("/etc/resolv.conf") {
        let target = Path::new("/etc").join(link);
        if let Some(parent) = target.parent() {
            fs::create_dir_all(parent).context(parent.display())?;
        }
        if !target.exists() {
            fs::write(&target, "").context(target.display())?;
        }
    }
    Ok(())
}

/// Runs the lab and reaps every orphan of the world until the lab ends.
fn first_process(arguments: &[OsString]) -> Result<u8> {
    let lab = Command::new("/proc/self/exe").args(arguments).spawn().context("start the lab")?;
    let lab = i32::try_from(lab.id()).context("process id")?;
    loop {
        match waitpid(None, None).context("wait for children")? {
            WaitStatus::Exited(pid, code) if pid.as_raw() == lab => {
                return Ok(u8::try_from(code).unwrap_or(1));
            }
            WaitStatus::Signaled(pid, signal, _) if pid.as_raw() == lab => {
                return fail(format!("the lab was ended by {signal}"));
            }
            _ => {}
        }
    }
}

/// Removes work directories of runs that no longer live; returns what it removed.
///
/// # Errors
/// When the temporary directory cannot be read or a leftover cannot be removed.
pub fn cleanup() -> Result<Vec<PathBuf>> {
    let mut removed = Vec::new();
    for entry in fs::read_dir(std::env::temp_dir()).context("temporary directory")? {
        let path = entry.context("temporary directory")?.path();
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let Some(pid) = name.strip_prefix(PREFIX).filter(|rest| rest.parse::<u32>().is_ok()) else {
            continue;
        };
        let comm = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        if comm.trim() != "edgemesh-lab" {
            fs::remove_dir_all(&path).context(format!("remove {}", path.display()))?;
            removed.push(path);
        }
    }
    Ok(removed)
}
