#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::net::{Ipv4Addr, SocketAddr};

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::task::JoinHandle;

use super::chart::Health;
use super::*;
use crate::mesh::{Mesh, Plan};

#[tokio::test(flavor = "multi_thread")]
async fn on_a_mesh_that_is_well_every_step_is_ok() {
    let mesh = mesh(2).await;
    let (verdict, chart) = examined(&visit(&mesh.auth_url())).await;
    assert_eq!(verdict, Verdict::CanPlay, "{:#?}", chart.findings());
    for finding in chart.findings() {
        assert_eq!(finding.health, Health::Ok, "{finding}");
    }
    let steps: Vec<&str> = chart
        .findings()
        .iter()
        .map(|finding| finding.step)
        .collect();
    let per_relay = ["udp", "quic", "token"];
    let first = ["name", "auth", "ready", "clock", "sign-in", "relays"];
    assert_eq!(
        steps,
        [&first[..], &per_relay, &per_relay, &["session"]].concat()
    );
    assert!(found(&chart, "session").contains("and relay-"));
    assert_eq!(chart.good_news(), "A player can play.");
    mesh.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_relay_is_enough_to_play() {
    let mesh = mesh(1).await;
    let (verdict, chart) = examined(&visit(&mesh.auth_url())).await;
    assert_eq!(verdict, Verdict::CanPlay);
    assert!(found(&chart, "session").contains("relay-1-0 alone"));
    mesh.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_relay_that_is_asked_for_is_the_only_one_looked_at() {
    let mesh = mesh(3).await;
    let mut visit = visit(&mesh.auth_url());
    visit.relay = Some("relay-2-0".to_owned());
    let (verdict, chart) = examined(&visit).await;
    assert_eq!(verdict, Verdict::CanPlay);
    let relays = chart.findings().iter().filter_map(|f| f.relay.as_deref());
    assert_eq!(relays.collect::<Vec<_>>(), ["relay-2-0"; 3]);

    visit.relay = Some("relay-9-0".to_owned());
    let (verdict, chart) = examined(&visit).await;
    assert!(matches!(verdict, Verdict::CannotPlay(_)));
    let failed = failed(&chart, "relays");
    for part in ["relay-9-0", "relay-3-0", "--relay"] {
        assert!(failed.contains(part), "{failed}");
    }
    mesh.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_auth_service_that_does_not_answer_is_named_with_what_to_check() {
    let mesh = mesh(1).await;
    let url = mesh.auth_url();
    mesh.stop().await;
    let (verdict, chart) = examined(&visit(&url)).await;
    assert!(matches!(verdict, Verdict::AuthIsAway(_)), "{verdict:?}");
    let failed = failed(&chart, "auth");
    assert!(
        failed.contains(&url) && failed.contains("--listen"),
        "{failed}"
    );

    // RFC 6761, 6.4: no such name, ever.
    let (verdict, chart) = examined(&visit("https://auth.invalid")).await;
    assert!(matches!(verdict, Verdict::AuthIsAway(_)), "{verdict:?}");
    assert!(self::failed(&chart, "name").contains("DNS"));
}

#[tokio::test(flavor = "multi_thread")]
async fn plain_http_behind_an_https_address_is_told_from_silence() {
    let mesh = mesh(1).await;
    let url = mesh.auth_url().replace("http://", "https://");
    let (verdict, chart) = examined(&visit(&url)).await;
    assert!(matches!(verdict, Verdict::AuthIsAway(_)), "{verdict:?}");
    assert!(failed(&chart, "auth").contains("--ca-file"));
    mesh.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn another_web_server_is_not_taken_for_the_auth_service() {
    let mesh = mesh(1).await;
    let admin = format!("http://{}", mesh.admins()[0]);
    let (verdict, chart) = examined(&visit(&admin)).await;
    assert!(matches!(verdict, Verdict::CannotPlay(_)), "{verdict:?}");
    assert!(
        failed(&chart, "sign-in").contains("404"),
        "{:#?}",
        chart.findings()
    );
    mesh.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mesh_without_relays_says_where_to_look() {
    let mesh = mesh(1).await;
    let front = Front::of(&mesh, |_| json!([])).await;
    let (verdict, chart) = examined(&visit(&front.url)).await;
    assert!(matches!(verdict, Verdict::CannotPlay(_)), "{verdict:?}");
    let failed = failed(&chart, "relays");
    assert!(
        failed.contains("empty") && failed.contains("--directory"),
        "{failed}"
    );
    mesh.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn relays_that_are_about_to_stop_are_left_out_and_named() {
    let mesh = mesh(2).await;
    let draining = |which: &'static [usize]| {
        move |mut relays: Value| {
            for &place in which {
                relays[place]["draining"] = true.into();
            }
            relays
        }
    };
    let front = Front::of(&mesh, draining(&[0])).await;
    let (verdict, chart) = examined(&visit(&front.url)).await;
    assert_eq!(verdict, Verdict::CanPlay);
    assert!(found(&chart, "relays").contains("about to stop"));

    let front = Front::of(&mesh, draining(&[0, 1])).await;
    let (verdict, chart) = examined(&visit(&front.url)).await;
    assert!(matches!(verdict, Verdict::CannotPlay(_)), "{verdict:?}");
    assert!(failed(&chart, "relays").contains("every relay is about to stop"));
    mesh.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_relay_that_udp_does_not_reach_is_named_and_the_others_are_played_on() {
    let mesh = mesh(2).await;
    // It takes packets and says nothing, as a firewall does.
    let hole = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = hole.local_addr().unwrap();
    let front = Front::of(&mesh, move |mut relays| {
        relays[1]["address"] = address.to_string().into();
        relays
    })
    .await;
    let (verdict, chart) = examined(&visit(&front.url)).await;
    assert_eq!(verdict, Verdict::CanPlay, "{:#?}", chart.findings());
    let failed = failed(&chart, "udp");
    for part in [
        "relay-2-0",
        &address.to_string(),
        "--advertise",
        "firewalls",
    ] {
        assert!(failed.contains(part), "{failed}");
    }
    assert!(self::failed(&chart, "quic").contains("mend udp first"));
    assert_eq!(
        chart.good_news(),
        "A player can play, in spite of 2 failures."
    );
    mesh.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_any_relay_in_reach_nobody_plays() {
    let mesh = mesh(1).await;
    let hole = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = hole.local_addr().unwrap();
    let front = Front::of(&mesh, move |mut relays| {
        relays[0]["address"] = address.to_string().into();
        relays
    })
    .await;
    let (verdict, chart) = examined(&visit(&front.url)).await;
    let why = "no relay takes players from here".to_owned();
    assert_eq!(verdict, Verdict::CannotPlay(why));
    assert!(
        chart
            .findings()
            .iter()
            .all(|finding| finding.step != "session")
    );
    mesh.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_that_is_not_the_listed_one_is_named() {
    let mesh = mesh(2).await;
    let front = Front::of(&mesh, |mut relays| {
        relays[0]["certificate_sha256"] = json!(["5a".repeat(32)]);
        relays
    })
    .await;
    let (verdict, chart) = examined(&visit(&front.url)).await;
    assert_eq!(verdict, Verdict::CanPlay, "{:#?}", chart.findings());
    let failed = failed(&chart, "quic");
    for part in ["relay-1-0", "certificate", "former certificate"] {
        assert!(failed.contains(part), "{failed}");
    }
    mesh.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_the_relays_do_not_take_is_told_from_a_bad_connection() {
    // Relays of one mesh, auth service of another.
    let (mesh, other) = (self::mesh(1).await, self::mesh(1).await);
    let list = auth::all_relays(&mesh.auth_url()).await.unwrap();
    let (address, hash) = (list[0].address, hex(&list[0].certificate_sha256[0]));
    let front = Front::of(&other, move |mut relays| {
        relays[0]["address"] = address.to_string().into();
        relays[0]["certificate_sha256"] = json!([hash]);
        relays
    })
    .await;
    let (verdict, chart) = examined(&visit(&front.url)).await;
    assert!(matches!(verdict, Verdict::CannotPlay(_)), "{verdict:?}");
    let failed = failed(&chart, "token");
    assert!(
        failed.contains("InvalidToken") && failed.contains("--jwks"),
        "{failed}"
    );
    mesh.stop().await;
    other.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_relay_of_another_mesh_on_the_list_is_named() {
    let (mesh, other) = (self::mesh(1).await, self::mesh(1).await);
    let stranger = auth::all_relays(&other.auth_url()).await.unwrap().remove(0);
    let front = Front::of(&mesh, move |mut relays| {
        let mut second = relays[0].clone();
        second["node_id"] = "stranger-0".into();
        second["address"] = stranger.address.to_string().into();
        second["certificate_sha256"] = json!([hex(&stranger.certificate_sha256[0])]);
        relays.as_array_mut().unwrap().push(second);
        relays
    })
    .await;
    let (verdict, chart) = examined(&visit(&front.url)).await;
    assert_eq!(verdict, Verdict::CanPlay, "{:#?}", chart.findings());
    assert!(failed(&chart, "token").contains("stranger-0"));
    mesh.stop().await;
    other.stop().await;
}

#[test]
fn a_clock_that_is_off_is_a_warning_with_its_direction() {
    for (offset_s, said) in [(-60_i64, "ahead of"), (60, "behind")] {
        let mut chart = Chart::quiet();
        let now = SystemTime::now();
        let offset = Duration::from_secs(offset_s.unsigned_abs());
        let date = if offset_s < 0 {
            now - offset
        } else {
            now + offset
        };
        note_clock(Some(date), now, &mut chart).unwrap();
        let finding = &chart.findings()[0];
        assert_eq!(finding.health, Health::Warning);
        assert!(finding.found.contains(said), "{finding}");
        assert!(finding.to_string().contains("NTP"));
    }
    let mut chart = Chart::quiet();
    let now = SystemTime::now();
    note_clock(Some(now - Duration::from_secs(2)), now, &mut chart).unwrap();
    assert_eq!(chart.findings()[0].health, Health::Ok);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_json_has_every_finding_and_the_verdict() {
    let mesh = mesh(1).await;
    let visit = visit(&mesh.auth_url());
    let (verdict, chart) = examined(&visit).await;
    let report: Value = serde_json::from_str(&chart.json(&visit.auth, &verdict)).unwrap();
    assert_eq!(report["can_play"], true);
    assert_eq!(report["auth"], mesh.auth_url());
    let udp = &report["findings"][6];
    assert_eq!(
        (&udp["step"], &udp["relay"]),
        (&json!("udp"), &json!("relay-1-0"))
    );
    assert_eq!(udp["health"], "ok");
    assert!(udp["ms"].as_f64().unwrap() > 0.0);
    mesh.stop().await;
}

async fn mesh(relays: usize) -> Mesh {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let plan = Plan {
        relays,
        regions: vec!["local".to_owned()],
        max_batch_delay: Duration::ZERO,
    };
    Mesh::start(&plan).await.unwrap()
}

fn visit(url: &str) -> Visit {
    Visit {
        auth: url.parse().unwrap(),
        relay: None,
        account: None,
    }
}

async fn examined(visit: &Visit) -> (Verdict, Chart) {
    let mut chart = Chart::quiet();
    let verdict = examine(visit, &mut chart).await.unwrap();
    (verdict, chart)
}

fn found(chart: &Chart, step: &str) -> String {
    let finding = chart.findings().iter().find(|finding| finding.step == step);
    finding.unwrap().found.clone()
}

/// The whole text of the step that failed, advice included.
fn failed(chart: &Chart, step: &str) -> String {
    let mut all = chart.findings().iter();
    let finding = all.find(|f| f.step == step && f.health == Health::Failed);
    let finding = finding.unwrap_or_else(|| panic!("{step}: {:#?}", chart.findings()));
    assert!(finding.advice.is_some(), "{finding}");
    finding.to_string()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A web server in front of a mesh's auth service that gives out another list of relays.
struct Front {
    url: String,
    task: JoinHandle<()>,
}

impl Drop for Front {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Front {
    async fn of(mesh: &Mesh, list: impl Fn(Value) -> Value + Send + Sync + 'static) -> Self {
        let behind: SocketAddr = mesh.auth_url()["http://".len()..].parse().unwrap();
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let task = tokio::spawn(async move {
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                let request = read_request(&mut stream).await;
                let mut answer = ask(behind, &request).await;
                if request.starts_with("GET /v1/relays") {
                    let (_, body) = answer.split_once("\r\n\r\n").unwrap();
                    let mut body: Value = serde_json::from_str(body).unwrap();
                    body["relays"] = list(body["relays"].take());
                    answer = format!("HTTP/1.1 200 OK\r\n\r\n{body}");
                }
                stream.write_all(answer.as_bytes()).await.unwrap();
            }
        });
        Self { url, task }
    }
}

async fn ask(behind: SocketAddr, request: &str) -> String {
    let mut stream = TcpStream::connect(behind).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

async fn read_request(stream: &mut TcpStream) -> String {
    let mut request = Vec::new();
    loop {
        let count = stream.read_buf(&mut request).await.unwrap();
        let text = std::str::from_utf8(&request).unwrap();
        let whole = text.split_once("\r\n\r\n").is_some_and(|(head, body)| {
            let length = head
                .lines()
                .find_map(|line| line.strip_prefix("Content-Length: "));
            body.len() >= length.map_or(0, |length| length.parse().unwrap())
        });
        if whole || count == 0 {
            return text.to_owned();
        }
    }
}
