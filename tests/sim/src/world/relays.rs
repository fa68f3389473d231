//! Relays start, and crash.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use dreamcatcher_client::core::RelayAddress;
use dreamcatcher_proto::{BootId, NodeId};
use dreamcatcher_relay::node::Node;
use dreamcatcher_relay::node::io::{
    Clock, ClusterKey, Identity, Input, MemberRates, NodeConfig, Quotas, Socket,
};
use rcgen::{CertificateParams, KeyPair, PKCS_ED25519};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};

use super::World;
use super::fates::{ENDED, LOST};
use crate::UNIX_AT_START;
use crate::desk::Run;
use crate::history::Fate;
use crate::net::Party;

/// How long a relay that stops waits for its players.
const STOPS_WITHIN: Duration = Duration::from_secs(10);

impl World {
    pub(super) fn start_relay(&mut self, relay: usize) {
        let boot = self.boots[relay] + 1;
        let party = Party::Relay(relay);
        let now = self.instant();
        let config = NodeConfig {
            id: node_id(relay),
            boot: BootId(boot),
            host: format!("host-{relay}"),
            region: "sim".to_owned(),
            advertise: party.address(Socket::Client),
            mesh_advertise: party.address(Socket::Mesh),
            capacity: 100,
            clients_max: 1_000,
            cluster_key: ClusterKey([42; 32]),
            identity: identity(relay),
            keys: Arc::clone(&self.keys),
            follows_keys: false,
            rates: MemberRates::default(),
            quotas: Quotas::default(),
            clock: Clock {
                at: now,
                unix: UNIX_AT_START + self.now,
            },
            seed: seed(self.plan.seed, relay as u64, boot),
        };
        let node = Node::new(config, now).expect("its certificates are well-formed");
        self.relays[relay] = Some(node);
        self.boots[relay] = boot;
        self.desk.watch(Run { relay, boot });
        self.touched.insert(party);
        self.drain(party);
    }

    /// The relay is gone; its sessions go on at their standbys, if there is another relay.
    pub(super) fn crash(&mut self, relay: usize) {
        let Some(node) = self.relays[relay].take() else {
            return;
        };
        let boot = self.boots[relay];
        self.desk.unwatch(Run { relay, boot });
        *self.wake_of(Party::Relay(relay)) = None;
        if self.relays.iter().all(Option::is_none) {
            self.lose_sessions_of(&node);
        }
    }

    /// The relay stops in good order; its sessions and players move, if there is another relay.
    pub(super) fn stop(&mut self, relay: usize) {
        let now = self.instant();
        let Some(mut node) = self.relays[relay].take() else {
            return;
        };
        if self.relays.iter().all(Option::is_none) {
            self.lose_sessions_of(&node);
        }
        let within = STOPS_WITHIN;
        node.handle(Input::Stop { within }, now);
        self.relays[relay] = Some(node);
        self.touched.insert(Party::Relay(relay));
    }

    fn lose_sessions_of(&mut self, node: &Node) {
        let views = node.sessions();
        let owned: BTreeSet<&str> = views
            .iter()
            .filter(|view| view.role == "owner")
            .map(|view| view.session.as_str())
            .collect();
        let lost: BTreeSet<usize> = self
            .players
            .values()
            .filter(|player| {
                let session = player.core.session().map(|info| info.id.to_string());
                session.is_some_and(|id| owned.contains(id.as_str()))
            })
            .map(|player| player.plan.game)
            .collect();
        for &game in &lost {
            self.games.entry(game).or_default().lost = true;
        }
        for player in self
            .players
            .values()
            .filter(|p| lost.contains(&p.plan.game))
        {
            let fate = &mut self.history.lives[player.life].fate;
            *fate = match (player.core.session(), *fate) {
                (Some(_), Fate::Plays) => Fate::Ends(LOST),
                (Some(_), Fate::Ends(_)) => Fate::Ends(ENDED),
                (None, Fate::Plays | Fate::Missed) => Fate::Missed,
                (Some(_), Fate::Missed) | (None, Fate::Ends(_)) => *fate,
            };
        }
    }
}

fn node_id(relay: usize) -> NodeId {
    let id = format!("relay-{}-0", relay + 1).parse();
    id.expect("it is a node id")
}

pub(super) fn relay_address(relay: usize) -> RelayAddress {
    RelayAddress {
        node_id: Some(node_id(relay).to_string()),
        region: Some("sim".to_owned()),
        ..RelayAddress::new(
            Party::Relay(relay).address(Socket::Client),
            vec![identity(relay).certificate_sha256()],
        )
    }
}

fn seed(run: u64, party: u64, life: u64) -> [u8; 32] {
    let mut seed = [0; 32];
    seed[..8].copy_from_slice(&run.to_be_bytes());
    seed[8..16].copy_from_slice(&party.to_be_bytes());
    seed[16..24].copy_from_slice(&life.to_be_bytes());
    seed
}

/// The certificate of a relay: Ed25519, whose signatures all have the same size, from a fixed key.
fn identity(relay: usize) -> Identity {
    const PKCS8: [u8; 16] = [
        0x30, 0x2e, 2, 1, 0, 0x30, 5, 6, 3, 0x2b, 0x65, 0x70, 4, 0x22, 4, 0x20,
    ];
    let key = [&PKCS8[..], &[relay as u8 + 1; 32]].concat();
    let key = PrivatePkcs8KeyDer::from(key);
    let pair = KeyPair::from_pkcs8_der_and_sign_algo(&key, &PKCS_ED25519);
    let pair = pair.expect("32 bytes are an Ed25519 key (RFC 8410, 7)");
    let names = vec![node_id(relay).to_string()];
    let certificate = CertificateParams::new(names).and_then(|params| params.self_signed(&pair));
    let certificate = certificate.expect("a node id is a DNS name");
    Identity {
        chain: vec![certificate.der().clone()],
        key: PrivateKeyDer::Pkcs8(key),
    }
}
