//! The join token: one line that carries everything a node needs to become a member; and the cluster's address, the
//! same without a secret, for nodes that show a ServiceAccount token instead.
//!
//! `emt1.` (`emc1.` for the address) and base64url (no padding) of a postcard body followed by a 4-byte BLAKE2s
//! checksum, so a typing or copying error is told apart from a refusal. The server keeps only a hash of the secret.
//! The expiry is for the operator's eyes: the server judges it by its own clock.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use blake2::digest::Digest;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use zeroize::{Zeroize, ZeroizeOnDrop};

const PREFIX: &str = "emt1.";
const CLUSTER_PREFIX: &str = "emc1.";
const CHECKSUM: usize = 4;
/// Longest token text that is looked at, in bytes.
pub const TEXT_MAX: usize = 4_096;

/// A join token's content.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Zeroize, ZeroizeOnDrop)]
pub struct Token {
    /// Servers to try, `HOST:PORT`.
    pub servers: Vec<String>,
    /// The root's Ed25519 public key, which the node pins.
    pub root: [u8; 32],
    /// The node name that the token is for.
    pub node: String,
    /// The secret to show at the first connection.
    pub secret: [u8; 16],
    /// Unix time in seconds after which the server refuses it.
    pub expires: u64,
}

/// Where a cluster's servers are and whom its nodes believe: no secret.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Cluster {
    /// Servers to try, `HOST:PORT`.
    pub servers: Vec<String>,
    /// The root's Ed25519 public key, which nodes pin.
    pub root: [u8; 32],
}

/// What lets a node join.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Invitation {
    /// For one node, with a secret.
    Token(Token),
    /// For every node that can show a ServiceAccount token.
    Cluster(Cluster),
}

/// Why a text is no join token.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum TokenError {
    /// It does not begin as a token does.
    Prefix,
    /// A character that no token holds, at this position (from 1).
    Character(char, usize),
    /// Characters are missing, doubled or changed.
    Checksum,
    /// The checksum is right but the content is not of this version.
    Content,
}

impl std::fmt::Display for TokenError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Prefix => {
                write!(
                    f,
                    "neither a join token, which begins with {PREFIX:?}, nor a cluster's address ({CLUSTER_PREFIX:?})"
                )
            }
            Self::Character(c, at) => write!(f, "no join token has {c:?} in it (character {at})"),
            Self::Checksum => f.write_str("the join token is incomplete or mistyped: its checksum is wrong"),
            Self::Content => f.write_str("the join token was made for another version"),
        }
    }
}

impl std::error::Error for TokenError {}

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Token")
            .field("node", &self.node)
            .field("servers", &self.servers)
            .finish_non_exhaustive()
    }
}

impl std::fmt::Display for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write(f, PREFIX, self)
    }
}

impl std::fmt::Display for Cluster {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write(f, CLUSTER_PREFIX, self)
    }
}

impl std::fmt::Display for Invitation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Token(token) => token.fmt(f),
            Self::Cluster(cluster) => cluster.fmt(f),
        }
    }
}

impl std::str::FromStr for Token {
    type Err = TokenError;

    fn from_str(text: &str) -> Result<Self, TokenError> {
        read(text, PREFIX)
    }
}

impl std::str::FromStr for Cluster {
    type Err = TokenError;

    fn from_str(text: &str) -> Result<Self, TokenError> {
        read(text, CLUSTER_PREFIX)
    }
}

impl std::str::FromStr for Invitation {
    type Err = TokenError;

    fn from_str(text: &str) -> Result<Self, TokenError> {
        match text.parse() {
            Err(TokenError::Prefix) => text.parse().map(Self::Cluster),
            token => token.map(Self::Token),
        }
    }
}

fn write(f: &mut std::fmt::Formatter<'_>, prefix: &str, value: &impl Serialize) -> std::fmt::Result {
    let mut body = postcard::to_allocvec(value).map_err(|_| std::fmt::Error)?;
    let sum = checksum(&body);
    body.extend_from_slice(&sum);
    write!(f, "{prefix}{}", URL_SAFE_NO_PAD.encode(&body))?;
    body.zeroize();
    Ok(())
}

fn read<T: DeserializeOwned>(text: &str, prefix: &str) -> Result<T, TokenError> {
    let text = text.trim();
    let encoded = text.strip_prefix(prefix).ok_or(TokenError::Prefix)?;
    let stranger = |c: char| !(c.is_ascii_alphanumeric() || c == '-' || c == '_');
    if let Some((at, c)) = encoded.chars().enumerate().find(|(_, c)| stranger(*c)) {
        return Err(TokenError::Character(c, prefix.len() + at + 1));
    }
    if text.len() > TEXT_MAX {
        return Err(TokenError::Checksum);
    }
    let mut bytes = URL_SAFE_NO_PAD.decode(encoded).map_err(|_| TokenError::Checksum)?;
    let (body, sum) = bytes.split_last_chunk::<CHECKSUM>().ok_or(TokenError::Checksum)?;
    if checksum(body) != *sum {
        return Err(TokenError::Checksum);
    }
    let value = postcard::from_bytes(body).map_err(|_| TokenError::Content);
    bytes.zeroize();
    value
}

/// What a flag such as `--join` takes: a join token, a cluster's address, or `@FILE` that holds either.
///
/// # Errors
/// The text for the user.
pub fn from_argument(argument: &str) -> Result<Invitation, String> {
    match argument.strip_prefix('@') {
        Some(path) => {
            let text = std::fs::read_to_string(path).map_err(|e| format!("cannot read {path}: {e}"))?;
            text.parse().map_err(|e| format!("{path}: {e}"))
        }
        None => argument.parse().map_err(|e: TokenError| e.to_string()),
    }
}

/// What people compare public keys by: the first 8 bytes of its BLAKE2s-256, in hex.
pub fn fingerprint(key: &[u8; 32]) -> String {
    let hash: [u8; 32] = blake2::Blake2s256::digest(key).into();
    hash.iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}

fn checksum(body: &[u8]) -> [u8; CHECKSUM] {
    let hash: [u8; 32] = blake2::Blake2s256::digest(body).into();
    let [a, b, c, d, ..] = hash;
    [a, b, c, d]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token() -> Token {
        Token {
            servers: vec!["cloud.example:20004".into(), "192.0.2.1:20004".into()],
            root: [7; 32],
            node: "edge-1".into(),
            secret: [9; 16],
            expires: 1_800_000_000,
        }
    }

    #[test]
    fn it_comes_back_as_it_went_on_one_line() {
        let text = token().to_string();
        assert!(text.starts_with("emt1.") && !text.contains(char::is_whitespace));
        assert_eq!(format!(" {text}\n").parse::<Token>().unwrap(), token());
    }

    #[test]
    fn the_text_of_version_1_stays_readable() {
        // Two servers, 32 x 07, "edge-1", 16 x 09, 1,800,000,000 as a varint, four bytes of checksum.
        let golden = "emt1.AhNjbG91ZC5leGFtcGxlOjIwMDA0DzE5Mi4wLjIuMToyMDAwNAcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBmVkZ2UtMQkJCQkJCQkJCQkJCQkJCQmApKfaBkhHP7k";
        assert_eq!(token().to_string(), golden);
        assert_eq!(golden.parse(), Ok(token()));
    }

    #[test]
    fn a_clusters_address_is_told_from_a_token() {
        let Token { servers, root, .. } = &token();
        let cluster = Cluster { servers: servers.clone(), root: *root };
        let text = cluster.to_string();
        assert!(text.starts_with("emc1."), "{text}");
        assert_eq!(text.parse(), Ok(Invitation::Cluster(cluster)));
        assert_eq!(token().to_string().parse(), Ok(Invitation::Token(token())));
        assert_eq!(text.parse::<Token>(), Err(TokenError::Prefix));
        assert_eq!(text[..20].parse::<Invitation>(), Err(TokenError::Checksum));
        assert_eq!("emx1.abc".parse::<Invitation>(), Err(TokenError::Prefix));
    }

    #[test]
    fn every_typing_error_is_told_from_a_wrong_token() {
        let text = token().to_string();
        assert_eq!("emt2.abc".parse::<Token>(), Err(TokenError::Prefix));
        assert_eq!("emt1.ab c".parse::<Token>(), Err(TokenError::Character(' ', 8)));
        for at in 5..text.len() {
            let mut changed = text.clone().into_bytes();
            changed[at] = if changed[at] == b'A' { b'B' } else { b'A' };
            let changed = String::from_utf8(changed).unwrap();
            assert_eq!(changed.parse::<Token>(), Err(TokenError::Checksum), "{at}");
            assert_eq!(text[..at].parse::<Token>(), Err(TokenError::Checksum), "{at}");
        }
    }

    #[test]
    fn nobody_prints_the_secret() {
        let mut token = token();
        token.servers.clear();
        assert_eq!(format!("{token:?}"), "Token { node: \"edge-1\", servers: [], .. }");
    }
}
