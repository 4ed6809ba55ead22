//! DNS messages (RFC 1035, EDNS of RFC 6891): a view over a query and a builder that writes an answer straight
//! into the caller's buffer.
//!
//! * [`Header`], [`Query`], [`Name`]: checked once at `parse`, then read without failing. A query has one question,
//!   whose name comes first in the message and therefore can hold no compression pointer.
//! * [`Records`]: walks the resource records of any message, bounded by its length.
//! * [`Response`]: records are written whole or not at all; room for OPT is set aside from the start.
//!
//! It follows compression pointers only backwards, so that no message can make it loop. It knows nothing of
//! zones or policy: that is [`crate::dns`].

mod name;
mod query;
mod records;
mod response;

pub use name::{LowerName, MAX_LABEL, MAX_NAME, Name, NameError, text_is_name, write_text};
pub use query::{Edns, Header, Query};
pub use records::{Record, Records, expand};
pub use response::{Full, NameRef, Rdata, Response, Section, Soa, Tail};

/// Bytes of the fixed header (RFC 1035 §4.1.1); the question starts right behind it.
pub const HEADER_LEN: usize = 12;
/// The largest UDP message without EDNS (RFC 1035 §4.2.1).
pub const MIN_UDP: usize = 512;
/// The UDP size that we offer in OPT: fits 1280-byte links unfragmented (DNS flag day 2020).
pub const OUR_UDP: u16 = 1232;
/// The largest message that TCP framing can carry (RFC 1035 §4.2.2).
pub const MAX_TCP: usize = 65_535;
/// Class IN (RFC 1035 §3.2.4).
pub const CLASS_IN: u16 = 1;
/// Opcode of a standard query (RFC 1035 §4.1.1).
pub const OPCODE_QUERY: u8 = 0;

/// A record or query type. Every number is kept: unknown ones are answered, not refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RecordType(pub u16);

impl RecordType {
    /// IPv4 address.
    pub const A: Self = Self(1);
    /// Name server.
    pub const NS: Self = Self(2);
    /// Alias.
    pub const CNAME: Self = Self(5);
    /// Start of authority.
    pub const SOA: Self = Self(6);
    /// Name of an address.
    pub const PTR: Self = Self(12);
    /// Text.
    pub const TXT: Self = Self(16);
    /// IPv6 address (RFC 3596).
    pub const AAAA: Self = Self(28);
    /// Service location (RFC 2782).
    pub const SRV: Self = Self(33);
    /// EDNS pseudo-record (RFC 6891).
    pub const OPT: Self = Self(41);
    /// Incremental zone transfer (RFC 1995).
    pub const IXFR: Self = Self(251);
    /// Zone transfer (RFC 5936).
    pub const AXFR: Self = Self(252);
    /// Whatever there is (RFC 8482).
    pub const ANY: Self = Self(255);
}

/// A response code; the upper bits travel in OPT.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Rcode(pub u16);

impl Rcode {
    /// Answered, perhaps without a record.
    pub const NOERROR: Self = Self(0);
    /// The query could not be read.
    pub const FORMERR: Self = Self(1);
    /// No answer can be given now.
    pub const SERVFAIL: Self = Self(2);
    /// The name does not exist.
    pub const NXDOMAIN: Self = Self(3);
    /// An operation that we do not know.
    pub const NOTIMP: Self = Self(4);
    /// An operation that we do not offer.
    pub const REFUSED: Self = Self(5);
    /// An EDNS version above ours (RFC 6891 §6.1.3).
    pub const BADVERS: Self = Self(16);
}

/// The big-endian number at `at`.
fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(*bytes.get(at..)?.first_chunk()?))
}

/// The big-endian number at `at`.
fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_be_bytes(*bytes.get(at..)?.first_chunk()?))
}
