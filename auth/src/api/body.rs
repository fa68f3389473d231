//! A request's body: an object of JSON, read with words of our own for what is wrong with it.
//!
//! ```text
//!  bytes ──JSON──▶ Members (name, value) ──serde──▶ the request's type
//!          └─400      └─422 no object       └─422 missing, unknown, twice, of another type
//! ```

use std::fmt;
use std::sync::Arc;

use axum::Json;
use axum::extract::rejection::{BytesRejection, FailedToBufferBody, JsonRejection};
use axum::extract::{FromRequest, Request};
use axum::http::StatusCode;
use dreamcatcher_proto::ErrorCode;
use serde::de::value::MapDeserializer;
use serde::de::{self, DeserializeOwned, Deserializer, IntoDeserializer, MapAccess, Visitor};
use serde::{Deserialize, forward_to_deserialize_any};
use serde_json::Value;

use crate::app::App;
use crate::refusal::Refusal;

/// Of a name that is repeated, whoever sent it: as much as tells it apart.
const NAME_CHARS_SHOWN_MAX: usize = 32;

/// What a request says, as the route's own type.
pub(super) struct Body<T>(pub(super) T);

impl<T: DeserializeOwned> FromRequest<Arc<App>> for Body<T> {
    type Rejection = Refusal;

    async fn from_request(request: Request, app: &Arc<App>) -> Result<Self, Refusal> {
        let read = Json::<Members>::from_request(request, app).await;
        let Json(members) = read.map_err(unreadable)?;
        T::deserialize(members)
            .map(Self)
            .map_err(|unfit| unprocessable(unfit.to_string()))
    }
}

#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "the library's enum may grow"
)]
fn unreadable(rejection: JsonRejection) -> Refusal {
    match rejection {
        JsonRejection::MissingJsonContentType(_) => Refusal::new(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            ErrorCode::InvalidArgument,
            "the header Content-Type must be application/json",
        ),
        JsonRejection::BytesRejection(BytesRejection::FailedToBufferBody(
            FailedToBufferBody::LengthLimitError(_),
        )) => Refusal::body_too_large(),
        // Whatever its members hold is read: it is what is around them.
        JsonRejection::JsonDataError(_) => {
            unprocessable("the body is JSON, but no object: send the fields in { and }".to_owned())
        }
        JsonRejection::JsonSyntaxError(_) => Refusal::new(
            StatusCode::BAD_REQUEST,
            ErrorCode::InvalidArgument,
            "the body is not JSON: send an object with the fields, and nothing before or after it",
        ),
        other => Refusal::new(
            other.status(),
            ErrorCode::InvalidArgument,
            "the body did not come to its end: send it again",
        ),
    }
}

fn unprocessable(message: String) -> Refusal {
    Refusal::new(
        StatusCode::UNPROCESSABLE_ENTITY,
        ErrorCode::InvalidArgument,
        message,
    )
}

/// The members of an object, in their order: one that comes twice is here twice.
struct Members(Vec<(String, Value)>);

impl<'de> Deserialize<'de> for Members {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(ReadMembers)
    }
}

struct ReadMembers;

impl<'de> Visitor<'de> for ReadMembers {
    type Value = Members;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Members, A::Error> {
        let mut members = Vec::new();
        while let Some(member) = map.next_entry()? {
            members.push(member);
        }
        Ok(Members(members))
    }
}

impl<'de> Deserializer<'de> for Members {
    type Error = Unfit;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Unfit> {
        let members = self.0.into_iter().map(|(name, value)| {
            let member = Member {
                name: name.clone(),
                value,
            };
            (name, member)
        });
        visitor.visit_map(MapDeserializer::new(members))
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option
        unit unit_struct newtype_struct seq tuple tuple_struct map struct enum identifier ignored_any
    }
}

/// A value that knows what it is called.
struct Member {
    name: String,
    value: Value,
}

impl IntoDeserializer<'_, Unfit> for Member {
    type Deserializer = Self;

    fn into_deserializer(self) -> Self {
        self
    }
}

impl<'de> Deserializer<'de> for Member {
    type Error = Unfit;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Unfit> {
        let named = |found| Unfit::NoText {
            name: shown(&self.name),
            found,
        };
        match self.value {
            Value::String(text) => visitor.visit_string(text),
            Value::Null => Err(named("null")),
            Value::Bool(_) => Err(named("true or false")),
            Value::Number(_) => Err(named("a number")),
            Value::Array(_) => Err(named("an array")),
            Value::Object(_) => Err(named("an object")),
        }
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Unfit> {
        match self.value {
            Value::Null => visitor.visit_none(),
            Value::String(_)
            | Value::Bool(_)
            | Value::Number(_)
            | Value::Array(_)
            | Value::Object(_) => visitor.visit_some(self),
        }
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf
        unit unit_struct newtype_struct seq tuple tuple_struct map struct enum identifier ignored_any
    }
}

/// Why an object is not the request. No value is ever repeated: it may be a secret.
#[derive(Debug, PartialEq, Eq)]
enum Unfit {
    Missing(&'static str),
    Twice(&'static str),
    Unknown {
        name: String,
        known: &'static [&'static str],
    },
    /// All fields are text.
    NoText {
        name: String,
        found: &'static str,
    },
    Other,
}

impl fmt::Display for Unfit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing(name) => write!(f, "the field {name} is missing: give it, as a string"),
            Self::Twice(name) => write!(f, "the field {name} is there twice: give it once"),
            Self::Unknown { name, known } => {
                let known = known.join(", ");
                write!(
                    f,
                    "there is no field {name} here: leave it out; there is {known}"
                )
            }
            Self::NoText { name, found } => {
                write!(f, "the field {name} must be a string, and is {found}")
            }
            Self::Other => f.write_str("the fields do not fit: GET /openapi.json describes them"),
        }
    }
}

impl std::error::Error for Unfit {}

impl de::Error for Unfit {
    fn custom<T: fmt::Display>(_: T) -> Self {
        Self::Other
    }

    fn missing_field(name: &'static str) -> Self {
        Self::Missing(name)
    }

    fn duplicate_field(name: &'static str) -> Self {
        Self::Twice(name)
    }

    fn unknown_field(name: &str, known: &'static [&'static str]) -> Self {
        Self::Unknown {
            name: shown(name),
            known,
        }
    }
}

/// A name that the client made up, so that it cannot do anything to a terminal.
fn shown(name: &str) -> String {
    let mut shown: String = name.chars().take(NAME_CHARS_SHOWN_MAX).collect();
    if shown.len() < name.len() {
        shown.push('…');
    }
    format!("{shown:?}")
}
