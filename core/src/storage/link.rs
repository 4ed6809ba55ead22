//! Ids as slots and indices keep them: 4 bytes, or 2 under the feature `compact`.

/// A stored id; 0 is none.
#[cfg(not(feature = "compact"))]
pub type Link = u32;
/// A stored id; 0 is none.
#[cfg(feature = "compact")]
pub type Link = u16;

/// Slots that a table may have, so that every id fits.
pub(crate) const MOST: usize = Link::MAX as usize;

/// The id as it is worked with. The cast is one to the same type in one of the two builds.
#[allow(clippy::unnecessary_cast)]
pub(crate) const fn id(link: Link) -> u32 {
    link as u32
}

/// The id as it is kept; an id above [`MOST`], which no table gives out, becomes none.
#[allow(clippy::unnecessary_cast)]
pub(crate) const fn link(id: u32) -> Link {
    if id as usize > MOST { 0 } else { id as Link }
}
