//! `dreamcatcher sessions`: what runs.

use dreamcatcher_directory::limits::LIST_PAGE_MAX;
use dreamcatcher_directory::{Directory, Filter, Grade, Listed, Reply, Request};
use dreamcatcher_proto::control::Visibility;
use serde::Serialize;

use crate::args::SessionsArgs;
use crate::directory;
use crate::exit::Failure;
use crate::grid::grid;
use crate::out;

pub(crate) async fn sessions(args: SessionsArgs) -> Result<(), Failure> {
    let directory = directory::open_shared("sessions", &args.inquiry.directory).await?;
    let wanted = Filter {
        region: args.region,
        app_version: args.app_version,
        unlisted: true,
        ..Filter::default()
    };
    let found = read(&*directory, wanted, args.limit).await?;
    out::say(if args.inquiry.json {
        json(&found)
    } else {
        text(&found)
    })
}

/// Sessions, and whether there are more.
#[derive(Debug, Default)]
struct Found {
    sessions: Vec<Listed>,
    more: bool,
}

/// Page after page, until there are `limit` sessions or no more.
async fn read(
    directory: &dyn Directory,
    mut wanted: Filter,
    limit: usize,
) -> Result<Found, Failure> {
    let mut found = Found::default();
    loop {
        let room = limit - found.sessions.len();
        // One more than there is room for tells whether there are more.
        let page = (room + 1).min(usize::from(LIST_PAGE_MAX));
        wanted.limit = u8::try_from(page).unwrap_or(LIST_PAGE_MAX);
        let reply = directory::ask(directory, Request::ListSessions(wanted.clone())).await?;
        let Reply::Listings(page) = reply else {
            return Err(directory::not_an_answer(&reply));
        };
        found.sessions.extend(page.sessions);
        if found.sessions.len() > limit {
            found.sessions.truncate(limit);
            found.more = true;
            return Ok(found);
        }
        match page.next {
            Some(next) => wanted.after = Some(next),
            None => return Ok(found),
        }
    }
}

fn text(found: &Found) -> String {
    if found.sessions.is_empty() {
        return "no session is running\n".to_owned();
    }
    let rows = found.sessions.iter().map(|session| {
        let listing = &session.listing;
        [
            session.id.to_string(),
            session.home_region.clone(),
            format!("{}/{}", listing.players, listing.max_players),
            visibility(listing.visibility).to_owned(),
            grade(listing.grade).to_owned(),
            harmless(&listing.app_version),
            harmless(&listing.name),
        ]
    });
    let mut said = grid(
        [
            "SESSION", "REGION", "PLAYERS", "LISTED", "GRADE", "VERSION", "NAME",
        ],
        rows,
    );
    if found.more {
        said += "and more: --limit says how many are shown\n";
    }
    said
}

const fn visibility(visibility: Visibility) -> &'static str {
    match visibility {
        Visibility::Public => "public",
        Visibility::Unlisted => "unlisted",
    }
}

const fn grade(grade: Grade) -> &'static str {
    match grade {
        Grade::Safe => "safe",
        Grade::Fast => "fast",
    }
}

/// A text that a player chose, without anything that would move a terminal's cursor or turn its text
/// around.
fn harmless(text: &str) -> String {
    let turns = |c| matches!(c, '\u{200e}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    let shown = text.chars().map(|c| {
        if c.is_control() || turns(c) {
            c.escape_unicode().to_string()
        } else {
            c.to_string()
        }
    });
    shown.collect()
}

/// The keys are stable.
fn json(found: &Found) -> String {
    #[derive(Serialize)]
    struct Sessions<'a> {
        sessions: Vec<Session<'a>>,
        more: bool,
    }
    #[derive(Serialize)]
    struct Session<'a> {
        session_id: String,
        region: &'a str,
        name: &'a str,
        players: u16,
        max_players: u16,
        visibility: &'static str,
        grade: &'static str,
        app_version: &'a str,
    }
    let sessions = found.sessions.iter().map(|session| {
        let listing = &session.listing;
        Session {
            session_id: session.id.to_string(),
            region: &session.home_region,
            name: &listing.name,
            players: listing.players,
            max_players: listing.max_players,
            visibility: visibility(listing.visibility),
            grade: grade(listing.grade),
            app_version: &listing.app_version,
        }
    });
    out::json(&Sessions {
        sessions: sessions.collect(),
        more: found.more,
    })
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use dreamcatcher_directory::{Holder, Listing, Load, MemoryDirectory, NewSession, NodeRecord};
    use dreamcatcher_proto::{BootId, SessionId};

    use super::*;
    use crate::mesh::memory_directory;

    #[tokio::test]
    async fn every_session_is_found_page_after_page_unlisted_ones_too() {
        let directory = holding(250).await;
        let all = read(&directory, everything(), 1_000).await.unwrap();
        assert_eq!((all.sessions.len(), all.more), (250, false));
        let unlisted = |session: &&Listed| session.listing.visibility == Visibility::Unlisted;
        assert_eq!(all.sessions.iter().filter(unlisted).count(), 125);
        for (limit, more) in [(1, true), (100, true), (249, true), (250, false)] {
            let found = read(&directory, everything(), limit).await.unwrap();
            assert_eq!((found.sessions.len(), found.more), (limit, more));
            assert_eq!(found.sessions, all.sessions[..limit]);
        }
        let elsewhere = Filter {
            region: Some("us".to_owned()),
            ..everything()
        };
        let none = read(&directory, elsewhere, 1_000).await.unwrap();
        assert_eq!((none.sessions.len(), none.more), (0, false));
        assert_eq!(text(&none), "no session is running\n");
    }

    #[tokio::test]
    async fn a_directory_that_is_away_is_unavailable() {
        let directory = holding(1).await;
        directory.set_down(true);
        let failed = read(&directory, everything(), 1).await;
        assert!(matches!(failed, Err(Failure::Unavailable(_))), "{failed:?}");
    }

    #[test]
    fn a_name_that_a_player_chose_cannot_move_the_terminal() {
        let found = Found {
            sessions: vec![listed("\u{1b}[2J\u{202e}é\n")],
            more: true,
        };
        let said = text(&found);
        assert!(said.contains("\\u{1b}[2J\\u{202e}é\\u{a}\n"), "{said}");
        assert!(said.ends_with("and more: --limit says how many are shown\n"));
        assert_eq!(said.lines().count(), 3, "{said}");
    }

    #[test]
    fn json_has_a_key_for_each_column() {
        let found = Found {
            sessions: vec![listed("a session")],
            more: true,
        };
        let said: serde_json::Value = serde_json::from_str(&json(&found)).unwrap();
        let expected = serde_json::json!({"more": true, "sessions": [{
            "session_id": id(1).to_string(), "region": "eu", "name": "a session", "players": 2,
            "max_players": 4, "visibility": "public", "grade": "fast", "app_version": "1.2",
        }]});
        assert_eq!(said, expected);
    }

    fn everything() -> Filter {
        Filter {
            unlisted: true,
            ..Filter::default()
        }
    }

    fn id(number: u128) -> SessionId {
        format!("{number:032x}").parse().unwrap()
    }

    fn listed(name: &str) -> Listed {
        Listed {
            id: id(1),
            home_region: "eu".to_owned(),
            listing: listing(name, Visibility::Public),
        }
    }

    fn listing(name: &str, visibility: Visibility) -> Listing {
        Listing {
            name: name.to_owned(),
            players: 2,
            max_players: 4,
            visibility,
            app_version: "1.2".to_owned(),
            grade: Grade::Fast,
        }
    }

    /// A node, and sessions of it, every other one unlisted.
    async fn holding(sessions: u128) -> MemoryDirectory {
        let directory = memory_directory();
        let owner = Holder {
            node: "relay-1-0".parse().unwrap(),
            boot: BootId(1),
        };
        let node = NodeRecord {
            id: owner.node.clone(),
            boot: owner.boot,
            mesh_id: 1,
            host: "host-1".to_owned(),
            region: "eu".to_owned(),
            address: ([127, 0, 0, 1], 4_433).into(),
            mesh_address: ([127, 0, 0, 1], 4_533).into(),
            certificate_sha256: Vec::new(),
            capacity: 1,
            clients_max: 1,
            load: Load::default(),
            draining: false,
            drain_wanted: false,
        };
        directory.call(Request::Register(node)).await.unwrap();
        for number in 1..=sessions {
            let visibility = if number % 2 == 0 {
                Visibility::Public
            } else {
                Visibility::Unlisted
            };
            let new = NewSession {
                id: id(number),
                home_region: "eu".to_owned(),
                owner: owner.clone(),
                listing: Some(listing("a session", visibility)),
                with_code: false,
            };
            directory.call(Request::CreateSession(new)).await.unwrap();
        }
        directory
    }
}
