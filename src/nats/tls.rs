//! TLS as the options ask for it: whom to trust, who we are, and in words what went wrong.
//!
//! The server's certificate is always verified; there is no option that turns this off.

use std::{error::Error as StdError, io, path::Path, sync::Arc};

use rustls::{
    AlertDescription, CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme,
    client::{
        WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::{CryptoProvider, ring},
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime, pem::PemObject},
};

use crate::{
    config::{Server, Tls, read_secret},
    error::Error,
};

/// What rustls needs for `tls`. The certificate is verified against the option `tls_hostname`, else the name for
/// which the server was learnt, else the host in its URL.
pub(super) fn client_config(tls: &Tls, server: &Server) -> Result<ClientConfig, Error> {
    let fail = |reason: String| Error::Tls { server: server.address.clone(), reason };
    let provider = crypto_provider();
    let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots(tls)?), Arc::clone(&provider))
        .build()
        .map_err(|error| fail(format!("no certificates to trust: {error} (tls_ca)")))?;
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(|error| fail(error.to_string()))?;
    let builder = match tls.hostname.as_ref().or(server.learnt_for.as_ref()) {
        None => builder.with_webpki_verifier(verifier),
        Some(name) => {
            let name = ServerName::try_from(name.to_owned())
                .map_err(|error| fail(format!("tls_hostname {name:?}: {error}")))?;
            // Our verifier does verify, only against another name than the one that we dial.
            builder.dangerous().with_custom_certificate_verifier(Arc::new(NamedVerifier { verifier, name }))
        }
    };
    let Some((cert, key)) = &tls.identity else { return Ok(builder.with_no_client_auth()) };
    builder
        .with_client_auth_cert(certificates("tls_cert", cert)?, private_key(key)?)
        .map_err(|error| cannot_use("tls_key", key, error.to_string()))
}

fn roots(tls: &Tls) -> Result<RootCertStore, Error> {
    let mut roots = RootCertStore::empty();
    match &tls.ca {
        Some(path) => {
            for certificate in certificates("tls_ca", path)? {
                roots.add(certificate).map_err(|error| cannot_use("tls_ca", path, error.to_string()))?;
            }
        }
        // As far as they can be read: the system may have some that nobody could.
        None => drop(roots.add_parsable_certificates(trusted_certificates())),
    }
    Ok(roots)
}

/// The cryptography of every TLS connection: a second one in the program, and async-nats panics.
pub(crate) fn crypto_provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}

/// Those whom this system trusts (`SSL_CERT_FILE`, or what the distribution has).
pub(crate) fn trusted_certificates() -> Vec<CertificateDer<'static>> {
    rustls_native_certs::load_native_certs().certs
}

fn certificates(option: &'static str, path: &Path) -> Result<Vec<CertificateDer<'static>>, Error> {
    let text = read_secret(path).map_err(|error| cannot_use(option, path, error.to_string()))?;
    let found = CertificateDer::pem_slice_iter(text.reveal().as_bytes()).collect::<Result<Vec<_>, _>>();
    match found {
        Ok(found) if found.is_empty() => {
            Err(cannot_use(option, path, "no certificate (PEM) in it".to_owned()))
        }
        Ok(found) => Ok(found),
        Err(error) => Err(cannot_use(option, path, error.to_string())),
    }
}

fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, Error> {
    let fail = |reason: String| cannot_use("tls_key", path, reason);
    let text = read_secret(path).map_err(|error| fail(error.to_string()))?;
    // What the parser says may quote the text.
    PrivateKeyDer::from_pem_slice(text.reveal().as_bytes())
        .map_err(|_| fail("no private key (PEM, not encrypted) in it".to_owned()))
}

fn cannot_use(option: &'static str, path: &Path, reason: String) -> Error {
    Error::Credentials { option, path: path.to_owned(), reason }
}

/// Verifies like WebPKI, but against a name of its own.
#[derive(Debug)]
struct NamedVerifier {
    verifier: Arc<WebPkiServerVerifier>,
    name: ServerName<'static>,
}

impl ServerCertVerifier for NamedVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _dialled: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        self.verifier.verify_server_cert(end_entity, intermediates, &self.name, ocsp_response, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.verifier.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.verifier.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.verifier.supported_verify_schemes()
    }
}

/// What TLS has to do with a failure, if anything: in words, with the option that helps.
pub(super) fn explain(error: &(dyn StdError + 'static), tls: &Tls) -> Option<String> {
    let mut next = Some(error);
    while let Some(error) = next {
        let inside = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        let found = error.downcast_ref().or_else(|| inside.and_then(|inside| inside.downcast_ref()));
        if let Some(found) = found {
            return Some(in_words(found, tls.identity.is_some()));
        }
        // `source` of an `io::Error` skips what is inside it.
        next = match inside {
            Some(inside) => Some(inside),
            None => error.source(),
        };
    }
    None
}

fn in_words(error: &rustls::Error, has_identity: bool) -> String {
    use AlertDescription as Alert;
    match error {
        rustls::Error::InvalidCertificate(why) => of_certificate(why),
        rustls::Error::InvalidMessage(_) => "the server does not offer TLS there".to_owned(),
        rustls::Error::AlertReceived(alert) => match alert {
            Alert::CertificateRequired | Alert::BadCertificate | Alert::HandshakeFailure if !has_identity => {
                format!("the server asks for a client certificate: {alert:?} (tls_cert, tls_key)")
            }
            Alert::BadCertificate
            | Alert::UnsupportedCertificate
            | Alert::CertificateRevoked
            | Alert::CertificateExpired
            | Alert::CertificateUnknown
            | Alert::CertificateRequired
            | Alert::UnknownCA
            | Alert::AccessDenied => {
                format!("the server refuses our client certificate: {alert:?} (tls_cert)")
            }
            _ => format!("the server broke off the handshake: {alert:?}"),
        },
        other => other.to_string(),
    }
}

fn of_certificate(why: &CertificateError) -> String {
    match why {
        // The latter: somebody who bears the name of one whom we trust.
        CertificateError::UnknownIssuer | CertificateError::BadSignature => {
            "nobody whom we trust has signed the server's certificate (tls_ca)".to_owned()
        }
        CertificateError::NotValidForName => {
            "the server's certificate is for another host name (tls_hostname)".to_owned()
        }
        CertificateError::NotValidForNameContext { expected, presented } => format!(
            "the server's certificate is for {}, not for {} (tls_hostname)",
            if presented.is_empty() { "no host name".to_owned() } else { presented.join(", ") },
            expected.to_str()
        ),
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
            "the server's certificate has expired".to_owned()
        }
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            "the server's certificate is not valid yet".to_owned()
        }
        CertificateError::Revoked => "the server's certificate is revoked".to_owned(),
        other => format!("the server's certificate cannot be verified: {other}"),
    }
}

/// Whom a certificate is about, and until when it is valid.
pub(super) fn describe(certificate: &CertificateDer<'_>) -> Option<String> {
    let (_, certificate) = x509_parser::parse_x509_certificate(certificate).ok()?;
    let names = certificate.subject_alternative_name().ok().flatten();
    let names: Vec<String> =
        names.into_iter().flat_map(|names| &names.value.general_names).filter_map(in_short).collect();
    let left = certificate.validity().time_to_expiration().map_or(0, time::Duration::whole_days);
    Some(format!(
        "certificate {} for {}, until {} ({left} days)",
        certificate.subject(),
        if names.is_empty() { "no host name".to_owned() } else { names.join(", ") },
        certificate.validity().not_after,
    ))
}

fn in_short(name: &x509_parser::extensions::GeneralName<'_>) -> Option<String> {
    use x509_parser::extensions::GeneralName;
    match name {
        GeneralName::DNSName(name) => Some((*name).to_owned()),
        GeneralName::IPAddress(bytes) => {
            let address = <[u8; 4]>::try_from(*bytes).map(std::net::IpAddr::from);
            address
                .or_else(|_| <[u8; 16]>::try_from(*bytes).map(std::net::IpAddr::from))
                .ok()
                .map(|ip| ip.to_string())
        }
        _ => None,
    }
}
