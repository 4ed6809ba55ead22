//! What can be in the way of a TUN device, in words that say what to do.

use std::fmt;
use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;

use super::owner;

/// The file that devices are made through.
pub(super) const PATH: &str = "/dev/net/tun";

/// Why the device could not be opened.
#[derive(Debug)]
pub enum TunError {
    /// The configured name cannot be a device name.
    Name(String),
    /// A device of that name exists and is not ours.
    Foreign {
        /// The device's name.
        name: String,
        /// What it is.
        what: String,
    },
    /// The device is ours, but a process has it open.
    Held {
        /// The device's name.
        name: String,
        /// The process, when it can be seen.
        by: Option<String>,
    },
    /// There is no `/dev/net/tun`.
    NoDriver(io::Error),
    /// The process may not open `/dev/net/tun`.
    NoAccess {
        /// Permission bits of the file, when they can be seen.
        mode: Option<u32>,
    },
    /// The process may not do this.
    NotPermitted(&'static str),
    /// The kernel refused for another reason.
    System(&'static str, io::Error),
}

impl TunError {
    pub(super) fn from_open(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::PermissionDenied => Self::NoAccess { mode: mode_of(PATH) },
            _ if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ENODEV | libc::ENXIO)) => {
                Self::NoDriver(error)
            }
            _ => Self::System("opening /dev/net/tun", error),
        }
    }

    pub(super) fn from_attach(name: &str, error: io::Error) -> Self {
        match error.raw_os_error() {
            Some(libc::EBUSY) => Self::Held { name: name.to_owned(), by: owner::holder(name) },
            Some(libc::EPERM) => Self::NotPermitted("create a TUN device"),
            _ => Self::System("creating the device", error),
        }
    }
}

fn mode_of(path: &str) -> Option<u32> {
    fs::metadata(path).ok().map(|file| file.permissions().mode() & 0o7777)
}

impl fmt::Display for TunError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => {
                write!(
                    f,
                    "{name:?} cannot be a device name: 1 to 15 printable characters without '/' are accepted"
                )
            }
            Self::Foreign { name, what } => write!(
                f,
                "the network device {name} exists and is not ours: it is {what}; remove it (ip link delete {name}) \
                 or stop the program that made it"
            ),
            Self::Held { name, by: Some(by) } => {
                write!(f, "the network device {name} is in use by process {by}; is another agent running?")
            }
            Self::Held { name, by: None } => {
                write!(f, "the network device {name} is in use by another process; is another agent running?")
            }
            Self::NoDriver(e) => write!(
                f,
                "no /dev/net/tun ({e}): load the module (modprobe tun), or give the container the device \
                 /dev/net/tun"
            ),
            Self::NoAccess { mode } => {
                write!(f, "not permitted to open {PATH}")?;
                if let Some(mode) = mode {
                    write!(f, ", whose mode is {mode:04o}")?;
                }
                write!(
                    f,
                    ": run as root or with the capability CAP_NET_ADMIN, and let this user (chmod 0666 {PATH}) or \
                     this container (its list of devices) use the file"
                )
            }
            Self::NotPermitted(what) => {
                write!(f, "not permitted to {what}: run as root or with the capability CAP_NET_ADMIN")
            }
            Self::System(what, e) if e.raw_os_error() == Some(libc::EPERM) => {
                write!(f, "not permitted ({what}): run as root or with the capability CAP_NET_ADMIN")
            }
            Self::System(what, e) => write!(f, "{what}: {e}"),
        }
    }
}

impl std::error::Error for TunError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::NoDriver(e) | Self::System(_, e) => Some(e),
            _ => None,
        }
    }
}
