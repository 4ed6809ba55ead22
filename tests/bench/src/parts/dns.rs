//! In-zone DNS queries beside Knot and Unbound, asked by dnsperf: processor time per query at full speed, for few names
//! and for all in random order, and delays at 20,000 queries a second.
//!
//! All three know the same names with the same addresses on the same node; Knot has them as a zone, Unbound as
//! local data. Delays are those that a client of ours sees (dnsperf tells no percentiles): it sends a query every
//! 50 us, whether answers come or not.

use super::{Plan, Results, each};
use crate::load;
use crate::meter::{Cost, Meter};
use crate::report::{Table, Wanted, millis, number, target};
use crate::stats::{median, percentile, ratio};
use crate::world::{Contender, ECHO, Way, World, name_address};
use edgemesh_lab::machine::{MESH_DNS, Machine};
use edgemesh_lab::process::Process;
use edgemesh_lab::wait::{secs, wait_until};
use edgemesh_lab::{Context, Result, ensure};
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

const KNOT: u16 = 5301;
const UNBOUND: u16 = 5302;
/// Queries a second at which delays are measured.
const RATE: u32 = 20_000;
/// Services of the cluster.
const NAMES: u16 = 10_000;
/// Of them, those that a usual site asks for.
const FEW: u16 = 100;

/// Of one server in one round.
struct Seen {
    /// Of a query for one of the few.
    cost: Cost,
    /// Of a query for one of all.
    of_all: Cost,
    times: Vec<Duration>,
    lost: usize,
}

pub(super) fn run(plan: Plan, directory: &Path) -> Result {
    let world = World::build(directory, &[Way::Direct], NAMES, |far| load::serve_echo(far, ECHO))?;
    let near = &world.pair(Way::Direct)?.near;
    let (few, all) = (questions(near, FEW)?, questions(near, NAMES)?);
    let others = [knot(near)?, unbound(near)?];

    let mut contenders = vec![(world.agent_alone(Way::Direct)?, SocketAddr::from((MESH_DNS, 53)))];
    for (process, name, port) in &others {
        let meter = Meter::new([process.pid()]);
        let contender = Contender { name: (*name).to_owned(), target: near.address, meter };
        contenders.push((contender, SocketAddr::from((near.address, *port))));
    }
    for (_, address) in &contenders {
        answers(near, *address)?;
    }
    let (contenders, addresses): (Vec<_>, Vec<_>) = contenders.into_iter().unzip();
    let mut turn = addresses.iter().cycle();
    let results = Results::of(plan, &contenders, |contender| {
        let address = *turn.next().context("a server")?;
        let cost = dnsperf(near, address, &few, &contender.meter, plan.span)?;
        let of_all = dnsperf(near, address, &all, &contender.meter, plan.span)?;
        let (times, lost) = load::queries(near, address, &question(1), RATE, plan.span)?;
        Ok(Seen { cost, of_all, times, lost })
    })?;
    let micros = |seen: &Seen| seen.cost.micros();
    let of_all = |seen: &Seen| seen.of_all.micros();
    let growth = |seen: &[Seen]| ratio(&each(seen, of_all), &each(seen, micros));
    let p99 = |seen: &Seen| millis(percentile(&seen.times, 99.0));
    let mut table = Table::new(&[
        "DNS",
        "queries a second",
        "CPU us a query",
        "of 10,000 names",
        "to that",
        "p50 ms at 20,000 a second",
        "p99 ms",
        "lost",
    ]);
    for (contender, seen) in results.iter() {
        table.row([
            contender.name.clone(),
            number(median(seen.iter().map(|seen| seen.cost.rate()))),
            number(median(each(seen, micros))),
            number(median(each(seen, of_all))),
            number(growth(seen)),
            number(median(seen.iter().map(|seen| millis(percentile(&seen.times, 50.0))))),
            number(median(seen.iter().map(p99))),
            seen.iter().map(|seen| seen.lost).sum::<usize>().to_string(),
        ]);
    }
    table.print();
    for other in ["knot", "unbound"] {
        if let Some(ratio) = results.against(other, micros) {
            target(&format!("CPU time of a query to that of {other}"), ratio, Wanted::AtMost(1.0), "x");
        }
    }
    if let Some((_, seen)) = results.iter().next() {
        target("CPU time of a query, 10,000 names to 100", growth(seen), Wanted::AtMost(1.2), "x");
    }
    target("p99 at 20,000 queries a second", results.ours(p99), Wanted::AtMost(1.0), " ms");
    Ok(())
}

/// What dnsperf asks for again and again: the first `count` names, each once.
fn questions(near: &Machine, count: u16) -> Result<PathBuf> {
    let file = near.directory().join(format!("questions-{count}"));
    let lines: String = load::spread(count).map(|number| format!("{} A\n", name(number))).collect();
    fs::write(&file, lines).context(file.display())?;
    Ok(file)
}

fn name(number: u16) -> String {
    format!("s{number}.default.svc.cluster.local")
}

/// The query for a name's address (RFC 1035, 4.1), with the identification left at zero.
fn question(number: u16) -> Vec<u8> {
    let mut query = vec![0, 0, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in name(number).split('.') {
        query.push(label.len() as u8);
        query.extend_from_slice(label.as_bytes());
    }
    query.extend_from_slice(&[0, 0, 1, 0, 1]);
    query
}

/// Waits until a server knows the last of the names.
fn answers(near: &Machine, server: SocketAddr) -> Result {
    let last = NAMES - 1;
    let (at, port, name) = (format!("@{}", server.ip()), server.port().to_string(), name(last));
    wait_until(&format!("{server} answers"), secs(30), || {
        let said = near.check(&["dig", "+short", "+tries=1", "+time=1", &at, "-p", &port, &name, "A"])?;
        ensure!(said.trim() == name_address(last).to_string(), "it answered {said:?}");
        Ok(())
    })
}

fn dnsperf(
    near: &Machine,
    server: SocketAddr,
    questions: &Path,
    meter: &Meter,
    span: Duration,
) -> Result<Cost> {
    let (ip, port, seconds) =
        (server.ip().to_string(), server.port().to_string(), span.as_secs().max(1).to_string());
    let questions = questions.to_string_lossy();
    let before = meter.sample()?;
    let words = ["dnsperf", "-s", &ip, "-p", &port, "-d", &questions, "-l", &seconds, "-c", "4"];
    let said = near.run_within(&words, b"", span + secs(20))?.success()?;
    let field = |what: &str| -> Option<f64> {
        let line = said.lines().find_map(|line| line.trim().strip_prefix(what))?;
        line.trim().split(' ').next()?.parse().ok()
    };
    let completed = field("Queries completed:").context(format!("dnsperf: {said}"))?;
    let cost = meter.since(&before, completed as u64)?;
    let took = field("Run time (s):").map_or(cost.took, Duration::from_secs_f64);
    Ok(Cost { took, ..cost })
}

fn knot(near: &Machine) -> Result<(Process, &'static str, u16)> {
    let at = near.directory().join("knot");
    fs::create_dir_all(&at).context(at.display())?;
    let mut zone = "$ORIGIN cluster.local.\n$TTL 30\n@ SOA ns hostmaster 1 7200 1800 86400 30\n@ NS ns\nns A 10.96.0.53\n"
        .to_owned();
    for n in 0..NAMES {
        zone += &format!("{}. A {}\n", name(n), name_address(n));
    }
    fs::write(at.join("zone"), zone).context("zone")?;
    let (dir, address) = (at.display(), near.address);
    let config = format!(
        "server:\n  rundir: {dir}\n  listen: {address}@{KNOT}\n\
         database:\n  storage: {dir}\n\
         zone:\n  - domain: cluster.local\n    file: {dir}/zone\n"
    );
    let file = at.join("knot.conf");
    fs::write(&file, config).context(file.display())?;
    Ok((near.spawn("knot", &["knotd", "-c", &file.to_string_lossy()])?, "knot", KNOT))
}

fn unbound(near: &Machine) -> Result<(Process, &'static str, u16)> {
    let at = near.directory().join("unbound.conf");
    let mut config = format!(
        "server:\n  interface: {}\n  port: {UNBOUND}\n  access-control: 0.0.0.0/0 allow\n  chroot: \"\"\n  username: \"\"\n  \
         pidfile: \"\"\n  directory: \"{}\"\n  use-syslog: no\n  do-daemonize: no\n  local-zone: \"cluster.local.\" static\n",
        near.address,
        near.directory().display()
    );
    for n in 0..NAMES {
        config += &format!("  local-data: \"{}. 30 IN A {}\"\n", name(n), name_address(n));
    }
    fs::write(&at, config).context(at.display())?;
    Ok((near.spawn("unbound", &["unbound", "-d", "-c", &at.to_string_lossy()])?, "unbound", UNBOUND))
}
