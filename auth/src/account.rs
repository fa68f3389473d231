//! What a player with an account types: a username or an e-mail address, and a password.

use std::fmt;

use dreamcatcher_proto::{Error, ErrorCode};
use secrecy::{ExposeSecret, SecretString};

pub(crate) const USERNAME_CHARS_MIN: usize = 3;
pub(crate) const USERNAME_CHARS_MAX: usize = 32;
pub(crate) const EMAIL_CHARS_MIN: usize = 6;
/// RFC 5321, 4.5.3.1.3: a path of 256 with its two brackets.
pub(crate) const EMAIL_CHARS_MAX: usize = 254;
/// RFC 5321, 4.5.3.1.1.
const EMAIL_LOCAL_CHARS_MAX: usize = 64;
/// RFC 1035, 2.3.4.
const DNS_LABEL_CHARS_MAX: usize = 63;
pub(crate) const PASSWORD_CHARS_MIN: usize = 10;
/// More adds nothing that can be guessed, and a hash of it takes no longer.
pub(crate) const PASSWORD_CHARS_MAX: usize = 128;
/// Ours have 97 characters; other parameters and a longer salt fit.
const PASSWORD_HASH_CHARS_MAX: usize = 256;

/// 3–32 of `A–Z a–z 0–9 _ . -`. It is kept as it was typed and compared without regard to case; it
/// holds no `@`, so that it can never be taken for an e-mail address.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Username(String);

impl Username {
    /// As it was typed.
    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }

    /// What makes it unique: two names that differ in case alone are one.
    pub(crate) fn folded(&self) -> String {
        self.0.to_ascii_lowercase()
    }
}

impl TryFrom<String> for Username {
    type Error = Error;

    fn try_from(text: String) -> Result<Self, Error> {
        let fits = (USERNAME_CHARS_MIN..=USERNAME_CHARS_MAX).contains(&text.len());
        let known = |c: u8| c.is_ascii_alphanumeric() || matches!(c, b'_' | b'.' | b'-');
        if !fits || !text.bytes().all(known) {
            return Err(invalid(format!(
                "username must be {USERNAME_CHARS_MIN}–{USERNAME_CHARS_MAX} characters of A-Z a-z \
                 0-9 _ . -"
            )));
        }
        Ok(Self(text))
    }
}

impl fmt::Debug for Username {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Username(…)")
    }
}

/// An address in lower case: a local part of the usual characters, `@`, and a host of at least two
/// labels. Whether it receives mail is not known.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Email(String);

impl Email {
    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for Email {
    type Error = Error;

    fn try_from(text: String) -> Result<Self, Error> {
        let fits = (EMAIL_CHARS_MIN..=EMAIL_CHARS_MAX).contains(&text.len());
        let parts = text.rsplit_once('@');
        if !fits || !parts.is_some_and(|(local, host)| is_local_part(local) && is_host(host)) {
            return Err(invalid(format!(
                "email must be {EMAIL_CHARS_MIN}–{EMAIL_CHARS_MAX} characters in the form \
                 name@host.example"
            )));
        }
        Ok(Self(text.to_ascii_lowercase()))
    }
}

impl fmt::Debug for Email {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Email(…)")
    }
}

/// A dot-atom (RFC 5322, 3.2.3), without the quoted form that nobody has.
fn is_local_part(text: &str) -> bool {
    let atom = |c: u8| c.is_ascii_alphanumeric() || b"!#$%&'*+/=?^_`{|}~-".contains(&c);
    (1..=EMAIL_LOCAL_CHARS_MAX).contains(&text.len())
        && text
            .split('.')
            .all(|part| !part.is_empty() && part.bytes().all(atom))
}

/// At least two labels of letters, digits and inner hyphens; the last one is not a number.
fn is_host(text: &str) -> bool {
    let letter = |c: u8| c.is_ascii_alphanumeric() || c == b'-';
    let label = |part: &str| {
        (1..=DNS_LABEL_CHARS_MAX).contains(&part.len())
            && part.bytes().all(letter)
            && !part.starts_with('-')
            && !part.ends_with('-')
    };
    let last = text.rsplit('.').next().unwrap_or_default();
    text.contains('.')
        && text.split('.').all(label)
        && last.bytes().any(|c| c.is_ascii_alphabetic())
}

/// Which account a login means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Login {
    Username(Username),
    Email(Email),
}

impl Login {
    /// What counts as one account for the login limits.
    pub(crate) fn folded(&self) -> String {
        match self {
            Self::Username(name) => name.folded(),
            Self::Email(email) => email.as_str().to_owned(),
        }
    }
}

impl TryFrom<String> for Login {
    type Error = Error;

    fn try_from(text: String) -> Result<Self, Error> {
        let parsed = if text.contains('@') {
            Email::try_from(text).map(Self::Email)
        } else {
            Username::try_from(text).map(Self::Username)
        };
        parsed.map_err(|e| {
            invalid(format!(
                "login is a username or an e-mail address: {e}",
                e = e.message()
            ))
        })
    }
}

/// A password as the client sent it: hashed, never printed, and zeroed when dropped.
#[derive(Clone)]
pub(crate) struct Password(SecretString);

impl Password {
    /// One that an account is to have from now on.
    pub(crate) fn chosen(text: String) -> Result<Self, Error> {
        // Characters, not bytes: ten of any script are a password.
        Self::within(text, PASSWORD_CHARS_MIN)
    }

    /// One that is to be compared. A short one is nobody's, and is told so like any wrong one.
    pub(crate) fn claimed(text: String) -> Result<Self, Error> {
        Self::within(text, 0)
    }

    fn within(text: String, chars_min: usize) -> Result<Self, Error> {
        let fits = (chars_min..=PASSWORD_CHARS_MAX).contains(&text.chars().count());
        let password = Self(text.into());
        if fits {
            Ok(password)
        } else {
            Err(invalid(format!(
                "password must be {PASSWORD_CHARS_MIN}–{PASSWORD_CHARS_MAX} characters"
            )))
        }
    }

    pub(crate) fn as_bytes(&self) -> &[u8] {
        self.0.expose_secret().as_bytes()
    }
}

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Password(…)")
    }
}

/// A password's hash as a PHC string: the algorithm, its parameters, the salt and the hash.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct PasswordHash(String);

impl PasswordHash {
    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

/// From the store or the hasher; a text that is no PHC string is our fault.
impl TryFrom<String> for PasswordHash {
    type Error = Error;

    fn try_from(text: String) -> Result<Self, Error> {
        if text.starts_with('$') && text.len() <= PASSWORD_HASH_CHARS_MAX {
            Ok(Self(text))
        } else {
            Err(Error::new(
                ErrorCode::Internal,
                "a stored password hash is not a PHC string",
            ))
        }
    }
}

impl fmt::Debug for PasswordHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PasswordHash(…)")
    }
}

fn invalid(message: String) -> Error {
    Error::new(ErrorCode::InvalidArgument, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_username_is_3_to_32_of_a_few_characters() {
        for good in ["abc", "A.b-c_9", &"x".repeat(32)] {
            assert!(Username::try_from(good.to_owned()).is_ok(), "{good:?}");
        }
        for bad in [
            "",
            "ab",
            &"x".repeat(33),
            "a b c",
            "ada@home",
            "ädä",
            "a\0bc",
            "' OR 1",
        ] {
            assert_eq!(
                code(Username::try_from(bad.to_owned())),
                refused(),
                "{bad:?}"
            );
        }
    }

    #[test]
    fn an_email_is_a_name_and_a_host_in_lower_case() {
        let local = "l".repeat(64);
        for good in [
            "a@b.io",
            "Ada.L+game@Mail.Example.ORG",
            &format!("{local}@host.example"),
        ] {
            let email = Email::try_from(good.to_owned()).map(|email| email.as_str().to_owned());
            assert_eq!(email, Ok(good.to_ascii_lowercase()));
        }
        let long = format!("{local}@{}example", "label-of-ten.".repeat(15));
        assert!(long.len() > EMAIL_CHARS_MAX);
        for bad in [
            "",
            "a@b.c",
            "ada",
            "ada.host.example",
            "@host.example",
            "ada@localhost",
            "ada@host.",
            "ada@.example",
            "ada@-host.example",
            "ada@127.0.0.1",
            "a..b@host.example",
            "ada lovelace@host.example",
            "ada@evil@host.example",
            "ada@host.example\r\nBcc: x",
            "ädä@host.example",
            &format!("{local}l@host.example"),
            &long,
        ] {
            assert_eq!(code(Email::try_from(bad.to_owned())), refused(), "{bad:?}");
        }
    }

    #[test]
    fn a_login_with_an_at_sign_is_an_email_and_case_makes_no_difference() {
        let folded = |text: &str| Login::try_from(text.to_owned()).map(|login| login.folded());
        assert_eq!(folded("Ada"), Ok("ada".to_owned()));
        assert_eq!(
            folded("Ada@Host.Example"),
            Ok("ada@host.example".to_owned())
        );
        assert!(folded("ada@").is_err_and(|e| e.message().contains("login")));
    }

    #[test]
    fn a_password_is_chosen_with_10_to_128_characters_of_any_script() {
        for good in ["0123456789", &"名".repeat(10), &"名".repeat(128)] {
            assert!(Password::chosen(good.to_owned()).is_ok());
        }
        for bad in ["", "012345678", &"x".repeat(129)] {
            assert_eq!(code(Password::chosen(bad.to_owned())), refused());
        }
        assert!(Password::claimed("short".to_owned()).is_ok());
        assert_eq!(code(Password::claimed("x".repeat(129))), refused());
    }

    #[test]
    fn nothing_that_identifies_or_proves_is_printed() {
        let (name, email) = ("CANARY".to_owned(), "canary@host.example".to_owned());
        let password = Password::chosen("CANARY-CANARY".to_owned());
        let hash = PasswordHash::try_from("$CANARY".to_owned());
        let shown = format!(
            "{:?} {:?} {password:?} {hash:?}",
            Login::try_from(name),
            Login::try_from(email)
        );
        assert!(!shown.to_ascii_lowercase().contains("canary"), "{shown}");
    }

    fn code<T>(result: Result<T, Error>) -> Option<ErrorCode> {
        result.err().map(|e| e.code())
    }

    fn refused() -> Option<ErrorCode> {
        Some(ErrorCode::InvalidArgument)
    }
}
