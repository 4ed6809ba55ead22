//! Endpoints of other nodes that were proven to be reached without the mesh ([`domain`](crate::agent::domain)): into
//! the engine, the kernel's rules and the hands of what leads connections.

use super::Join;
use crate::agent::domain::{Found, Heard};
use crate::agent::status::Shared;
use crate::prefix::Prefix;
use edgemesh_core::service::{self, EndpointView, ServiceView};
use edgemesh_discovery::encoded::Step;
use edgemesh_discovery::table::Key;
use std::collections::BTreeSet;
use std::sync::Arc;
use tokio::sync::mpsc;

/// Ends of the channels to and from who derives the domain, and what was found last.
pub(super) struct Reached {
    heard: mpsc::UnboundedSender<Heard>,
    hears: Option<mpsc::UnboundedReceiver<Heard>>,
    pub(super) found: (mpsc::UnboundedSender<Found>, mpsc::UnboundedReceiver<Found>),
    now: BTreeSet<(u32, Prefix)>,
}

impl Reached {
    pub(super) fn new() -> Self {
        let (heard, hears) = mpsc::unbounded_channel();
        let found = mpsc::unbounded_channel();
        Self { heard, hears: Some(hears), found, now: BTreeSet::new() }
    }

    /// Passes on what matters there.
    pub(super) fn hear(&self, heard: Heard) {
        let _ = self.heard.send(heard);
    }
}

impl Join {
    /// What who derives the domain hears, and where it tells what it found; once.
    pub fn domain(&mut self) -> Option<(mpsc::UnboundedReceiver<Heard>, mpsc::UnboundedSender<Found>)> {
        Some((self.reached.hears.take()?, self.reached.found.0.clone()))
    }

    /// Takes over what was found: the Services with endpoints that it concerns are defined anew.
    pub(super) async fn reach(&mut self, found: Found) {
        let Found { ranges, sources } = found;
        let before = std::mem::replace(&mut self.reached.now, ranges.clone());
        tell(&self.status, &before, &ranges);
        let changed: Vec<_> = before.symmetric_difference(&ranges).copied().map(range).collect();
        let all: Vec<_> = ranges.into_iter().map(range).collect();
        let concerned = self.handle.inspect(move |data| {
            data.engine.set_reached(&all);
            data.aside.follows = !all.is_empty();
            let by_label = data.engine.services().home().domain != 0;
            if let Some(handover) = &mut data.handover {
                handover.answers((!by_label).then_some(sources));
            }
            let services = data.engine.services().services();
            let is_concerned =
                |e: EndpointView<'_>| changed.iter().any(|range| range.holds(e.node(), e.address()));
            let concerned = services.filter(|service| service.endpoints().any(is_concerned));
            let key =
                |s: ServiceView<'_>| Key { namespace: s.namespace().to_string(), name: s.name().to_string() };
            concerned.map(key).collect::<Vec<_>>()
        });
        let table = self.services.table();
        let concerned =
            concerned.await.unwrap_or_default().into_iter().filter(|key| table.get(key).is_some());
        let step = Step::of(concerned.map(Arc::new));
        if step.is_empty() {
            return;
        }
        let way = table.way(&step);
        self.apply(way).await;
        if self.is_planned_anew(&step).await || self.entry.is_some() {
            self.tell_kernel().await;
        }
        if let Some(responder) = &self.responder {
            responder.table_changed();
        }
    }
}

fn range((node, prefix): (u32, Prefix)) -> service::Reached {
    service::Reached::new(node, prefix.address(), prefix.bits())
}

/// Says what is different now.
fn tell(status: &Shared, before: &BTreeSet<(u32, Prefix)>, now: &BTreeSet<(u32, Prefix)>) {
    for (node, range) in now.difference(before) {
        tracing::info!(node = status.name_of(*node), %range, "proven to be reached without the mesh");
    }
    for (node, range) in before.difference(now) {
        tracing::warn!(node = status.name_of(*node), %range, "not reached without the mesh any more");
    }
}
