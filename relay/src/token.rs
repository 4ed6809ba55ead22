//! `edgemesh-server token`, also `--cluster`: asks the running server, or writes to the directory itself when none runs.

use crate::Failure;
use crate::admin::TOKEN_PATH;
use crate::cli;
use crate::directory::{Directory, Invite, NewToken};
use crate::run::ADMIN_SOCKET;
use edgemesh_core::rng::Rng;
use edgemesh_host::admin::{self, Address, ClientError};
use edgemesh_host::state;
use std::io::Write;

/// Prints a join token or the cluster's address, and nothing else, to standard output.
pub(crate) fn token(args: cli::Token) -> Result<(), Failure> {
    let failed = |e: &dyn std::fmt::Display| Failure::Failed(e.to_string());
    if !args.common.state_dir.is_dir() {
        let path = args.common.state_dir.display();
        return Err(Failure::Config(format!(
            "--state-dir: {path}: no such directory; accepted: the state directory of a server that has been started"
        )));
    }
    let address = Address::Unix(args.common.state_dir.join(ADMIN_SOCKET));
    let new = match args.node {
        Some(node) => Invite::Token(NewToken { node, ttl: args.ttl, servers: args.advertise }),
        None => Invite::Cluster(args.advertise),
    };
    let body = serde_json::to_vec(&new).map_err(|e| failed(&e))?;
    let text = match admin::post(&address, TOKEN_PATH, &body) {
        Ok(text) => text,
        Err(ClientError::Unreachable(..)) => offline(&args.common.state_dir, new)?,
        Err(e) => return Err(failed(&e)),
    };
    std::io::stdout().write_all(&text).map_err(|e| failed(&e))
}

fn offline(path: &std::path::Path, new: Invite) -> Result<Vec<u8>, Failure> {
    let failed = |e: &dyn std::fmt::Display| Failure::Failed(e.to_string());
    let mut state = state::Directory::open(path).map_err(|e| failed(&e))?;
    state.lock().map_err(|e| failed(&e))?;
    let mut rng = Rng::new(edgemesh_host::entropy::seed().map_err(|e| failed(&e))?);
    let mut directory = Directory::open(state, &mut rng).map_err(|e| failed(&e))?;
    let now = edgemesh_host::clock::wall().secs;
    let token = directory.invite(new, now, &mut rng).map_err(|e| failed(&e))?;
    Ok(format!("{token}\n").into_bytes())
}
