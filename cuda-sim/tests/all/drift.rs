//! The PTX beside the sources is what nvcc makes of them.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use cuda_sim::Module;

/// All but the bytes of debug strings: among them are names that nvcc makes of the folder a source lies in.
fn code(ptx: &str) -> impl Iterator<Item = &str> {
    ptx.lines().filter(|line| !line.starts_with(".b8 "))
}

/// The project's own compiler; where there is none, a line says so.
fn nvcc() -> Option<PathBuf> {
    let nvcc = Path::new(env!("CARGO_MANIFEST_DIR")).join("../.cuda-toolchain/bin/nvcc");
    if !nvcc.exists() {
        let _ = writeln!(std::io::stderr(), "skipped: no nvcc; tools/cuda-toolchain.sh makes it");
        return None;
    }
    Some(nvcc)
}

#[test]
fn sources_and_ptx_belong_together() {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let Some(nvcc) = nvcc() else { return };
    let kernels = here.join("tests/kernels");
    let out = Path::new(env!("CARGO_TARGET_TMPDIR")).join("ptx");
    std::fs::create_dir_all(&out).unwrap();
    let made =
        Command::new("sh").arg(kernels.join("compile.sh")).arg(&nvcc).arg(&out).output().unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let mut compared = 0;
    for entry in std::fs::read_dir(&kernels).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "ptx") {
            let fresh = std::fs::read_to_string(out.join(path.file_name().unwrap())).unwrap();
            let kept = std::fs::read_to_string(&path).unwrap();
            assert!(
                code(&fresh).eq(code(&kept)),
                "{} is not what nvcc makes of its source: run compile.sh",
                path.display()
            );
            compared += 1;
        }
    }
    assert!(compared >= 4);
}

#[test]
fn what_nvcc_makes_for_newer_targets_is_read_too() {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let Some(nvcc) = nvcc() else { return };
    for (name, target) in
        [("scalar", "120"), ("tensor", "120"), ("scalar", "90a"), ("tensor", "89")]
    {
        let out = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}_{target}.ptx"));
        let code = format!("arch=compute_{target},code=compute_{target}");
        let made = Command::new(&nvcc)
            .args(["-O3", "-std=c++17", "-gencode", &code, "-ptx"])
            .arg(here.join(format!("tests/kernels/{name}.cu")))
            .arg("-o")
            .arg(&out)
            .output()
            .unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        let module = Module::parse(&std::fs::read_to_string(&out).unwrap());
        assert_eq!(module.unwrap().target, format!("sm_{target}"));
    }
}
