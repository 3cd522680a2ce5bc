use std::io::Write as _;

use super::*;

const NVCC: &str = ".cuda-toolchain/bin/nvcc";

/// One kernel for all targets, with an instruction.
fn evidence(registers: u32, instruction: &str) -> Evidence {
    let mut functions = Functions::new();
    let mut runs = counters::Counters::default();
    for target in &TARGETS {
        let instructions = [("LDG.E.128".to_owned(), 1), (instruction.to_owned(), 1)].into();
        let function = Function { registers, stack: 0, shared: 32, instructions };
        functions.insert(("swiglu".into(), target.name.into()), function);
        let run = counters::Run { threads: 256, ..counters::Run::default() };
        runs.runs.insert(("swiglu".into(), target.card.into()), run);
    }
    let families = vec![("swiglu".to_owned(), vec!["swiglu".to_owned()])];
    Evidence { families, functions, counters: runs, strangers: Vec::new() }
}

/// A budget that a build of 32 registers wrote.
fn budget(more: &str) -> DocumentMut {
    let mut budget = parse(&format!("# kept\n[limits]\nbytes = 1.05\n{more}")).unwrap();
    take(&mut budget, &evidence(32, "HMMA.16816"));
    budget
}

#[test]
fn a_build_is_in_the_budget_that_it_wrote() {
    let budget = budget("[kernels.swiglu]\nrequire = [\"HMMA\"]\n");
    assert!(budget.to_string().starts_with("# kept"));
    assert!(check(&budget, &evidence(32, "HMMA.16816")).is_empty());
    assert!(check(&budget, &evidence(30, "HMMA.16816")).is_empty());
}

#[test]
fn more_registers_fewer_blocks_and_missing_instructions_are_over() {
    let budget = budget("[kernels.swiglu]\nrequire = [\"HMMA\"]\n");
    let worse = check(&budget, &evidence(80, "FFMA"));
    let with = |what: &str| worse.iter().filter(|line| line.contains(what)).count();
    assert_eq!(
        (with("80 registers, 32"), with("3 blocks a multiprocessor, "), with("no HMMA")),
        (5, 5, 5),
        "{worse:?}"
    );
}

#[test]
fn spills_and_generic_accesses_are_over_whatever_the_budget() {
    let budget = budget("");
    for (instruction, what) in
        [("STL.64", "local memory"), ("LD.E", "address space"), ("ATOM.E.ADD", "address space")]
    {
        let worse = check(&budget, &evidence(32, instruction));
        assert!(worse.len() == 5 && worse[0].contains(what), "{worse:?}");
    }
    assert!(check(&budget, &evidence(32, "ATOMG.E.ADD")).is_empty());
}

#[test]
fn kernels_without_a_row_and_rows_without_a_kernel_are_found() {
    let none = parse("[kernels.gone]\nunmeasured = \"never\"\n").unwrap();
    let found = check(&none, &evidence(32, "FFMA"));
    assert!(found.iter().any(|line| line.contains("gone: in the budget")), "{found:?}");
    assert!(found.iter().any(|line| line.contains("no `registers`")), "{found:?}");
}

/// A kernel that is worse on purpose, through the compiler and out of its image.
#[test]
fn the_gate_refuses_a_kernel_that_spills() {
    let root = crate::root();
    let nvcc = root.join(NVCC);
    if !nvcc.exists() {
        let _ = writeln!(std::io::stderr(), "skipped: no nvcc; tools/cuda-toolchain.sh makes it");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let image = folder.path().join("spills.fatbin");
    let mut command = Command::new(nvcc);
    command.args(["--fatbin", "-O3", "-std=c++17", "-I"]).arg(root.join("kernels/include"));
    for target in &TARGETS {
        let arch = target.name.trim_start_matches("sm_");
        command.arg(format!("-gencode=arch=compute_{arch},code=sm_{arch}"));
    }
    let source = root.join("kernels/tests/worse/spills.cu");
    assert!(command.arg(source).arg("-o").arg(&image).status().unwrap().success());
    let functions = sass::read(&root.join(".cuda-toolchain/bin/cuobjdump"), &image).unwrap();
    let evidence = Evidence { functions, ..evidence(32, "") };
    let complaints = check(&budget(""), &evidence);
    for target in &TARGETS {
        for what in ["bytes of stack", "accesses of local memory", "registers, 32 at most"] {
            let is_it = |line: &&String| line.contains(target.name) && line.contains(what);
            assert!(complaints.iter().any(|line| is_it(&line)), "{what}: {complaints:?}");
        }
    }
}
