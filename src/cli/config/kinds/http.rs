//! The keys of servers that are spoken to over HTTP.

use super::secret;
use crate::cli::config::section::Section;
use crate::source::http::HttpConfig;

/// Reads `url` (or another key for it), `user`, `password_*` and `ca_file`.
pub fn read(section: &Section<'_>, url_key: &str) -> Option<HttpConfig> {
    let url = section.text(url_key);
    match &url {
        None => section.wrong(format!("{url_key} is missing: http://HOST:PORT")),
        Some(url) if !url.starts_with("http://") && !url.starts_with("https://") => {
            section.wrong(format!("{url_key}: must begin with http:// or https://"));
        }
        Some(url) if url.contains('@') => {
            section.wrong(format!("{url_key}: holds no account; write user and password_file"));
        }
        Some(_) => {}
    }
    let (user, password) = (section.text("user"), secret(section, "password"));
    if user.is_some() != password.is_some() {
        section.wrong("user and password_file belong together");
    }
    let ca_file = section.text("ca_file").map(Into::into);
    Some(HttpConfig { url: url?, user, password, ca_file })
}
