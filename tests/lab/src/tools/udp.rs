//! UDP servers and clients.
//!
//! Datagrams start with a tag and a sequence number, so that a late duplicate is told from the awaited answer.

use std::net::{SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use crate::{Context, Result, ensure, fail};

/// How long one try waits for its answer.
const TRY: Duration = Duration::from_secs(1);
/// Tries per datagram: UDP may lose one, a mesh that loses every one does not work.
const TRIES: u32 = 4;
/// The largest datagram IPv4 can carry.
const MAX: usize = 65_507;
/// Datagrams of one lot.
const TOGETHER: usize = 32;
/// What opens the way before it is measured.
const HELLO: &[u8] = b"hello";

/// Answers every datagram to where it came from: `after-ms N ...` after N ms, `who` with the observed source
/// address, anything else with itself.
pub(super) fn server(port: u16) -> Result {
    // Both families, where there are two.
    let socket = UdpSocket::bind(("::", port)).or_else(|_| UdpSocket::bind(("0.0.0.0", port)));
    let socket = socket.context(format!("bind {port}"))?;
    println!("ready");
    let mut buffer = vec![0; MAX];
    loop {
        let (len, from) = socket.recv_from(&mut buffer).context("receive")?;
        let datagram = buffer.get(..len).unwrap_or_default().to_vec();
        let text = String::from_utf8_lossy(&datagram);
        if text == "who" {
            let seen = SocketAddr::new(from.ip().to_canonical(), from.port());
            let _ = socket.send_to(seen.to_string().as_bytes(), from);
        } else if let Some(ms) = text.strip_prefix("after-ms ").and_then(|rest| rest.split(' ').next()) {
            let pause = Duration::from_millis(super::number(ms)?);
            let socket = socket.try_clone().context("clone")?;
            std::thread::spawn(move || {
                std::thread::sleep(pause);
                let _ = socket.send_to(&datagram, from);
            });
        } else {
            // The client checks what arrives; a refused send shows there.
            let _ = socket.send_to(&datagram, from);
        }
    }
}

/// The longest pause between two arrivals, told whenever it grows; every twentieth arrival is, too.
#[derive(Default)]
pub(super) struct Pauses {
    count: u64,
    last: Option<Instant>,
    longest: u128,
}

impl Pauses {
    /// Something arrived.
    pub(super) fn arrival(&mut self) {
        let now = Instant::now();
        let pause = self.last.map_or(0, |last| now.duration_since(last).as_millis());
        self.last = Some(now);
        if pause > self.longest {
            self.longest = pause;
            println!("longest {pause}");
        }
        self.count = self.count.saturating_add(1);
        if self.count == 1 || self.count.is_multiple_of(20) {
            println!("count {}", self.count);
        }
    }
}

/// Receives, never answers; reports the longest pause in ms, how many came, and of how many if they are of a stream.
pub(super) fn sink(port: u16) -> Result {
    let socket = UdpSocket::bind(("0.0.0.0", port)).context(format!("bind {port}"))?;
    println!("ready");
    let mut buffer = vec![0; MAX];
    let mut pauses = Pauses::default();
    loop {
        let (len, _) = socket.recv_from(&mut buffer).context("receive")?;
        pauses.arrival();
        let text = String::from_utf8_lossy(buffer.get(..len).unwrap_or_default());
        if let Some(sequence) = text.strip_prefix("stream ").filter(|_| pauses.count.is_multiple_of(20)) {
            println!("sent {sequence}");
        }
    }
}

/// Sends a numbered datagram every so often, for ever, and never receives.
pub(super) fn stream(target: &str, every: Duration) -> Result {
    let socket = connect(target, 0)?;
    println!("ready");
    let mut sequence = 0_u64;
    loop {
        // Refusals (ICMP) while the other end restarts are part of the test.
        let _ = socket.send(format!("stream {sequence}").as_bytes());
        sequence = sequence.wrapping_add(1);
        std::thread::sleep(every);
    }
}

/// Sends datagrams of `from`, `from + step`, .. `to` bytes over one socket; each must come back equal.
pub(super) fn sizes(target: &str, from: usize, to: usize, step: usize) -> Result {
    let socket = connect(target, 0)?;
    let mut done = 0_u32;
    let mut retried = 0_u32;
    for size in (from..=to).step_by(step.max(1)) {
        retried = retried.saturating_add(echo(&socket, &pattern(size))?);
        done = done.saturating_add(1);
    }
    println!("{done} sizes from {from} to {to} echoed, {retried} sent again");
    Ok(())
}

/// Datagrams of `lots` lots, each of mixed sizes and sent at once; all of a lot must come back as they were.
pub(super) fn mixed(target: &str, lots: usize) -> Result {
    let socket = connect(target, 0)?;
    echo(&socket, HELLO)?;
    socket.set_read_timeout(Some(TRY)).context("timeout")?;
    let mut buffer = vec![0; MAX];
    for lot in 0..lots {
        // 1 to 64 bytes, in another order each time.
        let sizes =
            (0..TOGETHER).map(|n| lot.wrapping_add(n.wrapping_mul(13)) % 64).map(|size| size.wrapping_add(1));
        let mut missing: Vec<Vec<u8>> = sizes.map(pattern).collect();
        for datagram in &missing {
            socket.send(datagram).context("send")?;
        }
        while !missing.is_empty() {
            let left = missing.len();
            let Ok(len) = socket.recv(&mut buffer) else {
                return fail(format!("{left} of {TOGETHER} datagrams of lot {lot} did not come back"));
            };
            if buffer.get(..len) == Some(HELLO) {
                continue;
            }
            let place = missing.iter().position(|datagram| buffer.get(..len) == Some(datagram.as_slice()));
            missing.swap_remove(place.context(format!("{len} bytes came back changed"))?);
        }
    }
    println!("{lots} lots of {TOGETHER} echoed");
    Ok(())
}

/// Bytes that differ with the size, so that one answer cannot pass for another.
pub(super) fn pattern(size: usize) -> Vec<u8> {
    (0..size).map(|at| (at.wrapping_mul(31).wrapping_add(size) % 251).try_into().unwrap_or(0)).collect()
}

/// Sends until the same bytes come back; returns how many times it had to send again.
pub(super) fn echo(socket: &UdpSocket, datagram: &[u8]) -> Result<u32> {
    let mut buffer = vec![0; MAX];
    for attempt in 0..TRIES {
        if let Err(error) = socket.send(datagram) {
            ensure!(attempt < 2, "send {} bytes: {error}", datagram.len());
            continue;
        }
        let until = Instant::now().checked_add(TRY).context("clock")?;
        while let Some(left) = until.checked_duration_since(Instant::now()).filter(|left| !left.is_zero()) {
            socket.set_read_timeout(Some(left)).context("timeout")?;
            match socket.recv(&mut buffer) {
                Ok(len) if buffer.get(..len) == Some(datagram) => return Ok(attempt),
                // A late copy of an earlier try has another length; the same length must be the same bytes.
                Ok(len) => ensure!(len != datagram.len(), "{len} bytes came back changed"),
                Err(_) => break,
            }
        }
    }
    fail(format!("{} bytes: no answer to {TRIES} datagrams", datagram.len()))
}

/// One question whose answer comes after `pause`.
pub(super) fn after(target: &str, pause: Duration) -> Result {
    let socket = connect(target, 0)?;
    // Whether the way works at all is not the question here, and its first datagram may be lost.
    echo(&socket, HELLO)?;
    println!("ready");
    let question = format!("after-ms {} please", pause.as_millis());
    let asked = Instant::now();
    socket.send(question.as_bytes()).context("send")?;
    let limit = pause.saturating_add(Duration::from_secs(10));
    socket.set_read_timeout(Some(limit)).context("timeout")?;
    let mut buffer = vec![0; MAX];
    loop {
        let len = socket.recv(&mut buffer).context(format!("no answer within {} ms", limit.as_millis()))?;
        if buffer.get(..len) == Some(question.as_bytes()) {
            println!("answered after {} ms", asked.elapsed().as_millis());
            return Ok(());
        }
    }
}

/// Asks every target from one socket which source address it sees; one answer per line.
pub(super) fn who(local_port: u16, targets: &[&str]) -> Result {
    let any = targets.first().map_or("0.0.0.0", |target| any(target));
    let socket = UdpSocket::bind((any, local_port)).context("bind")?;
    socket.set_read_timeout(Some(TRY)).context("timeout")?;
    let mut buffer = vec![0; MAX];
    for target in targets {
        let mut answer = fail(format!("{target} does not answer"));
        for _ in 0..TRIES {
            socket.send_to(b"who", target).context(target)?;
            if let Ok((len, _)) = socket.recv_from(&mut buffer) {
                answer = Ok(String::from_utf8_lossy(buffer.get(..len).unwrap_or_default()).into_owned());
                break;
            }
        }
        println!("{}", answer?);
    }
    Ok(())
}

/// Sends the same datagram a number of times and waits for nothing.
pub(super) fn send(target: &str, count: u32, text: &str) -> Result {
    let socket = connect(target, 0)?;
    for _ in 0..count {
        // A refusal by the other side is an answer too; whether it arrived is checked where it should.
        let _ = socket.send(text.as_bytes());
    }
    Ok(())
}

/// No address, in the family of the target.
fn any(target: &str) -> &'static str {
    if target.starts_with('[') { "::" } else { "0.0.0.0" }
}

pub(super) fn connect(target: &str, local_port: u16) -> Result<UdpSocket> {
    let socket = UdpSocket::bind((any(target), local_port)).context("bind")?;
    socket.connect(target).context(format!("resolve and connect {target}"))?;
    Ok(socket)
}
