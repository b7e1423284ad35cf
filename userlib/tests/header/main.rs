// SPDX-License-Identifier: MIT OR Apache-2.0

//! `include/usmbd.h` against the crates: every struct, field and constant; what libusmbd.so exports;
//! and that a C program works with it. Needs `cc` and binutils, as building the driver does.

mod names;

use std::collections::BTreeSet;
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

fn include_path() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("include")
}

/// A directory of this test run's own.
fn scratch(name: &str) -> PathBuf {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    std::fs::create_dir_all(&path).unwrap();
    path
}

fn cc(directory: &Path, source: &str, arguments: &[&str]) {
    let path = directory.join("test.c");
    std::fs::write(&path, source).unwrap();
    let output = Command::new("cc")
        .args([
            "-std=gnu11",
            "-Wall",
            "-Wextra",
            "-Wpedantic",
            "-Werror",
            "-I",
        ])
        .arg(include_path())
        .arg(&path)
        .args(arguments)
        .output()
        .expect("cc runs");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
}

#[test]
fn structs_and_constants_are_those_of_the_crate() {
    let header = std::fs::read_to_string(include_path().join("usmbd.h")).unwrap();
    let defined = header
        .lines()
        .filter(|line| line.starts_with("#define USMBD_") && !line.ends_with("_H"))
        .count();
    let constants = names::constants();
    assert_eq!(
        defined,
        constants.len(),
        "every constant of the header is compared"
    );
    let mut source = String::from("#include <usmbd.h>\n#define CHECK(x) _Static_assert(x, #x)\n");
    source.push_str(&names::layouts());
    for (name, value) in constants {
        writeln!(source, "CHECK({name} == {value}ull);").unwrap();
    }
    cc(&scratch("layouts"), &source, &["-fsyntax-only"]);
}

/// The C API's functions, as the crate has them.
fn functions() -> BTreeSet<String> {
    const MARK: &str = "extern \"C\" fn ";
    [
        include_str!("../../src/capi.rs"),
        include_str!("../../src/capi/commands.rs"),
    ]
    .iter()
    .flat_map(|text| text.split(MARK).skip(1))
    .filter_map(|rest| rest.split_once('('))
    .map(|(name, _)| name.to_owned())
    .collect()
}

#[test]
fn every_function_is_declared() {
    let declared: BTreeSet<String> = include_str!("../../include/usmbd.h")
        .lines()
        .filter(|line| !line.starts_with([' ', '\t', '/', '#']))
        .filter_map(|line| line.split_once('('))
        .filter_map(|(before, _)| before.rsplit([' ', '*']).next())
        .filter(|name| name.starts_with("usmbd_"))
        .map(str::to_owned)
        .collect();
    assert_eq!(declared, functions());
}

/// Makes libusmbd.so, and the name by which programs find it, in this directory.
fn library(directory: &Path) -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let archives = std::fs::read_dir(test.parent().unwrap()).unwrap();
    let newest = archives
        .map(|entry| entry.unwrap().path())
        .filter(|path| {
            let name = path.file_name().unwrap().to_string_lossy();
            name.starts_with("libusmbd-") && name.ends_with(".a")
        })
        .max_by_key(|path| path.metadata().unwrap().modified().unwrap())
        .expect("cargo made the static library");
    let status = Command::new(Path::new(env!("CARGO_MANIFEST_DIR")).join("link.sh"))
        .args([&newest, directory])
        .status()
        .unwrap();
    assert!(status.success());
    directory.join("libusmbd.so")
}

fn output(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output().unwrap();
    assert!(output.status.success(), "{program} {arguments:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// Whoever links against the library asks for these versions, so they must never go.
#[test]
fn the_library_exports_versioned_functions_and_nothing_else() {
    let library = library(&scratch("exports"));
    let library = library.to_str().unwrap();
    let symbols = output("nm", &["-D", "--defined-only", library]);
    let exported: BTreeSet<String> = symbols
        .lines()
        .filter_map(|line| line.split(' ').nth(2))
        .filter(|name| *name != "USMBD_1.0")
        .map(str::to_owned)
        .collect();
    let wanted: BTreeSet<String> = functions()
        .iter()
        .map(|name| format!("{name}@@USMBD_1.0"))
        .collect();
    assert_eq!(exported, wanted);
    let dynamic = output("readelf", &["-d", library]);
    assert!(dynamic.contains("Library soname: [libusmbd.so.1]"));
}

#[test]
fn a_c_program_works_with_the_shared_library() {
    let directory = scratch("program");
    let library = library(&directory);
    let program = directory.join("program");
    cc(
        &directory,
        include_str!("program.c"),
        &[library.to_str().unwrap(), "-o", program.to_str().unwrap()],
    );
    // It asks for libusmbd.so.1, which is the soname, and finds nothing else here.
    let output = Command::new(program)
        .env("LD_LIBRARY_PATH", &directory)
        .output()
        .unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
}
