//! The EdgeMesh node agent.
fn main() {}
