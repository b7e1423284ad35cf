// SPDX-License-Identifier: GPL-2.0 WITH Linux-syscall-note OR MIT

//! What the peer or the fabric did, as events say it. What a call did wrong is its errno.

macro_rules! numbers {
    ($(#[$outer:meta])* $type:ident { $($(#[$doc:meta])* $name:ident = $value:literal, $text:literal;)* }) => {
        $(#[$outer])*
        #[derive(Clone, Copy, Debug, Eq, PartialEq)]
        #[repr(u32)]
        pub enum $type {
            $($(#[$doc])* $name = $value,)*
        }

        impl $type {
            /// The number as it stands in a record.
            pub const fn number(self) -> u32 {
                match self {
                    $(Self::$name => $value,)*
                }
            }

            /// The value with this number; `None` if a newer driver made it.
            pub const fn from_number(number: u32) -> Option<Self> {
                match number {
                    $($value => Some(Self::$name),)*
                    _ => None,
                }
            }

            /// For people.
            pub const fn text(self) -> &'static str {
                match self {
                    $(Self::$name => $text,)*
                }
            }
        }
    };
}

numbers! {
    /// Outcome of a command that took effect later.
    Status {
        /// Done.
        Ok = 0, "done";
        /// The connection ended first; whether the peer saw it is not known.
        Disconnected = 1, "the connection ended first";
        /// The peer's memory could not be reached: key, range or rights. Ends the connection.
        RemoteAccess = 2, "the peer's key does not allow this access";
        /// The fabric or the device failed. Ends the connection.
        Provider = 3, "the RDMA device reported an error";
        /// LISTEN: the address or port is taken.
        AddressInUse = 4, "the address or port is in use";
        /// LISTEN: no such address here. CONNECT: neither is `local` one, or no RDMA device leads to
        /// the peer.
        AddressNotAvailable = 5, "no RDMA device of this host has or reaches the address";
        /// Not enough memory.
        NoMemory = 6, "not enough memory";
        /// The device cannot do it: too old, or its limits are too low.
        NotSupported = 7, "the RDMA device does not support this";
        /// CONNECT: nobody listens there, or the peer wants no connection.
        Refused = 8, "the peer refused the connection";
        /// CONNECT: no route, or no answer.
        Unreachable = 9, "the peer does not answer";
        /// CONNECT: the peer's SMB Direct negotiation is wrong, an error, or did not come in time.
        Negotiation = 10, "the peer did not agree on SMB Direct";
    }
}

numbers! {
    /// Why a connection ended. Rows of the protocol's rules carry their section of [MS-SMBD].
    Reason {
        /// DISCONNECT, REJECT, or the context was closed.
        Local = 1, "disconnected by this side";
        /// The peer disconnected.
        Peer = 2, "disconnected by the peer";
        /// The RDMA device went away.
        DeviceRemoved = 3, "the RDMA device went away";
        /// The RDMA connection failed: rejected, unreachable, or lost.
        ConnectionLost = 4, "the RDMA connection failed";
        /// The device reported a failed work request.
        Provider = 5, "the RDMA device reported an error";
        /// A remote key was refused by the peer's device.
        RemoteAccess = 6, "the peer's key did not allow an access";
        /// A PDU was longer than the posted receive.
        ReceiveLength = 7, "the peer sent a PDU longer than MaxReceiveSize";
        /// Not enough memory to serve it.
        NoMemory = 8, "not enough memory";
        /// Nobody accepted it in time.
        NotAccepted = 9, "nobody accepted it in time";
        /// DROP: an operator ended it.
        Dropped = 10, "dropped by an operator";
        /// Routing: its first messages were not NEGOTIATE, then SESSION_SETUP, or too long.
        NotRoutable = 11, "its first messages are not those of an SMB client";
        /// 3.1.7.2: no Negotiate Request in time.
        NegotiationTimeout = 16, "no negotiation in time";
        /// 3.1.6.1: no PDU and no answer to the keepalive probe.
        KeepaliveTimeout = 17, "no answer to the keepalive probe";
        /// 3.1.5.6: the Negotiate message is too short.
        NegotiateLength = 18, "the negotiate message is too short";
        /// 3.1.5.6: no common version.
        NegotiateVersion = 19, "no common protocol version";
        /// 3.1.5.6: CreditsRequested or CreditsGranted is zero.
        NegotiateCredits = 20, "the negotiate message asks for or grants no credits";
        /// 3.1.5.6: a size is below the protocol's minimum.
        NegotiateSizes = 21, "a size in the negotiate message is out of range";
        /// 3.1.5.7: the peer answered with an error status.
        NegotiateStatus = 22, "the peer refused the negotiation";
        /// 3.1.5.8: shorter than a header.
        DataLength = 23, "a PDU is shorter than its header";
        /// 3.1.5.8: CreditsRequested is zero.
        DataCredits = 24, "a PDU requests no credits";
        /// 3.1.5.8: DataOffset is not a multiple of 8, or points into the header.
        DataOffset = 25, "a PDU's data offset is wrong";
        /// 3.1.5.8: the data reaches past the PDU.
        DataBounds = 26, "a PDU's data reaches past its end";
        /// 3.1.5.8: the message is longer than MaxFragmentedRecvSize.
        MessageTooLong = 27, "a message is longer than MaxFragmentedRecvSize";
        /// 3.1.5.8: fragments do not add up to the announced length.
        Fragments = 28, "a message's fragments do not add up";
        /// 3.1.5.9: the peer sent without a credit.
        CreditOverrun = 29, "the peer sent without a credit";
    }
}

impl Reason {
    /// Whether both sides agreed on the end: no data was lost by it.
    pub const fn is_orderly(self) -> bool {
        matches!(self, Self::Local | Self::Peer)
    }
}
