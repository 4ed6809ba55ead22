//! What becomes of endpoints when their Node is not ready: told as the cloud tells it, object by object.

use super::*;
use crate::object::{Identity, Object};
use crate::table::Table;
use crate::testing::objects;
use feed::{ENDPOINT_HELD, ENDPOINT_READY, ENDPOINT_TERMINATING};

const SERVICE: &str =
    "{kind: Service, metadata: {name: web}, spec: {clusterIP: 10.96.0.1, ports: [{port: 80}]}}";

struct Cloud {
    table: Table,
    now: Instant,
}

impl Cloud {
    /// A Service with a ready pod on each of two ready Nodes.
    fn new() -> Self {
        let mut cloud = Self { table: Table::default(), now: Instant::now() };
        cloud.tell(SERVICE);
        for node in ["n1", "n2"] {
            cloud.node(node, "True");
        }
        cloud.slice(&[("n1", "ready: true"), ("n2", "ready: true")]);
        assert_eq!(cloud.seen(), ["n1 ready", "n2 ready"]);
        cloud
    }

    fn tell(&mut self, yaml: &str) {
        for (identity, object) in objects(yaml) {
            self.table.apply(self.now, identity, Some(object));
        }
    }

    fn node(&mut self, name: &str, ready: &str) {
        self.tell(&format!(
            "{{kind: Node, metadata: {{name: {name}}}, status: {{conditions: [{{type: Ready, status: '{ready}'}}]}}}}"
        ));
    }

    fn gone(&mut self, like: &str) {
        for (identity, _) in objects(like) {
            self.table.apply(self.now, identity, None);
        }
    }

    fn slice_yaml(endpoints: &[(&str, &str)]) -> String {
        let one = |(node, conditions): &(&str, &str)| {
            format!("{{addresses: [172.17.0.2], nodeName: {node}, conditions: {{{conditions}}}}}")
        };
        let all: Vec<_> = endpoints.iter().map(one).collect();
        format!(
            "{{kind: EndpointSlice, metadata: {{name: web-1, labels: {{kubernetes.io/service-name: web}}}}, \
             addressType: IPv4, ports: [{{port: 8080}}], endpoints: [{}]}}",
            all.join(", ")
        )
    }

    fn slice(&mut self, endpoints: &[(&str, &str)]) {
        self.tell(&Self::slice_yaml(endpoints));
    }

    fn wait(&mut self, secs: u64) {
        self.now += Duration::from_secs(secs);
    }

    /// Whether the Service is said to differ since the last look.
    fn differs(&mut self) -> bool {
        self.table.take_changed(self.now).services.iter().any(|key| key.name == "web")
    }

    /// The endpoints that are not plainly unready.
    fn seen(&self) -> Vec<String> {
        let key = self.table.keys().next().unwrap();
        let entry = self.table.entry(key).unwrap();
        let text = |e: &Endpoint| {
            let word = |bit, word: &'static str| if e.conditions & bit != 0 { word } else { "" };
            let words = [
                word(ENDPOINT_READY, " ready"),
                word(ENDPOINT_TERMINATING, " ends"),
                word(ENDPOINT_HELD, " held"),
            ];
            format!("{}{}", e.node, words.concat())
        };
        entry.groups.iter().flat_map(|group| &group.endpoints).map(text).collect()
    }
}

#[test]
fn g4_what_was_ready_stands_while_its_node_is_not() {
    for node_first in [true, false] {
        let mut cloud = Cloud::new();
        for node_s_turn in [node_first, !node_first] {
            if node_s_turn {
                cloud.node("n1", "Unknown");
            } else {
                cloud.slice(&[("n1", "ready: false"), ("n2", "ready: true")]);
            }
            assert!(cloud.differs());
            cloud.wait(20);
        }
        assert_eq!(cloud.seen(), ["n1 ready held", "n2 ready"], "node first: {node_first}");
        // Five minutes later it is evicted, and a new one made elsewhere.
        cloud.wait(300);
        cloud.slice(&[("n1", "ready: false, terminating: true"), ("n2", "ready: true")]);
        assert_eq!(cloud.seen(), ["n1 ready held", "n2 ready"]);
        cloud.slice(&[("n2", "ready: true")]);
        assert_eq!(cloud.seen(), ["n1 ready held", "n2 ready"]);
        cloud.gone(&Cloud::slice_yaml(&[]));
        assert_eq!(cloud.seen(), ["n1 ready held"], "deleted on a Node that is ready: obeyed");
    }
}

#[test]
fn g4_a_node_that_is_ready_is_obeyed() {
    let mut cloud = Cloud::new();
    cloud.slice(&[("n1", "ready: false"), ("n2", "ready: true, terminating: true")]);
    assert_eq!(cloud.seen(), ["n1", "n2 ready ends"]);
    // Much later the Node is lost: the pod was not ready before.
    cloud.wait(31);
    cloud.node("n1", "False");
    assert_eq!(cloud.seen(), ["n1", "n2 ready ends"]);
    let mut cloud = Cloud::new();
    cloud.node("n1", "False");
    assert!(cloud.differs());
    assert_eq!(cloud.seen(), ["n1 ready held", "n2 ready"], "its node is to find out whether it answers");
    cloud.slice(&[("n2", "ready: true")]);
    cloud.gone("{kind: Node, metadata: {name: n1}}");
    assert!(cloud.differs());
    assert_eq!(cloud.seen(), ["n2 ready"], "the Node is gone for good");
}

#[test]
fn g4_the_cloud_is_given_time_to_hear_of_the_pods_of_a_node_that_is_back() {
    let lost = || {
        let mut cloud = Cloud::new();
        cloud.node("n1", "Unknown");
        cloud.slice(&[("n1", "ready: false"), ("n2", "ready: true")]);
        cloud.wait(600);
        cloud.node("n1", "True");
        assert_eq!(cloud.seen(), ["n1 ready held", "n2 ready"]);
        assert_eq!(cloud.table.due(), Some(cloud.now + LATELY));
        assert!(cloud.differs());
        cloud
    };
    let mut heard = lost();
    heard.slice(&[("n1", "ready: true"), ("n2", "ready: true")]);
    assert_eq!(heard.seen(), ["n1 ready", "n2 ready"]);
    let mut deleted = lost();
    deleted.slice(&[("n1", "ready: false, terminating: true"), ("n2", "ready: true")]);
    assert_eq!(deleted.seen(), ["n1 ends", "n2 ready"], "its Node is ready and sees to it");
    let mut silent = lost();
    silent.wait(29);
    assert!(!silent.differs());
    silent.wait(1);
    assert!(silent.differs());
    assert_eq!((silent.seen(), silent.table.due()), (vec!["n1".to_owned(), "n2 ready".to_owned()], None));
    let mut again = lost();
    again.node("n1", "Unknown");
    again.wait(60);
    assert_eq!(again.seen(), ["n1 ready held", "n2 ready"], "a Node that comes and goes");
}

#[test]
fn g4_who_begins_while_a_node_is_lost_believes_that_its_pods_run() {
    let told = [
        SERVICE.to_owned(),
        Cloud::slice_yaml(&[("n1", "ready: false, terminating: true"), ("n2", "ready: false")]),
        "{kind: Node, metadata: {name: n1}, status: {conditions: [{type: Ready, status: Unknown}]}}"
            .to_owned(),
        "{kind: Node, metadata: {name: n2}, status: {conditions: [{type: Ready, status: 'True'}]}}"
            .to_owned(),
    ];
    for turn in 0..told.len() {
        let mut cloud = Cloud { table: Table::default(), now: Instant::now() };
        for n in 0..told.len() {
            cloud.tell(&told[(turn + n) % told.len()]);
        }
        assert_eq!(cloud.seen(), ["n1 ready held", "n2"], "beginning with {turn}");
    }
}

#[test]
fn a_service_that_goes_takes_what_was_held_with_it_and_there_is_a_bound() {
    let mut cloud = Cloud::new();
    cloud.node("n1", "Unknown");
    cloud.slice(&[("n2", "ready: true")]);
    cloud.gone(SERVICE);
    cloud.tell(SERVICE);
    assert_eq!(cloud.seen(), ["n2 ready"]);
    let mut held = Held::default();
    let key = Arc::new(Key { namespace: "default".into(), name: "many".into() });
    let nodes = BTreeMap::from([("n1".to_owned(), Node { ready: Some(false), ..Node::default() })]);
    let slice = Cloud::slice_yaml(&[("n1", "ready: true")]);
    let Some((Identity { .. }, Object::EndpointSlice(slice))) = objects(&slice).pop() else { panic!() };
    let one = slice.group.endpoints[0].clone();
    let address = |n: u32| std::net::IpAddr::from((0x0a00_0000 + n).to_be_bytes());
    let endpoints =
        (0..LOST_MAX as u32 + 9).map(|n| Endpoint { address: address(n), ..one.clone() }).collect();
    let group = EndpointGroup { endpoints, ..slice.group };
    held.note(Instant::now(), &key, [Some(&[group]), Some(&[])], |_| None, &nodes);
    assert_eq!((held.of(&key).count(), held.count), (LOST_MAX, LOST_MAX));
    held.forget(&key);
    assert_eq!((held.of(&key).count(), held.count), (0, 0));
}

#[test]
fn g4_what_is_held_outlives_the_process_and_what_the_cloud_deleted_meanwhile() {
    let mut cloud = Cloud::new();
    assert_eq!(cloud.table.take_held(), None, "nothing to store");
    cloud.node("n2", "Unknown");
    cloud.slice(&[("n1", "ready: true"), ("n2", "ready: false")]);
    let stored = cloud.table.take_held().unwrap();
    assert_eq!(cloud.table.take_held(), None);
    cloud.slice(&[("n1", "ready: true")]);
    assert_eq!(cloud.table.take_held(), None, "as before");
    assert_eq!(cloud.seen(), ["n1 ready", "n2 ready held"]);
    // What the next process hears, in any order, of a cloud that has deleted the pod.
    let hears = |order: [usize; 4], down: &str| {
        let mut next = Cloud { table: Table::default(), now: cloud.now };
        next.table.restore_held(next.now, &stored).unwrap();
        for part in order {
            match part {
                0 => next.tell(SERVICE),
                1 => next.node("n1", "True"),
                2 if !down.is_empty() => next.node("n2", down),
                2 => {}
                _ => next.slice(&[("n1", "ready: true")]),
            }
        }
        next.table.settle();
        next
    };
    for order in [[0, 1, 2, 3], [3, 2, 1, 0], [2, 3, 0, 1]] {
        let mut next = hears(order, "Unknown");
        assert_eq!(next.seen(), ["n1 ready", "n2 ready held"], "{order:?}");
        assert_eq!(next.table.take_held(), None, "it is on disk");
        next.wait(3_600);
        next.node("n2", "True");
        assert_eq!(next.seen(), ["n1 ready"], "its Node is ready, and the cloud does not list it");
        let nothing = next.table.take_held().unwrap();
        assert_eq!(Table::default().restore_held(next.now, &nothing), Ok(()));
        assert_eq!(hears(order, "True").seen(), ["n1 ready"]);
        assert_eq!(hears(order, "").seen(), ["n1 ready"], "a Node that is gone");
    }
    let mut other = Cloud { table: Table::default(), now: cloud.now };
    assert!(other.table.restore_held(other.now, &stored[..stored.len() - 1]).is_err());
}
