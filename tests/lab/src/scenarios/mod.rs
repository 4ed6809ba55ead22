//! Everything the lab shows, in one table: a name, a sentence, a function.
//!
//! Names are `group/what`; the group `bare` needs no product. A function reads from top to bottom like the sentence
//! it proves and returns an error that says what was expected and what was seen.

mod bare;

use std::path::Path;

use crate::Result;
use crate::mesh::Mesh;
use crate::topology::Lab;

/// What a scenario is given.
#[derive(Debug, Clone, Copy)]
pub enum Run {
    /// The network alone, freshly built.
    Bare(fn(&Lab) -> Result),
    /// A directory; it builds what it needs.
    Alone(fn(&Path) -> Result),
    /// A running mesh that other scenarios use too: it must be left as it was found.
    Shared(fn(&mut Mesh) -> Result),
    /// A freshly started mesh of its own.
    Own(fn(&mut Mesh) -> Result),
}

/// One row of the table.
#[derive(Debug, Clone, Copy)]
pub struct Scenario {
    /// `group/what`.
    pub name: &'static str,
    /// What is shown, in one sentence.
    pub shows: &'static str,
    /// How.
    pub run: Run,
}

const fn row(name: &'static str, shows: &'static str, run: Run) -> Scenario {
    Scenario { name, shows, run }
}

/// The table.
pub const ALL: &[Scenario] = &[
    row("bare/leaves-nothing", "a lab leaves no namespace and no process", Run::Alone(bare::leaves_nothing)),
    row("bare/overlap", "pods on all nodes have the same addresses", Run::Bare(bare::addresses_overlap)),
    row("bare/cloud", "pods behind NATs reach the cloud", Run::Bare(bare::cloud_is_reached)),
    row("bare/docker", "Docker's rule hides pods behind their node", Run::Bare(bare::pods_are_masqueraded)),
    row("bare/nat-kinds", "a NAT keeps ports, a symmetric one does not", Run::Bare(bare::nat_kinds)),
    row("bare/unsolicited", "a NAT drops what nobody asked for", Run::Bare(bare::unsolicited_is_dropped)),
    row("bare/policies", "the internet's policies cut UDP and the server off", Run::Bare(bare::policies_cut)),
    row("bare/narrow", "narrow links lose big packets silently", Run::Bare(bare::narrow_links_are_silent)),
    row("bare/capture", "a capture sees payload sent in clear", Run::Bare(bare::captures_see_payload)),
    row("bare/programs", "the programs used do what is expected of them", Run::Bare(bare::programs_work)),
];
