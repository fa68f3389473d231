//! `dreamcatcher config show`: what a command would run with, as a configuration file.

use std::fmt::Write;

use crate::config::{Effective, Setting, Value};
use crate::exit::Failure;
use crate::out;

pub(crate) fn config(effective: &Effective) -> Result<(), Failure> {
    out::say(shown(effective))
}

fn shown(effective: &Effective) -> String {
    let lines: Vec<String> = effective.settings.iter().map(line).collect();
    let mut shown = match &effective.file {
        Some(file) => format!("# {}, with the file {}\n", effective.of, file.display()),
        None => format!("# {}\n", effective.of),
    };
    let widths = lines.iter().map(|line| line.chars().count());
    let width = widths.max().unwrap_or_default();
    for (line, setting) in lines.iter().zip(&effective.settings) {
        // Writing to a String cannot fail.
        let _ = if effective.with_origin {
            writeln!(shown, "{line:<width$}  # {}", setting.origin)
        } else {
            writeln!(shown, "{line}")
        };
    }
    shown
}

fn line(Setting { key, value, .. }: &Setting) -> String {
    match value {
        Value::One(value) => format!("{key} = {}", literal(value)),
        Value::List(values) => {
            let values: Vec<String> = values.iter().map(|value| literal(value)).collect();
            format!("{key} = [{}]", values.join(", "))
        }
        Value::Nothing(Some(instead)) => format!("# {key}: {instead}"),
        Value::Nothing(None) => format!("# {key}: not set"),
    }
}

/// A value as TOML has it.
fn literal(value: &str) -> String {
    let is_plain = value.parse::<bool>().is_ok()
        || value
            .parse::<i64>()
            .is_ok_and(|number| number.to_string() == value);
    if is_plain {
        value.to_owned()
    } else {
        toml::Value::from(value).to_string()
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use std::ffi::OsString;

    use super::*;
    use crate::args::Command;

    #[test]
    fn each_setting_is_shown_with_where_it_was_said() {
        let file = written("region = \"eu\"\ninsecure = true\nnodes = 2\n");
        let path = file.path().to_str().unwrap();
        let said = show(&[
            "relay",
            "--config",
            path,
            "--nodes",
            "3",
            "--origin",
            "--log=debug",
        ]);
        for line in [
            "region = \"eu\" # file, line 1",
            "insecure = true # file, line 2",
            "nodes = 3 # flag --nodes",
            "listen = \"127.0.0.1:4433\" # default",
            "# id: the host's name # default",
            "# jwks: not set # default",
            "log = \"debug\" # flag --log",
        ] {
            assert!(squeezed(&said).contains(line), "{line}: {said}");
        }
        assert!(said.starts_with("# relay, with the file "), "{said}");
    }

    #[test]
    fn what_is_shown_is_a_configuration_file_that_says_the_same() {
        let said = show(&[
            "auth",
            "--trusted-proxies=10.0.0.1,10.0.0.2",
            "--store=sqlite:a \"b\".db",
            "--insecure",
        ]);
        let file = written(&said);
        let again = show(&["auth", "--config", file.path().to_str().unwrap()]);
        let settings = |said: &str| said.split_once('\n').map(|(_, rest)| rest.to_owned());
        assert_eq!(settings(&said), settings(&again));
        assert!(said.contains("trusted_proxies = [\"10.0.0.1\", \"10.0.0.2\"]"));
        assert!(said.contains("insecure = true"), "{said}");
    }

    #[test]
    fn a_password_in_a_url_is_masked() {
        let said = show(&[
            "auth",
            "--store=postgres://user:canary@host/db",
            "--directory=redis://:canary@host",
        ]);
        assert!(said.contains("postgres://user:…@host/db"), "{said}");
        assert!(said.contains("redis://:…@host"), "{said}");
        assert!(!said.contains("canary"), "{said}");
    }

    fn show(line: &[&str]) -> String {
        let line = ["dreamcatcher", "config", "show"].iter().chain(line);
        let cli = crate::config::read(line.map(OsString::from)).unwrap();
        let Command::Config(effective) = cli.command else {
            panic!("{:?}", cli.command)
        };
        shown(&effective)
    }

    fn squeezed(text: &str) -> String {
        let lines = text.lines().map(|line| {
            let words: Vec<&str> = line.split_whitespace().collect();
            words.join(" ")
        });
        lines.collect::<Vec<_>>().join("\n")
    }

    fn written(text: &str) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        file
    }
}
