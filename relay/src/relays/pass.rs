//! Nodes' control connections, passed on to the directory's server as they are.
//!
//! What goes over them is encrypted between node and directory. Without the link to the directory's server they are
//! refused, so that a node tries its next server; they end with either side.

use super::via;
use crate::forward::Membership;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::time::timeout;

const CONNECT_WITHIN: Duration = Duration::from_secs(5);

/// Passes a connection on until it ends.
pub(super) async fn pass_on(
    membership: Option<Membership>,
    mut stream: TcpStream,
    peer: SocketAddr,
) -> io::Result<()> {
    let Membership { server, index, key, .. } = membership.ok_or(io::ErrorKind::NotConnected)?;
    let mut onward = timeout(CONNECT_WITHIN, edgemesh_host::tcp::connect(server)).await??;
    onward.write_all(&via(index, &key, peer)).await?;
    tokio::io::copy_bidirectional(&mut stream, &mut onward).await.map(drop)
}
