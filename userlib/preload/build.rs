// SPDX-License-Identifier: MIT OR Apache-2.0

//! Keeps the C API of the library below out of what this one exports: every program that inherits
//! it would see it.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rustc-cdylib-link-arg=-Wl,--exclude-libs,ALL");
}
