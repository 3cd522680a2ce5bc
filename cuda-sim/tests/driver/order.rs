//! What is not ordered happens in an order that the seed draws: a missing wait shows under some seed.

use std::sync::Arc;

use cudarc::driver::{CudaContext, CudaFunction, CudaStream, PushKernelArg};

use crate::session::Session;
use crate::work::{config, kernel};

const DEFECTS: &str = include_str!("../kernels/defects.ptx");

/// `y = x` reversed within each warp, by a kernel that reads what another stream wrote.
fn produce_and_consume(seed: u64, wait: bool) -> Result<Vec<f32>, String> {
    let session = Session::new(&format!("seed={seed}"));
    let context = CudaContext::new(0).unwrap();
    // SAFETY: the streams are ordered by the event below, or not at all, which is what is tested.
    unsafe { context.disable_event_tracking() };
    let (first, second) = (context.new_stream().unwrap(), context.new_stream().unwrap());
    let function: CudaFunction = kernel(&context, DEFECTS, "with_syncwarp");
    let run = |stream: &Arc<CudaStream>, from: &_, to: &mut cudarc::driver::CudaSlice<f32>| {
        let mut launch = stream.launch_builder(&function);
        let from: &cudarc::driver::CudaSlice<f32> = from;
        launch.arg(from).arg(to);
        // SAFETY: the kernel's parameters, over buffers of their sizes.
        unsafe { launch.launch(config(1, 128)) }.map(|_| ()).map_err(|e| e.to_string())
    };
    let x: Vec<f32> = (0..128).map(|n| n as f32).collect();
    let x = first.clone_htod(&x).map_err(|e| e.to_string())?;
    first.synchronize().unwrap();
    // SAFETY: written by the first launch before the second reads it, where there is an event.
    let mut middle = unsafe { first.alloc::<f32>(128) }.unwrap();
    // SAFETY: written before it is read.
    let mut y = unsafe { second.alloc::<f32>(128) }.unwrap();
    run(&first, &x, &mut middle)?;
    if wait {
        second.wait(&first.record_event(None).unwrap()).unwrap();
    }
    run(&second, &middle, &mut y)?;
    let result = second.clone_dtoh(&y).map_err(|_| session.message());
    let _ = first.synchronize();
    result
}

#[test]
fn an_event_orders_two_streams_under_every_seed() {
    for seed in 1..12 {
        let y = produce_and_consume(seed, true).unwrap();
        assert_eq!(y, (0..128).map(|n| n as f32).collect::<Vec<_>>());
    }
}

#[test]
fn a_missing_event_shows_under_some_seed_and_the_same_one_again() {
    let failed: Vec<u64> =
        (1..12).filter(|seed| produce_and_consume(*seed, false).is_err()).collect();
    assert!(!failed.is_empty() && failed.len() < 11, "{failed:?}");
    let what = produce_and_consume(failed[0], false).unwrap_err();
    assert!(what.contains("Uninitialised"), "{what}");
}

#[test]
fn pinned_memory_is_read_late_and_pageable_memory_at_once() {
    let _session = Session::new("");
    let context = CudaContext::new(0).unwrap();
    // SAFETY: one stream alone is used.
    unsafe { context.disable_event_tracking() };
    let stream = context.new_stream().unwrap();
    let mut to = stream.alloc_zeros::<u32>(4).unwrap();
    stream.synchronize().unwrap();
    let mut pageable = vec![1u32; 4];
    stream.memcpy_htod(&pageable, &mut to).unwrap();
    pageable.fill(2);
    assert_eq!(stream.clone_dtoh(&to).unwrap(), [1; 4]);
    // SAFETY: four words, all written before they are read.
    let mut pinned = unsafe { context.alloc_pinned::<u32>(4) }.unwrap();
    let at = pinned.as_mut_ptr().unwrap();
    // SAFETY: the buffer's own four words; filling it again before the copy has run is the mistake that shows.
    unsafe {
        std::slice::from_raw_parts_mut(at, 4).fill(3);
        stream.memcpy_htod(&pinned, &mut to).unwrap();
        std::slice::from_raw_parts_mut(at, 4).fill(4);
    }
    assert_eq!(stream.clone_dtoh(&to).unwrap(), [4; 4]);
}
