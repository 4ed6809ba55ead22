//! The view over a query: header, the one question, and OPT if there is one.

use super::records::{Records, skip_name};
use super::{HEADER_LEN, MIN_UDP, Name, RecordType, u16_at};
use crate::counters::DropReason;

/// QR: the message is a response.
pub(super) const QR: u16 = 0x8000;
/// The operation's bits.
pub(super) const OPCODE: u16 = 0x7800;
/// The responder has authority over the name.
pub(super) const AA: u16 = 0x0400;
/// The answer was cut.
pub(super) const TC: u16 = 0x0200;
/// Recursion is asked for.
pub(super) const RD: u16 = 0x0100;
/// Recursion is offered.
pub(super) const RA: u16 = 0x0080;
/// The asker validates itself (RFC 4035 §3.2.2).
pub(super) const CD: u16 = 0x0010;
/// DO bit among the OPT flags (RFC 3225).
const DO: u16 = 0x8000;

/// The fixed header.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Header {
    /// Chosen by the asker, echoed.
    pub id: u16,
    /// All flag bits, opcode and response code.
    pub flags: u16,
    /// Questions, answers, authority and additional records announced.
    pub counts: [u16; 4],
}

impl Header {
    /// The header of `message`.
    ///
    /// # Errors
    /// `Truncated` when there are fewer than [`HEADER_LEN`] octets.
    pub fn parse(message: &[u8]) -> Result<Self, DropReason> {
        let field = |n: usize| u16_at(message, n.saturating_mul(2)).ok_or(DropReason::Truncated);
        Ok(Self { id: field(0)?, flags: field(1)?, counts: [field(2)?, field(3)?, field(4)?, field(5)?] })
    }

    /// True for an answer, false for a query.
    pub fn is_response(&self) -> bool {
        self.flags & QR != 0
    }

    /// True when the sender cut the message.
    pub fn is_truncated(&self) -> bool {
        self.flags & TC != 0
    }

    /// The lower four bits of the response code.
    pub fn rcode(&self) -> u16 {
        self.flags & 0xf
    }

    /// What is asked for.
    pub fn opcode(&self) -> u8 {
        ((self.flags & OPCODE) >> 11) as u8
    }

    /// True when a query may have these counts: one question, and no more records than signatures and OPT need.
    /// The same bounds as CoreDNS has.
    pub fn counts_fit_a_query(&self) -> bool {
        matches!(self.counts, [1, 0..=1, 0..=1, 0..=2])
    }
}

/// What the asker's OPT record says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Edns {
    /// The largest UDP answer it takes, in octets, already raised to 512 (RFC 6891 §6.2.3).
    pub udp_size: u16,
    /// Its version; ours is 0.
    pub version: u8,
    /// DNSSEC OK, echoed.
    pub dnssec_ok: bool,
}

/// A query: one question, perhaps OPT.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Query<'a> {
    /// The message's header.
    pub header: Header,
    /// The name asked for, in the asker's case.
    pub name: Name<'a>,
    /// The type asked for.
    pub rtype: RecordType,
    /// The class asked for.
    pub class: u16,
    /// OPT, if the query has one.
    pub edns: Option<Edns>,
}

impl<'a> Query<'a> {
    /// Reads `message`, whose counts must satisfy [`Header::counts_fit_a_query`]. Octets behind the last record
    /// are ignored.
    ///
    /// # Errors
    /// `Truncated` or `Malformed`; the asker deserves FORMERR for either.
    pub fn parse(message: &'a [u8]) -> Result<Self, DropReason> {
        if !Header::parse(message)?.counts_fit_a_query() {
            return Err(DropReason::Malformed);
        }
        Ok(Self { edns: edns(message)?, ..Self::parse_question(message)? })
    }

    /// Reads the first question of any message and nothing behind it: `edns` stays empty.
    ///
    /// # Errors
    /// `Truncated` or `Malformed`; the latter also when there is no question.
    pub fn parse_question(message: &'a [u8]) -> Result<Self, DropReason> {
        let header = Header::parse(message)?;
        if header.counts.first() == Some(&0) {
            return Err(DropReason::Malformed);
        }
        let name = Name::parse(message, HEADER_LEN)?;
        let at = HEADER_LEN.saturating_add(name.as_bytes().len());
        let rtype = u16_at(message, at).map(RecordType).ok_or(DropReason::Truncated)?;
        let class = u16_at(message, at.saturating_add(2)).ok_or(DropReason::Truncated)?;
        Ok(Self { header, name, rtype, class, edns: None })
    }

    /// The octets of the question: name, type and class.
    pub fn question_len(&self) -> usize {
        self.name.as_bytes().len().saturating_add(4)
    }
}

/// The OPT record of `message`. More than one, or one with an owner, is malformed (RFC 6891 §6.1.1).
fn edns(message: &[u8]) -> Result<Option<Edns>, DropReason> {
    let mut found = None;
    for record in Records::new(message)? {
        let record = record?;
        if record.rtype != RecordType::OPT {
            continue;
        }
        let owned = message.get(record.at) != Some(&0);
        if owned || found.is_some() {
            return Err(DropReason::Malformed);
        }
        found = Some(Edns {
            udp_size: record.class.max(MIN_UDP as u16),
            version: (record.ttl >> 16) as u8,
            dnssec_ok: record.ttl as u16 & DO != 0,
        });
    }
    Ok(found)
}

/// Where the record sections of `message` start: behind its questions.
pub(super) fn records_start(message: &[u8], questions: u16) -> Result<usize, DropReason> {
    let mut at = HEADER_LEN;
    for _ in 0..questions {
        at = skip_name(message, at)?.saturating_add(4);
        if at > message.len() {
            return Err(DropReason::Truncated);
        }
    }
    Ok(at)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::vec::Vec;

    fn query(tail: &[u8], counts: [u8; 4]) -> Vec<u8> {
        let [qd, an, ns, ar] = counts;
        let mut bytes = std::vec![0, 7, 1, 0, 0, qd, 0, an, 0, ns, 0, ar];
        bytes.extend(b"\x01a\x00\x00\x01\x00\x01");
        bytes.extend(tail);
        bytes
    }

    #[test]
    fn w4_opt_is_read_and_its_size_is_at_least_512() {
        let bytes = query(b"\x00\x00\x29\x01\x00\x00\x00\x80\x00\x00\x00", [1, 0, 0, 1]);
        let parsed = Query::parse(&bytes).unwrap();
        assert_eq!(parsed.edns, Some(Edns { udp_size: 512, version: 0, dnssec_ok: true }));
        assert_eq!((parsed.rtype, parsed.class, parsed.header.id), (RecordType::A, 1, 7));
    }

    #[test]
    fn w4_unknown_options_are_skipped_and_a_second_opt_is_malformed() {
        let opt = b"\x00\x00\x29\x10\x00\x00\x00\x00\x00\x00\x05\xff\xf0\x00\x01x";
        assert_eq!(Query::parse(&query(opt, [1, 0, 0, 1])).unwrap().edns.unwrap().udp_size, 4096);
        let twice = [&opt[..], opt].concat();
        assert_eq!(Query::parse(&query(&twice, [1, 0, 0, 2])), Err(DropReason::Malformed));
        let owned = b"\x01a\x00\x00\x29\x10\x00\x00\x00\x00\x00\x00\x00";
        assert_eq!(Query::parse(&query(owned, [1, 0, 0, 1])), Err(DropReason::Malformed));
    }

    #[test]
    fn w7_counts_that_no_query_has_are_malformed() {
        for counts in [[0, 0, 0, 0], [2, 0, 0, 0], [1, 2, 0, 0], [1, 0, 2, 0], [1, 0, 0, 3]] {
            assert_eq!(Query::parse(&query(b"", counts)), Err(DropReason::Malformed), "{counts:?}");
        }
        assert_eq!(Query::parse(&query(b"", [1, 0, 0, 1])), Err(DropReason::Truncated));
    }
}
