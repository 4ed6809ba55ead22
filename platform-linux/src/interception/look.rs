//! What the keeper is to look at.

/// Parts of what the kernel has; by default none of them.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub(super) struct Look {
    pub(super) network: bool,
    pub(super) table: bool,
    pub(super) firewall: bool,
    /// Others' proxies, where news of them come from.
    pub(super) proxy: bool,
    /// Where none come from, too.
    pub(super) all: bool,
    /// Devices, addresses and routes, whosesoever: they are nothing to put right, but to be told of.
    pub(super) ways: bool,
}

impl Look {
    /// All that may have to be put right.
    pub(super) const ALL: Self =
        Self { network: true, table: true, firewall: true, proxy: true, all: true, ways: false };

    pub(super) fn is_due(self) -> bool {
        self != Self::default()
    }

    pub(super) fn and(self, other: Self) -> Self {
        Self {
            network: self.network || other.network,
            table: self.table || other.table,
            firewall: self.firewall || other.firewall,
            proxy: self.proxy || other.proxy,
            all: self.all || other.all,
            ways: self.ways || other.ways,
        }
    }
}
