//! What Redis answers. It may hold anything: nothing here is believed before it is checked.

use dreamcatcher_proto::{Epoch, Error, ErrorCode, JoinCode, SessionId};
use redis::Value;
use serde::de::DeserializeOwned;

use super::script::RECORD_BYTES_MAX;
use crate::limits;
use crate::record::{Holder, Listing, NodeRecord, SessionRecord, from_hex};
use crate::request::{DirectoryError, ListPage, Listed, NewSession, Reply, Request};

/// What the script said: its own words, then the step's.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) incarnation: String,
    /// Until the next term ends.
    pub(super) due_in_us: Option<u64>,
    status: String,
    words: Vec<Vec<u8>>,
}

impl Answer {
    pub(super) fn new(value: Value) -> Result<Self, String> {
        let Value::Array(items) = value else {
            return Err("it is no list".to_owned());
        };
        let mut words = items.into_iter().map(|item| {
            if let Value::BulkString(bytes) = item {
                Ok(bytes)
            } else {
                Err("it has no words in it".to_owned())
            }
        });
        let mut next = || {
            words
                .next()
                .unwrap_or_else(|| Err("it is too short".to_owned()))
        };
        let [incarnation, due, status] = [next()?, next()?, next()?].map(|word| text(&word));
        Ok(Self {
            incarnation: incarnation?,
            due_in_us: due?.parse().ok(),
            status: status?,
            words: words.collect::<Result<_, _>>()?,
        })
    }

    /// The reply to `request`, or why there is none.
    pub(super) fn reply(self, request: &Request) -> Result<Reply, DirectoryError> {
        if let Some(refusal) = self.refusal(request) {
            return Err(refusal.unwrap_or_else(|why| self.unreadable(&why)));
        }
        self.granted(request).map_err(|why| self.unreadable(&why))
    }

    fn granted(&self, request: &Request) -> Result<Reply, String> {
        match (self.status.as_str(), request) {
            ("done", _) => Ok(Reply::Done),
            ("nodes", Request::Nodes) => Ok(Reply::Nodes(self.nodes())),
            ("keys", Request::Keys) => Ok(Reply::Keys(match self.words.first() {
                None => None,
                Some(document) if document.len() > limits::KEYS_BYTES_MAX => {
                    return Err("the keys are too long".to_owned());
                }
                Some(document) => Some(text(document)?),
            })),
            ("created", Request::CreateSession(_)) => Ok(Reply::Created {
                epoch: epoch(self.word(0)?)?,
                nonce: from_hex(self.word(1)?)
                    .map(u64::from_be_bytes)
                    .ok_or("the nonce is no hexadecimal number")?,
                code: code(self.word(2)?)?,
            }),
            ("exists", Request::CreateSession(NewSession { id, .. })) => {
                Ok(Reply::Exists(self.session(*id)?))
            }
            (
                "session",
                Request::Session(id)
                | Request::RaiseBallot { id, .. }
                | Request::Restore(SessionRecord { id, .. }),
            ) if !self.words.is_empty() => Ok(Reply::Session(Some(self.session(*id)?))),
            ("session", Request::Code(wanted)) if !self.words.is_empty() => {
                let record: SessionRecord = read(&self.words[0])?;
                if record.code != Some(*wanted) {
                    return Err(format!("session {} has another code", record.id));
                }
                Ok(Reply::Session(Some(record)))
            }
            ("session", Request::Session(_) | Request::Code(_)) => Ok(Reply::Session(None)),
            ("code", Request::RotateCode { .. } | Request::RevokeCode { .. }) => {
                Ok(Reply::Code(match self.words.first() {
                    None => None,
                    Some(_) => code(self.word(0)?)?,
                }))
            }
            ("list", Request::ListSessions(_)) => self.page().map(Reply::Listings),
            (status, _) => Err(format!("it says {status:.32}")),
        }
    }

    /// Why the step was not taken, if it says so.
    fn refusal(&self, request: &Request) -> Option<Result<DirectoryError, String>> {
        if let Some(key) = self.garbled_key() {
            tracing::warn!(
                key,
                "a node's record in Redis is not what its relay wrote: it registers again"
            );
        }
        let holder = || {
            let run = self.word(0)?;
            Holder::from_text(run).ok_or_else(|| "it names no run".to_owned())
        };
        Some(match (self.status.as_str(), request) {
            ("not_registered", _) => holder().map(DirectoryError::NotRegistered),
            ("superseded", _) => holder().map(DirectoryError::Superseded),
            ("other_mesh", Request::Register(_)) => self.word(0).and_then(|node| {
                let node = node.parse();
                node.map(DirectoryError::OtherMesh)
                    .map_err(|e: dreamcatcher_proto::Error| e.to_string())
            }),
            ("node_id_taken", Request::Register(record)) => self.taken(record),
            ("node_not_found", Request::Drain { node, .. }) => {
                Ok(DirectoryError::NodeNotFound(node.clone()))
            }
            (
                "session_not_found",
                Request::RotateCode { id, .. }
                | Request::RevokeCode { id, .. }
                | Request::RaiseBallot { id, .. }
                | Request::InstallView { id, .. }
                | Request::Assert { id, .. }
                | Request::CloseSession { id, .. },
            ) => Ok(DirectoryError::SessionNotFound(*id)),
            ("conflict", _) => self.conflict(),
            ("full", _) => self.full(),
            ("ahead", _) => self.ahead(),
            _ => return None,
        })
    }

    /// The key that a node has to overwrite.
    fn garbled_key(&self) -> Option<&str> {
        let key = self.word(1).ok().filter(|key| !key.is_empty())?;
        (self.status == "not_registered").then_some(key)
    }

    fn taken(&self, record: &NodeRecord) -> Result<DirectoryError, String> {
        let address = |at| {
            let word = self.word(at)?;
            word.parse()
                .map_err(|_| "a node's address is none".to_owned())
        };
        Ok(DirectoryError::NodeIdTaken {
            node: record.id.clone(),
            address: address(0)?,
            mesh_address: address(1)?,
        })
    }

    fn conflict(&self) -> Result<DirectoryError, String> {
        Ok(DirectoryError::Conflict {
            ballot: epoch(self.word(0)?)?,
            epoch: epoch(self.word(1)?)?,
        })
    }

    fn full(&self) -> Result<DirectoryError, String> {
        let what = ["runs of nodes", "sessions", "join codes"];
        let said = self.word(0)?;
        Ok(DirectoryError::Full {
            what: what
                .into_iter()
                .find(|what| *what == said)
                .ok_or("what is full?")?,
            max: self
                .word(1)?
                .parse()
                .map_err(|_| "the limit is no number")?,
        })
    }

    fn ahead(&self) -> Result<DirectoryError, String> {
        let (epoch, max) = (self.word(0)?, self.word(1)?);
        let message = format!(
            "epoch {epoch} is more than an hour ahead of the directory's clock: at most {max}"
        );
        Ok(DirectoryError::Invalid(Error::new(
            ErrorCode::InvalidArgument,
            message,
        )))
    }

    fn session(&self, id: SessionId) -> Result<SessionRecord, String> {
        let record: SessionRecord = self
            .words
            .first()
            .ok_or_else(|| "it is too short".to_owned())
            .and_then(|record| read(record))
            .map_err(|why| format!("session:{id}: {why}"))?;
        if record.id != id {
            return Err(format!("it is the record of session {}", record.id));
        }
        record.check().map_err(|e| e.to_string())?;
        Ok(record)
    }

    /// Those that can be read, by id.
    fn nodes(&self) -> Vec<NodeRecord> {
        let mut skipped = 0_usize;
        let mut nodes: Vec<NodeRecord> = Vec::with_capacity(self.words.len() / 2);
        for words in self.words.chunks_exact(2).take(limits::RUNS_MAX) {
            match read::<NodeRecord>(&words[1]) {
                Ok(node) if node.id.as_str().as_bytes() == words[0] => nodes.push(node),
                other => {
                    skipped += 1;
                    if skipped == 1 {
                        let why = other.err().unwrap_or_else(|| "of another node".to_owned());
                        let name = String::from_utf8_lossy(&words[0]);
                        let key = format!("node:{name:.64}");
                        tracing::warn!(?key, %why, "skipped a record in Redis that no relay wrote");
                    }
                }
            }
        }
        nodes.sort_by(|a, b| a.id.cmp(&b.id));
        nodes.dedup_by(|a, b| a.id == b.id);
        nodes
    }

    fn page(&self) -> Result<ListPage, String> {
        let id =
            |word: &[u8]| -> Option<SessionId> { std::str::from_utf8(word).ok()?.parse().ok() };
        let (next, shown) = self.words.split_first().ok_or("it is too short")?;
        let sessions = shown.chunks_exact(3).take(limits::LIST_PAGE_MAX.into());
        Ok(ListPage {
            sessions: sessions
                .filter_map(|words| {
                    Some(Listed {
                        id: id(&words[0])?,
                        home_region: crate::record::parse_region(&text(&words[1]).ok()?).ok()?,
                        listing: read::<Listing>(&words[2]).ok()?,
                    })
                })
                .collect(),
            next: match next.as_slice() {
                b"" => None,
                next => Some(id(next).ok_or("the next page starts nowhere")?),
            },
        })
    }

    fn word(&self, at: usize) -> Result<&str, String> {
        let word = self.words.get(at).ok_or("it is too short")?;
        std::str::from_utf8(word).map_err(|_| "it is no text".to_owned())
    }

    fn unreadable(&self, why: &str) -> DirectoryError {
        DirectoryError::Unavailable {
            cause: format!("Redis holds what no relay wrote: {why}"),
        }
    }
}

/// A record, whose every field its type checks.
pub(super) fn read<T: DeserializeOwned>(json: &[u8]) -> Result<T, String> {
    if json.len() > 2 * RECORD_BYTES_MAX {
        return Err(format!("a record of {} bytes", json.len()));
    }
    serde_json::from_slice(json).map_err(|e| e.to_string())
}

fn text(bytes: &[u8]) -> Result<String, String> {
    String::from_utf8(bytes.to_vec()).map_err(|_| "it is no text".to_owned())
}

fn epoch(text: &str) -> Result<Epoch, String> {
    let epoch = text.parse().map_err(|_| "an epoch is no number")?;
    if epoch > limits::EPOCH_MAX {
        return Err(format!("epoch {epoch} is over the limit"));
    }
    Ok(Epoch(epoch))
}

/// `None` for the empty text.
fn code(text: &str) -> Result<Option<JoinCode>, String> {
    if text.is_empty() {
        return Ok(None);
    }
    text.parse().map(Some).map_err(|e: Error| e.to_string())
}
