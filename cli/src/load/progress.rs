//! How a load fares, while it does: one line on standard error, rewritten on a terminal, a new one each
//! five seconds elsewhere.

use std::fmt;
use std::io::{self, IsTerminal, Stderr, Write};
use std::time::Duration;

use crate::table::{grouped, milliseconds};

/// Looks between two lines where they are not rewritten.
const LOOKS_PER_LINE: u64 = 5;

/// How things stand.
#[derive(Clone, Debug)]
pub(super) enum Look {
    Gathering {
        joined: usize,
        expected: usize,
    },
    Sending {
        /// Of the warm-up, or else of what is measured.
        is_warm_up: bool,
        elapsed: Duration,
        of: Duration,
        sent_per_s: f64,
        delivered_per_s: f64,
        /// Median and 99th percentile of the last second, if anything came.
        latency: Option<(Duration, Duration)>,
        lost: u64,
        duplicated: u64,
        reordered: u64,
        /// From another session, or never sent.
        leaked: u64,
    },
}

impl fmt::Display for Look {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Gathering { joined, expected } => write!(f, "{joined} of {expected} have joined"),
            Self::Sending {
                is_warm_up,
                elapsed,
                of,
                sent_per_s,
                delivered_per_s,
                latency,
                lost,
                duplicated,
                reordered,
                leaked,
            } => {
                let stage = if *is_warm_up { "warm-up" } else { "measured" };
                write!(
                    f,
                    "{stage} {}/{} s  sent/s {}  delivered/s {}  p50 {}  p99 {}  lost {lost}  \
                     duplicated {duplicated}  reordered {reordered}",
                    elapsed.as_secs(),
                    of.as_secs(),
                    grouped(sent_per_s.round() as u64),
                    grouped(delivered_per_s.round() as u64),
                    milliseconds(latency.map(|(p50, _)| p50)),
                    milliseconds(latency.map(|(_, p99)| p99)),
                )?;
                if *leaked > 0 {
                    write!(f, "  leaked {leaked}")?;
                }
                Ok(())
            }
        }
    }
}

/// Shows one look after another.
#[derive(Debug)]
pub(super) struct Progress<W> {
    out: W,
    is_terminal: bool,
    looks: u64,
}

impl Progress<Stderr> {
    pub(super) fn on_stderr() -> Self {
        Self::new(io::stderr(), io::stderr().is_terminal())
    }
}

impl<W: Write> Progress<W> {
    fn new(out: W, is_terminal: bool) -> Self {
        Self {
            out,
            is_terminal,
            looks: 0,
        }
    }

    pub(super) fn show(&mut self, look: &Look) {
        self.looks += 1;
        // Where nobody can be told, the load goes on all the same.
        let _ = if self.is_terminal {
            write!(self.out, "\r\x1b[2K  {look}").and_then(|()| self.out.flush())
        } else if self.looks.is_multiple_of(LOOKS_PER_LINE) {
            writeln!(self.out, "{look}")
        } else {
            Ok(())
        };
    }

    /// What follows begins in a line of its own.
    pub(super) fn end(&mut self) {
        if self.is_terminal && self.looks > 0 {
            let _ = writeln!(self.out);
        }
        self.looks = 0;
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;

    #[test]
    fn on_a_terminal_a_look_takes_the_place_of_the_one_before() {
        let shown = show(true, 3);
        assert_eq!(shown.matches("\r\x1b[2K").count(), 3);
        assert_eq!(shown.matches('\n').count(), 1, "{shown:?}");
        assert!(shown.ends_with('\n'));
    }

    #[test]
    fn elsewhere_each_fifth_look_is_a_plain_line() {
        let shown = show(false, 11);
        let line = "measured 12/30 s  sent/s 3,000  delivered/s 12,000  p50 0.40 ms  p99 1.25 ms  \
                    lost 1  duplicated 2  reordered 3\n";
        assert_eq!(shown, line.repeat(2));
    }

    #[test]
    fn what_leaked_is_named_when_it_is_there_and_what_was_not_measured_is_a_dash() {
        let mut look = look();
        if let Look::Sending {
            leaked, latency, ..
        } = &mut look
        {
            (*leaked, *latency) = (7, None);
        }
        let said = look.to_string();
        assert!(said.contains("p50 –  p99 –"), "{said}");
        assert!(said.ends_with("leaked 7"), "{said}");
    }

    fn show(is_terminal: bool, looks: usize) -> String {
        let mut out = Vec::new();
        let mut progress = Progress::new(&mut out, is_terminal);
        (0..looks).for_each(|_| progress.show(&look()));
        progress.end();
        String::from_utf8(out).unwrap()
    }

    fn look() -> Look {
        Look::Sending {
            is_warm_up: false,
            elapsed: Duration::from_millis(12_900),
            of: Duration::from_secs(30),
            sent_per_s: 3_000.4,
            delivered_per_s: 11_999.8,
            latency: Some((Duration::from_micros(400), Duration::from_micros(1_250))),
            lost: 1,
            duplicated: 2,
            reordered: 3,
            leaked: 0,
        }
    }
}
