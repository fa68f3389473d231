//! What happens at a time of its own.

use std::time::Duration;

use dreamcatcher_proto::frame::Mode;

use super::World;
use super::fates::{ENDED, LEFT};
use crate::history::Fate;
use crate::net::Party;
use crate::plan::Incident;
use crate::player::Player;

/// How long a player waits before it tries again to create or join.
pub(super) const ASK_AGAIN: Duration = Duration::from_millis(500);

/// Something that happens at a time of its own.
#[derive(Clone, Copy, Debug)]
pub(super) enum Task {
    /// A player's client starts.
    Start(usize),
    /// A player asks for its session, if it still has none.
    Ask(usize),
    /// A player joins its session anew.
    Return(usize),
    /// A player in this life says something.
    Say(usize, usize, Mode),
    Incident(Incident),
    /// A player's process goes on.
    Speak(usize),
    DirectoryUp,
}

impl World {
    pub(super) fn perform(&mut self, task: Task) {
        let now = self.instant();
        match task {
            Task::Start(player) => {
                let life = self.new_life(player);
                self.connect(player, life);
            }
            Task::Ask(player) => self.ask(player),
            Task::Return(number) => {
                let gone = |player: &Player| player.core.session().is_none();
                if !self.players.get(&number).is_some_and(gone) {
                    self.plan_at(self.now + ASK_AGAIN, task);
                } else if !self.game_of(number).lost {
                    let life = self.new_life(number);
                    if let Some(player) = self.players.get_mut(&number) {
                        player.begin(life);
                        self.ask(number);
                    }
                }
            }
            Task::Say(number, life, mode) => {
                let Some(player) = self.players.get_mut(&number).filter(|p| p.life == life) else {
                    return;
                };
                if player.core.session().is_none() || self.now >= self.plan.quiet() {
                    return;
                }
                let pause = player.pause(self.plan.rates.of(mode));
                let said = if player.silent {
                    None
                } else {
                    player.say(mode, now)
                };
                if let Some(fact) = said {
                    self.history.lives[life].facts.push((self.now, fact));
                    self.touched.insert(Party::Player(number));
                }
                self.plan_at(self.now + pause, task);
            }
            Task::Incident(incident) => self.happen(incident),
            Task::Speak(number) => {
                if let Some(player) = self.players.get_mut(&number) {
                    player.silent = false;
                    player.core.handle_timeout(now);
                    self.touched.insert(Party::Player(number));
                }
            }
            Task::DirectoryUp => self.desk.set_down(false, self.now),
        }
    }

    fn happen(&mut self, incident: Incident) {
        match incident {
            Incident::Crash(relay) => self.crash(relay),
            Incident::Restart(relay) => self.start_relay(relay),
            Incident::Stop(relay) => self.stop(relay),
            Incident::Silence(number, lasts) => {
                if let Some(player) = self.players.get_mut(&number) {
                    player.silent = true;
                    *self.wake_of(Party::Player(number)) = None;
                    self.plan_at(self.now + lasts, Task::Speak(number));
                }
            }
            Incident::Leave(number, returns_after) => {
                let now = self.instant();
                let lost = self.game_of(number).lost;
                let Some(player) = self.players.get_mut(&number).filter(|p| !p.silent) else {
                    return;
                };
                if player.core.leave(now).is_ok() {
                    let codes = if lost { ENDED } else { LEFT };
                    self.history.lives[player.life].fate = Fate::Ends(codes);
                    self.touched.insert(Party::Player(number));
                    // A leave takes a while where it cannot be said at once.
                    let returns = self.now + returns_after + Duration::from_secs(2);
                    self.plan_at(returns, Task::Return(number));
                }
            }
            Incident::DirectoryDown(lasts) => {
                self.desk.set_down(true, self.now);
                self.plan_at(self.now + lasts, Task::DirectoryUp);
            }
        }
    }
}
