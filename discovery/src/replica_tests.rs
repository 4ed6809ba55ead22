use super::*;
use crate::encoded::Encoded;
use crate::served::Served;
use crate::testing::{Numbers, objects};
use std::time::Instant;

fn encoded(parts: &[&str]) -> Encoded {
    let mut served = Served::default();
    served.apply(Instant::now(), objects(&parts.join("\n---\n")).into_iter().collect());
    let _ = served.encode(&mut Numbers::default());
    served.encoded().clone()
}

const A: &str = "{kind: Service, metadata: {name: a, namespace: n}, spec: {clusterIP: 10.0.0.1, ports: [{name: p, port: 80}]}}";
const B: &str =
    "{kind: Service, metadata: {name: b, namespace: n}, spec: {type: ExternalName, externalName: x.example}}";

#[test]
fn half_a_service_and_half_a_list_are_never_seen() {
    let table = encoded(&[A, B]);
    let mut replica = Replica::new(table.clone());
    let all: Vec<u8> = encoded(&[A]).full().concat();
    let parts: Vec<Update<'_>> = updates(&all).map(Result::unwrap).collect();
    for part in &parts[..parts.len() - 1] {
        replica.apply(part).unwrap();
        assert_eq!(replica.table(), &table);
        assert!(replica.take_step().is_empty());
    }
    replica.apply(&parts[parts.len() - 1]).unwrap();
    assert_eq!(replica.table().len(), 1);
    assert!(replica.take_step().is_whole());
    assert_eq!(Replica::default().apply(&Update::Commit), Err(ReplicaError::Order));
    assert_eq!(Replica::default().apply(&Update::End), Err(ReplicaError::Order));
    assert_eq!(Replica::default().apply_run(&[0xFF; 9]), Err(ReplicaError::Malformed));
}
