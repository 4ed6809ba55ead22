//! `dns NAME`: what a pod on this node would be told, by the same search list.
//!
//! Cluster names are asked of the engine itself, so the answer is right even when nothing listens on port 53; names
//! outside go through the listening socket to the node's upstreams, as a pod's do.

use super::{Admin, Failure, Report, stopping};
use crate::agent::data::Data;
use crate::clock;
use edgemesh_core::dns::{Transport, Verdict};
use edgemesh_core::wire::dns::{
    CLASS_IN, HEADER_LEN, Header, MAX_NAME, MAX_TCP, RecordType, Records, expand, write_text,
};
use serde::{Deserialize, Serialize};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;
use tokio::net::UdpSocket;
use tokio::time::timeout;

const TYPES: [RecordType; 3] = [RecordType::A, RecordType::AAAA, RecordType::SRV];
/// Names with fewer dots are tried with the search list first (`ndots` of a pod's resolv.conf).
const NDOTS: usize = 5;
const UPSTREAM_PATIENCE: Duration = Duration::from_secs(5);
const RECURSION_DESIRED: u8 = 1;

/// The answer to `dns`.
#[derive(Serialize, Deserialize, Debug)]
#[serde(rename_all = "camelCase")]
pub struct DnsReport {
    /// The name as it was given.
    pub name: String,
    /// The name that the answer is about, completed by the search list.
    pub asked: String,
    /// `cluster` when this node's table answers, `upstream` when another server does.
    pub from: String,
    /// `NOERROR`, `NXDOMAIN` and so on.
    pub rcode: String,
    /// The records of A, AAAA and SRV queries.
    pub answers: Vec<Answer>,
    /// Names that were tried before.
    pub tried: Vec<String>,
}

/// A resource record.
#[derive(Serialize, Deserialize, Debug, PartialEq, Eq)]
pub struct Answer {
    /// Its owner.
    pub name: String,
    /// Seconds that it may be kept.
    pub ttl: u32,
    /// Its type.
    pub r#type: String,
    /// Its data in words.
    pub data: String,
}

impl Report for DnsReport {
    fn lines(&self) -> Vec<String> {
        let record = |a: &Answer| format!("{} {} {} {}", a.name, a.ttl, a.r#type, a.data);
        let mut lines: Vec<_> = self.answers.iter().map(record).collect();
        if lines.is_empty() && self.failure().is_none() {
            lines.push(format!("{}: the name exists, without A, AAAA or SRV records", self.asked));
        }
        let source = if self.from == "cluster" { "this node's Services" } else { "the upstream DNS servers" };
        lines.push(format!("answered by {source}: {}", self.rcode));
        lines
    }

    fn failure(&self) -> Option<String> {
        match self.rcode.as_str() {
            "NOERROR" => None,
            "NXDOMAIN" => {
                let names: Vec<_> = self.tried.iter().chain([&self.asked]).map(String::as_str).collect();
                Some(format!("no such name; tried {}", names.join(", ")))
            }
            rcode => Some(format!("{}: {rcode}", self.asked)),
        }
    }
}

impl Admin {
    pub(super) async fn dns(&self, name: &str) -> Result<DnsReport, Failure> {
        let mut tried = Vec::new();
        let mut last = None;
        for asked in search(name, &self.shared.domain) {
            let (from, rcode, answers) = self.ask_all(&asked).await?;
            let found = rcode != "NXDOMAIN";
            let report = DnsReport {
                name: name.to_owned(),
                asked: asked.clone(),
                from: from.to_owned(),
                rcode,
                answers,
                tried: tried.clone(),
            };
            if found {
                return Ok(report);
            }
            tried.push(asked);
            last = Some(report);
        }
        last.ok_or_else(|| Failure(400, format!("{name:?} is no domain name")))
    }

    /// Asks for every type: who answers, how, and with what.
    async fn ask_all(&self, name: &str) -> Result<(&'static str, String, Vec<Answer>), Failure> {
        let (mut from, mut rcode, mut answers) = ("cluster", String::new(), Vec::<Answer>::new());
        for rtype in TYPES {
            let query =
                query(name, rtype).ok_or_else(|| Failure(400, format!("{name:?} is no domain name")))?;
            let reply = self.handle.query(Transport::Tcp, query.clone()).await.ok_or_else(stopping)?;
            let message = match reply.verdict {
                Verdict::Answer { .. } | Verdict::Chase { .. } => reply.answer,
                Verdict::Wait(_) => return Err(Failure(503, nobody_says(&format!("the name {name}")))),
                Verdict::Forward | Verdict::Drop(_) => {
                    from = "upstream";
                    self.upstream(&query).await.map_err(|error| {
                        Failure(
                            504,
                            format!(
                                "{name} is outside the cluster domain; the upstream DNS servers: {error}"
                            ),
                        )
                    })?
                }
            };
            rcode = self::rcode(&message);
            answers.extend(parse(&message).into_iter().filter(|a| !answers.contains(a)).collect::<Vec<_>>());
            if rcode != "NOERROR" {
                break;
            }
        }
        Ok((from, rcode, answers))
    }

    /// Asks as a pod does: at the responder's socket.
    async fn upstream(&self, query: &[u8]) -> std::io::Result<Vec<u8>> {
        let any: IpAddr = if self.shared.dns.is_ipv4() {
            Ipv4Addr::UNSPECIFIED.into()
        } else {
            Ipv6Addr::UNSPECIFIED.into()
        };
        let socket = UdpSocket::bind((any, 0)).await?;
        socket.connect(SocketAddr::new(self.shared.dns, 53)).await?;
        socket.send(query).await?;
        let mut answer = vec![0; 4_096];
        let len = timeout(UPSTREAM_PATIENCE, socket.recv(&mut answer)).await??;
        answer.truncate(len);
        Ok(answer)
    }
}

/// What of this agent with the feed on demand could not be found out.
pub(super) fn nobody_says(what: &str) -> String {
    format!(
        "{what} is none that this node uses (--feed on-demand), and no server says whether it exists: run \
         `edgemesh-agent netcheck`"
    )
}

/// Has the server asked about the name, if that is what its answer takes; whether it is.
pub(in crate::agent) fn is_asked(data: &mut Data, name: &str) -> bool {
    let Some(query) = query(name, RecordType::A) else { return false };
    let mut out = vec![0; MAX_TCP];
    matches!(data.engine.query(clock::now(), Transport::Tcp, &query, &mut out), Verdict::Wait(_))
}

/// What the engine answers; `None` for a name of others.
fn ask(data: &mut Data, query: &[u8]) -> Option<Vec<u8>> {
    let mut out = vec![0; MAX_TCP];
    match data.engine.query(clock::now(), Transport::Tcp, query, &mut out) {
        Verdict::Answer { len, .. } | Verdict::Chase { len } => {
            out.truncate(len);
            Some(out)
        }
        // On demand it has been asked for now.
        Verdict::Forward | Verdict::Drop(_) | Verdict::Wait(_) => None,
    }
}

/// Addresses that the engine gives for a name of the cluster.
pub(in crate::agent) fn addresses(data: &mut Data, name: &str) -> Vec<String> {
    let types = [RecordType::A, RecordType::AAAA];
    let messages = types.iter().filter_map(|rtype| ask(data, &query(name, *rtype)?));
    messages.flat_map(|message| parse(&message)).map(|answer| answer.data).collect()
}

/// The names that a pod in the default namespace tries, in order.
fn search(name: &str, domain: &str) -> Vec<String> {
    if let Some(absolute) = name.strip_suffix('.') {
        return vec![absolute.to_owned()];
    }
    let mut names: Vec<_> = [&format!("default.svc.{domain}"), &format!("svc.{domain}"), domain]
        .iter()
        .map(|suffix| format!("{name}.{suffix}"))
        .collect();
    let place = if name.matches('.').count() < NDOTS { names.len() } else { 0 };
    names.insert(place, name.to_owned());
    names
}

/// The name that leads from an address to its names.
pub(super) fn reverse(address: IpAddr) -> String {
    match address {
        IpAddr::V4(v4) => {
            let [a, b, c, d] = v4.octets();
            format!("{d}.{c}.{b}.{a}.in-addr.arpa.")
        }
        IpAddr::V6(v6) => {
            let nibbles =
                v6.octets().into_iter().rev().map(|byte| format!("{:x}.{:x}.", byte & 15, byte >> 4));
            nibbles.collect::<String>() + "ip6.arpa."
        }
    }
}

pub(super) fn query(name: &str, rtype: RecordType) -> Option<Vec<u8>> {
    let mut wire = [0; MAX_NAME];
    let len = write_text(name.as_bytes(), &mut wire).ok()?;
    let mut query = vec![0; HEADER_LEN];
    getrandom::fill(&mut query[..2]).ok()?;
    query[2] = RECURSION_DESIRED;
    query[5] = 1; // one question
    query.extend_from_slice(&wire[..len]);
    query.extend_from_slice(&rtype.0.to_be_bytes());
    query.extend_from_slice(&CLASS_IN.to_be_bytes());
    Some(query)
}

fn rcode(message: &[u8]) -> String {
    match Header::parse(message).map(|header| header.rcode()) {
        Ok(0) => "NOERROR".into(),
        Ok(2) => "SERVFAIL".into(),
        Ok(3) => "NXDOMAIN".into(),
        Ok(5) => "REFUSED".into(),
        Ok(other) => format!("RCODE{other}"),
        Err(_) => "unreadable answer".into(),
    }
}

/// The records of the answer section.
fn parse(message: &[u8]) -> Vec<Answer> {
    let Ok(records) = Records::new(message) else { return Vec::new() };
    let count = Header::parse(message).map_or(0, |header| header.counts[1]);
    let records = records.take(count.into()).map_while(Result::ok);
    let answer = |record: edgemesh_core::wire::dns::Record| {
        let data = &message[record.data..record.end];
        let (kind, text) = match record.rtype {
            RecordType::A => ("A", IpAddr::from(<[u8; 4]>::try_from(data).ok()?).to_string()),
            RecordType::AAAA => ("AAAA", IpAddr::from(<[u8; 16]>::try_from(data).ok()?).to_string()),
            RecordType::CNAME => ("CNAME", text(message, record.data)?),
            RecordType::SRV => {
                let number = |at: usize| Some(u16::from_be_bytes(*data.get(at..)?.first_chunk()?));
                let target = text(message, record.data + 6)?;
                ("SRV", format!("{} {} {} {target}", number(0)?, number(2)?, number(4)?))
            }
            _ => return None,
        };
        Some(Answer {
            name: self::text(message, record.at)?,
            ttl: record.ttl,
            r#type: kind.into(),
            data: text,
        })
    };
    records.filter_map(answer).collect()
}

/// The name at `at` with its final dot.
fn text(message: &[u8], at: usize) -> Option<String> {
    let mut wire = [0; MAX_NAME];
    expand(message, at, &mut wire).ok()?;
    let (mut out, mut at) = (String::new(), 0);
    while let Some(len) = wire.get(at).copied().filter(|len| *len != 0) {
        let label = wire.get(at + 1..at + 1 + usize::from(len))?;
        out.push_str(&String::from_utf8_lossy(label));
        out.push('.');
        at += 1 + usize::from(len);
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_completed_as_in_a_pod() {
        let names = search("park", "c.local");
        assert_eq!(names, ["park.default.svc.c.local", "park.svc.c.local", "park.c.local", "park"]);
        assert_eq!(search("park.", "c.local"), ["park"]);
        assert_eq!(search("a.b.c.d.e.f", "c.local")[0], "a.b.c.d.e.f");
        assert_eq!(reverse([10, 96, 0, 1].into()), "1.0.96.10.in-addr.arpa.");
        let v6 = reverse("fd00::12".parse().unwrap());
        assert!(v6.starts_with("2.1.0.0.") && v6.ends_with(".0.0.d.f.ip6.arpa."), "{v6}");
    }

    #[test]
    fn records_are_read_with_their_compressed_names() {
        let mut message = query("a.b", RecordType::SRV).unwrap();
        message[2] |= 0x80;
        message[7] = 1; // one answer
        message.extend_from_slice(&[
            0xC0, 12, 0, 33, 0, 1, 0, 0, 0, 30, 0, 10, 0, 0, 0, 100, 0, 80, 1, b'x', 0xC0, 14,
        ]);
        let answer =
            Answer { name: "a.b.".into(), ttl: 30, r#type: "SRV".into(), data: "0 100 80 x.b.".into() };
        assert_eq!(parse(&message), [answer]);
        assert_eq!(rcode(&message), "NOERROR");
        message.truncate(message.len() - 1);
        assert_eq!(parse(&message), []);
        assert_eq!(query("a..b", RecordType::A), None);
    }
}
