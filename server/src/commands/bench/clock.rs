//! Time on the wall or on the processor, and what others took of the machine meanwhile.

use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};

/// What a measurement's seconds are.
#[derive(Debug, Clone, Copy)]
pub(super) enum Clock {
    /// Since this instant.
    Wall(Instant),
    /// What all threads of this process have computed. With one that computes, its own time, in which other programs
    /// do not count.
    Cpu,
}

impl Clock {
    /// Now; only differences mean anything.
    pub(super) fn now(self) -> Duration {
        match self {
            Self::Wall(start) => start.elapsed(),
            Self::Cpu => read(ClockId::ProcessCPUTime),
        }
    }

    /// Its name in JSON.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Wall(_) => "wall",
            Self::Cpu => "cpu",
        }
    }
}

/// What the calling thread has computed.
pub(super) fn thread_time() -> Duration {
    read(ClockId::ThreadCPUTime)
}

fn read(clock: ClockId) -> Duration {
    Duration::try_from(clock_gettime(clock)).unwrap_or_default()
}

/// What the whole machine has done, and this process's part in it.
pub(super) struct Others {
    began: Instant,
    own: Duration,
    machine: Option<Busy>,
}

/// The first lines of `/proc/stat`.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Busy {
    busy_ticks: u64,
    cores: u64,
}

impl Others {
    /// From now on.
    pub(super) fn begin() -> Self {
        let machine = machine();
        Self { began: Instant::now(), own: read(ClockId::ProcessCPUTime), machine }
    }

    /// The share of the machine's processors that others kept busy since then, stolen time included; `None` where
    /// the system does not say, or too little time has passed for its ticks.
    pub(super) fn share(&self) -> Option<f64> {
        let (then, now) = (self.machine?, machine()?);
        let hertz = rustix::param::clock_ticks_per_second() as f64;
        let busy = now.busy_ticks.saturating_sub(then.busy_ticks) as f64 / hertz;
        let own = read(ClockId::ProcessCPUTime).saturating_sub(self.own).as_secs_f64();
        let all = self.began.elapsed().as_secs_f64() * now.cores as f64;
        (all * hertz >= 20.0).then(|| ((busy - own) / all).clamp(0.0, 1.0))
    }
}

fn machine() -> Option<Busy> {
    parse(&std::fs::read_to_string("/proc/stat").ok()?)
}

/// `cpu user nice system idle iowait irq softirq steal guest guest_nice`; guests are in user and nice already.
fn parse(stat: &str) -> Option<Busy> {
    let all = stat.lines().next()?.strip_prefix("cpu ")?;
    let ticks: Vec<u64> = all.split_whitespace().map_while(|word| word.parse().ok()).collect();
    let [user, nice, system, _idle, _waiting, irq, softirq, steal, ..] = *ticks.as_slice() else {
        return None;
    };
    let cores = stat.lines().skip(1).take_while(|line| line.starts_with("cpu")).count() as u64;
    let busy_ticks = [user, nice, system, irq, softirq, steal].iter().sum();
    (cores > 0).then_some(Busy { busy_ticks, cores })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn busy_is_all_but_idle_and_waiting() {
        let stat = "cpu  10 2 30 1000 500 4 5 6 7 8\ncpu0 1 1 1 1\ncpu1 1 1 1 1\nintr 1\n";
        assert_eq!(parse(stat), Some(Busy { busy_ticks: 57, cores: 2 }));
        for broken in ["", "cpu 1 2 3\ncpu0 1", "cpu  1 2 3 4 5 6 7 8\nintr 1\n"] {
            assert_eq!(parse(broken), None, "{broken}");
        }
    }

    #[test]
    fn the_processors_clock_stands_while_a_thread_sleeps() {
        let (thread, wall) = (thread_time(), Instant::now());
        std::thread::sleep(Duration::from_millis(30));
        assert!(thread_time().saturating_sub(thread) < wall.elapsed() / 2);
        let (cpu, thread) = (Clock::Cpu.now(), thread_time());
        let mut x = 1u64;
        while thread_time().saturating_sub(thread) < Duration::from_millis(5) {
            x = std::hint::black_box(x.wrapping_mul(3));
        }
        assert!(Clock::Cpu.now().saturating_sub(cpu) >= Duration::from_millis(5));
    }
}
