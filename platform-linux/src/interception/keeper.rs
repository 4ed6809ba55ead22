//! Making a plan true and keeping it true.
//!
//! [`Keeper::start`] applies a plan once. [`Keeper::spawn`] moves it to a thread that listens to the kernel's
//! news: when something of ours changes it waits a moment for the rest of the change, looks at what is missing
//! and puts it back, well within a second. Every [`FULL_LOOK`] it looks at everything, for what sends no news
//! (legacy iptables). Bounds: at most one look per [`SETTLE`]; one report per distinct failure until it passes.
//! A deleted device is only reported: whoever reads it must open it anew, and then its addresses come back.

use std::collections::{HashMap, HashSet};
use std::io;
use std::net::IpAddr;
use std::path::Path;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use edgemesh_core::time::Duration;

use super::entry::EntryPoint;
use super::ledger::{Ledger, Touched};
use super::look::Look;
use super::overlap::{self, describe};
use super::proxy::{self, Proxy};
use super::report::{Changed, Report, Restored};
use super::{Plan, SetupError, TABLES, Wanted, connections, entry, firewall, nft, sysctl};
use crate::clock;
use crate::netlink::{Change, Link, LinkChange, MAIN_TABLE, Monitor, Netlink, Route};
use crate::poll::{Event, Interest, Poller, Waker};
use crate::prefix::Prefix;
use crate::tun;

/// How long news are gathered before a look, and the least time between two looks.
const SETTLE: Duration = Duration::from_millis(200);
/// How often everything is looked at.
const FULL_LOOK: Duration = Duration::from_secs(10);
/// The table of iptables' nft flavour that holds FORWARD and DOCKER-USER.
const IPTABLES_FILTER: &str = "filter";
/// The one that holds the raw PREROUTING chain.
const IPTABLES_RAW: &str = "raw";
/// The BPF file system.
const BPF: &str = "/sys/fs/bpf";

/// Owner of one applied plan. See the module's documentation.
pub struct Keeper {
    plan: Plan,
    ledger: Ledger,
    netlink: Netlink,
    monitor: Monitor,
    /// The device's number when it was last seen.
    device: u32,
    /// How `nft` printed our tables after we loaded them.
    listings: HashMap<&'static str, Option<String>>,
    entries: entry::Kept,
    changed: Changed,
    /// Connections may go otherwise than the plan says.
    stale_connections: bool,
    /// Where the kernel leads no connections any more since it was last looked.
    left: HashSet<EntryPoint>,
}

impl Keeper {
    /// Checks the plan and makes it true. The device must have been opened ([`crate::tun::Tun::open`]).
    ///
    /// # Errors
    /// The first thing that is in the way. What was done before stays, and `cleanup` finds it.
    pub fn start(plan: Plan, mut ledger: Ledger) -> Result<Self, SetupError> {
        overlap::check(&plan)?;
        ledger.record(Touched::Device { name: plan.device.clone() }).map_err(SetupError::State)?;
        let tables = [TABLES.as_slice(), &[IPTABLES_FILTER, IPTABLES_RAW], &proxy::TABLES].concat();
        let opened = Netlink::open().and_then(|netlink| Ok((netlink, Monitor::open(&tables)?)));
        let (netlink, monitor) = opened.map_err(|e| SetupError::Netlink("opening a netlink socket", e))?;
        sysctl::enable_forwarding(&plan, &mut ledger)?;
        let mut keeper = Self {
            plan,
            ledger,
            netlink,
            monitor,
            device: 0,
            listings: HashMap::new(),
            entries: entry::Kept::default(),
            changed: Changed::default(),
            stale_connections: true,
            left: HashSet::new(),
        };
        keeper.restore(Look::ALL)?;
        // Nothing here depends on it, and a kernel need not track connections.
        let _ = keeper.forget_connections();
        Ok(keeper)
    }

    /// Takes over what follows the Services now; whether the tables of rules are to be looked at for that. Listing them
    /// takes as long as they are, and damage has news of its own.
    pub(super) fn set_services(&mut self, services: Wanted) -> bool {
        let before = self.plan.routes();
        let old = std::mem::replace(&mut self.plan.services, services);
        let (new, after) = (&self.plan.services, self.plan.routes());
        self.changed.asked = Some(new.number);
        self.changed.routes.extend(before.keys().filter(|to| !after.contains_key(to)));
        self.changed.routes.extend(after.keys().filter(|to| !before.contains_key(to)));
        let Wanted { shadowed, exits, answering, .. } = new;
        let table = (&old.shadowed, &old.exits, &old.answering) != (shadowed, exits, answering);
        if table {
            self.changed.table = true;
            self.listings.clear();
        }
        let entries = old.entries != new.entries;
        let opens = |services: &Wanted| {
            let Wanted { entries, exits, handed, .. } = services;
            (entries.ways.is_empty(), exits.is_empty(), handed.is_empty())
        };
        self.changed.firewall |= opens(&old) != opens(new);
        self.stale_connections |= old.shadowed != new.shadowed || old.handed != new.handed;
        self.left.extend(old.handed.into_keys().filter(|at| !new.handed.contains_key(at)));
        table || entries
    }

    /// Has connections begin anew that go otherwise than the plan says; tells how many, unless none may.
    fn forget_connections(&mut self) -> io::Result<Option<usize>> {
        if !std::mem::take(&mut self.stale_connections) {
            return Ok(None);
        }
        connections::forget_stale(&self.plan, &std::mem::take(&mut self.left)).map(Some)
    }

    /// What is kept true.
    #[cfg(test)]
    pub(super) fn plan(&self) -> &Plan {
        &self.plan
    }

    /// What was changed outside our own table, in words for people.
    pub fn touched(&self) -> Vec<String> {
        self.ledger.touched().iter().map(ToString::to_string).collect()
    }

    /// Looks and puts right; stops at the first thing that cannot be.
    fn restore(&mut self, look: Look) -> Result<Vec<Restored>, SetupError> {
        let mut done = Vec::new();
        if look.network {
            self.restore_network(&mut done)?;
        }
        if look.table {
            self.restore_table(&mut done)?;
            done.extend(self.entries.restore(&self.plan)?.then_some(Restored::Entries));
        }
        if look.firewall || self.changed.firewall {
            done.extend(firewall::ensure(&self.plan, &mut self.ledger)?.into_iter().map(Restored::Rule));
        }
        Ok(done)
    }

    fn restore_network(&mut self, done: &mut Vec<Restored>) -> Result<(), SetupError> {
        let asked = self.netlink.link(&self.plan.device);
        let link = asked.map_err(|e| SetupError::Netlink("asking for the device", e))?;
        let link = link.ok_or_else(|| SetupError::NoDevice(self.plan.device.clone()))?;
        tun::check_ours(&link).map_err(SetupError::Device)?;
        self.device = link.index;
        sysctl::loosen(&self.plan.device);
        self.restore_link(&link, done).map_err(|e| SetupError::Netlink("bringing the device up", e))?;
        self.restore_addresses(done).map_err(|e| SetupError::Netlink("adding an address", e))?;
        self.restore_routes(done)
    }

    fn restore_link(&mut self, link: &Link, done: &mut Vec<Restored>) -> io::Result<()> {
        if link.up && link.mtu == self.plan.mtu {
            return Ok(());
        }
        done.push(Restored::Device);
        let change = LinkChange { mtu: Some(self.plan.mtu), up: true, ..LinkChange::default() };
        self.netlink.change_link(link.index, &change)
    }

    fn restore_addresses(&mut self, done: &mut Vec<Restored>) -> io::Result<()> {
        let there: HashSet<IpAddr> =
            self.netlink.addresses()?.iter().filter(|a| a.index == self.device).map(|a| a.ip).collect();
        for (ip, scope) in self.plan.addresses() {
            if !there.contains(&ip) {
                self.netlink.add_address(self.device, ip, scope)?;
                done.push(Restored::Address(ip));
            }
        }
        Ok(())
    }

    fn restore_routes(&mut self, done: &mut Vec<Restored>) -> Result<(), SetupError> {
        let failed = |e| SetupError::Netlink("reading the machine's routes", e);
        let routes = self.netlink.routes().map_err(failed)?;
        let ours: HashMap<Prefix, Route> = routes
            .iter()
            .filter(|r| r.table == MAIN_TABLE && r.device == self.device && r.is_ours())
            .map(|r| (r.to, *r))
            .collect();
        let wanted = self.plan.routes();
        for (to, source) in &wanted {
            match ours.get(to) {
                Some(route) if route.source == *source => continue,
                Some(_) => self.netlink.replace_route(*to, self.device, *source),
                None => self.netlink.add_route(*to, self.device, *source),
            }
            .map_err(|e| self.explain(*to, &routes, e))?;
            done.push(Restored::Route(*to));
        }
        for to in ours.keys().filter(|to| !wanted.contains_key(to)) {
            match self.netlink.delete_route(*to, self.device) {
                Err(e) if e.raw_os_error() != Some(libc::ESRCH) => {
                    return Err(SetupError::Netlink("removing a route", e));
                }
                _ => done.push(Restored::StaleRoute(*to)),
            }
        }
        Ok(())
    }

    /// A route that cannot be added because another holds its place is named.
    fn explain(&mut self, to: Prefix, routes: &[Route], error: io::Error) -> SetupError {
        let other = routes.iter().find(|r| r.to == to && r.table == MAIN_TABLE && r.device != self.device);
        match other {
            Some(route) if error.kind() == io::ErrorKind::AlreadyExists => {
                let links = self.netlink.links().unwrap_or_default();
                let names = links.into_iter().map(|link| (link.index, link.name)).collect();
                SetupError::Taken { to, route: describe(route, &names) }
            }
            _ => SetupError::Netlink("adding a route", error),
        }
    }

    fn restore_table(&mut self, done: &mut Vec<Restored>) -> Result<(), SetupError> {
        let families = nft::families(&self.plan);
        let mut sound = true;
        for family in &families {
            sound &= self.listings.contains_key(family)
                && self.listings.get(family) == Some(&nft::listing(nft::TABLE, family)?);
        }
        if sound {
            return Ok(());
        }
        self.listings = nft::load(&nft::script(&self.plan), || {
            families.iter().map(|family| Ok((*family, nft::listing(nft::TABLE, family)?))).collect()
        })?;
        done.push(Restored::Table);
        Ok(())
    }

    /// What the news of the kernel ask to be looked at.
    fn news(&mut self) -> Look {
        let mut look = Look::default();
        let (name, device) = (&self.plan.device, self.device);
        self.monitor.drain(|change| {
            look.ways |= !matches!(change, Change::Table(_));
            match change {
                Change::Link(link) => {
                    look.network |= link.name == *name || link.index == device;
                    look.proxy |= proxy::IPVS_DEVICES.contains(&link.name.as_str());
                }
                Change::Address(address) => look.network |= address.index == device,
                Change::Route(route) => look.network |= route.device == device,
                Change::Table(table) if TABLES.contains(&&*table) => look.table = true,
                Change::Table(table) if proxy::TABLES.contains(&&*table) => look.proxy = true,
                Change::Table(_) => look.firewall = true,
                Change::Missed => look = Look { ways: true, ..Look::ALL },
            }
        });
        look
    }

    /// Keeps the plan true on a thread of its own until the handle is stopped or dropped. `beside`: the service
    /// proxy that the plan was made for; when that changes it is told.
    ///
    /// # Errors
    /// Out of descriptors or threads.
    pub fn spawn(
        self,
        beside: Option<Proxy>,
        report: impl FnMut(Report) + Send + 'static,
    ) -> io::Result<KeeperHandle> {
        let poller = Poller::new()?;
        for descriptor in self.monitor.descriptors() {
            poller.add(descriptor, Interest::Read, 0)?;
        }
        let (sender, commands) = channel();
        let touched = Arc::new(Mutex::new(self.touched()));
        let waker = poller.waker();
        let thread = Thread {
            keeper: self,
            poller,
            commands,
            touched: touched.clone(),
            failure: None,
            beside,
            balancer: None,
            report,
        };
        let thread = std::thread::Builder::new().name("keeper".into()).spawn(move || thread.run())?;
        Ok(KeeperHandle { commands: sender, waker, touched, thread: Some(thread) })
    }
}

enum Command {
    Services(Wanted),
    Stop,
}

/// The thread that keeps a plan true.
struct Thread<R> {
    keeper: Keeper,
    poller: Poller,
    commands: Receiver<Command>,
    touched: Arc<Mutex<Vec<String>>>,
    /// The failure that was reported last and has not passed.
    failure: Option<String>,
    /// The other service proxy that was told of last.
    beside: Option<Proxy>,
    /// The same of what takes connections before they reach this node's network.
    balancer: Option<String>,
    report: R,
}

impl<R: FnMut(Report)> Thread<R> {
    fn run(mut self) {
        let mut look = Look { proxy: true, ..Look::default() };
        let mut next_full = clock::now().after(FULL_LOOK);
        let mut next_look = Some(clock::now());
        loop {
            let deadline = next_look.map_or(next_full, |at| at.min(next_full));
            let (mut woken, mut ready) = (false, false);
            let waited = self.poller.wait(Some(deadline), |event| match event {
                Event::Woken => woken = true,
                Event::Ready(_) => ready = true,
            });
            if waited.is_err() {
                return;
            }
            if woken {
                match self.take_commands() {
                    Some(asked) => look = look.and(asked),
                    None => return,
                }
            }
            if ready {
                look = look.and(self.keeper.news());
            }
            let now = clock::now();
            if now >= next_full {
                look = Look::ALL;
                next_full = now.after(FULL_LOOK);
                next_look = Some(now);
            }
            match next_look {
                Some(at) if now >= at => {
                    self.look(look);
                    look = Look::default();
                    next_look = None;
                }
                None if look.is_due() => next_look = Some(now.after(SETTLE)),
                _ => {}
            }
        }
    }

    /// What must be looked at; `None` to stop.
    fn take_commands(&mut self) -> Option<Look> {
        let mut asked = Look::default();
        loop {
            match self.commands.try_recv() {
                Ok(Command::Services(services)) => {
                    asked.table |= self.keeper.set_services(services);
                    asked.network = true;
                }
                Ok(Command::Stop) | Err(std::sync::mpsc::TryRecvError::Disconnected) => return None,
                Err(std::sync::mpsc::TryRecvError::Empty) => return Some(asked),
            }
        }
    }

    /// Looks for another service proxy, in the legacy tables only now and then.
    fn look_beside(&mut self, look: Look) -> Result<(), SetupError> {
        if !look.proxy {
            return Ok(());
        }
        let found = match proxy::find_quickly()? {
            None if look.all => proxy::find()?,
            None if self.beside == Some(Proxy::Legacy) => self.beside,
            found => found,
        };
        if found != self.beside {
            self.beside = found;
            (self.report)(Report::Proxy(found));
        }
        let balancer = proxy::socket_balancer(Path::new(BPF));
        if balancer != self.balancer {
            self.balancer.clone_from(&balancer);
            (self.report)(Report::Balancer(balancer));
        }
        Ok(())
    }

    fn look(&mut self, look: Look) {
        if look.ways {
            (self.report)(Report::Ways);
        }
        let outcome = self.keeper.restore(look).and_then(|done| {
            self.look_beside(look)?;
            Ok(done)
        });
        *self.touched.lock().unwrap_or_else(PoisonError::into_inner) = self.keeper.touched();
        match outcome {
            Ok(done) => {
                if self.failure.take().is_some() {
                    (self.report)(Report::Recovered);
                }
                let changed = std::mem::take(&mut self.keeper.changed);
                let others = done.into_iter().filter(|restored| !changed.explains(restored));
                others.for_each(|restored| (self.report)(Report::Restored(restored)));
                if let Some(number) = changed.asked {
                    (self.report)(Report::Programmed(number));
                }
                if let Ok(Some(connections @ 1..)) = self.keeper.forget_connections() {
                    (self.report)(Report::Forgotten(connections));
                }
            }
            Err(error) => {
                let text = error.to_string();
                if self.failure.as_ref() != Some(&text) {
                    self.failure = Some(text);
                    (self.report)(match error {
                        SetupError::NoDevice(_) => Report::DeviceGone,
                        other => Report::Failed(other),
                    });
                }
            }
        }
    }
}

/// Control over a keeper's thread. Dropping it stops the thread and leaves everything as it is.
pub struct KeeperHandle {
    commands: Sender<Command>,
    waker: Waker,
    touched: Arc<Mutex<Vec<String>>>,
    thread: Option<JoinHandle<()>>,
}

impl KeeperHandle {
    /// What follows the Services, from now on, instead of what was before.
    pub fn set_services(&self, services: Wanted) {
        // The thread is gone only after its poller failed, which it cannot.
        let _ = self.commands.send(Command::Services(services));
        self.waker.wake();
    }

    /// What was changed outside our own table, in words for people.
    pub fn touched(&self) -> Vec<String> {
        self.touched.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for KeeperHandle {
    fn drop(&mut self) {
        let _ = self.commands.send(Command::Stop);
        self.waker.wake();
        if let Some(thread) = self.thread.take() {
            // A panic of the thread was printed when it happened.
            let _ = thread.join();
        }
    }
}
