// SPDX-License-Identifier: GPL-2.0-only

//! Where to connect to, and with what.

use crate::error::Result;
use crate::verbs::Endpoint;
use std::time::Duration;

/// Our side's parameters.
#[derive(Clone, Copy, Debug)]
pub struct Parameters {
    /// Receives that we post, and credits that we ask for.
    pub credits: u16,
    pub max_send_size: u32,
    pub max_receive_size: u32,
    pub max_fragmented_size: u32,
    /// Bound of every single wait.
    pub timeout: Duration,
}

/// Where to connect to.
#[derive(Clone, Debug)]
pub struct Target {
    pub host: String,
    pub source: Option<String>,
    /// Zero: 445, or 5445 on iWARP.
    pub port: u16,
}

/// Resolves `target`, and the port that its fabric has.
pub fn open(target: &Target, timeout: Duration) -> Result<Endpoint> {
    let source = target.source.as_deref();
    let port = if target.port == 0 { 445 } else { target.port };
    let endpoint = Endpoint::open(&target.host, port, source, timeout)?;
    if target.port == 0 && endpoint.is_iwarp() {
        return Endpoint::open(&target.host, 5445, source, timeout);
    }
    Ok(endpoint)
}

/// cifs.ko's private data: IRD and ORD for peers that know MPA v1 only.
pub fn private_data(endpoint: &Endpoint) -> Vec<u8> {
    if !endpoint.is_iwarp() {
        return Vec::new();
    }
    let ird = endpoint.responder_resources();
    [ird.to_be_bytes(), 1u32.to_be_bytes()].concat()
}
