// SPDX-License-Identifier: GPL-2.0-only

//! What was done so far, in all runs that kept their sum in the same file.

use std::collections::BTreeMap;
use std::io::Result;
use std::path::Path;
use std::sync::Mutex;
use usmbd_abi::command::COMMANDS;

/// Counters by name.
#[derive(Default)]
pub struct Sum(Mutex<BTreeMap<String, u64>>);

impl Sum {
    pub fn add(&self, name: &str, count: u64) {
        let mut counters = self.0.lock().unwrap();
        match counters.get_mut(name) {
            Some(value) => *value += count,
            None => {
                counters.insert(name.into(), count);
            }
        }
    }

    pub fn get(&self, name: &str) -> u64 {
        self.0.lock().unwrap().get(name).copied().unwrap_or(0)
    }

    /// Adds what stands in a file, if there is one.
    pub fn load(&self, path: &Path) {
        for line in std::fs::read_to_string(path).unwrap_or_default().lines() {
            if let Some((name, value)) = line.rsplit_once(' ') {
                self.add(name, value.parse().unwrap_or(0));
            }
        }
    }

    pub fn store(&self, path: &Path) -> Result<()> {
        let counters = self.0.lock().unwrap();
        let lines = counters
            .iter()
            .map(|(name, value)| format!("{name} {value}\n"));
        std::fs::write(path, lines.collect::<String>())
    }

    /// The report: shares, and how often each command was accepted.
    pub fn report(&self) -> String {
        let (offered, accepted) = (self.get("offered"), self.get("accepted"));
        let mut text = format!(
            "{} batches; {offered} records offered, {accepted} accepted ({} %)\n",
            self.get("batches"),
            accepted * 100 / offered.max(1),
        );
        let least = COMMANDS
            .iter()
            .map(|entry| self.get(&format!("accepted {}", entry.name)))
            .min();
        text += &format!(
            "each command accepted {} times at least\n",
            least.unwrap_or(0)
        );
        for (name, value) in self.0.lock().unwrap().iter() {
            text += &format!("  {name}: {value}\n");
        }
        text
    }
}
