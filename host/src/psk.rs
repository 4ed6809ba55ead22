//! The file of the keys that the nodes of a mesh share: one a line, the current one, then maybe the next.
//!
//! A key is 32 bytes in base64, as `wg genpsk` prints it; `none` stands for no key, which is how a mesh comes to its first
//! one. Empty lines and lines that begin with `#` do not count.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use zeroize::Zeroizing;

/// A key; all zero for none.
pub type Key = Zeroizing<[u8; 32]>;

/// The current key and the next one, if there is one.
///
/// # Errors
/// What is wrong with which line, without its content.
pub fn parse(text: &str) -> Result<(Key, Option<Key>), String> {
    let lines = text.lines().map(str::trim).enumerate();
    let mut keys = lines.filter(|(_, line)| !line.is_empty() && !line.starts_with('#')).map(|(at, line)| {
        key(line).ok_or_else(|| {
            format!("line {}: no key; accepted: 32 bytes in base64 (as of `wg genpsk`), or none", at + 1)
        })
    });
    let current = keys
        .next()
        .transpose()?
        .ok_or("empty; accepted: the current key, and maybe the next, a line each")?;
    let next = keys.next().transpose()?;
    match keys.next() {
        None => Ok((current, next)),
        Some(_) => Err("more than two keys; accepted: the current one and the next".to_owned()),
    }
}

fn key(line: &str) -> Option<Key> {
    if line == "none" {
        return Some(Key::default());
    }
    let bytes = STANDARD.decode(line).map(Zeroizing::new).ok()?;
    let key = Key::new(bytes.as_slice().try_into().ok()?);
    (*key != [0; 32]).then_some(key)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_or_two_keys_and_what_is_wrong_is_named_by_its_line() {
        let [a, b] = [1u8, 2].map(|n| STANDARD.encode([n; 32]));
        let (current, next) = parse(&format!("# the mesh's\n{a}\n")).unwrap();
        assert_eq!((*current, next.is_none()), ([1; 32], true));
        let (current, next) = parse(&format!("none\n\n  {b}  ")).unwrap();
        assert_eq!((*current, *next.unwrap()), ([0; 32], [2; 32]));
        for (text, wrong) in [
            (String::new(), "empty"),
            ("\n# nothing\n".to_owned(), "empty"),
            (format!("{a}\nsecret\n"), "line 2"),
            (STANDARD.encode([1; 31]), "line 1"),
            (STANDARD.encode([0; 32]), "line 1"),
            (format!("{a}\n{b}\nnone"), "more than two"),
        ] {
            let said = parse(&text).unwrap_err();
            assert!(said.contains(wrong) && !said.contains("secret"), "{text:?}: {said}");
        }
    }
}
