//! One UDP socket's QUIC endpoint: its connections, their timers and what they have to send.
//!
//! Connections that something happened to are *touched*: they are polled for events once per pass,
//! flushed and polled for packets once, and their timers are set anew. An untouched connection costs
//! nothing.

use std::collections::{BTreeSet, VecDeque};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use quinn_proto::{ClientConfig, ConnectionHandle, DatagramEvent, EndpointConfig, ServerConfig};

use super::admission::{Admission, Verdict};
use super::budget::Budget;
use super::connection::{Connection, OverBudget, Received};
use super::io::{Datagram, MemberRates, Quotas, Socket, Transmit};

/// A connection of one endpoint: its place in the table, and a serial number because places are
/// used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct ConnectionId {
    pub(super) slot: u32,
    pub(super) serial: u32,
}

#[derive(Debug)]
pub(super) struct Endpoint {
    socket: Socket,
    quic: quinn_proto::Endpoint,
    slots: Vec<Option<Slot>>,
    serial: u32,
    touched: Vec<usize>,
    timers: BTreeSet<(Instant, usize)>,
    /// Answers that belong to no connection: retries, version negotiation, resets.
    answers: VecDeque<(quinn_proto::Transmit, Vec<u8>)>,
    handshakes: usize,
    /// Accepted from addresses that were not shown to be real: since when, and how many.
    unproven: Option<(Instant, u32)>,
    refuse_new: bool,
    /// What players may; relays may anything.
    terms: Option<Terms>,
    counts: Counts,
    scratch: Vec<u8>,
}

#[derive(Debug)]
struct Terms {
    rates: MemberRates,
    admission: Admission,
}

/// What an endpoint counts.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Counts {
    pub(super) refused: u64,
    pub(super) retries: u64,
    pub(super) over_budget: OverBudget,
}

#[derive(Debug)]
struct Slot {
    serial: u32,
    connection: Connection,
    handshaking: bool,
    touched: bool,
    due: Option<Instant>,
    /// Whom the connection counts for.
    counts_for: Option<IpAddr>,
}

/// From this many unfinished handshakes on, a newcomer first has to show that its address is real
/// (RFC 9000, 8.1.2): accepting a spoofed one costs 35 times as much as the Retry.
const RETRY_FROM_HANDSHAKES: usize = 64;
/// And from this many new ones within a second: whoever closes what it opened at once, which a
/// spoofed address can do as well, never has many unfinished.
const RETRY_FROM_INITIALS: u32 = 200;
/// Answers without a connection that wait for the socket; beyond it they are dropped, and the
/// sender asks again.
const ANSWERS_MAX: usize = 1_024;
/// Datagrams to one destination in one system call.
const SEGMENTS_MAX: usize = 10;

impl Endpoint {
    pub(super) fn new(socket: Socket, config: EndpointConfig, server: ServerConfig) -> Self {
        Self {
            socket,
            quic: quinn_proto::Endpoint::new(Arc::new(config), Some(Arc::new(server)), true, None),
            slots: Vec::new(),
            serial: 0,
            touched: Vec::new(),
            timers: BTreeSet::new(),
            answers: VecDeque::new(),
            handshakes: 0,
            unproven: None,
            refuse_new: false,
            terms: None,
            counts: Counts::default(),
            scratch: Vec::new(),
        }
    }

    /// Whoever connects from here on may send and connect no more than this.
    pub(super) fn limit(mut self, rates: MemberRates, quotas: Quotas) -> Self {
        let admission = Admission::new(quotas);
        self.terms = Some(Terms { rates, admission });
        self
    }

    pub(super) fn counts(&self) -> Counts {
        self.counts
    }

    /// Addresses with connections that count against a quota.
    pub(super) fn addresses(&self) -> usize {
        let terms = self.terms.as_ref();
        terms.map_or(0, |terms| terms.admission.addresses())
    }

    /// New connections are served with this from here on.
    pub(super) fn set_server(&mut self, server: ServerConfig) {
        self.quic.set_server_config(Some(Arc::new(server)));
    }

    /// New connections are refused from here on.
    pub(super) fn refuse_new(&mut self) {
        self.refuse_new = true;
    }

    pub(super) fn get(&mut self, id: ConnectionId) -> Option<&mut Connection> {
        let slot = self.slots.get_mut(id.slot as usize)?.as_mut()?;
        if slot.serial != id.serial {
            return None;
        }
        if !slot.touched {
            slot.touched = true;
            self.touched.push(id.slot as usize);
        }
        Some(&mut slot.connection)
    }

    pub(super) fn connections(&self) -> impl Iterator<Item = ConnectionId> + '_ {
        self.slots.iter().enumerate().filter_map(|(slot, entry)| {
            let entry = entry.as_ref()?;
            Some(ConnectionId {
                slot: slot as u32,
                serial: entry.serial,
            })
        })
    }

    pub(super) fn connect(
        &mut self,
        config: ClientConfig,
        remote: std::net::SocketAddr,
        name: &str,
        now: Instant,
    ) -> Result<ConnectionId, quinn_proto::ConnectError> {
        let (handle, quic) = self.quic.connect(now, config, remote, name)?;
        Ok(self.insert(handle, quic, None, now))
    }

    pub(super) fn handle(&mut self, datagram: Datagram, now: Instant) {
        self.scratch.clear();
        let Datagram {
            remote,
            local_ip,
            ecn,
            data,
            ..
        } = datagram;
        match self
            .quic
            .handle(now, remote, local_ip, ecn, data, &mut self.scratch)
        {
            Some(DatagramEvent::ConnectionEvent(handle, event)) => {
                if let Some(slot) = self.touch(handle.0) {
                    slot.connection.quic.handle_event(event);
                }
            }
            Some(DatagramEvent::NewConnection(incoming)) => self.incoming(incoming, now),
            Some(DatagramEvent::Response(transmit)) => self.answer(transmit),
            None => {}
        }
    }

    fn incoming(&mut self, incoming: quinn_proto::Incoming, now: Instant) {
        self.scratch.clear();
        if self.refuse_new {
            let transmit = self.quic.refuse(incoming, &mut self.scratch);
            return self.answer(transmit);
        }
        let from = incoming.remote_address().ip();
        let is_validated = incoming.remote_address_validated();
        let verdict = if !is_validated && self.must_retry(now) {
            Verdict::Retry
        } else {
            let terms = self.terms.as_mut();
            terms.map_or(Verdict::Accept, |terms| {
                terms.admission.judge(from, is_validated, now)
            })
        };
        match verdict {
            Verdict::Accept => {}
            Verdict::Retry => {
                self.counts.retries += 1;
                match self.quic.retry(incoming, &mut self.scratch) {
                    Ok(transmit) => self.answer(transmit),
                    Err(error) => self.quic.ignore(error.into_incoming()),
                }
                return;
            }
            Verdict::Refuse => {
                self.counts.refused += 1;
                let transmit = self.quic.refuse(incoming, &mut self.scratch);
                return self.answer(transmit);
            }
        }
        match self.quic.accept(incoming, now, &mut self.scratch, None) {
            Ok((handle, quic)) => {
                let terms = self.terms.as_mut();
                let counts_for = terms.and_then(|terms| terms.admission.opened(from));
                self.insert(handle, quic, counts_for, now);
            }
            Err(error) => {
                if let Some(transmit) = error.response {
                    self.answer(transmit);
                }
            }
        }
    }

    /// Whether there is so much of newcomers that this one has to show its address; counts it if not.
    fn must_retry(&mut self, now: Instant) -> bool {
        if self.handshakes >= RETRY_FROM_HANDSHAKES {
            return true;
        }
        let this_second = self
            .unproven
            .filter(|(since, _)| now.saturating_duration_since(*since) < Duration::from_secs(1));
        let (since, count) = this_second.unwrap_or((now, 0));
        self.unproven = Some((since, count.saturating_add(1)));
        count >= RETRY_FROM_INITIALS
    }

    fn insert(
        &mut self,
        handle: ConnectionHandle,
        quic: quinn_proto::Connection,
        counts_for: Option<IpAddr>,
        now: Instant,
    ) -> ConnectionId {
        self.serial = self.serial.wrapping_add(1);
        self.handshakes += 1;
        if self.slots.len() <= handle.0 {
            self.slots.resize_with(handle.0 + 1, || None);
        }
        let terms = self.terms.as_ref();
        let budget = terms.map(|terms| Budget::new(terms.rates, now));
        let connection = Connection::new(quic, budget);
        let serial = self.serial;
        self.slots[handle.0] = Some(Slot {
            serial,
            connection,
            handshaking: true,
            touched: true,
            due: None,
            counts_for,
        });
        self.touched.push(handle.0);
        ConnectionId {
            slot: handle.0 as u32,
            serial,
        }
    }

    fn answer(&mut self, transmit: quinn_proto::Transmit) {
        if self.answers.len() < ANSWERS_MAX {
            let bytes = self.scratch[..transmit.size].to_vec();
            self.answers.push_back((transmit, bytes));
        }
    }

    fn touch(&mut self, index: usize) -> Option<&mut Slot> {
        let slot = self.slots.get_mut(index)?.as_mut()?;
        if !slot.touched {
            slot.touched = true;
            self.touched.push(index);
        }
        Some(slot)
    }

    /// Appends what happened on each touched connection.
    pub(super) fn poll(&mut self, now: Instant, out: &mut Vec<(ConnectionId, Received)>) {
        let mut received = Vec::new();
        for at in 0..self.touched.len() {
            let index = self.touched[at];
            let Some(slot) = self.slots.get_mut(index).and_then(Option::as_mut) else {
                continue;
            };
            let id = ConnectionId {
                slot: index as u32,
                serial: slot.serial,
            };
            // Before the endpoint forgets it: a connection that has timed out has that to tell.
            slot.connection.poll(now, &mut received);
            let over_budget = slot.connection.take_over_budget();
            self.counts.over_budget.dropped += over_budget.dropped;
            self.counts.over_budget.pauses += over_budget.pauses;
            if self.exchange_events(index)
                && let Some(slot) = self.slots.get_mut(index).and_then(Option::as_mut)
            {
                slot.connection.poll(now, &mut received);
            }
            for event in received.drain(..) {
                if matches!(event, Received::Connected | Received::Lost(_))
                    && let Some(slot) = self.slots.get_mut(index).and_then(Option::as_mut)
                    && std::mem::take(&mut slot.handshaking)
                {
                    self.handshakes = self.handshakes.saturating_sub(1);
                }
                out.push((id, event));
            }
        }
    }

    /// Carries events between the endpoint and a connection, both ways. Whether the connection was
    /// told anything.
    fn exchange_events(&mut self, index: usize) -> bool {
        let mut told = false;
        let Some(slot) = self.slots.get_mut(index).and_then(Option::as_mut) else {
            return false;
        };
        let mut drained = false;
        while let Some(event) = slot.connection.quic.poll_endpoint_events() {
            drained |= event.is_drained();
            if let Some(event) = self.quic.handle_event(ConnectionHandle(index), event) {
                slot.connection.quic.handle_event(event);
                told = true;
            }
        }
        if drained {
            if let Some(due) = slot.due {
                self.timers.remove(&(due, index));
            }
            if slot.handshaking {
                self.handshakes = self.handshakes.saturating_sub(1);
            }
            if let (Some(address), Some(terms)) = (slot.counts_for, &mut self.terms) {
                terms.admission.closed(address);
            }
            self.slots[index] = None;
        }
        told
    }

    pub(super) fn handle_timeout(&mut self, now: Instant) {
        while let Some(&(due, index)) = self.timers.first()
            && due <= now
        {
            self.timers.pop_first();
            if let Some(slot) = self.touch(index) {
                slot.due = None;
                slot.connection.quic.handle_timeout(now);
            }
        }
    }

    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.timers.first().map(|&(due, _)| due)
    }

    /// The next packets to send, written into `buf`.
    pub(super) fn poll_transmit(&mut self, now: Instant, buf: &mut Vec<u8>) -> Option<Transmit> {
        if let Some((transmit, bytes)) = self.answers.pop_front() {
            buf.extend_from_slice(&bytes);
            return Some(self.transmit(transmit));
        }
        while let Some(&index) = self.touched.last() {
            let Some(slot) = self.slots.get_mut(index).and_then(Option::as_mut) else {
                self.touched.pop();
                continue;
            };
            slot.connection.flush();
            if let Some(transmit) = slot.connection.quic.poll_transmit(now, SEGMENTS_MAX, buf) {
                return Some(self.transmit(transmit));
            }
            if self.exchange_events(index) {
                continue;
            }
            self.touched.pop();
            self.rest(index);
        }
        None
    }

    /// The connection has nothing to do before its next timer.
    fn rest(&mut self, index: usize) {
        let Some(slot) = self.slots.get_mut(index).and_then(Option::as_mut) else {
            return;
        };
        slot.touched = false;
        let due = slot.connection.poll_timeout();
        if due != slot.due {
            if let Some(old) = slot.due {
                self.timers.remove(&(old, index));
            }
            if let Some(new) = due {
                self.timers.insert((new, index));
            }
            slot.due = due;
        }
    }

    fn transmit(&self, transmit: quinn_proto::Transmit) -> Transmit {
        Transmit {
            socket: self.socket,
            destination: transmit.destination,
            ecn: transmit.ecn,
            size: transmit.size,
            segment_size: transmit.segment_size,
            src_ip: transmit.src_ip,
        }
    }
}
