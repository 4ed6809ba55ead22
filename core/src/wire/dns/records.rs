//! Resource records of any message, ours or an upstream's, and names with compression pointers.

use super::query::records_start;
use super::{Header, MAX_LABEL, MAX_NAME, RecordType, u16_at, u32_at};
use crate::counters::DropReason;

/// The upper bits of a compression pointer (RFC 1035 §4.1.4).
pub(super) const POINTER: u16 = 0xc000;

/// A resource record: its fixed fields, and where its parts are in the message.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Record {
    /// Where its owner name starts.
    pub at: usize,
    /// Its type.
    pub rtype: RecordType,
    /// Its class; for OPT the sender's UDP size.
    pub class: u16,
    /// Where its TTL stands, for whoever counts it down in place.
    pub ttl_at: usize,
    /// Its TTL in seconds; for OPT extended flags.
    pub ttl: u32,
    /// Where its data start.
    pub data: usize,
    /// Where it ends.
    pub end: usize,
}

/// Walks the records of all sections. Ends after the first error.
#[derive(Clone)]
pub struct Records<'a> {
    message: &'a [u8],
    at: usize,
    left: u32,
}

impl<'a> Records<'a> {
    /// The records behind the questions of `message`.
    ///
    /// # Errors
    /// `Truncated` or `Malformed` when the header or the questions cannot be read.
    pub fn new(message: &'a [u8]) -> Result<Self, DropReason> {
        let Header { counts: [questions, answers, authority, additional], .. } = Header::parse(message)?;
        let left = u32::from(answers).saturating_add(authority.into()).saturating_add(additional.into());
        Ok(Self { message, at: records_start(message, questions)?, left })
    }

    fn read(&self) -> Result<Record, DropReason> {
        let fixed = skip_name(self.message, self.at)?;
        let field = |offset| u16_at(self.message, fixed.saturating_add(offset)).ok_or(DropReason::Truncated);
        let ttl_at = fixed.saturating_add(4);
        let data = fixed.saturating_add(10);
        let end = data.saturating_add(usize::from(field(8)?));
        if end > self.message.len() {
            return Err(DropReason::Truncated);
        }
        let ttl = u32_at(self.message, ttl_at).ok_or(DropReason::Truncated)?;
        Ok(Record { at: self.at, rtype: RecordType(field(0)?), class: field(2)?, ttl_at, ttl, data, end })
    }
}

impl Iterator for Records<'_> {
    type Item = Result<Record, DropReason>;

    fn next(&mut self) -> Option<Self::Item> {
        self.left = self.left.checked_sub(1)?;
        let record = self.read();
        match &record {
            Ok(record) => self.at = record.end,
            Err(_) => self.left = 0,
        }
        Some(record)
    }
}

/// Where the name at `at` ends in place: behind its root or its pointer, which is not followed.
pub(super) fn skip_name(message: &[u8], mut at: usize) -> Result<usize, DropReason> {
    loop {
        let len = *message.get(at).ok_or(DropReason::Truncated)?;
        at = at.saturating_add(1);
        match len {
            0 => return Ok(at),
            0xc0.. => return Ok(at.saturating_add(1)),
            1..=0x3f => at = at.saturating_add(usize::from(len)),
            _ => return Err(DropReason::Malformed),
        }
    }
}

/// Writes the name at `at`, its pointers followed, to the start of `out`; its length in octets.
///
/// # Errors
/// `Truncated`, or `Malformed` for a reserved label kind, a name too long, or a pointer that does not go strictly
/// backwards: each may only go to before where the part that held it began, so a loop cannot be built.
pub fn expand(message: &[u8], at: usize, out: &mut [u8; MAX_NAME]) -> Result<usize, DropReason> {
    let (mut at, mut floor, mut len) = (at, at, 0usize);
    loop {
        let first = *message.get(at).ok_or(DropReason::Truncated)?;
        if u16::from(first) << 8 & POINTER == POINTER {
            let target = u16_at(message, at).ok_or(DropReason::Truncated)? & !POINTER;
            if usize::from(target) >= floor {
                return Err(DropReason::Malformed);
            }
            (at, floor) = (target.into(), target.into());
            continue;
        }
        if usize::from(first) > MAX_LABEL {
            return Err(DropReason::Malformed);
        }
        let size = usize::from(first).saturating_add(1);
        let label = message.get(at..at.saturating_add(size)).ok_or(DropReason::Truncated)?;
        let place = out.get_mut(len..len.saturating_add(size)).ok_or(DropReason::Malformed)?;
        place.copy_from_slice(label);
        len = len.saturating_add(size);
        at = at.saturating_add(size);
        if first == 0 {
            return Ok(len);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn w5_compressed_names_expand() {
        let message = b"\x01c\x00\x01b\xc0\x00\x01a\xc0\x03";
        let mut out = [0; MAX_NAME];
        let len = expand(message, 7, &mut out).unwrap();
        assert_eq!(&out[..len], b"\x01a\x01b\x01c\x00");
    }

    #[test]
    fn w5_pointer_loops_are_malformed() {
        let mut out = [0; MAX_NAME];
        for message in [&b"\xc0\x00"[..], b"\x01a\xc0\x00", b"\xc0\x02\xc0\x00", b"\x01a\xc0\x04\xc0\x02"] {
            assert_eq!(expand(message, 0, &mut out), Err(DropReason::Malformed), "{message:?}");
        }
        assert_eq!(expand(b"\xc0", 0, &mut out), Err(DropReason::Truncated));
    }

    #[test]
    fn a_walk_stops_at_the_first_record_that_does_not_fit() {
        let mut message = std::vec![0, 0, 0x80, 0, 0, 0, 0, 3, 0, 0, 0, 0];
        message.extend(b"\x00\x00\x01\x00\x01\x00\x00\x00\x05\x00\x04\x0a\x00\x00\x01");
        message.extend(b"\x00\x00\x01\x00\x01\x00\x00\x00\x05\x00\x09\x0a\x00\x00\x01");
        let mut records = Records::new(&message).unwrap();
        let first = records.next().unwrap().unwrap();
        assert_eq!((first.ttl, &message[first.data..first.end]), (5, &b"\x0a\x00\x00\x01"[..]));
        assert_eq!(records.next(), Some(Err(DropReason::Truncated)));
        assert_eq!(records.next(), None);
    }
}
