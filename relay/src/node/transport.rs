//! How QUIC is set up, for clients and for links: every value with its reason.

use std::sync::Arc;
use std::time::Duration;

use dreamcatcher_proto::{Error, ErrorCode, NodeId, limits};
use quinn_proto::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use quinn_proto::{
    AckFrequencyConfig, ConnectionIdGenerator, EndpointConfig, HashedConnectionIdGenerator,
    IdleTimeout, ServerConfig, TransportConfig, VarInt,
};
use rand::RngCore;
use rand_chacha::ChaCha12Rng;
use rustls::pki_types::CertificateDer;

use super::io::{ClusterKey, Identity};
use crate::identity::{self, WallClock};

/// A link without a packet for this long is lost. Keep-alives come eight times as often.
const LINK_IDLE: Duration = Duration::from_secs(1);
const LINK_KEEP_ALIVE: Duration = Duration::from_millis(250);
/// Unread streams and datagrams of one client, beside its payload: what it may make us hold.
const CLIENT_WINDOW: u32 = 524_288;
const LINK_WINDOW: u32 = 8_388_608;
/// Latest and Datagram frames that wait for the path; the oldest are dropped first.
const CLIENT_DATAGRAM_QUEUE: usize = 65_536;
const LINK_DATAGRAM_QUEUE: usize = 1_048_576;

pub(super) fn client_server(
    identity: Identity,
    wall: &Arc<WallClock>,
) -> Result<ServerConfig, Error> {
    let tls = identity::client_server_config(identity, wall)?;
    server(tls, client_transport())
}

pub(super) fn mesh_server(
    identity: Identity,
    ca: &CertificateDer<'static>,
    wall: &Arc<WallClock>,
) -> Result<ServerConfig, Error> {
    server(
        identity::mesh_server_config(identity, ca, wall)?,
        mesh_transport(),
    )
}

pub(super) fn mesh_client(
    identity: Identity,
    ca: &CertificateDer<'static>,
    wall: &Arc<WallClock>,
    rng: &mut ChaCha12Rng,
) -> Result<quinn_proto::ClientConfig, Error> {
    let tls = identity::mesh_client_config(identity, ca, wall)?;
    let tls = QuicClientConfig::try_from(tls).map_err(unusable)?;
    let mut config = quinn_proto::ClientConfig::new(Arc::new(tls));
    config.transport_config(Arc::new(mesh_transport()));
    let base = rng.next_u64();
    let count = std::sync::atomic::AtomicU64::new(0);
    config.initial_dst_cid_provider(Arc::new(move || {
        let nth = count.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let key = blake3::hash(&[base.to_be_bytes(), nth.to_be_bytes()].concat());
        quinn_proto::ConnectionId::new(&key.as_bytes()[..16])
    }));
    Ok(config)
}

pub(super) fn endpoint_config(
    cluster_key: &ClusterKey,
    node: &NodeId,
    rng: &mut ChaCha12Rng,
) -> EndpointConfig {
    // The same after a restart: clients of the run before are reset at once.
    let mut config = EndpointConfig::new(Arc::new(identity::reset_key(cluster_key, node)));
    config.rng_seed(Some(seed(rng)));
    // And its connection ids are still known as this node's: packets with others are not answered.
    let key = connection_id_key(cluster_key, node);
    config.cid_generator(move || connection_ids(key));
    // One version: the answer to a client that probes with an unknown one stays short.
    config.supported_versions(vec![1]);
    config
}

fn connection_id_key(cluster_key: &ClusterKey, node: &NodeId) -> u64 {
    let derived = blake3::derive_key("dreamcatcher/1 connection ids", &cluster_key.0);
    let of_node = blake3::keyed_hash(&derived, node.as_str().as_bytes());
    of_node
        .as_bytes()
        .iter()
        .take(8)
        .fold(0, |key, byte| key << 8 | u64::from(*byte))
}

fn connection_ids(key: u64) -> Box<dyn ConnectionIdGenerator> {
    Box::new(HashedConnectionIdGenerator::from_key(key))
}

pub(super) fn seed(rng: &mut ChaCha12Rng) -> [u8; 32] {
    let mut seed = [0; 32];
    rng.fill_bytes(&mut seed);
    seed
}

fn server(tls: rustls::ServerConfig, transport: TransportConfig) -> Result<ServerConfig, Error> {
    let tls = QuicServerConfig::try_from(tls).map_err(unusable)?;
    let mut config = ServerConfig::with_crypto(Arc::new(tls));
    config.transport_config(Arc::new(transport));
    config.max_incoming(1_024);
    config.incoming_buffer_size(65_536);
    config.incoming_buffer_size_total(16_777_216);
    Ok(config)
}

fn client_transport() -> TransportConfig {
    let mut transport = TransportConfig::default();
    transport
        .max_concurrent_bidi_streams(VarInt::from_u32(4))
        .max_concurrent_uni_streams(VarInt::from_u32(16))
        .stream_receive_window(VarInt::from_u32(CLIENT_WINDOW / 2))
        .receive_window(VarInt::from_u32(CLIENT_WINDOW))
        .send_window(u64::from(CLIENT_WINDOW))
        .crypto_buffer_size(16_384)
        .datagram_receive_buffer_size(Some(CLIENT_DATAGRAM_QUEUE))
        .datagram_send_buffer_size(CLIENT_DATAGRAM_QUEUE)
        .max_idle_timeout(Some(idle(limits::IDLE_TIMEOUT)))
        // A player's last mile: the RFC's 333 ms waits too long for a lost first packet.
        .initial_rtt(Duration::from_millis(100))
        .ack_frequency_config(Some(acks(Duration::from_millis(25))));
    transport
}

fn mesh_transport() -> TransportConfig {
    let mut transport = TransportConfig::default();
    transport
        .max_concurrent_bidi_streams(VarInt::from_u32(0))
        .max_concurrent_uni_streams(VarInt::from_u32(16))
        .stream_receive_window(VarInt::from_u32(LINK_WINDOW))
        .receive_window(VarInt::from_u32(2 * LINK_WINDOW))
        .send_window(2 * u64::from(LINK_WINDOW))
        .datagram_receive_buffer_size(Some(LINK_DATAGRAM_QUEUE))
        .datagram_send_buffer_size(LINK_DATAGRAM_QUEUE)
        .max_idle_timeout(Some(idle(LINK_IDLE)))
        .keep_alive_interval(Some(LINK_KEEP_ALIVE))
        .initial_rtt(Duration::from_millis(50))
        .ack_frequency_config(Some(acks(Duration::from_millis(25))));
    transport
}

/// Fewer acknowledgements (draft-ietf-quic-ack-frequency): at small messages they are a quarter of
/// the packets.
fn acks(max_delay: Duration) -> AckFrequencyConfig {
    let mut config = AckFrequencyConfig::default();
    config
        .ack_eliciting_threshold(VarInt::from_u32(10))
        .max_ack_delay(Some(max_delay))
        .reordering_threshold(VarInt::from_u32(2));
    config
}

fn idle(duration: Duration) -> IdleTimeout {
    let ms = u32::try_from(duration.as_millis()).unwrap_or(u32::MAX);
    IdleTimeout::from(VarInt::from_u32(ms))
}

fn unusable(error: impl std::fmt::Display) -> Error {
    Error::new(
        ErrorCode::InvalidConfig,
        format!("TLS configuration: {error}"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_restarted_node_knows_the_connection_ids_of_the_run_before() {
        let mesh = ClusterKey([7; 32]);
        let ids = |mesh: &ClusterKey, node: &str| {
            let node = node.parse().unwrap_or_else(|e| panic!("{e}"));
            connection_ids(connection_id_key(mesh, &node))
        };
        let before = ids(&mesh, "a-0").generate_cid();
        assert!(ids(&mesh, "a-0").validate(&before).is_ok());
        assert!(ids(&mesh, "b-0").validate(&before).is_err());
        assert!(ids(&ClusterKey([8; 32]), "a-0").validate(&before).is_err());
    }
}
