//! A source that feeds a test, and objects.

use edgemesh_discovery::change::Changes;
use edgemesh_discovery::kubernetes::{Health, Settings, Source, Timing};
use edgemesh_discovery::table::{Key, Table};
use edgemesh_testapi::{ApiServer, Options, Request, Resource, Verb};
use serde_json::{Value, json};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::timeout;

/// How long anything may take that does happen.
const PATIENCE: Duration = Duration::from_secs(20);

/// Pauses of a test.
pub(crate) fn quick() -> Timing {
    let millis = Duration::from_millis;
    Timing {
        connect: millis(2_000),
        dead: millis(2_000),
        patience: millis(2_000),
        watch: millis(30_000),
        local_watch: millis(30_000),
        silence: millis(300),
        backoff_min: millis(10),
        backoff_max: millis(100),
        healthy: millis(100),
        spread: millis(20),
        doubt: millis(100),
        resync: millis(3_600_000),
        absent: millis(150),
        gather: millis(5),
        grace: millis(300),
    }
}

/// Settings for a server over plain HTTP.
pub(crate) fn settings(server: &ApiServer) -> Settings {
    Settings { server: Some(server.url()), timing: quick(), ..Settings::default() }
}

/// A running source and what it told.
pub(crate) struct Feed {
    source: Source,
    changes: mpsc::UnboundedReceiver<Changes>,
    reports: Arc<Mutex<Vec<String>>>,
    latest: Table,
    pub(crate) count: usize,
    /// Parts of the first table.
    pub(crate) pieces: usize,
}

impl Feed {
    pub(crate) fn new(settings: Settings) -> Self {
        let (send, changes) = mpsc::unbounded_channel();
        let reports = Arc::new(Mutex::new(Vec::new()));
        let told = reports.clone();
        let source = Source::spawn(
            settings,
            move |changes| drop(send.send(changes)),
            move |text| told.lock().unwrap().push(text),
        )
        .unwrap();
        Self { source, changes, reports, latest: Table::default(), count: 0, pieces: 0 }
    }

    pub(crate) fn health(&self) -> Arc<Health> {
        self.source.health()
    }

    /// Takes what was told; whether that makes a table.
    fn take(&mut self, changes: Changes) -> bool {
        let all = changes.is_all();
        changes.into_iter().for_each(|(identity, change)| {
            self.latest.apply(std::time::Instant::now(), identity, change.object)
        });
        if all {
            self.count += 1;
        } else {
            self.pieces += 1;
        }
        all
    }

    /// The next table.
    pub(crate) async fn next(&mut self) -> &Table {
        loop {
            let Ok(Some(changes)) = timeout(PATIENCE, self.changes.recv()).await else {
                panic!("no table came; the last one was {:#?}\nreports: {:#?}", self.latest, self.reports())
            };
            if self.take(changes) {
                return &self.latest;
            }
        }
    }

    /// Tables until one is as wanted.
    pub(crate) async fn until(&mut self, mut wanted: impl FnMut(&Table) -> bool) -> &Table {
        while !wanted(&self.latest) || self.count == 0 {
            self.next().await;
        }
        &self.latest
    }

    /// Tables until the Services are exactly these, and whether `always` was in each of them.
    pub(crate) async fn services(&mut self, names: &[&str], always: &[&str]) {
        loop {
            let found = names_of(&self.latest);
            if self.count > 0 {
                assert!(always.iter().all(|n| found.iter().any(|f| f == n)), "{always:?} not in {found:?}");
                if found == names {
                    return;
                }
            }
            self.next().await;
        }
    }

    /// Waits until the source has told or counted what is wanted.
    pub(crate) async fn reached(&self, wanted: impl Fn(&Self) -> bool) {
        let look = async {
            while !wanted(self) {
                tokio::task::yield_now().await;
            }
        };
        timeout(PATIENCE, look).await.expect("the source does not come to it");
    }

    /// Tables that came without being asked for.
    pub(crate) fn more(&mut self) -> usize {
        let mut count = 0;
        while let Ok(changes) = self.changes.try_recv() {
            count += usize::from(self.take(changes));
        }
        count
    }

    pub(crate) fn latest(&self) -> &Table {
        &self.latest
    }

    pub(crate) fn reports(&self) -> Vec<String> {
        self.reports.lock().unwrap().clone()
    }
}

pub(crate) fn names_of(table: &Table) -> Vec<String> {
    table.keys().map(|key| key.name.clone()).collect()
}

pub(crate) fn key(name: &str) -> Key {
    Key { namespace: "default".to_owned(), name: name.to_owned() }
}

/// Addresses of a Service's endpoints.
pub(crate) fn endpoints_of(table: &Table, name: &str) -> Vec<String> {
    let groups = table.entry(&key(name)).map(|entry| entry.groups).unwrap_or_default();
    groups.iter().flat_map(|g| &g.endpoints).map(|e| e.address.to_string()).collect()
}

pub(crate) async fn start(options: Options) -> ApiServer {
    ApiServer::start(options).await.unwrap()
}

pub(crate) async fn plain() -> ApiServer {
    start(Options::default()).await
}

pub(crate) fn service(name: &str) -> Value {
    let hash = name.bytes().fold(7_u32, |h, b| h.wrapping_mul(31).wrapping_add(b.into()));
    let ip = format!("10.96.{}.{}", hash % 250, hash / 250 % 250);
    json!({"kind": "Service", "metadata": {"name": name},
           "spec": {"clusterIP": ip, "ports": [{"port": 80}]}})
}

pub(crate) fn slice(name: &str, service: &str, addresses: &[&str]) -> Value {
    let endpoints: Vec<Value> =
        addresses.iter().map(|a| json!({"addresses": [a], "nodeName": "n1"})).collect();
    json!({"kind": "EndpointSlice", "metadata": {"name": name, "labels": {"kubernetes.io/service-name": service}},
           "addressType": "IPv4", "ports": [{"name": "", "port": 8080}], "endpoints": endpoints})
}

pub(crate) fn fill(server: &ApiServer, count: usize) {
    for n in 0..count {
        assert!(server.put(service(&format!("s{n:03}"))) > 0);
    }
}

pub(crate) const SERVICES: Resource = Resource::Services;

/// Lists (pages count) or watches of Services so far.
pub(crate) fn asked(server: &ApiServer, verb: Verb) -> Vec<Request> {
    server.requests().into_iter().filter(|r| r.resource == SERVICES && r.verb == verb).collect()
}

/// Waits until Services were listed or watched so many times.
pub(crate) async fn asked_times(server: &ApiServer, verb: Verb, times: usize) {
    let enough =
        |all: &[Request]| all.iter().filter(|r| r.resource == SERVICES && r.verb == verb).count() >= times;
    timeout(PATIENCE, server.requested(enough)).await.expect("the source does not ask");
}

/// Waits until a resource has so many open watches.
pub(crate) async fn watched(server: &ApiServer, resource: Resource, count: usize) {
    timeout(PATIENCE, server.watched(resource, count)).await.expect("the source does not watch");
}
