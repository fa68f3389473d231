//! The bots of one session: who judges them, and how they learn its join code.

use std::sync::{Mutex, MutexGuard, PoisonError};

use dreamcatcher_proto::{Error, ErrorCode, JoinCode};
use tokio::sync::watch;

use crate::judge::Judge;

/// One session of a fleet.
#[derive(Debug)]
pub(crate) struct Group {
    pub(crate) number: usize,
    judge: Mutex<Judge>,
    code: watch::Sender<Code>,
}

#[derive(Clone, Copy, Debug)]
enum Code {
    Awaited,
    Is(JoinCode),
    /// The session was not created.
    Never,
}

impl Group {
    /// `judge` is to know the session by a random number, so that no two sessions take each other's
    /// messages for their own.
    pub(crate) fn new(number: usize, judge: Judge) -> Self {
        Self {
            number,
            judge: Mutex::new(judge),
            code: watch::Sender::new(Code::Awaited),
        }
    }

    pub(crate) fn judge(&self) -> MutexGuard<'_, Judge> {
        // A bot that panicked elsewhere is a fault of ours that has been reported there.
        self.judge.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells the others the session's code, or that there is none.
    pub(crate) fn tell(&self, code: Option<JoinCode>) {
        self.code.send_replace(code.map_or(Code::Never, Code::Is));
    }

    /// The session's code, once it is there.
    pub(crate) async fn code(&self) -> Result<JoinCode, Error> {
        let mut code = self.code.subscribe();
        let told = code.wait_for(|code| !matches!(code, Code::Awaited)).await;
        match told.as_deref() {
            Ok(Code::Is(code)) => Ok(*code),
            Ok(Code::Awaited | Code::Never) | Err(_) => Err(Error::new(
                ErrorCode::Cancelled,
                "the first player could not create the session",
            )),
        }
    }
}

/// How many members each session has: as few sessions as hold all bots, of as equal sizes as can be.
pub(super) fn sizes(bots: usize, players: usize) -> Vec<usize> {
    let sessions = bots.div_ceil(players);
    (0..sessions)
        .map(|session| bots / sessions + usize::from(session < bots % sessions))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sessions_are_as_few_and_as_equal_as_can_be() {
        assert_eq!(sizes(12, 4), [4, 4, 4]);
        assert_eq!(sizes(9, 4), [3, 3, 3]);
        assert_eq!(sizes(5, 4), [3, 2]);
        assert_eq!(sizes(1, 4), [1]);
        assert_eq!(sizes(0, 4), [0; 0]);
    }

    #[test]
    fn nobody_plays_alone_where_two_can_play_together() {
        for players in 3..=16 {
            for bots in 2..=1_000 {
                let sizes = sizes(bots, players);
                assert_eq!(sizes.iter().sum::<usize>(), bots);
                assert!(
                    sizes.iter().all(|size| (2..=players).contains(size)),
                    "{bots}/{players}"
                );
            }
        }
    }
}
