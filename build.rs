//! The build script of `kernels`: nvcc makes one image per `kernels/cuda/*.cu`, and `images.rs` in `OUT_DIR` embeds them.
//!
//! An image is made anew when its source, a header it includes, the compiler or the flags change; images stay in
//! `target/kernels/<kind>/`, so that a change to one family costs one family. Two kinds: *test* images hold the PTX of every
//! target as plain text, for the simulated card and for drivers that compile it; *release* images hold machine code for
//! every target and compressed PTX for cards to come.
//!
//! No nvcc: no image, a warning, and a program that runs on the CPU; `REQUIRE_CUDA=1` makes that an error. An nvcc that is
//! there and fails is always an error.

#![allow(clippy::print_stdout, reason = "this is how a build script talks to cargo")]
#![allow(clippy::disallowed_methods, reason = "this is how cargo talks to a build script")]

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::{env, fs, thread};

type Result<T> = std::result::Result<T, String>;

/// Targets of the simulated cards: PTX alone, uncompressed. Lines of the source go with it, for the simulator's findings.
const TEST_FLAGS: &[&str] = &[
    "-lineinfo",
    "--no-compress",
    "-gencode=arch=compute_80,code=compute_80",
    "-gencode=arch=compute_89,code=compute_89",
    "-gencode=arch=compute_90a,code=compute_90a",
    "-gencode=arch=compute_120,code=compute_120",
];
/// Targets that ship: machine code, and the oldest target's PTX for every later card.
const RELEASE_FLAGS: &[&str] = &[
    "-gencode=arch=compute_80,code=[sm_80,compute_80]",
    "-gencode=arch=compute_86,code=sm_86",
    "-gencode=arch=compute_89,code=sm_89",
    "-gencode=arch=compute_90a,code=sm_90a",
    "-gencode=arch=compute_120,code=sm_120",
];
const FLAGS: &[&str] = &["--fatbin", "-O3", "-std=c++17", "-Werror=all-warnings"];
/// Compilers at once: more of them wait for memory on small machines.
const JOBS_MAX: usize = 2;

fn main() {
    if let Err(problem) = run() {
        for line in problem.lines() {
            println!("cargo::error={line}");
        }
        std::process::exit(1);
    }
}

fn run() -> Result<()> {
    let package = PathBuf::from(variable("CARGO_MANIFEST_DIR")?);
    let out = PathBuf::from(variable("OUT_DIR")?);
    let root = package.parent().ok_or("the package lies in no folder")?.to_path_buf();
    println!("cargo:rustc-check-cfg=cfg(have_kernels)");
    println!("cargo:rustc-check-cfg=cfg(have_test_kernels)");
    for name in ["NVCC", "CUDA_HOME", "CUDA_PATH", "REQUIRE_CUDA"] {
        println!("cargo:rerun-if-env-changed={name}");
    }
    for path in ["build.rs", "kernels/cuda", "kernels/include"] {
        println!("cargo:rerun-if-changed={}", root.join(path).display());
    }
    let Some(nvcc) = find_nvcc(&root) else {
        if env::var("REQUIRE_CUDA").is_ok_and(|value| value == "1") {
            return Err(
                "no nvcc, and REQUIRE_CUDA=1 asks for kernels: run tools/cuda-toolchain.sh".into(),
            );
        }
        println!(
            "cargo:warning=no nvcc: this build carries no GPU kernels (tools/cuda-toolchain.sh installs one)"
        );
        return write(&out.join("images.rs"), &table(&[]));
    };
    // The project's own compiler may be replaced by another set. That it was made after a build without one, its script
    // tells by touching this file: a path that is not there would be a reason to build everything anew each time.
    let own = root.join(".cuda-toolchain/packages.txt");
    if own.exists() {
        println!("cargo:rerun-if-changed={}", own.display());
    }
    let is_release = variable("PROFILE")? == "release";
    let kind = if is_release { "release" } else { "test" };
    let flags = if is_release { RELEASE_FLAGS } else { TEST_FLAGS };
    // OUT_DIR is target/<profile>/build/<package>/out.
    let cache = out.ancestors().nth(4).unwrap_or(&out).join("kernels").join(kind);
    fs::create_dir_all(&cache).map_err(|problem| format!("{}: {problem}", cache.display()))?;
    let jobs = jobs(&nvcc, &package, &cache, flags)?;
    build_all(&jobs)?;
    let images: Vec<(&str, &Path)> =
        jobs.iter().map(|job| (job.family.as_str(), job.image.as_path())).collect();
    write(&cache.join("manifest.txt"), &manifest(&images))?;
    write(&out.join("images.rs"), &table(&images))?;
    println!("cargo:rustc-cfg=have_kernels");
    println!("cargo:rustc-env=HADAL_NVCC={}", nvcc.display());
    if !is_release {
        println!("cargo:rustc-cfg=have_test_kernels");
    }
    Ok(())
}

fn variable(name: &str) -> Result<String> {
    env::var(name).map_err(|problem| format!("{name}: {problem}"))
}

fn write(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).map_err(|problem| format!("{}: {problem}", path.display()))
}

fn read(path: &Path) -> Result<String> {
    fs::read_to_string(path).map_err(|problem| format!("{}: {problem}", path.display()))
}

/// The first compiler that answers, of what the user named, the project's own, and what the system has.
fn find_nvcc(root: &Path) -> Option<PathBuf> {
    let named = env::var_os("NVCC").map(PathBuf::from);
    let homes = ["CUDA_HOME", "CUDA_PATH"].into_iter().filter_map(env::var_os);
    let homes = homes.map(|home| Path::new(&home).join("bin/nvcc"));
    let own = root.join(".cuda-toolchain/bin/nvcc");
    let rest = [own, PathBuf::from("nvcc"), PathBuf::from("/usr/local/cuda/bin/nvcc")];
    named.into_iter().chain(homes).chain(rest).find(|nvcc| version(nvcc).is_some())
}

fn version(nvcc: &Path) -> Option<String> {
    let answer = Command::new(nvcc).arg("--version").output().ok()?;
    answer.status.success().then(|| String::from_utf8_lossy(&answer.stdout).into_owned())
}

/// One family's image, to be made unless it is there.
struct Job {
    family: String,
    source: PathBuf,
    image: PathBuf,
    nvcc: PathBuf,
    args: Vec<String>,
}

/// Every family, named after its source.
fn jobs(nvcc: &Path, package: &Path, cache: &Path, flags: &[&str]) -> Result<Vec<Job>> {
    let sources = package.join("cuda");
    let entries =
        fs::read_dir(&sources).map_err(|problem| format!("{}: {problem}", sources.display()))?;
    let include = package.join("include");
    let args: Vec<String> = FLAGS.iter().chain(flags).map(|flag| (*flag).to_owned()).collect();
    let compiler = version(nvcc).unwrap_or_default();
    let mut jobs = Vec::new();
    for entry in entries {
        let source = entry.map_err(|problem| problem.to_string())?.path();
        let Some(family) = source.file_stem().and_then(|stem| stem.to_str()) else { continue };
        if source.extension().is_none_or(|extension| extension != "cu") {
            continue;
        }
        let mut hash = DefaultHasher::new();
        (&compiler, &args).hash(&mut hash);
        let mut seen = BTreeSet::new();
        hash_text(&source, &include, &mut hash, &mut seen)?;
        jobs.push(Job {
            family: family.to_owned(),
            image: cache.join(format!("{family}-{:016x}.fatbin", hash.finish())),
            nvcc: nvcc.to_path_buf(),
            args: args.iter().cloned().chain([format!("-I{}", include.display())]).collect(),
            source,
        });
    }
    jobs.sort_by(|a, b| a.family.cmp(&b.family));
    Ok(jobs)
}

/// The text of a source and of every header of ours that it includes, each once.
fn hash_text(
    path: &Path,
    include: &Path,
    hash: &mut DefaultHasher,
    seen: &mut BTreeSet<PathBuf>,
) -> Result<()> {
    if !seen.insert(path.to_path_buf()) {
        return Ok(());
    }
    let text = read(path)?;
    text.hash(hash);
    for line in text.lines() {
        let Some(name) =
            line.trim().strip_prefix("#include \"").and_then(|rest| rest.strip_suffix('"'))
        else {
            continue;
        };
        let header = include.join(name);
        if header.exists() {
            hash_text(&header, include, hash, seen)?;
        }
    }
    Ok(())
}

/// Makes the images that are not there.
fn build_all(jobs: &[Job]) -> Result<()> {
    let missing = Mutex::new(jobs.iter().filter(|job| !job.image.exists()));
    let next = || missing.lock().ok()?.next();
    let work = || -> Result<()> {
        while let Some(job) = next() {
            build(job)?;
        }
        Ok(())
    };
    let cores = thread::available_parallelism().map_or(1, usize::from);
    thread::scope(|scope| {
        let workers: Vec<_> = (0..cores.min(JOBS_MAX)).map(|_| scope.spawn(work)).collect();
        workers.into_iter().map(thread::ScopedJoinHandle::join).try_for_each(|result| {
            result.unwrap_or_else(|_| Err("a thread of the build script died".into()))
        })
    })
}

fn build(job: &Job) -> Result<()> {
    // Made beside its place and moved there whole: an interrupted build leaves no half image.
    let fresh = job.image.with_extension(format!("{}.new", std::process::id()));
    let output = Command::new(&job.nvcc)
        .args(&job.args)
        .arg(&job.source)
        .arg("-o")
        .arg(&fresh)
        .output()
        .map_err(|problem| format!("{}: {problem}", job.nvcc.display()))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr).into_owned()
            + &String::from_utf8_lossy(&output.stdout);
        return Err(format!(
            "nvcc failed on {}\n{said}\n{} is not the 13.0 that tools/cuda-toolchain.sh installs? NVCC names another one",
            job.source.display(),
            job.nvcc.display()
        ));
    }
    fs::rename(&fresh, &job.image).map_err(|problem| format!("{}: {problem}", job.image.display()))
}

/// Rust that finds an image by its family. A driver reads words, so the bytes are aligned.
fn table(images: &[(&str, &Path)]) -> String {
    let mut text = String::from(
        "/// The image of a family; empty where the build had no compiler or the family no source.\n",
    );
    text += "pub(crate) fn find(family: &str) -> &'static [u8] {\n    match family {\n";
    for (family, image) in images {
        let image = image.display().to_string();
        let _ = write!(
            text,
            "        {family:?} => {{\n            static IMAGE: &crate::Aligned<[u8]> = \
             &crate::Aligned(*include_bytes!({image:?}));\n            &IMAGE.0\n        }}\n",
        );
    }
    text + "        _ => &[],\n    }\n}\n"
}

/// One line a family, for those who look at images without linking them.
fn manifest(images: &[(&str, &Path)]) -> String {
    images.iter().fold(String::new(), |mut text, (family, image)| {
        let _ = writeln!(text, "{family} {}", image.display());
        text
    })
}
