//! Documents that cannot go wrong unseen: links lead somewhere, examples are valid, lists are those of the code.

use std::path::{Path, PathBuf};

use farkeep::cli::config::Config;

use crate::sources::floors;
use crate::world::{World, needs};
use crate::{Text, none, repository, texts};

fn documents() -> Vec<Text> {
    let documents: Vec<Text> = texts().into_iter().filter(|text| text.path.extension().is_some_and(|e| e == "md")).collect();
    for needed in
        ["README.md", "SECURITY.md", "src/ARCHITECTURE.md", "src/format/FORMAT.md", "src/cli/OUTPUT.md", "keys/README.md"]
    {
        assert!(
            documents.iter().any(|text| text.path == Path::new(needed) && text.content.len() > 500),
            "{needed} is missing"
        );
    }
    documents
}

/// The blocks between ``` in a document: the word behind the opening, the line above it, the lines.
pub struct Block {
    pub language: String,
    pub above: String,
    pub content: String,
}

pub fn blocks(text: &Text) -> Vec<Block> {
    let (mut found, mut open) = (Vec::new(), None::<Block>);
    let mut above = String::new();
    for line in text.content.lines() {
        match (&mut open, line.trim_start().strip_prefix("```")) {
            (Some(_), Some(_)) => found.extend(open.take()),
            (None, Some(language)) => {
                open = Some(Block { language: language.to_owned(), above: above.clone(), content: String::new() });
            }
            (Some(block), None) => block.content = format!("{}{line}\n", block.content),
            (None, None) => {}
        }
        line.clone_into(&mut above);
    }
    assert!(open.is_none(), "{}: a block is not closed", text.path.display());
    found
}

#[test]
fn links_between_documents_lead_somewhere() {
    let (mut found, mut links) = (Vec::new(), 0);
    for text in documents() {
        let folder = repository().join(text.path.parent().unwrap());
        for (number, line) in text.lines() {
            for rest in line.split("](").skip(1) {
                let target = rest.split([')', '#']).next().unwrap();
                links += 1;
                if !target.is_empty() && !target.contains("://") && !folder.join(target).exists() {
                    found.push(format!("{}: {target}", text.at(number)));
                }
            }
        }
    }
    assert!(links > 4, "only {links} links were found");
    none("links that lead nowhere", &found);
}

#[test]
fn paths_that_documents_name_are_there() {
    // What a document puts between backticks and looks like a file of the repository.
    let folders = ["src/", "tests/", "keys/", ".ci/"];
    let is_path = |word: &&str| {
        folders.iter().any(|folder| word.starts_with(folder))
            && word.chars().all(|c| c.is_ascii_alphanumeric() || "/._-".contains(c))
    };
    let mut found = Vec::new();
    for text in documents().iter().filter(|text| !text.path.ends_with("RECOVER.md") && !text.path.ends_with("FORMAT.md")) {
        for (number, line) in text.lines() {
            for word in line.split('`').skip(1).step_by(2).filter(is_path) {
                if !repository().join(word).exists() && !repository().join("src").join(word).exists() {
                    found.push(format!("{}: {word}", text.at(number)));
                }
            }
        }
    }
    none("paths that are not there", &found);
}

#[test]
fn the_map_of_the_architecture_leads_to_files() {
    let text = Text::read("src/ARCHITECTURE.md");
    let table = text.content.split("## Where things are").nth(1).unwrap();
    let rows = table.lines().filter(|line| line.starts_with("| ")).skip(1);
    let words: Vec<&str> =
        rows.filter_map(|row| row.split('|').nth(2)).flat_map(|cell| cell.split('`').skip(1).step_by(2)).collect();
    assert!(words.len() > 7, "{words:?}");
    let is_there = |word: &&&str| repository().join("src").join(word).exists() || repository().join(word).exists();
    let found: Vec<String> = words.iter().filter(|word| !is_there(word)).map(|word| (*word).to_owned()).collect();
    none("places that are not there", &found);
}

#[test]
fn the_floors_of_the_architecture_are_those_of_the_code() {
    let text = Text::read("src/ARCHITECTURE.md");
    let block = blocks(&text).into_iter().find(|block| block.content.starts_with("cli ")).unwrap();
    let mut drawn: Vec<String> =
        block.content.lines().filter_map(|line| line.split_whitespace().next()).map(str::to_owned).collect();
    drawn.reverse();
    assert_eq!(drawn, floors());
}

#[test]
fn configuration_examples_are_valid() {
    let mut examples = 0;
    for text in documents() {
        for block in blocks(&text).iter().filter(|block| block.language == "toml") {
            // An elided fingerprint is for the reader to fill in.
            let parsed = Config::parse(&block.content.replace("SHA256:...", &format!("SHA256:{}", "A".repeat(43))));
            assert!(parsed.is_ok(), "{}: {:#?}\n{}", text.path.display(), parsed.err(), block.content);
            examples += 1;
        }
    }
    assert!(examples > 0, "no example was found");
}

#[test]
fn the_table_of_configuration_keys_has_every_key() {
    // The parser names all keys of a section when it meets one that it does not know.
    let all = "x = 1\n[vault]\nx = 1\n[store.a]\nx = 1\n[job.j]\nx = 1\nkeep = { x = 1 }\n\
               [series.00112233445566778899aabbccddeeff]\nx = 1\n\
               [[job.j.source]]\nname = \"f\"\nkind = \"files\"\nx = 1\n[[job.j.source]]\nname = \"c\"\nkind = \"command\"\nx = 1\n\
               [[job.j.source]]\nname = \"m\"\nkind = \"mongodb\"\nuri_file = \"/u\"\ndatabase = \"d\"\nx = 1\n\
               [[job.j.source]]\nname = \"e\"\nkind = \"opensearch\"\nurl = \"http://h\"\nlocation = \"/r\"\nindices = [\"i\"]\nx = 1\n\
               [[job.j.source]]\nname = \"i\"\nkind = \"influxdb\"\nurl = \"http://h\"\ndatabase = \"d\"\nx = 1\n\
               [[job.j.source]]\nname = \"y\"\nkind = \"mariadb\"\ndatabase = \"d\"\nx = 1\n\
               [[job.j.source]]\nname = \"l\"\nkind = \"sqlite\"\npath = \"/p\"\nx = 1\n\
               [[job.j.source]]\nname = \"p\"\nkind = \"postgres\"\ndatabase = \"d\"\nx = 1\n\
               [[job.j.source]]\nname = \"s\"\nkind = \"spool\"\nglob = \"/b/*\"\nx = 1\n[[job.j.source]]\nname = \"g\"\nkind = \"stackgraph\"\nx = 1\n\
               [drive.d]\nx = 1\n";
    let problems = Config::parse(all).unwrap_err();
    let lists: Vec<&str> = problems.iter().filter_map(|problem| problem.split("known are ").nth(1)).collect();
    assert_eq!(lists.len(), 17, "{problems:#?}");
    let readme = Text::read("README.md");
    let table = readme.content.split("## Configuration").nth(1).unwrap().split("\n## ").next().unwrap();
    let documented: Vec<&str> =
        table.lines().filter_map(|row| row.split('|').nth(1)).flat_map(|cell| cell.split('`').skip(1).step_by(2)).collect();
    let is_section = |key: &&str| ["vault", "store", "job", "series", "source", "drive"].contains(key);
    for key in lists.iter().flat_map(|list| list.split(", ")).filter(|key| !is_section(key)) {
        assert!(documented.contains(&key), "README's table of keys lacks {key}");
    }
    let known = lists.join(", ");
    for key in documented {
        assert!(known.split(", ").any(|k| k == key), "README's table has {key}, which no section knows");
    }
}

#[test]
fn every_command_line_of_the_readme_is_understood() {
    let readme = Text::read("README.md");
    let world = World::bare();
    let mut lines = 0;
    for line in blocks(&readme).iter().flat_map(|block| block.content.lines()) {
        let line = line.split(" #").next().unwrap();
        // In schedules the program stands behind times or settings.
        let Some((_, words)) =
            line.split_once("farkeep ").filter(|(before, _)| before.is_empty() || before.ends_with("/bin/"))
        else {
            continue;
        };
        let quoted = |text: &str| text.trim_matches('"').to_owned();
        let words: Vec<String> = words
            .split_inclusive(' ')
            .fold((Vec::new(), String::new()), |(mut words, open), word| {
                let open = open + word;
                if open.matches('"').count() % 2 == 1 {
                    return (words, open);
                }
                words.extend(Some(quoted(open.trim())).filter(|word| !word.is_empty()));
                (words, String::new())
            })
            .0;
        // Without a configuration nothing is done: 2 either way, but the command line itself is not what is wrong.
        let run = world.run(words.clone());
        assert!(!run.err.contains("Usage: ") && !run.err.starts_with("error:"), "{words:?}: {}", run.err);
        assert_eq!(run.code, 2, "{words:?}: {}{}", run.out, run.err);
        lines += 1;
    }
    assert!(lines > 15, "only {lines} command lines were found");
}

#[test]
fn the_map_of_the_tests_has_every_directory_and_every_story() {
    let page = Text::read("tests/README.md").content;
    let rows: Vec<&str> = page.lines().filter_map(|line| line.strip_prefix("| `")?.split('`').next()).collect();
    let entries = |dir: &str| -> Vec<PathBuf> {
        std::fs::read_dir(repository().join(dir)).unwrap().map(|entry| entry.unwrap().path()).collect()
    };
    let name = |path: &PathBuf| path.file_name().unwrap().to_string_lossy().into_owned();
    let directories = entries("tests").into_iter().filter(|path| path.is_dir()).map(|path| format!("{}/", name(&path)));
    let stories = entries("tests/stories").into_iter().map(|path| name(&path)).filter(|name| name != "main.rs");
    let missing: Vec<String> = directories.chain(stories).filter(|name| !rows.contains(&name.as_str())).collect();
    none("tests that tests/README.md does not name", &missing);
}

#[test]
fn the_recovery_script_is_short_and_stands_alone() {
    needs!("python3");
    let script = Text::read("src/format/recover.py");
    assert!(script.content.lines().count() < 300, "{} lines", script.content.lines().count());
    assert!(script.content.lines().all(|line| line.chars().count() <= 125), "a line is too long to be read");
    let list = "import ast, sys\nfor node in ast.walk(ast.parse(open(sys.argv[1]).read())):\n    \
                if isinstance(node, (ast.Import, ast.ImportFrom)):\n        \
                for n in (node.names if isinstance(node, ast.Import) else [ast.alias(node.module)]):\n            \
                print(n.name, n.name.split('.')[0] in sys.stdlib_module_names)";
    let path = repository().join(&script.path);
    let printed = crate::world::tools::must(std::process::Command::new("python3").args(["-c", list]).arg(path));
    assert!(
        printed.lines().count() > 5 && printed.lines().all(|line| line.ends_with(" True")),
        "not of the standard library: {printed}"
    );
}

#[test]
fn the_recovery_page_names_its_script_and_its_programs() {
    let page = Text::read("src/format/RECOVER.md");
    assert!(page.content.lines().count() <= 90, "a page that is read in distress is short");
    for word in ["recover.py", "age", "zstd", "b3sum", "python3", "--identity FILE --into DIR"] {
        assert!(page.content.contains(word), "{word}");
    }
}

#[test]
fn public_keys_of_recipients_have_an_owner_and_a_date() {
    let files: Vec<PathBuf> = crate::world::files_below(&repository().join("keys"));
    for path in files.iter().filter(|path| path.extension().is_some_and(|e| e == "txt")) {
        let text = std::fs::read_to_string(path).unwrap();
        for word in ["# owner: ", "# date: ", "\nage1"] {
            assert!(text.contains(word), "{}: {word:?} is missing", path.display());
        }
    }
    let others = files.iter().filter(|path| !path.extension().is_some_and(|e| e == "txt" || e == "md"));
    assert_eq!(others.filter(|path| !path.ends_with(".gitkeep")).count(), 0, "{files:?}");
}
