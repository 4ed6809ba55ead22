//! Domain names in wire form: labels, each behind its length, up to the root's zero.

use crate::counters::DropReason;

/// The longest label (RFC 1035 §2.3.4).
pub const MAX_LABEL: usize = 63;
/// The longest name in wire form, root included (RFC 1035 §2.3.4).
pub const MAX_NAME: usize = 255;

/// A checked name without compression pointers, borrowed from a message.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Name<'a>(&'a [u8]);

impl<'a> Name<'a> {
    /// The name that starts at `at` and is written out in full.
    ///
    /// # Errors
    /// `Truncated` when it runs out of the message; `Malformed` when it is longer than [`MAX_NAME`] or has a
    /// label with the upper length bits set: a pointer, or a kind that no RFC defines.
    pub fn parse(bytes: &'a [u8], at: usize) -> Result<Self, DropReason> {
        let mut end = at;
        loop {
            let len = *bytes.get(end).ok_or(DropReason::Truncated)?;
            if usize::from(len) > MAX_LABEL {
                return Err(DropReason::Malformed);
            }
            end = end.saturating_add(usize::from(len)).saturating_add(1);
            if end.saturating_sub(at) > MAX_NAME {
                return Err(DropReason::Malformed);
            }
            if len == 0 {
                return bytes.get(at..end).map(Self).ok_or(DropReason::Truncated);
            }
        }
    }

    /// The wire form, root included.
    pub fn as_bytes(self) -> &'a [u8] {
        self.0
    }

    /// The labels from left to right, without the root.
    pub fn labels(self) -> impl Iterator<Item = &'a [u8]> + Clone {
        let mut rest = self.0;
        core::iter::from_fn(move || {
            let (len, tail) = rest.split_first().filter(|(len, _)| **len != 0)?;
            let (label, tail) = tail.split_at_checked(usize::from(*len))?;
            rest = tail;
            Some(label)
        })
    }

    /// How many labels of `self` stand before `zone`; `None` when it is not under `zone`. Compares octets, so both
    /// must be of one case.
    pub fn labels_before(self, zone: Name<'_>) -> Option<usize> {
        let before = self.labels().count().checked_sub(zone.labels().count())?;
        let suffix = self.0.get(self.offset_of(before)..)?;
        (suffix == zone.0).then_some(before)
    }

    /// Where label number `n` starts, in octets from the start of the name; the root's place when there are fewer.
    pub fn offset_of(self, n: usize) -> usize {
        self.labels().take(n).fold(0, |at, label| at.saturating_add(label.len()).saturating_add(1))
    }
}

/// A name in ASCII lower case: the form in which names are compared (RFC 4343).
pub struct LowerName {
    bytes: [u8; MAX_NAME],
    len: usize,
}

impl LowerName {
    /// `name` in lower case. Length octets are below 64 and therefore never letters.
    pub fn new(name: Name<'_>) -> Self {
        let mut bytes = [0; MAX_NAME];
        let mut len: usize = 0;
        for (to, from) in bytes.iter_mut().zip(name.as_bytes()) {
            *to = from.to_ascii_lowercase();
            len = len.saturating_add(1);
        }
        Self { bytes, len }
    }

    /// The name.
    pub fn as_name(&self) -> Name<'_> {
        Name(self.bytes.get(..self.len).unwrap_or_default())
    }
}

/// Why a text is no domain name.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum NameError {
    /// Nothing before the root.
    Empty,
    /// A label is empty or longer than 63 octets.
    Label,
    /// Longer than the 255 octets of a name, or than the place for it.
    TooLong,
}

impl core::fmt::Display for NameError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(match self {
            Self::Empty => "the domain name is empty",
            Self::Label => "a label of the domain name is empty or longer than 63 characters",
            Self::TooLong => "the domain name is too long",
        })
    }
}

impl core::error::Error for NameError {}

/// Writes `text` (`a.b.c`, with or without a final dot) to the start of `out` in wire form; its length in octets.
///
/// # Errors
/// See [`NameError`]; `out` then holds a part of the name.
pub fn write_text(text: &[u8], out: &mut [u8]) -> Result<usize, NameError> {
    let text = text.strip_suffix(b".").unwrap_or(text);
    if text.is_empty() {
        return Err(NameError::Empty);
    }
    let out = out.get_mut(..MAX_NAME.min(out.len())).unwrap_or_default();
    let mut at: usize = 0;
    for label in text.split(|byte| *byte == b'.') {
        let len = u8::try_from(label.len()).ok().filter(|len| (1..=MAX_LABEL).contains(&usize::from(*len)));
        let len = len.ok_or(NameError::Label)?;
        let end = at.saturating_add(1).saturating_add(label.len());
        let place = out.get_mut(at..end).ok_or(NameError::TooLong)?;
        let bytes = core::iter::once(&len).chain(label);
        place.iter_mut().zip(bytes).for_each(|(to, from)| *to = *from);
        at = end;
    }
    *out.get_mut(at).ok_or(NameError::TooLong)? = 0;
    Ok(at.saturating_add(1))
}

/// Whether `text` is a domain name, as [`write_text`] would find.
pub fn text_is_name(text: &[u8]) -> bool {
    let text = text.strip_suffix(b".").unwrap_or(text);
    // The wire form has one octet more in front, and the root.
    text.len().saturating_add(2) <= MAX_NAME
        && text.split(|byte| *byte == b'.').all(|label| (1..=MAX_LABEL).contains(&label.len()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::vec::Vec;

    fn wire(text: &str) -> Vec<u8> {
        let mut out = [0; 300];
        let len = write_text(text.as_bytes(), &mut out).unwrap();
        out[..len].to_vec()
    }

    #[test]
    fn a_text_becomes_a_name_with_the_same_labels() {
        let wire = wire("SvC1.ns.");
        assert_eq!(wire, b"\x04SvC1\x02ns\x00");
        let name = Name::parse(&wire, 0).unwrap();
        assert_eq!(name.labels().collect::<Vec<_>>(), [&b"SvC1"[..], b"ns"]);
        assert_eq!(LowerName::new(name).as_name().as_bytes(), b"\x04svc1\x02ns\x00");
    }

    #[test]
    fn a_suffix_counts_only_on_label_boundaries() {
        let (name, zone, other) = (wire("a.b.c"), wire("b.c"), wire("xb.c"));
        let (name, zone) = (Name::parse(&name, 0).unwrap(), Name::parse(&zone, 0).unwrap());
        assert_eq!(name.labels_before(zone), Some(1));
        assert_eq!(zone.labels_before(name), None);
        assert_eq!(Name::parse(&other, 0).unwrap().labels_before(zone), None);
    }

    #[test]
    fn texts_that_are_no_names_are_told_apart() {
        let mut out = [0; 300];
        assert_eq!(write_text(b".", &mut out), Err(NameError::Empty));
        assert_eq!(write_text(b"a..b", &mut out), Err(NameError::Label));
        assert_eq!(write_text(&[b'a'; 64], &mut out), Err(NameError::Label));
        let long = [b"a.".repeat(127), b"b".to_vec()].concat();
        assert_eq!(write_text(&long, &mut out), Err(NameError::TooLong));
        assert_eq!(write_text(&long[2..], &mut out), Ok(255));
        assert_eq!(write_text(b"abc", &mut out[..4]), Err(NameError::TooLong));
        for (text, is_name) in [(&b"."[..], false), (b"a..b", false), (&long, false), (&long[2..], true)] {
            assert_eq!(text_is_name(text), is_name, "{text:?}");
        }
    }

    #[test]
    fn pointers_reserved_bits_and_long_names_are_malformed() {
        assert_eq!(Name::parse(b"\xc0\x00", 0), Err(DropReason::Malformed));
        assert_eq!(Name::parse(b"\x40a\x00", 0), Err(DropReason::Malformed));
        assert_eq!(Name::parse(b"\x80a\x00", 0), Err(DropReason::Malformed));
        assert_eq!(Name::parse(b"\x03ab", 0), Err(DropReason::Truncated));
        let long = [b"\x01a".repeat(128), b"\x00".to_vec()].concat();
        assert_eq!(Name::parse(&long, 0), Err(DropReason::Malformed));
        assert_eq!(Name::parse(&long, 2).unwrap().as_bytes().len(), 255);
    }
}
