//! One question to one upstream: a datagram from a fresh port under a random id, and a stream when the reply was cut.
//!
//! A reply counts only when it comes from the server asked, under the id, to the very question, case included.
//! Others are ignored until the time is up.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use edgemesh_core::wire::dns::{HEADER_LEN, Header, MAX_TCP, Query};
use tokio::net::{TcpStream, UdpSocket};

use super::listen::{read_message, write_message};

/// Asks `server` the `query`, whose id becomes `id`. The caller bounds the time.
///
/// # Errors
/// The sockets', and `InvalidData` for a reply over TCP that answers something else.
pub(super) async fn exchange(server: SocketAddr, query: &[u8], id: u16) -> io::Result<Vec<u8>> {
    let mut query = query.to_vec();
    query.get_mut(..2).ok_or(io::ErrorKind::InvalidInput)?.copy_from_slice(&id.to_be_bytes());
    let reply = datagram(server, &query).await?;
    if !Header::parse(&reply).is_ok_and(|header| header.is_truncated()) {
        return Ok(reply);
    }
    // Some resolvers speak UDP only: then the cut reply is all there is.
    Ok(stream(server, &query).await.unwrap_or(reply))
}

async fn datagram(server: SocketAddr, query: &[u8]) -> io::Result<Vec<u8>> {
    let any: IpAddr = match server {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind((any, 0)).await?;
    socket.connect(server).await?;
    socket.send(query).await?;
    let mut buffer = vec![0; MAX_TCP];
    loop {
        let len = socket.recv(&mut buffer).await?;
        if answers(buffer.get(..len).unwrap_or_default(), query) {
            buffer.truncate(len);
            buffer.shrink_to_fit();
            return Ok(buffer);
        }
    }
}

async fn stream(server: SocketAddr, query: &[u8]) -> io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(server).await?;
    write_message(&mut stream, query).await?;
    let reply = read_message(&mut stream, MAX_TCP).await?.ok_or(io::ErrorKind::UnexpectedEof)?;
    if answers(&reply, query) { Ok(reply) } else { Err(io::ErrorKind::InvalidData.into()) }
}

/// Whether `reply` answers `query`. An error may come without question, from servers that could not read it.
pub(super) fn answers(reply: &[u8], query: &[u8]) -> bool {
    let (Ok(header), Ok(asked)) = (Header::parse(reply), Query::parse_question(query)) else { return false };
    if !header.is_response() || header.id != asked.header.id || header.opcode() != asked.header.opcode() {
        return false;
    }
    let [questions, ..] = header.counts;
    match questions {
        0 => header.rcode() != 0,
        1 => {
            let question = HEADER_LEN..HEADER_LEN + asked.question_len();
            reply.get(question.clone()) == query.get(question)
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const QUERY: &[u8] = b"\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x01a\x02Zz\x00\x00\x01\x00\x01";

    #[test]
    fn u14_only_a_reply_to_the_very_question_counts() {
        let mut good = QUERY.to_vec();
        good[2] |= 0x80;
        assert!(answers(&good, QUERY));
        assert!(!answers(QUERY, QUERY), "a query");
        // Id, opcode, case of the name, type, class.
        for (at, bit) in [(1, 1), (2, 8), (16, 0x20), (19, 1), (21, 2)] {
            let mut bad = good.clone();
            bad[at] ^= bit;
            assert!(!answers(&bad, QUERY), "octet {at}");
        }
        assert!(!answers(&good[..14], QUERY));
        let refused = b"\x12\x34\x80\x01\x00\x00\x00\x00\x00\x00\x00\x00";
        assert!(answers(refused, QUERY));
        let empty = b"\x12\x34\x80\x00\x00\x00\x00\x00\x00\x00\x00\x00";
        assert!(!answers(empty, QUERY));
    }
}
