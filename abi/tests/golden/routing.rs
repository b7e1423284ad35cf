// SPDX-License-Identifier: GPL-2.0 WITH Linux-syscall-note OR MIT

//! Routing: templates, claims, and what comes of them.

use super::{
    command, event, hex, ipv4, ipv6, negotiated, CLIENT_GUID, CONNECTION, IPV4, IPV6, NEGOTIATED,
    SESSION, TICKET,
};
use usmbd_abi::command::{Command, Presumption};
use usmbd_abi::event::Event;
use zerocopy::IntoBytes;

/// A NEGOTIATE response of 188 bytes, with its MessageId and SystemTime.
fn response(message_id: &str, system_time: &str) -> String {
    format!(
        "
    fe534d42            # SMB2 header: ProtocolId
    4000 0000           #              StructureSize, CreditCharge
    00000000            #              Status
    0000 0100           #              Command: NEGOTIATE, CreditResponse: 1
    01000000 00000000   #              Flags: response; NextCommand
    {message_id}        #              MessageId
    00000000 00000000   #              Reserved, TreeId
    0000000000000000    #              SessionId
    00000000000000000000000000000000
    4100 0100           # body: StructureSize, SecurityMode: signing enabled
    1103 0200           #       DialectRevision: 3.1.1, NegotiateContextCount: 2
    101112131415161718191a1b1c1d1e1f
    44000000            #       Capabilities: large MTU, encryption
    00001000 00001000   #       MaxTransactSize, MaxReadSize: 1 MiB
    00001000            #       MaxWriteSize
    {system_time}       #       SystemTime
    0000000000000000    #       ServerStartTime
    8000 0000 80000000  #       no security buffer, NegotiateContextOffset: 128
    0100 2600 00000000  # preauthentication integrity, 38 bytes
    0100 2000 0100      #   one hash, salt of 32 bytes, SHA-512
    202122232425262728292a2b2c2d2e2f
    303132333435363738393a3b3c3d3e3f
    0000                # up to a multiple of 8
    0200 0400 00000000  # encryption, 4 bytes
    0100 0200           #   one cipher, AES-128-GCM"
    )
}

const ZERO: &str = "0000000000000000";

#[test]
fn set_negotiate_template() {
    let golden = format!(
        "
        f0000000            # length: 240
        1100                # opcode: SET_NEGOTIATE_TEMPLATE
        0000                # flags
        0000000000000000    # user_data
        00000000            # template: 0
        bc000000            # response_length: 188
        0200                # presumption_count: 2
        0000 0000 0000      # reserved
        0100                # presumption 0: context_type: preauthentication integrity
        0100                #                id: SHA-512
        00000000            #                reserved
        0200                # presumption 1: context_type: encryption
        0200                #                id: AES-128-GCM
        00000000            #                reserved
        {}
        00000000            # padding",
        response(ZERO, ZERO)
    );
    let presumptions = [
        Presumption {
            context_type: 1.into(),
            id: 1.into(),
            reserved: 0.into(),
        },
        Presumption {
            context_type: 2.into(),
            id: 2.into(),
            reserved: 0.into(),
        },
    ];
    let response = hex(&response(ZERO, ZERO));
    assert_eq!(response.len(), 188);
    let body = command::SetNegotiateTemplate {
        template: 0.into(),
        response_length: 188.into(),
        presumption_count: 2.into(),
        ..Default::default()
    };
    let tail = [presumptions.as_bytes(), &response].concat();
    let decoded = command(&golden, 0, 0, body, &tail);
    assert!(matches!(decoded, Command::SetNegotiateTemplate(b) if b.presumption_count.get() == 2));
}

#[test]
fn clear_negotiate_template() {
    let golden = "
        20000000            # length: 32
        1100                # opcode: SET_NEGOTIATE_TEMPLATE
        0000                # flags
        0000000000000000    # user_data
        03000000            # template: 3
        00000000            # response_length: none
        0000                # presumption_count
        0000 0000 0000      # reserved";
    let body = command::SetNegotiateTemplate {
        template: 3.into(),
        ..Default::default()
    };
    let decoded = command(golden, 0, 0, body, &[]);
    assert!(matches!(decoded, Command::SetNegotiateTemplate(b) if b.template.get() == 3));
}

#[test]
fn claims_on_sessions() {
    let golden = |opcode: &str| {
        format!(
            "
            18000000            # length: 24
            {opcode}            # opcode
            0000                # flags
            0000000000000000    # user_data
            2143658709badcfe    # session_id"
        )
    };
    let session_id = SESSION.into();
    let set = command::SetSessionId { session_id };
    let clear = command::ClearSessionId { session_id };
    assert!(matches!(
        command(&golden("1200"), 0, 0, set, &[]),
        Command::SetSessionId(b) if b.session_id.get() == SESSION
    ));
    assert!(matches!(
        command(&golden("1300"), 0, 0, clear, &[]),
        Command::ClearSessionId(b) if b.session_id.get() == SESSION
    ));
}

#[test]
fn claims_on_clients() {
    let golden = |opcode: &str| {
        format!(
            "
            20000000                            # length: 32
            {opcode}                            # opcode
            0000                                # flags
            0000000000000000                    # user_data
            c0c1c2c3c4c5c6c7c8c9cacbcccdcecf    # client_guid"
        )
    };
    let client_guid = CLIENT_GUID;
    let set = command::SetClientGuid { client_guid };
    let clear = command::ClearClientGuid { client_guid };
    assert!(matches!(
        command(&golden("1400"), 0, 0, set, &[]),
        Command::SetClientGuid(b) if b.client_guid == CLIENT_GUID
    ));
    assert!(matches!(
        command(&golden("1500"), 0, 0, clear, &[]),
        Command::ClearClientGuid(b) if b.client_guid == CLIENT_GUID
    ));
}

#[test]
fn listen_to_route() {
    let golden = "
        38000000            # length: 56
        3000                # opcode: LISTEN
        0000                # flags
        0200000000000000    # user_data: 2
        0000                # family: any
        0000                # port: 445
        00000000            # flow
        00000000            # scope
        00000000            # reserved
        00000000000000000000000000000000
        0000                # iwarp_port: 5445
        0100                # mode: ROUTE
        0000                # backlog: 64
        0000                # reserved";
    let body = command::Listen {
        mode: command::MODE_ROUTE.into(),
        ..Default::default()
    };
    let decoded = command(golden, 0, 2, body, &[]);
    assert!(matches!(decoded, Command::Listen(b) if b.mode.get() == 1));
}

#[test]
fn connection_ready_that_nobody_claimed() {
    let golden = hex(&format!(
        "
        a0000000                            # length: 160
        3380                                # opcode: CONNECTION_READY
        0000                                # flags
        0000000000000000                    # user_data
        05000000                            # listener: 5
        02000000                            # fabric: RoCE
        0807060504030201                    # connection
        000102030405060708090a0b0c0d0e0f    # ticket
        {IPV4}
        {IPV6}
        {NEGOTIATED}
        c0c1c2c3c4c5c6c7c8c9cacbcccdcecf    # client_guid
        2143658709badcfe                    # session_id"
    ));
    let body = event::ConnectionReady {
        listener: 5.into(),
        fabric: usmbd_abi::record::FABRIC_ROCE.into(),
        connection: CONNECTION.into(),
        ticket: TICKET,
        local: ipv4(),
        peer: ipv6(),
        negotiated: negotiated(),
        client_guid: CLIENT_GUID,
        session_id: SESSION.into(),
    };
    assert!(matches!(
        event(&golden, 0, 0, body, &[]),
        Event::ConnectionReady(..)
    ));
}

#[test]
fn connection_routed() {
    let golden = hex(&format!(
        "
        90000000                            # length: 144
        3580                                # opcode: CONNECTION_ROUTED
        0000                                # flags
        0000000000000000                    # user_data
        0807060504030201                    # connection
        02000000                            # claim: session
        02000000                            # fabric: RoCE
        {NEGOTIATED}
        {IPV4}
        {IPV6}
        c0c1c2c3c4c5c6c7c8c9cacbcccdcecf    # client_guid
        2143658709badcfe                    # session_id"
    ));
    let body = event::ConnectionRouted {
        connection: CONNECTION.into(),
        claim: event::CLAIM_SESSION_ID.into(),
        fabric: usmbd_abi::record::FABRIC_ROCE.into(),
        negotiated: negotiated(),
        local: ipv4(),
        peer: ipv6(),
        client_guid: CLIENT_GUID,
        session_id: SESSION.into(),
    };
    assert!(matches!(
        event(&golden, 0, 0, body, &[]),
        Event::ConnectionRouted(..)
    ));
}

#[test]
fn negotiate_answered() {
    let response = response("0100000000000000", "80b2e60e4eb4dc01");
    let golden = hex(&format!(
        "
        e0000000            # length: 224
        3680                # opcode: NEGOTIATE_ANSWERED
        0000                # flags
        0000000000000000    # user_data
        0807060504030201    # connection
        bc000000            # payload_length: 188
        00000000            # template: 0
        {response}
        00000000            # padding"
    ));
    let body = event::NegotiateAnswered {
        connection: CONNECTION.into(),
        payload_length: 188.into(),
        template: 0.into(),
    };
    assert!(matches!(
        event(&golden, 0, 0, body, &hex(&response)),
        Event::NegotiateAnswered(_, tail) if tail.len() == 192
    ));
}
