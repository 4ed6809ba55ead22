//! A receiver's copy of a table, built from the updates as they come.

use crate::encoded::{Encoded, Step, put};
use crate::table::Key;
use edgemesh_core::wire::control::updates;
use edgemesh_core::wire::feed::Update;
use std::sync::Arc;

/// Why a replica refuses an update.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ReplicaError {
    /// Bytes that are no updates.
    Malformed,
    /// A port, endpoint or commit outside a Service, or an end without a beginning.
    Order,
}

impl std::fmt::Display for ReplicaError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Malformed => "not a service table",
            Self::Order => "the parts of the service table come in the wrong order",
        })
    }
}

impl std::error::Error for ReplicaError {}

/// The receiver's copy of a table, built from the updates as they come.
///
/// What has arrived so far counts at once; whether it is what the directory signed is known at the next commit,
/// by comparing [`Encoded::digest`]. Bounded by the table, and while a full list arrives by two of it.
#[derive(Clone, Debug, Default)]
pub struct Replica {
    table: Encoded,
    /// A full list that is not complete yet.
    list: Option<Encoded>,
    /// A Service that is not complete yet.
    open: Option<(Key, Vec<u8>)>,
    /// What differs since somebody asked.
    step: Step,
}

impl Replica {
    /// Starts from a known table.
    pub fn new(table: Encoded) -> Self {
        Self { table, ..Self::default() }
    }

    /// What differs since this was asked last.
    pub fn take_step(&mut self) -> Step {
        std::mem::take(&mut self.step)
    }

    /// The table as far as it is complete, without the rest.
    pub fn into_table(self) -> Encoded {
        self.table
    }

    /// The table as far as it is complete.
    pub fn table(&self) -> &Encoded {
        &self.table
    }

    /// Takes a run of updates, such as the body of a feed frame.
    ///
    /// # Errors
    /// See [`ReplicaError`]; the replica is useless then and a full list has to be asked for.
    pub fn apply_run(&mut self, bytes: &[u8]) -> Result<(), ReplicaError> {
        for update in updates(bytes) {
            self.apply(&update.map_err(|_| ReplicaError::Malformed)?)?;
        }
        Ok(())
    }

    /// Takes one update.
    ///
    /// # Errors
    /// [`ReplicaError::Order`].
    pub fn apply(&mut self, update: &Update<'_>) -> Result<(), ReplicaError> {
        match update {
            Update::Service(def) => {
                let key = Key { namespace: def.namespace.to_owned(), name: def.name.to_owned() };
                let mut bytes = Vec::new();
                put(&mut bytes, update);
                self.open = Some((key, bytes));
            }
            Update::Port(_) | Update::Targets(_) | Update::Endpoint(_) | Update::Domain(_) => {
                put(&mut self.open.as_mut().ok_or(ReplicaError::Order)?.1, update);
            }
            Update::Commit => {
                let (key, mut bytes) = self.open.take().ok_or(ReplicaError::Order)?;
                put(&mut bytes, update);
                let key = Arc::new(key);
                if self.target().put_service(key.clone(), bytes) {
                    self.note(|step| step.service(key));
                }
            }
            Update::Begin => {
                let mut list = Encoded::default();
                list.set_home(self.table.home(), &mut Step::default());
                self.list = Some(list);
            }
            Update::End => {
                self.table = self.list.take().ok_or(ReplicaError::Order)?;
                self.step = Step::whole();
            }
            Update::Remove { namespace, name } => {
                let key = Key { namespace: (*namespace).to_owned(), name: (*name).to_owned() };
                if let Some(key) = self.target().remove_service(&key) {
                    self.note(|step| step.service(key));
                }
            }
            Update::Home(home) => {
                self.table.set_home(*home, &mut self.step);
                if let Some(list) = &mut self.list {
                    list.set_home(*home, &mut Step::default());
                }
            }
            Update::Namespace(name) => {
                if self.target().add_namespace(name) {
                    self.note(|step| step.namespace(name));
                }
            }
        }
        Ok(())
    }

    /// Notes what differs now; what a list says counts when it is complete.
    fn note(&mut self, note: impl FnOnce(&mut Step)) {
        if self.list.is_none() {
            note(&mut self.step);
        }
    }

    fn target(&mut self) -> &mut Encoded {
        self.list.as_mut().unwrap_or(&mut self.table)
    }
}

#[cfg(test)]
#[path = "replica_tests.rs"]
mod tests;
