// SPDX-License-Identifier: MIT OR Apache-2.0

//! Whole messages from their pieces.

use crate::connection::{ConnectionId, Token};
use crate::events::Piece;
use crate::{Error, Result};
use std::borrow::Cow;
use std::collections::HashMap;

/// A whole message.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Message<'a> {
    /// Whose.
    pub connection: ConnectionId,
    /// Borrowed if it came in one piece.
    pub payload: Cow<'a, [u8]>,
    /// Key of ours that the peer invalidated with it.
    pub invalidated: Option<Token>,
}

/// Puts pieces together, for any number of connections.
///
/// It holds at most one unfinished message per connection, and memory for no more than has arrived
/// of it (rounded up as a `Vec` grows). Tell it of each
/// [`Disconnected`](crate::Event::Disconnected) by [`forget`](Self::forget).
#[derive(Debug, Default)]
pub struct Assembler {
    unfinished: HashMap<ConnectionId, Unfinished>,
}

#[derive(Debug)]
struct Unfinished {
    payload: Vec<u8>,
    total: u32,
    invalidated: Option<Token>,
}

impl Assembler {
    /// With nothing in it.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes a piece; gives the message if it is the last one.
    ///
    /// # Errors
    ///
    /// [`Error::Malformed`] if the piece does not continue what came before; the unfinished message
    /// is dropped. It means that events were lost or reordered on the way here, as by two readers.
    pub fn push<'a>(&mut self, piece: &Piece<'a>) -> Result<Option<Message<'a>>> {
        let connection = piece.connection;
        let unfinished = self.unfinished.remove(&connection);
        if unfinished.is_none() && piece.is_whole() {
            return Ok(Some(Message {
                connection,
                payload: Cow::Borrowed(piece.payload),
                invalidated: piece.invalidated,
            }));
        }
        let mut unfinished = unfinished.unwrap_or(Unfinished {
            payload: Vec::new(),
            total: piece.total,
            invalidated: None,
        });
        if piece.total != unfinished.total || piece.offset as usize != unfinished.payload.len() {
            return Err(Error::Malformed(
                "a piece that does not continue its message",
            ));
        }
        unfinished.payload.extend_from_slice(piece.payload);
        unfinished.invalidated = unfinished.invalidated.or(piece.invalidated);
        if piece.is_last() {
            return Ok(Some(Message {
                connection,
                payload: Cow::Owned(unfinished.payload),
                invalidated: unfinished.invalidated,
            }));
        }
        self.unfinished.insert(connection, unfinished);
        Ok(None)
    }

    /// Drops what came of a connection's unfinished message.
    pub fn forget(&mut self, connection: ConnectionId) {
        self.unfinished.remove(&connection);
    }
}
