//! Names of pods (row D25) that are answered only if a pod of the namespace has that address (`--dns-pods verified`).
//!
//! The engine knows the endpoints of Services. Where the agent watches Kubernetes itself it hears of all other pods as
//! well; of a query for one of those the engine is told to take the shell's word. Everything else of the name, and that
//! its namespace exists, is the engine's to judge.

use edgemesh_core::dns::{PodRecords, from_dashed};
use edgemesh_core::wire::dns::Query;
use edgemesh_discovery::pods::Pods;
use std::net::IpAddr;
use std::sync::Arc;

/// The pods of a cluster, by name.
pub struct PodNames {
    /// Labels of the cluster domain.
    domain: Vec<Vec<u8>>,
    pods: Arc<Pods>,
}

impl PodNames {
    /// Those pods, below this cluster domain.
    pub fn new(domain: &str, pods: Arc<Pods>) -> Self {
        let labels = domain.split('.').filter(|label| !label.is_empty());
        Self { domain: labels.map(|label| label.as_bytes().to_vec()).collect(), pods }
    }

    /// How the engine is to answer this query.
    pub fn records(&self, query: &[u8]) -> PodRecords {
        match self.asked(query) {
            Some((namespace, address)) if self.pods.has(&namespace, address) => PodRecords::Insecure,
            _ => PodRecords::Verified,
        }
    }

    /// The namespace and the address of a pod's name.
    fn asked(&self, query: &[u8]) -> Option<(String, IpAddr)> {
        let query = Query::parse(query).ok()?;
        let mut labels = query.name.labels();
        let (dashed, namespace, pod) = (labels.next()?, labels.next()?, labels.next()?);
        let same = |(a, b): (&[u8], &Vec<u8>)| a.eq_ignore_ascii_case(b);
        let is_pod = pod.eq_ignore_ascii_case(b"pod") && labels.clone().count() == self.domain.len();
        if !is_pod || !labels.zip(&self.domain).all(same) {
            return None;
        }
        Some((std::str::from_utf8(namespace).ok()?.to_ascii_lowercase(), from_dashed(dashed)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use edgemesh_discovery::object::{Identity, Kind, Object};
    use edgemesh_discovery::table::Table;

    /// A query for the addresses of a name.
    fn query(name: &str) -> Vec<u8> {
        let mut out = vec![0, 7, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
        for label in name.split('.') {
            out.push(label.len() as u8);
            out.extend(label.as_bytes());
        }
        out.extend([0, 0, 1, 0, 1]);
        out
    }

    #[test]
    fn d25_only_names_of_pods_that_there_are_go_unverified() {
        let mut table = Table::default();
        let identity = Identity { kind: Kind::Pod, namespace: "shop".into(), name: "p".into() };
        let addresses = ["10.244.1.7", "fd00::7"].map(|ip| ip.parse().unwrap()).to_vec();
        table.apply(std::time::Instant::now(), identity, Some(Object::Pod(addresses)));
        let names = PodNames::new("cluster.local", table.pods().clone());
        for (name, known) in [
            ("10-244-1-7.shop.pod.cluster.local", true),
            ("10-244-1-7.SHOP.Pod.Cluster.LOCAL", true),
            ("fd00--7.shop.pod.cluster.local", true),
            ("10-244-1-8.shop.pod.cluster.local", false),
            ("10-244-1-7.other.pod.cluster.local", false),
            ("10-244-1-7.shop.svc.cluster.local", false),
            ("10-244-1-7.shop.pod.cluster.example", false),
            ("10-244-1-7.shop.pod.cluster.local.example", false),
            ("shop.pod.cluster.local", false),
            ("what.shop.pod.cluster.local", false),
        ] {
            let expected = if known { PodRecords::Insecure } else { PodRecords::Verified };
            assert_eq!(names.records(&query(name)), expected, "{name}");
        }
        assert_eq!(names.records(b"garbage"), PodRecords::Verified);
    }
}
