//! Machines of several kinds, as files tell of them.

use super::*;

/// A machine's files, below a folder of its own.
struct Machine(tempfile::TempDir);

impl Machine {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn with(self, path: &str, text: &str) -> Self {
        let path = self.0.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
        self
    }

    /// Processors `cpus`, each with the list of those that share its core.
    fn cores(
        mut self,
        cpus: impl Iterator<Item = usize>,
        siblings: impl Fn(usize) -> String,
    ) -> Self {
        for cpu in cpus {
            let path = format!("system/cpu/cpu{cpu}/topology/thread_siblings_list");
            self = self.with(&path, &siblings(cpu));
        }
        self
    }

    fn read(&self, allowed: impl Iterator<Item = usize>) -> Topology {
        let allowed: Vec<usize> = allowed.collect();
        let at_once = allowed.len();
        Topology::read(self.0.path(), &allowed, at_once)
    }
}

fn cpus(team: &Team) -> Vec<usize> {
    team.seats.iter().filter_map(|seat| seat.cpu).collect()
}

/// Two memory nodes of four cores, two processors a core: the second ones are eight further.
fn two_nodes() -> Machine {
    Machine::new()
        .cores(0..16, |cpu| format!("{},{}\n", cpu % 8, cpu % 8 + 8))
        .with("system/node/node0/cpulist", "0-3,8-11\n")
        .with("system/node/node1/cpulist", "4-7,12-15\n")
        .with("system/node/online", "0-1\n")
}

#[test]
fn a_thread_for_each_core_by_turns_of_the_nodes() {
    let machine = two_nodes().read(0..16);
    assert_eq!(machine.threads(), 8);
    let team = machine.team(8, None).unwrap();
    assert_eq!(cpus(&team), [0, 4, 1, 5, 2, 6, 3, 7]);
    assert_eq!(team.nodes, [0, 1]);
    assert!(team.seats.iter().enumerate().all(|(i, seat)| seat.node == i % 2));
    // More than cores: their second processors.
    assert_eq!(cpus(&machine.team(10, None).unwrap())[8..], [8, 12]);
    // More than processors, or not wanted.
    for team in [
        machine.team(17, None).unwrap(),
        machine.team(17, Some(true)).unwrap(),
        machine.team(8, Some(false)).unwrap(),
    ] {
        assert_eq!(team, Team::anywhere(team.seats.len()));
    }
}

#[test]
fn what_a_process_may_not_use_is_not_there() {
    // The second node alone, and of one core the second processor.
    let machine = two_nodes().read([4, 5, 14, 15].into_iter());
    assert_eq!(machine.threads(), 4);
    // One node, one kind: nothing to gain.
    assert_eq!(machine.team(4, None).unwrap(), Team::anywhere(4));
    let team = machine.team(4, Some(true)).unwrap();
    assert_eq!((cpus(&team), team.nodes), (vec![4, 5, 14, 15], vec![1]));
    // A quota of two processors' time: others have the rest, and may be on any.
    let machine = Topology { at_once: 2, ..two_nodes().read(0..16) };
    assert_eq!(machine.threads(), 2);
    assert_eq!(machine.team(2, None).unwrap(), Team::anywhere(2));
    assert_eq!(cpus(&machine.team(2, Some(true)).unwrap()), [0, 4]);
    // Fewer threads than there are cores.
    assert_eq!(two_nodes().read(0..16).team(4, None).unwrap(), Team::anywhere(4));
}

#[test]
fn slow_cores_come_after_fast_ones_and_before_second_processors() {
    // Two fast cores of two processors, four slow ones of one.
    let intel = Machine::new()
        .cores(0..4, |cpu| format!("{}-{}", cpu / 2 * 2, cpu / 2 * 2 + 1))
        .cores(4..8, |cpu| cpu.to_string())
        .with("cpu_core/cpus", "0-3\n")
        .with("cpu_atom/cpus", "4-5\n")
        .with("cpu_lowpower/cpus", "6-7\n");
    // Four small, three middle ones, a large one.
    let arm = (0..8).fold(Machine::new(), |machine, cpu| {
        let capacity = [250, 250, 250, 250, 700, 1000, 1000, 1024][cpu];
        machine.with(&format!("system/cpu/cpu{cpu}/cpu_capacity"), &format!("{capacity}\n"))
    });
    let (intel, arm) = (intel.read(0..8), arm.read(0..8));
    assert_eq!((intel.threads(), arm.threads()), (2, 3));
    assert_eq!(cpus(&intel.team(2, None).unwrap()), [0, 2]);
    assert_eq!(cpus(&intel.team(8, None).unwrap()), [0, 2, 4, 5, 6, 7, 1, 3]);
    assert_eq!(cpus(&arm.team(3, None).unwrap()), [5, 6, 7]);
    assert_eq!(cpus(&arm.team(5, None).unwrap()), [5, 6, 7, 0, 1]);
}

#[test]
fn slow_cores_alone_are_as_good_as_any() {
    let machine = Machine::new().with("cpu_core/cpus", "0-3").with("cpu_atom/cpus", "4-7");
    assert_eq!(machine.read(4..8).threads(), 4);
    assert_eq!(machine.read(4..8).team(4, None).unwrap(), Team::anywhere(4));
}

#[test]
fn without_files_or_with_damaged_ones_all_are_alike() {
    let damaged = Machine::new()
        .with("system/cpu/cpu0/topology/thread_siblings_list", "0-99999999999,x,-,3-1")
        .with("system/cpu/cpu0/cpu_capacity", "fast")
        .with("system/node/node0/cpulist", "\u{0}")
        .with("system/node/nodeX/cpulist", "1");
    for machine in [Machine::new(), damaged] {
        let machine = machine.read(0..3);
        assert_eq!(machine.threads(), 3);
        assert_eq!(machine.team(3, None).unwrap(), Team::anywhere(3));
        assert_eq!(machine.team(2, Some(true)).unwrap().nodes, [0]);
    }
}

#[test]
fn this_machine_has_a_processor() {
    let machine = Topology::of_process();
    assert!(machine.threads() >= 1 && machine.threads() <= machine.processors.len());
    assert_eq!(machine.team(1, Some(true)).unwrap().seats.len(), 1);
}

#[test]
fn a_number_of_threads_out_of_range_is_refused() {
    for threads in [0, 1025, usize::MAX] {
        let error = Topology::of_process().team(threads, None).unwrap_err().to_string();
        assert_eq!(error, format!("`threads` is {threads}, wanted 1 to 1024"));
    }
}
