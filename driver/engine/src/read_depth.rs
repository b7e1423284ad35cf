// SPDX-License-Identifier: GPL-2.0-only

//! How many RDMA reads may be under way, ORD and IRD, and the private data in
//! which iWARP peers tell them, [MS-SMBD] appendix A.
//!
//! The header of appendix A is from before MPA version 2, which carries both
//! numbers by itself. A peer that sends it all the same, with the numbers that
//! the connection manager shows too, speaks MPA version 2 and wants no answer to
//! it.

/// What a connection runs over, as far as read depths depend on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fabric {
    /// InfiniBand or RoCE: the connection manager tells everything.
    InfiniBandOrRoce,
    /// iWARP: there may be a header in the private data.
    Iwarp,
}

/// RDMA reads of one connection at a time; `rdma_conn_param` has the same names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReadDepths {
    /// ORD: reads under way that this side posted.
    pub initiator_depth: u8,
    /// IRD: reads of the peer's that this side serves.
    pub responder_resources: u8,
}

/// What the passive side accepts a connection with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AcceptedDepths {
    /// What both sides keep to.
    pub depths: ReadDepths,
    /// The private data of the answer, if there is to be any.
    pub private_data: Option<[u8; HEADER_LENGTH]>,
}

/// The peer's header asks for no reads one way or the other: the connection is
/// to be rejected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoReads;

/// Length of the header in an iWARP peer's private data.
pub const HEADER_LENGTH: usize = 8;

/// The header of appendix A: two numbers that the specification gives no byte
/// order for. Linux peers use big-endian, and so do we; from one in the other
/// order come huge numbers, which our own limits cut down.
#[derive(Clone, Copy, Debug)]
struct Header {
    ird: u8,
    ord: u8,
}

impl Header {
    /// The header, if there is one, and if the connection manager has not told
    /// the same numbers.
    fn parse(fabric: Fabric, private_data: &[u8], told: (u8, u8)) -> Option<Header> {
        if fabric != Fabric::Iwarp {
            return None;
        }
        let [i0, i1, i2, i3, o0, o1, o2, o3] = *private_data else {
            return None;
        };
        let ird = u32::from_be_bytes([i0, i1, i2, i3]);
        let ord = u32::from_be_bytes([o0, o1, o2, o3]);
        if (ird, ord) == (u32::from(told.0), u32::from(told.1)) {
            return None;
        }
        Some(Header {
            ird: u8::try_from(ird).unwrap_or(u8::MAX),
            ord: u8::try_from(ord).unwrap_or(u8::MAX),
        })
    }

    fn emit(self) -> [u8; HEADER_LENGTH] {
        [0, 0, 0, self.ird, 0, 0, 0, self.ord]
    }
}

impl ReadDepths {
    /// Active: the private data of the connect request; `self` is what this side
    /// can do.
    pub fn request(self, fabric: Fabric) -> Option<[u8; HEADER_LENGTH]> {
        let own = self.at_least_one();
        (fabric == Fabric::Iwarp).then(|| {
            Header {
                ird: own.responder_resources,
                ord: own.initiator_depth,
            }
            .emit()
        })
    }

    /// Passive: what comes of a connect request. `self` is what this side can
    /// do; `event` has the values of the connection manager's event, which are
    /// this side's already: `initiator_depth` is what the peer serves.
    ///
    /// # Errors
    ///
    /// The peer's header has a zero in it.
    pub fn accept(
        self,
        event: ReadDepths,
        fabric: Fabric,
        private_data: &[u8],
    ) -> Result<AcceptedDepths, NoReads> {
        let own = self.at_least_one();
        let told = (event.initiator_depth, event.responder_resources);
        let Some(header) = Header::parse(fabric, private_data, told) else {
            return Ok(AcceptedDepths {
                depths: own.bounded_by(event),
                private_data: None,
            });
        };
        if header.ird == 0 || header.ord == 0 {
            return Err(NoReads);
        }
        let depths = own.bounded_by(ReadDepths {
            initiator_depth: header.ird,
            responder_resources: header.ord,
        });
        // As the peer sees it: its IRD is what we read with.
        let answer = Header {
            ird: depths.initiator_depth,
            ord: depths.responder_resources,
        };
        Ok(AcceptedDepths {
            depths,
            private_data: Some(answer.emit()),
        })
    }

    /// Active: what comes of the peer's answer. `self` is what this side asked
    /// for; `event` has the values of the connection manager's event.
    pub fn conclude(self, event: ReadDepths, fabric: Fabric, private_data: &[u8]) -> ReadDepths {
        let own = self.at_least_one();
        // The providers of iWARP tell the peer's values, the others ours.
        let event = match fabric {
            Fabric::InfiniBandOrRoce => event,
            Fabric::Iwarp => ReadDepths {
                initiator_depth: event.responder_resources,
                responder_resources: event.initiator_depth,
            },
        };
        let told = (event.responder_resources, event.initiator_depth);
        match Header::parse(fabric, private_data, told) {
            None => own.bounded_by(event),
            // Appendix A has the peer answer in our view, Linux does in its own.
            // This is right for both: fewer reads of ours, more of the peer's.
            Some(header) => own.bounded_by(ReadDepths {
                initiator_depth: header.ird.min(header.ord),
                responder_resources: header.ird.max(header.ord),
            }),
        }
    }

    /// Some providers refuse zero, and the header must not say it.
    fn at_least_one(self) -> ReadDepths {
        ReadDepths {
            initiator_depth: self.initiator_depth.max(1),
            responder_resources: self.responder_resources.max(1),
        }
    }

    /// The smaller of both sides' values; zero is a peer that does not say.
    fn bounded_by(self, peer: ReadDepths) -> ReadDepths {
        let least = |own: u8, peer: u8| if peer == 0 { own } else { own.min(peer) };
        ReadDepths {
            initiator_depth: least(self.initiator_depth, peer.initiator_depth),
            responder_resources: least(self.responder_resources, peer.responder_resources),
        }
    }
}
