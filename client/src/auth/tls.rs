//! TLS towards the auth service.

use std::sync::Arc;

use dreamcatcher_proto::ErrorCode;
use rustls::client::danger::ServerCertVerifier;
use rustls::client::{Resumption, WebPkiServerVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs as provider};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore};

use super::error::{AuthError, Step};
use super::url::{AuthUrl, Trust};

/// A connection for one call. Nothing is resumed: calls are minutes apart.
pub(super) fn connection(url: &AuthUrl) -> Result<ClientConnection, AuthError> {
    let provider = Arc::new(provider::default_provider());
    let verifier = verifier(url.trust(), Arc::clone(&provider))?;
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| internal(&error))?
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    config.resumption = Resumption::disabled();
    let name = ServerName::try_from(url.host().to_owned()).map_err(|_| {
        let message = format!("auth url {url} has a host that no certificate can name");
        AuthError::new(Step::Start, ErrorCode::InvalidArgument, message)
    })?;
    ClientConnection::new(Arc::new(config), name).map_err(|error| internal(&error))
}

fn verifier(
    trust: &Trust,
    provider: Arc<CryptoProvider>,
) -> Result<Arc<dyn ServerCertVerifier>, AuthError> {
    match trust {
        Trust::Platform => platform(provider),
        Trust::CaFile(file) => {
            let wrong = |why: &dyn std::fmt::Display| {
                let message = format!("the CA file {} {why}", file.display());
                AuthError::new(Step::Start, ErrorCode::InvalidArgument, message)
            };
            let unread = |error: rustls::pki_types::pem::Error| {
                wrong(&format_args!("cannot be read as PEM: {error}"))
            };
            let mut roots = RootCertStore::empty();
            for certificate in CertificateDer::pem_file_iter(file).map_err(unread)? {
                roots
                    .add(certificate.map_err(unread)?)
                    .map_err(|error| wrong(&format_args!("holds a bad certificate: {error}")))?;
            }
            if roots.is_empty() {
                return Err(wrong(&"holds no certificate; give one in PEM form"));
            }
            let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider)
                .build()
                .map_err(|error| internal(&error))?;
            Ok(verifier)
        }
    }
}

#[cfg(feature = "platform-verifier")]
fn platform(provider: Arc<CryptoProvider>) -> Result<Arc<dyn ServerCertVerifier>, AuthError> {
    match rustls_platform_verifier::Verifier::new(provider) {
        Ok(verifier) => Ok(Arc::new(verifier)),
        Err(error) => {
            let message = format!(
                "the system's certificate authorities cannot be read: {error}; install them \
                 (Debian: apt-get install ca-certificates) or give a CA file"
            );
            Err(AuthError::new(
                Step::Tls,
                ErrorCode::ConnectionLost,
                message,
            ))
        }
    }
}

#[cfg(not(feature = "platform-verifier"))]
fn platform(_: Arc<CryptoProvider>) -> Result<Arc<dyn ServerCertVerifier>, AuthError> {
    let message = "this build trusts no platform: give a CA file, or enable platform-verifier";
    Err(AuthError::new(
        Step::Start,
        ErrorCode::InvalidArgument,
        message,
    ))
}

fn internal(error: &dyn std::fmt::Display) -> AuthError {
    AuthError::new(Step::Start, ErrorCode::Internal, format!("TLS: {error}"))
}
