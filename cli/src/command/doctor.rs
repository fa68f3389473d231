//! `dreamcatcher doctor`: every step that a player takes, one after the other, as a player takes it.
//!
//! ```text
//!  name ─▶ auth ─▶ ready, clock ─▶ sign-in ─▶ relays ─▶ each relay: udp ─▶ quic ─▶ token
//!                                                                └─▶ session: echo through two of them
//! ```
//!
//! It uses the SDK and nothing else, from where it runs. Each step is a [`Finding`]; what failed comes
//! with what to do about it.

mod chart;
mod echo;
mod relays;
#[cfg(test)]
mod tests;

use std::path::Path;
use std::time::{Duration, Instant, SystemTime};

use dreamcatcher_client::auth::{self, AuthError, AuthUrl, SignIn, Step, Trust};
use dreamcatcher_client::{Error, ErrorCode, RelayAddress};
use dreamcatcher_proto::token::LEEWAY_S;

use crate::args::DoctorArgs;
use crate::exit::Failure;
use chart::{Chart, Finding};

/// How the guest is called that takes the steps.
const GUEST_NAME: &str = "doctor";
/// Largest password file: a password has 128 characters at most.
const PASSWORD_FILE_BYTES_MAX: u64 = 4_096;

pub(crate) async fn doctor(args: DoctorArgs) -> Result<(), Failure> {
    let visit = Visit::new(&args)?;
    let mut chart = Chart::new(args.json);
    let verdict = examine(&visit, &mut chart).await?;
    chart.conclude(&visit.auth, &verdict)?;
    match verdict {
        Verdict::CanPlay => Ok(()),
        Verdict::CannotPlay(why) => Err(Failure::Failed(format!("a player cannot play: {why}"))),
        Verdict::AuthIsAway(why) => Err(Failure::Unavailable(why)),
    }
}

/// What is to be looked at, and as whom.
#[derive(Debug)]
struct Visit {
    auth: AuthUrl,
    relay: Option<String>,
    account: Option<Account>,
}

struct Account {
    user: String,
    password: String,
}

impl std::fmt::Debug for Account {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Account({})", self.user)
    }
}

impl Visit {
    fn new(args: &DoctorArgs) -> Result<Self, Failure> {
        let wrong = |message: String| Failure::usage("doctor", &message);
        let auth = if args.insecure {
            AuthUrl::insecure(&args.auth)
        } else {
            args.auth.parse()
        };
        let auth = auth.map_err(|error| {
            let hint = if args.auth.starts_with("http://") && !args.insecure {
                " (--insecure)"
            } else {
                ""
            };
            wrong(format!("--auth: {}{hint}", error.message()))
        })?;
        let trust = args.ca_file.clone().map_or(Trust::Platform, Trust::CaFile);
        let account = match (&args.user, &args.password_file) {
            (None, None) => None,
            (Some(user), Some(file)) => Some(Account {
                user: user.clone(),
                password: password(file)?,
            }),
            (Some(_), None) => {
                let message = "--user needs --password-file: a password on a command line is for all \
                               to see";
                return Err(wrong(message.to_owned()));
            }
            (None, Some(_)) => return Err(wrong("--password-file needs --user".to_owned())),
        };
        Ok(Self {
            auth: auth.trusting(trust),
            relay: args.relay.clone(),
            account,
        })
    }
}

/// What stands in the file, without the line's end.
fn password(file: &Path) -> Result<String, Failure> {
    let refused =
        |cause: String| Failure::Config(format!("password file {}: {cause}", file.display()));
    let size = std::fs::metadata(file)
        .map_err(|e| refused(e.to_string()))?
        .len();
    if size > PASSWORD_FILE_BYTES_MAX {
        let limit = PASSWORD_FILE_BYTES_MAX;
        return Err(refused(format!(
            "{size} bytes are over the limit of {limit}"
        )));
    }
    let text = std::fs::read_to_string(file).map_err(|e| refused(e.to_string()))?;
    let password = text.trim_end_matches(['\r', '\n']);
    if password.is_empty() {
        return Err(refused("it is empty".to_owned()));
    }
    Ok(password.to_owned())
}

/// What it comes to.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Verdict {
    CanPlay,
    CannotPlay(String),
    AuthIsAway(String),
}

/// Takes the steps, as far as they lead.
async fn examine(visit: &Visit, chart: &mut Chart) -> Result<Verdict, Failure> {
    if let Some(away) = find_auth(visit, chart).await? {
        return Ok(away);
    }
    let (player, relays) = match enter(visit, chart).await? {
        Ok(entered) => entered,
        Err(verdict) => return Ok(verdict),
    };
    let usable = relays::examine(&relays, &player.token, chart).await?;
    let verdict = if usable.is_empty() {
        Verdict::CannotPlay("no relay takes players from here".to_owned())
    } else {
        match echo::examine(visit, &player, &usable, chart).await? {
            true => Verdict::CanPlay,
            false => Verdict::CannotPlay("a session does not work".to_owned()),
        }
    };
    take_leave(visit, player).await;
    Ok(verdict)
}

// ------------------------------------------------------------------------------------------- auth

/// Name, connection, readiness, clock; `Some` if the service does not answer.
async fn find_auth(visit: &Visit, chart: &mut Chart) -> Result<Option<Verdict>, Failure> {
    let begun = Instant::now();
    match auth::resolve(&visit.auth).await {
        Ok(addresses) => {
            let addresses: Vec<String> = addresses.iter().map(|at| at.ip().to_string()).collect();
            let found = format!("{} is {}", visit.auth.host(), addresses.join(", "));
            chart.note(Finding::ok("name", found).took(begun.elapsed()))?;
        }
        Err(error) => return away(chart, "name", &error, begun.elapsed()).map(Some),
    }
    let (begun, begun_wall) = (Instant::now(), SystemTime::now());
    let alive = match auth::ping(&visit.auth, "/livez").await {
        Ok(ping) => ping,
        Err(error) => return away(chart, "auth", &error, begun.elapsed()).map(Some),
    };
    let over = match alive.tls {
        Some(tls) => format!("HTTPS (TLS in {})", milliseconds(tls)),
        None => "HTTP, in the clear".to_owned(),
    };
    let (url, from) = (&visit.auth, alive.from);
    if alive.status == 200 {
        let found = format!("{url} answers from {from} over {over}");
        chart.note(Finding::ok("auth", found).took(alive.total))?;
    } else {
        let found = format!(
            "{url}/livez answers from {from} with status {}",
            alive.status
        );
        let advice = "is this the auth service's address, and not a relay's admin page or another \
                      web server? A proxy in front of it must pass /livez, /v1/ and /.well-known/ on";
        chart.note(Finding::warning("auth", found, advice).took(alive.total))?;
    }
    note_readiness(visit, chart).await?;
    note_clock(alive.date, begun_wall, chart)?;
    Ok(None)
}

async fn note_readiness(visit: &Visit, chart: &mut Chart) -> Result<(), Failure> {
    let advice = "players may not be able to sign in: the auth service's log says what it lacks, most \
                  likely its store or its directory";
    let begun = Instant::now();
    chart.note(match auth::ping(&visit.auth, "/readyz").await {
        Ok(ready) if ready.status == 200 => {
            Finding::ok("ready", "the auth service can do its job").took(ready.total)
        }
        Ok(ready) => {
            let found = format!("/readyz answers with {}: {}", ready.status, ready.body);
            Finding::warning("ready", found, advice).took(ready.total)
        }
        Err(error) => Finding::warning("ready", error.message(), advice).took(begun.elapsed()),
    })
}

/// Compares the service's clock, in whole seconds, with this machine's.
fn note_clock(
    date: Option<SystemTime>,
    before: SystemTime,
    chart: &mut Chart,
) -> Result<(), Failure> {
    let Some(date) = date else {
        let found = "the auth service's answers carry no Date";
        return chart.note(Finding::skipped("clock", found));
    };
    let after = SystemTime::now();
    let by = |late: SystemTime, early: SystemTime| late.duration_since(early).unwrap_or_default();
    let ahead = by(before, date + Duration::from_secs(1));
    let behind = by(date, after);
    let skew = ahead.max(behind);
    if skew <= Duration::from_secs(LEEWAY_S) {
        return chart.note(Finding::ok(
            "clock",
            "this machine's and the auth service's agree",
        ));
    }
    let way = if ahead > behind { "ahead of" } else { "behind" };
    let found = format!(
        "this machine is {} s {way} the auth service",
        skew.as_secs()
    );
    let advice = format!(
        "set both by NTP. A player's clock does no harm, but a relay with this clock would take \
         tokens too long or not at all (it allows {LEEWAY_S} s), and https certificates have dates"
    );
    chart.note(Finding::warning("clock", found, advice))
}

/// The auth service does not answer: nothing else can be looked at.
fn away(
    chart: &mut Chart,
    step: &'static str,
    error: &AuthError,
    took: Duration,
) -> Result<Verdict, Failure> {
    let advice = match error.step() {
        Step::Name => "check the name in --auth, and the DNS of this machine",
        Step::Connect => {
            "check the port in --auth, that the auth service runs (its --listen), and that firewalls \
             let TCP through to it"
        }
        Step::Tls => {
            "check that --auth is its https address, that its certificate is for this name and not \
             expired, and name the authority with --ca-file if it is your own"
        }
        Step::Exchange => {
            "check that --auth is its address and scheme (http or https), and its log"
        }
        Step::Start | Step::Answer => "the message names what to change",
    };
    chart.note(Finding::failed(step, error.message(), advice).took(took))?;
    if error.step() == Step::Start {
        return Err(Failure::Config(error.message().to_owned()));
    }
    Ok(Verdict::AuthIsAway(error.message().to_owned()))
}

// ------------------------------------------------------------------------------------- signing in

type Entered = (SignIn, Vec<RelayAddress>);

/// Signs in and reads the list of relays.
async fn enter(visit: &Visit, chart: &mut Chart) -> Result<Result<Entered, Verdict>, Failure> {
    let begun = Instant::now();
    let player = match &visit.account {
        Some(Account { user, password }) => auth::login(&visit.auth, user, password).await,
        None => guest(visit).await,
    };
    let player = match player {
        Ok(player) => player,
        Err(error) => {
            let advice = sign_in_advice(&error);
            let finding = Finding::failed("sign-in", error.to_string(), advice);
            chart.note(finding.took(begun.elapsed()))?;
            return Ok(Err(Verdict::CannotPlay("signing in fails".to_owned())));
        }
    };
    let kind = if visit.account.is_some() {
        ""
    } else {
        "guest "
    };
    let minutes = player.expires_in.as_secs() / 60;
    let found = format!(
        "{kind}{} has a token for {minutes} minutes",
        player.display_name
    );
    chart.note(Finding::ok("sign-in", found).took(begun.elapsed()))?;
    match list_relays(visit, chart).await? {
        Ok(relays) => Ok(Ok((player, relays))),
        Err(why) => {
            take_leave(visit, player).await;
            Ok(Err(Verdict::CannotPlay(why)))
        }
    }
}

async fn guest(visit: &Visit) -> Result<SignIn, AuthError> {
    auth::guest(&visit.auth, &auth::new_secret()?, GUEST_NAME).await
}

fn sign_in_advice(error: &AuthError) -> String {
    let code = error.code();
    let advice = if code == ErrorCode::RateLimited {
        let wait = error.retry_after().unwrap_or(Duration::from_secs(60));
        return format!(
            "wait {} s: others behind this address count too",
            wait.as_secs() + 1
        );
    } else if code == ErrorCode::InvalidCredentials {
        "check --user and what stands in --password-file"
    } else if code == ErrorCode::AccountBanned {
        "sign in as another user"
    } else if matches!(code, ErrorCode::StoreUnavailable | ErrorCode::TimedOut) {
        "the auth service does not reach its user records: check that Postgres runs and its --store"
    } else if code == ErrorCode::InvalidArgument {
        "the message names what to change; is it an auth service of this version?"
    } else {
        "the auth service's log says more"
    };
    advice.to_owned()
}

/// The relays to look at, or why there is none.
async fn list_relays(
    visit: &Visit,
    chart: &mut Chart,
) -> Result<Result<Vec<RelayAddress>, String>, Failure> {
    let begun = Instant::now();
    let listed = match auth::all_relays(&visit.auth).await {
        Ok(listed) => listed,
        Err(error) => {
            let advice = "the auth service's log says more; does it reach its directory?";
            let finding = Finding::failed("relays", error.to_string(), advice);
            chart.note(finding.took(begun.elapsed()))?;
            return Ok(Err("there is no list of relays".to_owned()));
        }
    };
    let took = begun.elapsed();
    let fail = |chart: &mut Chart, found: String, advice: &str| {
        let finding = Finding::failed("relays", found.clone(), advice).took(took);
        chart.note(finding).map(|()| Err(found))
    };
    let name = |relay: &RelayAddress| relay.name();
    let (all, draining): (Vec<_>, Vec<_>) = listed.into_iter().partition(|relay| !relay.draining);
    if let Some(wanted) = &visit.relay {
        let is_it = |relay: &RelayAddress| relay.node_id.as_deref() == Some(wanted);
        if let Some(relay) = all.iter().chain(&draining).find(|relay| is_it(relay)) {
            let found = format!("{} is listed", relay.name());
            chart.note(Finding::ok("relays", found).took(took))?;
            return Ok(Ok(vec![relay.clone()]));
        }
        let known: Vec<String> = all.iter().chain(&draining).map(name).collect();
        let found = format!(
            "there is no relay {wanted:?} among the {} listed: {}",
            known.len(),
            known.join(", ")
        );
        let advice = "check --relay: it is a node id, such as relay-1-0; that relay's /readyz says \
                      why it is not in the list";
        return fail(chart, found, advice);
    }
    let stopping: Vec<String> = draining.iter().map(name).collect();
    match (all.is_empty(), stopping.is_empty()) {
        (true, true) => {
            let advice = "start a relay with the same --directory as the auth service; if one runs, \
                          its /readyz and its log say why it is not in the list";
            fail(chart, "the list of relays is empty".to_owned(), advice)
        }
        (true, false) => {
            let found = format!("every relay is about to stop: {}", stopping.join(", "));
            fail(chart, found, "start another relay, or end the drain")
        }
        (false, true) => {
            let found = format!(
                "{} listed",
                crate::table::counted(all.len() as u64, "relay")
            );
            chart.note(Finding::ok("relays", found).took(took))?;
            Ok(Ok(all))
        }
        (false, false) => {
            let found = format!(
                "{} listed; about to stop, and left out: {}",
                crate::table::counted(all.len() as u64, "relay"),
                stopping.join(", ")
            );
            chart.note(Finding::ok("relays", found).took(took))?;
            Ok(Ok(all))
        }
    }
}

/// Takes away what signing in has left behind.
async fn take_leave(visit: &Visit, player: SignIn) {
    // Whether it is gone is of no interest to a player: what stays is a guest among many.
    let _ = match (&visit.account, &player.refresh_token) {
        (None, _) => auth::delete(&visit.auth, &player.token).await,
        (Some(_), Some(token)) => auth::logout(&visit.auth, token).await,
        (Some(_), None) => Ok(()),
    };
}

/// What an error of the mesh's asks for.
#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "few codes ask for something in particular"
)]
fn mesh_advice(error: &Error) -> &'static str {
    match error.code() {
        ErrorCode::TokenExpired | ErrorCode::InvalidToken | ErrorCode::TokenRevoked => {
            "the relay does not accept what the auth service signs: check the relay's --jwks, and the \
             clocks of both machines (NTP)"
        }
        ErrorCode::ServerFull | ErrorCode::RelayDraining => "use another relay, or start one more",
        ErrorCode::RateLimited => "too many connections from here: wait a minute",
        ErrorCode::ProtocolVersion => {
            "relay and this program are of different versions: update the older one"
        }
        ErrorCode::DirectoryUnavailable => {
            "the relay does not reach its directory: check that Redis runs, and the relay's \
             --directory and log"
        }
        ErrorCode::Timeout | ErrorCode::TimedOut => {
            "the relays do not reach each other: check --mesh-advertise, that firewalls let UDP \
             through between their mesh ports, and that all have the same cluster key"
        }
        ErrorCode::JoinCodeNotFound | ErrorCode::SessionNotFound => {
            "the relays do not share a directory: check --directory of both"
        }
        _ => "the relay's log says more",
    }
}

fn milliseconds(time: Duration) -> String {
    crate::table::milliseconds(Some(time))
}
