//! Trust without an authority: a relay's certificate is accepted if its SHA-256 is on the list that
//! the auth service gave out, and its signature proves that the relay holds the key.

use std::sync::Arc;

use aws_lc_rs::digest;
use dreamcatcher_proto::limits::ALPN_CLIENT;
use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{
    CryptoProvider, aws_lc_rs as provider, verify_tls12_signature, verify_tls13_signature,
};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, SignatureScheme};

/// TLS for one relay: TLS 1.3, this protocol's ALPN, only these certificates. Nothing is resumed:
/// a session ticket would outlive the list.
pub(super) fn client_config(sha256: Vec<[u8; 32]>) -> Result<ClientConfig, rustls::Error> {
    let provider = Arc::new(provider::default_provider());
    let verifier = Pinned {
        sha256,
        provider: Arc::clone(&provider),
    };
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_no_client_auth();
    config.alpn_protocols = vec![ALPN_CLIENT.to_vec()];
    config.resumption = Resumption::disabled();
    Ok(config)
}

/// Accepts the certificates with these hashes, whatever name or dates they carry.
#[derive(Debug)]
struct Pinned {
    sha256: Vec<[u8; 32]>,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let sha256 = digest::digest(&digest::SHA256, end_entity);
        if self.sha256.iter().any(|pinned| pinned == sha256.as_ref()) {
            return Ok(ServerCertVerified::assertion());
        }
        Err(rustls::Error::General(
            "the relay's certificate is not one of the pinned ones; read the relay list again"
                .to_owned(),
        ))
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider
            .signature_verification_algorithms
            .supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

    use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
    use rustls::{ClientConnection, ServerConfig, ServerConnection};

    use super::*;

    #[test]
    fn a_pinned_certificate_is_accepted_beside_others() {
        let (server, hash) = server();
        assert_eq!(handshake(server, vec![[0; 32], hash]), Ok(()));
    }

    #[test]
    fn a_certificate_that_is_not_pinned_is_refused_and_the_error_says_so() {
        let (server, mut hash) = server();
        hash[31] ^= 1;
        let error = handshake(server, vec![hash]).unwrap_err();
        assert!(
            error.to_string().contains("not one of the pinned ones"),
            "{error}"
        );
    }

    #[test]
    fn a_pinned_certificate_without_its_key_is_refused() {
        let (own, _) = identity();
        let (_, other_key) = identity();
        let hash = digest::digest(&digest::SHA256, &own)
            .as_ref()
            .try_into()
            .unwrap();
        let signer = provider::sign::any_supported_type(&other_key).unwrap();
        let forged = rustls::sign::CertifiedKey::new(vec![own], signer);
        let resolver = Arc::new(rustls::sign::SingleCertAndKey::from(forged));
        let server = builder().with_cert_resolver(resolver);
        assert!(handshake(server, vec![hash]).is_err());
    }

    fn identity() -> (CertificateDer<'static>, PrivateKeyDer<'static>) {
        let key = rcgen::KeyPair::generate().unwrap();
        let params = rcgen::CertificateParams::new(vec!["relay".to_owned()]).unwrap();
        let certificate = params.self_signed(&key).unwrap();
        (
            certificate.der().clone(),
            PrivatePkcs8KeyDer::from(key.serialize_der()).into(),
        )
    }

    fn builder() -> rustls::ConfigBuilder<ServerConfig, rustls::server::WantsServerCert> {
        ServerConfig::builder_with_provider(Arc::new(provider::default_provider()))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_no_client_auth()
    }

    fn server() -> (ServerConfig, [u8; 32]) {
        let (certificate, key) = identity();
        let hash = digest::digest(&digest::SHA256, &certificate)
            .as_ref()
            .try_into()
            .unwrap();
        (
            builder().with_single_cert(vec![certificate], key).unwrap(),
            hash,
        )
    }

    fn handshake(mut server: ServerConfig, pinned: Vec<[u8; 32]>) -> Result<(), rustls::Error> {
        server.alpn_protocols = vec![ALPN_CLIENT.to_vec()];
        let mut server = ServerConnection::new(Arc::new(server)).unwrap();
        let config = Arc::new(client_config(pinned)?);
        let mut client = ClientConnection::new(config, "relay".try_into().unwrap())?;
        while client.is_handshaking() {
            let mut bytes = Vec::new();
            while client.wants_write() {
                client.write_tls(&mut bytes).unwrap();
            }
            server.read_tls(&mut bytes.as_slice()).unwrap();
            server.process_new_packets()?;
            let mut bytes = Vec::new();
            while server.wants_write() {
                server.write_tls(&mut bytes).unwrap();
            }
            client.read_tls(&mut bytes.as_slice()).unwrap();
            client.process_new_packets()?;
        }
        assert_eq!(client.alpn_protocol(), Some(ALPN_CLIENT));
        Ok(())
    }
}
