//! The OpenAPI document: written once, at the start, from the handlers' own types.

use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::response::{IntoResponse, Response};
use dreamcatcher_proto::{Error, ErrorCode};
use utoipa::openapi::OpenApi as Contents;
use utoipa::openapi::security::{Http, HttpAuthScheme, SecurityScheme};
use utoipa::{Modify, OpenApi};

use super::{account, guest, health, me, mesh, session};

#[derive(OpenApi)]
#[openapi(
    info(
        title = "Dreamcatcher auth",
        description = "User records and sign-in for a mesh of game relays. Errors have a stable \
                       `code`; see the schema Error."
    ),
    paths(
        guest::guest, account::register, account::login, session::refresh, session::logout,
        me::show, me::change, me::delete, mesh::relays, mesh::jwks, show, health::live,
        health::ready,
    ),
    modifiers(&AccessToken)
)]
struct Document;

/// How a request names its user.
struct AccessToken;

impl Modify for AccessToken {
    fn modify(&self, document: &mut Contents) {
        let mut scheme = Http::new(HttpAuthScheme::Bearer);
        scheme.bearer_format = Some("JWT".to_owned());
        document
            .components
            .get_or_insert_default()
            .add_security_scheme("access_token", SecurityScheme::Http(scheme));
    }
}

pub(super) fn render() -> Result<String, Error> {
    Document::openapi()
        .to_json()
        .map_err(|e| Error::new(ErrorCode::Internal, format!("no OpenAPI document: {e}")))
}

/// This document.
#[utoipa::path(get, path = "/openapi.json", operation_id = "getOpenApi", tag = "mesh",
    responses((status = 200, description = "OpenAPI 3.1", content_type = "application/json")))]
pub(super) fn show(document: &str) -> Response {
    let headers = [
        (CONTENT_TYPE, "application/json"),
        (CACHE_CONTROL, "public, max-age=300"),
    ];
    (headers, document.to_owned()).into_response()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::sync::Arc;

    use super::*;

    #[test]
    fn every_route_is_in_the_document_and_nothing_else_is() {
        let documented: BTreeSet<String> = Document::openapi().paths.paths.into_keys().collect();
        let served = super::super::routes(Arc::from(""));
        let served: BTreeSet<String> = served.iter().map(|(path, _)| (*path).to_owned()).collect();
        assert_eq!(documented, served);
    }
}
