//! The PTX beside the sources is what nvcc makes of them.

use std::path::Path;
use std::process::Command;

#[test]
fn sources_and_ptx_belong_together() {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let nvcc = here.join("../.cuda-toolchain/bin/nvcc");
    if !nvcc.exists() {
        println!("skipped: no nvcc; tools/cuda-toolchain.sh installs it");
        return;
    }
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
                fresh == kept,
                "{} is not what nvcc makes of its source: run compile.sh",
                path.display()
            );
            compared += 1;
        }
    }
    assert!(compared >= 4);
}
