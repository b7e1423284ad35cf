// SPDX-License-Identifier: MIT OR Apache-2.0

//! What smbd reads.

use super::{errno, Connection, Incoming, Pumped, Side};
use crate::device::Device;
use std::io::{self, IoSliceMut};
use usmbd::{Interest, Piece};

impl<D: Device> Connection<D> {
    /// Gives smbd as many bytes of the next message as there are and it asks for; never of two
    /// messages at once. Zero at the end.
    ///
    /// # Errors
    ///
    /// `EAGAIN` if there are none and `wait` is false; `EINTR` if a signal came, and where a client
    /// came for an event that brought none.
    pub fn receive(&mut self, to: &mut [IoSliceMut<'_>], wait: bool) -> io::Result<usize> {
        if to.iter().all(|room| room.is_empty()) {
            return Ok(0);
        }
        let mut is_drained = false;
        let mut has_read = false;
        loop {
            if self.incoming.front().is_some_and(Incoming::is_ready) {
                return Ok(self.deliver(to));
            }
            if self.ended.is_some() {
                return Ok(0);
            }
            if is_drained && !wait {
                // A client that was called for nothing would give up at EAGAIN.
                return Err(errno(match self.side() {
                    Side::Client if has_read => libc::EINTR,
                    _ => libc::EAGAIN,
                }));
            }
            match self.pump()? {
                Pumped::Event { more } => {
                    has_read = true;
                    is_drained = !more;
                }
                Pumped::Nothing if wait => {
                    self.settle();
                    self.device
                        .wait(Interest::Readable, None)
                        .map_err(|error| errno(error.errno()))?;
                }
                Pumped::Nothing => is_drained = true,
            }
        }
    }

    /// Whether part of a message was given, and the rest is there.
    pub fn is_inside(&self) -> bool {
        self.delivered != 0
    }

    /// From the first message, which is ready.
    fn deliver(&mut self, to: &mut [IoSliceMut<'_>]) -> usize {
        let Some(message) = self.incoming.front() else {
            return 0;
        };
        let copied = message.copy(self.delivered, to);
        self.delivered += copied;
        if self.delivered == message.stream_length() {
            self.delivered = 0;
            self.held -= message.size();
            self.incoming.pop_front();
            // Its room is free again.
            self.is_blocked = false;
            self.start_fetches();
        }
        copied
    }

    pub(super) fn take_piece(&mut self, piece: &Piece<'_>) {
        if self.is_ending {
            return;
        }
        if piece.total as usize > crate::smb2::MAX_MESSAGE_LENGTH {
            return self.fail("a message of more than 16 MiB");
        }
        if self.side() == Side::Client {
            self.counters.messages_in += u64::from(piece.is_last());
            return self.hold(Incoming::piece(piece));
        }
        if piece.offset as usize != self.assembling.len() {
            return self.fail("the device left out a piece of a message");
        }
        if self.assembling.is_empty() {
            self.assembling.reserve_exact(piece.total as usize);
        }
        self.assembling.extend_from_slice(piece.payload);
        if piece.is_last() {
            let message = std::mem::take(&mut self.assembling);
            self.take_message(message);
        }
    }
}
