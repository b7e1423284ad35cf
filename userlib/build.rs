// SPDX-License-Identifier: MIT OR Apache-2.0

//! Gives libusmbd.so its soname: programs bind to the major version of the C API.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rustc-cdylib-link-arg=-Wl,-soname,libusmbd.so.1");
}
