//! TCP between agents and servers, over links of any width.
//!
//! A link narrower than 1500 bytes whose ICMP errors are lost swallows full-sized segments without a word, and the
//! connection hangs after its first small frames. Both ends therefore announce and use segments of at most
//! [`SEGMENT`] bytes: those fit every IPv6 link (RFC 8200 section 5, 1280 bytes) with headers and options.
//!
//! A connection whose source address has gone is told of by [`source_lost`]: TCP itself would not notice for long.
//!
//! Stateless; nothing here reads or retries, and only a connection's preamble is written.

use edgemesh_core::wire::control::Preamble;
use socket2::SockRef;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpSocket, TcpStream, lookup_host};
use tokio::time::timeout;

/// Largest segment in bytes, in both directions of a connection.
pub const SEGMENT: u32 = 1_200;

/// Bytes that wait unsent in a socket that is [kept short](keep_short).
const UNSENT: u32 = 128 * 1024;

/// How long all of a server's addresses may take together.
pub const SERVER_WITHIN: Duration = Duration::from_secs(5);

/// How often an address is looked for.
const LOOK_EVERY: Duration = Duration::from_secs(2);

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

/// Opens a connection to a server (`HOST:PORT`), at the first of its addresses that takes one, and says what it is for.
///
/// # Errors
/// Those of the last address; `TimedOut` after [`SERVER_WITHIN`].
pub async fn connect_server(server: &str, preamble: Preamble) -> io::Result<(TcpStream, SocketAddr)> {
    let attempt = async {
        let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
        for address in lookup_host(server).await? {
            match connect(address).await {
                Ok(mut stream) => {
                    stream.write_all(&preamble.bytes()).await?;
                    return Ok((stream, address));
                }
                Err(error) => last = error,
            }
        }
        Err(last)
    };
    timeout(SERVER_WITHIN, attempt).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
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

/// Waits until this machine has lost the address, and says so: a connection from it would hang in silence until TCP
/// gives up, many minutes later. Another error of the kernel's says nothing about the address.
pub async fn source_lost(source: IpAddr) -> io::Error {
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        let bound = std::net::UdpSocket::bind((source, 0));
        if let Err(error) = bound.map(drop)
            && error.kind() == io::ErrorKind::AddrNotAvailable
        {
            return io::Error::new(error.kind(), format!("this machine has lost the address {source}"));
        }
    }
}

/// Has the socket take little more than is under way: what waits in it can neither be overtaken nor dropped.
///
/// # Errors
/// As `setsockopt(2)`.
pub fn keep_short(stream: &TcpStream) -> io::Result<()> {
    SockRef::from(stream).set_tcp_notsent_lowat(UNSENT)
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
    fn an_address_that_this_machine_does_not_have_is_lost() {
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
        runtime.block_on(async {
            let gone = source_lost("192.0.2.77".parse().unwrap()).await;
            assert!(gone.to_string().contains("192.0.2.77"), "{gone}");
            let here = source_lost("127.0.0.1".parse().unwrap());
            assert!(tokio::time::timeout(LOOK_EVERY * 5, here).await.is_err());
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
