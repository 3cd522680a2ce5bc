//! Memory from a certain node, where memory has several.

/// As long as it lives, pages that the calling thread is the first to touch come from one memory node, if that has any left.
/// A thread that was started under a policy of its own (`numactl`) keeps that.
///
/// The system's manual: `set_mempolicy(2)`.
#[derive(Debug)]
pub struct Near(());

impl Near {
    /// Near the memory node of that number; `None` where the system does not take it.
    pub fn node(node: usize) -> Option<Self> {
        system::prefer(node).then_some(Self(()))
    }
}

impl Drop for Near {
    fn drop(&mut self) {
        system::reset();
    }
}

#[cfg(target_os = "linux")]
mod system {
    use std::ptr::null;

    use libc::{
        MPOL_DEFAULT, MPOL_PREFERRED, SYS_get_mempolicy, SYS_set_mempolicy, c_int, c_ulong,
    };

    /// Nodes that a mask has room for: what the system allows at most.
    const NODES: usize = 1024;

    /// Bits of a word of the mask.
    const BITS: usize = c_ulong::BITS as usize;

    /// What the call takes for the number of bits: one more than it reads.
    const MAX_NODE: usize = NODES + 1;

    pub(super) fn prefer(node: usize) -> bool {
        if node >= NODES || mode() != Some(MPOL_DEFAULT) {
            return false;
        }
        let mut mask: [c_ulong; NODES / BITS] = [0; NODES / BITS];
        mask[node / BITS] = 1 << (node % BITS);
        // SAFETY: the mask has as many bits as the call is told, and is read before it returns.
        unsafe { libc::syscall(SYS_set_mempolicy, MPOL_PREFERRED, mask.as_ptr(), MAX_NODE) == 0 }
    }

    pub(super) fn reset() {
        // SAFETY: the default has no mask. It cannot fail.
        unsafe { libc::syscall(SYS_set_mempolicy, MPOL_DEFAULT, null::<c_ulong>(), 0_usize) };
    }

    /// The calling thread's policy.
    pub(super) fn mode() -> Option<c_int> {
        let (mut mode, none): (c_int, usize) = (0, 0);
        // SAFETY: room for one number; neither mask nor address are asked for.
        let got = unsafe {
            libc::syscall(SYS_get_mempolicy, &raw mut mode, null::<c_ulong>(), none, none, none)
        };
        (got == 0).then_some(mode)
    }
}

#[cfg(not(target_os = "linux"))]
mod system {
    pub(super) fn prefer(_: usize) -> bool {
        false
    }

    pub(super) fn reset() {}
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn a_thread_prefers_a_node_for_as_long_as_it_says() {
        let before = system::mode();
        // Where the system has no policies, or this process was given one, there is nothing to be had.
        if let Some(near) = Near::node(0) {
            assert_eq!(system::mode(), Some(libc::MPOL_PREFERRED));
            // Not inside of another.
            assert!(Near::node(0).is_none());
            let touched = vec![1u8; 1 << 20];
            assert!(touched.iter().all(|byte| *byte == 1));
            drop(near);
        }
        assert_eq!(system::mode(), before);
        // No machine has these.
        for node in [1023, 1024, usize::MAX] {
            assert!(Near::node(node).is_none());
        }
        assert_eq!(system::mode(), before);
    }
}
