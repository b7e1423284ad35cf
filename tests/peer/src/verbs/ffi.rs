// SPDX-License-Identifier: GPL-2.0-only

//! The shim's functions; twin of shim.h, which says what they do.

use super::{Completion, QueueSizes};
use std::ffi::{c_char, c_int, c_void};

#[repr(C)]
pub struct RawPeer {
    _opaque: [u8; 0],
}
#[repr(C)]
pub struct RawListener {
    _opaque: [u8; 0],
}
#[repr(C)]
pub struct RawRegion {
    _opaque: [u8; 0],
}
#[repr(C)]
pub struct RawWindow {
    _opaque: [u8; 0],
}

extern "C" {
    pub fn peer_open(
        host: *const c_char,
        port: u16,
        source: *const c_char,
        timeout_ms: c_int,
        result: *mut *mut RawPeer,
    ) -> c_int;
    pub fn peer_create_queue_pair(p: *mut RawPeer, sizes: *const QueueSizes) -> c_int;
    pub fn peer_connect(
        p: *mut RawPeer,
        data: *const c_void,
        length: u8,
        timeout_ms: c_int,
    ) -> c_int;
    pub fn peer_accept(
        p: *mut RawPeer,
        data: *const c_void,
        length: u8,
        timeout_ms: c_int,
    ) -> c_int;
    pub fn peer_set_depths(p: *mut RawPeer, responder_resources: u8, initiator_depth: u8);
    pub fn peer_private_data(p: *const RawPeer, to: *mut c_void, size: u8) -> c_int;
    pub fn peer_disconnect(p: *mut RawPeer) -> c_int;
    pub fn peer_break_queue_pair(p: *mut RawPeer) -> c_int;
    pub fn peer_close(p: *mut RawPeer);
    pub fn peer_listen(host: *const c_char, port: u16, result: *mut *mut RawListener) -> c_int;
    pub fn peer_next_request(l: *mut RawListener, timeout_ms: c_int, r: *mut *mut RawPeer)
        -> c_int;
    pub fn peer_listener_close(l: *mut RawListener);
    pub fn peer_is_iwarp(p: *const RawPeer) -> c_int;
    pub fn peer_responder_resources(p: *mut RawPeer) -> u32;
    pub fn peer_poll(
        p: *mut RawPeer,
        out: *mut Completion,
        count: c_int,
        timeout_ms: c_int,
    ) -> c_int;
    pub fn peer_take_event(p: *mut RawPeer) -> c_int;
    pub fn peer_event(p: *const RawPeer, status: *mut c_int) -> c_int;
    pub fn peer_event_name(event: c_int) -> *const c_char;
    pub fn peer_status_name(status: c_int) -> *const c_char;
    pub fn peer_register(
        p: *mut RawPeer,
        start: *mut c_void,
        length: usize,
        remote: c_int,
        result: *mut *mut RawRegion,
    ) -> c_int;
    pub fn peer_local_key(mr: *const RawRegion) -> u32;
    pub fn peer_remote_key(mr: *const RawRegion) -> u32;
    pub fn peer_deregister(mr: *mut RawRegion) -> c_int;
    pub fn peer_window_allocate(p: *mut RawPeer, result: *mut *mut RawWindow) -> c_int;
    pub fn peer_window_bind(
        p: *mut RawPeer,
        mw: *mut RawWindow,
        mr: *mut RawRegion,
        start: *mut c_void,
        length: usize,
        id: u64,
        key: *mut u32,
    ) -> c_int;
    pub fn peer_window_free(mw: *mut RawWindow) -> c_int;
    pub fn peer_post_receive(p: *mut RawPeer, id: u64, at: *mut c_void, n: u32, key: u32) -> c_int;
    pub fn peer_post_send(
        p: *mut RawPeer,
        id: u64,
        start: *const c_void,
        length: u32,
        key: u32,
        invalidate: *const u32,
    ) -> c_int;
}
