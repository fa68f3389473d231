//! Who a relay is, to clients and to other relays.
//!
//! ```text
//!  client_identity(now) ──▶ certificate ──SHA-256──▶ directory ──▶ relay list ──▶ pinned by clients
//!
//!  ClusterKey ─┬─▶ mesh CA ──signs──▶ mesh_identity (SAN = node id) ◀──both ends check── links
//!              └─▶ reset_key
//! ```
//!
//! Clients need no CA: they pin the hash of a certificate that the relay made itself, as browsers do
//! with `serverCertificateHashes` (WebTransport, W3C). Relays need none either: whoever holds the
//! cluster key can derive the mesh CA, and so is a member of the mesh; the certificate then says
//! which node it is. Everything is TLS 1.3 with aws-lc-rs, without 0-RTT, tickets or a process-wide
//! default.

use std::path::Path;
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use aws_lc_rs::{digest, hmac};
use dreamcatcher_proto::{Error, ErrorCode, NodeId, limits};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, PKCS_ED25519, date_time_ymd,
};
use rustls::client::{Resumption, WebPkiServerVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs as provider};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName, UnixTime};
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::time_provider::TimeProvider;
use rustls::version::TLS13;
use rustls::{ClientConfig, RootCertStore, ServerConfig};

pub use crate::node::io::{ClusterKey, Identity};

/// How long a client-facing certificate is valid: `serverCertificateHashes` allows at most 14 days.
pub const CLIENT_VALID_FOR: Duration = Duration::from_secs(13 * 24 * 3_600);
/// How often a new one is made: early enough that the one before is valid for as long again.
pub const CLIENT_RENEW_EVERY: Duration = Duration::from_secs(6 * 24 * 3_600);
/// How far a client's clock may be behind.
const CLIENT_CLOCK_BEHIND: Duration = Duration::from_secs(3_600);
/// How long a mesh certificate is valid from the start of its node. It never leaves the process, and
/// trust ends with the cluster key, so it only has to outlive the process.
const MESH_VALID_FOR: Duration = Duration::from_secs(10 * 365 * 24 * 3_600);
/// Longest cluster key file: 64 hexadecimal digits, and room for white space around them.
const CLUSTER_KEY_FILE_BYTES_MAX: u64 = 128;

/// A new self-made ECDSA P-256 certificate for clients to pin, valid for [`CLIENT_VALID_FOR`].
pub fn client_identity(now_unix_s: u64) -> Result<Identity, Error> {
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(failed)?;
    let mut params = CertificateParams::new(["dreamcatcher".to_owned()]).map_err(failed)?;
    params
        .distinguished_name
        .push(DnType::CommonName, "dreamcatcher relay");
    let from = Duration::from_secs(now_unix_s).saturating_sub(CLIENT_CLOCK_BEHIND);
    params.not_before = date_time_ymd(1970, 1, 1) + from;
    params.not_after = params.not_before + CLIENT_VALID_FOR;
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    let certificate = params.self_signed(&key).map_err(failed)?;
    Ok(identity(vec![certificate.der().clone()], &key))
}

/// The certificate that `node_id` issues itself, and the CA of the mesh that signed it. The same
/// arguments give the same bytes.
pub fn mesh_identity(
    cluster_key: &ClusterKey,
    node_id: &NodeId,
    seed: &[u8; 32],
    now_unix_s: u64,
) -> Result<(Identity, CertificateDer<'static>), Error> {
    server_name(node_id)?;
    let (ca, issuer) = mesh_ca(cluster_key)?;
    let key = ed25519(&blake3::derive_key("dreamcatcher/1 mesh node key", seed))?;
    let mut params = CertificateParams::new([node_id.to_string()]).map_err(failed)?;
    params
        .distinguished_name
        .push(DnType::CommonName, node_id.as_str());
    params.not_before = date_time_ymd(2020, 1, 1);
    params.not_after = date_time_ymd(1970, 1, 1) + Duration::from_secs(now_unix_s) + MESH_VALID_FOR;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![
        ExtendedKeyUsagePurpose::ServerAuth,
        ExtendedKeyUsagePurpose::ClientAuth,
    ];
    let certificate = params.signed_by(&key, &issuer).map_err(failed)?;
    Ok((identity(vec![certificate.der().clone()], &key), ca))
}

/// How a node serves its clients: `identity` is shown, nothing is asked of them but a token, later.
pub fn client_server_config(
    identity: Identity,
    clock: &Arc<WallClock>,
) -> Result<ServerConfig, Error> {
    let config = ServerConfig::builder_with_details(tls(), clock.clone())
        .with_protocol_versions(&[&TLS13])
        .map_err(failed)?
        .with_no_client_auth()
        .with_single_cert(identity.chain, identity.key)
        .map_err(failed)?;
    Ok(served(config, limits::ALPN_CLIENT))
}

/// How a node accepts links: whoever dials must show a certificate of the mesh's CA. Which node it
/// is says [`peer_is`], once it has introduced itself.
pub fn mesh_server_config(
    identity: Identity,
    ca: &CertificateDer<'static>,
    clock: &Arc<WallClock>,
) -> Result<ServerConfig, Error> {
    let verifier = WebPkiClientVerifier::builder_with_provider(roots(ca)?, tls())
        .build()
        .map_err(failed)?;
    let config = ServerConfig::builder_with_details(tls(), clock.clone())
        .with_protocol_versions(&[&TLS13])
        .map_err(failed)?
        .with_client_cert_verifier(verifier)
        .with_single_cert(identity.chain, identity.key)
        .map_err(failed)?;
    Ok(served(config, limits::ALPN_MESH))
}

/// How a node dials links. The server name of a connection is the id of the node that is dialled.
pub fn mesh_client_config(
    identity: Identity,
    ca: &CertificateDer<'static>,
    clock: &Arc<WallClock>,
) -> Result<ClientConfig, Error> {
    let verifier = WebPkiServerVerifier::builder_with_provider(roots(ca)?, tls())
        .build()
        .map_err(failed)?;
    let mut config = ClientConfig::builder_with_details(tls(), clock.clone())
        .with_protocol_versions(&[&TLS13])
        .map_err(failed)?
        .with_webpki_verifier(verifier)
        .with_client_auth_cert(identity.chain, identity.key)
        .map_err(failed)?;
    config.alpn_protocols = vec![limits::ALPN_MESH.to_vec()];
    config.resumption = Resumption::disabled();
    config.enable_early_data = false;
    Ok(config)
}

/// Whether the certificate of a peer, already checked against the mesh's CA, is that of `node_id`.
#[must_use]
pub fn peer_is(certificate: &CertificateDer<'_>, node_id: &NodeId) -> bool {
    let (Ok(certificate), Ok(name)) = (
        webpki::EndEntityCert::try_from(certificate),
        server_name(node_id),
    ) else {
        return false;
    };
    certificate.verify_is_valid_for_subject_name(&name).is_ok()
}

/// What a node signs its stateless resets with (RFC 9000, 10.3): the same after a restart, so that
/// peers of the run before hear at once that it is gone.
#[must_use]
pub fn reset_key(cluster_key: &ClusterKey, node_id: &NodeId) -> hmac::Key {
    let derived = blake3::derive_key("dreamcatcher/1 stateless reset", &cluster_key.0);
    let of_node = blake3::keyed_hash(&derived, node_id.as_str().as_bytes());
    hmac::Key::new(hmac::HMAC_SHA256, of_node.as_bytes())
}

/// The wall clock that certificates are judged by: set by whoever is given the time.
#[derive(Debug)]
pub struct WallClock(AtomicU64);

impl WallClock {
    #[must_use]
    pub fn new(now_unix_s: u64) -> Arc<Self> {
        Arc::new(Self(AtomicU64::new(now_unix_s)))
    }

    pub fn set(&self, now_unix_s: u64) {
        self.0.store(now_unix_s, Ordering::Relaxed);
    }
}

impl TimeProvider for WallClock {
    fn current_time(&self) -> Option<UnixTime> {
        let now = Duration::from_secs(self.0.load(Ordering::Relaxed));
        Some(UnixTime::since_unix_epoch(now))
    }
}

impl Identity {
    /// SHA-256 of the certificate in DER: what clients pin.
    #[must_use]
    pub fn certificate_sha256(&self) -> [u8; 32] {
        let certificate = self.chain.first().map(AsRef::as_ref).unwrap_or_default();
        let mut hash = [0; 32];
        hash.copy_from_slice(digest::digest(&digest::SHA256, certificate).as_ref());
        hash
    }
}

impl ClusterKey {
    /// A new random key.
    #[must_use]
    pub fn generate() -> Self {
        Self(rand::random())
    }

    /// Reads 32 bytes, or 64 hexadecimal digits with white space around them.
    pub fn from_file(path: &Path) -> Result<Self, Error> {
        let shown = path.display();
        let invalid = |cause: String| {
            Error::new(
                ErrorCode::InvalidConfig,
                format!("cluster key file {shown}: {cause}"),
            )
        };
        let found = std::fs::metadata(path).map_err(|e| invalid(e.to_string()))?;
        if !found.is_file() {
            return Err(invalid("it is not a regular file".to_owned()));
        }
        let size = found.len();
        if size > CLUSTER_KEY_FILE_BYTES_MAX {
            return Err(invalid(format!(
                "{size} bytes are over the limit of {CLUSTER_KEY_FILE_BYTES_MAX}; {MAKE_ONE}"
            )));
        }
        let bytes = std::fs::read(path).map_err(|e| invalid(e.to_string()))?;
        if let Ok(key) = bytes.as_slice().try_into() {
            return Ok(Self(key));
        }
        std::str::from_utf8(&bytes)
            .ok()
            .and_then(|text| text.parse().ok())
            .ok_or_else(|| {
                let size = bytes.len();
                invalid(format!(
                    "{size} bytes that are neither a key of 32 bytes nor 64 hexadecimal digits; \
                     {MAKE_ONE}"
                ))
            })
    }

    /// Tells meshes apart: the same for the same key, and says nothing about it.
    #[must_use]
    pub fn mesh_id(&self) -> u64 {
        let derived = blake3::derive_key("dreamcatcher/1 mesh id", &self.0);
        let [a, b, c, d, e, f, g, h, ..] = derived;
        u64::from_be_bytes([a, b, c, d, e, f, g, h])
    }

    /// The key as [`FromStr`] reads it: for writing a key file. A secret.
    #[must_use]
    pub fn to_hex(&self) -> String {
        self.0.iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

const MAKE_ONE: &str = "make one with `dreamcatcher keygen`";

impl FromStr for ClusterKey {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let digits = text.trim().as_bytes();
        let value = |digit: u8| char::from(digit).to_digit(16);
        let mut key = [0; 32];
        let complete = digits.len() == 64
            && key
                .iter_mut()
                .zip(digits.chunks_exact(2))
                .all(|(byte, pair)| {
                    let both = value(pair[0]).zip(value(pair[1]));
                    both.and_then(|(high, low)| u8::try_from(high << 4 | low).ok())
                        .map(|read| *byte = read)
                        .is_some()
                });
        complete.then_some(Self(key)).ok_or_else(|| {
            Error::new(
                ErrorCode::InvalidConfig,
                format!("cluster_key must be 64 hexadecimal digits; {MAKE_ONE}"),
            )
        })
    }
}

/// The CA of the mesh: the same for everybody who holds the cluster key.
fn mesh_ca(
    cluster_key: &ClusterKey,
) -> Result<(CertificateDer<'static>, Issuer<'static, KeyPair>), Error> {
    let key = ed25519(&blake3::derive_key(
        "dreamcatcher/1 mesh CA",
        &cluster_key.0,
    ))?;
    let mut params = CertificateParams::default();
    // The name tells meshes apart, so that the certificate of another one has an unknown issuer (TLS
    // alert unknown_ca) and not a wrong signature.
    let fingerprint = &blake3::hash(key.public_key_raw()).to_hex()[..16];
    params.distinguished_name.push(
        DnType::CommonName,
        format!("dreamcatcher mesh {fingerprint}"),
    );
    params.not_before = date_time_ymd(2020, 1, 1);
    params.not_after = date_time_ymd(4096, 1, 1);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    let certificate = params.self_signed(&key).map_err(failed)?;
    Ok((certificate.der().clone(), Issuer::new(params, key)))
}

/// The Ed25519 key pair of `seed`, as PKCS#8 (RFC 8410, 7): a fixed header, then the seed.
fn ed25519(seed: &[u8; 32]) -> Result<KeyPair, Error> {
    const HEADER: [u8; 16] = [
        0x30, 0x2e, 2, 1, 0, 0x30, 5, 6, 3, 0x2b, 0x65, 0x70, 4, 0x22, 4, 0x20,
    ];
    let pkcs8 = PrivatePkcs8KeyDer::from([&HEADER[..], seed].concat());
    KeyPair::from_pkcs8_der_and_sign_algo(&pkcs8, &PKCS_ED25519).map_err(failed)
}

fn identity(chain: Vec<CertificateDer<'static>>, key: &KeyPair) -> Identity {
    let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
    Identity { chain, key }
}

fn served(mut config: ServerConfig, alpn: &[u8]) -> ServerConfig {
    config.alpn_protocols = vec![alpn.to_vec()];
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    config.max_early_data_size = 0;
    config.ignore_client_order = true;
    config
}

/// AES-128 first: the cheapest of the three on every processor with AES instructions. No
/// post-quantum group, which would cost each handshake a second packet both ways.
fn tls() -> Arc<CryptoProvider> {
    Arc::new(CryptoProvider {
        cipher_suites: vec![
            provider::cipher_suite::TLS13_AES_128_GCM_SHA256,
            provider::cipher_suite::TLS13_CHACHA20_POLY1305_SHA256,
            provider::cipher_suite::TLS13_AES_256_GCM_SHA384,
        ],
        kx_groups: vec![provider::kx_group::X25519, provider::kx_group::SECP256R1],
        ..provider::default_provider()
    })
}

fn roots(ca: &CertificateDer<'static>) -> Result<Arc<RootCertStore>, Error> {
    let mut roots = RootCertStore::empty();
    roots.add(ca.clone()).map_err(failed)?;
    Ok(Arc::new(roots))
}

fn server_name(node_id: &NodeId) -> Result<ServerName<'static>, Error> {
    match ServerName::try_from(node_id.to_string()) {
        Ok(name @ ServerName::DnsName(_)) => Ok(name),
        Ok(_) | Err(_) => Err(Error::new(
            ErrorCode::InvalidConfig,
            format!("node id {node_id} must not be all digits: it has to be a DNS name"),
        )),
    }
}

fn failed(error: impl std::error::Error) -> Error {
    Error::new(ErrorCode::Internal, format!("no TLS identity: {error}"))
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failed step fails the test")]

    use rustls::{ClientConnection, ServerConnection};

    use super::*;

    const NOW: u64 = 1_800_000_000;
    const KEY: ClusterKey = ClusterKey([7; 32]);

    #[test]
    fn nodes_with_the_same_cluster_key_link_and_know_each_other() {
        let (server, client) =
            handshake(&Peer::new(KEY, "a-0"), &Peer::new(KEY, "b-0"), NOW).unwrap();
        let seen = &server.peer_certificates().unwrap()[0];
        assert!(peer_is(seen, &"b-0".parse().unwrap()));
        assert!(!peer_is(seen, &"a-0".parse().unwrap()));
        assert!(!peer_is(
            &CertificateDer::from(vec![1, 2]),
            &"b-0".parse().unwrap()
        ));
        assert_eq!(client.alpn_protocol(), Some(limits::ALPN_MESH));
    }

    #[test]
    fn another_cluster_key_is_refused_by_whichever_side_holds_it() {
        let own = Peer::new(KEY, "a-0");
        let other = Peer::new(ClusterKey([8; 32]), "a-0");
        // Each trusts its own CA alone, so make only one side suspicious at a time.
        let mut trusting = Peer::new(ClusterKey([8; 32]), "b-0");
        trusting.ca = own.ca.clone();
        for (server, client) in [(&own, &trusting), (&other, &own)] {
            let says = refused(server, client, NOW);
            assert!(says.contains("UnknownIssuer"), "{says}");
        }
    }

    #[test]
    fn a_node_that_is_not_the_one_dialled_is_refused() {
        let server = Peer::new(KEY, "a-0");
        let client = Peer::new(KEY, "b-0");
        let dialled = connect(&server, &client, "c-0", NOW).unwrap_err();
        assert!(dialled.contains("NotValidForName"), "{dialled}");
    }

    #[test]
    fn an_expired_mesh_certificate_is_refused() {
        let (server, client) = (Peer::new(KEY, "a-0"), Peer::new(KEY, "b-0"));
        assert!(handshake(&server, &client, NOW + MESH_VALID_FOR.as_secs() - 1).is_ok());
        let late = refused(&server, &client, NOW + MESH_VALID_FOR.as_secs() + 1);
        assert!(late.contains("Expired"), "{late}");
    }

    #[test]
    fn a_client_facing_certificate_opens_no_link() {
        let server = Peer::new(KEY, "a-0");
        let mut client = Peer::new(KEY, "b-0");
        client.identity = client_identity(NOW).unwrap();
        let says = refused(&server, &client, NOW);
        assert!(says.contains("InvalidPurpose"), "{says}");
    }

    #[test]
    fn the_same_seed_gives_the_same_mesh_certificate() {
        let make = |seed| {
            let id = "a-0".parse().unwrap();
            mesh_identity(&KEY, &id, &[seed; 32], NOW).unwrap()
        };
        assert_eq!(make(1).0.chain, make(1).0.chain);
        assert_ne!(make(1).0.chain, make(2).0.chain);
        assert_eq!(make(1).1, make(2).1, "one CA");
        assert!(mesh_identity(&KEY, &"1".parse().unwrap(), &[1; 32], NOW).is_err());
    }

    #[test]
    fn the_published_hash_is_the_sha256_of_the_certificate() {
        // FIPS 180-2, B.1.
        let abc = Identity {
            chain: vec![CertificateDer::from(b"abc".to_vec())],
            key: client_identity(NOW).unwrap().key,
        };
        assert!(
            abc.certificate_sha256()
                .starts_with(&[0xba, 0x78, 0x16, 0xbf])
        );
        let (one, two) = (client_identity(NOW).unwrap(), client_identity(NOW).unwrap());
        assert_ne!(one.certificate_sha256(), two.certificate_sha256());
    }

    #[test]
    fn clients_are_served_any_identity_with_tls_1_3_and_no_tickets() {
        let (ed25519, _) = mesh_identity(&KEY, &"a-0".parse().unwrap(), &[1; 32], NOW).unwrap();
        for identity in [client_identity(NOW).unwrap(), ed25519] {
            let config = client_server_config(identity, &WallClock::new(NOW)).unwrap();
            assert_eq!(config.send_tls13_tickets, 0);
            assert_eq!(config.max_early_data_size, 0);
            assert!(quinn_proto::crypto::rustls::QuicServerConfig::try_from(config).is_ok());
        }
        assert!(CLIENT_VALID_FOR <= Duration::from_secs(14 * 24 * 3_600));
    }

    #[test]
    fn a_cluster_key_is_read_as_bytes_or_as_digits() {
        let digits = KEY.to_hex();
        let read = |bytes: &[u8]| {
            let file = tempfile::NamedTempFile::new().unwrap();
            std::fs::write(file.path(), bytes).unwrap();
            ClusterKey::from_file(file.path()).map(|key| key.0)
        };
        assert_eq!(read(&KEY.0), Ok(KEY.0));
        assert_eq!(read(digits.as_bytes()), Ok(KEY.0));
        assert_eq!(read(format!("{digits}\n").as_bytes()), Ok(KEY.0));
        for bad in [
            &b""[..],
            &[7; 31],
            &[7; 33],
            &[b'7'; 63],
            &[b'g'; 64],
            &[b'7'; 129],
        ] {
            let error = read(bad).unwrap_err();
            assert_eq!(error.code(), ErrorCode::InvalidConfig);
            assert!(error.message().contains("keygen"), "{error}");
        }
        let missing = ClusterKey::from_file(Path::new("no such file")).unwrap_err();
        assert!(missing.message().contains("no such file"), "{missing}");
        assert_ne!(ClusterKey::generate().0, ClusterKey::generate().0);
    }

    #[test]
    fn reset_keys_differ_by_node_and_by_mesh() {
        let tag = |key: &ClusterKey, id: &str| {
            hmac::sign(&reset_key(key, &id.parse().unwrap()), b"cid")
                .as_ref()
                .to_vec()
        };
        assert_eq!(tag(&KEY, "a-0"), tag(&KEY, "a-0"));
        assert_ne!(tag(&KEY, "a-0"), tag(&KEY, "b-0"));
        assert_ne!(tag(&KEY, "a-0"), tag(&ClusterKey([8; 32]), "a-0"));
    }

    struct Peer {
        id: NodeId,
        identity: Identity,
        ca: CertificateDer<'static>,
    }

    impl Peer {
        fn new(key: ClusterKey, id: &str) -> Self {
            let id: NodeId = id.parse().unwrap();
            let (identity, ca) = mesh_identity(&key, &id, &[1; 32], NOW).unwrap();
            Self { id, identity, ca }
        }
    }

    fn refused(server: &Peer, client: &Peer, now: u64) -> String {
        handshake(server, client, now).unwrap_err()
    }

    fn handshake(
        server: &Peer,
        client: &Peer,
        now: u64,
    ) -> Result<(ServerConnection, ClientConnection), String> {
        connect(server, client, server.id.as_str(), now)
    }

    /// A TLS handshake in memory, or the complaint of the side that ended it.
    fn connect(
        server: &Peer,
        client: &Peer,
        name: &str,
        now: u64,
    ) -> Result<(ServerConnection, ClientConnection), String> {
        let clock = WallClock::new(now);
        let accept = mesh_server_config(server.identity.clone(), &server.ca, &clock).unwrap();
        let dial = mesh_client_config(client.identity.clone(), &client.ca, &clock).unwrap();
        let mut accept = ServerConnection::new(Arc::new(accept)).unwrap();
        let name = ServerName::try_from(name.to_owned()).unwrap();
        let mut dial = ClientConnection::new(Arc::new(dial), name).unwrap();
        while dial.is_handshaking()
            || accept.is_handshaking()
            || accept.wants_read() && dial.wants_write()
        {
            carry(&mut dial, &mut accept)?;
            carry(&mut accept, &mut dial)?;
        }
        Ok((accept, dial))
    }

    fn carry<A, B>(
        from: &mut impl std::ops::DerefMut<Target = rustls::ConnectionCommon<A>>,
        to: &mut impl std::ops::DerefMut<Target = rustls::ConnectionCommon<B>>,
    ) -> Result<(), String> {
        let mut bytes = Vec::new();
        while from.wants_write() {
            from.write_tls(&mut bytes).unwrap();
        }
        let mut unread = bytes.as_slice();
        while !unread.is_empty() {
            to.read_tls(&mut unread).unwrap();
            to.process_new_packets().map_err(|e| format!("{e:?}"))?;
        }
        Ok(())
    }
}
