//! Running the system's firewall tools.
//!
//! `nft` and `iptables` are the stable interfaces of their rule formats; the kernel's are not. One short-lived
//! process per call, found in PATH or in the directories where distributions put them (a daemon's PATH may lack
//! them). Stateless.

use std::fmt;
use std::io::{self, Write};
use std::process::{Command, Output, Stdio};

/// Why a tool did not do its work.
#[derive(Debug)]
pub enum ToolError {
    /// It is not installed.
    Missing {
        /// The command.
        tool: String,
        /// The package that has it on Debian, Ubuntu, Fedora and Alpine alike.
        package: &'static str,
    },
    /// It could not be run.
    Run(String, io::Error),
    /// It said no.
    Refused {
        /// The command with its arguments.
        command: String,
        /// What it printed.
        message: String,
    },
}

impl fmt::Display for ToolError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing { tool, package } => {
                write!(f, "the command {tool} was not found: install the package {package}")
            }
            Self::Run(tool, e) => write!(f, "cannot run {tool}: {e}"),
            Self::Refused { command, message } => {
                write!(f, "{command}: {message}")?;
                if message.contains("Operation not permitted") || message.contains("Permission denied") {
                    write!(f, "; run as root or with the capability CAP_NET_ADMIN")?;
                }
                Ok(())
            }
        }
    }
}

impl std::error::Error for ToolError {}

/// Runs `tool` with `input` on its standard input and returns its output, whatever its exit status.
pub(super) fn run(tool: &str, arguments: &[&str], input: &str) -> Result<Output, ToolError> {
    for directory in ["", "/usr/sbin/", "/sbin/"] {
        match spawn(&format!("{directory}{tool}"), arguments, input) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => return Err(ToolError::Run(tool.to_owned(), e)),
            Ok(output) => return Ok(output),
        }
    }
    let package = if tool == "nft" { "nftables" } else { "iptables" };
    Err(ToolError::Missing { tool: tool.to_owned(), package })
}

fn spawn(path: &str, arguments: &[&str], input: &str) -> io::Result<Output> {
    let mut child = Command::new(path)
        .args(arguments)
        .env("LC_ALL", "C")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    if let Some(mut stdin) = child.stdin.take() {
        // A tool that ends without reading has said why on its standard error.
        let _ = stdin.write_all(input.as_bytes());
    }
    child.wait_with_output()
}

/// Runs `tool`, which must succeed; returns what it printed.
pub(super) fn demand(tool: &str, arguments: &[&str], input: &str) -> Result<String, ToolError> {
    let output = run(tool, arguments, input)?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let message = String::from_utf8_lossy(&output.stderr).trim().replace('\n', " ");
    Err(ToolError::Refused { command: format!("{tool} {}", arguments.join(" ")), message })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_tool_names_its_package() {
        let error = run("edgemesh-no-such-tool", &[], "").unwrap_err().to_string();
        assert!(error.contains("install the package iptables"), "{error}");
        let nft = ToolError::Missing { tool: "nft".into(), package: "nftables" }.to_string();
        assert!(nft.contains("nftables"), "{nft}");
    }

    #[test]
    fn a_refusal_for_lack_of_privilege_says_what_to_do() {
        let message = "netlink: Error: cache initialization failed: Operation not permitted".to_owned();
        let error = ToolError::Refused { command: "nft -f -".into(), message }.to_string();
        assert!(error.contains("CAP_NET_ADMIN"), "{error}");
    }
}
