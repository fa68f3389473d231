//! What Redis is told: the script that takes each step, and a request as its arguments.

use std::fmt::Write;
use std::sync::LazyLock;
use std::time::Duration;

use dreamcatcher_proto::JoinCode;
use serde::Serialize;

use crate::limits;
use crate::record::{Holder, Listing, NodeRecord, NodeState, View, check, check_certificates};
use crate::request::{DirectoryError, Request};

/// Terms that one step lets end: a step stays well under a millisecond, however much is due.
pub(super) const EXPIRE_MAX: usize = 128;
/// Largest record: a node's or a session's largest, with its text escaped, is below half of it.
pub(super) const RECORD_BYTES_MAX: usize = 4_096;

/// The script: Redis 7 takes one that begins so as a whole or, short of memory or on a replica, not
/// at all.
#[derive(Debug)]
pub(super) struct Script {
    pub(super) text: String,
    /// What Redis knows it by, once it has seen it.
    pub(super) hash: String,
}

pub(super) static SCRIPT: LazyLock<Script> = LazyLock::new(|| {
    let term = |term: Duration| term.as_micros();
    let mut text = "#!lua\n".to_owned();
    for (name, value) in [
        ("NODE_LEASE", term(limits::NODE_LEASE)),
        ("ORPHAN_TTL", term(limits::ORPHAN_TTL)),
        ("LISTING_LEASE", term(limits::LISTING_LEASE)),
        ("KEYS_TTL", term(limits::KEYS_TTL)),
        ("EPOCH_AHEAD_MAX", term(limits::EPOCH_AHEAD_MAX)),
        ("EPOCH_MAX", limits::EPOCH_MAX.into()),
        ("RUNS_MAX", limits::RUNS_MAX as u128),
        ("SESSIONS_MAX", limits::SESSIONS_MAX as u128),
        ("LIST_SCAN_MAX", limits::LIST_SCAN_MAX as u128),
        ("KEYS_BYTES_MAX", limits::KEYS_BYTES_MAX as u128),
        ("EXPIRE_MAX", EXPIRE_MAX as u128),
        ("RECORD_BYTES_MAX", RECORD_BYTES_MAX as u128),
        (
            "NODE_ID_CHARS_MAX",
            dreamcatcher_proto::limits::NODE_ID_CHARS_MAX as u128,
        ),
    ] {
        // Writing to a String does not fail.
        let _ = writeln!(text, "local {name} = {value}");
    }
    for part in [
        include_str!("lua/begin.lua"),
        include_str!("lua/nodes.lua"),
        include_str!("lua/sessions.lua"),
        include_str!("lua/lists.lua"),
        include_str!("lua/expiry.lua"),
        include_str!("lua/step.lua"),
    ] {
        text += part;
    }
    let hash = redis::Script::new(&text).get_hash().to_owned();
    Script { text, hash }
});

/// One call of the script.
#[derive(Debug)]
pub(super) struct Step {
    pub(super) name: &'static str,
    pub(super) arguments: Vec<String>,
    /// Whether replicas are to confirm it.
    pub(super) changes: bool,
}

impl Step {
    /// Ends what is over, and nothing else.
    pub(super) fn expire() -> Self {
        Self::read("expire", [])
    }

    fn read(name: &'static str, arguments: impl Into<Vec<String>>) -> Self {
        Self {
            name,
            arguments: arguments.into(),
            changes: false,
        }
    }

    fn change(name: &'static str, arguments: impl Into<Vec<String>>) -> Self {
        Self {
            name,
            arguments: arguments.into(),
            changes: true,
        }
    }

    /// `request` as the script takes it, with the words that it may need drawn from `random`. Refuses
    /// what could not be read back.
    pub(super) fn new(
        request: &Request,
        random: &mut dyn FnMut() -> u32,
    ) -> Result<Self, DirectoryError> {
        Ok(match request {
            Request::Register(record) => {
                record.check()?;
                let state = state(record.load, record.draining, &record.certificate_sha256);
                let arguments = [
                    record.id.to_string(),
                    format!("{:016x}", record.boot.0),
                    fixed(record),
                    state,
                ];
                Self::change("register", arguments)
            }
            Request::Renew(renewal) => {
                check_certificates(renewal.certificate_sha256.len())?;
                let state = state(renewal.load, renewal.draining, &renewal.certificate_sha256);
                Self::change("renew", [renewal.holder.to_string(), state])
            }
            Request::Deregister(holder) => Self::change("deregister", [holder.to_string()]),
            Request::Nodes => Self::read("nodes", []),
            Request::Drain { node, wanted } => {
                Self::change("drain", [node.to_string(), wanted.to_string()])
            }
            Request::PublishKeys(document) => {
                let (bytes, max) = (document.len(), limits::KEYS_BYTES_MAX);
                check(bytes <= max, || {
                    format!("a JWKS of {bytes} bytes is over the limit of {max}")
                })?;
                Self::change("publish_keys", [document.clone()])
            }
            Request::Keys => Self::read("keys", []),
            Request::CreateSession(new) => {
                let region = crate::record::parse_region(&new.home_region)?;
                let listing = listing(new.listing.as_ref())?;
                let (nonce, codes) = draw(new.with_code, random);
                let mut arguments =
                    vec![new.id.to_string(), region, new.owner.to_string(), listing];
                arguments.push(format!("{nonce:016x}"));
                arguments.extend(codes);
                Self::change("create", arguments)
            }
            Request::Session(id) => Self::read("session", [id.to_string()]),
            Request::Code(code) => Self::read("code", [code.to_string()]),
            Request::RotateCode { id, epoch } => {
                let codes = (0..limits::CODE_DRAWS_MAX).map(|_| JoinCode::draw(&mut *random));
                let mut arguments = vec![id.to_string(), epoch.to_string()];
                arguments.extend(codes.map(|code| code.to_string()));
                Self::change("rotate_code", arguments)
            }
            Request::RevokeCode { id, epoch } => {
                Self::change("revoke_code", [id.to_string(), epoch.to_string()])
            }
            Request::RaiseBallot {
                id,
                expected,
                promised,
            } => {
                let arguments = [id.to_string(), expected.to_string(), promised.to_string()];
                Self::change("raise_ballot", arguments)
            }
            Request::InstallView {
                id,
                ballot,
                view: next,
            } => {
                next.check()?;
                let mut arguments = vec![id.to_string(), ballot.to_string()];
                arguments.extend(view(next));
                Self::change("install_view", arguments)
            }
            Request::Restore(record) => {
                record.check()?;
                let code = record.code.map(|code| code.to_string());
                let mut arguments = vec![
                    record.id.to_string(),
                    record.home_region.clone(),
                    record.ballot.to_string(),
                    code.unwrap_or_default(),
                    listing(record.listing.as_ref())?,
                ];
                arguments.extend(view(&record.view));
                Self::change("restore", arguments)
            }
            Request::Assert {
                id,
                epoch,
                listing: shown,
            } => {
                let arguments = [id.to_string(), epoch.to_string(), listing(Some(shown))?];
                Self::change("assert", arguments)
            }
            Request::ListSessions(filter) => {
                let given = |text: &Option<String>| {
                    text.as_ref()
                        .map(|text| format!("={text}"))
                        .unwrap_or_default()
                };
                let arguments = [
                    filter.after.map(|id| id.to_string()).unwrap_or_default(),
                    filter.page()?.to_string(),
                    given(&filter.region),
                    given(&filter.app_version),
                    filter.open_seats.to_string(),
                    u8::from(filter.unlisted).to_string(),
                ];
                Self::read("list", arguments)
            }
            Request::CloseSession { id, epoch } => {
                Self::change("close", [id.to_string(), epoch.to_string()])
            }
        })
    }
}

/// A nonce and the codes to try, in the order in which the rules draw them: a second code is drawn
/// only if the first is taken.
fn draw(with_code: bool, random: &mut dyn FnMut() -> u32) -> (u64, Vec<String>) {
    let count = if with_code { limits::CODE_DRAWS_MAX } else { 0 };
    let mut codes: Vec<_> = (0..count.min(1))
        .map(|_| JoinCode::draw(&mut *random))
        .collect();
    let nonce = u64::from(random()) << 32 | u64::from(random());
    codes.extend((1..count).map(|_| JoinCode::draw(&mut *random)));
    (nonce, codes.iter().map(JoinCode::to_string).collect())
}

fn json(value: &impl Serialize) -> String {
    // Our own records have string keys and no floats: they are always JSON.
    serde_json::to_string(value).unwrap_or_default()
}

/// What a run of a node keeps.
fn fixed(record: &NodeRecord) -> String {
    let mut value = serde_json::to_value(record).unwrap_or_default();
    if let Some(fields) = value.as_object_mut() {
        for apart in ["load", "draining", "certificate_sha256", "drain_wanted"] {
            fields.remove(apart);
        }
    }
    value.to_string()
}

fn state(load: crate::record::Load, draining: bool, certificate_sha256: &[[u8; 32]]) -> String {
    json(&NodeState {
        load,
        draining,
        certificate_sha256,
    })
}

/// Empty for none. A listing whose fields a store would refuse to read back is refused.
fn listing(listing: Option<&Listing>) -> Result<String, DirectoryError> {
    let Some(listing) = listing else {
        return Ok(String::new());
    };
    let text = json(listing);
    serde_json::from_str::<Listing>(&text).map_err(|e| {
        let message = e.to_string();
        dreamcatcher_proto::Error::new(dreamcatcher_proto::ErrorCode::InvalidArgument, message)
    })?;
    Ok(text)
}

fn view(view: &View) -> [String; 5] {
    [
        view.epoch.to_string(),
        format!("{:016x}", view.nonce),
        view.owner.to_string(),
        view.standby
            .as_ref()
            .map(Holder::to_string)
            .unwrap_or_default(),
        json(&view.anchors),
    ]
}
