//! Players connect, ask for their session, and note what they are told.

use dreamcatcher_proto::frame::Mode;
use dreamcatcher_proto::member::SessionInfo;
use dreamcatcher_proto::token::Claims;
use dreamcatcher_proto::{Error, PeerId, UserId};

use super::fates::{ENDED, REPLACED};
use super::relays::relay_address;
use super::tasks::{ASK_AGAIN, Task};
use super::{Game, World};
use crate::UNIX_AT_START;
use crate::history::{Delivery, Fact, Fate, Life};
use crate::net::Party;
use crate::player::{Player, Seen, Ticket};

impl World {
    pub(super) fn new_life(&mut self, number: usize) -> usize {
        let name = |life: usize| format!("player {number}, life {life}");
        let lives = &mut self.history.lives;
        let earlier = (0..).find(|&life| lives.iter().all(|l| l.name != name(life)));
        let game = self.plan.players[number].game;
        lives.push(Life {
            name: name(earlier.unwrap_or_default()),
            game,
            fate: Fate::Plays,
            facts: Vec::new(),
        });
        lives.len() - 1
    }

    pub(super) fn connect(&mut self, number: usize, life: usize) {
        let plan = self.plan.players[number];
        let user = UserId((plan.user as u128 + 1).to_be_bytes());
        let name = format!("user-{:04}", plan.user).parse();
        let unix = (UNIX_AT_START + self.now).as_secs();
        let claims = Claims::new(
            user,
            name.expect("it is a display name"),
            format!("{:08}", plan.user),
            unix,
        );
        let token = self.signer.sign(&claims).expect("the key signs");
        let count = self.plan.relays;
        let relays = (0..count).map(|step| relay_address((plan.relay + step) % count));
        let ticket = Ticket {
            relays: relays.collect(),
            roaming: self.plan.roaming,
            token,
            seed: self.plan.seed ^ (life as u64 + 1) << 40 ^ self.planned << 20,
        };
        let player = Player::new(plan, life, ticket, self.instant());
        self.players.insert(number, player);
        self.touched.insert(Party::Player(number));
        self.ask(number);
    }

    pub(super) fn ask(&mut self, number: usize) {
        let now = self.instant();
        let Game { code, lost } = *self.game_of(number);
        let Some(player) = self.players.get_mut(&number) else {
            return;
        };
        if player.core.session().is_some() {
            return;
        }
        if lost {
            self.history.lives[player.life].fate = Fate::Missed;
            return;
        }
        if code.is_some() || player.plan.creates {
            if player.core.failure().is_some() {
                let life = player.life;
                return self.connect(number, life);
            }
            if player.ask(code, now).is_ok() {
                self.touched.insert(Party::Player(number));
                return;
            }
        }
        self.plan_at(self.now + ASK_AGAIN, Task::Ask(number));
    }

    pub(super) fn seen(&mut self, number: usize, seen: Seen) {
        let life = self.players[&number].life;
        match seen {
            Seen::Joined(info) => self.joined(number, &info),
            Seen::Refused(error) => self.refused(number, &error),
            Seen::Failed(error) => {
                if self.history.lives[life].ended().is_none() {
                    self.refused(number, &error);
                }
            }
            Seen::Fact(fact) => {
                let facts = self.tampered(number, fact);
                for fact in facts {
                    self.note(life, fact);
                }
            }
        }
    }

    fn refused(&mut self, number: usize, error: &Error) {
        let life = self.players[&number].life;
        self.note(life, Fact::refused(error));
        self.plan_at(self.now + ASK_AGAIN, Task::Ask(number));
    }

    fn joined(&mut self, number: usize, info: &SessionInfo) {
        let (life, user) = {
            let player = &self.players[&number];
            (player.life, player.plan.user)
        };
        let roster = self.players[&number].core.roster();
        let members: Vec<PeerId> = roster.map(|member| member.peer).collect();
        self.note(life, Fact::joined(info, members));
        if let Some(code) = info.code {
            self.game_of(number).code = Some(code);
        }
        // The seat has one life: an earlier client of the user has lost it.
        let other =
            |(other, player): &(&usize, &Player)| **other != number && player.plan.user == user;
        for (_, player) in self.players.iter().filter(other) {
            let life = &mut self.history.lives[player.life];
            life.fate = match life.fate {
                Fate::Plays if life.joined().is_some() => Fate::Ends(REPLACED),
                // It may have heard of this before the other did.
                Fate::Ends(_) => Fate::Ends(ENDED),
                fate @ (Fate::Plays | Fate::Missed) => fate,
            };
        }
        for mode in Mode::ALL {
            let rate = self.plan.rates.of(mode);
            if rate > 0.0
                && let Some(player) = self.players.get_mut(&number)
            {
                let at = self.now + player.pause(rate);
                self.plan_at(at, Task::Say(number, life, mode));
            }
        }
    }

    fn tampered(&mut self, number: usize, fact: Fact) -> Vec<Fact> {
        let game = self.players[&number].plan.game;
        let creates = self.players[&number].plan.creates;
        match &mut self.tamper {
            // The last to join is the victim: the others tell the checker what is right.
            Some(tamper) => tamper.pass(fact, game, !creates, self.now),
            None => vec![fact],
        }
    }

    fn note(&mut self, life: usize, fact: Fact) {
        if let Fact::Delivered(delivery) = fact {
            let Delivery {
                message,
                sender,
                place,
                ..
            } = delivery;
            self.trace
                .add((self.now, life, message, sender, place.index));
        }
        self.history.lives[life].facts.push((self.now, fact));
    }
}
