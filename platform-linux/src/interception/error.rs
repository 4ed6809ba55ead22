//! Why interception could not be set up, in words that say what to do.

use std::fmt;
use std::io;

use edgemesh_host::state::StateError;

use super::tool::ToolError;
use crate::prefix::Prefix;
use crate::tun::TunError;

/// What is in the way.
#[derive(Debug)]
pub enum SetupError {
    /// The machine already uses addresses of the mesh.
    Overlap {
        /// The mesh prefix.
        prefix: Prefix,
        /// The route, as `ip route` would name it.
        route: String,
    },
    /// Someone else routes a prefix that we were to route.
    Taken {
        /// The prefix.
        to: Prefix,
        /// The route, as `ip route` would name it.
        route: String,
    },
    /// The device does not exist: it was deleted, or not opened yet.
    NoDevice(String),
    /// The device is not ours.
    Device(TunError),
    /// A request to the kernel failed.
    Netlink(&'static str, io::Error),
    /// A kernel setting could not be read or written.
    Sysctl(String, io::Error),
    /// A firewall tool failed.
    Tool(ToolError),
    /// The ledger could not be read or written; the change was not made.
    State(StateError),
}

impl fmt::Display for SetupError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Overlap { prefix, route } => write!(
                f,
                "the mesh prefix {prefix} overlaps a route of this machine: {route}; remove the route or give the \
                 cluster another mesh prefix"
            ),
            Self::Taken { to, route } => {
                write!(f, "cannot route {to}: this machine has a route to the same prefix: {route}")
            }
            Self::NoDevice(name) => write!(f, "the network device {name} does not exist"),
            Self::Device(e) => write!(f, "{e}"),
            Self::Netlink(what, e) if e.raw_os_error() == Some(libc::EPERM) => {
                write!(f, "not permitted ({what}): run as root or with the capability CAP_NET_ADMIN")
            }
            Self::Netlink(what, e) => write!(f, "{what}: {e}"),
            Self::Sysctl(name, e) => write!(
                f,
                "sysctl {name}: {e}; run as root with a writable /proc/sys, or set it on the host before the agent \
                 starts"
            ),
            Self::Tool(e) => write!(f, "{e}"),
            Self::State(e) => write!(f, "{e}; nothing was changed without a note of how to undo it"),
        }
    }
}

impl std::error::Error for SetupError {}

impl From<ToolError> for SetupError {
    fn from(error: ToolError) -> Self {
        Self::Tool(error)
    }
}
