//! Our tunnel against `wireguard-go`, a real kernel behind it, in both roles.
//!
//! The core's tunnel machine runs on a UDP socket of its own ([`Tunnel`]), so that what it sends can be repeated, kept
//! back, reordered and sent from elsewhere. `core/tests/boringtun.rs` has the same list in virtual time.

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::time::{Duration, Instant};

use edgemesh_core::counters::DropReason;
use edgemesh_core::noise::StaticSecret;

use crate::machine::Machine;
use crate::process::Process;
use crate::topology::connect;
use crate::tunnel::{Is, Tunnel, strangers};
use crate::wait::secs;
use crate::wireguard::{Device, fetched, hex};
use crate::{Context, Result, ensure};

const NEAR: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 1);
const FAR: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 2);
/// Where both listen at first.
const PORT: u16 = 51_820;
/// Receives and never answers.
const SINK: u16 = 7001;
const PSK: [u8; 32] = [0x5a; 32];
/// Where the second cookie field of an initiation begins.
const MAC2: usize = 132;
/// How soon what needs no timer happens.
const SOON: Duration = secs(5);
/// wireguard-go drops an initiation this soon after one that it took (`HandshakeInitationRate`).
const INITIATION_INTERVAL: Duration = Duration::from_millis(20);
/// Counters that a replay window of 8,192 bits covers below the greatest.
const WINDOW: usize = 8_128;

/// Pairs so far: names of devices and namespaces are different in all.
static PAIRS: AtomicU8 = AtomicU8::new(0);

/// Two machines and a cable, our tunnel on one, theirs on the other.
struct Pair {
    ours: Tunnel,
    theirs: Device,
    _servers: [Process; 2],
    near: Machine,
    far: Machine,
    device: String,
    configuration: String,
}

/// What their side knows at first.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Knows {
    /// Not where we are: it cannot begin.
    Nothing,
    /// Our address.
    Address,
}

impl Pair {
    /// `psks`: ours and theirs.
    fn new(directory: &Path, psks: [Option<[u8; 32]>; 2], knows: Knows) -> Result<Self> {
        let number = PAIRS.fetch_add(1, Ordering::Relaxed);
        let prefix = format!("wg-{number}-");
        let directory = directory.join(format!("interop-{number}"));
        let near = Machine::create(&prefix, "near", NEAR, &directory)?;
        let far = Machine::create(&prefix, "far", FAR, &directory)?;
        connect((&near, "eth0"), (&far, "eth0"))?;
        for machine in [&near, &far] {
            machine.ns.ip(&[&format!("addr add {}/24 dev eth0", machine.address), "link set eth0 up"])?;
        }
        let (secret, their_secret) = ([number.wrapping_add(1); 32], [number.wrapping_add(101); 32]);
        let public = |secret: [u8; 32]| StaticSecret::from_bytes(secret).public();
        let mut configuration = format!("private_key={}\nlisten_port={PORT}\n", hex(&their_secret));
        configuration += &format!("public_key={}\n", hex(&public(secret).0));
        if let Some(psk) = psks[1] {
            configuration += &format!("preshared_key={}\n", hex(&psk));
        }
        if knows == Knows::Address {
            configuration += &format!("endpoint={NEAR}:{PORT}\n");
        }
        configuration += &format!("allowed_ip={}/32\n", Tunnel::ADDRESS);
        let device = format!("wg{number}");
        let theirs = start(&far, &device, &configuration)?;
        let servers = [
            far.tool("udp", &["udp-server", &Tunnel::ECHO.to_string()])?,
            far.tool("sink", &["udp-sink", &SINK.to_string()])?,
        ];
        let socket = bind(&near, NEAR, PORT)?;
        let ours = Tunnel::new(secret, public(their_secret), psks[0], socket, SocketAddr::from((FAR, PORT)))?;
        Ok(Self { ours, theirs, _servers: servers, near, far, device, configuration })
    }

    /// One without a preshared key.
    fn plain(directory: &Path, knows: Knows) -> Result<Self> {
        Self::new(directory, [None; 2], knows)
    }

    /// Theirs ends, and comes back with what it was configured with and nothing else.
    fn restart_theirs(&mut self) -> Result {
        self.theirs.process.kill();
        self.theirs = start(&self.far, &self.device, &self.configuration)?;
        Ok(())
    }

    fn we_initiate(&mut self) -> Result {
        self.ours.initiate()?;
        self.ours.until("a session that we began", SOON, |ours| Ok(ours.is_up().then_some(())))?;
        let handshake = [self.ours.count(true, Is::Initiation), self.ours.count(false, Is::Response)];
        ensure!(handshake == [1, 1], "initiations of ours, responses of theirs: {handshake:?}");
        self.ours.must_echo(b"hello", SOON)
    }

    fn they_initiate(&mut self) -> Result {
        self.talk_to_us("1", "1")?;
        let handshake = [self.ours.count(false, Is::Initiation), self.ours.count(true, Is::Response)];
        ensure!(handshake == [1, 1], "initiations of theirs, responses of ours: {handshake:?}");
        ensure!(self.ours.count(true, Is::Initiation) == 0, "we began, too");
        Ok(())
    }

    /// Their kernel sends datagrams of `from` to `to` bytes; each must come back as it was.
    fn talk_to_us(&mut self, from: &str, to: &str) -> Result {
        let target = format!("{}:{}", Tunnel::ADDRESS, Tunnel::ECHO);
        let far = &self.far;
        self.ours.during(|| far.run_tool(&["udp-sizes", &target, from, to, "53"], secs(20))).map(drop)
    }

    /// Datagrams of many sizes both ways.
    fn talk(&mut self) -> Result {
        for size in (1..=1392).step_by(107).chain([1391, 1392]) {
            let payload: Vec<u8> = (0..size).map(|at| (at % 251) as u8).collect();
            self.ours.must_echo(&payload, SOON)?;
            self.ours.received.clear();
        }
        self.talk_to_us("1", "1392")?;
        ensure!(self.ours.drops.is_empty(), "we dropped {:?}", self.ours.drops);
        Ok(())
    }

    /// We lose our sessions when they have been used for a while, and theirs takes an initiation again.
    fn restart_ours(&mut self) -> Result {
        let answered = self.ours.wire.iter().rfind(|seen| !seen.ours && seen.is() == Some(Is::Response));
        let answered = answered.context("a handshake that we began")?.at;
        loop {
            self.talk()?;
            if answered.elapsed() >= INITIATION_INTERVAL {
                break;
            }
        }
        self.ours.restart()
    }
}

fn start(far: &Machine, device: &str, configuration: &str) -> Result<Device> {
    let program = fetched("wireguard-go")?;
    let program = program.context("wireguard-go (tests/lab/wireguard-go.sh target/rivals fetches it)")?;
    let theirs = Device::start(far, &[&program.to_string_lossy(), "--foreground"], device, configuration)?;
    far.ns.ip(&[
        &format!("addr add {}/24 dev {device}", Tunnel::PEER_ADDRESS),
        &format!("link set {device} mtu 1420 up"),
    ])?;
    Ok(theirs)
}

fn bind(machine: &Machine, address: Ipv4Addr, port: u16) -> Result<UdpSocket> {
    machine.ns.enter(|| UdpSocket::bind((address, port)).context(format!("bind {address}:{port}")))?
}

/// Both roles, with and without a preshared key; and with different ones, where nothing may pass.
pub(super) fn handshakes(directory: &Path) -> Result {
    for psk in [None, Some(PSK)] {
        let mut pair = Pair::new(directory, [psk; 2], Knows::Nothing)?;
        pair.we_initiate()?;
        pair.talk()?;
        let mut pair = Pair::new(directory, [psk; 2], Knows::Address)?;
        pair.they_initiate()?;
        pair.talk()?;
    }
    let mut pair = Pair::new(directory, [Some(PSK), None], Knows::Nothing)?;
    pair.ours.initiate()?;
    pair.ours.until("their response is refused", SOON, |ours| {
        Ok(ours.drops.contains(&DropReason::Authentication).then_some(()))
    })?;
    ensure!(!pair.ours.is_up(), "a session without a common preshared key");
    Ok(())
}

/// What was captured and comes again, or too late, changes nothing on either side.
pub(super) fn replays(directory: &Path) -> Result {
    let mut pair = Pair::plain(directory, Knows::Address)?;
    pair.they_initiate()?;
    let remote = pair.ours.remote;
    for seen in pair.ours.wire.clone().into_iter().filter(|seen| !seen.ours) {
        let (responses, kind) = (pair.ours.count(true, Is::Response), seen.is());
        let taken = pair.ours.take(remote, &seen.bytes);
        pair.ours.step(Duration::from_millis(1))?;
        match kind {
            Some(Is::Initiation) => {
                ensure!(pair.ours.drops == [DropReason::OldHandshake], "{:?}", pair.ours.drops);
                ensure!(pair.ours.count(true, Is::Response) == responses, "an old initiation was answered");
            }
            _ => ensure!(taken == Err(DropReason::Replay), "{kind:?} came again: {taken:?}"),
        }
    }
    let ours = &mut pair.ours;
    // Theirs takes the oldest that its window covers and refuses the one before.
    let late = [b"too late", b"in time!"].map(|text| ours.seal(Tunnel::ECHO, text));
    for _ in 0..WINDOW.saturating_sub(1) {
        let _ = ours.seal(Tunnel::ECHO, b"never sent");
    }
    ours.must_echo(b"newest", SOON)?;
    for datagram in late.into_iter().flatten() {
        ours.put(datagram.clone());
        ours.put(datagram);
    }
    ours.must_echo(b"fence", SOON)?;
    let back = |text: &[u8]| ours.received.iter().filter(|got| got.as_slice() == text).count();
    ensure!(back(b"in time!") == 1, "{} echoes of what came twice", back(b"in time!"));
    ensure!(back(b"too late") == 0, "an echo of what was older than the window");
    drop(pair);

    // Our handshake comes again: theirs does not answer it, and the session goes on.
    let mut pair = Pair::plain(directory, Knows::Nothing)?;
    pair.we_initiate()?;
    let first = pair.ours.wire.iter().find(|seen| seen.is() == Some(Is::Initiation)).cloned();
    pair.ours.put(first.context("our initiation")?.bytes);
    pair.ours.must_echo(b"behind it", SOON)?;
    ensure!(pair.ours.count(false, Is::Response) == 1, "theirs answered an old initiation");
    Ok(())
}

/// Each side moves, and the other follows what is authentic, not what is not.
pub(super) fn roaming(directory: &Path) -> Result {
    let mut pair = Pair::plain(directory, Knows::Nothing)?;
    pair.we_initiate()?;
    let elsewhere = Ipv4Addr::new(10, 9, 0, 3);
    pair.near.ns.ip(&[&format!("addr add {elsewhere}/24 dev eth0")])?;
    pair.ours.move_to(bind(&pair.near, elsewhere, 40_000)?);
    pair.ours.must_echo(b"from elsewhere", SOON)?;
    let known = pair.theirs.get("endpoint")?;
    ensure!(known == format!("{elsewhere}:40000"), "theirs believes us at {known}");
    pair.talk_to_us("1", "1392")?;

    pair.theirs.set("listen_port=51900\n")?;
    pair.talk_to_us("1", "1")?;
    let moved = pair.ours.remote;
    ensure!(moved == SocketAddr::from((FAR, 51_900)), "we believe theirs at {moved}");
    pair.ours.must_echo(b"to where it is", SOON)?;
    let last = pair.ours.wire.iter().rfind(|seen| !seen.ours).cloned().context("a message of theirs")?;
    let forged: Vec<u8> = last.bytes.iter().map(|byte| byte ^ u8::from(*byte == 0)).collect();
    let taken = pair.ours.take(SocketAddr::from((elsewhere, 9)), &forged);
    ensure!(taken.is_err() && pair.ours.remote == moved, "a forgery moved us: {taken:?}");
    ensure!(pair.ours.count(true, Is::Initiation) == 1, "moving took a handshake");
    Ok(())
}

/// Each side loses its sessions, and whoever sends first, traffic is back at once.
pub(super) fn restarts(directory: &Path) -> Result {
    let mut pair = Pair::plain(directory, Knows::Address)?;
    pair.we_initiate()?;
    pair.restart_ours()?;
    pair.ours.must_echo(b"we restarted and send", SOON)?;
    pair.talk_to_us("1", "1392")?;
    pair.restart_ours()?;
    pair.talk_to_us("1", "160").context("we restarted, they send")?;
    pair.restart_theirs()?;
    pair.talk_to_us("1", "160").context("they restarted and send")?;
    pair.ours.must_echo(b"after all", SOON)
}

/// A part of a row, with a pair of its own.
type Part = fn(&Path) -> Result;

/// What takes its time: sessions are renewed after two minutes, whoever began them; keepalives; cookies; their restart
/// while only we send. Runs beside other rows.
pub(super) fn timers(directory: &Path) -> Result {
    std::thread::scope(|scope| {
        let parts: [(&str, Part); 4] = [
            ("our session is renewed", our_rekey),
            ("their session is renewed", their_rekey),
            ("keepalives", keepalives),
            ("cookies", cookies),
        ];
        let running = parts.map(|(what, part)| (what, scope.spawn(move || part(directory))));
        for (what, part) in running {
            part.join().unwrap_or_else(|_| crate::fail("panicked")).context(what)?;
        }
        Ok(())
    })
}

/// When messages of a kind went one way, in seconds after the first.
fn times(tunnel: &Tunnel, ours: bool, kind: Is) -> Vec<f64> {
    let all = || tunnel.wire.iter().filter(|seen| seen.ours == ours && seen.is() == Some(kind));
    let first = all().next().map(|seen| seen.at);
    all().filter_map(|seen| Some((seen.at - first?).as_secs_f64())).collect()
}

/// Whether a handshake that one side began late was answered.
fn is_renewed(tunnel: &Tunnel, ours: bool) -> bool {
    times(tunnel, !ours, Is::Response).last().is_some_and(|at| *at > 60.0)
}

/// That one side began a handshake when its session was two minutes old, and none before but the first.
/// wireguard-go may begin that one again, and again that one: it sets the timer of its repetition after it has sent, and a
/// response that is faster than that does not stop it.
fn renewed_in_time(pair: &Pair, ours: bool) -> Result {
    let begun = times(&pair.ours, ours, Is::Initiation);
    let (first, late) = begun.split_at(begun.partition_point(|at| *at < 60.0));
    let is_repetition =
        |begun: &[f64]| !ours && begun.windows(2).all(|pair| (5.0..6.0).contains(&(pair[1] - pair[0])));
    let due = 120.0 + first.last().context("a first handshake")?;
    let who = if ours { "we" } else { "they" };
    ensure!(first.len() == 1 || is_repetition(first), "{who} began handshakes at {begun:?} s");
    ensure!(late.len() == 1 && late.last() >= Some(&due), "{who} began handshakes at {begun:?} s");
    Ok(())
}

fn our_rekey(directory: &Path) -> Result {
    let mut pair = Pair::plain(directory, Knows::Nothing)?;
    pair.we_initiate()?;
    pair.ours.received.clear();
    let (mut sent, mut next) = (0_usize, Instant::now());
    pair.ours.until("a second handshake", secs(125), |ours| {
        if next <= Instant::now() {
            (sent, next) = (sent.saturating_add(1), Instant::now() + Duration::from_millis(250));
            ours.send(Tunnel::ECHO, format!("number {sent}").as_bytes())?;
        }
        Ok(is_renewed(ours, true).then_some(()))
    })?;
    pair.ours.until("every echo", SOON, |ours| Ok((ours.received.len() == sent).then_some(())))?;
    pair.ours.must_echo(b"in the new session", SOON)?;
    renewed_in_time(&pair, true)
}

fn their_rekey(directory: &Path) -> Result {
    let mut pair = Pair::plain(directory, Knows::Address)?;
    pair.they_initiate()?;
    let target = format!("{}:{}", Tunnel::ADDRESS, Tunnel::ECHO);
    let _stream = pair.far.tool("stream", &["udp-stream", &target, "250"])?;
    // Two minutes, and what repetitions of the first one put them off by.
    pair.ours.until("a second handshake", secs(160), |ours| Ok(is_renewed(ours, false).then_some(())))?;
    pair.talk_to_us("1", "160").context("in the new session")?;
    renewed_in_time(&pair, false)?;
    ensure!(pair.ours.drops.is_empty(), "we dropped {:?}", pair.ours.drops);
    Ok(())
}

fn keepalives(directory: &Path) -> Result {
    let mut pair = Pair::plain(directory, Knows::Address)?;
    pair.we_initiate()?;
    pair.ours.send(SINK, b"no answer to this")?;
    let before = pair.ours.count(false, Is::Keepalive);
    let sent = Instant::now();
    pair.ours.until("their keepalive", secs(15), |ours| {
        Ok((ours.count(false, Is::Keepalive) > before).then_some(()))
    })?;
    ensure!(sent.elapsed() >= secs(9), "their keepalive came after {:?}", sent.elapsed());

    // wireguard-go may begin a handshake 15 s after its last answer, though it heard from us since: it sets that timer
    // after it has sent, and what comes faster than that does not stop it. Our response keeps alive then.
    if !our_keepalive(&mut pair)? {
        ensure!(our_keepalive(&mut pair)?, "they began a handshake twice");
    }

    let public = hex(&pair.ours.public().0);
    pair.theirs.set(&format!("public_key={public}\nupdate_only=true\npersistent_keepalive_interval=1\n"))?;
    let before = pair.ours.count(false, Is::Keepalive);
    pair.ours.until("three of their persistent keepalives", secs(8), |ours| {
        Ok((ours.count(false, Is::Keepalive) >= before + 3).then_some(()))
    })?;
    ensure!(pair.ours.drops.is_empty(), "we dropped {:?}", pair.ours.drops);
    pair.theirs.set(&format!("public_key={public}\nupdate_only=true\npersistent_keepalive_interval=0\n"))?;

    // Theirs loses the session and says nothing: 15 s without an answer are the sign.
    let silent = pair.configuration.lines().filter(|line| !line.starts_with("endpoint"));
    pair.configuration = silent.flat_map(|line| [line, "\n"]).collect();
    pair.restart_theirs()?;
    let restarted = Instant::now();
    pair.ours.must_echo(b"they restarted, only we send", secs(20))?;
    ensure!(restarted.elapsed() >= secs(14), "who told us after {:?}?", restarted.elapsed());
    Ok(())
}

/// Has theirs send something that is not answered. Whether our keepalive came; false when a session of theirs did before.
fn our_keepalive(pair: &mut Pair) -> Result<bool> {
    let counts = |ours: &Tunnel| {
        [(true, Is::Keepalive), (false, Is::Initiation), (false, Is::Keepalive)]
            .map(|(own, kind)| ours.count(own, kind))
    };
    let (before, heard) = (counts(&pair.ours), pair.theirs.number("rx_bytes")?);
    let (far, target) = (&pair.far, format!("{}:9", Tunnel::ADDRESS));
    pair.ours.during(|| far.run_tool(&["udp-send", &target, "1", "no answer to this"], secs(5)))?;
    let sent = Instant::now();
    let came = pair.ours.until("our keepalive", secs(15), |ours| {
        let [kept, begun, confirmed] = [0, 1, 2].map(|n| counts(ours)[n] > before[n]);
        Ok((kept || begun && confirmed).then_some(kept))
    })?;
    if came {
        ensure!(sent.elapsed() >= secs(9), "our keepalive came after {:?}", sent.elapsed());
        let theirs = &pair.theirs;
        let all = || Ok((theirs.number("rx_bytes")? == heard + 32).then_some(()));
        pair.ours.until("theirs takes it", SOON, |_| all())?;
    }
    Ok(came)
}

fn cookies(directory: &Path) -> Result {
    // Theirs is flooded with what anyone can send who saw one handshake; we prove our address and get through.
    let mut pair = Pair::plain(directory, Knows::Nothing)?;
    pair.we_initiate()?;
    let first = pair.ours.wire.iter().find(|seen| seen.is() == Some(Is::Initiation)).cloned();
    let (first, flooder) = (first.context("our initiation")?.bytes, bind(&pair.near, NEAR, 1)?);
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                for _ in 0..400 {
                    let _ = flooder.send_to(&first, (FAR, PORT));
                }
                std::thread::sleep(Duration::from_millis(100));
            }
        });
        let through = prove_ourselves(&mut pair);
        over.store(true, Ordering::Relaxed);
        through
    })?;

    // We are under load; theirs proves its address.
    let mut pair = Pair::plain(directory, Knows::Address)?;
    pair.ours.load = strangers(4, pair.ours.public())?;
    let target = format!("{}:{}", Tunnel::ADDRESS, Tunnel::ECHO);
    let _stream = pair.far.tool("stream", &["udp-stream", &target, "100"])?;
    pair.ours.until("a session", secs(12), |ours| Ok(ours.is_up().then_some(())))?;
    ensure!(pair.ours.count(true, Is::Cookie) > 0, "nobody was asked for a cookie");
    let last = pair.ours.wire.iter().rfind(|seen| seen.is() == Some(Is::Initiation));
    let mac2 = last.and_then(|seen| seen.bytes.get(MAC2..)).context("their initiation")?;
    ensure!(mac2.iter().any(|byte| *byte != 0), "their last initiation proves nothing");
    pair.talk_to_us("1", "160")
}

fn prove_ourselves(pair: &mut Pair) -> Result {
    // The flood has to be felt before we come.
    pair.ours.restart()?;
    pair.ours.until("theirs asks us for a cookie", secs(12), |ours| {
        if ours.count(false, Is::Cookie) == 0 && ours.is_up() {
            ours.restart()?;
        }
        if !ours.is_up() {
            ours.send(SINK, b"hello")?;
        }
        Ok((ours.count(false, Is::Cookie) > 0).then_some(()))
    })?;
    pair.ours.until("a session", secs(12), |ours| {
        ours.send(SINK, b"hello")?;
        Ok(ours.is_up().then_some(()))
    })?;
    let last = pair.ours.wire.iter().rfind(|seen| seen.ours && seen.is() == Some(Is::Initiation));
    let mac2 = last.and_then(|seen| seen.bytes.get(MAC2..)).context("our initiation")?;
    ensure!(mac2.iter().any(|byte| *byte != 0), "theirs took an initiation without the cookie");
    pair.ours.must_echo(b"through the flood", SOON)
}
