//! What tells one text from another in a few letters.

use std::hash::{DefaultHasher, Hash, Hasher};

/// Of the same text always the same, as long as this program is the same. Nobody is kept from making two texts of one
/// fingerprint: what follows from that is a picture that is not renewed, and nothing else.
pub(super) fn fingerprint(text: &str) -> String {
    let mut hasher = DefaultHasher::new();
    text.hash(&mut hasher);
    format!("{:016x}", hasher.finish())
}
