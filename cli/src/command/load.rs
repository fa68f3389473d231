//! `dreamcatcher load`: players on a mesh that is there already, and what became of their messages.

use dreamcatcher_proto::frame::Mode;
use dreamcatcher_proto::limits::{DATAGRAM_PAYLOAD_BYTES, MEMBER_BYTES_PER_S, PAYLOAD_BYTES_MAX};

use crate::args::LoadArgs;
use crate::command::verify_history::EXTENSION;
use crate::exit::Failure;
use crate::file;
use crate::judge::STAMP_BYTES;
use crate::load::{self, Placement, Plan};
use crate::out;
use crate::stop::Stop;
use crate::table::{counted, grouped};

/// What a message's frame adds to its payload, at most, where no receivers are named.
const FRAME_BYTES: usize = 16;
/// Players that come in each second, if the user does not say: half of what an auth service takes from
/// one machine.
const PLAYERS_PER_S: u32 = 50;

pub(crate) async fn load(args: LoadArgs) -> Result<(), Failure> {
    let plan = plan(&args)?;
    let mut stop = Stop::on_signal()?;
    out::say_line(introduction(&plan))?;
    let Some(report) = load::run(plan, &mut stop).await? else {
        return out::say_line("Stopped before everybody had joined: nothing was measured.");
    };
    // The file first: it is worth something even where nobody reads the summary.
    if let Some(file) = &args.report {
        file::replace(file, &report.json(), file::MODE_SHARED)?;
    }
    out::say_line(format_args!("\n{report}"))?;
    if report.kept() {
        Ok(())
    } else {
        let message = "not everything went as promised; the summary says what";
        Err(Failure::Failed(message.to_owned()))
    }
}

/// What is to be done, or what of it can be known to be wrong before anything starts.
fn plan(args: &LoadArgs) -> Result<Plan, Failure> {
    let wrong = |message: &str| Failure::usage("load", message);
    let Some(auth) = args.auth.clone() else {
        return Err(wrong(
            "--auth (or auth in the configuration file) is missing: the URL of the mesh's auth \
             service, as `dreamcatcher dev` prints it",
        ));
    };
    let mode = Mode::from(args.mode);
    size(args.bytes, mode, args.hz).map_err(|message| wrong(&message))?;
    if let Some(file) = &args.report {
        file::can_replace(file).map_err(|e| {
            wrong(&format!(
                "--report {} cannot be written: {e}",
                file.display()
            ))
        })?;
    }
    if let Some(directory) = &args.history {
        file::empty_directory(directory, EXTENSION).map_err(|e| {
            let shown = directory.display();
            wrong(&format!("--history {shown} cannot be used: {e}"))
        })?;
    }
    let players = u32::try_from(args.players).unwrap_or(u32::MAX);
    let placement = match (args.spread, args.nearest, &args.relay) {
        (_, false, None) => Placement::Spread,
        (false, true, None) => Placement::Nearest,
        (false, false, Some(node)) => Placement::Pinned(node.clone()),
        (true, true, _) | (true, _, Some(_)) | (_, true, Some(_)) => {
            return Err(wrong(
                "--spread, --nearest and --relay exclude each other: give one",
            ));
        }
    };
    Ok(Plan {
        auth,
        sessions: args.sessions,
        players: args.players,
        hz: args.hz,
        bytes: args.bytes,
        mode,
        placement,
        ramp: args.ramp.unwrap_or((PLAYERS_PER_S / players).max(1)),
        warm_up_s: args.warm_up,
        seconds: args.seconds,
        admins: args.admin.clone(),
        histories: args.history.clone(),
    })
}

/// Whether messages of this size can be judged, carried, and sent at this rate; if not, why.
fn size(bytes: usize, mode: Mode, hz: u32) -> Result<(), String> {
    let most = if mode.is_unreliable() {
        DATAGRAM_PAYLOAD_BYTES
    } else {
        PAYLOAD_BYTES_MAX
    };
    if bytes < STAMP_BYTES {
        return Err(format!(
            "--bytes {bytes} is too small: the stamp by which each message is judged takes \
             {STAMP_BYTES} bytes; give {STAMP_BYTES}–{most}"
        ));
    }
    if bytes > most {
        let name = mode.name();
        return Err(format!(
            "--bytes {bytes} is too large: --mode {name} carries at most {most} bytes; give \
             {STAMP_BYTES}–{most}"
        ));
    }
    let per_s_max = usize::try_from(MEMBER_BYTES_PER_S).unwrap_or(usize::MAX);
    let hz = usize::try_from(hz).unwrap_or(usize::MAX);
    let rate = hz.saturating_mul(bytes + FRAME_BYTES);
    if rate > per_s_max {
        return Err(format!(
            "--bytes {bytes}, and {FRAME_BYTES} of its frame, at --hz {hz} are {} bytes a second, and \
             a member may send {}: give --bytes {} or less, or a lower --hz",
            grouped(rate as u64),
            grouped(per_s_max as u64),
            per_s_max / hz - FRAME_BYTES,
        ));
    }
    Ok(())
}

fn introduction(plan: &Plan) -> String {
    format!(
        "{} of {} come in, {} a second; then {} s of warm-up and {} s of {} Hz × {} B {}.",
        counted(plan.sessions, "session"),
        counted(plan.players, "player"),
        counted(plan.ramp, "session"),
        plan.warm_up_s,
        plan.seconds,
        plan.hz,
        plan.bytes,
        plan.mode.name(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_mode_takes_what_it_can_carry_and_the_stamp_needs_its_bytes() {
        for mode in Mode::ALL {
            assert_eq!(size(STAMP_BYTES, mode, 120), Ok(()));
            assert_eq!(size(1_100, mode, 120), Ok(()));
            let said = size(STAMP_BYTES - 1, mode, 1).err().unwrap_or_default();
            assert!(said.contains("takes 24 bytes"), "{said}");
        }
        for (mode, most) in [
            (Mode::Ordered, "at most 65536"),
            (Mode::Reliable, "at most 65536"),
            (Mode::Latest, "at most 1100"),
            (Mode::Datagram, "at most 1100"),
        ] {
            let said = size(65_537, mode, 1).err().unwrap_or_default();
            assert!(said.contains(most), "{said}");
        }
    }

    #[test]
    fn a_rate_beyond_what_a_member_may_send_is_refused_with_the_limit() {
        assert_eq!(size(65_520, Mode::Ordered, 4), Ok(()));
        let said = size(65_521, Mode::Ordered, 4).err().unwrap_or_default();
        assert!(said.contains("262,148 bytes a second"), "{said}");
        assert!(said.contains("may send 262,144"), "{said}");
        assert!(said.contains("--bytes 65520 or less"), "{said}");
        assert_eq!(size(2_168, Mode::Reliable, 120), Ok(()));
        assert!(size(2_169, Mode::Reliable, 120).is_err());
    }
}
