//! How the programs do with many Services, many changes and many nodes: real programs, real packets, the test API
//! server, in a private world as the lab's.
//!
//! `edgemesh-scale sample` is small and holds sizes and counts to account;
//! `edgemesh-scale full` measures what `docs/scale.md` tells: 10,000 Services, 50,000 endpoints, 1,000 nodes. Times
//! are told, and held to account by `full` only: `sample` runs on machines that do other things.
//!
//! Not here: throughput of packets (a benchmark's), behaviour (the lab's).

mod clients;
mod cluster;
mod probe;
mod program;

use clap::{Parser, ValueEnum};
use clients::Clients;
use cluster::Size;
use edgemesh_lab::sandbox::{self, Place};
use edgemesh_lab::wait::{secs, wait_until};
use edgemesh_lab::{Context, Error, Result, ensure, fail};
use edgemesh_testapi::{ApiServer, Options, Request, Resource, Verb};
use probe::{Probe, percentile};
use program::Program;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};
use tokio::runtime::Runtime;

/// The address that everything is at.
const HERE: IpAddr = IpAddr::V4(Ipv4Addr::new(198, 18, 0, 1));
const SERVER: SocketAddr = SocketAddr::new(HERE, 20_004);

/// What Services, changes and nodes in numbers cost the real programs.
#[derive(Parser, Debug)]
struct Cli {
    /// How much of everything.
    scale: Scale,
    /// What is measured; everything unless given.
    parts: Vec<Part>,
}

#[derive(ValueEnum, Clone, Copy, Debug)]
enum Scale {
    /// Small and quick; sizes and counts are held to account.
    Sample,
    /// As large as a large cluster; times are held to account, too.
    Full,
}

#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
enum Part {
    /// An agent that reads the Kubernetes API.
    Kubernetes,
    /// An agent that is fed by the server.
    Server,
    /// Many nodes on one server.
    Nodes,
}

const PARTS: [Part; 3] = [Part::Kubernetes, Part::Server, Part::Nodes];

/// How much of everything.
#[derive(Clone, Copy)]
struct Plan {
    size: Size,
    clients: usize,
    /// Single changes that are timed.
    changes: u32,
    /// How long 100 changes a second go on.
    churn: Duration,
    /// How long the clients are left alone.
    idle: Duration,
    timed: bool,
}

impl Scale {
    fn plan(self) -> Plan {
        match self {
            Self::Sample => Plan {
                size: Size { services: 1_000, endpoints: 5, namespaces: 100, nodes: 50 },
                clients: 50,
                changes: 10,
                churn: secs(5),
                idle: secs(20),
                timed: false,
            },
            Self::Full => Plan {
                size: Size { services: 10_000, endpoints: 5, namespaces: 500, nodes: 500 },
                clients: 1_000,
                changes: 100,
                churn: secs(60),
                idle: secs(60),
                timed: true,
            },
        }
    }
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let parts: &[Part] = if cli.parts.is_empty() { &PARTS } else { &cli.parts };
    let arguments: Vec<_> = std::env::args_os().skip(1).collect();
    let result = sandbox::enter(&arguments).and_then(|place| match place {
        Place::Left(code) => Ok(ExitCode::from(code)),
        Place::Inside(directory) => run(cli.scale.plan(), parts, &directory).map(|()| ExitCode::SUCCESS),
    });
    result.unwrap_or_else(|error| {
        eprintln!("edgemesh-scale: {error}");
        ExitCode::FAILURE
    })
}

fn run(plan: Plan, parts: &[Part], directory: &Path) -> Result {
    for command in ["ip link set lo up", "ip addr add 198.18.0.1/32 dev lo"] {
        let words: Vec<&str> = command.split(' ').collect();
        let done = Command::new(words[0]).args(&words[1..]).status().context(command)?;
        ensure!(done.success(), "{command}: {done}");
    }
    let runtime = Runtime::new().context("runtime")?;
    let mut api = runtime
        .block_on(ApiServer::start(Options { listen: SocketAddr::new(HERE, 6_443), ..Options::default() }))
        .context("API server")?;
    let Size { services, endpoints, namespaces, nodes } = plan.size;
    cluster::fill(&api, plan.size, HERE);
    println!(
        "{services} Services, {} endpoints, {namespaces} namespaces, {nodes} nodes",
        services * endpoints
    );

    let state = directory.join("server");
    let began = Instant::now();
    let server = start_server(directory, &api)?;
    server.until("the server has the Services", |status| status["services"] == services + 1)?;
    println!("server: cold start {}, {}", millis(began.elapsed()), memory(&server)?);

    let token = clients::token_text(&state, cluster::NODE)?;
    for part in parts {
        match part {
            Part::Kubernetes => agent(plan, "kubernetes", &token, directory, &mut api, &runtime)?,
            Part::Server => agent(plan, "server", &token, directory, &mut api, &runtime)?,
            Part::Nodes => many(plan, &api, &server, &state, &runtime)?,
        }
    }
    Ok(())
}

fn start_server(directory: &Path, api: &ApiServer) -> Result<Program> {
    let (state, url, listen) = (directory.join("server"), api.url(), SERVER.to_string());
    let state = state.to_string_lossy();
    let arguments = [
        "--listen",
        &listen,
        "--advertise",
        &listen,
        "--state-dir",
        &state,
        "--kubernetes",
        "--api-server",
        &url,
    ];
    Program::start("edgemesh-server", &arguments, directory)
}

/// One agent: cold start, memory, single changes, a list again, many changes, the API server away.
fn agent(
    plan: Plan,
    source: &str,
    token: &str,
    directory: &Path,
    api: &mut ApiServer,
    runtime: &Runtime,
) -> Result {
    println!("agent, --source {source}");
    let (state, url) = (directory.join("agent"), api.url());
    // It is the same node with either source, and begins without Services.
    let _ = std::fs::remove_file(state.join("services"));
    let state = state.to_string_lossy().into_owned();
    let dns = HERE.to_string();
    let mut arguments =
        vec!["--node", cluster::NODE, "--state-dir", &state, "--source", source, "--upstream-dns", &dns];
    arguments.extend(["--join", token]);
    if source == "kubernetes" {
        arguments.extend(["--api-server", &url]);
    }
    let mut probe = Probe::new(HERE)?;
    let start = |what: &str, probe: &mut Probe, api: &ApiServer| -> Result<(Program, Duration)> {
        let began = Instant::now();
        let agent = Program::start("edgemesh-agent", &arguments, directory)?;
        probe.change(api)?;
        let took = began.elapsed();
        println!("  {what}: first packet arrives after {}", millis(took));
        Ok((agent, took))
    };
    let (agent, cold) = start("cold start", &mut probe, api)?;
    agent.until("the agent has the Services", |status| {
        status["counters"]["services"] == plan.size.services + 1
    })?;
    settle(&agent)?;
    println!("  {}", memory(&agent)?);

    let mut single = changes(plan, &mut probe, api)?;
    let (p50, p99) = (percentile(&mut single, 50), percentile(&mut single, 99));
    println!("  one change to effect: p50 {}, p99 {} ({} changes)", millis(p50), millis(p99), single.len());

    let growth = relist(&agent, api, runtime, source == "kubernetes")?;
    let mut churned = churn(plan, &agent, &mut probe, api)?;
    let churn99 = percentile(&mut churned, 99);
    let after = away(&agent, &mut probe, api, runtime)?;
    let (resident, _) = agent.memory()?;
    println!("  at the end: {}", memory(&agent)?);
    drop(agent);
    let (again, warm) = start("start again, with what it kept", &mut probe, api)?;
    drop(again);

    let services = u64::from(plan.size.services);
    // 8 or 16 MB for itself, and the marginal cost of Services and endpoints.
    let room = (16 << 20) + services * (1_200 + u64::from(plan.size.endpoints) * 200);
    let limit = if plan.timed { 60 << 20 } else { room.max(24 << 20) };
    ensure!(
        resident <= limit,
        "the agent has {} MB resident, {} MB is the limit",
        resident >> 20,
        limit >> 20
    );
    ensure!(growth <= 1.3, "a list made {growth:.2} of the agent's memory, 1.3 is the limit");
    if plan.timed {
        for (what, took, limit) in [
            ("cold start", cold, 3_000),
            ("start again", warm, 3_000),
            ("one change, p99", p99, if source == "server" { 2_000 } else { 200 }),
            ("a change among 100 a second, p99", churn99, 2_000),
            ("a change after the API server was away", after, 30_000),
        ] {
            ensure!(
                took <= Duration::from_millis(limit),
                "{what}: {}, {limit} ms is the limit",
                millis(took)
            );
        }
    }
    Ok(())
}

/// Changes with a pause of random length behind each, so that none rides on another's window.
fn changes(plan: Plan, probe: &mut Probe, api: &ApiServer) -> Result<Vec<Duration>> {
    let mut all = Vec::new();
    for n in 0..plan.changes {
        all.push(probe.change(api)?);
        std::thread::sleep(Duration::from_millis(100 + u64::from(n * 37 % 100)));
    }
    Ok(all)
}

/// The API server has forgotten the past: everybody lists again. How much the agent's memory grows meanwhile.
fn relist(agent: &Program, api: &ApiServer, runtime: &Runtime, from_api: bool) -> Result<f64> {
    settle(agent)?;
    agent.forget_peak()?;
    let (before, _) = agent.memory()?;
    // The server lists, too.
    let followers = if from_api { 2 } else { 1 };
    let lists = |requests: &[Request]| {
        let of_slices =
            requests.iter().filter(|r| r.resource == Resource::EndpointSlices && r.verb == Verb::List);
        of_slices.filter(|r| r.parameter("continue").is_empty()).count()
    };
    let enough = lists(&api.requests()) + followers;
    api.compact();
    api.cut();
    runtime.block_on(api.requested(|requests| lists(requests) >= enough));
    settle(agent)?;
    let (after, peak) = agent.memory()?;
    let growth = peak as f64 / before as f64;
    println!(
        "  everything listed again: {} MB before, peak {} MB ({growth:.2}), {} MB after",
        mb(before),
        mb(peak),
        mb(after)
    );
    Ok(growth)
}

/// 100 changes a second, and one that is timed each second.
fn churn(plan: Plan, agent: &Program, probe: &mut Probe, api: &ApiServer) -> Result<Vec<Duration>> {
    let (began, cpu) = (Instant::now(), agent.cpu()?);
    let mut timed = Vec::new();
    let changed = std::thread::scope(|scope| -> Result<u32> {
        let changing = scope.spawn(|| {
            let mut version = 1;
            while began.elapsed() < plan.churn {
                let due = began.elapsed().as_millis() as u32 / 10;
                while version < due {
                    cluster::change(api, version.wrapping_mul(2_654_435_761), version, plan.size);
                    version += 1;
                }
                std::thread::sleep(Duration::from_millis(5));
            }
            version
        });
        while began.elapsed() + secs(1) < plan.churn {
            timed.push(probe.change(api)?);
            std::thread::sleep(secs(1));
        }
        changing.join().map_err(|_| Error::new("the changing thread panicked"))
    })?;
    let last = probe.change(api)?;
    let cpu = agent.cpu()?.saturating_sub(cpu).as_secs_f64() / began.elapsed().as_secs_f64();
    let (p50, p99) = (percentile(&mut timed, 50), percentile(&mut timed, 99));
    println!(
        "  {changed} changes in {} s: a change among them p50 {}, p99 {}; the first after them {}; {:.0} % of a core",
        plan.churn.as_secs(),
        millis(p50),
        millis(p99),
        millis(last),
        cpu * 100.0
    );
    Ok(timed)
}

/// The API server goes, packets keep arriving, it comes back: how long until what changed meanwhile has its effect.
fn away(agent: &Program, probe: &mut Probe, api: &mut ApiServer, runtime: &Runtime) -> Result<Duration> {
    let endpoints = |agent: &Program| -> Result<_> {
        let counters = &agent.status()?["counters"];
        Ok((counters["services"].clone(), counters["endpoints"].clone()))
    };
    let before = endpoints(agent)?;
    runtime.block_on(api.stop());
    for _ in 0..5 {
        probe.wait(Instant::now())?;
        std::thread::sleep(Duration::from_millis(500));
    }
    ensure!(endpoints(agent)? == before, "the table changed while the API server was away");
    runtime.block_on(api.resume()).context("API server")?;
    let took = probe.change(api)?;
    println!("  API server gone for 2.5 s and back: the first change after {}", millis(took));
    Ok(took)
}

/// Many control connections.
fn many(plan: Plan, api: &ApiServer, server: &Program, state: &Path, runtime: &Runtime) -> Result {
    println!("{} nodes on one server", plan.clients);
    let (mut clients, took) = runtime.block_on(Clients::connect(plan.clients, SERVER, state))?;
    println!("  all have joined and have the table after {}; server: {}", millis(took), memory(server)?);
    let mut newest = runtime.block_on(clients.settled());
    let mut all = Vec::new();
    for n in 0..plan.changes.min(30) {
        let began = Instant::now();
        cluster::change(api, n * 331, 1 + n, plan.size);
        let (moments, sequence) = runtime.block_on(clients.all(newest))?;
        newest = sequence;
        all.extend(moments.into_iter().map(|at| at.saturating_duration_since(began)));
        std::thread::sleep(Duration::from_millis(300));
    }
    let (p50, p99, most) = (percentile(&mut all, 50), percentile(&mut all, 99), percentile(&mut all, 100));
    println!("  one change to all: p50 {}, p99 {}, last {}", millis(p50), millis(p99), millis(most));

    let (wire, frames, cpu) = (loopback()?, clients.bytes(), server.cpu()?);
    std::thread::sleep(plan.idle);
    let each = |bytes: u64| bytes as f64 * 60.0 / plan.idle.as_secs_f64() / plan.clients as f64;
    let (wire, frames) = (each(loopback()? - wire), each(clients.bytes() - frames));
    let cpu = server.cpu()?.saturating_sub(cpu).as_secs_f64() / plan.idle.as_secs_f64();
    println!(
        "  idle: {frames:.0} bytes of frames, {wire:.0} bytes with TCP and IP a minute and node, both ways; {:.1} % of a core",
        cpu * 100.0
    );
    ensure!(wire <= 1_024.0, "an idle node costs {wire:.0} bytes a minute, 1024 is the limit");
    if plan.timed {
        ensure!(p99 <= secs(2), "one change to all, p99: {}, 2 s is the limit", millis(p99));
    }
    Ok(())
}

/// Bytes that the loopback device has sent, without its Ethernet headers.
fn loopback() -> Result<u64> {
    let text = std::fs::read_to_string("/proc/net/dev").context("counters of devices")?;
    let line = text.lines().find_map(|line| line.trim().strip_prefix("lo:")).context("lo")?;
    let fields: Vec<u64> = line.split_whitespace().filter_map(|field| field.parse().ok()).collect();
    match fields.as_slice() {
        [bytes, packets, ..] => Ok(bytes.saturating_sub(packets * 14)),
        _ => fail("counters of lo"),
    }
}

/// Waits until a program has done its work: no processor time for a second.
fn settle(program: &Program) -> Result {
    wait_until("the program rests", secs(60), || {
        let before = program.cpu()?;
        std::thread::sleep(secs(1));
        let used = program.cpu()?.saturating_sub(before);
        ensure!(used <= Duration::from_millis(30), "{used:?} of processor time in a second");
        Ok(())
    })
}

fn memory(program: &Program) -> Result<String> {
    let (resident, peak) = program.memory()?;
    Ok(format!("{} MB resident, {} MB at most so far", mb(resident), mb(peak)))
}

fn mb(bytes: u64) -> String {
    format!("{:.1}", bytes as f64 / f64::from(1 << 20))
}

fn millis(span: Duration) -> String {
    format!("{:.1} ms", span.as_secs_f64() * 1_000.0)
}
