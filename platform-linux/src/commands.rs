//! The commands that ask a running agent, and `cleanup`, which needs none.
//!
//! Each prints a table for people, or with `--json` what the admin endpoint said, unchanged.

use crate::agent::admin::{
    DnsReport, Explanation, Netcheck, PeerEntry, Ping, ROTATE_PATH, Report, ServiceEntry, Status,
};
use crate::agent::kept;
use crate::cli::{self, Command};
use crate::interception;
use crate::tun::DEFAULT_NAME;
use edgemesh_host::admin;
use serde::de::DeserializeOwned;

/// Carries a command out.
///
/// # Errors
/// The text for the user.
pub fn execute(command: Command) -> Result<(), String> {
    match command {
        Command::Status(query) => show(&query, "/status", status),
        Command::Peers(query) => show(&query, "/peers", peers),
        Command::Services(query) => show(&query, "/services", services),
        Command::Netcheck(query) => report::<Netcheck>(&query, "/netcheck"),
        Command::Ping(named) => {
            report::<Ping>(&named.query, &format!("/ping?node={}", admin::encode(&named.name)))
        }
        Command::Explain(named) => {
            report::<Explanation>(&named.query, &format!("/explain?name={}", admin::encode(&named.name)))
        }
        Command::Dns(named) => {
            report::<DnsReport>(&named.query, &format!("/dns?name={}", admin::encode(&named.name)))
        }
        Command::RotateKey(admin) => rotate_key(&admin),
        Command::Cleanup(cleanup) => self::cleanup(&cleanup),
        Command::Run(_) => Ok(()),
    }
}

fn ask(query: &cli::Query, path: &str) -> Result<Vec<u8>, String> {
    admin::get(&query.admin, path).map_err(|error| error.to_string())
}

fn show<T: DeserializeOwned>(query: &cli::Query, path: &str, print: fn(T)) -> Result<(), String> {
    let body = ask(query, path)?;
    if query.json {
        println!("{}", String::from_utf8_lossy(&body).trim_end());
        return Ok(());
    }
    let value = serde_json::from_slice(&body).map_err(|error| format!("the agent's answer: {error}"))?;
    print(value);
    Ok(())
}

/// Answers that may say at length that something does not work: then the command fails all the same.
fn report<T: DeserializeOwned + Report>(query: &cli::Query, path: &str) -> Result<(), String> {
    let body = ask(query, path)?;
    let answer: T = serde_json::from_slice(&body).map_err(|error| format!("the agent's answer: {error}"))?;
    if query.json {
        println!("{}", String::from_utf8_lossy(&body).trim_end());
    } else {
        answer.lines().iter().for_each(|line| println!("{line}"));
    }
    answer.failure().map_or(Ok(()), Err)
}

fn status(status: Status) {
    println!("node       {}", status.node);
    println!("version    {}", status.version);
    println!("key        {}", status.key);
    match status.reason {
        None => println!("ready      yes"),
        Some(reason) => println!("ready      no: {reason}"),
    }
    let age = status.age_secs.map_or_else(|| "never heard".to_owned(), |secs| format!("{secs} s old"));
    println!("source     {} ({age}{})", status.source, if status.stale { ", stale" } else { "" });
    let state = if status.connected { "connected" } else { "not connected" };
    println!("servers    {} ({state})", status.servers.join(", "));
    if let Some(why) = status.disbelieved {
        println!("warning    the server said what is not believed: {why}");
    }
    if let Some(entry) = status.entry_points {
        let addresses: Vec<String> = entry.addresses.iter().map(ToString::to_string).collect();
        println!("entries    {}; NodePorts on {}", entry.count, addresses.join(", "));
    }
    for touched in status.touched {
        println!("touched    {touched}");
    }
    for (name, value) in status.counters {
        println!("counter    {name} {value}");
    }
}

fn peers(peers: Vec<PeerEntry>) {
    println!(
        "{:<24} {:<10} {:<28} {:>9} {:>6} {:>12} {:>12}",
        "NODE", "PATH", "REMOTE", "RTT", "MTU", "SENT", "RECEIVED"
    );
    for peer in peers {
        let rtt = peer.rtt_ms.map_or_else(|| "-".to_owned(), |ms| format!("{ms:.1} ms"));
        println!(
            "{:<24} {:<10} {:<28} {:>9} {:>6} {:>12} {:>12}",
            peer.node,
            peer.path,
            peer.remote.as_deref().unwrap_or("-"),
            rtt,
            peer.mtu,
            peer.tx_bytes,
            peer.rx_bytes
        );
    }
}

fn services(services: Vec<ServiceEntry>) {
    let unnamed = services.iter().flat_map(|s| &s.endpoints).any(|e| e.node.starts_with('#'));
    for service in services {
        println!(
            "{}/{}  {}  {}",
            service.namespace,
            service.name,
            service.vips.join(" "),
            service.ports.join(" ")
        );
        for endpoint in service.endpoints {
            let ready = match (endpoint.ready, endpoint.down, endpoint.held) {
                (false, ..) => "not ready",
                (_, true, _) => "ready, but its node says that it does not answer",
                (_, _, true) => "ready when its Node was last heard",
                _ => "ready",
            };
            println!(
                "    {}:{} {} on {}, {ready}",
                endpoint.ip, endpoint.port, endpoint.proto, endpoint.node
            );
        }
    }
    if unnamed {
        println!(
            "#N is the directory's number of a node that this one has not looked up: its name comes with the first \
             packet to it, or with `edgemesh-agent explain`"
        );
    }
}

fn rotate_key(settings: &cli::RotateKey) -> Result<(), String> {
    let body = admin::post(&settings.admin, ROTATE_PATH, &[]).map_err(|error| error.to_string())?;
    println!("{}", String::from_utf8_lossy(&body).trim_end());
    Ok(())
}

fn cleanup(settings: &cli::Cleanup) -> Result<(), String> {
    let mut cleaned =
        interception::cleanup(&settings.state_dir, DEFAULT_NAME).map_err(|error| error.to_string())?;
    match kept::remove(&settings.state_dir) {
        Ok(true) => cleaned.done.push("the flow table kept in memory".into()),
        Ok(false) => {}
        Err(error) => cleaned.failed.push(error.to_string()),
    }
    if settings.json {
        println!("{}", serde_json::json!({ "done": cleaned.done, "failed": cleaned.failed }));
    } else {
        cleaned.done.iter().for_each(|what| println!("removed {what}"));
        cleaned.failed.iter().for_each(|what| println!("could not remove {what}"));
    }
    if cleaned.failed.is_empty() { Ok(()) } else { Err("something could not be removed".into()) }
}
