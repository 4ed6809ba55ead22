//! What we changed outside our own nftables table, and how to undo it.
//!
//! A small JSON file in the state directory, written (whole, synced, 0600) before the change it tells of, so a
//! crash in between leaves an undo that finds nothing to do. It outlives the agent: `cleanup` needs nothing else.
//! Kernel state does not outlive a boot; entries of an earlier boot restore no setting, but firewall rules are
//! still looked for, as tools exist that save and reload them. Bounds: one entry per distinct change.

use std::fmt;
use std::fs;
use std::path::Path;

use edgemesh_host::state::{Directory, StateError};
use serde::{Deserialize, Serialize};

/// The ledger's file in the state directory.
pub(super) const FILE: &str = "touched.json";

/// One change.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "camelCase")]
pub enum Touched {
    /// A network device was created. Its addresses and routes go with it.
    Device {
        /// Its name.
        name: String,
    },
    /// A kernel setting was written.
    Sysctl {
        /// Its path below `/proc/sys`.
        path: String,
        /// What it was.
        previous: String,
        /// What we wrote.
        value: String,
    },
    /// A rule was put into a chain of others.
    Rule {
        /// The command that knows the chain (`iptables-nft` ..).
        tool: String,
        /// The table.
        table: String,
        /// The chain.
        chain: String,
        /// The rule's words.
        rule: Vec<String>,
    },
}

impl fmt::Display for Touched {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Device { name } => write!(f, "device {name}, its addresses and routes"),
            Self::Sysctl { path, previous, value } => {
                write!(f, "sysctl {} = {value} (was {previous})", path.replace('/', "."))
            }
            Self::Rule { tool, table, chain, rule } => {
                write!(f, "{tool} -t {table} rule in {chain}: {}", rule.join(" "))
            }
        }
    }
}

#[derive(Default, Serialize, Deserialize)]
struct Content {
    /// Which boot the entries belong to.
    boot: String,
    touched: Vec<Touched>,
}

/// The open ledger of one state directory.
pub struct Ledger {
    directory: Directory,
    content: Content,
    /// The entries are of this boot.
    current: bool,
}

impl Ledger {
    /// Reads the ledger of a state directory; a missing file is an empty one.
    ///
    /// # Errors
    /// When the file cannot be read or is not ours: nothing is touched then, as its undo could be lost.
    pub fn open(state: &Path) -> Result<Self, StateError> {
        let directory = Directory::open(state)?;
        let content: Content = match directory.read(FILE)? {
            None => Content::default(),
            Some(bytes) => serde_json::from_slice(&bytes)
                .map_err(|e| StateError::invalid(directory.path(FILE), format!("{e}")))?,
        };
        let current = content.boot == boot_id();
        Ok(Self { directory, content, current })
    }

    /// Everything touched, oldest first.
    pub fn touched(&self) -> &[Touched] {
        &self.content.touched
    }

    /// Whether the entries tell of the running kernel.
    pub fn is_current(&self) -> bool {
        self.current
    }

    /// Writes down a change that is about to be made. A setting keeps its first `previous` of this boot.
    ///
    /// # Errors
    /// When the file cannot be written; then do not make the change.
    pub fn record(&mut self, change: Touched) -> Result<(), StateError> {
        let same = |known: &Touched| match (known, &change) {
            (Touched::Sysctl { path: a, .. }, Touched::Sysctl { path: b, .. }) => a == b,
            _ => *known == change,
        };
        let mut touched = self.content.touched.clone();
        if !self.current {
            touched.retain(|known| !matches!(known, Touched::Sysctl { .. }));
        }
        if touched.iter().any(same) {
            return Ok(());
        }
        touched.push(change);
        self.replace(touched)
    }

    /// Strikes out what was undone.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn strike(&mut self, change: &Touched) -> Result<(), StateError> {
        let mut touched = self.content.touched.clone();
        touched.retain(|known| known != change);
        if touched.is_empty() {
            self.content.touched.clear();
            return self.directory.remove(FILE);
        }
        self.replace(touched)
    }

    fn replace(&mut self, touched: Vec<Touched>) -> Result<(), StateError> {
        let content = Content { boot: boot_id(), touched };
        let bytes = serde_json::to_vec_pretty(&content)
            .map_err(|e| StateError::invalid(self.directory.path(FILE), format!("{e}")))?;
        self.directory.write(FILE, &bytes)?;
        self.content = content;
        self.current = true;
        Ok(())
    }
}

fn boot_id() -> String {
    fs::read_to_string("/proc/sys/kernel/random/boot_id").map(|id| id.trim().to_owned()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::testing::Scratch;

    fn forward(previous: &str) -> Touched {
        Touched::Sysctl { path: "net/ipv4/ip_forward".into(), previous: previous.into(), value: "1".into() }
    }

    fn device() -> Touched {
        Touched::Device { name: "edgemesh0".into() }
    }

    #[test]
    fn entries_survive_and_the_first_previous_value_stays() {
        let scratch = Scratch::new();
        let mut ledger = Ledger::open(scratch.path()).unwrap();
        ledger.record(forward("0")).unwrap();
        ledger.record(device()).unwrap();
        ledger.record(forward("1")).unwrap();
        ledger.record(device()).unwrap();
        let mode = fs::metadata(scratch.path().join(FILE)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let mut again = Ledger::open(scratch.path()).unwrap();
        assert_eq!(again.touched(), [forward("0"), device()]);
        assert!(again.is_current());
        again.strike(&device()).unwrap();
        again.strike(&forward("0")).unwrap();
        assert!(!scratch.path().join(FILE).exists());
    }

    #[test]
    fn settings_of_an_earlier_boot_are_forgotten() {
        let scratch = Scratch::new();
        let mut ledger = Ledger::open(scratch.path()).unwrap();
        ledger.record(forward("0")).unwrap();
        let path = scratch.path().join(FILE);
        let text = fs::read_to_string(&path).unwrap().replace(&boot_id(), "another-boot");
        fs::write(&path, text).unwrap();
        let mut ledger = Ledger::open(scratch.path()).unwrap();
        assert!(!ledger.is_current());
        ledger.record(forward("1")).unwrap();
        assert_eq!(ledger.touched(), [forward("1")]);
    }

    #[test]
    fn a_damaged_ledger_is_named_and_left_alone() {
        let scratch = Scratch::new();
        fs::write(scratch.path().join(FILE), "{").unwrap();
        let message = Ledger::open(scratch.path()).err().unwrap().to_string();
        assert!(message.contains(FILE), "{message}");
        assert_eq!(fs::read_to_string(scratch.path().join(FILE)).unwrap(), "{");
    }
}
