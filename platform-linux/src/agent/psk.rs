//! The keys that the nodes of this mesh share (`--mesh-psk`): read at the start, and again whenever the file changes, so
//! that a mesh changes them without a restart. A file that cannot be used any more leaves the keys as they are.

use super::command::Handle;
use edgemesh_core::tunnel::MeshPsk;
use edgemesh_host::{psk, state};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::time::{MissedTickBehavior, interval};

/// How often it is looked whether the file has changed.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// The keys in a file.
///
/// # Errors
/// What is wrong with the file, for the user; no key is in it.
pub(super) fn read(path: &Path) -> Result<MeshPsk, String> {
    let bytes = state::read_secret(path).map_err(|error| error.to_string())?;
    let named = |why: &str| format!("{}: {why}", path.display());
    let text = std::str::from_utf8(&bytes).map_err(|_| named("not text"))?;
    let (current, next) = psk::parse(text).map_err(|why| named(&why))?;
    let mut out = MeshPsk::default();
    (out.current, out.next) = (*current, next.as_ref().map(|next| **next));
    Ok(out)
}

/// What tells one content of a file from another.
fn version(path: &Path) -> Option<(u64, i64, i64, u64)> {
    let about = std::fs::metadata(path).ok()?;
    Some((about.ino(), about.mtime(), about.mtime_nsec(), about.len()))
}

/// Follows the file for ever.
pub(super) async fn keep_current(handle: Handle, path: PathBuf) {
    let mut seen = version(&path);
    let mut ticks = interval(LOOK_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let now = version(&path);
        if now == seen {
            continue;
        }
        seen = now;
        match read(&path) {
            Ok(psk) => {
                let _ = handle.inspect(move |data| data.engine.set_psk(psk)).await;
                tracing::info!(file = %path.display(), "the mesh's shared keys are read anew");
            }
            Err(why) => tracing::error!("--mesh-psk: {why}; the keys stay as they are"),
        }
    }
}
