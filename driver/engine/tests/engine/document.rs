// SPDX-License-Identifier: GPL-2.0-only

//! `docs/protocol.md` says where each rule stands and what proves it. It must not
//! name what is not there, nor leave out a rule.

use std::fs;
use std::path::{Path, PathBuf};

fn top() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn rust_files(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files.extend(rust_files(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    files
}

/// Whether `source` defines `name`.
fn defines(source: &str, name: &str) -> bool {
    ["fn ", "struct ", "enum "].iter().any(|keyword| {
        source
            .match_indices(&format!("{keyword}{name}"))
            .any(|(at, found)| {
                let behind = source[at + found.len()..].chars().next();
                !behind.is_some_and(|c| c.is_alphanumeric() || c == '_')
            })
    })
}

/// What stands between backticks.
fn code(text: &str) -> impl Iterator<Item = &str> {
    text.split('`').skip(1).step_by(2)
}

/// The cells of each row of each table whose last column tells what proves it.
fn rows(page: &str) -> Vec<Vec<&str>> {
    let mut rows = Vec::new();
    let mut inside = false;
    for line in page.lines() {
        if !line.starts_with('|') {
            inside = false;
            continue;
        }
        let cells: Vec<_> = line.trim_matches('|').split('|').map(str::trim).collect();
        if cells.last() == Some(&"proved by") {
            inside = true;
        } else if inside && !line.starts_with("|---") {
            rows.push(cells);
        }
    }
    rows
}

#[test]
fn every_function_and_test_named_here_exists() {
    let page = read(&top().join("docs/protocol.md"));
    let tests: String = rust_files(&top().join("driver/engine/tests"))
        .iter()
        .map(|path| read(path))
        .collect();
    let mut missing = Vec::new();
    for name in code(&page) {
        if let Some((file, function)) = name.split_once(".rs:") {
            let folder = if file.starts_with("driver/") {
                ""
            } else {
                "driver/engine/src"
            };
            let path = top().join(folder).join(format!("{file}.rs"));
            if !path.is_file() || !defines(&read(&path), function) {
                missing.push(name);
            }
        }
    }
    for row in rows(&page) {
        let proofs: Vec<_> = code(row.last().unwrap()).collect();
        if proofs.is_empty() && !row.last().unwrap().starts_with("rows ") {
            missing.push(row[0]);
        }
        for name in proofs {
            let found = if name.contains('/') {
                top().join(name).is_file()
            } else {
                tests.contains(&format!("#[test]\nfn {name}()"))
                    || tests.contains(&format!("#[test]\n    fn {name}("))
            };
            if !found {
                missing.push(name);
            }
        }
    }
    assert_eq!(missing, Vec::<&str>::new(), "named in docs/protocol.md");
}

#[test]
fn every_row_has_its_place_and_a_test_of_its_name() {
    let page = read(&top().join("docs/protocol.md"));
    let rows = rows(&page);
    let wanted = [("P", 8), ("A", 8), ("D", 9), ("X", 4)];
    for (letter, count) in wanted {
        for number in 1..=count {
            let id = format!("{letter}{number}");
            let found: Vec<_> = rows.iter().filter(|row| row[0] == id).collect();
            assert_eq!(found.len(), 1, "row {id}");
            let prefix = format!("{}_", id.to_lowercase());
            let named = code(found[0].last().unwrap()).any(|test| test.starts_with(&prefix));
            assert!(named, "row {id} has no test {prefix}...");
        }
    }
}

#[test]
fn every_section_that_the_engine_cites_has_its_place() {
    let page = read(&top().join("docs/protocol.md"));
    let rows = rows(&page);
    for path in rust_files(&top().join("driver/engine/src")) {
        let source = read(&path).replace("//!", "").replace("///", "");
        let words: Vec<_> = source.split_whitespace().collect();
        for pair in words
            .windows(2)
            .filter(|pair| pair[0].ends_with("[MS-SMBD]"))
        {
            let section = pair[1].trim_matches(|c: char| !c.is_ascii_digit());
            if section.is_empty() || section == "2.2" {
                continue;
            }
            let found = rows.iter().any(|row| row[0] == section);
            assert!(found, "{section}, cited in {}", path.display());
        }
    }
}
