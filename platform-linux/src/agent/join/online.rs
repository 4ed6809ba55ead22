//! Going online: the device's addresses and routes, and DNS, once this node knows its place in the mesh.

use super::Join;
use crate::agent::claims::{self, Claim, Owners};
use crate::agent::entry::{Answer, Entry};
use crate::agent::responder::Responder;
use crate::agent::state::Joined;
use crate::cli::Run;
use crate::interception::entry::Entries;
use crate::interception::{Keeper, Ledger, Mesh as KeptMesh, Plan, Report, Wanted};
use crate::prefix::Prefix;
use crate::tun::{DEFAULT_MTU, DEFAULT_NAME};
use edgemesh_core::service::EndpointView;
use edgemesh_core::wire::feed::ENDPOINT_EXIT;
use edgemesh_core::wire::ip::Mesh;
use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;

impl Join {
    /// What the kernel is to do for the Services as they are now.
    pub(super) async fn wanted(&mut self) -> Wanted {
        let question = self.entry.as_ref().map(Entry::question);
        let every = self.handle.inspect(|data| {
            let (services, own) = (data.engine.services(), data.engine.own_index());
            let claims = services.services().flat_map(|s| s.vips().map(move |vip| (s, vip)));
            let claims = claims
                .filter(|(_, vip)| services.is_vip(*vip))
                .map(|(s, vip)| (format!("{}/{}", s.namespace(), s.name()), vip));
            let leaves = |e: &EndpointView<'_>| e.node() == own && e.conditions() & ENDPOINT_EXIT != 0;
            let exits = services.services().flat_map(|s| s.endpoints()).filter(leaves).map(|e| e.address());
            let answer = question.map(|question| question(services, own));
            (claims.collect::<Vec<_>>(), exits.collect::<BTreeSet<_>>(), answer)
        });
        let (claims, exits, answer) = every.await.unwrap_or_default();
        let reserved = claims::reserved(&self.settings, &self.membership.servers).unwrap_or_else(|error| {
            self.claims.warn_once(format!("cannot list this node's addresses: {error}"));
            HashMap::new()
        });
        let entries = self.entries(answer.unwrap_or_default(), &claims, &reserved).await;
        Wanted { routed: self.routed(claims, &reserved), exits: exits.into_iter().collect(), entries }
    }

    /// The entry points that this node serves.
    async fn entries(&mut self, answer: Answer, vips: &[Claim], reserved: &Owners) -> Entries {
        let Some(entry) = &mut self.entry else { return Entries::default() };
        let (entries, problems) = entry.rules(&answer, vips, reserved);
        for problem in problems.into_iter().chain(entry.serve_checks().await) {
            self.claims.warn_once(problem);
        }
        entries
    }

    /// What of these claims is routed to the device beside the mesh.
    fn routed(&mut self, claims: Vec<Claim>, reserved: &Owners) -> Vec<Prefix> {
        if !self.settings.service_cidr.is_empty() {
            return self.settings.service_cidr.clone();
        }
        self.claims.routes(claims, reserved)
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

    /// Gives the device its addresses and routes, and starts DNS.
    ///
    /// # Errors
    /// What is in the way, named.
    pub(super) async fn go_online(&mut self) -> Result<(), String> {
        let Some(joined) = self.membership.joined.clone() else { return Ok(()) };
        self.entry.as_mut().map(Entry::look);
        let wanted = self.wanted().await;
        let plan = plan(&self.settings, &joined, wanted);
        let root = self.state.root().to_owned();
        let kept = tokio::task::spawn_blocking(move || {
            let ledger = Ledger::open(&root).map_err(|e| e.to_string())?;
            let keeper = Keeper::start(plan, ledger).map_err(|e| e.to_string())?;
            keeper.spawn(report).map_err(|e| e.to_string())
        });
        let keeper = kept.await.map_err(|error| error.to_string())??;
        self.status.touched(keeper.touched());
        self.keeper = Some(keeper);
        let (handle, status) = (self.handle.clone(), self.status.clone());
        self.responder = Some(Responder::start(&self.settings, handle, status).await?);
        Ok(())
    }

    /// Whether the node has its addresses and routes.
    pub fn is_online(&self) -> bool {
        self.keeper.is_some()
    }
}

/// What the kernel is to do for a node that has joined.
pub(in crate::agent) fn plan(settings: &Run, joined: &Joined, services: Wanted) -> Plan {
    let mesh = Mesh::new(joined.network, joined.index);
    let prefix = |v6: bool| {
        let (address, bits) = if v6 {
            (IpAddr::from(joined.network.mesh_v6), 64)
        } else {
            (IpAddr::from(joined.network.mesh_v4), joined.network.mesh_v4_len)
        };
        Prefix::new(address, bits)
    };
    let families = [false, true].into_iter();
    let mesh = families
        .filter_map(|v6| Some(KeptMesh { address: mesh.own(v6), prefix: prefix(v6)? }))
        .filter(|mesh| mesh.address.is_ipv4() || has_ipv6())
        .collect();
    Plan { device: DEFAULT_NAME.to_owned(), mtu: DEFAULT_MTU, mesh, dns: vec![settings.dns], services }
}

fn has_ipv6() -> bool {
    std::path::Path::new("/proc/net/if_inet6").exists()
}

fn report(report: Report) {
    match report {
        Report::Restored(what) => tracing::warn!(?what, "restored what others had taken away"),
        Report::Failed(error) => tracing::error!(%error, "cannot keep routes and rules in place"),
        Report::DeviceGone => tracing::error!("the device was deleted"),
        Report::Recovered => tracing::info!("routes and rules are in place again"),
    }
}
