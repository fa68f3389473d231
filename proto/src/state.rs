//! What a session is as of an entry: the part of it that outlives its owner.
//!
//! ```text
//!   state at i ──apply(entry i + 1)──▶ state at i + 1
//! ```
//!
//! Owner and standby start from the same state and apply the same entries, so they hold the same.
//! Through which gateway a member is connected is not in it: it comes back to a new owner by itself.

use std::collections::BTreeMap;

use crate::control::{Member, SessionEvent, SessionOptions, User, wire};
use crate::error::{Error, ErrorCode};
use crate::frame::{Fanout, Mode, SESSION_CHANNEL};
use crate::id::{Incarnation, Index, JoinCode, PeerId, Seq};
use crate::limits;

/// A session as of its entry `index`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionState {
    pub home_region: String,
    pub options: SessionOptions,
    pub code: Option<JoinCode>,
    pub index: Index,
    /// The highest peer id that was given out.
    pub last_peer: PeerId,
    pub seats: BTreeMap<PeerId, SeatState>,
}

/// One player's place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SeatState {
    pub user: User,
    pub incarnation: Incarnation,
    /// As the members know it: `dropped` ends it, `rejoined` brings it back.
    pub connected: bool,
    /// The newest entry when this life began; what is older is not for it.
    pub joined_at: Index,
    /// Of its Ordered messages, the last that was taken up or refused.
    pub ordered_seen: Seq,
}

impl SessionState {
    /// Moves on to the next entry. `MalformedFrame` if it is not the next, or no session makes it.
    pub fn apply(&mut self, entry: &Fanout) -> Result<(), Error> {
        let index = entry.place.index;
        if index != self.index.next() || entry.message.mode != Mode::Ordered {
            return Err(malformed(format!(
                "entry {index} does not follow {}",
                self.index
            )));
        }
        let before = self.index;
        if entry.message.channel != SESSION_CHANNEL {
            self.index = index;
            if let Some(seat) = self.life(entry.sender, entry.incarnation) {
                seat.ordered_seen = seat.ordered_seen.max(entry.message.seq);
            }
            return Ok(());
        }
        let event = SessionEvent::decode(entry.message.payload.clone())?;
        if let SessionEvent::Joined(member) = &event
            && self.seats.len() >= usize::from(limits::PLAYERS_MAX)
            && !self.seats.contains_key(&member.peer)
        {
            return Err(malformed(format!("entry {index} is one seat too many")));
        }
        // From here on nothing fails: an entry that is refused has changed nothing.
        self.index = index;
        match event {
            SessionEvent::Joined(member) => {
                self.last_peer = self.last_peer.max(member.peer);
                let seat = SeatState {
                    user: User {
                        id: member.user,
                        display_name: member.display_name,
                    },
                    incarnation: member.incarnation,
                    connected: true,
                    joined_at: before,
                    ordered_seen: Seq(0),
                };
                self.seats.insert(member.peer, seat);
            }
            SessionEvent::Rejoined { peer, incarnation } => {
                if let Some(seat) = self.seats.get_mut(&peer) {
                    seat.connected = true;
                    if seat.incarnation != incarnation {
                        seat.incarnation = incarnation;
                        seat.joined_at = before;
                        seat.ordered_seen = Seq(0);
                    }
                }
            }
            SessionEvent::Refused {
                peer,
                incarnation,
                seq,
                ..
            } => {
                if let Some(seat) = self.life(peer, incarnation) {
                    seat.ordered_seen = seat.ordered_seen.max(seq);
                }
            }
            SessionEvent::Dropped { peer } => {
                if let Some(seat) = self.seats.get_mut(&peer) {
                    seat.connected = false;
                }
            }
            SessionEvent::Left { peer, .. } => {
                self.seats.remove(&peer);
            }
        }
        Ok(())
    }

    fn life(&mut self, peer: PeerId, incarnation: Incarnation) -> Option<&mut SeatState> {
        let seat = self.seats.get_mut(&peer);
        seat.filter(|seat| seat.incarnation == incarnation)
    }
}

impl From<&SessionState> for wire::SessionState {
    fn from(state: &SessionState) -> Self {
        let seats = state.seats.iter().map(|(&peer, seat)| wire::SeatState {
            member: Some(wire::Member::from(&Member {
                peer,
                incarnation: seat.incarnation,
                user: seat.user.id,
                display_name: seat.user.display_name.clone(),
                connected: seat.connected,
            })),
            joined_at: seat.joined_at.0,
            ordered_seen: seat.ordered_seen.0,
        });
        Self {
            home_region: state.home_region.clone(),
            options: Some((&state.options).into()),
            join_code: state.code.map(|code| code.to_string()).unwrap_or_default(),
            index: state.index.0,
            last_peer: state.last_peer.0.into(),
            seats: seats.collect(),
        }
    }
}

impl TryFrom<wire::SessionState> for SessionState {
    type Error = Error;

    fn try_from(wire: wire::SessionState) -> Result<Self, Error> {
        if wire.seats.len() > usize::from(limits::PLAYERS_MAX) {
            let (seats, max) = (wire.seats.len(), limits::PLAYERS_MAX);
            return Err(malformed(format!("state has {seats} seats; at most {max}")));
        }
        let last_peer = u16::try_from(wire.last_peer)
            .map_err(|_| malformed(format!("last_peer {} is above 65,535", wire.last_peer)))?;
        let seat = |seat: wire::SeatState| {
            let member = seat
                .member
                .ok_or_else(|| malformed("a seat has no member".to_owned()))?;
            let member = Member::try_from(member)?;
            let state = SeatState {
                user: User {
                    id: member.user,
                    display_name: member.display_name,
                },
                incarnation: member.incarnation,
                connected: member.connected,
                joined_at: Index(seat.joined_at),
                ordered_seen: Seq(seat.ordered_seen),
            };
            Ok::<_, Error>((member.peer, state))
        };
        Ok(Self {
            home_region: wire.home_region,
            options: wire.options.unwrap_or_default().try_into()?,
            code: match wire.join_code.as_str() {
                "" => None,
                code => Some(code.parse()?),
            },
            index: Index(wire.index),
            last_peer: PeerId(last_peer),
            seats: wire.seats.into_iter().map(seat).collect::<Result<_, _>>()?,
        })
    }
}

fn malformed(message: String) -> Error {
    Error::new(ErrorCode::MalformedFrame, message)
}
