//! A tree that changes between the scan and the reading.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use super::*;
use crate::source::{Piece, Settled};
use crate::state::file_cache::StatKey;

/// What became of one path.
#[derive(Debug, PartialEq)]
enum Kept {
    File(String),
    Link(String),
    Other(&'static str),
    Finding(String),
}

/// A source that is about to read what it has found.
struct Scanned {
    source: FilesSource,
    root: EntryPath,
    found: Vec<Found>,
}

fn open(roots: &[&Path], exclude: ExcludeRules) -> Result<FilesSource, SourceError> {
    let roots = roots.iter().map(|root| PathBuf::from(*root)).collect();
    FilesSource::open(FilesConfig { name: "test".into(), roots, exclude })
}

fn scan(root: &Path) -> Scanned {
    let mut source = open(&[root], ExcludeRules::default()).unwrap_or_else(|e| panic!("{e}"));
    let root = EntryPath::from_fs(root).unwrap_or_else(|e| panic!("{e}"));
    let found = all(&mut source);
    Scanned { source, root, found }
}

fn all(source: &mut FilesSource) -> Vec<Found> {
    std::iter::from_fn(|| source.next().unwrap_or_else(|e| panic!("{e}"))).collect()
}

impl Scanned {
    /// Loads everything below the root, in order, with the key under which each is remembered.
    fn load(self) -> BTreeMap<String, (Kept, Option<StatKey>)> {
        let mut kept = BTreeMap::new();
        for found in self.found {
            let Some(name) = found.path.below(&self.root) else { continue };
            kept.insert(name.to_string(), load(found, &self.root));
        }
        drop(self.source);
        kept
    }

    /// The same without keys.
    fn kept(self) -> BTreeMap<String, Kept> {
        self.load().into_iter().map(|(name, (kept, _))| (name, kept)).collect()
    }
}

fn load(found: Found, root: &EntryPath) -> (Kept, Option<StatKey>) {
    match found.load.load().unwrap_or_else(|e| panic!("{e}")) {
        Loaded::Whole(entry, seen) => {
            let kept = match entry.kind {
                EntryKind::HardLink(first) => Kept::Link(first.below(root).map(|p| p.to_string()).unwrap_or_default()),
                EntryKind::Symlink(target) => Kept::File(String::from_utf8_lossy(&target).into_owned()),
                other => Kept::Other(other.word()),
            };
            (kept, found.key.and(seen))
        }
        Loaded::File(_, mut content) => {
            let (mut text, mut buffer) = (String::new(), [0; 4096]);
            while let Piece::Data(count) = content.read(&mut buffer).unwrap_or_else(|e| panic!("{e:?}")) {
                text += &String::from_utf8_lossy(&buffer[..count]);
            }
            assert_eq!(content.settle().unwrap_or_else(|e| panic!("{e:?}")), Settled::Same);
            (Kept::File(text), found.key.and(content.key()))
        }
        Loaded::Flawed(_, finding) => (Kept::Finding(finding.message), None),
    }
}

fn tree() -> tempfile::TempDir {
    tempfile::tempdir().unwrap_or_else(|e| panic!("{e}"))
}

/// A file with the names a to d.
fn four_names() -> std::io::Result<tempfile::TempDir> {
    let dir = tree();
    fs::write(dir.path().join("a"), "old")?;
    for name in ["b", "c", "d"] {
        fs::hard_link(dir.path().join("a"), dir.path().join(name))?;
    }
    Ok(dir)
}

fn file(text: &str) -> Kept {
    Kept::File(text.into())
}

fn link(first: &str) -> Kept {
    Kept::Link(first.into())
}

#[test]
fn names_of_one_file_point_at_the_first() -> std::io::Result<()> {
    let dir = tree();
    fs::write(dir.path().join("a"), "content")?;
    for name in ["b", "c"] {
        fs::hard_link(dir.path().join("a"), dir.path().join(name))?;
    }
    let kept = scan(dir.path()).kept();
    assert_eq!(kept.into_values().collect::<Vec<_>>(), [file("content"), link("a"), link("a")]);
    // The first one is as the last push left it: it is never loaded.
    let mut scanned = scan(dir.path());
    scanned.found.retain(|found| found.path.name() != b"a");
    assert_eq!(scanned.kept().into_values().collect::<Vec<_>>(), [link("a"), link("a")]);
    Ok(())
}

#[test]
fn a_first_name_that_was_given_away_holds_nothing_of_the_others() -> std::io::Result<()> {
    let dir = four_names()?;
    let at = |name: &str| dir.path().join(name);
    // Saved by rename, as editors do.
    let scanned = scan(dir.path());
    fs::write(at("new"), "new")?;
    fs::rename(at("new"), at("a"))?;
    let kept = scanned.kept();
    assert_eq!(kept.into_values().collect::<Vec<_>>(), [file("new"), file("old"), link("b"), link("b")]);
    // Gone altogether.
    fs::remove_file(at("a"))?;
    fs::hard_link(at("b"), at("a"))?;
    let scanned = scan(dir.path());
    fs::remove_file(at("a"))?;
    let kept = scanned.kept();
    let gone = Kept::Finding("vanished while the tree was read".into());
    assert_eq!(kept.into_values().collect::<Vec<_>>(), [gone, file("old"), link("b"), link("b")]);
    Ok(())
}

#[test]
fn a_further_name_that_was_given_away_is_stored_as_what_it_is() -> std::io::Result<()> {
    let dir = four_names()?;
    let at = |name: &str| dir.path().join(name);
    let scanned = scan(dir.path());
    fs::write(at("new"), "new")?;
    fs::rename(at("new"), at("b"))?;
    fs::remove_file(at("c"))?;
    let kept = scanned.kept();
    let gone = Kept::Finding("vanished while the tree was read".into());
    assert_eq!(kept.into_values().collect::<Vec<_>>(), [file("old"), file("new"), gone, link("a")]);
    Ok(())
}

#[test]
fn a_first_name_that_is_given_away_while_it_is_read_counts_for_nothing() -> std::io::Result<()> {
    let dir = tree();
    let at = |name: &str| dir.path().join(name);
    fs::write(at("a"), "old")?;
    fs::hard_link(at("a"), at("b"))?;
    let mut scanned = scan(dir.path());
    let second = scanned.found.pop();
    let Loaded::File(_, mut content) =
        scanned.found.remove(scanned.found.len() - 1).load.load().unwrap_or_else(|e| panic!("{e}"))
    else {
        panic!("the first name is a file");
    };
    // It changes, and is another file when it is read again.
    fs::write(at("a"), "older")?;
    assert!(matches!(content.settle(), Ok(Settled::Changed)));
    fs::write(at("new"), "new")?;
    fs::rename(at("new"), at("a"))?;
    assert!(content.again().is_ok());
    let mut buffer = [0; 16];
    assert!(matches!(content.read(&mut buffer), Ok(Piece::Data(3))));
    assert!(matches!(content.settle(), Ok(Settled::Same)));
    drop(content);
    let kept = second.map(|found| load(found, &scanned.root).0);
    assert_eq!(kept, Some(file("older")));
    Ok(())
}

/// Who comes between the scan and the reading, and goes again, leaves no key under which that would be believed for ever.
#[test]
fn what_was_read_is_remembered_under_its_own_key() -> std::io::Result<()> {
    let dir = tree();
    let at = |name: &str| dir.path().join(name);
    for name in ["x", "y"] {
        fs::create_dir(at(name))?;
        fs::write(at(name).join("file"), format!("of {name}"))?;
        std::os::unix::fs::symlink(format!("of {name}"), at(name).join("link"))?;
    }
    let swap = || {
        fs::rename(at("x"), at("z"))?;
        fs::rename(at("y"), at("x"))?;
        fs::rename(at("z"), at("y"))
    };
    let scanned = scan(dir.path());
    swap()?;
    let swapped = scanned.load();
    swap()?;
    let now: BTreeMap<_, _> =
        scan(dir.path()).found.into_iter().filter_map(|found| Some((found.path.to_string(), found.key?))).collect();
    let root = EntryPath::from_fs(dir.path()).unwrap_or_else(|e| panic!("{e}"));
    let mut seen = 0;
    for (name, (kept, key)) in swapped {
        let Kept::File(text) = kept else { continue };
        assert_eq!(text, if name.starts_with('x') { "of y" } else { "of x" });
        assert!(key.is_some_and(|key| now.get(&format!("{root}/{name}")) != Some(&key)), "{name}");
        seen += 1;
    }
    assert_eq!(seen, 4);
    Ok(())
}

fn rules(patterns: &[&str]) -> ExcludeRules {
    let patterns: Vec<String> = patterns.iter().map(|pattern| (*pattern).to_owned()).collect();
    ExcludeRules::with_patterns(&patterns).unwrap_or_else(|e| panic!("{e}"))
}

/// The paths that a source finds. It ends at the first one over `most`: it may be at work on the whole machine.
fn paths(roots: &[&Path], exclude: ExcludeRules, most: usize) -> Vec<String> {
    let mut source = open(roots, exclude).unwrap_or_else(|e| panic!("{e}"));
    let next = || source.next().unwrap_or_else(|e| panic!("{e}")).map(|found| format!("/{}", found.path));
    std::iter::from_fn(next).take(most + 1).collect()
}

#[test]
fn what_lies_in_the_root_directory_is_left_out_like_anything_else() -> std::io::Result<()> {
    let dir = tree();
    let place = dir.path().canonicalize()?;
    fs::write(place.join("file"), "x")?;
    // Everything but the way to the file.
    let mut patterns = Vec::new();
    let mut expected = Vec::new();
    for step in place.join("file").ancestors().collect::<Vec<_>>().into_iter().rev().skip(1) {
        patterns.extend([step.with_file_name("*").display().to_string(), format!("!{}", step.display())]);
        expected.push(step.display().to_string());
    }
    let patterns: Vec<&str> = patterns.iter().map(String::as_str).collect();
    assert_eq!(paths(&[Path::new("/")], rules(&patterns), expected.len()), expected);
    Ok(())
}

#[test]
fn what_is_mounted_in_the_root_directory_is_another_file_system() -> std::io::Result<()> {
    use std::os::unix::fs::MetadataExt;
    if fs::metadata("/proc")?.dev() == fs::metadata("/")?.dev() {
        return Ok(());
    }
    let mut exclude = rules(&["/*", "!/proc"]);
    exclude.one_file_system = true;
    assert_eq!(paths(&[Path::new("/")], exclude, 1), ["/proc"]);
    Ok(())
}

#[test]
fn a_path_that_is_named_and_left_out_is_kept_and_told_of() -> std::io::Result<()> {
    let dir = tree();
    fs::write(dir.path().join("file"), "x")?;
    let root = dir.path().display().to_string();
    let look = |patterns: &[&str]| {
        let mut source = open(&[dir.path()], rules(patterns)).unwrap_or_else(|e| panic!("{e}"));
        assert!(all(&mut source).iter().any(|found| found.path.name() == b"file"));
        source.finish().unwrap_or_else(|e| panic!("{e}"))
    };
    let findings = look(&[&root]);
    assert_eq!(findings.len(), 1);
    assert!(findings[0].kind == FindingKind::Source && findings[0].message.contains(&format!("\"!{root}\"")));
    assert_eq!(look(&[&root, &format!("!{root}")]), []);
    Ok(())
}

#[test]
fn a_path_in_another_one_is_kept_where_that_ones_rules_do_not_go() -> std::io::Result<()> {
    let dir = tree();
    let at = |name: &str| dir.path().join(name);
    for name in
        ["a/file", "cache/file", "cache/keep/deep/file", "cache/keep.not/file", "marked/file", "marked/x/y/file", "z"]
    {
        fs::create_dir_all(at(name).parent().unwrap_or(dir.path()))?;
        fs::write(at(name), "x")?;
    }
    fs::write(at("marked/no"), "")?;
    std::os::unix::fs::symlink("cache", at("link"))?;
    let found = |inner: &[&str]| {
        let mut exclude = rules(&["cache/"]);
        exclude.markers = vec!["no".into()];
        let roots: Vec<PathBuf> = inner.iter().map(|name| at(name)).chain([dir.path().into()]).collect();
        let roots: Vec<&Path> = roots.iter().map(PathBuf::as_path).collect();
        let mut source = open(&roots, exclude).unwrap_or_else(|e| panic!("{e}"));
        let root = EntryPath::from_fs(dir.path()).unwrap_or_else(|e| panic!("{e}"));
        let found: Vec<EntryPath> = all(&mut source).into_iter().map(|found| found.path).collect();
        assert!(found.is_sorted_by(|a, b| a < b), "{found:?}");
        let names: Vec<String> = found.iter().filter_map(|path| Some(path.below(&root)?.to_string())).collect();
        (names, source.finish().unwrap_or_else(|e| panic!("{e}")))
    };
    let outer = ["a", "a/file", "link", "marked", "marked/no", "z"];
    assert_eq!(found(&[]), (outer.map(str::to_owned).to_vec(), Vec::new()));
    assert_eq!(found(&["a", "a/file", "", "z"]).0, outer);
    let (names, findings) = found(&["cache/keep", "marked/x/y"]);
    let expected = [
        "a",
        "a/file",
        "cache",
        "cache/keep",
        "cache/keep/deep",
        "cache/keep/deep/file",
        "link",
        "marked",
        "marked/no",
        "marked/x",
        "marked/x/y",
        "marked/x/y/file",
        "z",
    ];
    assert_eq!((names, findings), (expected.map(str::to_owned).to_vec(), Vec::new()));
    // A link on the way is not followed, and nobody is left to believe that it was.
    let (names, findings) = found(&["link/keep"]);
    assert_eq!(names, outer);
    assert!(findings.len() == 1 && findings[0].subject.ends_with("/link/keep"), "{findings:?}");
    // The link itself is told of as any other path that is one.
    let (names, findings) = found(&["link"]);
    assert_eq!(names, outer);
    assert!(findings.len() == 1 && findings[0].message.contains("in its place"), "{findings:?}");
    Ok(())
}
