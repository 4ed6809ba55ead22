//! Messages from shell to shell: the engine carries them inside the session, which proves who sent them, and reads
//! nothing but their first byte. Its high nibble is 3, which no IP packet has, so a stock WireGuard drops the message
//! after decryption; so does an engine of before these. What stands behind it is the shells' business, up to zeros to
//! the next 16 bytes, which a session adds.

/// First byte of every such message: high nibble 3, low nibble the version.
pub const HEAD: u8 = 0x31;

/// Whether an inner packet is such a message, of any version.
pub fn is_aside(inner: &[u8]) -> bool {
    inner.first().is_some_and(|head| head >> 4 == HEAD >> 4)
}
