// SPDX-License-Identifier: GPL-2.0-only

//! Why a connection ended.

macro_rules! reasons {
    ($($(#[$doc:meta])* $variant:ident = $code:literal, $name:literal;)*) => {
        /// Why a connection ended: one value per rule that ends one.
        ///
        /// The codes are part of the driver's ABI and never change.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Reason {
            $($(#[$doc])* $variant,)*
        }

        impl Reason {
            /// Every reason, for tables and tests.
            pub const ALL: &'static [Reason] = &[$(Reason::$variant,)*];

            /// The stable number of this reason.
            pub const fn code(self) -> u32 {
                match self {
                    $(Reason::$variant => $code,)*
                }
            }

            /// The printable name of this reason.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Reason::$variant => $name,)*
                }
            }
        }
    };
}

reasons! {
    /// The upper layer asked for it.
    LocalDisconnect = 1, "local-disconnect";
    /// The peer disconnected.
    PeerDisconnected = 2, "peer-disconnected";
    /// The RDMA device goes away.
    DeviceRemoved = 3, "device-removed";
    /// The upper layer turned the peer away.
    Rejected = 4, "rejected";
    /// The caller queued a message that [`check_message`] refuses.
    ///
    /// [`check_message`]: crate::Connection::check_message
    InvalidMessage = 5, "invalid-message";

    /// P1: the receive for the Negotiate Request could not be posted,
    /// [MS-SMBD] 3.1.7.2.
    PassiveNoReceive = 101, "passive-no-receive";
    /// P2: no Negotiate Request for five seconds, [MS-SMBD] 3.1.6.1.
    PassiveTimeout = 102, "passive-timeout";
    /// P3: the Negotiate Request is shorter than its layout,
    /// [MS-SMBD] 3.1.5.6.
    RequestTooShort = 103, "request-too-short";
    /// P4: the peer does not speak version 1.0, [MS-SMBD] 3.1.5.6.
    RequestVersion = 104, "request-version";
    /// P5: the peer asks for no credits, [MS-SMBD] 3.1.5.6.
    RequestCredits = 105, "request-credits";
    /// P6: the peer receives less than 128 bytes, [MS-SMBD] 3.1.5.6.
    RequestReceiveSize = 106, "request-receive-size";
    /// P7: the peer reassembles less than 128 KiB, [MS-SMBD] 3.1.5.6.
    RequestFragmentedSize = 107, "request-fragmented-size";
    /// P8: no receive could be posted for the peer's credits,
    /// [MS-SMBD] 3.1.5.6.
    PassiveNoCredits = 108, "passive-no-credits";

    /// A1: not established within 120 seconds, [MS-SMBD] 3.1.6.1.
    ActiveTimeout = 201, "active-timeout";
    /// A2: the Negotiate Response is shorter than its layout,
    /// [MS-SMBD] 3.1.5.7.
    ResponseTooShort = 202, "response-too-short";
    /// A3: the negotiated version is not 1.0, [MS-SMBD] 3.1.5.7.
    ResponseVersion = 203, "response-version";
    /// A4: the response carries an error status, [MS-SMBD] 3.1.5.7.
    ResponseStatus = 204, "response-status";
    /// A5: the peer grants or requests no credits, [MS-SMBD] 3.1.5.7.
    ResponseCredits = 205, "response-credits";
    /// A6: the peer receives less than 128 bytes or reassembles less than
    /// 128 KiB, [MS-SMBD] 3.1.5.7.
    ResponseSizes = 206, "response-sizes";
    /// A7: the peer wants to send more than we receive, [MS-SMBD] 3.1.5.7.
    ResponsePreferredSendSize = 207, "response-preferred-send-size";
    /// A8: no receive could be posted, [MS-SMBD] 3.1.5.7.
    ActiveNoCredits = 208, "active-no-credits";

    /// D1: the PDU is shorter than its header, [MS-SMBD] 3.1.5.8.
    TransferTooShort = 301, "transfer-too-short";
    /// D2: the peer asks for no credits, [MS-SMBD] 3.1.5.8.
    TransferCredits = 302, "transfer-credits";
    /// D3: the data does not begin at a multiple of eight, [MS-SMBD] 3.1.5.8.
    TransferAlignment = 303, "transfer-alignment";
    /// D4: the data reaches beyond the PDU, [MS-SMBD] 3.1.5.8.
    TransferBounds = 304, "transfer-bounds";
    /// D5: the message is larger than we reassemble, [MS-SMBD] 3.1.5.8.
    TransferMessageSize = 305, "transfer-message-size";
    /// D6: the message ends before its announced length, [MS-SMBD] 3.1.5.8.
    TransferMessageCutShort = 306, "transfer-message-cut-short";
    /// D7: no answer to a keepalive, [MS-SMBD] 3.1.6.2.
    KeepaliveTimeout = 307, "keepalive-timeout";
    /// D8: the RDMA provider reported an error, [MS-SMBD] 3.1.7.
    ProviderError = 308, "provider-error";
    /// D9: the PDU is longer than the receive it was for, [MS-SMBD] 3.1.7.
    ReceiveTooLong = 309, "receive-too-long";

    /// X1: the peer sent without holding a credit.
    NoReceiveCredit = 401, "no-receive-credit";
    /// X2: a fragment carries more than is left of its message.
    FragmentTooLong = 402, "fragment-too-long";
    // 403 is X3, more send credits than 65535: they saturate instead.
    /// X4: the fragments add up to more than we reassemble.
    ReassemblyTooLong = 404, "reassembly-too-long";
    /// The message goes on after all of its announced length came. The pieces
    /// handed up have told that length, so it cannot grow.
    ReassemblyRestarted = 405, "reassembly-restarted";
    /// The data begins inside the header.
    DataInHeader = 406, "data-in-header";
}

impl Reason {
    /// Whether one of the two sides wanted this end and nothing went wrong.
    pub const fn is_orderly(self) -> bool {
        matches!(self, Reason::LocalDisconnect | Reason::PeerDisconnected)
    }
}
