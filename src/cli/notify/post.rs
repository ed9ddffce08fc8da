//! The receiver of notices: an address on the web, and what it answers.

use std::{io::Read, time::Duration};

use base64::{Engine, engine::general_purpose::STANDARD};
use percent_encoding::percent_decode_str;
use ureq::{
    Agent,
    tls::{Certificate, RootCerts, TlsConfig},
};
use url::Url;

use crate::{
    harmless::one_line,
    message::start_of,
    nats::{crypto_provider, trusted_certificates},
    secret::{Masks, Secret},
};

/// A receiver that has not answered by then is tried again later.
const ANSWERS_WITHIN: Duration = Duration::from_secs(10);

/// Where notices are posted to.
pub(super) struct Receiver {
    agent: Agent,
    /// Whoever knows it may post there.
    url: Secret,
    /// Of a user and a password in the URL.
    authorization: Option<Secret>,
    /// Scheme, host and port: what may be shown.
    place: String,
    masks: Masks,
}

impl Receiver {
    /// The receiver at an `http` or `https` URL. An error says what is wrong with the URL, without showing it.
    pub(super) fn at(url: &Secret) -> Result<Self, String> {
        let fail = |reason: &str| {
            format!("--to: {reason}; expected https://HOST/PATH (not shown: it may hold a token)")
        };
        let mut parsed = Url::parse(url.reveal().trim()).map_err(|error| fail(&error.to_string()))?;
        if !matches!(parsed.scheme(), "http" | "https") {
            return Err(fail("no http or https URL"));
        }
        let tls = if parsed.scheme() == "https" { Some(tls()?) } else { None };
        let place = parsed.origin().ascii_serialization();
        let authorization = authorization_of(&parsed);
        let query = parsed.query_pairs().map(|(_, value)| value.into_owned());
        let path = parsed.path_segments().into_iter().flatten().map(str::to_owned);
        let password = parsed.password().map(str::to_owned);
        let parts = query.chain(path).chain(password).chain([url.reveal().to_owned()]);
        let masks = Masks::new(parts.map(Secret::new).chain(authorization.clone()));
        // Neither fails for a URL with a host.
        let _ = parsed.set_username("").and_then(|()| parsed.set_password(None));
        let config = Agent::config_builder()
            .timeout_global(Some(ANSWERS_WITHIN))
            .http_status_as_error(false)
            // A redirected POST becomes a GET, and its 200 proves nothing.
            .max_redirects(0)
            .max_redirects_will_error(false)
            .user_agent(concat!("ansible-runner-nats/", env!("PACKAGE_VERSION")));
        let config = match tls {
            Some(tls) => config.tls_config(tls),
            None => config,
        };
        Ok(Self { agent: config.build().into(), url: Secret::new(parsed), authorization, place, masks })
    }

    /// Scheme, host and port.
    pub(super) fn place(&self) -> &str {
        &self.place
    }

    /// Posts JSON. `id` is the same when the same is posted again. An error says why the receiver has not taken it.
    pub(super) fn post(&self, id: &str, body: &str) -> Result<(), String> {
        /// As much of an answer as a line of a log should have, in bytes.
        const ANSWER: u64 = 200;
        let request = self.agent.post(self.url.reveal());
        let request = request.header("Content-Type", "application/json").header("Idempotency-Key", id);
        let request = match &self.authorization {
            Some(basic) => request.header("Authorization", format!("Basic {}", basic.reveal())),
            None => request,
        };
        let mut answer = request.send(body).map_err(|error| self.hide(&error.to_string()))?;
        if answer.status().is_success() {
            return Ok(());
        }
        let mut said = Vec::new();
        // Why it refuses is worth knowing, and nothing depends on it.
        let _ = answer.body_mut().as_reader().take(ANSWER).read_to_end(&mut said);
        let said = String::from_utf8_lossy(&said);
        Err(self.hide(format!("it answered {}: {said}", answer.status()).trim_end_matches([':', ' '])))
    }

    fn hide(&self, text: &str) -> String {
        const LONGEST: usize = 400;
        let text = self.masks.hidden(one_line(text));
        start_of(&text, LONGEST).to_owned()
    }
}

/// Whom to trust is what the system says.
fn tls() -> Result<TlsConfig, String> {
    let trusted = trusted_certificates();
    if trusted.is_empty() {
        return Err(
            "--to: this system has no certificates to trust (SSL_CERT_FILE names a file that has)".to_owned()
        );
    }
    let trusted: Vec<Certificate<'static>> =
        trusted.iter().map(|one| Certificate::from_der(one).to_owned()).collect();
    let tls = TlsConfig::builder().unversioned_rustls_crypto_provider(crypto_provider());
    Ok(tls.root_certs(RootCerts::new_with_certs(&trusted)).build())
}

/// User and password of a URL, as the header wants them (RFC 7617).
fn authorization_of(url: &Url) -> Option<Secret> {
    let plain = |text: &str| percent_decode_str(text).decode_utf8_lossy().into_owned();
    let password = url.password().map(plain);
    if url.username().is_empty() && password.is_none() {
        return None;
    }
    let pair = format!("{}:{}", plain(url.username()), password.unwrap_or_default());
    Some(Secret::new(STANDARD.encode(pair)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(url: &str) -> Result<Receiver, String> {
        Receiver::at(&Secret::new(url))
    }

    #[test]
    fn no_part_of_a_url_but_its_place_is_shown() {
        let receiver =
            at("http://me:pass4711@hooks.example.org:8080/services/T0000/token4711?key=query4711").unwrap();
        assert_eq!(receiver.place(), "http://hooks.example.org:8080");
        let said =
            receiver.hide("no http://x/token4711 for T0000, query4711, me:pass4711 or bWU6cGFzczQ3MTE=\r\n");
        for secret in ["4711", "token", "T0000", "bWU6"] {
            assert!(!said.contains(secret), "{said}");
        }
        assert!(!receiver.url.reveal().contains("pass4711"));
    }

    #[test]
    fn what_is_no_address_is_refused_and_not_shown() {
        for url in ["token4711", "ftp://x/token4711", "https://", "file:///token4711"] {
            let error = at(url).map(|_| ()).unwrap_err();
            assert!(error.contains("--to") && !error.contains("4711"), "{error}");
        }
    }

    #[test]
    fn user_and_password_become_a_header() {
        let of =
            |url: &str| authorization_of(&Url::parse(url).unwrap()).map(|basic| basic.reveal().to_owned());
        assert_eq!(of("http://me:p%C3%A4ss@x/"), Some(STANDARD.encode("me:päss")));
        assert_eq!(of("http://x/"), None);
    }
}
