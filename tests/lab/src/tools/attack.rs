//! What somebody on the network, or a pod that means ill, can send: handshakes by the thousand, what was captured before,
//! forged ICMP errors, flows without end.
//!
//! Each says how much it sent. None knows a secret: a node's public key, and bytes that went over the wire.

use std::fs;
use std::net::{SocketAddr, SocketAddrV4, UdpSocket};
use std::time::{Duration, Instant};

use edgemesh_core::noise::PublicKey;
use nix::sys::socket::{AddressFamily, SockFlag, SockProtocol, SockType, socket};

use crate::tunnel::strangers;
use crate::{Context, Result, ensure};

use super::udp;

/// Strangers whose initiations a flood repeats.
const STRANGERS: u8 = 32;
/// What a pcap file begins with, and every packet in it.
const PCAP: (usize, usize) = (24, 16);
/// IPv4 without options, and UDP.
const HEADERS: usize = 28;

/// Sends initiations that name the key's owner, `rate` a second, from as many sockets as there are strangers.
pub(super) fn flood(target: SocketAddr, key: &str, rate: u32, seconds: u32) -> Result {
    let key = PublicKey(crate::wireguard::unhex(key)?);
    let mut senders = Vec::new();
    for message in strangers(STRANGERS, key)? {
        senders.push((bound()?, message));
    }
    let (began, total) = (Instant::now(), u64::from(rate).saturating_mul(seconds.into()));
    let mut sent = 0_u64;
    for (socket, message) in senders.iter().cycle() {
        if sent >= total {
            break;
        }
        // Whether it arrives is the other side's matter.
        let _ = socket.send_to(message, target);
        sent = sent.saturating_add(1);
        let due = Duration::from_micros(sent.saturating_mul(1_000_000) / u64::from(rate.max(1)));
        if due > began.elapsed().saturating_add(Duration::from_millis(1)) {
            std::thread::sleep(due.saturating_sub(began.elapsed()));
        }
    }
    let per_second = u128::from(sent) * 1000 / began.elapsed().as_millis().max(1);
    println!("sent {sent} at {per_second} a second");
    Ok(())
}

fn bound() -> Result<UdpSocket> {
    UdpSocket::bind(("0.0.0.0", 0)).context("bind")
}

/// Sends the UDP payloads of a capture that went to `of` to `target`, `times` times over.
pub(super) fn replay(file: &str, of: SocketAddrV4, target: SocketAddr, times: u32) -> Result {
    let payloads = payloads(&fs::read(file).context(file)?, of);
    ensure!(!payloads.is_empty(), "{file} holds nothing that went to {of}");
    let socket = bound()?;
    for _ in 0..times {
        for payload in &payloads {
            let _ = socket.send_to(payload, target);
            // Not faster than a receive buffer is read.
            std::thread::sleep(Duration::from_micros(200));
        }
    }
    println!("sent {} datagrams {times} times", payloads.len());
    Ok(())
}

/// What single UDP datagrams to `of` in a pcap file of this machine carried; those joined by offloads are left out.
fn payloads(pcap: &[u8], of: SocketAddrV4) -> Vec<Vec<u8>> {
    let mut found = Vec::new();
    let mut rest = pcap.get(PCAP.0..).unwrap_or_default();
    while let Some((head, after)) = rest.split_at_checked(PCAP.1) {
        let len = head.get(8..12).and_then(|len| len.try_into().ok()).map_or(0, u32::from_ne_bytes);
        let Some((packet, next)) = after.split_at_checked(len as usize) else { break };
        rest = next;
        let (Some(ip), Some(udp)) = (packet.get(..20), packet.get(20..HEADERS)) else { continue };
        let (octets, port) = (of.ip().octets(), of.port().to_be_bytes());
        let whole = ip.starts_with(&[0x45]) && ip.get(9) == Some(&17) && packet.len() <= 1500;
        if whole && ip.ends_with(&octets) && udp.get(2..4) == Some(&port) {
            found.push(packet.get(HEADERS..).unwrap_or_default().to_vec());
        }
    }
    found
}

/// Tells `from` by ICMP, `count` times, that what it sent to `to` could not be delivered: `code` 3 no such port, 4 longer
/// than 576 bytes.
pub(super) fn icmp(from: SocketAddrV4, to: SocketAddrV4, code: u8, count: u32) -> Result {
    let raw = socket(AddressFamily::Inet, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::Icmp)
        .context("raw socket")?;
    // To the standard library a socket that sends to addresses is one like another.
    let raw = UdpSocket::from(raw);
    let mut message = vec![3, code, 0, 0, 0, 0, 2, 0x40];
    message.extend_from_slice(&[0x45, 0, 2, 0x80, 0, 0, 0x40, 0, 60, 17, 0, 0]);
    message.extend_from_slice(&from.ip().octets());
    message.extend_from_slice(&to.ip().octets());
    for field in [from.port(), to.port(), 620, 0] {
        message.extend_from_slice(&field.to_be_bytes());
    }
    let checksum = crate::tunnel::checksum(&message);
    message.splice(2..4, checksum.to_be_bytes());
    for _ in 0..count {
        raw.send_to(&message, (*from.ip(), 0)).context("send")?;
        std::thread::sleep(Duration::from_millis(2));
    }
    println!("sent {count}");
    Ok(())
}

/// Ports that ask at the same time: no queue on the way overflows.
const TOGETHER: usize = 64;

/// One datagram from each of `count` ports, from 1024 up, to a target that sends all back: as many flows. Behind each lot a
/// flow that has its place asks: once that is answered, so is all before it that found one.
pub(super) fn flows(count: u16, target: &str) -> Result {
    let witness = udp::connect(target, 0)?;
    let (mut sent, mut answered) = (0_usize, 0_usize);
    let ports: Vec<u16> = (1024..=u16::MAX).take(count.into()).collect();
    for (lot, together) in ports.chunks(TOGETHER).enumerate() {
        // A port that the machine uses itself is passed over.
        let open = |port: &u16| UdpSocket::bind(("0.0.0.0", *port)).ok();
        let sockets: Vec<UdpSocket> = together.iter().filter_map(open).collect();
        sockets.iter().for_each(|socket| drop(socket.send_to(b"flow", target)));
        sent = sent.saturating_add(sockets.len());
        udp::echo(&witness, &udp::pattern(lot % TOGETHER + 1)).context("a flow that has its place")?;
        answered = answered.saturating_add(sockets.iter().filter(|socket| is_answered(socket)).count());
    }
    println!("sent {sent}, {answered} answered");
    Ok(())
}

fn is_answered(socket: &UdpSocket) -> bool {
    socket.set_nonblocking(true).is_ok() && socket.recv(&mut [0; 16]).is_ok()
}
