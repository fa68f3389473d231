//! The OpenAPI document and the operator's pages, held against what is served.

use std::collections::BTreeSet;

use dreamcatcher_auth::metrics::TABLE;
use reqwest::{Method, Response};
use serde_json::{Value, json};

use crate::server::{PASSWORD, SECRET, Server, config, config_with_admin};

#[tokio::test]
async fn the_document_has_exactly_the_methods_that_are_served() {
    let server = Server::start(config()).await;
    let document = server.get_json("/openapi.json").await;
    assert_eq!(document["openapi"], "3.1.0");
    for (path, item) in document["paths"].as_object().unwrap() {
        for method in ["GET", "POST", "PUT", "PATCH", "DELETE"] {
            let documented = item.get(method.to_lowercase()).is_some();
            let request = server.request(method.parse().unwrap(), path);
            let refused = request.send().await.unwrap().status() == 405;
            assert_eq!(documented, !refused, "{method} {path}");
        }
    }
    server.auth.shutdown().await;
}

#[tokio::test]
async fn every_operation_has_an_id_of_its_own() {
    let server = Server::start(config()).await;
    let document = server.get_json("/openapi.json").await;
    let paths = document["paths"].as_object().unwrap().values();
    let operations = paths.flat_map(|path| path.as_object().unwrap().values());
    let ids: Vec<&str> = operations
        .map(|operation| operation["operationId"].as_str().unwrap())
        .collect();
    let distinct: std::collections::BTreeSet<_> = ids.iter().collect();
    assert_eq!(distinct.len(), ids.len(), "{ids:?}");
    server.auth.shutdown().await;
}

#[tokio::test]
async fn answers_have_the_documented_fields_and_no_others() {
    let server = Server::start(config()).await;
    let document = server.get_json("/openapi.json").await;
    let held = |path: &'static str, method: &'static str, response: Response| {
        let document = document.clone();
        async move {
            let status = response.status().as_u16().to_string();
            let answer: Value = response.json().await.unwrap();
            assert_fits(&document, path, method, &status, &answer);
            answer
        }
    };
    let guest = server
        .post_json("/v1/guest", json!({"secret": SECRET}))
        .await;
    let guest = held("/v1/guest", "post", guest).await;
    let body = json!({"username": "ada", "password": PASSWORD});
    let account = server.post_json("/v1/register", body.clone()).await;
    let account = held("/v1/register", "post", account).await;
    let taken = server.post_json("/v1/register", body).await;
    held("/v1/register", "post", taken).await;
    held("/v1/login", "post", server.login("ada", PASSWORD).await).await;
    held("/v1/login", "post", server.login("ada", "wrong one").await).await;
    held("/v1/login", "post", server.login("", "").await).await;
    for token in [&guest["access_token"], &account["access_token"]] {
        held("/v1/me", "get", server.me(Method::GET, token).await).await;
    }
    let unsigned = server.get("/v1/me").await;
    held("/v1/me", "get", unsigned).await;
    let renamed = server.request(Method::PATCH, "/v1/me");
    let renamed = renamed.bearer_auth(guest["access_token"].as_str().unwrap());
    let renamed = renamed.json(&json!({"display_name": "Ada"})).send().await;
    held("/v1/me", "patch", renamed.unwrap()).await;
    let refreshed = server.refresh(&guest["refresh_token"]).await;
    held("/v1/refresh", "post", refreshed).await;
    let unknown = server.refresh(&json!("x".repeat(43))).await;
    held("/v1/refresh", "post", unknown).await;
    let body = json!({"refresh_token": account["refresh_token"]});
    let out = server.post_json("/v1/logout", body).await;
    held("/v1/logout", "post", out).await;
    let deleted = server.me(Method::DELETE, &guest["access_token"]).await;
    held("/v1/me", "delete", deleted).await;
    for path in ["/v1/relays", "/.well-known/jwks.json", "/livez", "/readyz"] {
        held(path, "get", server.get(path).await).await;
    }
    server.auth.shutdown().await;
}

#[tokio::test]
async fn the_document_states_the_limits_of_what_is_sent() {
    let server = Server::start(config()).await;
    let document = server.get_json("/openapi.json").await;
    for (schema, field, limits) in [
        ("GuestRequest", "secret", json!([22, 128])),
        ("RegisterRequest", "username", json!([3, 32])),
        ("RegisterRequest", "password", json!([10, 128])),
        ("RegisterRequest", "email", json!([6, 254])),
        ("RegisterRequest", "display_name", json!([1, 32])),
        ("RefreshRequest", "refresh_token", json!([43, 43])),
        ("MeChange", "display_name", json!([1, 32])),
    ] {
        let schema = &document["components"]["schemas"][schema];
        let field = &schema["properties"][field];
        assert_eq!(
            json!([field["minLength"], field["maxLength"]]),
            limits,
            "{field}"
        );
        assert_eq!(schema["additionalProperties"], json!(false), "{schema}");
    }
    let scheme = &document["components"]["securitySchemes"]["access_token"];
    assert_eq!(scheme["scheme"], "bearer");
    server.auth.shutdown().await;
}

#[tokio::test]
async fn the_operator_s_pages_show_only_what_the_table_describes() {
    let server = Server::start(config_with_admin()).await;
    server.register("ada").await;
    server.login("ada", PASSWORD).await;
    server.login("ada", "wrong password").await;
    server.get("/nowhere").await;
    let page = server.metrics().await;
    for line in page
        .lines()
        .filter(|line| !line.starts_with('#') && !line.is_empty())
    {
        let name = line.split(['{', ' ']).next().unwrap();
        let known = TABLE.iter().any(|metric| {
            let rest = name.strip_prefix(metric.name);
            rest.is_some_and(|rest| ["", "_bucket", "_sum", "_count"].contains(&rest))
        });
        assert!(known, "{line}");
        assert!(!line.contains("ada"), "no user in a label: {line}");
    }
    for (series, count) in [
        (r#"dreamcatcher_auth_registrations_total{kind="new"} "#, 1),
        (r#"dreamcatcher_auth_logins_total{outcome="ok"} "#, 1),
        (r#"dreamcatcher_auth_logins_total{outcome="wrong"} "#, 1),
        (
            r#"dreamcatcher_auth_refusals_total{code="InvalidCredentials"} "#,
            1,
        ),
        ("dreamcatcher_auth_hashes_total ", 3),
        (
            r#"dreamcatcher_auth_request_duration_seconds_count{route="/v1/login"} "#,
            2,
        ),
        (
            r#"dreamcatcher_auth_request_duration_seconds_count{route="none"} "#,
            1,
        ),
    ] {
        assert_eq!(server.metric(series).await, count, "{series}: {page}");
    }
    let admin = format!("http://{}", server.auth.admin_addr().unwrap());
    for page in ["/livez", "/readyz"] {
        let response = server.http.get(format!("{admin}{page}")).send().await;
        assert_eq!(response.unwrap().status(), 200, "{page}");
    }
    let closed = server.get("/metrics").await;
    assert_eq!(closed.status(), 404, "players do not see them");
    server.auth.shutdown().await;
}

/// The status is documented, and its schema has the answer's fields: all that are required, and none
/// that are not there.
fn assert_fits(document: &Value, path: &str, method: &str, status: &str, answer: &Value) {
    let what = format!("{method} {path} {status}: {answer}");
    let response = &document["paths"][path][method]["responses"][status];
    let schema = &response["content"]["application/json"]["schema"];
    let reference = schema["$ref"].as_str();
    let reference = reference.unwrap_or_else(|| panic!("{what} has no schema: {response}"));
    let name = reference.rsplit('/').next().unwrap();
    let schema = &document["components"]["schemas"][name];
    let names = |value: &Value| -> BTreeSet<String> {
        let fields = value.as_object().unwrap();
        fields.keys().cloned().collect()
    };
    let required = schema["required"].as_array().unwrap();
    let required = required
        .iter()
        .map(|name| name.as_str().unwrap().to_owned());
    let (found, known) = (names(answer), names(&schema["properties"]));
    assert!(found.is_subset(&known), "{what}: {known:?}");
    for field in required {
        assert!(found.contains(&field), "{what}: {field} is missing");
    }
}
