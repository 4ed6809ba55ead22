//! Small packets: questions and answers, floods, and connections that are over at once.

use super::{Sink, dial, udp};
use crate::meter::{Cost, Meter};
use edgemesh_lab::machine::Machine;
use edgemesh_lab::{Context, Error, Result, ensure};
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

/// Bytes of a question, of its answer, and of a flood's datagram.
const SIZE: usize = 64;
/// Pause of an interactive flow between its questions.
const PAUSE: Duration = Duration::from_millis(100);
/// Interactive flows that one thread speaks for.
const FLOWS: usize = 10;

/// How long each question over one TCP connection waits for its answer.
///
/// # Errors
/// When nobody accepts or answers.
pub(crate) fn round_trips(from: &Machine, to: SocketAddr, span: Duration) -> Result<Vec<Duration>> {
    let mut stream = dial(from, to)?;
    let (began, mut all) = (Instant::now(), Vec::new());
    while began.elapsed() < span {
        all.push(ask(&mut stream)?);
    }
    Ok(all)
}

fn ask(stream: &mut TcpStream) -> Result<Duration> {
    let began = Instant::now();
    stream.write_all(&[0x5a; SIZE]).context("question")?;
    stream.read_exact(&mut [0; SIZE]).context("answer")?;
    Ok(began.elapsed())
}

/// How long datagrams waited for their answers, and how many did in vain.
#[derive(Default)]
pub(crate) struct Pings {
    /// The answered ones.
    pub(crate) times: Vec<Duration>,
    /// The others.
    pub(crate) lost: usize,
}

/// Sends a datagram now and then, and waits for its answer.
///
/// # Errors
/// When the socket cannot be had.
pub(crate) fn pings(from: &Machine, to: SocketAddr, every: Duration, span: Duration) -> Result<Pings> {
    let socket = udp(from, to)?;
    let (began, mut pings) = (Instant::now(), Pings::default());
    for number in 1u32.. {
        thread::sleep((every * number).saturating_sub(began.elapsed()));
        if began.elapsed() >= span {
            break;
        }
        let sent = Instant::now();
        let mut question = [0; SIZE];
        question[..4].copy_from_slice(&number.to_be_bytes());
        let mut answer = [0; SIZE];
        let mut going = socket.send(&question).is_ok();
        // Late answers to earlier questions are passed over.
        while going && answer != question {
            going = socket.recv(&mut answer).is_ok();
        }
        match going {
            true => pings.times.push(sent.elapsed()),
            false => pings.lost += 1,
        }
    }
    Ok(pings)
}

/// How long after `began` a datagram is answered, of which one is sent each millisecond.
///
/// # Errors
/// When none is within 10 s.
pub(crate) fn first_answer(from: &Machine, to: SocketAddr, began: Instant) -> Result<Duration> {
    let socket = udp(from, to)?;
    socket.set_read_timeout(Some(Duration::from_millis(1))).context("timeout")?;
    while began.elapsed() < Duration::from_secs(10) {
        // While there is no route or device yet, it is refused.
        let sent = socket.send(&[0x5a; SIZE]).is_ok();
        if sent && socket.recv(&mut [0; SIZE]).is_ok() {
            return Ok(began.elapsed());
        }
        if !sent {
            thread::sleep(Duration::from_millis(1));
        }
    }
    Err(Error::new("no answer within 10 s"))
}

/// Answers' delays of `flows` TCP connections that ask ten times a second each.
///
/// # Errors
/// When nobody accepts or answers.
pub(crate) fn interactive(
    from: &Machine,
    to: SocketAddr,
    flows: usize,
    span: Duration,
) -> Result<Vec<Duration>> {
    let mut groups = Vec::new();
    for _ in 0..flows.div_ceil(FLOWS) {
        let group: Result<Vec<TcpStream>> = (0..FLOWS).map(|_| dial(from, to)).collect();
        groups.push(group?);
    }
    let asking = |mut group: Vec<TcpStream>| -> Result<Vec<Duration>> {
        let (began, mut all) = (Instant::now(), Vec::new());
        for number in 0u32.. {
            thread::sleep((PAUSE / FLOWS as u32 * number).saturating_sub(began.elapsed()));
            if began.elapsed() >= span {
                break;
            }
            if let Some(stream) = group.get_mut(number as usize % FLOWS) {
                all.push(ask(stream)?);
            }
        }
        Ok(all)
    };
    together(groups, asking)
}

/// Runs `work` on each of `inputs` at once, and puts together what they have measured.
fn together<T: Send>(
    inputs: Vec<T>,
    work: impl Fn(T) -> Result<Vec<Duration>> + Sync,
) -> Result<Vec<Duration>> {
    let work = &work;
    thread::scope(|scope| {
        let threads: Vec<_> = inputs.into_iter().map(|input| scope.spawn(move || work(input))).collect();
        let mut all = Vec::new();
        for thread in threads {
            all.extend(thread.join().map_err(|_| Error::new("a client panicked"))??);
        }
        Ok(all)
    })
}

/// Sends small datagrams as fast as one thread can; the cost of those that arrived.
///
/// # Errors
/// When the socket cannot be had, or nothing arrives.
pub(crate) fn flood(
    from: &Machine,
    to: SocketAddr,
    sink: &Sink,
    meter: &Meter,
    span: Duration,
) -> Result<Cost> {
    let socket = udp(from, to)?;
    let (before, taken, began) = (meter.sample()?, sink.datagrams(), Instant::now());
    while began.elapsed() < span {
        for _ in 0..64 {
            // No room in the queue: the next one may find some.
            let _ = socket.send(&[0x5a; SIZE]);
        }
    }
    let cost = meter.since(&before, sink.datagrams() - taken)?;
    ensure!(cost.amount > 0, "nothing arrived from {to}");
    Ok(cost)
}

/// Connections that `clients` clients at once make one after the other: how long each took from its beginning to the
/// server's byte and end.
///
/// # Errors
/// When one fails.
pub(crate) fn new_connections(
    from: &Machine,
    to: SocketAddr,
    clients: usize,
    span: Duration,
) -> Result<Vec<Duration>> {
    from.ns.enter(|| {
        // Threads of a thread in the namespace are in it, too.
        together(vec![(); clients], |()| {
            let (began, mut all) = (Instant::now(), Vec::new());
            while began.elapsed() < span {
                all.push(connect_once(to)?);
            }
            Ok(all)
        })
    })?
}

fn connect_once(to: SocketAddr) -> Result<Duration> {
    let began = Instant::now();
    let mut stream = TcpStream::connect(to).context("connect")?;
    let mut bytes = [0; 8];
    ensure!(matches!(stream.read(&mut bytes), Ok(1)), "no byte of the server");
    match stream.read(&mut bytes) {
        Ok(0) => Ok(began.elapsed()),
        Err(error) if error.kind() == ErrorKind::Interrupted => Ok(began.elapsed()),
        other => Err(Error::new(format!("no end of the connection: {other:?}"))),
    }
}
