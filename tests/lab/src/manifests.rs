//! Unmodified Kubernetes Service and EndpointSlice YAML, as `kubectl get -o yaml` would print the parts that matter.
//!
//! Files are replaced by rename, so that a reader sees the old or the new one, never half of one.
//!
//! Not here: a YAML library; the shapes are fixed and every value is a name or a number.

use std::fmt::Write;
use std::fs;
use std::net::Ipv4Addr;
use std::path::Path;

use crate::{Context, Result};

/// One port of a Service.
#[derive(Debug, Clone)]
pub struct Port {
    /// Port name, as in SRV records.
    pub name: &'static str,
    /// What clients connect to.
    pub port: u16,
    /// What the endpoints listen on.
    pub target: u16,
    /// `TCP`, `UDP` or `SCTP`.
    pub protocol: &'static str,
    /// `nodePort`, for a Service whose type has them.
    pub node_port: Option<u16>,
}

/// One endpoint: a pod's or a node's address, and on which node it is.
#[derive(Debug, Clone)]
pub struct Endpoint {
    /// Its address, meaningful on its node only.
    pub ip: Ipv4Addr,
    /// `nodeName`.
    pub node: String,
    /// `conditions.ready`.
    pub ready: bool,
    /// `hostname`, for headless Services.
    pub hostname: Option<String>,
    /// `conditions.terminating`; it serves until it is gone.
    pub terminating: bool,
}

/// A Service with its endpoints.
#[derive(Debug, Clone)]
pub struct Service {
    /// `metadata.namespace`.
    pub namespace: &'static str,
    /// `metadata.name`.
    pub name: &'static str,
    /// `None` makes it headless.
    pub cluster_ip: Option<Ipv4Addr>,
    /// Its ports.
    pub ports: Vec<Port>,
    /// Its endpoints.
    pub endpoints: Vec<Endpoint>,
    /// `type`.
    pub kind: &'static str,
    /// Further lines of `spec`, such as `externalTrafficPolicy: Local`.
    pub spec: Vec<String>,
    /// `status.loadBalancer.ingress[].ip`.
    pub ingress: Vec<Ipv4Addr>,
}

impl Service {
    /// A Service in namespace `default` with a ClusterIP and neither ports nor endpoints yet.
    pub fn new(name: &'static str, cluster_ip: Ipv4Addr) -> Self {
        Self {
            namespace: "default",
            name,
            cluster_ip: Some(cluster_ip),
            ports: Vec::new(),
            endpoints: Vec::new(),
            kind: "ClusterIP",
            spec: Vec::new(),
            ingress: Vec::new(),
        }
    }

    /// Adds a port that leads to the same or another one.
    #[must_use]
    pub fn port(mut self, protocol: &'static str, name: &'static str, port: u16, target: u16) -> Self {
        self.ports.push(Port { name, port, target, protocol, node_port: None });
        self
    }

    /// The same Service as one of type NodePort, its port added last being that one on every node.
    #[must_use]
    pub fn node_port(mut self, number: u16) -> Self {
        if let Some(port) = self.ports.last_mut() {
            port.node_port = Some(number);
        }
        if self.kind == "ClusterIP" {
            self.kind = "NodePort";
        }
        self
    }

    /// The same Service behind a load balancer with that address.
    #[must_use]
    pub fn balanced(mut self, ip: Ipv4Addr) -> Self {
        self.kind = "LoadBalancer";
        self.ingress.push(ip);
        self
    }

    /// Adds a line to its `spec`.
    #[must_use]
    pub fn with(mut self, line: impl Into<String>) -> Self {
        self.spec.push(line.into());
        self
    }

    /// The same Service while its endpoints end, and still serve.
    #[must_use]
    pub fn ending(mut self) -> Self {
        for endpoint in &mut self.endpoints {
            (endpoint.ready, endpoint.terminating) = (false, true);
        }
        self
    }

    /// Adds a ready endpoint.
    #[must_use]
    pub fn endpoint(mut self, node: &str, ip: Ipv4Addr) -> Self {
        let node = node.to_owned();
        self.endpoints.push(Endpoint { ip, node, ready: true, hostname: None, terminating: false });
        self
    }

    /// The same Service without the endpoints of a node.
    #[must_use]
    pub fn without(mut self, node: &str) -> Self {
        self.endpoints.retain(|endpoint| endpoint.node != node);
        self
    }

    /// The name in full, as clients resolve it.
    pub fn full_name(&self) -> String {
        format!("{}.{}.svc.cluster.local", self.name, self.namespace)
    }

    /// Both manifests, as one YAML stream.
    pub fn yaml(&self) -> String {
        let mut text = String::new();
        // Writing into a String cannot fail.
        let _ = self.write(&mut text);
        text
    }

    fn write(&self, out: &mut String) -> core::fmt::Result {
        let (namespace, name) = (self.namespace, self.name);
        let cluster_ip = self.cluster_ip.map_or("None".to_owned(), |ip| ip.to_string());
        writeln!(out, "apiVersion: v1\nkind: Service\nmetadata:\n  name: {name}")?;
        writeln!(out, "  namespace: {namespace}")?;
        writeln!(out, "  uid: 00000000-0000-4000-8000-{:0>12}", hex(name))?;
        writeln!(
            out,
            "spec:\n  type: {}\n  clusterIP: {cluster_ip}\n  clusterIPs:\n  - {cluster_ip}",
            self.kind
        )?;
        for line in &self.spec {
            writeln!(out, "  {line}")?;
        }
        writeln!(out, "  ipFamilies:\n  - IPv4\n  selector:\n    app: {name}\n  ports:")?;
        for port in &self.ports {
            writeln!(out, "  - name: {}\n    port: {}", port.name, port.port)?;
            writeln!(out, "    targetPort: {}\n    protocol: {}", port.target, port.protocol)?;
            if let Some(number) = port.node_port {
                writeln!(out, "    nodePort: {number}")?;
            }
        }
        if !self.ingress.is_empty() {
            writeln!(out, "status:\n  loadBalancer:\n    ingress:")?;
            self.ingress.iter().try_for_each(|ip| writeln!(out, "    - ip: {ip}"))?;
        }
        writeln!(
            out,
            "---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\naddressType: IPv4\nmetadata:"
        )?;
        writeln!(out, "  name: {name}-x7k2p\n  namespace: {namespace}\n  labels:")?;
        writeln!(out, "    kubernetes.io/service-name: {name}\nports:")?;
        for port in &self.ports {
            writeln!(out, "- name: {}\n  port: {}\n  protocol: {}", port.name, port.target, port.protocol)?;
        }
        if self.endpoints.is_empty() {
            return writeln!(out, "endpoints: []");
        }
        writeln!(out, "endpoints:")?;
        for endpoint in &self.endpoints {
            writeln!(out, "- addresses:\n  - {}\n  nodeName: {}", endpoint.ip, endpoint.node)?;
            if let Some(hostname) = &endpoint.hostname {
                writeln!(out, "  hostname: {hostname}")?;
            }
            let (ready, terminating) = (endpoint.ready, endpoint.terminating);
            let serving = ready || terminating;
            writeln!(out, "  conditions:\n    ready: {ready}\n    serving: {serving}")?;
            writeln!(out, "    terminating: {terminating}")?;
        }
        Ok(())
    }

    /// Writes the manifests into a directory, replacing the Service's earlier file.
    ///
    /// # Errors
    /// When the directory cannot be written.
    pub fn write_to(&self, directory: &Path) -> Result {
        write_file(directory, &format!("{}.yaml", self.name), &self.yaml())
    }

    /// Removes the Service's file.
    ///
    /// # Errors
    /// When it cannot be removed.
    pub fn remove_from(&self, directory: &Path) -> Result {
        let file = directory.join(format!("{}.yaml", self.name));
        fs::remove_file(&file).context(file.display())
    }
}

/// Replaces a file in one step.
///
/// # Errors
/// When the directory cannot be written.
pub fn write_file(directory: &Path, name: &str, text: &str) -> Result {
    let hidden = directory.join(format!(".{name}.new"));
    fs::write(&hidden, text).context(hidden.display())?;
    let file = directory.join(name);
    fs::rename(&hidden, &file).context(file.display())
}

/// Up to six characters of a name as digits, for a stable uid.
fn hex(name: &str) -> String {
    name.bytes().take(6).map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_and_its_slice_name_the_same_things() {
        let park = Service::new("park", Ipv4Addr::new(10, 96, 0, 10))
            .port("TCP", "http", 80, 8080)
            .endpoint("a1", Ipv4Addr::new(172, 17, 0, 2))
            .endpoint("b1", Ipv4Addr::new(172, 17, 0, 2));
        let yaml = park.yaml();
        assert!(yaml.contains("clusterIP: 10.96.0.10"));
        assert!(yaml.contains("kubernetes.io/service-name: park"));
        assert_eq!(yaml.matches("nodeName:").count(), 2);
        assert_eq!(park.without("b1").yaml().matches("nodeName:").count(), 1);
    }

    #[test]
    fn a_service_without_endpoints_still_has_a_slice() {
        let empty = Service::new("empty", Ipv4Addr::new(10, 96, 0, 11)).port("TCP", "http", 80, 80);
        assert!(empty.yaml().ends_with("endpoints: []\n"));
    }
}
