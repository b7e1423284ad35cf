// SPDX-License-Identifier: GPL-2.0-only

//! `vectors`: plays what stands in `tests/peer/vectors/`, one connection each, and tells the verdict
//! of each in a line.
//!
//! A file has groups. A line at the margin that begins with `group` names one, and what the other
//! side's upper layer is to be told, if anything; each other line at the margin is a vector's name
//! and its meaning, and the indented ones below it are its steps, see [`script`](crate::script).
//! `#` begins a comment.

use crate::error::{Error, Result};
use crate::player::{Player, Side};
use crate::script::Step;
use crate::target::Target;
use crate::verbs::Listener;
use std::time::Duration;

/// How long what has to come at once may take.
const PROMPTLY: Duration = Duration::from_secs(3);
/// How long an initiator on siw has for its request, and in how many connections; see `Vector::play`.
const SIW_REQUEST: Duration = Duration::from_secs(4);
const SIW_ATTEMPTS: u32 = 5;

const FILES: [&str; 7] = [
    include_str!("../vectors/negotiate-requests.txt"),
    include_str!("../vectors/negotiate-responses.txt"),
    include_str!("../vectors/data-transfers.txt"),
    include_str!("../vectors/sequences.txt"),
    include_str!("../vectors/credits-and-timers.txt"),
    include_str!("../vectors/transfers.txt"),
    include_str!("../vectors/private-data.txt"),
];

/// Vectors under the same conditions.
#[derive(Debug)]
pub struct Group {
    pub name: &'static str,
    /// What the upper layer of the other side is to be told.
    pub conditions: &'static str,
    vectors: Vec<Vector>,
}

#[derive(Debug)]
struct Vector {
    name: &'static str,
    meaning: &'static str,
    steps: Vec<(&'static str, Step)>,
}

/// All groups, in the order in which they stand in the files.
pub fn groups() -> Result<Vec<Group>> {
    let mut groups = Vec::new();
    for file in FILES {
        parse(file, &mut groups)?;
    }
    Ok(groups)
}

fn parse(file: &'static str, groups: &mut Vec<Group>) -> Result<()> {
    for line in file.lines() {
        let text = line.split('#').next().unwrap_or("").trim_end();
        if text.is_empty() {
            continue;
        }
        let (first, rest) = text.split_once(' ').unwrap_or((text, ""));
        let misplaced = || Error::Different(format!("out of place: {text:?}"));
        if first == "group" {
            let (name, conditions) = rest.split_once(' ').unwrap_or((rest, ""));
            groups.push(Group {
                name,
                conditions: conditions.trim(),
                vectors: Vec::new(),
            });
            continue;
        }
        let group = groups.last_mut().ok_or_else(misplaced)?;
        if !first.is_empty() {
            group.vectors.push(Vector {
                name: first,
                meaning: rest.trim(),
                steps: Vec::new(),
            });
            continue;
        }
        let vector = group.vectors.last_mut().ok_or_else(misplaced)?;
        vector.steps.push((text.trim(), Step::from_line(text)?));
    }
    Ok(())
}

/// What to play, and how patiently.
pub struct Play {
    pub side: Side,
    pub group: String,
    /// Only these vectors; all if there are none.
    pub only: Vec<String>,
    pub timeout: Duration,
    /// By how much this machine is slower than what the vectors' times are meant for.
    pub slowness: u32,
}

/// Plays a group; returns how many passed and how many failed.
pub fn run(target: &Target, play: &Play) -> Result<(u32, u32)> {
    let groups = groups()?;
    let group = groups.iter().find(|group| group.name == play.group);
    let group = group.ok_or_else(|| Error::Different(format!("no such group: {}", play.group)))?;
    let listener = match play.side {
        Side::Initiator => None,
        Side::Acceptor => Some(Listener::new(&target.host, target.port)?),
    };
    println!("playing {}", group.name);
    let (mut passed, mut failed) = (0, 0);
    for vector in &group.vectors {
        if !play.only.is_empty() && !play.only.iter().any(|name| name == vector.name) {
            continue;
        }
        match vector.play(target, listener.as_ref(), play) {
            Ok(notes) => {
                passed += 1;
                println!("PASS {} {}: {notes}", vector.name, vector.meaning);
            }
            Err(error) => {
                failed += 1;
                println!("FAIL {} {}: {error}", vector.name, vector.meaning);
            }
        }
    }
    Ok((passed, failed))
}

impl Vector {
    /// Plays it; what was seen.
    ///
    /// siw_accept() (drivers/infiniband/sw/siw/siw_cm.c) answers the initiator before it has the socket's
    /// data go to the queue pair. What the initiator sends in between stays in the socket until more
    /// comes, and none does. So an acceptor on siw now and then gets no request, and takes the next
    /// connection.
    fn play(&self, target: &Target, listener: Option<&Listener>, play: &Play) -> Result<String> {
        let mut attempts = 0;
        loop {
            let player = Player::open(target, listener, play.timeout)?;
            let mut player = player.promptly(PROMPTLY, play.slowness);
            attempts += 1;
            let mut steps = self.steps.iter().peekable();
            while let Some(step) = steps.next_if(|(_, step)| player.is_about_connecting(step)) {
                take(&mut player, step)?;
            }
            if listener.is_some()
                && player.is_iwarp()
                && attempts < SIW_ATTEMPTS
                && !player.has_message(SIW_REQUEST * play.slowness)?
            {
                continue;
            }
            steps.try_for_each(|step| take(&mut player, step))?;
            return Ok(player.notes().join(", "));
        }
    }
}

/// Plays a step; an error says which.
fn take(player: &mut Player, (text, step): &(&'static str, Step)) -> Result<()> {
    player.step(step).map_err(|error| {
        let text: String = text.chars().take(60).collect();
        Error::Different(format!("{text}: {error}"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn every_vector_can_be_played_and_ends_somehow() {
        let groups = groups().unwrap();
        let mut names = HashSet::new();
        for group in &groups {
            assert!(!group.vectors.is_empty(), "{}", group.name);
            for vector in &group.vectors {
                assert!(names.insert(vector.name), "twice: {}", vector.name);
                assert!(!vector.meaning.is_empty(), "{}", vector.name);
                let last = vector.steps.last().map(|(_, step)| step);
                assert!(
                    matches!(last, Some(Step::End(..) | Step::Leave | Step::Refused)),
                    "{} leaves its connection behind",
                    vector.name
                );
            }
        }
    }

    #[test]
    fn what_is_out_of_place_is_told() {
        assert!(parse("N01 a vector", &mut Vec::new()).is_err());
        assert!(parse("group g\n  leave", &mut Vec::new()).is_err());
        assert!(parse("group g\nN01 a vector\n  stay", &mut Vec::new()).is_err());
    }
}
