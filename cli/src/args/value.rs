//! Parsers of single values. Their errors complete clap's "invalid value '…' for '--flag': ".

use std::ffi::OsStr;
use std::fmt::Display;
use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::str::FromStr;

use clap::builder::TypedValueParser;
use clap::error::ErrorKind;
use dreamcatcher_directory::{parse_host, parse_region};
use dreamcatcher_proto::NodeId;

/// Longest prefix of keys: it stands before every one of them.
const PREFIX_CHARS_MAX: usize = 32;

/// A whole number in `range`.
pub(super) fn number<T>(
    range: RangeInclusive<T>,
) -> impl Fn(&str) -> Result<T, String> + Clone + Send + Sync + 'static
where
    T: FromStr + PartialOrd + Display + Clone + Send + Sync + 'static,
{
    move |text| match text.parse() {
        Ok(value) if range.contains(&value) => Ok(value),
        Ok(_) | Err(_) => {
            let (least, most) = (range.start(), range.end());
            Err(format!("give a whole number from {least} to {most}"))
        }
    }
}

pub(super) fn address(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| {
        "give an IP address and a port, such as 127.0.0.1:4433 or [::]:4433".to_owned()
    })
}

pub(super) fn ip(text: &str) -> Result<IpAddr, String> {
    let said = || "give IP addresses, such as 10.0.0.1 or fd00::1".to_owned();
    text.parse().map_err(|_| said())
}

/// A switch that can be turned off again: `--insecure`, `--insecure=false`.
pub(super) fn switch(text: &str) -> Result<bool, String> {
    text.parse().map_err(|_| "give true or false".to_owned())
}

pub(super) fn prefix(text: &str) -> Result<String, String> {
    let fits = |c: char| matches!(c, 'a'..='z' | '0'..='9' | '-');
    if (1..=PREFIX_CHARS_MAX).contains(&text.len()) && text.chars().all(fits) {
        Ok(text.to_owned())
    } else {
        Err(format!(
            "give 1–{PREFIX_CHARS_MAX} characters of a-z, 0-9 and dashes"
        ))
    }
}

/// What may be a URL with a password in it, which an error then does not show.
pub(super) const fn url<T>(read: fn(&str) -> Result<T, String>) -> Url<T> {
    Url(read)
}

#[derive(Clone)]
pub(super) struct Url<T>(fn(&str) -> Result<T, String>);

impl<T: Clone + Send + Sync + 'static> TypedValueParser for Url<T> {
    type Value = T;

    fn parse_ref(
        &self,
        command: &clap::Command,
        arg: Option<&clap::Arg>,
        value: &OsStr,
    ) -> Result<T, clap::Error> {
        let text = value.to_str();
        let read = text.map_or_else(|| Err("it is not UTF-8".to_owned()), self.0);
        read.map_err(|cause| {
            let arg = arg.map(ToString::to_string).unwrap_or_default();
            let message = format!(
                "invalid value for '{arg}', which may hold a password and is not shown: {cause}"
            );
            command.clone().error(ErrorKind::ValueValidation, message)
        })
    }
}

pub(super) fn region(text: &str) -> Result<String, String> {
    parse_region(text).map_err(|e| e.message().to_owned())
}

pub(super) fn host(text: &str) -> Result<String, String> {
    parse_host(text).map_err(|e| e.message().to_owned())
}

/// A relay's id: with `-0` to `-255` behind it, it has to be a node id.
pub(super) fn relay_id(text: &str) -> Result<String, String> {
    match format!("{text}-255").parse::<NodeId>() {
        Ok(_) => Ok(text.to_owned()),
        Err(_) => Err("give 1–59 characters of a-z, 0-9 and inner dashes".to_owned()),
    }
}

pub(super) fn log_filter(text: &str) -> Result<String, String> {
    tracing_subscriber::EnvFilter::try_new(text)
        .map(|_| text.to_owned())
        .map_err(|e| format!("{e}; give a level such as info, or info,dreamcatcher_relay=debug"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_outside_its_range_is_refused_with_the_range() {
        let relays = number(1_u8..=16);
        assert_eq!(relays("16"), Ok(16));
        for text in ["0", "17", "300", "-1", "three", ""] {
            let refused = relays(text);
            assert_eq!(refused, Err("give a whole number from 1 to 16".to_owned()));
        }
    }

    #[test]
    fn a_relay_id_leaves_room_for_the_node_number() {
        assert!(relay_id("eu-1").is_ok());
        assert!(relay_id(&"a".repeat(59)).is_ok());
        for bad in ["", "-a", "EU", "a.b", &"a".repeat(60)] {
            assert!(relay_id(bad).is_err(), "{bad:?}");
        }
    }
}
