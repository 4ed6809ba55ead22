//! Lists and event streams taken apart as their bytes come in, one object at a time.
//!
//! A server may ignore `limit` and send everything at once; memory must not follow. [`ListScan`] finds the members
//! `metadata` and `items` of a list and hands out one item at a time, [`LineScan`] the lines of a watch. Neither
//! judges the JSON inside an item: that is the decoder's. What is larger than [`ITEM_MAX`] is left out and counted.

/// Largest object, in bytes; an API server stores none above 1.5 MiB.
pub(super) const ITEM_MAX: usize = 4 << 20;
/// Longest member name that is compared.
const KEY_MAX: usize = 32;

/// What a list says of itself.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Scanned {
    /// The member `metadata`, as JSON; empty without one.
    pub(super) metadata: Vec<u8>,
    /// Whether there was a member `items`, perhaps null.
    pub(super) items: bool,
    /// Whether the list is whole.
    pub(super) complete: bool,
    /// Items that were too large.
    pub(super) oversized: usize,
}

/// What is being collected.
#[derive(PartialEq, Eq)]
enum Part {
    Nothing,
    Key,
    Metadata,
    Item,
}

/// See the module's documentation.
pub(super) struct ListScan {
    depth: u32,
    in_string: bool,
    escaped: bool,
    /// At depth 1: whether the next string is a member's name.
    expects_key: bool,
    key: Vec<u8>,
    part: Part,
    buffer: Vec<u8>,
    overflow: bool,
    found: Scanned,
}

impl ListScan {
    pub(super) fn new() -> Self {
        Self {
            depth: 0,
            in_string: false,
            escaped: false,
            expects_key: false,
            key: Vec::new(),
            part: Part::Nothing,
            buffer: Vec::new(),
            overflow: false,
            found: Scanned::default(),
        }
    }

    /// Takes the next bytes; `item` gets every object that they complete. False when this is no JSON object.
    pub(super) fn push(&mut self, bytes: &[u8], mut item: impl FnMut(&[u8])) -> bool {
        for &byte in bytes {
            if self.depth == 0 && !self.opens(byte) {
                return false;
            }
            self.step(byte, &mut item);
        }
        true
    }

    /// Before and behind the object only white space is in order.
    fn opens(&self, byte: u8) -> bool {
        byte.is_ascii_whitespace() || (byte == b'{' && !self.found.complete)
    }

    fn step(&mut self, byte: u8, item: &mut impl FnMut(&[u8])) {
        if matches!(self.part, Part::Metadata | Part::Item) {
            self.collect(byte);
        }
        if self.in_string {
            return self.string(byte);
        }
        match byte {
            b'"' => self.begin_string(),
            b'{' | b'[' => self.open(byte),
            b'}' | b']' => self.close(item),
            b',' if self.depth == 1 => self.expects_key = true,
            b':' if self.depth == 1 => {
                self.found.items |= self.key == b"items";
                self.expects_key = false;
            }
            _ => {}
        }
    }

    fn string(&mut self, byte: u8) {
        if self.escaped {
            self.escaped = false;
        } else if byte == b'\\' {
            self.escaped = true;
        } else if byte == b'"' {
            self.in_string = false;
            if self.part == Part::Key {
                self.part = Part::Nothing;
            }
            return;
        }
        if self.part == Part::Key && self.key.len() < KEY_MAX {
            self.key.push(byte);
        }
    }

    fn begin_string(&mut self) {
        self.in_string = true;
        if self.depth == 1 && self.expects_key {
            self.key.clear();
            self.part = Part::Key;
        }
    }

    fn open(&mut self, byte: u8) {
        self.depth += 1;
        if self.depth == 1 {
            self.expects_key = true;
        }
        let part = match (self.depth, byte) {
            (2, b'{') if self.key == b"metadata" => Part::Metadata,
            (3, b'{') if self.key == b"items" => Part::Item,
            _ => return,
        };
        self.part = part;
        self.buffer.clear();
        self.overflow = false;
        self.buffer.push(byte);
    }

    fn close(&mut self, item: &mut impl FnMut(&[u8])) {
        self.depth = self.depth.saturating_sub(1);
        match (self.depth, &self.part) {
            (0, _) => self.found.complete = true,
            (1, Part::Metadata) => {
                self.found.metadata = core::mem::take(&mut self.buffer);
                self.part = Part::Nothing;
            }
            (2, Part::Item) => {
                if self.overflow {
                    self.found.oversized += 1;
                } else {
                    item(&self.buffer);
                }
                self.part = Part::Nothing;
            }
            _ => {}
        }
    }

    fn collect(&mut self, byte: u8) {
        if self.buffer.len() < ITEM_MAX {
            self.buffer.push(byte);
        } else {
            self.overflow = true;
        }
    }

    /// What the list said of itself.
    pub(super) fn finish(self) -> Scanned {
        self.found
    }
}

/// The lines of a watch.
#[derive(Default)]
pub(super) struct LineScan {
    buffer: Vec<u8>,
    overflow: bool,
}

impl LineScan {
    /// Takes the next bytes; `line` gets every line that they complete and that is not blank, `None` for one that
    /// was too long.
    pub(super) fn push(&mut self, bytes: &[u8], mut line: impl FnMut(Option<&[u8]>)) {
        for piece in bytes.split_inclusive(|b| *b == b'\n') {
            let (content, ends) = match piece.split_last() {
                Some((b'\n', content)) => (content, true),
                _ => (piece, false),
            };
            if self.buffer.len() + content.len() > ITEM_MAX {
                self.overflow = true;
                self.buffer = Vec::new();
            } else if !self.overflow {
                self.buffer.extend_from_slice(content);
            }
            if ends {
                if self.overflow {
                    line(None);
                } else if !self.buffer.iter().all(u8::is_ascii_whitespace) {
                    line(Some(&self.buffer));
                }
                self.buffer.clear();
                self.overflow = false;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(text: &str, piece: usize) -> (bool, Vec<String>, Scanned) {
        let (mut scan, mut items) = (ListScan::new(), Vec::new());
        let mut good = true;
        for bytes in text.as_bytes().chunks(piece) {
            good &= scan.push(bytes, |item| items.push(String::from_utf8_lossy(item).into_owned()));
        }
        (good, items, scan.finish())
    }

    #[test]
    fn items_come_out_whatever_the_pieces() {
        let text = r#" {"kind":"ServiceList","metadata":{"resourceVersion":"7","x":{"items":[{}]}},
            "items":[{"a":"}]\"{","b":[{"c":1}]}, {"metadata":{"name":"items"}}],"more":{"items":[{"no":1}]}} "#;
        for piece in [1, 2, 3, 7, 1_000] {
            let (good, items, found) = list(text, piece);
            assert!(good && found.complete && found.items, "{piece}");
            assert_eq!(items, [r#"{"a":"}]\"{","b":[{"c":1}]}"#, r#"{"metadata":{"name":"items"}}"#]);
            assert_eq!(found.metadata, br#"{"resourceVersion":"7","x":{"items":[{}]}}"#);
        }
    }

    #[test]
    fn metadata_may_come_last_and_items_may_be_null() {
        let (_, items, found) = list(r#"{"items":null,"metadata":{}}"#, 4);
        assert!(items.is_empty() && found.items && found.complete);
        assert_eq!(found.metadata, b"{}");
        assert!(!list(r#"{"kind":"Status"}"#, 4).2.items);
        assert!(!list(r#"{"kind":"items"}"#, 4).2.items);
    }

    #[test]
    fn what_is_cut_or_no_object_is_seen() {
        assert!(!list(r#"{"items":[{"a":1}"#, 5).2.complete);
        assert!(!list("<html>", 5).0);
        assert!(!list("{} {}", 1).0);
        assert!(!list("[1]", 5).0);
    }

    #[test]
    fn what_is_too_large_is_left_out() {
        let text = format!(r#"{{"items":[{{"a":"{}"}},{{"b":1}}]}}"#, "x".repeat(ITEM_MAX));
        let (_, items, found) = list(&text, 1 << 16);
        assert_eq!((items.len(), found.oversized, found.complete), (1, 1, true));
    }

    #[test]
    fn lines_come_out_whatever_the_pieces() {
        let text = format!("one\n\r\n\ntwo\n{}\nthree\nrest", "x".repeat(ITEM_MAX + 1));
        for piece in [3, 1 << 20] {
            let (mut scan, mut lines) = (LineScan::default(), Vec::new());
            for bytes in text.as_bytes().chunks(piece) {
                scan.push(bytes, |l| lines.push(l.map(|l| String::from_utf8_lossy(l).into_owned())));
            }
            let some = |s: &str| Some(s.to_owned());
            assert_eq!(lines, [some("one"), some("two"), None, some("three")]);
        }
    }

    proptest::proptest! {
        #[test]
        fn nothing_panics(bytes in proptest::collection::vec(proptest::sample::select(b"{}[]\",:\\aitems \n".to_vec()), 0..300)) {
            let mut scan = ListScan::new();
            scan.push(b"{", |_| {});
            scan.push(&bytes, |_| {});
            LineScan::default().push(&bytes, |_| {});
        }
    }
}
