//! docs/accounts.md, held against the OpenAPI document and the service.

use std::collections::BTreeSet;
use std::path::Path;

use dreamcatcher_proto::ErrorCode;
use reqwest::Method;
use serde_json::Value;

use crate::server::{Server, config};

#[tokio::test]
async fn the_page_has_every_operation_of_the_document_and_no_other() {
    let server = Server::start(config()).await;
    let document = server.get_json("/openapi.json").await;
    let paths = document["paths"].as_object().unwrap();
    let operations: BTreeSet<String> = paths
        .iter()
        .flat_map(|(path, item)| {
            let methods = item.as_object().unwrap().keys();
            methods.map(move |method| format!("{} {path}", method.to_uppercase()))
        })
        .collect();
    let page = page();
    let headings = page
        .lines()
        .filter_map(|line| line.strip_prefix("### `")?.strip_suffix('`'));
    let described: BTreeSet<String> = headings.map(str::to_owned).collect();
    assert_eq!(described, operations);
    server.auth.shutdown().await;
}

#[tokio::test]
async fn the_page_has_the_limits_of_every_field_that_is_sent() {
    let server = Server::start(config()).await;
    let document = server.get_json("/openapi.json").await;
    let page = page();
    for schema in [
        "GuestRequest",
        "RegisterRequest",
        "LoginRequest",
        "RefreshRequest",
        "MeChange",
    ] {
        let fields = &document["components"]["schemas"][schema]["properties"];
        for (name, field) in fields.as_object().unwrap() {
            let row = format!("| `{name}` | ");
            let row = page.lines().find_map(|line| line.strip_prefix(&row));
            let row = row.unwrap_or_else(|| panic!("{name} has no row"));
            // What is only compared has no shortest length.
            let (min, max) = (field["minLength"].as_u64(), field["maxLength"].as_u64());
            let limits = match (min, max) {
                (Some(min), Some(max)) if min == max => format!("{max} characters"),
                (Some(min), Some(max)) => format!("{min}–{max} "),
                _ => continue,
            };
            assert!(row.contains(&limits), "{name}: {row}");
        }
    }
    server.auth.shutdown().await;
}

#[test]
fn the_page_has_each_error_with_its_code() {
    let page = page();
    let (_, errors) = page.split_once("| status | code | name | when |").unwrap();
    let mut rows = 0;
    for row in errors.lines().skip(2).filter(|line| line.starts_with('|')) {
        let mut cells = row.split('|').skip(1).map(str::trim);
        let status: u16 = cells.next().unwrap().parse().unwrap();
        let code: u16 = cells.next().unwrap().parse().unwrap();
        let name = cells.next().unwrap().trim_matches('`');
        let known = ErrorCode::ALL.iter().find(|known| **known as u16 == code);
        assert_eq!(known.map(|known| known.name()), Some(name), "{row}");
        assert!((400..600).contains(&status), "{row}");
        rows += 1;
    }
    assert!(rows >= 19, "{rows}");
}

#[tokio::test]
async fn the_examples_of_the_page_work_one_after_the_other() {
    let server = Server::start(config()).await;
    let page = page();
    let examples: Vec<&str> = page
        .split("```sh\n")
        .skip(1)
        .map(|rest| rest.split("```").next().unwrap())
        .collect();
    assert_eq!(examples.len(), 5, "guest, register, login, refresh, me");
    let (mut access, mut refresh) = (String::new(), String::new());
    for example in examples {
        let command = example
            .replace("$ACCESS_TOKEN", &access)
            .replace("$REFRESH_TOKEN", &refresh);
        let answer = run(&server, &command).await;
        for (name, token) in [
            ("access_token", &mut access),
            ("refresh_token", &mut refresh),
        ] {
            if let Some(text) = answer[name].as_str() {
                text.clone_into(token);
            }
        }
    }
    server.auth.shutdown().await;
}

/// What a command of curl asks for, answered with 200.
async fn run(server: &Server, command: &str) -> Value {
    let words = words(command);
    let mut words = words.iter().map(String::as_str);
    assert_eq!((words.next(), words.next()), (Some("curl"), Some("-sS")));
    let path = words.next().unwrap().strip_prefix("$AUTH_URL").unwrap();
    let (mut headers, mut body) = (Vec::new(), None);
    while let Some(flag) = words.next() {
        let value = words.next().unwrap().to_owned();
        match flag {
            "-H" => headers.push(value),
            "-d" => body = Some(value),
            other => panic!("{other} in {command}"),
        }
    }
    let method = if body.is_some() {
        Method::POST
    } else {
        Method::GET
    };
    let mut request = server.request(method, path);
    for header in headers {
        let (name, value) = header.split_once(": ").unwrap();
        request = request.header(name, value);
    }
    let response = request.body(body.unwrap_or_default()).send().await.unwrap();
    let status = response.status();
    let answer: Value = response.json().await.unwrap();
    assert_eq!(status, 200, "{command}: {answer}");
    answer
}

/// As a shell splits them, as far as the page needs it.
fn words(command: &str) -> Vec<String> {
    let (mut words, mut word, mut quote) = (Vec::new(), String::new(), None);
    let mut chars = command.chars();
    while let Some(c) = chars.next() {
        match (quote, c) {
            (Some(open), _) if c == open => quote = None,
            (None, '\'' | '"') => quote = Some(c),
            (None | Some('"'), '\\') => word.extend(chars.next().filter(|c| *c != '\n')),
            (None, ' ' | '\n') => {
                if !word.is_empty() {
                    words.push(std::mem::take(&mut word));
                }
            }
            _ => word.push(c),
        }
    }
    words
}

fn page() -> String {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/accounts.md");
    std::fs::read_to_string(page).unwrap()
}
