// SPDX-License-Identifier: MIT OR Apache-2.0

//! What the operator says in the environment, and whether this process is meant at all.
//!
//! | variable | default | meaning |
//! |---|---|---|
//! | `USMBD_PRELOAD_PORT` | 5445 | the port in smb.conf (`smb ports`) that stands for SMB Direct; 0: none |
//! | `USMBD_PRELOAD_RDMA_PORT` | 445 | listened on on InfiniBand and RoCE |
//! | `USMBD_PRELOAD_IWARP_PORT` | 5445 | listened on on iWARP |
//! | `USMBD_PRELOAD_PROGRAM` | smbd | the programs that are meant, with commas between; every other one stays as it is |
//! | `USMBD_PRELOAD_CONNECT` | | addresses and prefixes, with commas between: what such a program connects to there, by TCP port 445 or 5445, it reaches by SMB Direct |
//! | `USMBD_PRELOAD_LOG` | info | off, error, info or debug (a line for every request by RDMA) |
//! | `USMBD_PRELOAD_LOG_TO` | | stderr, syslog or a file; else stderr if it leads anywhere, or syslog |
//! | `USMBD_PRELOAD_DEVICE` | /dev/usmbd | the device node |

use crate::network::Network;
use std::ffi::{OsStr, OsString};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;

/// How much is logged.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Level {
    Off,
    Error,
    Info,
    Debug,
}

/// Where it is logged.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Destination {
    /// Standard error if it leads anywhere, else syslog.
    Automatic,
    Stderr,
    Syslog,
    File(PathBuf),
}

/// The settings.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Config {
    /// A bind() to this TCP port is what we wait for; 0: to none.
    pub port: u16,
    pub rdma_port: u16,
    pub iwarp_port: u16,
    pub programs: Vec<String>,
    /// A connect() to one of these is what we wait for, too.
    pub connect: Vec<Network>,
    pub level: Level,
    pub destination: Destination,
    pub device: PathBuf,
    /// What could not be understood; told at the first occasion.
    pub complaints: Vec<String>,
}

impl Config {
    /// Reads the settings by `get`, which looks a variable up.
    pub fn read(get: impl Fn(&str) -> Option<OsString>) -> Self {
        let mut complaints = Vec::new();
        let mut port = |name: &str, default: u16| number(name, get(name), default, &mut complaints);
        let (trigger, rdma_port, iwarp_port) = (
            port("USMBD_PRELOAD_PORT", 5445),
            port("USMBD_PRELOAD_RDMA_PORT", 445),
            port("USMBD_PRELOAD_IWARP_PORT", 5445),
        );
        let level = match get("USMBD_PRELOAD_LOG")
            .as_deref()
            .map(OsStr::to_string_lossy)
        {
            None => Level::Info,
            Some(text) => match &*text {
                "off" => Level::Off,
                "error" => Level::Error,
                "info" | "" => Level::Info,
                "debug" => Level::Debug,
                _ => {
                    complaints.push(format!(
                        "USMBD_PRELOAD_LOG={text} is none of off, error, info, debug; using info"
                    ));
                    Level::Info
                }
            },
        };
        let mut connect = Vec::new();
        for entry in list(get("USMBD_PRELOAD_CONNECT").unwrap_or_default()) {
            match entry.parse() {
                Ok(network) => connect.push(network),
                Err(_) => complaints.push(format!(
                    "USMBD_PRELOAD_CONNECT: {entry} is neither an address nor a prefix"
                )),
            }
        }
        let destination = match get("USMBD_PRELOAD_LOG_TO") {
            None => Destination::Automatic,
            Some(to) if to == "stderr" => Destination::Stderr,
            Some(to) if to == "syslog" => Destination::Syslog,
            Some(to) if to.is_empty() => Destination::Automatic,
            Some(to) => Destination::File(to.into()),
        };
        Self {
            port: trigger,
            rdma_port,
            iwarp_port,
            programs: list(get("USMBD_PRELOAD_PROGRAM").unwrap_or_else(|| "smbd".into())),
            connect,
            level,
            destination,
            device: get("USMBD_PRELOAD_DEVICE")
                .unwrap_or_else(|| usmbd::DEVICE_PATH.into())
                .into(),
            complaints,
        }
    }

    /// Whether a process of this program name shall have SMB Direct.
    pub fn is_meant(&self, program: &OsStr) -> bool {
        let waits = self.port != 0 || !self.connect.is_empty();
        waits && self.programs.iter().any(|name| program == name.as_str())
    }

    /// Whether a bind() to this address is what we wait for. Port 0, which asks for any port, never is.
    pub fn is_bound_to(&self, to: SocketAddr) -> bool {
        self.port != 0 && to.port() == self.port
    }

    /// Whether a connect() to this address shall be by SMB Direct.
    pub fn is_connected_to(&self, to: SocketAddr) -> bool {
        CONNECT_PORTS.contains(&to.port())
            && self.connect.iter().any(|network| network.contains(to.ip()))
    }
}

/// The ports of SMB: over TCP, and over SMB Direct on iWARP.
const CONNECT_PORTS: [u16; 2] = [445, 5445];

/// What stands between commas.
fn list(text: OsString) -> Vec<String> {
    let text = text.to_string_lossy();
    let entries = text.split(',').map(str::trim);
    entries
        .filter(|entry| !entry.is_empty())
        .map(str::to_owned)
        .collect()
}

fn number<T: FromStr + Copy + std::fmt::Display>(
    name: &str,
    value: Option<OsString>,
    default: T,
    complaints: &mut Vec<String>,
) -> T {
    let Some(value) = value else {
        return default;
    };
    let text = value.to_string_lossy();
    text.trim().parse().unwrap_or_else(|_| {
        complaints.push(format!("{name}={text} is not a port; using {default}"));
        default
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(variables: &[(&str, &str)]) -> Config {
        Config::read(|name| {
            let found = variables.iter().find(|(known, _)| *known == name);
            found.map(|(_, value)| value.into())
        })
    }

    #[test]
    fn only_the_program_named_is_meant() {
        let config = read(&[]);
        assert!(config.is_meant("smbd".as_ref()));
        for other in [
            "",
            "winbindd",
            "smbd2",
            "rpcd_classic",
            "samba-dcerpcd",
            "sh",
        ] {
            assert!(!config.is_meant(other.as_ref()), "{other}");
        }
        assert!(!read(&[("USMBD_PRELOAD_PORT", "0")]).is_meant("smbd".as_ref()));
        assert!(read(&[("USMBD_PRELOAD_PROGRAM", "x")]).is_meant("x".as_ref()));
        let two = read(&[("USMBD_PRELOAD_PROGRAM", "smbclient, smbtorture")]);
        assert!(two.is_meant("smbclient".as_ref()) && two.is_meant("smbtorture".as_ref()));
        assert!(!two.is_meant("smbd".as_ref()) && !two.is_meant("".as_ref()));
    }

    #[test]
    fn only_connections_that_are_named_are_taken() {
        let is_taken = |config: &Config, to: &str| config.is_connected_to(to.parse().unwrap());
        let config = read(&[
            ("USMBD_PRELOAD_PORT", "0"),
            ("USMBD_PRELOAD_CONNECT", "10.9.0.1,fd00:9::/32, here"),
        ]);
        assert!(config.is_meant("smbd".as_ref()));
        assert_eq!(config.complaints.len(), 1);
        assert!(is_taken(&config, "10.9.0.1:445") && is_taken(&config, "[fd00:9:1::1]:5445"));
        assert!(!is_taken(&config, "10.9.0.1:139") && !is_taken(&config, "10.9.0.2:445"));
        assert!(!is_taken(&read(&[]), "10.9.0.1:445"));
    }

    #[test]
    fn only_the_port_named_is_taken() {
        let is_taken = |config: &Config, to: &str| config.is_bound_to(to.parse().unwrap());
        let config = read(&[]);
        assert!(is_taken(&config, "0.0.0.0:5445") && is_taken(&config, "[::1]:5445"));
        assert!(!is_taken(&config, "0.0.0.0:445") && !is_taken(&config, "0.0.0.0:0"));
        // Who only connects binds to any port, too.
        let config = read(&[
            ("USMBD_PRELOAD_PORT", "0"),
            ("USMBD_PRELOAD_CONNECT", "10.9.0.1"),
        ]);
        assert!(config.is_meant("smbd".as_ref()));
        assert!(!is_taken(&config, "0.0.0.0:0"));
    }

    #[test]
    fn what_is_not_understood_is_said_and_the_default_taken() {
        let config = read(&[
            ("USMBD_PRELOAD_PORT", "70000"),
            ("USMBD_PRELOAD_RDMA_PORT", " 4450 "),
            ("USMBD_PRELOAD_LOG", "loud"),
            ("USMBD_PRELOAD_LOG_TO", "/run/log"),
        ]);
        assert_eq!((config.port, config.rdma_port), (5445, 4450));
        assert_eq!(config.level, Level::Info);
        assert_eq!(config.complaints.len(), 2);
        assert_eq!(config.destination, Destination::File("/run/log".into()));
    }
}
