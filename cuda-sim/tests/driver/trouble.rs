//! Faults on demand, and faults of kernels: what a backend has to bear.

use cudarc::driver::sys::CUresult;
use cudarc::driver::{CudaContext, DriverError, PushKernelArg};

use crate::session::Session;
use crate::work::{config, kernel};

const DEFECTS: &str = include_str!("../kernels/defects.ptx");

#[allow(clippy::needless_pass_by_value, reason = "calls are written inside its brackets")]
fn code<T>(result: Result<T, DriverError>) -> CUresult {
    match result {
        Ok(_) => CUresult::CUDA_SUCCESS,
        Err(DriverError(code)) => code,
    }
}

/// Runs a kernel of `(x, y)` with so many elements of x, and gives the code of the wait behind it.
fn run(name: &str, n_x: usize) -> CUresult {
    let context = CudaContext::new(0).unwrap();
    let stream = context.new_stream().unwrap();
    let function = kernel(&context, DEFECTS, name);
    let x = stream.clone_htod(&vec![1f32; n_x]).unwrap();
    let mut y = stream.alloc_zeros::<f32>(128).unwrap();
    let mut launch = stream.launch_builder(&function);
    launch.arg(&x).arg(&mut y);
    // SAFETY: the mistakes in these kernels are what is tested; the card is simulated.
    let asked = code(unsafe { launch.launch(config(1, 128)) });
    assert_eq!(asked, CUresult::CUDA_SUCCESS);
    let end = code(stream.synchronize());
    if end != CUresult::CUDA_SUCCESS {
        // The fault stays: nothing works on this card any more.
        assert_eq!(code(stream.alloc_zeros::<f32>(1)), end);
    }
    end
}

#[test]
fn a_kernels_fault_has_its_code_its_words_and_stays() {
    let session = Session::new("");
    assert_eq!(run("one_past_the_end", 128), CUresult::CUDA_ERROR_ILLEGAL_ADDRESS);
    let words = session.message();
    assert!(words.contains("kernel `one_past_the_end`: OutOfBounds"), "{words}");
    let _ = session.configure("");
    assert_eq!(run("misaligned_vector", 132), CUresult::CUDA_ERROR_MISALIGNED_ADDRESS);
    let _ = session.configure("");
    assert_eq!(run("missing_barrier", 128), CUresult::CUDA_ERROR_LAUNCH_FAILED);
    let _ = session.configure("races=off");
    assert_eq!(run("global_race", 128), CUresult::CUDA_SUCCESS);
}

#[test]
fn no_device_is_said_when_the_driver_starts() {
    let _session = Session::new("devices=");
    assert_eq!(code(CudaContext::device_count()), CUresult::CUDA_ERROR_NO_DEVICE);
}

#[test]
fn the_third_allocation_fails_and_the_fourth_does_not() {
    let session = Session::new("fail_alloc=3");
    let context = CudaContext::new(0).unwrap();
    let stream = context.new_stream().unwrap();
    let codes: Vec<CUresult> = (0..4).map(|_| code(stream.alloc_zeros::<u8>(64))).collect();
    let mut want = [CUresult::CUDA_SUCCESS; 4];
    want[2] = CUresult::CUDA_ERROR_OUT_OF_MEMORY;
    assert_eq!(codes, want);
    drop((stream, context));
    assert_eq!(session.live_bytes(), 0);
}

#[test]
fn a_small_card_is_full_soon_and_says_how_much_it_has() {
    let session = Session::new("memory=1048576");
    let context = CudaContext::new(0).unwrap();
    let stream = context.new_stream().unwrap();
    let kept = stream.alloc_zeros::<u8>(1 << 19).unwrap();
    assert_eq!(context.mem_get_info().unwrap(), (1 << 19, 1 << 20));
    assert_eq!(code(stream.alloc_zeros::<u8>(1 << 20)), CUresult::CUDA_ERROR_OUT_OF_MEMORY);
    assert!(session.message().contains("524288 are free"), "{}", session.message());
    drop(kept);
    stream.synchronize().unwrap();
    stream.alloc_zeros::<u8>(1 << 20).unwrap();
}

#[test]
fn a_launch_fails_and_a_card_is_lost_on_demand() {
    let session = Session::new("fail_launch=1");
    assert_eq!(run("with_barrier", 128), CUresult::CUDA_ERROR_LAUNCH_FAILED);
    let _ = session.configure("lose_after=2");
    assert_eq!(run("with_barrier", 128), CUresult::CUDA_ERROR_UNKNOWN);
    let _ = session.configure("");
    assert_eq!(run("with_barrier", 128), CUresult::CUDA_SUCCESS);
}

/// A launch on one stream, and the return of its buffer on another that knows nothing of it.
fn freed_too_early(seed: u64) -> CUresult {
    let _session = Session::new(&format!("seed={seed}"));
    let context = CudaContext::new(0).unwrap();
    // SAFETY: the missing order of two streams is what is tested.
    unsafe { context.disable_event_tracking() };
    let (stream, other) = (context.new_stream().unwrap(), context.new_stream().unwrap());
    let function = kernel(&context, DEFECTS, "with_barrier");
    let mut y = stream.alloc_zeros::<f32>(128).unwrap();
    let x = other.clone_htod(&[1f32; 128]).unwrap();
    other.synchronize().unwrap();
    stream.synchronize().unwrap();
    let mut launch = stream.launch_builder(&function);
    launch.arg(&x).arg(&mut y);
    // SAFETY: the kernel's parameters.
    unsafe { launch.launch(config(1, 128)) }.unwrap();
    drop(x);
    code(other.synchronize().and_then(|()| stream.synchronize()))
}

#[test]
fn a_buffer_that_is_freed_before_its_kernel_runs_is_found() {
    let codes: Vec<CUresult> = (1..9).map(freed_too_early).collect();
    assert!(codes.contains(&CUresult::CUDA_ERROR_ILLEGAL_ADDRESS), "{codes:?}");
}
