//! Services from a directory of manifests on this node.
//!
//! Node names in EndpointSlices become indices by the records that this node has; a name that is not known yet is
//! asked for, and the table is made again once the directory has answered.

use super::join::Join;
use edgemesh_discovery::manifests;
use std::io;
use std::path::Path;

/// Follows `directory` until dropped.
///
/// # Errors
/// When the directory cannot be read or watched.
pub fn follow(directory: &Path, join: &Join) -> io::Result<manifests::Source> {
    let tables = join.tables();
    manifests::Source::spawn(
        directory,
        move |table| {
            let _ = tables.send(table);
        },
        |problem| tracing::warn!("{problem}"),
    )
}
