//! A resolver that has the same address for every name, and tells which names it was asked for; and a client that asks
//! without pause.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, UdpSocket};
use std::time::Duration;

use super::udp::Pauses;
use crate::machine::MESH_DNS;
use crate::{Context, Result, ensure};

/// Answers every query, over UDP and TCP, with an A record of `address`.
pub(super) fn server(port: u16, address: Ipv4Addr) -> Result {
    let socket = UdpSocket::bind(("0.0.0.0", port)).context(format!("bind {port}"))?;
    let listener = TcpListener::bind(("0.0.0.0", port)).context(format!("bind {port}"))?;
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            // A client that hangs up early has its own reasons.
            let _ = over_tcp(&mut stream, address);
        }
    });
    println!("ready");
    let mut buffer = [0; 1500];
    loop {
        let (len, from) = socket.recv_from(&mut buffer).context("receive")?;
        if let Some(answer) = answer(buffer.get(..len).unwrap_or_default(), address) {
            socket.send_to(&answer, from).context("send")?;
        }
    }
}

fn over_tcp(stream: &mut (impl Read + Write), address: Ipv4Addr) -> Result {
    let mut length = [0; 2];
    stream.read_exact(&mut length).context("length")?;
    let mut query = vec![0; usize::from(u16::from_be_bytes(length))];
    stream.read_exact(&mut query).context("query")?;
    let answer = answer(&query, address).context("no query")?;
    let length = u16::try_from(answer.len()).context("length")?;
    stream.write_all(&[&length.to_be_bytes()[..], &answer].concat()).context("answer")
}

/// Header and question of the query with one record behind (RFC 1035 section 4.1).
fn answer(query: &[u8], address: Ipv4Addr) -> Option<Vec<u8>> {
    let (id, mut rest, mut name) = (query.get(..2)?, query.get(12..)?, String::new());
    loop {
        let (len, after) = rest.split_first()?;
        if *len == 0 {
            rest = after;
            break;
        }
        let (label, after) = after.split_at_checked(usize::from(*len))?;
        name.push_str(&String::from_utf8_lossy(label));
        name.push('.');
        rest = after;
    }
    println!("asked {name}");
    let question_end = query.len().checked_sub(rest.len())?.checked_add(4)?;
    let mut out = id.to_vec();
    // A response to the operation asked for.
    out.push(0x80 | query.get(2)? & 0x79);
    out.extend_from_slice(&[0x80, 0, 1, 0, 1, 0, 0, 0, 0]);
    out.extend_from_slice(query.get(12..question_end)?);
    out.extend_from_slice(&[0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4]);
    out.extend_from_slice(&address.octets());
    Some(out)
}

/// Asks the mesh for the A record of a name every so often, for ever; reports the longest pause between two answers.
pub(super) fn ask(name: &str, every: Duration) -> Result {
    let socket = UdpSocket::bind(("0.0.0.0", 0)).context("bind")?;
    socket.connect((MESH_DNS, 53)).context("connect")?;
    let mut question = Vec::new();
    for label in name.split('.') {
        question.push(u8::try_from(label.len()).context("label")?);
        question.extend_from_slice(label.as_bytes());
    }
    question.extend_from_slice(&[0, 0, 1, 0, 1]);
    let asking = socket.try_clone().context("clone")?;
    std::thread::spawn(move || {
        for id in (0..=u16::MAX).cycle() {
            let mut query = id.to_be_bytes().to_vec();
            query.extend_from_slice(&[1, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
            query.extend_from_slice(&question);
            // Refusals (ICMP) while the other end restarts are part of the test.
            let _ = asking.send(&query);
            std::thread::sleep(every);
        }
    });
    println!("ready");
    let (mut pauses, mut buffer) = (Pauses::default(), [0; 512]);
    loop {
        // As above.
        let Ok(len) = socket.recv(&mut buffer) else { continue };
        let flags = buffer.get(2..8).filter(|_| len > 12).context("a short answer")?;
        // No error, and at least one record. While the Services are not known yet the answer is SERVFAIL: no answer.
        if let [_, code, _, _, high, low] = flags
            && code & 15 == 0
        {
            ensure!(u16::from_be_bytes([*high, *low]) > 0, "{name} has no address any more");
            pauses.arrival();
        }
    }
}
