// SPDX-License-Identifier: MIT OR Apache-2.0

//! `libusmbd_preload.so` gives an unmodified smbd SMB Direct, and unmodified clients too.
//!
//! ```sh
//! LD_PRELOAD=libusmbd_preload.so smbd     # with "smb ports = 445 5445" in smb.conf
//! ```
//!
//! smbd calls bind() for port 5445: a context of `/dev/usmbd` that listens takes the place of the
//! socket ([`listener`]). accept() gives descriptors of contexts with one connection each, and for these
//! the calls that smbd makes on sockets are answered here ([`hooks`]): it reads and writes its stream
//! of messages ([`connection`]), and READ and WRITE with an RDMA channel become RDMA writes and
//! reads ([`rewrite`]). smbd knows nothing of all this.
//!
//! A client like smbclient needs to be told about: its name, and the addresses that it shall connect
//! to by SMB Direct. Then a context that connects takes the place of its socket ([`connector`]); its
//! requests go as they are, since it asks for no RDMA.
//!
//! ```sh
//! USMBD_PRELOAD_PROGRAM=smbclient USMBD_PRELOAD_CONNECT=10.9.0.0/24 \\
//!     LD_PRELOAD=libusmbd_preload.so smbclient //10.9.0.1/share
//! ```
//!
//! In every other program that inherits LD_PRELOAD nothing happens ([`config`]). `docs/preload.md` says
//! what the calls answer and why.

pub mod address;
pub mod config;
pub mod connection;
pub mod connector;
pub mod device;
#[cfg(not(test))]
pub mod hooks;
pub mod listener;
pub mod log;
pub mod network;
pub mod process;
pub mod real;
pub mod rewrite;
pub mod smb2;
pub mod table;
