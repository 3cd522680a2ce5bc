//! Modules, launches, graphs and limits, on every card.

use std::io::Write as _;
use std::sync::Arc;

use cudarc::driver::sys::{
    CUdevice_attribute as Attribute, CUfunction_attribute, CUstreamCaptureMode,
};
use cudarc::driver::{CudaContext, CudaFunction, CudaStream, LaunchConfig, PushKernelArg};
use cudarc::nvrtc::Ptx;

use crate::session::Session;

const SCALAR: &str = include_str!("../kernels/scalar.ptx");

pub(crate) fn kernel(context: &Arc<CudaContext>, ptx: &str, name: &str) -> CudaFunction {
    context.load_module(Ptx::from_src(ptx)).unwrap().load_function(name).unwrap()
}

pub(crate) fn config(blocks: u32, threads: u32) -> LaunchConfig {
    LaunchConfig { grid_dim: (blocks, 1, 1), block_dim: (threads, 1, 1), shared_mem_bytes: 0 }
}

/// Bins of bytes: kernel, atomics and copies in one.
fn histogram(stream: &Arc<CudaStream>, function: &CudaFunction, x: &[u8]) -> Vec<u32> {
    let x_on_card = stream.clone_htod(x).unwrap();
    let mut bins = stream.alloc_zeros::<u32>(256).unwrap();
    let n = x.len() as u32;
    let mut launch = stream.launch_builder(function);
    launch.arg(&x_on_card).arg(&mut bins).arg(&n);
    // SAFETY: the kernel's parameters, over buffers of their sizes.
    unsafe { launch.launch(config(2, 64)) }.unwrap();
    stream.clone_dtoh(&bins).unwrap()
}

#[test]
fn every_card_runs_a_kernel_and_gives_its_memory_back() {
    for (key, arch) in
        [("a100", (8, 0)), ("rtx4090", (8, 9)), ("h100", (9, 0)), ("rtx5090", (12, 0))]
    {
        let session = Session::new(&format!("devices={key} seed=3"));
        let x: Vec<u8> = (0..1000u32).map(|n| (n * n % 251) as u8).collect();
        let mut want = vec![0u32; 256];
        for x in &x {
            want[usize::from(*x)] += 1;
        }
        {
            let context = CudaContext::new(0).unwrap();
            assert_eq!(context.compute_capability().unwrap(), arch);
            assert!(context.name().unwrap().contains("simulated"));
            let stream = context.new_stream().unwrap();
            let function = kernel(&context, SCALAR, "histogram");
            assert_eq!(histogram(&stream, &function, &x), want, "{key}");
            assert!(session.live_bytes() > 0, "the module's variables");
        }
        assert_eq!(session.live_bytes(), 0, "{key} leaks");
        let report = session.report();
        assert!(
            report.contains("\"kernel\":\"histogram\",\"launches\":1,\"blocks\":2"),
            "{report}"
        );
    }
}

#[test]
fn limits_are_the_cards_own() {
    let _session = Session::new("devices=a100,rtx4090,h100,rtx5090");
    assert_eq!(CudaContext::device_count().unwrap(), 4);
    for (ordinal, optin) in [(0, 163), (1, 99), (2, 227), (3, 99)] {
        let context = CudaContext::new(ordinal).unwrap();
        let most = context
            .attribute(Attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN)
            .unwrap();
        assert_eq!(most, optin << 10);
        let function = kernel(&context, SCALAR, "spaces");
        let stream = context.default_stream();
        let x = stream.clone_htod(&[1i32; 32]).unwrap();
        let mut out = stream.alloc_zeros::<f32>(32).unwrap();
        let mut run = |shared: u32, grid_y: u32, threads: u32| {
            let mut launch = stream.launch_builder(&function);
            launch.arg(&x).arg(&mut out);
            let grid_dim = (1, grid_y, 1);
            // SAFETY: the kernel's parameters; launches beyond 32 threads are refused before they run.
            unsafe {
                launch.launch(LaunchConfig {
                    grid_dim,
                    block_dim: (threads, 1, 1),
                    shared_mem_bytes: shared,
                })
            }
        };
        run(48 << 10, 1, 32).unwrap();
        assert!(run((48 << 10) + 1, 1, 32).is_err());
        assert!(run(128, 65_536, 32).is_err());
        assert!(run(128, 1, 1025).is_err());
        let attribute = CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
        assert!(function.set_attribute(attribute, (optin << 10) + 1).is_err());
        function.set_attribute(attribute, optin << 10).unwrap();
        let mut launch = stream.launch_builder(&function);
        launch.arg(&x).arg(&mut out);
        let shared_mem_bytes = (optin as u32) << 10;
        // SAFETY: as above.
        unsafe {
            launch.launch(LaunchConfig {
                grid_dim: (1, 1, 1),
                block_dim: (32, 1, 1),
                shared_mem_bytes,
            })
        }
        .unwrap();
        stream.synchronize().unwrap();
    }
}

#[test]
fn a_graph_is_replayed_on_what_its_buffers_hold_then() {
    let session = Session::new("");
    let context = CudaContext::new(0).unwrap();
    // SAFETY: this test orders its streams itself, which it has one of.
    unsafe { context.disable_event_tracking() };
    let stream = context.new_stream().unwrap();
    let function = kernel(&context, SCALAR, "histogram");
    let mut x = stream.clone_htod(&[5u8; 64]).unwrap();
    let mut bins = stream.alloc_zeros::<u32>(256).unwrap();
    stream.synchronize().unwrap();

    stream.begin_capture(CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL).unwrap();
    let n = 64u32;
    let mut launch = stream.launch_builder(&function);
    launch.arg(&x).arg(&mut bins).arg(&n);
    // SAFETY: the kernel's parameters, over buffers of their sizes.
    unsafe { launch.launch(config(1, 64)) }.unwrap();
    let flags = cudarc::driver::sys::CUgraphInstantiate_flags::CUDA_GRAPH_INSTANTIATE_FLAG_AUTO_FREE_ON_LAUNCH;
    let graph = stream.end_capture(flags).unwrap().unwrap();
    // Nothing has run yet.
    assert_eq!(stream.clone_dtoh(&bins).unwrap()[5], 0);
    graph.launch().unwrap();
    graph.launch().unwrap();
    stream.memcpy_htod(&[9u8; 64], &mut x).unwrap();
    graph.launch().unwrap();
    let bins = stream.clone_dtoh(&bins).unwrap();
    assert_eq!((bins[5], bins[9]), (128, 64));
    assert!(session.report().contains("\"launches\":3"));
}

#[test]
fn a_capture_takes_no_waiting_and_no_allocation() {
    let _session = Session::new("");
    let context = CudaContext::new(0).unwrap();
    // SAFETY: one stream alone is used.
    unsafe { context.disable_event_tracking() };
    let stream = context.new_stream().unwrap();
    let flags = cudarc::driver::sys::CUgraphInstantiate_flags::CUDA_GRAPH_INSTANTIATE_FLAG_AUTO_FREE_ON_LAUNCH;
    let mode = CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
    stream.begin_capture(mode).unwrap();
    assert!(stream.synchronize().is_err());
    assert!(stream.end_capture(flags).is_err());
    stream.begin_capture(mode).unwrap();
    assert!(stream.alloc_zeros::<u8>(16).is_err());
    assert!(stream.end_capture(flags).is_err());
    assert!(context.load_module(Ptx::from_src(SCALAR)).is_ok());
    stream.synchronize().unwrap();
}

#[test]
fn a_fatbin_of_nvcc_is_loaded_as_it_is() {
    let here = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let nvcc = here.join("../.cuda-toolchain/bin/nvcc");
    if !nvcc.exists() {
        let _ = writeln!(std::io::stderr(), "skipped: no nvcc; tools/cuda-toolchain.sh makes it");
        return;
    }
    let out = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join("fragments.fatbin");
    let targets =
        ["arch=compute_80,code=[sm_80,compute_80]", "arch=compute_90a,code=[sm_90a,compute_90a]"];
    let made = std::process::Command::new(nvcc)
        .args([
            "-fatbin",
            "-no-compress",
            "-std=c++17",
            "-gencode",
            targets[0],
            "-gencode",
            targets[1],
        ])
        .arg(here.join("tests/kernels/fragments.cu"))
        .arg("-o")
        .arg(&out)
        .output()
        .unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let session = Session::new("devices=a100,h100");
    for ordinal in 0..2 {
        let context = CudaContext::new(ordinal).unwrap();
        let image = Ptx::from_binary(std::fs::read(&out).unwrap());
        let module = context.load_module(image).unwrap_or_else(|_| panic!("{}", session.message()));
        let function = module.load_function("ldmatrix_x4").unwrap();
        let stream = context.new_stream().unwrap();
        let tile = stream.clone_htod(&(0..256u16).collect::<Vec<_>>()).unwrap();
        let rows = stream.clone_htod(&(0..32u32).map(|n| n * 16).collect::<Vec<_>>()).unwrap();
        let mut result = stream.alloc_zeros::<u32>(128).unwrap();
        let mut launch = stream.launch_builder(&function);
        launch.arg(&tile).arg(&rows).arg(&mut result);
        // SAFETY: the kernel's parameters, over buffers of their sizes.
        unsafe { launch.launch(config(1, 32)) }.unwrap();
        let result = stream.clone_dtoh(&result).unwrap();
        assert_eq!(result[..4], [0x0001_0000, 0x0041_0040, 0x0081_0080, 0x00c1_00c0]);
    }
}
