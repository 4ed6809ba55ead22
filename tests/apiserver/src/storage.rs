//! The objects, their resource versions, and the history that watches are served from.
//!
//! One counter gives resource versions to all resources, as etcd does. The history is never shortened
//! (a test is), only declared to be; a snapshot of each list that is read in pages is kept until then.

use crate::resource::Resource;
use serde_json::{Value, json};
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;

/// Resource, namespace (empty without one), name.
pub(crate) type Key = (Resource, String, String);

/// A change, as watches tell it.
#[derive(Clone)]
pub(crate) struct Change {
    pub(crate) version: u64,
    pub(crate) resource: Resource,
    pub(crate) namespace: String,
    /// `ADDED`, `MODIFIED` or `DELETED`
    pub(crate) event: &'static str,
    pub(crate) object: Arc<Value>,
}

/// A list that is read in pages.
pub(crate) struct Pages {
    pub(crate) version: u64,
    pub(crate) objects: Vec<Arc<Value>>,
}

/// See the module's documentation.
pub(crate) struct Storage {
    pub(crate) version: u64,
    /// Changes up to this version count as forgotten.
    compacted: u64,
    objects: BTreeMap<Key, Arc<Value>>,
    history: VecDeque<Change>,
    pages: HashMap<u64, Arc<Pages>>,
    next_pages: u64,
}

/// Why a write is refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum WriteError {
    /// `metadata.name` is missing or not the one of the path.
    Name,
    /// It exists, or its resource version is another one.
    Conflict,
}

impl Storage {
    pub(crate) fn new() -> Self {
        Self {
            version: 1_000,
            compacted: 1_000,
            objects: BTreeMap::new(),
            history: VecDeque::new(),
            pages: HashMap::new(),
            next_pages: 1,
        }
    }

    /// Creates or replaces an object; its new resource version.
    pub(crate) fn put(&mut self, key: Key, mut object: Value) -> Result<Arc<Value>, WriteError> {
        let (resource, namespace, name) = key.clone();
        let old = self.objects.get(&key);
        let Some(fields) = object.as_object_mut() else { return Err(WriteError::Name) };
        fields.entry("kind").or_insert_with(|| resource.kind().into());
        fields.entry("apiVersion").or_insert_with(|| resource.api_version().into());
        let meta = fields.entry("metadata").or_insert_with(|| json!({}));
        let Some(meta) = meta.as_object_mut() else { return Err(WriteError::Name) };
        if let (Some(given), Some(old)) = (meta.get("resourceVersion").and_then(Value::as_str), old)
            && old.pointer("/metadata/resourceVersion").and_then(Value::as_str) != Some(given)
        {
            return Err(WriteError::Conflict);
        }
        let uid = old.and_then(|o| o.pointer("/metadata/uid")).cloned();
        self.version += 1;
        let uid = uid.unwrap_or_else(|| format!("00000000-0000-4000-8000-{:012x}", self.version).into());
        meta.insert("name".to_owned(), name.into());
        if resource.namespaced() {
            meta.insert("namespace".to_owned(), namespace.clone().into());
        }
        meta.insert("uid".to_owned(), uid);
        meta.insert("resourceVersion".to_owned(), self.version.to_string().into());
        let event = if old.is_some() { "MODIFIED" } else { "ADDED" };
        let object = Arc::new(object);
        self.objects.insert(key, object.clone());
        let change = Change { version: self.version, resource, namespace, event, object: object.clone() };
        self.history.push_back(change);
        Ok(object)
    }

    /// Deletes an object and tells watches.
    pub(crate) fn delete(&mut self, key: &Key) -> Option<Arc<Value>> {
        let object = self.objects.remove(key)?;
        self.version += 1;
        let mut last = (*object).clone();
        if let Some(version) = last.pointer_mut("/metadata/resourceVersion") {
            *version = self.version.to_string().into();
        }
        let object = Arc::new(last);
        self.history.push_back(Change {
            version: self.version,
            resource: key.0,
            namespace: key.1.clone(),
            event: "DELETED",
            object: object.clone(),
        });
        Some(object)
    }

    /// Takes an object away without telling anybody.
    pub(crate) fn forget(&mut self, key: &Key) -> bool {
        self.objects.remove(key).is_some()
    }

    pub(crate) fn get(&self, key: &Key) -> Option<Arc<Value>> {
        self.objects.get(key).cloned()
    }

    /// The objects of a resource, perhaps of one namespace, in order of their names.
    pub(crate) fn list(&self, resource: Resource, namespace: Option<&str>) -> Vec<Arc<Value>> {
        let start = (resource, namespace.unwrap_or_default().to_owned(), String::new());
        let same = |key: &Key| key.0 == resource && namespace.is_none_or(|n| n == key.1);
        self.objects.range(start..).take_while(|(key, _)| same(key)).map(|(_, o)| o.clone()).collect()
    }

    /// Keeps a list for its further pages.
    pub(crate) fn keep_pages(&mut self, objects: Vec<Arc<Value>>) -> u64 {
        let id = self.next_pages;
        self.next_pages += 1;
        self.pages.insert(id, Arc::new(Pages { version: self.version, objects }));
        id
    }

    pub(crate) fn pages(&self, id: u64) -> Option<Arc<Pages>> {
        self.pages.get(&id).cloned()
    }

    pub(crate) fn forget_pages(&mut self) {
        self.pages.clear();
    }

    /// Older resource versions and continue tokens are `Gone` from here on; watches that are open go on.
    pub(crate) fn compact(&mut self) {
        // A version nobody has seen, so that even the newest that a client holds is too old.
        self.version += 1;
        self.compacted = self.version;
        self.forget_pages();
    }

    /// Whether no watch can start at `version` any more.
    pub(crate) fn gone(&self, version: u64) -> bool {
        version < self.compacted
    }

    /// What happened after `version`.
    pub(crate) fn since(&self, version: u64, resource: Resource, namespace: Option<&str>) -> Vec<Change> {
        let wanted = |c: &&Change| {
            c.version > version && c.resource == resource && namespace.is_none_or(|n| n == c.namespace)
        };
        self.history.iter().filter(wanted).cloned().collect()
    }
}
