//! Host patterns as known_hosts and ssh_config share them: `*`, `?`, and a leading `!` that excludes.

/// Whether `text` fits `pattern` with `*` and `?`. Takes time proportional to the product of their lengths at worst.
pub fn fits(pattern: &str, text: &str) -> bool {
    let (pattern, text) = (pattern.as_bytes(), text.as_bytes());
    let (mut p, mut t) = (0, 0);
    // Where to go on when what follows the last star does not fit: one more byte goes to the star.
    let mut retry = None;
    while t < text.len() {
        match pattern.get(p) {
            Some(b'*') => {
                p += 1;
                retry = Some((p, t));
            }
            Some(c) if *c == b'?' || *c == text[t] => {
                p += 1;
                t += 1;
            }
            _ => match retry {
                Some((after_star, taken)) => {
                    p = after_star;
                    t = taken + 1;
                    retry = Some((after_star, t));
                }
                None => return false,
            },
        }
    }
    pattern[p..].iter().all(|c| *c == b'*')
}

/// Whether `name` fits at least one of the patterns and none that begins with `!`.
pub fn any_fits<'a>(patterns: impl Iterator<Item = &'a str>, name: &str) -> bool {
    let mut found = false;
    for pattern in patterns {
        match pattern.strip_prefix('!') {
            Some(excluded) if fits(excluded, name) => return false,
            Some(_) => {}
            None => found = found || fits(pattern, name),
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stars_and_question_marks() {
        for (pattern, text, expected) in [
            ("*", "", true),
            ("*.example.org", "backup.example.org", true),
            ("*.example.org", "example.org", false),
            ("10.0.?.1", "10.0.7.1", true),
            ("10.0.?.1", "10.0.77.1", false),
            ("a*b*c", "aXbYbZc", true),
            ("a*b*c", "aXbYbZ", false),
            ("", "x", false),
        ] {
            assert_eq!(fits(pattern, text), expected, "{pattern} {text}");
        }
    }

    #[test]
    fn an_exclusion_beats_every_match() {
        let patterns = ["*.example.org", "!bad.example.org"];
        assert!(any_fits(patterns.into_iter(), "good.example.org"));
        assert!(!any_fits(patterns.into_iter(), "bad.example.org"));
        assert!(!any_fits(["!bad"].into_iter(), "good"), "an exclusion alone selects nothing");
    }
}
