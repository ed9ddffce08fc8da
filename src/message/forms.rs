//! What a secret looks like, whatever it is called: keys, tokens of well-known services, signed addresses.

/// How a service writes its secrets, as its own documentation and the scanners of code hosts have it: how they begin, and of
/// how many characters the rest is at least. Nothing else is written so; what is merely random is known by its name, or by
/// its value.
///
/// (No regular expressions: a thread of the job's with a small stack may ask this, and they take more than it has.)
const TOKENS: &[(&str, usize)] = &[
    // PEM, OpenSSH, PGP; age.
    ("-----BEGIN ", 1),
    ("AGE-SECRET-KEY-1", 10),
    // GitHub, GitLab, Slack, AWS, Stripe.
    ("ghp_", 16),
    ("gho_", 16),
    ("ghu_", 16),
    ("ghs_", 16),
    ("ghr_", 16),
    ("github_pat_", 16),
    ("glpat-", 16),
    ("gldt-", 16),
    ("glrt-", 16),
    ("glptt-", 16),
    ("glcbt-", 16),
    ("xoxa-", 8),
    ("xoxb-", 8),
    ("xoxe-", 8),
    ("xoxp-", 8),
    ("xoxr-", 8),
    ("xoxs-", 8),
    ("xapp-", 8),
    ("AKIA", 12),
    ("ASIA", 12),
    ("sk_live_", 8),
    ("sk_test_", 8),
    ("pk_live_", 8),
    ("rk_live_", 8),
    ("whsec_", 8),
    // OpenAI and the like, SendGrid, Google, npm, PyPI, HashiCorp Vault, DigitalOcean, Docker, Grafana, Atlassian, Databricks.
    ("sk-", 20),
    ("SG.", 20),
    ("AIza", 20),
    ("ya29.", 8),
    ("GOCSPX-", 8),
    ("npm_", 20),
    ("pypi-", 16),
    ("hvs.", 16),
    ("hvb.", 16),
    ("hvr.", 16),
    ("dop_v1_", 16),
    ("doo_v1_", 16),
    ("dckr_pat_", 8),
    ("glsa_", 16),
    ("ATATT", 16),
    ("ATCTT", 16),
    ("ATBB", 16),
    ("dapi", 32),
];

/// Tokens of these, when the rest has no capital and no digit, are words: `sk-based-on-something`.
const WORDLIKE: &[&str] = &["sk-", "npm_", "pypi-", "dapi"];

/// Of the query of an address: it is signed, or a key is in it.
const QUERY_ENDS: &[&str] =
    &["sig", "signature", "token", "key", "code", "auth", "password", "pass", "secret", "credential"];

/// Does a text have something in it that looks like a secret?
pub(super) fn has_secret_form(text: &str) -> bool {
    has_token(text.as_bytes())
        || text.match_indices("eyJ").any(|(at, _)| is_jwt(text.get(at..).unwrap_or_default()))
        || has_bearer(text)
        || text
            .split(|c: char| c.is_whitespace() || matches!(c, '"' | '\'' | '<' | '>'))
            .any(is_secret_address)
}

/// A token begins where no word goes on: nearly all of a text is passed over by that.
fn has_token(text: &[u8]) -> bool {
    let of_word = |byte: &u8| byte.is_ascii_alphanumeric() || *byte == b'_';
    let mut before = None;
    text.iter().enumerate().any(|(at, byte)| {
        let may_begin = !before.replace(byte).is_some_and(of_word);
        may_begin
            && TOKENS.iter().any(|(start, least)| {
                let rest = text.get(at..).and_then(|text| text.strip_prefix(start.as_bytes()));
                rest.is_some_and(|rest| is_token(start, rest, *least))
            })
    })
}

fn is_token(start: &str, rest: &[u8], least: usize) -> bool {
    let of_token =
        |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.' | b'=' | b'+' | b'/');
    let token: Vec<u8> = rest.iter().copied().take(64).take_while(of_token).collect();
    let is_random = || token.iter().any(|byte| byte.is_ascii_digit() || byte.is_ascii_uppercase());
    token.len() >= least && (!WORDLIKE.contains(&start) || is_random())
}

/// A JWT: header and payload are JSON objects in base64, with a dot between them.
fn is_jwt(text: &str) -> bool {
    let of_base64 = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-');
    // No header of one is longer than a few hundred bytes.
    let header = text.bytes().take(2048).take_while(of_base64).count();
    header > 8 && text.as_bytes().get(header) == Some(&b'.')
}

/// `Authorization: Bearer ...`
fn has_bearer(text: &str) -> bool {
    let mut words = text.split_whitespace().peekable();
    while let Some(word) = words.next() {
        let end = word.len().checked_sub("bearer".len()).and_then(|at| word.get(at..));
        if end.is_some_and(|end| end.eq_ignore_ascii_case("bearer")) && words.peek().is_some() {
            return true;
        }
    }
    false
}

/// An address that is a key itself: signed for a while, of a web hook, or of a database as Oracle's drivers have it
/// (`jdbc:oracle:thin:user/password@host`).
fn is_secret_address(word: &str) -> bool {
    if let Some((scheme, rest)) = word.split_once("://").filter(|(scheme, _)| scheme.len() <= 64) {
        let (place, query) = rest.split_once('?').unwrap_or((rest, ""));
        let mut names = query
            .split(['&', ';'])
            .filter_map(|pair| pair.split_once('='))
            .filter(|(_, value)| value.len() >= 4);
        let (host, path) = place.split_once('/').unwrap_or((place, ""));
        let is_hook = |part: &str| ends_with(part, "hook") || ends_with(part, "hooks");
        let is_web = ends_with(scheme, "http") || ends_with(scheme, "https");
        return names.any(|(name, _)| QUERY_ENDS.iter().any(|end| ends_with(name, end)))
            || (is_web && !path.is_empty() && host.split('.').any(is_hook))
            || (is_web
                && path.split_once('/').is_some_and(|_| {
                    let mut parts = path.split('/').skip_while(|part| !is_hook(part));
                    parts.next().is_some() && parts.next().is_some_and(|part| part.len() >= 4)
                }));
    }
    word.split_once("jdbc:")
        .and_then(|(_, rest)| rest.rsplit_once('@'))
        .is_some_and(|(login, _)| login.contains('/'))
}

fn ends_with(text: &str, end: &str) -> bool {
    let tail = text.len().checked_sub(end.len()).and_then(|at| text.get(at..));
    tail.is_some_and(|tail| tail.eq_ignore_ascii_case(end))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_by_their_form() {
        let base = "A1b2C3d4E5f6G7h8I9j0";
        for secret in [
            "-----BEGIN OPENSSH PRIVATE KEY-----\nx",
            &format!("ghp_{base}"),
            &format!("token=glpat-{base}"),
            &format!("xoxb-1234-{base}"),
            "AKIAIOSFODNN7EXAMPLE",
            &format!("sk_live_{base}"),
            &format!("sk-proj-{base}"),
            &format!("AIza{base}{base}"),
            &format!("hvs.{base}"),
            "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2ln",
            "Authorization: Bearer abc",
            "https://b.s3.amazonaws.com/k?X-Amz-Signature=abcdef",
            "https://a.blob.core.windows.net/c?sv=2020-01-01&sig=abcdef%3D",
            "https://hooks.slack.com/services/T0/B0/xyz",
            "https://discord.com/api/webhooks/1234567/abcdef",
            "jdbc:oracle:thin:scott/tiger@//db:1521/x",
        ] {
            assert!(has_secret_form(secret), "{secret}");
        }
        for harmless in [
            "",
            "/usr/bin:/bin",
            "https://example.org/a/b?page=2&sort=key",
            "en_US.UTF-8",
            "task-list-of-a-long-name",
            "jdbc:postgresql://db:5432/x",
            "skip-this-and-that-and-more",
            "me@example.org",
            "git@github.com:o/r.git",
            "rs=0:di=01;34:ln=01;36:mh=00",
            "npm_config_cache",
            "-o ControlPersist=60s",
            "glob-pattern",
            "registry.example.org/ee:1.0@sha256:abc",
            "/opt/hooks/run",
            "bearer",
        ] {
            assert!(!has_secret_form(harmless), "{harmless}");
        }
    }
}
