//! A connection string as the vendor's programs take it: they refuse what our driver understands beside `--db`.

use crate::source::SourceError;
use crate::source::secret::SecretText;

const SRV: &str = "mongodb+srv://";
const PLAIN: &str = "mongodb://";

/// The address with `hosts` (`NAME/HOST:PORT,...`) in place of its own and no database in it.
///
/// # Errors
/// When it is none, or names its hosts by DNS although `hosts` are given.
pub fn of(uri: &SecretText, hosts: Option<&str>) -> Result<SecretText, SourceError> {
    let wrong = |why: &str| SourceError::Configuration(format!("the address of the MongoDB deployment {why}"));
    let text = uri.expose();
    let scheme = [SRV, PLAIN].into_iter().find(|scheme| text.starts_with(scheme));
    let scheme = scheme.ok_or_else(|| wrong("cannot be read: mongodb://..."))?;
    if scheme == SRV && hosts.is_some() {
        return Err(wrong("names its hosts by DNS (mongodb+srv): leave out either that or hosts"));
    }
    let parts = split(&text[scheme.len()..]);
    let mut options: Vec<String> = parts.options.split('&').filter(|option| !option.is_empty()).map(str::to_owned).collect();
    let is = |option: &str, key: &str| option.split('=').next().is_some_and(|name| name.eq_ignore_ascii_case(key));
    // With it and nobody listening, mongodump was seen never to end.
    options.retain(|option| !is(option, "serverSelectionTimeoutMS"));
    let has = |options: &[String], key: &str| options.iter().any(|option| is(option, key));
    let logs_in = parts.user.is_some() && !has(&options, "authSource");
    if logs_in && !parts.database.is_empty() {
        options.push(format!("authSource={}", parts.database));
    } else if logs_in && scheme == PLAIN && !has(&options, "authMechanism") {
        // What it is without a word; the programs may take the database of the dump.
        options.push("authSource=admin".into());
    }
    let mut listed = parts.hosts.to_owned();
    if let Some(hosts) = hosts {
        let (set, others) = hosts.split_once('/').map_or((None, hosts), |(set, others)| (Some(set), others));
        listed = others.split(',').map(str::trim).collect::<Vec<_>>().join(",");
        options.retain(|option| !is(option, "replicaSet"));
        options.extend(set.map(|set| format!("replicaSet={set}")));
    }
    let user = parts.user.map(|user| format!("{user}@")).unwrap_or_default();
    Ok(SecretText::new(format!("{scheme}{user}{listed}/?{}", options.join("&"))))
}

/// The password of an address as it stands there, and as it was before it was made fit for an address.
pub fn passwords(address: &SecretText) -> Vec<SecretText> {
    let after = address.expose().split_once("://").map_or("", |(_, after)| after);
    let Some((_, password)) = split(after).user.and_then(|user| user.split_once(':')) else { return Vec::new() };
    let mut plain = Vec::new();
    let mut rest = password.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        let code =
            after.get(..2).and_then(|hex| std::str::from_utf8(hex).ok()).and_then(|hex| u8::from_str_radix(hex, 16).ok());
        let (byte, used) = if let (b'%', Some(code)) = (first, code) { (code, 2) } else { (*first, 0) };
        plain.push(byte);
        rest = &after[used..];
    }
    vec![SecretText::new(password.to_owned()), SecretText::new(String::from_utf8_lossy(&plain).into_owned())]
}

struct Parts<'a> {
    user: Option<&'a str>,
    hosts: &'a str,
    database: &'a str,
    options: &'a str,
}

/// What stands behind the scheme. Within names and passwords `/`, `?` and `@` are written otherwise.
fn split(text: &str) -> Parts<'_> {
    let (front, options) = text.split_once('?').unwrap_or((text, ""));
    let (authority, database) = front.split_once('/').unwrap_or((front, ""));
    let (user, hosts) = authority.rsplit_once('@').map_or((None, authority), |(user, hosts)| (Some(user), hosts));
    Parts { user, hosts, database, options }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(uri: &str, hosts: Option<&str>) -> Result<String, SourceError> {
        super::of(&SecretText::new(uri.into()), hosts).map(|address| address.expose().to_owned())
    }

    #[test]
    fn an_address_keeps_what_it_says_and_loses_what_the_programs_stumble_over() {
        let cases = [
            ("mongodb://h:27017", None, "mongodb://h:27017/?"),
            ("mongodb://a:p%40s@h/", None, "mongodb://a:p%40s@h/?authSource=admin"),
            ("mongodb://a:p@h/users?tls=true", None, "mongodb://a:p@h/?tls=true&authSource=users"),
            ("mongodb://a:p@h/x?authSource=y&serverSelectionTimeoutMS=9", None, "mongodb://a:p@h/?authSource=y"),
            ("mongodb://h/?replicaSet=old", Some("rs0/a:1, b:2"), "mongodb://a:1,b:2/?replicaSet=rs0"),
            ("mongodb+srv://a:p@h/", None, "mongodb+srv://a:p@h/?"),
        ];
        for (uri, hosts, address) in cases {
            assert_eq!(of(uri, hosts).unwrap_or_else(|e| panic!("{uri}: {e}")), address);
        }
        assert!(of("mongodb+srv://h/", Some("a:1")).is_err());
        assert!(of("http://h/", None).is_err());
    }

    #[test]
    fn a_password_is_known_in_both_its_spellings() {
        let found = passwords(&SecretText::new("mongodb://a:p%40s%2@h/?".into()));
        assert_eq!(found.iter().map(SecretText::expose).collect::<Vec<_>>(), ["p%40s%2", "p@s%2"]);
        assert!(passwords(&SecretText::new("mongodb://h/?".into())).is_empty());
    }
}
