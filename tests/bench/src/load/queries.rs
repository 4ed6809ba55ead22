//! Datagrams at a fixed rate, whether they are answered or not.

use super::udp;
use edgemesh_lab::machine::Machine;
use edgemesh_lab::{Context, Error, Result};
use std::net::SocketAddr;
use std::thread;
use std::time::{Duration, Instant};

/// How often those that are due are sent.
const TICK: Duration = Duration::from_micros(250);
/// Until an answer counts as lost.
const PATIENCE: Duration = Duration::from_millis(300);

/// Sends `query`, its first two bytes a running number, `rate` times a second; how long each waited for its answer,
/// from when it was sent, and how many have none.
///
/// # Errors
/// When the socket cannot be had.
pub(crate) fn queries(
    from: &Machine,
    to: SocketAddr,
    query: &[u8],
    rate: u32,
    span: Duration,
) -> Result<(Vec<Duration>, usize)> {
    let socket = udp(from, to)?;
    socket.set_read_timeout(Some(PATIENCE)).context("timeout")?;
    let began = Instant::now();
    thread::scope(|scope| {
        let receiving = scope.spawn(|| {
            let (mut answers, mut buffer) = (Vec::new(), [0; 512]);
            while let Ok(len) = socket.recv(&mut buffer) {
                if let Some(number) = buffer.get(..len).and_then(|answer| answer.first_chunk()) {
                    answers.push((u16::from_be_bytes(*number), Instant::now()));
                }
            }
            answers
        });
        let mut sent = Vec::new();
        let mut query = query.to_vec();
        while began.elapsed() < span {
            let due = (began.elapsed().as_secs_f64() * f64::from(rate)) as usize;
            while sent.len() < due {
                let number = sent.len() as u16;
                if let Some(at) = query.first_chunk_mut() {
                    *at = number.to_be_bytes();
                }
                sent.push(Instant::now());
                // What finds no room is lost, and counted so.
                let _ = socket.send(&query);
            }
            thread::sleep(TICK);
        }
        let answers = receiving.join().map_err(|_| Error::new("the receiver panicked"))?;
        Ok(matched(&sent, &answers))
    })
}

/// Each answer belongs to the latest query with its number that was sent before it.
fn matched(sent: &[Instant], answers: &[(u16, Instant)]) -> (Vec<Duration>, usize) {
    let waited = |&(number, at): &(u16, Instant)| {
        let with_number = sent.iter().skip(usize::from(number)).step_by(1 << 16);
        with_number.take_while(|sent| **sent <= at).last().map(|sent| at - *sent)
    };
    let times: Vec<Duration> = answers.iter().filter_map(waited).collect();
    let lost = sent.len().saturating_sub(times.len());
    (times, lost)
}
