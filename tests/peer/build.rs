// SPDX-License-Identifier: GPL-2.0-only

//! Compiles the shim over rdma-core, whose fast path is inline functions.

fn main() {
    println!("cargo::rerun-if-changed=src/shim.c");
    println!("cargo::rerun-if-changed=src/shim.h");
    cc::Build::new()
        .file("src/shim.c")
        .warnings(true)
        .extra_warnings(true)
        .compile("usmbd_peer_shim");
    println!("cargo::rustc-link-lib=rdmacm");
    println!("cargo::rustc-link-lib=ibverbs");
}
