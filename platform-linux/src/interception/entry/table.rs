//! Keeping the table in the kernel as it ought to be.

use std::collections::HashMap;

use super::script::{TABLE, script};
use crate::interception::Plan;
use crate::interception::nft;
use crate::interception::tool::{self, ToolError};

/// What the kernel was given last.
#[derive(Default)]
pub(in super::super) struct Kept {
    /// By family: the file, and how `nft` printed the table after it was loaded.
    loaded: HashMap<&'static str, (String, Option<String>)>,
}

impl Kept {
    /// Makes the tables what the plan says; whether others had changed one.
    pub(in super::super) fn restore(&mut self, plan: &Plan) -> Result<bool, ToolError> {
        let mut damaged = false;
        for family in nft::families(plan) {
            let wanted = script(&plan.services.entries, family, &plan.device);
            let same = self.loaded.get(family).filter(|(file, _)| *file == wanted);
            // Without entry points, as on most nodes, there is nothing to look at.
            if same.is_some_and(|(_, listing)| listing.is_none()) {
                continue;
            }
            let there = nft::listing(TABLE, family)?;
            if same.is_some_and(|(_, listing)| *listing == there) {
                continue;
            }
            damaged |= same.is_some();
            tool::demand("nft", &["-f", "-"], &wanted)?;
            self.loaded.insert(family, (wanted, nft::listing(TABLE, family)?));
        }
        Ok(damaged)
    }
}
