//! What the kernel is to do for the Services and entry points as they are now: the VIPs that are routed or translated,
//! whose they are, and what the keeper of routes and rules reports of it.

use super::Join;
use super::taking::{self, Mode, Vip};
use crate::agent::admin::dns;
use crate::agent::claims::{self, Owners};
use crate::agent::data::Data;
use crate::agent::domain::Heard;
use crate::agent::entry::{Answer, Entry};
use crate::agent::status::{EntryPoints, domain};
use crate::cli::{Feed, Source};
use crate::clock;
use crate::interception::entry::Entries;
use crate::interception::{Report, Wanted};
use crate::prefix::Prefix;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::time::Duration;
use tokio::time::Instant;

/// How often it is looked whether a connection still needs a route.
const LINGER_LOOK: Duration = Duration::from_secs(5);
/// Services with entry points that the server is asked about at one time.
const QUESTIONS: usize = 16;

impl Join {
    /// What the kernel is to do for the Services as they are now.
    pub(super) async fn wanted(&mut self) -> Wanted {
        let (mode, question) = (self.mode(), self.entry.as_ref().map(Entry::question));
        let on_demand = (self.settings.feed == Feed::OnDemand).then(|| domain(&self.membership).to_owned());
        let every = self.handle.inspect(move |data| {
            let (services, own) = (data.engine.services(), data.engine.own_index());
            let exits = services.services().flat_map(|s| s.endpoints());
            let exits = exits.filter(|e| taking::leaves_here(e, own)).map(|e| e.address());
            let answer = question.map(|question| question(services, own));
            let answering = services.services().flat_map(|service| taking::answering(service, own));
            let answering: BTreeSet<_> = answering.collect();
            let exits: BTreeSet<_> = exits.collect();
            let vips = taking::vips(&data.engine, mode);
            if let (Some(domain), Some(answer)) = (on_demand, &answer) {
                ask_about(data, &answer.unknown, &domain);
            }
            (vips, exits, answering, answer)
        });
        let (vips, exits, mut answering, answer) = every.await.unwrap_or_default();
        let reserved = claims::reserved(&self.settings, &self.membership.servers).unwrap_or_else(|error| {
            self.claims.warn_once(format!("cannot list this node's addresses: {error}"));
            HashMap::new()
        });
        let mut entries = self.entries(answer.unwrap_or_default(), &vips, &reserved).await;
        let doors: BTreeMap<IpAddr, IpAddr> = vips.iter().filter_map(Vip::door).collect();
        let taken = self.taken(vips, &reserved);
        self.status.intercepting(mode.name(), self.beside.map(|proxy| proxy.to_string()), taken.len());
        let (routed, shadowed) = match mode {
            Mode::Route => (routes(&self.settings.service_cidr, &taken), BTreeMap::new()),
            Mode::Shadow => (Vec::new(), self.shadowed(&taken)),
        };
        if mode == Mode::Shadow {
            entries.retain(|vip| shadowed.contains_key(vip) || doors.contains_key(vip));
        }
        entries.lead(&shadowed.iter().chain(&doors).collect());
        if let Some(entry) = &self.entry {
            let (addresses, count) = (entry.addresses(), entries.ways.len());
            self.status.entered(EntryPoints { addresses, count });
        }
        if self.lingering.replace(&routed) {
            self.linger_due.get_or_insert_with(Instant::now);
        }
        let mut handed: BTreeMap<_, BTreeSet<_>> = BTreeMap::new();
        for (at, endpoint) in taken.into_iter().flat_map(|vip| vip.handed) {
            handed.entry(at).or_default().insert(endpoint);
        }
        let exits = exits.into_iter().collect();
        // Pods answer from addresses of their own.
        answering.retain(|endpoint| reserved.contains_key(&endpoint.ip()));
        Wanted {
            number: self.answers,
            routed: self.lingering.all(),
            shadowed,
            exits,
            answering,
            handed,
            entries,
        }
    }

    /// How VIPs come to the device.
    pub(super) fn mode(&self) -> Mode {
        Mode::new(self.settings.interception, self.beside)
    }

    /// The entry points that this node serves.
    async fn entries(&mut self, answer: Answer, vips: &[Vip], reserved: &Owners) -> Entries {
        let Some(entry) = &mut self.entry else { return Entries::default() };
        let (entries, problems) = entry.rules(&answer, vips.iter().map(|vip| vip.address), reserved);
        for problem in problems.into_iter().chain(entry.serve_checks().await) {
            self.claims.warn_once(problem);
        }
        entries
    }

    /// Asks a new connection's server for the entry points, where they come from it.
    pub(super) async fn ask_entries(&mut self) {
        let Some(entry) = self.entry.as_mut().filter(|_| self.settings.source == Source::Server) else {
            return;
        };
        entry.reconnected();
        let held = entry.digest();
        let _ = self.handle.inspect(move |data| data.ask_entries(held)).await;
        if self.settings.feed == Feed::OnDemand {
            // What was asked of the connection before is asked again.
            self.tell_kernel().await;
        }
    }

    /// A part of the server's list has come.
    pub(super) async fn take_entries(&mut self, part: &[u8], signed: Option<(u64, [u8; 32])>) {
        match self.entry.as_mut().map(|entry| entry.take(part, signed)) {
            Some(Ok(Some(list))) => {
                self.disk.entries(list);
                self.tell_kernel().await;
            }
            Some(Err(why)) => {
                tracing::warn!("the server's {why}; the last good list stays");
                self.status.disbelieved(why);
            }
            Some(Ok(None)) | None => {}
        }
    }

    /// Looks where this node's entry points are, and puts them there.
    pub(super) async fn look(&mut self) {
        let Some(entry) = &mut self.entry else { return };
        if entry.look() {
            self.tell_kernel().await;
        } else {
            for problem in entry.serve_checks().await {
                self.claims.warn_once(problem);
            }
        }
    }

    /// The VIPs that are taken, without those that no Service may have here.
    fn taken(&mut self, vips: Vec<Vip>, reserved: &Owners) -> Vec<Vip> {
        let taken = vips.into_iter().filter(|vip| vip.taken);
        taken.filter(|vip| self.claims.allows(&vip.service, vip.address, reserved)).collect()
    }

    /// The stand-ins of these VIPs. One that has none is left to the other proxy.
    fn shadowed(&mut self, taken: &[Vip]) -> BTreeMap<IpAddr, IpAddr> {
        let mut shadowed = BTreeMap::new();
        for Vip { service, address, shadow, .. } in taken {
            match shadow {
                Some(shadow) => _ = shadowed.insert(*address, *shadow),
                None => self.claims.warn_once(format!(
                    "Service {service}: {address} has no stand-in in the mesh prefix, or shares it with another \
                     Service's; left to the other service proxy"
                )),
            }
        }
        shadowed
    }

    /// Gives up routes whose last connection has ended.
    pub(super) async fn look_at_lingering(&mut self) {
        let used = self.handle.inspect(|data| {
            data.engine.flows().flows(clock::now()).map(|flow| flow.vip.0).collect::<BTreeSet<_>>()
        });
        if self.lingering.keep(&used.await.unwrap_or_default()) {
            self.tell_kernel().await;
        }
        self.linger_due = self.lingering.is_waiting().then(|| Instant::now() + LINGER_LOOK);
    }

    /// Has the kernel do what is wanted now.
    pub(super) async fn tell_kernel(&mut self) {
        let wanted = self.wanted().await;
        if let Some(keeper) = &self.keeper {
            // What else it is asked for no connection waits for.
            let ways = self.services.hash((&wanted.routed, &wanted.shadowed, &wanted.exits));
            if std::mem::replace(&mut self.ways, ways) != ways {
                self.asked_kernel = wanted.number;
            }
            keeper.set_services(wanted);
            self.status.asked_kernel();
        }
    }

    /// The server's answers so far are in the kernel, unless it still works on what follows from one.
    pub(super) fn tell_settled(&self) {
        if self.programmed >= self.asked_kernel {
            self.status.settle(self.answers);
        }
    }

    /// What the keeper has seen.
    pub(super) async fn kept(&mut self, report: Report) {
        match report {
            Report::Restored(what) => tracing::warn!(?what, "restored what others had taken away"),
            Report::Failed(error) => tracing::error!(%error, "cannot keep routes and rules in place"),
            Report::DeviceGone => tracing::error!("the device was deleted"),
            Report::Recovered => tracing::info!("routes and rules are in place again"),
            Report::Programmed(number) => {
                self.status.kernel_done();
                self.programmed = number;
                self.tell_settled();
            }
            Report::Ways => self.reached.hear(Heard::Ways),
            Report::Forgotten(connections) => {
                tracing::info!(connections, "connections to Services that changed hands begin anew");
            }
            Report::Balancer(found) => {
                if let Some(text) = &found {
                    tracing::error!("{text}");
                }
                self.status.balancer(found);
            }
            Report::Proxy(beside) => {
                self.beside = beside;
                self.tell_beside();
                self.tell_kernel().await;
            }
        }
    }

    pub(super) fn tell_beside(&self) {
        let mode = self.mode().name();
        match self.beside {
            Some(proxy) => tracing::info!(mode, "{proxy} is on this node"),
            None => tracing::info!(mode, "no other service proxy is on this node"),
        }
    }
}

/// Has the server asked about Services with entry points that are not held, some at a time: each answer leads back here.
fn ask_about(data: &mut Data, unknown: &[(String, String)], domain: &str) {
    let mut room = QUESTIONS;
    for (namespace, name) in unknown {
        if room == 0 {
            return;
        }
        room -= usize::from(dns::is_asked(data, &format!("{name}.{namespace}.svc.{domain}.")));
    }
}

/// What is routed: the given ranges, and each VIP that is in none of them (row V2).
fn routes(ranges: &[Prefix], taken: &[Vip]) -> Vec<Prefix> {
    let beyond =
        taken.iter().map(|vip| vip.address).filter(|ip| !ranges.iter().any(|range| range.contains(*ip)));
    ranges.iter().copied().chain(beyond.map(Prefix::host)).collect()
}
