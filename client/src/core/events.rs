//! What waits for the game: a bounded queue that slows the relay down before it loses anything that
//! must not be lost.

use std::collections::{BTreeSet, VecDeque};

use dreamcatcher_proto::frame::Mode;
use dreamcatcher_proto::member::Event;

/// Events that can wait: half a second of a full session, a few MiB.
pub(super) const EVENTS_MAX: usize = 16_384;
/// From here on streams are not read: what remains is room for what comes without being asked.
const STREAMS_STOP_AT: usize = EVENTS_MAX / 4 * 3;
/// Streams are read again once the game has caught up to here.
const STREAMS_GO_AT: usize = EVENTS_MAX / 2;
/// A conflation that frees less than this is not worth its pass over the queue.
const CONFLATION_FREES_MIN: usize = EVENTS_MAX / 16;

/// Events on their way to the game.
///
/// When it is full, `Latest` messages that a newer one of their sender and key follows are dropped
/// first; if that is not enough, the older half of the `Latest` and `Datagram` messages. Events of
/// the other modes are never dropped: from `STREAMS_STOP_AT` on the streams that bring them are not
/// read, so that QUIC's flow control holds the relay back.
#[derive(Debug, Default)]
pub(super) struct EventQueue {
    queue: VecDeque<Event>,
    stopped: bool,
    dropped: u64,
}

impl EventQueue {
    pub(super) fn push(&mut self, event: Event) {
        if self.queue.len() >= EVENTS_MAX {
            self.make_room();
        }
        self.queue.push_back(event);
        self.stopped |= self.queue.len() >= STREAMS_STOP_AT;
    }

    pub(super) fn pop(&mut self) -> Option<Event> {
        let event = self.queue.pop_front();
        self.stopped &= self.queue.len() > STREAMS_GO_AT;
        event
    }

    pub(super) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// Whether streams may be read.
    pub(super) fn takes_streams(&self) -> bool {
        !self.stopped
    }

    /// `Latest` and `Datagram` messages that the game was too slow for.
    pub(super) fn dropped(&self) -> u64 {
        self.dropped
    }

    fn make_room(&mut self) {
        let before = self.queue.len();
        let mut newest = BTreeSet::new();
        let mut keep: Vec<bool> = self
            .queue
            .iter()
            .rev()
            .map(|event| match latest_of(event) {
                Some(name) => newest.insert(name),
                None => true,
            })
            .collect();
        keep.reverse();
        let mut kept = keep.into_iter();
        self.queue.retain(|_| kept.next().unwrap_or(true));
        if before - self.queue.len() < CONFLATION_FREES_MIN {
            let mut excess = self
                .queue
                .iter()
                .filter(|event| may_be_lost(event))
                .count()
                .div_ceil(2);
            self.queue.retain(|event| {
                let drop = excess > 0 && may_be_lost(event);
                excess -= usize::from(drop);
                !drop
            });
        }
        self.dropped += (before - self.queue.len()) as u64;
    }
}

fn latest_of(event: &Event) -> Option<(u16, u16)> {
    match event {
        Event::Message {
            mode: Mode::Latest,
            sender,
            key,
            ..
        } => Some((sender.0, *key)),
        Event::Message { .. }
        | Event::PeerJoined(_)
        | Event::PeerDropped(_)
        | Event::PeerRejoined(_)
        | Event::PeerLeft { .. }
        | Event::Committed { .. }
        | Event::Rejected { .. }
        | Event::ReliableGap { .. }
        | Event::Reconnecting
        | Event::Resumed
        | Event::Ended { .. } => None,
    }
}

fn may_be_lost(event: &Event) -> bool {
    matches!(
        event,
        Event::Message {
            mode: Mode::Latest | Mode::Datagram,
            ..
        }
    )
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use dreamcatcher_proto::{Epoch, Incarnation, Index, PeerId, Seq};

    use super::*;

    #[test]
    fn a_full_queue_keeps_the_newest_latest_of_each_key_and_everything_ordered() {
        let mut events = EventQueue::default();
        for seq in 0..2 * EVENTS_MAX as u32 {
            events.push(message(
                if seq % 100 == 0 {
                    Mode::Ordered
                } else {
                    Mode::Latest
                },
                1,
                seq,
            ));
            assert!(events.queue.len() <= EVENTS_MAX);
        }
        let seqs = drain(&mut events);
        let ordered = seqs.iter().filter(|seq| *seq % 100 == 0).count();
        assert_eq!(
            ordered,
            (2 * EVENTS_MAX).div_ceil(100),
            "no Ordered message is lost"
        );
        assert_eq!(
            seqs.last(),
            Some(&(2 * EVENTS_MAX as u32 - 1)),
            "the newest is there"
        );
        assert!(seqs.is_sorted());
    }

    #[test]
    fn where_conflation_does_not_help_the_older_unreliable_half_goes() {
        let mut events = EventQueue::default();
        for seq in 0..=EVENTS_MAX as u32 {
            events.push(message(Mode::Datagram, 0, seq));
        }
        assert_eq!(events.dropped(), EVENTS_MAX as u64 / 2);
        assert_eq!(drain(&mut events).first(), Some(&(EVENTS_MAX as u32 / 2)));
    }

    #[test]
    fn streams_stop_before_the_queue_is_full_and_go_on_once_half_is_read() {
        let mut events = EventQueue::default();
        for seq in 0..STREAMS_STOP_AT as u32 {
            assert!(events.takes_streams(), "{seq}");
            events.push(message(Mode::Ordered, 0, seq));
        }
        while events.queue.len() > STREAMS_GO_AT {
            assert!(!events.takes_streams());
            events.pop();
        }
        assert!(events.takes_streams());
    }

    fn message(mode: Mode, key: u16, seq: u32) -> Event {
        Event::Message {
            sender: PeerId(1),
            incarnation: Incarnation(1),
            seq: Seq(seq),
            mode,
            channel: 0,
            key,
            payload: Bytes::new(),
            index: (mode == Mode::Ordered).then_some(Index(u64::from(seq))),
            epoch: Epoch(1),
        }
    }

    fn drain(events: &mut EventQueue) -> Vec<u32> {
        std::iter::from_fn(|| events.pop())
            .map(|event| {
                let Event::Message { seq, .. } = event else {
                    panic!("{event:?}")
                };
                seq.0
            })
            .collect()
    }
}
