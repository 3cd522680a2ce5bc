//! Entry points: capture, and graphs of what was captured.

use std::ffi::{c_char, c_int, c_ulonglong};
use std::sync::Arc;

use super::api_stream::resolve;
use super::card::handle;
use super::graph::Capture;
use super::queue::Command;
use super::{code, on_card, put};

/// `CU_STREAM_CAPTURE_MODE_RELAXED`.
const RELAXED: c_int = 2;

#[unsafe(no_mangle)]
extern "C" fn cuStreamBeginCapture_v2(stream: u64, mode: c_int) -> u32 {
    on_card(|card| {
        // The null stream cannot be captured: too many depend on it.
        if resolve(stream) == 0 {
            return Err(code::CAPTURE_UNSUPPORTED);
        }
        if !card.streams.contains_key(&stream) {
            return Err(code::INVALID_HANDLE);
        }
        if card.captures.iter().any(|capture| capture.has(stream)) {
            return Err(code::INVALID_VALUE);
        }
        card.captures.push(Capture::new(stream, mode == RELAXED));
        Ok(())
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuStreamEndCapture(stream: u64, graph: *mut u64) -> u32 {
    on_card(|card| {
        let Some(at) = card.captures.iter().position(|capture| capture.origin == stream) else {
            return Err(code::CAPTURE_UNMATCHED);
        };
        let capture = card.captures.remove(at);
        // Events of a capture stand for nothing afterwards.
        for event in card.events.values_mut() {
            if event.captured.as_ref().is_some_and(|(origin, _)| *origin == stream) {
                event.captured = None;
            }
        }
        if capture.invalid || !capture.joined() {
            // SAFETY: the caller's pointer.
            unsafe { put(graph, 0) }?;
            return Err(if capture.invalid {
                code::CAPTURE_INVALIDATED
            } else {
                code::CAPTURE_UNJOINED
            });
        }
        let id = handle();
        card.graphs.insert(id, Arc::new(capture.nodes));
        // SAFETY: the caller's pointer.
        unsafe { put(graph, id) }
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuStreamIsCapturing(stream: u64, status: *mut c_int) -> u32 {
    on_card(|card| {
        let capture = card.captures.iter().find(|capture| capture.has(resolve(stream)));
        // None, active, invalidated.
        let found = capture.map_or(0, |capture| if capture.invalid { 2 } else { 1 });
        // SAFETY: the caller's pointer.
        unsafe { put(status, found) }
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuGraphInstantiateWithFlags(
    executable: *mut u64,
    graph: u64,
    _flags: c_ulonglong,
) -> u32 {
    on_card(|card| {
        let nodes = card.graphs.get(&graph).ok_or(code::INVALID_HANDLE)?.clone();
        let id = handle();
        card.executables.insert(id, nodes);
        // SAFETY: the caller's pointer.
        unsafe { put(executable, id) }
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuGraphInstantiate_v2(
    executable: *mut u64,
    graph: u64,
    _node: *mut u64,
    _log: *mut c_char,
    _bytes: usize,
) -> u32 {
    // SAFETY: the same contract.
    unsafe { cuGraphInstantiateWithFlags(executable, graph, 0) }
}

#[unsafe(no_mangle)]
extern "C" fn cuGraphUpload(executable: u64, _stream: u64) -> u32 {
    on_card(|card| card.executables.get(&executable).map(|_| ()).ok_or(code::INVALID_HANDLE))
}

#[unsafe(no_mangle)]
extern "C" fn cuGraphLaunch(executable: u64, stream: u64) -> u32 {
    on_card(|card| {
        let nodes = card.executables.get(&executable).ok_or(code::INVALID_HANDLE)?.clone();
        card.n_graph_launches += 1;
        card.enqueue(resolve(stream), Command::Graph(nodes))
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuGraphExecDestroy(executable: u64) -> u32 {
    on_card(|card| card.executables.remove(&executable).map(|_| ()).ok_or(code::INVALID_HANDLE))
}

#[unsafe(no_mangle)]
extern "C" fn cuGraphDestroy(graph: u64) -> u32 {
    on_card(|card| card.graphs.remove(&graph).map(|_| ()).ok_or(code::INVALID_HANDLE))
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuGraphGetNodes(graph: u64, nodes: *mut u64, count: *mut usize) -> u32 {
    on_card(|card| {
        let found = card.graphs.get(&graph).ok_or(code::INVALID_HANDLE)?.len();
        // SAFETY: the caller's pointers; only the number is told.
        if nodes.is_null() { unsafe { put(count, found) } } else { Err(code::INVALID_VALUE) }
    })
}
