//! Bytes without meaning, in every length, the same in every run.
//!
//! Half of the datagrams begin like a message of a protocol that listens somewhere, so that not all fail at the
//! first byte.

use std::io::{Read, Write};
use std::net::{TcpStream, UdpSocket};
use std::time::Duration;

use crate::{Context, Result};

/// Beginnings: WireGuard's four messages, a DNS query for one name, a small length prefix, HTTP.
const STARTS: [&[u8]; 7] = [
    &[1, 0, 0, 0],
    &[2, 0, 0, 0],
    &[3, 0, 0, 0],
    &[4, 0, 0, 0],
    &[0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 4],
    &[0, 64],
    b"GET / HTTP/1.1\r\n",
];

/// xorshift64: all that is needed is that it looks like nothing.
struct Noise(u64);

impl Noise {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn message(&mut self, longest: u64) -> Vec<u8> {
        let len = usize::try_from(self.next() % longest.max(1)).unwrap_or(0);
        let start = usize::try_from(self.next() % 14).unwrap_or(0);
        let mut bytes = STARTS.get(start).map(|start| start.to_vec()).unwrap_or_default();
        while bytes.len() < len {
            bytes.extend_from_slice(&self.next().to_le_bytes());
        }
        bytes.truncate(len.max(1));
        bytes
    }
}

/// Sends `count` datagrams of up to 1500 bytes.
pub(super) fn udp(target: &str, count: u32) -> Result {
    let socket = UdpSocket::bind(("0.0.0.0", 0)).context("bind")?;
    socket.connect(target).context(target)?;
    let mut noise = Noise(0x9e37_79b9_7f4a_7c15);
    for _ in 0..count {
        // A refusal (ICMP) of the last one is as good an answer as silence.
        let _ = socket.send(&noise.message(1500));
    }
    Ok(())
}

/// Opens `count` connections, one after the other, and writes up to 8 KiB into each.
pub(super) fn tcp(target: &str, count: u32) -> Result {
    let mut noise = Noise(0x2545_f491_4f6c_dd1d);
    let mut answer = [0; 512];
    for _ in 0..count {
        let mut stream = TcpStream::connect(target).context(target)?;
        let short = Some(Duration::from_millis(100));
        stream.set_read_timeout(short).context("timeout")?;
        stream.set_write_timeout(short).context("timeout")?;
        // Being hung up on is the expected answer, and may come at any time.
        let _ = stream.write_all(&noise.message(8192));
        let _ = stream.read(&mut answer);
    }
    Ok(())
}
