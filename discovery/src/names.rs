//! The names of nodes that endpoints are on, each kept once.
//!
//! A cluster has far fewer nodes than endpoints: with 50,000 endpoints a copy for each would be megabytes. Bounded by
//! the names in use: those that no endpoint has any more go when the number of names has doubled.

use crate::object::EndpointGroup;
use std::collections::BTreeSet;
use std::sync::Arc;

/// Below this many names none is looked for that nobody uses.
const FEW: usize = 256;

/// See the module's documentation.
#[derive(Clone, Debug, Default)]
pub(crate) struct Names {
    known: BTreeSet<Arc<str>>,
    /// How many names were in use when that was looked at last.
    used: usize,
}

impl Names {
    /// Has the endpoints share their nodes' names with all others; and gives back what the group does not fill.
    pub(crate) fn share(&mut self, group: &mut EndpointGroup) {
        group.ports.shrink_to_fit();
        group.endpoints.shrink_to_fit();
        for endpoint in &mut group.endpoints {
            if let Some(known) = self.known.get(&endpoint.node) {
                endpoint.node = known.clone();
            } else {
                self.known.insert(endpoint.node.clone());
            }
        }
        if self.known.len() > FEW.max(self.used * 2) {
            self.known.retain(|name| Arc::strong_count(name) > 1);
            self.used = self.known.len();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::object::Endpoint;

    fn group(node: &str) -> EndpointGroup {
        let endpoint = Endpoint {
            address: [10, 0, 0, 1].into(),
            node: node.into(),
            hostname: Box::default(),
            conditions: 0,
            zones: Box::default(),
        };
        EndpointGroup { ports: Vec::new(), endpoints: vec![endpoint] }
    }

    #[test]
    fn equal_names_are_one_and_those_that_nobody_uses_go() {
        let mut names = Names::default();
        let (mut one, mut other) = (group("edge-1"), group("edge-1"));
        names.share(&mut one);
        names.share(&mut other);
        assert!(Arc::ptr_eq(&one.endpoints[0].node, &other.endpoints[0].node));
        for n in 0..10 * FEW {
            names.share(&mut group(&format!("gone-{n}")));
        }
        assert!(names.known.len() <= FEW + 1, "{} names", names.known.len());
        assert!(names.known.contains("edge-1"));
    }
}
