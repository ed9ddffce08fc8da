//! Addresses: a text as a part of one, and what is one of ours.

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

/// In a path or a query (RFC 3986, `unreserved`).
const IN_URL: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// A text as a part of a URL.
pub(super) fn in_url(text: &str) -> String {
    // A browser takes these away, however they are written: the path would be another one.
    match text {
        "." | ".." => text.replace('.', "%2E"),
        text => utf8_percent_encode(text, IN_URL).to_string(),
    }
}

/// Does a browser that is sent there stay here? A path, and no other site's name in any spelling: browsers take `\` for `/`,
/// and leave out control characters.
pub(super) fn is_local(address: &str) -> bool {
    let is_plain = address.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'\\');
    is_plain && address.starts_with('/') && !address.starts_with("//")
}

/// A path with what is asked there: pairs without a value are left out.
pub(super) fn with_query(path: &str, pairs: &[(&str, &str)]) -> String {
    let given = pairs.iter().filter(|(_, value)| !value.is_empty());
    let query: Vec<String> = given.map(|(name, value)| format!("{name}={}", in_url(value))).collect();
    if query.is_empty() { path.to_owned() } else { format!("{path}?{}", query.join("&")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_our_own_paths_are_local() {
        for good in ["/", "/runs/a/b%2Fc?q=x&state=failed", "/?q=//"] {
            assert!(is_local(good), "{good}");
        }
        for bad in
            ["", "x", "//evil.example", "/\\evil.example", "https://evil.example", "/\t/evil.example", "/ü"]
        {
            assert!(!is_local(bad), "{bad}");
        }
    }

    #[test]
    fn what_is_asked_is_written_so_that_it_is_read_again() {
        assert_eq!(with_query("/", &[("q", ""), ("state", "")]), "/");
        assert_eq!(
            with_query("/", &[("q", "a b&c"), ("x", ""), ("state", "ü")]),
            "/?q=a%20b%26c&state=%C3%BC"
        );
        assert_eq!((in_url(".."), in_url("a/b")), ("%2E%2E".to_owned(), "a%2Fb".to_owned()));
    }
}
