//! The processors that a thread may run on, where the system tells and takes it (Linux).

/// A set of processors.
#[derive(Debug, Clone, Copy)]
pub(in super::super) struct Affinity(system::Set);

impl Affinity {
    /// Of the calling thread; `None` where the system does not tell.
    pub(in super::super) fn current() -> Option<Self> {
        system::current().map(Self)
    }

    /// One processor.
    pub(in super::super) fn one(cpu: usize) -> Self {
        Self(system::one(cpu))
    }

    /// Holds the calling thread to it. One that the system refuses runs where it did: nothing but time depends on it.
    pub(in super::super) fn hold(&self) {
        system::hold(&self.0);
    }

    /// The processors, in order.
    pub(in super::super) fn cpus(&self) -> Vec<usize> {
        system::cpus(&self.0)
    }
}

#[cfg(target_os = "linux")]
mod system {
    use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

    pub(super) type Set = CpuSet;

    pub(super) fn current() -> Option<Set> {
        sched_getaffinity(None).ok()
    }

    pub(super) fn one(cpu: usize) -> Set {
        let mut set = CpuSet::new();
        if cpu < CpuSet::MAX_CPU {
            set.set(cpu);
        }
        set
    }

    pub(super) fn hold(set: &Set) {
        let _ = sched_setaffinity(None, set);
    }

    pub(super) fn cpus(set: &Set) -> Vec<usize> {
        (0..CpuSet::MAX_CPU).filter(|cpu| set.is_set(*cpu)).collect()
    }
}

#[cfg(not(target_os = "linux"))]
mod system {
    pub(super) type Set = ();

    pub(super) fn current() -> Option<Set> {
        None
    }

    pub(super) fn one(_: usize) -> Set {}

    pub(super) fn hold((): &Set) {}

    pub(super) fn cpus((): &Set) -> Vec<usize> {
        Vec::new()
    }
}
