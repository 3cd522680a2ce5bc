//! Entry points: streams and events.

use std::ffi::{c_int, c_uint, c_void};

use super::card::{Event, Stream, handle};
use super::queue::Command;
use super::{code, on_card, put};

/// `CU_STREAM_NON_BLOCKING`.
const NON_BLOCKING: c_uint = 1;

/// `CU_STREAM_LEGACY` and `CU_STREAM_PER_THREAD` are names of the null stream here.
pub(super) fn resolve(stream: u64) -> u64 {
    if stream <= 2 { 0 } else { stream }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuStreamCreate(stream: *mut u64, flags: c_uint) -> u32 {
    on_card(|card| {
        let id = handle();
        let blocking = flags & NON_BLOCKING == 0;
        card.streams.insert(id, Stream { blocking, ..Stream::default() });
        // SAFETY: the caller's pointer.
        unsafe { put(stream, id) }
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuStreamCreateWithPriority(
    stream: *mut u64,
    flags: c_uint,
    _priority: c_int,
) -> u32 {
    // SAFETY: the same contract.
    unsafe { cuStreamCreate(stream, flags) }
}

/// What is still in it is finished first.
#[unsafe(no_mangle)]
extern "C" fn cuStreamDestroy_v2(stream: u64) -> u32 {
    on_card(|card| {
        if resolve(stream) == 0 || !card.streams.contains_key(&stream) {
            return Err(code::INVALID_HANDLE);
        }
        card.synchronize(stream)?;
        card.streams.remove(&stream);
        Ok(())
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuStreamSynchronize(stream: u64) -> u32 {
    on_card(|card| {
        let stream = resolve(stream);
        if !card.streams.contains_key(&stream) {
            return Err(code::INVALID_HANDLE);
        }
        if card.captures.iter().any(|capture| capture.has(stream)) {
            return Err(card.capture_breaks(code::CAPTURE_UNSUPPORTED));
        }
        card.synchronize(stream)
    })
}

/// Every question is answered after one more step, so that who asks in a loop gets there.
#[unsafe(no_mangle)]
extern "C" fn cuStreamQuery(stream: u64) -> u32 {
    on_card(|card| {
        let stream = resolve(stream);
        card.run_one()?;
        match card.streams.get(&stream) {
            Some(this) if this.queue.is_empty() => Ok(()),
            Some(_) => Err(code::NOT_READY),
            None => Err(code::INVALID_HANDLE),
        }
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuStreamWaitEvent(stream: u64, event: u64, _flags: c_uint) -> u32 {
    on_card(|card| {
        let stream = resolve(stream);
        let Some(this) = card.events.get(&event) else { return Err(code::INVALID_HANDLE) };
        let generation = this.issued;
        if let Some((origin, nodes)) = this.captured.clone()
            && let Some(capture) = card.captures.iter_mut().find(|capture| capture.origin == origin)
        {
            capture.wait(stream, &nodes);
            return Ok(());
        }
        if card.captures.iter().any(|capture| capture.has(stream)) {
            // Waiting for what is outside the capture has no place in a graph.
            return Err(card.capture_breaks(code::CAPTURE_UNSUPPORTED));
        }
        // An event that was never recorded is waited for by nobody.
        if generation == 0 {
            return Ok(());
        }
        card.enqueue(stream, Command::Wait { event, generation })
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuLaunchHostFunc(stream: u64, function: *const c_void, data: *mut c_void) -> u32 {
    on_card(|card| {
        if function.is_null() {
            return Err(code::INVALID_VALUE);
        }
        let command = Command::Host { function: function as usize, data: data as usize };
        card.enqueue(resolve(stream), command)
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuEventCreate(event: *mut u64, _flags: c_uint) -> u32 {
    on_card(|card| {
        let id = handle();
        card.events.insert(id, Event::default());
        // SAFETY: the caller's pointer.
        unsafe { put(event, id) }
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuEventDestroy_v2(event: u64) -> u32 {
    on_card(|card| {
        let this = card.events.get_mut(&event).filter(|event| !event.destroyed);
        let this = this.ok_or(code::INVALID_HANDLE)?;
        this.destroyed = true;
        if this.done >= this.issued {
            card.events.remove(&event);
        }
        Ok(())
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuEventRecord(event: u64, stream: u64) -> u32 {
    on_card(|card| {
        let stream = resolve(stream);
        let Some(this) = card.events.get_mut(&event) else { return Err(code::INVALID_HANDLE) };
        if let Some(capture) = card.captures.iter().find(|capture| capture.has(stream)) {
            this.captured = Some((capture.origin, capture.last(stream)));
            return Ok(());
        }
        this.captured = None;
        this.issued += 1;
        let generation = this.issued;
        card.enqueue(stream, Command::Record { event, generation })
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuEventRecordWithFlags(event: u64, stream: u64, _flags: c_uint) -> u32 {
    cuEventRecord(event, stream)
}

#[unsafe(no_mangle)]
extern "C" fn cuEventQuery(event: u64) -> u32 {
    on_card(|card| {
        card.run_one()?;
        match card.events.get(&event) {
            Some(event) if event.captured.is_some() => Err(code::CAPTURE_UNSUPPORTED),
            Some(event) if event.done >= event.issued => Ok(()),
            Some(_) => Err(code::NOT_READY),
            None => Err(code::INVALID_HANDLE),
        }
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuEventSynchronize(event: u64) -> u32 {
    on_card(|card| {
        let Some(this) = card.events.get(&event) else { return Err(code::INVALID_HANDLE) };
        if this.captured.is_some() {
            return Err(card.capture_breaks(code::CAPTURE_UNSUPPORTED));
        }
        let generation = this.issued;
        card.run_until(|card| card.events.get(&event).is_none_or(|event| event.done >= generation))
    })
}

/// Commands that ran in between, in place of milliseconds: there is no time here.
#[unsafe(no_mangle)]
unsafe extern "C" fn cuEventElapsedTime_v2(milliseconds: *mut f32, start: u64, end: u64) -> u32 {
    on_card(|card| {
        let (Some(start), Some(end)) = (card.events.get(&start), card.events.get(&end)) else {
            return Err(code::INVALID_HANDLE);
        };
        if start.done < start.issued || end.done < end.issued {
            return Err(code::NOT_READY);
        }
        // SAFETY: the caller's pointer.
        unsafe { put(milliseconds, end.at.saturating_sub(start.at) as f32) }
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuEventElapsedTime(milliseconds: *mut f32, start: u64, end: u64) -> u32 {
    // SAFETY: the same contract.
    unsafe { cuEventElapsedTime_v2(milliseconds, start, end) }
}
