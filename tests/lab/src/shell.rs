//! `edgemesh-lab run SCRIPT`: the lab with the product running in it, and a shell script in place of scenarios.
//!
//! For finding out why a scenario fails. In the script, `on MACHINE COMMAND..` runs a command on a machine (`a1`,
//! `a1-p1`, `nat-a`, `inet`, `server` ..) with its resolver; `$LAB` is the directory with every machine's files and
//! logs. `edgemesh-lab run bare SCRIPT` leaves the product out.
//!
//! Not here: anything that is checked.

use std::path::Path;
use std::process::Command;

use crate::machine::EXEC;
use crate::mesh::Mesh;
use crate::topology::Lab;
use crate::{Context, Result, ensure};

/// Builds the lab, runs the script with bash and ends; the script's output is not touched.
///
/// # Errors
/// When the lab cannot be built or the script fails. Agents that do not get ready are told, no more.
pub fn run(directory: &Path, words: &[String]) -> Result {
    match words {
        [bare, script] if bare == "bare" => script_in(&Lab::build(directory)?, script),
        [script] => {
            let mut mesh = Mesh::prepare(directory)?;
            if let Err(error) = mesh.join_all() {
                println!("not all agents are ready: {error}");
            }
            script_in(&mesh.lab, script)
        }
        _ => crate::fail("usage: edgemesh-lab run [bare] SCRIPT"),
    }
}

fn script_in(lab: &Lab, script: &str) -> Result {
    let namespaces = lab.a1.ns.path();
    let prefix = namespaces.to_string_lossy().trim_end_matches("a1").to_owned();
    let own = std::env::current_exe().context("path of the lab binary")?;
    let prelude = format!(
        "on() {{ local m=$1; shift; '{}' {EXEC} {prefix}$m $LAB/$m/resolv.conf \"$@\"; }}; export -f on",
        own.display()
    );
    let status = Command::new("bash")
        .args(["-c", &format!("{prelude}\n{script}")])
        .env("LAB", lab.directory())
        .status()
        .context("bash")?;
    ensure!(status.success(), "the script ended with {status}");
    Ok(())
}
