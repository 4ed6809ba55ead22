use super::*;
use crate::testing::{A, B, Numbers, encoded};

#[test]
fn half_a_service_and_half_a_list_are_never_seen() {
    let table = encoded(&[A, B], &mut Numbers::default());
    let mut replica = Replica::new(table.clone());
    let all: Vec<u8> = encoded(&[A], &mut Numbers::default()).full().concat();
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
