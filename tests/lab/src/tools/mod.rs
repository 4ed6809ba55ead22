//! Small programs of the lab for what no common tool does: datagrams of every size with their boundaries checked,
//! replies after a given time, streams whose gaps are measured, attacks.
//!
//! They know nothing of the mesh; names are resolved by the C library like any program's. Servers say `ready` when
//! they listen and run until they are killed.
//!
//! Not here: anything that nginx, curl, socat, ncat, dig or iperf3 can show.

mod attack;
mod capture;
mod dns;
mod garbage;
mod middle;
mod sctp;
mod udp;

use std::time::Duration;

use crate::{Context, Result, fail};

/// What `dns-server` answers to every question.
pub const FIXED_ADDRESS: &str = "198.18.0.1";

/// Runs the tool that `words` names.
///
/// # Errors
/// When the words are not understood, or what the tool checks does not hold.
pub fn main(words: &[String]) -> Result {
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["capture", file] => capture::record(file),
        ["dns-server", port] => dns::server(number(port)?, number(FIXED_ADDRESS)?),
        ["attack-flood", target, key, rate, seconds] => {
            attack::flood(number(target)?, key, number(rate)?, number(seconds)?)
        }
        ["attack-replay", file, of, target, times] => {
            attack::replay(file, number(of)?, number(target)?, number(times)?)
        }
        ["attack-icmp", from, to, code, count] => {
            attack::icmp(number(from)?, number(to)?, number(code)?, number(count)?)
        }
        ["attack-flows", count, target] => attack::flows(number(count)?, target),
        ["dns-ask", name, every_ms] => dns::ask(name, Duration::from_millis(number(every_ms)?)),
        ["middle", port, server, keys, identity, orders] => {
            middle::serve(number(port)?, server, [keys, identity, orders].map(std::path::Path::new))
        }
        ["garbage-udp", target, count] => garbage::udp(target, number(count)?),
        ["garbage-tcp", target, count] => garbage::tcp(target, number(count)?),
        ["sctp-server", family, port] => sctp::server(family, number(port)?),
        ["sctp-echo", target, local_port] => sctp::echo(target, number(local_port)?),
        ["sctp-hold", target, local_port] => sctp::hold(target, number(local_port)?),
        ["udp-server", port] => udp::server(number(port)?),
        ["udp-sink", port] => udp::sink(number(port)?),
        ["udp-stream", target, every_ms] => udp::stream(target, Duration::from_millis(number(every_ms)?)),
        ["udp-sizes", target, from, to, step] => {
            udp::sizes(target, number(from)?, number(to)?, number(step)?)
        }
        ["udp-mixed", target, lots] => udp::mixed(target, number(lots)?),
        ["udp-after", target, ms] => udp::after(target, Duration::from_millis(number(ms)?)),
        ["udp-who", local_port, targets @ ..] => udp::who(number(local_port)?, targets),
        ["udp-send", target, count, text] => udp::send(target, number(count)?, text),
        other => fail(format!("no such tool: {}", other.join(" "))),
    }
}

fn number<T: core::str::FromStr>(word: &str) -> Result<T>
where
    T::Err: core::fmt::Display,
{
    word.parse().context(format!("number {word:?}"))
}
