//! `make demo`: the main job in stages, each told in plain words.

use std::path::Path;

use crate::Result;
use crate::mesh::Mesh;

/// Runs the demo.
///
/// # Errors
/// When a stage does not show what it says.
pub fn run(directory: &Path) -> Result {
    let mesh = Mesh::start(directory)?;
    println!("{} agents are ready", mesh.agents.len());
    Ok(())
}
