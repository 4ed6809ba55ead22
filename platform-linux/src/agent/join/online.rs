//! Going online: the device's addresses and routes, and DNS, once this node knows its place in the mesh.

use super::Join;
use crate::agent::data::Data;
use crate::agent::entry::Entry;
use crate::agent::responder::Responder;
use crate::agent::state::Joined;
use crate::cli::Run;
use crate::interception::{Keeper, Ledger, Mesh as KeptMesh, Plan, Wanted};
use crate::prefix::Prefix;
use crate::tun::{DEFAULT_MTU, DEFAULT_NAME};
use edgemesh_core::wire::ip::Mesh;
use std::net::IpAddr;

impl Join {
    /// Gives the device its addresses and routes, and starts DNS, if this node knows its place.
    ///
    /// # Errors
    /// What is in the way, named.
    pub async fn go_online(&mut self) -> Result<(), String> {
        let Some(joined) = self.membership.joined.clone() else { return Ok(()) };
        self.entry.as_mut().map(Entry::look);
        let find = tokio::task::spawn_blocking(crate::interception::find_proxy);
        self.beside = find.await.map_err(|error| error.to_string())?.map_err(|error| error.to_string())?;
        self.tell_beside();
        let wanted = self.wanted().await;
        let plan = plan(&self.settings, &joined, wanted);
        let (beside, reports) = (self.beside, self.reports.0.clone());
        let root = self.disk.state.root().to_owned();
        let kept = tokio::task::spawn_blocking(move || {
            let ledger = Ledger::open(&root).map_err(|e| e.to_string())?;
            let keeper = Keeper::start(plan, ledger).map_err(|e| e.to_string())?;
            let report = move |report| _ = reports.send(report);
            keeper.spawn(beside, report).map_err(|e| e.to_string())
        });
        // Where an earlier run left the address, names are answered while the kernel's rules are looked at.
        let named = Responder::start(&self.settings, self.handle.clone(), self.status.clone());
        let kept = async { kept.await.map_err(|error| error.to_string())? };
        let (keeper, responder) = tokio::try_join!(kept, named)?;
        self.status.touched(keeper.touched());
        self.keeper = Some(keeper);
        if let Some(outcome) = self.handle.inspect(Data::begin_handover).await {
            if let Err(why) = &outcome {
                tracing::warn!(%why, "endpoints of this node see the mesh's address, not their clients'");
            }
            self.status.handing_over(outcome);
        }
        self.responder = Some(responder);
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
