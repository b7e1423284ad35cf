// SPDX-License-Identifier: GPL-2.0-only

//! The peer is another implementation: it must share no code with what it tests.

use std::process::Command;

#[test]
fn depends_on_none_of_our_crates() {
    let output = Command::new(env!("CARGO"))
        .args([
            "tree",
            "--offline",
            "--package",
            "usmbd-peer",
            "--edges",
            "all",
            "--prefix",
            "none",
        ])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .expect("cargo runs");
    let tree = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let ours: Vec<_> = tree
        .lines()
        .filter(|line| line.starts_with("usmbd"))
        .collect();
    assert!(
        !ours.is_empty() && ours.iter().all(|line| line.starts_with("usmbd-peer ")),
        "{tree}"
    );
}
