// SPDX-License-Identifier: GPL-2.0-only

//! `raw`: plays bytes, right or wrong ones, and tells how the other side takes them.
//!
//! A script is a list of steps, one argument each; see [`script`](crate::script).

use crate::error::{Error, Result};
use crate::player::{Player, Side};
use crate::script::Step;
use crate::target::Target;
use crate::verbs::Listener;
use std::time::Duration;

/// Plays a script over one connection.
pub fn run(target: &Target, side: Side, timeout: Duration, steps: &[String]) -> Result<()> {
    let script: Vec<Step> = steps
        .iter()
        .map(|step| Step::from_argument(step))
        .collect::<Result<_>>()?;
    let listener = match side {
        Side::Initiator => None,
        Side::Acceptor => {
            let listener = Listener::new(&target.host, target.port)?;
            println!("listening on {} port {}", target.host, target.port);
            Some(listener)
        }
    };
    let mut player = Player::open(target, listener.as_ref(), timeout)?;
    drop(listener);
    for (index, (step, text)) in script.iter().zip(steps).enumerate() {
        let text: String = text.chars().take(80).collect();
        player
            .step(step)
            .map_err(|error| Error::Different(format!("step {} ({text}): {error}", index + 1)))?;
    }
    Ok(())
}
