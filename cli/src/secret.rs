//! Secrets: read from files of their own, and never shown.

use std::fmt;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use dreamcatcher_directory::redacted;
use secrecy::SecretString;

use crate::exit::Failure;

/// Longest secret in a file: passwords are shorter, and a file that was named by mistake is not
/// sent to a server.
const FILE_BYTES_MAX: u64 = 1_024;
/// What stands where a secret was, here and in [`redacted`].
const MASK: char = '…';
const MASKED_LOGIN: &str = "…@";

/// A URL that may have a password in it: `Debug` and `Display` mask that.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct SecretUrl(String);

impl SecretUrl {
    pub(crate) fn new(url: &str) -> Self {
        Self(url.to_owned())
    }

    /// The URL as it is, password and all.
    pub(crate) fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for SecretUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&masked(&self.0))
    }
}

impl fmt::Debug for SecretUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", masked(&self.0))
    }
}

/// The secret in a file, without the white space around it. `flag` named the file.
///
/// A file that others can read is worth a warning, and no more: it may have to be shared with a
/// group.
pub(crate) fn read(flag: &str, file: &Path) -> Result<SecretString, Failure> {
    let refused = |cause: &str| Failure::Config(format!("{flag} {}: {cause}", file.display()));
    let found = fs::metadata(file).map_err(|e| refused(&e.to_string()))?;
    if !found.is_file() {
        return Err(refused("it is not a regular file"));
    }
    let size = found.len();
    if size > FILE_BYTES_MAX {
        return Err(refused(&format!(
            "{size} bytes are over the limit of {FILE_BYTES_MAX}; is it the file with the password?"
        )));
    }
    let text = fs::read_to_string(file).map_err(|e| refused(&e.to_string()))?;
    let secret = text.trim();
    if secret.is_empty() {
        return Err(refused("it is empty; it has to hold the password"));
    }
    if secret.contains(char::is_control) {
        return Err(refused(
            "it holds more than one line, or a control character; it has to hold the password alone",
        ));
    }
    if let Some(mode) = readable_by_others(file) {
        let file = file.display();
        tracing::warn!("{flag} {file} can be read by others (mode {mode:04o}): chmod 600 {file}");
    }
    Ok(SecretString::from(secret))
}

/// Refuses a file that anybody but its owner has a right to: whoever has the cluster key is a relay.
pub(crate) fn check_private(flag: &str, file: &Path) -> Result<(), Failure> {
    let Some(mode) = readable_by_others(file) else {
        return Ok(());
    };
    let file = file.display();
    Err(Failure::Config(format!(
        "{flag} {file} can be read by others (mode {mode:04o}), and whoever has it can join the \
         mesh: chmod 600 {file}; if they may have read it, make another with `dreamcatcher keygen`"
    )))
}

/// The mode of a file that its group or everybody has a right to. A file that is not there is for
/// its reader to tell of.
fn readable_by_others(file: &Path) -> Option<u32> {
    // systemd hands credentials over in a folder that only the service can enter, and may grant the
    // files to it by an ACL, whose mask stands where the rights of the group are.
    let credentials = std::env::var_os("CREDENTIALS_DIRECTORY");
    if credentials.is_some_and(|folder| file.starts_with(folder)) {
        return None;
    }
    let mode = fs::metadata(file).ok()?.permissions().mode() & 0o7777;
    (mode & 0o077 != 0).then_some(mode)
}

/// A value of a setting as it may be shown: a URL without its password and its query, which may hold a
/// token; anything else as it is. Of a URL that is written wrong no more than [`redacted`] leaves.
pub(crate) fn masked(value: &str) -> String {
    let Some((scheme, rest)) = value.split_once("://").filter(|(_, rest)| !rest.is_empty()) else {
        return value.to_owned();
    };
    let told = redacted(value);
    let hosts = told.rsplit("://").next().unwrap_or_default();
    let hosts = hosts.strip_prefix(MASKED_LOGIN).unwrap_or(hosts);
    if hosts.starts_with(MASK) {
        return told;
    }
    let (login, place) = match rest.rsplit_once('@') {
        Some((login, place)) => (Some(login), place),
        None => (None, rest),
    };
    let user = match login.map(|login| login.split_once(':')) {
        None => String::new(),
        // A token, more often than a name.
        Some(_) if scheme.starts_with("http") => MASKED_LOGIN.to_owned(),
        Some(Some((user, _))) => format!("{user}:{MASKED_LOGIN}"),
        Some(None) => format!("{}@", login.unwrap_or_default()),
    };
    let place = match place.find(['?', '#']) {
        Some(end) => format!("{}{MASK}", &place[..=end]),
        None => place.to_owned(),
    };
    format!("{scheme}://{user}{place}")
}

/// A text for people as it may be shown: each word that is a URL without its secrets.
pub(crate) fn masked_text(text: &str) -> String {
    let ends_word = |c: char| c.is_whitespace() || matches!(c, '\'' | '"' | '`');
    let ends_sentence = |c: char| ends_word(c) || matches!(c, '.' | ',' | ';' | ':' | ')');
    text.split_inclusive(ends_word)
        .map(|word| {
            let url = word.trim_end_matches(ends_sentence);
            masked(url) + &word[url.len()..]
        })
        .collect()
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use secrecy::ExposeSecret;
    use tempfile::NamedTempFile;

    use super::*;

    #[test]
    fn a_url_is_shown_without_its_password() {
        for (url, shown) in [
            ("memory", "memory"),
            ("/var/lib/auth.db", "/var/lib/auth.db"),
            ("redis://host:6379/0", "redis://host:6379/0"),
            ("redis://:pw@host", "redis://:…@host"),
            ("rediss://user:pw@a,b:1/0", "rediss://user:…@a,b:1/0"),
            ("postgres://user@host/db", "postgres://user@host/db"),
            ("postgres://u:p@ss@host/db", "postgres://u:…@host/db"),
            ("postgres://h/db?user=u&password=pw", "postgres://h/db?…"),
            ("https://h/jwks.json?token=pw", "https://h/jwks.json?…"),
            ("https://h/jwks.json#pw", "https://h/jwks.json#…"),
            ("https://token@h/jwks.json", "https://…@h/jwks.json"),
            // Written wrong: the secret may be anywhere.
            ("postgres://u:p/w?x@host/db", "postgres://…"),
            ("https://h/?mail=a@b&token=pw", "https://…"),
            ("redis://user:pw", "redis://…"),
            ("pw://user@host", "pw://user@host"),
            ("p@w://host", "…"),
        ] {
            assert_eq!(masked(url), shown);
            assert_eq!(format!("{:?}", SecretUrl::new(url)), format!("{shown:?}"));
        }
    }

    #[test]
    fn a_text_is_shown_without_the_passwords_of_its_urls() {
        let text = "cannot use 'redis://:pw@host': no `postgres://u:pw@h/d`\nsee https://example.org, or redis://.";
        let shown = "cannot use 'redis://:…@host': no `postgres://u:…@h/d`\nsee https://example.org, or redis://.";
        assert_eq!(masked_text(text), shown);
        assert_eq!(masked_text("é://a:b@c"), "…");
        assert_eq!(masked_text(""), "");
    }

    #[test]
    fn a_secret_is_a_file_s_one_line() {
        let file = NamedTempFile::new().unwrap();
        let read = |text: &str| {
            fs::write(file.path(), text).unwrap();
            read("--directory-password-file", file.path())
        };
        assert_eq!(read("pass word\n").unwrap().expose_secret(), "pass word");
        for (text, cause) in [
            ("", "empty"),
            (" \n", "empty"),
            ("one\ntwo", "more than one line"),
            (&"x".repeat(1_025), "over the limit of 1024"),
        ] {
            let Err(Failure::Config(said)) = read(text) else {
                panic!("{text:?}")
            };
            assert!(said.contains("--directory-password-file"), "{said}");
            assert!(said.contains(cause), "{said}");
        }
    }

    #[test]
    fn a_cluster_key_that_others_can_read_is_refused() {
        let file = NamedTempFile::new().unwrap();
        let check = |mode| {
            fs::set_permissions(file.path(), fs::Permissions::from_mode(mode)).unwrap();
            check_private("--cluster-key-file", file.path())
        };
        assert!(check(0o600).is_ok());
        assert!(check(0o400).is_ok());
        for mode in [0o640, 0o604, 0o644] {
            let Err(Failure::Config(said)) = check(mode) else {
                panic!("{mode:o}")
            };
            assert!(said.contains("chmod 600"), "{said}");
        }
    }
}
