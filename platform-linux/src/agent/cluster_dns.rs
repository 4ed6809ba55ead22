//! The ClusterIP of the cluster's DNS, answered on this node (row G7): kubelet writes it into every pod, and its
//! endpoints are in the cloud.
//!
//! The address becomes one of our device, so that the kernel delivers packets for it here, and the responder listens
//! there as on its link-local address. It is followed: the Service table says which address it is, and what others
//! take away from the device is back within a second. It goes with the device on `cleanup`.
//!
//! With `auto` the address is left alone while another program on this node serves it: the address is one of another
//! device (IPVS, NodeLocal DNSCache), or kube-proxy has its rules here. While the address is local, no other port of
//! that Service is forwarded. Bounds: two addresses, one of each family; one look a second.

use super::command::Handle;
use super::resolver::EngineResolver;
use super::responder::{Serving, bind, own};
use super::status::Shared;
use crate::cli::DnsVip;
use crate::dns::Server;
use crate::dns::forward::Forwarder;
use crate::interception::find_proxy;
use crate::netlink::{Netlink, Scope};
use crate::tun::DEFAULT_NAME;
use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Notify;
use tokio::task::spawn_blocking;
use tokio::time::{Instant, timeout};

/// The Service: every distribution keeps this name, for kubelet's sake.
pub(super) const NAMESPACE: &str = "kube-system";
pub(super) const NAME: &str = "kube-dns";
/// How often the device is looked at while it has the address.
const LOOK: Duration = Duration::from_secs(1);
/// How often another program is looked for.
const LOOK_AROUND: Duration = Duration::from_secs(30);

/// See the module's documentation.
pub struct ClusterDns {
    mode: DnsVip,
    link_local: IpAddr,
    handle: Handle,
    server: Server<EngineResolver>,
    forwarder: Rc<Forwarder>,
    status: Arc<Shared>,
    served: BTreeMap<IpAddr, Serving>,
    /// When another program was looked for, and what was found.
    around: Option<(Instant, Option<String>)>,
    /// What was logged last.
    told: Option<String>,
}

/// The addresses of our device.
struct Device {
    netlink: Netlink,
    index: u32,
    here: Vec<IpAddr>,
    /// Addresses of all other devices.
    elsewhere: Vec<IpAddr>,
}

impl Device {
    fn look() -> io::Result<Option<Self>> {
        let mut netlink = Netlink::open()?;
        let Some(link) = netlink.link(DEFAULT_NAME)? else { return Ok(None) };
        let (here, elsewhere) =
            netlink.addresses()?.into_iter().partition::<Vec<_>, _>(|a| a.index == link.index);
        let ips = |addresses: Vec<crate::netlink::Address>| addresses.into_iter().map(|a| a.ip).collect();
        Ok(Some(Self { netlink, index: link.index, here: ips(here), elsewhere: ips(elsewhere) }))
    }
}

impl ClusterDns {
    /// Nothing is served yet.
    pub fn new(
        mode: DnsVip,
        link_local: IpAddr,
        handle: Handle,
        server: Server<EngineResolver>,
        forwarder: Rc<Forwarder>,
        status: Arc<Shared>,
    ) -> Self {
        let (served, around, told) = (BTreeMap::new(), None, None);
        Self { mode, link_local, handle, server, forwarder, status, served, around, told }
    }

    /// Follows the table, which has changed when `changed` says so, and the device.
    pub async fn run(mut self, changed: Rc<Notify>) {
        loop {
            if let Err(error) = self.look().await {
                self.tell(Some(format!("the address of the cluster's DNS cannot be served: {error}")));
            }
            let pause = if self.served.is_empty() { LOOK_AROUND } else { LOOK };
            // Either way it is time to look.
            let _ = timeout(pause, changed.notified()).await;
        }
    }

    async fn look(&mut self) -> io::Result<()> {
        let Some(mut device) = Device::look()?.filter(|device| device.here.contains(&self.link_local)) else {
            // The keeper gives the device its own addresses first.
            return Ok(());
        };
        let here = device.here.clone();
        let asked = self.handle.inspect(move |data| {
            let services = data.engine.services();
            let dns = services.service(NAMESPACE, NAME);
            let vips = dns.into_iter().flat_map(|service| service.vips());
            // Not those that a label leaves to another proxy.
            let vips: Vec<IpAddr> = vips.filter(|vip| services.is_vip(*vip)).collect();
            let ours: Vec<IpAddr> =
                here.into_iter().filter(|ip| services.service_of_vip(*ip).is_some()).collect();
            (vips, ours)
        });
        let (vips, ours) = asked.await.unwrap_or_default();
        let wanted = self.wanted(vips, &device).await;
        let gone = self.served.keys().chain(&ours).copied().filter(|ip| !wanted.contains(ip));
        for ip in gone.collect::<Vec<_>>() {
            self.leave(ip, &mut device).await?;
        }
        for ip in wanted {
            self.take(ip, &mut device).await?;
        }
        self.status.answering(self.served.keys().copied().collect());
        let all = own(self.link_local, self.served.keys().copied());
        self.forwarder.reroute(|routes| routes.own = all);
        Ok(())
    }

    /// Which of the Service's addresses are to be answered here.
    async fn wanted(&mut self, vips: Vec<IpAddr>, device: &Device) -> Vec<IpAddr> {
        if vips.is_empty() || self.mode == DnsVip::Off {
            return Vec::new();
        }
        let other = match self.mode {
            DnsVip::Auto => match vips.iter().find(|vip| device.elsewhere.contains(vip)) {
                Some(vip) => Some(format!("{vip} is an address of another device")),
                None => self.look_around().await,
            },
            DnsVip::On | DnsVip::Off => None,
        };
        match other {
            Some(other) => {
                let text =
                    format!("the address of the cluster's DNS is left to others: {other} (--dns-vip auto)");
                self.tell(Some(text));
                Vec::new()
            }
            None => vips,
        }
    }

    /// Whether kube-proxy has rules on this node.
    async fn look_around(&mut self) -> Option<String> {
        match &self.around {
            Some((at, found)) if at.elapsed() < LOOK_AROUND => found.clone(),
            _ => {
                let found = spawn_blocking(find_proxy).await.ok().and_then(Result::ok).flatten();
                let found = found.map(|proxy| format!("{proxy} is on this node"));
                self.around = Some((Instant::now(), found.clone()));
                found
            }
        }
    }

    async fn take(&mut self, ip: IpAddr, device: &mut Device) -> io::Result<()> {
        if !device.here.contains(&ip) {
            device.netlink.add_address(device.index, ip, Scope::Host)?;
        }
        if self.served.get(&ip).is_some_and(Serving::has_ended) {
            self.stop(ip).await;
        }
        if !self.served.contains_key(&ip) {
            let sockets = bind(SocketAddr::new(ip, 53)).await?;
            let serving = Serving::start(&self.server, &self.handle, sockets, ip).await;
            self.served.insert(ip, serving);
            self.tell(Some(format!("names are answered at {ip} too, the address of {NAMESPACE}/{NAME}")));
        }
        Ok(())
    }

    async fn stop(&mut self, ip: IpAddr) {
        if let Some(serving) = self.served.remove(&ip) {
            serving.end(&self.handle).await;
        }
    }

    async fn leave(&mut self, ip: IpAddr, device: &mut Device) -> io::Result<()> {
        self.stop(ip).await;
        if device.here.contains(&ip) {
            device.netlink.delete_address(device.index, ip)?;
        }
        Ok(())
    }

    /// Logs what is new.
    fn tell(&mut self, text: Option<String>) {
        if let Some(text) = text.filter(|text| self.told.as_ref() != Some(text)) {
            tracing::info!("{text}");
            self.told = Some(text);
        }
    }
}
