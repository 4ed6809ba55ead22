//! TCP between agents and servers, over links of any width.
//!
//! A link narrower than 1500 bytes whose ICMP errors are lost swallows full-sized segments without a word, and the
//! connection hangs after its first small frames. Both ends therefore announce and use segments of at most
//! [`SEGMENT`] bytes: those fit every IPv6 link (RFC 8200 section 5, 1280 bytes) with headers and options.
//!
//! Stateless; nothing here reads, writes or retries.

use socket2::SockRef;
use std::io;
use std::net::SocketAddr;
use tokio::net::{TcpListener, TcpSocket, TcpStream};

/// Largest segment in bytes, in both directions of a connection.
pub const SEGMENT: u32 = 1_200;

/// Connections that may wait to be accepted.
const BACKLOG: u32 = 1_024;

/// Opens a connection; small frames go out at once (`TCP_NODELAY`).
///
/// # Errors
/// As `connect(2)`.
pub async fn connect(address: SocketAddr) -> io::Result<TcpStream> {
    let stream = socket(address)?.connect(address).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// Listens; accepted connections have the same limit.
///
/// # Errors
/// As `bind(2)` and `listen(2)`.
pub fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = socket(address)?;
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

fn socket(address: SocketAddr) -> io::Result<TcpSocket> {
    let socket = if address.is_ipv6() { TcpSocket::new_v6() } else { TcpSocket::new_v4() }?;
    SockRef::from(&socket).set_tcp_mss(SEGMENT)?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neither_end_sends_more_than_fits_a_narrow_link() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let listener = listen("127.0.0.1:0".parse().unwrap()).unwrap();
            let address = listener.local_addr().unwrap();
            let ours = connect(address).await.unwrap();
            let (theirs, _) = listener.accept().await.unwrap();
            for stream in [ours, theirs] {
                let segment = SockRef::from(&stream).tcp_mss().unwrap();
                assert!((1_000..=SEGMENT).contains(&segment), "{segment}");
            }
        });
    }

    #[test]
    fn a_port_in_use_is_an_error() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let listener = listen("127.0.0.1:0".parse().unwrap()).unwrap();
            let error = listen(listener.local_addr().unwrap()).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
        });
    }
}
