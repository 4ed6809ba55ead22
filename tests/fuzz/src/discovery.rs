//! Kubernetes objects as JSON and YAML, and the table in its stored form.

use edgemesh_discovery::entry::{self, EncodedEntries};
use edgemesh_discovery::manifests;
use edgemesh_discovery::object::{Object, parse};
use edgemesh_discovery::replica::Replica;
use edgemesh_discovery::snapshot::{from_snapshot, to_snapshot};
use edgemesh_discovery::table::Table;
use std::time::Instant;

/// A JSON document as an API server sends it.
pub(crate) fn json(bytes: &[u8]) {
    if let Ok(document) = serde_json::from_slice(bytes) {
        objects(document);
    }
}

/// A YAML document as people write it.
pub(crate) fn yaml(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    if let Ok(document) = manifests::value(text) {
        objects(document);
    }
}

/// Objects go into the table, and out again: it is empty then.
fn objects(document: serde_json::Value) {
    let mut found = Vec::new();
    if let Err(errors) = parse(document, &mut found) {
        assert!(!errors.is_empty() && errors.iter().all(|e| !e.to_string().is_empty()));
    }
    let mut table = Table::default();
    // Only spans behind this moment matter.
    let now = Instant::now();
    for (identity, object) in &found {
        assert!(!identity.name.is_empty() && identity.name.len() <= 253);
        if let Object::Service(service) = object {
            assert!(service.ports.iter().all(|port| port.port != 0), "port 0");
        }
        table.apply(now, identity.clone(), Some(object.clone()));
    }
    let keys: Vec<_> = table.keys().cloned().collect();
    assert!(keys.iter().all(|key| table.entry(key).is_some()));
    let list = entry::entries(&table);
    assert_eq!(entry::decode(EncodedEntries::new(&list).bytes()).as_ref(), Ok(&list));
    for (identity, _) in found {
        table.apply(now, identity, None);
    }
    assert!(table.is_empty() && table.nodes().is_empty() && table.namespaces().is_empty());
}

/// A run of updates and the list of entry points, as the server sends them; a snapshot file.
pub(crate) fn snapshot(bytes: &[u8]) {
    let mut replica = Replica::default();
    if replica.apply_run(bytes).is_ok() {
        let table = replica.into_table();
        let head = edgemesh_discovery::snapshot::Head { epoch: 1, sequence: 2, unix_secs: 3 };
        let (again, read) = from_snapshot(&to_snapshot(&head, &table)).expect("an own snapshot is refused");
        assert_eq!((again, read.digest()), (head, table.digest()));
    }
    if let Ok(list) = entry::decode(bytes) {
        assert_eq!(entry::decode(EncodedEntries::new(&list).bytes()), Ok(list));
    }
    let _ = from_snapshot(bytes);
}
