//! Keeping the table in the kernel as it ought to be.

use std::collections::HashMap;

use super::script::{TABLE, script};
use super::{Entries, stale};
use crate::interception::{Plan, SetupError, nft};

/// What the kernel was given last.
#[derive(Default)]
pub(in super::super) struct Kept {
    /// By family: the file, and how `nft` printed the table after it was loaded.
    loaded: HashMap<&'static str, (String, Option<String>)>,
    /// The entry points that datagrams were last looked through for.
    settled: Entries,
}

impl Kept {
    /// Makes the tables what the plan says; whether others had changed one.
    pub(in super::super) fn restore(&mut self, plan: &Plan) -> Result<bool, SetupError> {
        let mut damaged = false;
        for family in nft::families(plan) {
            let wanted = script(&plan.services.entries, family, &plan.device);
            match self.loaded.get(family).filter(|(file, _)| *file == wanted) {
                // Without entry points, as on most nodes, there is nothing to look at.
                Some((_, None)) => continue,
                Some((_, listing)) if *listing == nft::listing(TABLE, family)? => continue,
                Some(_) => damaged = true,
                None => {}
            }
            let listing = nft::load(&wanted, || nft::listing(TABLE, family))?;
            self.loaded.insert(family, (wanted, listing));
        }
        let entries = &plan.services.entries;
        if self.settled != *entries {
            let failed = |e| SetupError::Netlink("removing tracked connections", e);
            stale::forget(&self.settled, entries).map_err(failed)?;
            self.settled.clone_from(entries);
        }
        Ok(damaged)
    }
}
