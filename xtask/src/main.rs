//! Commands for the people who work on hadal: `cargo xtask <command>`. Plain Rust, no script language, and no crate
//! of ours: it knows paths, so it builds and runs when the rest does not.

#![allow(clippy::print_stdout, reason = "printing is what these commands are for")]

mod abi;
mod budget;
mod ci;
mod fuzz;
mod gguf;
mod golden;
mod gpu;
mod tidy;
mod tiny;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// A failure is a sentence for the person at the terminal.
type Result<T> = std::result::Result<T, String>;

const USAGE: &str = "usage: cargo xtask <command>

  ci                        formatting, lints, tidy, and cargo-deny where it is installed
  tidy                      sizes, layers, homes, markers, paths, links; prints the line budget
  abi                       compare kernels/src/abi.rs with what bindgen makes of kernels/include
       [--write yes]        write it
       [--install yes]      first put bindgen and libclang into .tools
  budget                    hold the kernels' build and their counters to kernels/budget.toml (needs nvcc)
       [--write yes]        take today's registers and blocks as the budget
  roofline                  write docs/kernels.md (needs nvcc)
  tiny --out DIR            write a seeded random checkpoint in Hugging Face layout
       [--preset NAME]      tiny (default), blocks, v2-lite, ds-lite-cut, v3-mini, ds-mini, v3-layer, moonlight-cut
       [--routing KIND]     uniform (default), or zipf: few experts are chosen often, many seldom
       [--seed N]           default 1
  golden [CASE ...]         run `hadal logits` over tests/golden and compare with the references
       [--bin PATH]         the binary to run, default target/release/hadal
       [--python PATH]      a python3 that has numpy, default .tools/python/bin/python, else python3
  fuzz [TARGET ...]         run the fuzz targets over real files as seeds (needs cargo-fuzz)
       [--seconds N]        for each target, default 600
       [--jobs N]           processes at once, default 1
  gpu                       everything that a real card can show: selftest, golden checkpoints, speeds; says what it would
                            run where there is none
  gguf                      write GGUF files of the golden checkpoints and of quantised weights, and compare
       [--bin PATH]         as above
       [--python PATH]      as above, with the package gguf too
";

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let Some((command, rest)) = args.split_first() else {
        eprint!("{USAGE}");
        return ExitCode::from(2);
    };
    let result = match command.as_str() {
        "abi" => abi::run(&root(), rest),
        "budget" => budget::run(&root(), rest),
        "roofline" => budget::roofline(&root()),
        "ci" => ci::run(&root()),
        "tidy" => tidy::run(&root()),
        "tiny" => tiny::run(rest),
        "golden" => golden::run(&root(), rest),
        "fuzz" => fuzz::run(&root(), rest),
        "gpu" => gpu::run(&root(), rest),
        "gguf" => gguf::run(&root(), rest),
        "help" | "--help" | "-h" => {
            print!("{USAGE}");
            return ExitCode::SUCCESS;
        }
        other => {
            eprint!("xtask: no command `{other}`\n\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => {
            eprintln!("xtask {command}: {problem}");
            ExitCode::FAILURE
        }
    }
}

/// The repository: the folder above this package.
fn root() -> PathBuf {
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    package.parent().unwrap_or(package).to_path_buf()
}

/// A command line taken apart.
#[derive(Debug, Default, PartialEq)]
struct Words<'a> {
    /// `--name value` pairs.
    flags: Vec<(&'a str, &'a str)>,
    /// The words that belong to no flag.
    plain: Vec<&'a str>,
}

impl<'a> Words<'a> {
    /// Takes `args` apart; flags are the ones in `known`.
    ///
    /// # Errors
    /// A flag that is not known, or one without its value.
    fn read(args: &'a [String], known: &[&str]) -> Result<Self> {
        let mut words = Self::default();
        let mut args = args.iter();
        while let Some(arg) = args.next() {
            if !arg.starts_with("--") {
                words.plain.push(arg.as_str());
                continue;
            }
            if !known.contains(&arg.as_str()) {
                return Err(format!("no flag `{arg}`; known are {}", known.join(", ")));
            }
            let value = args.next().ok_or_else(|| format!("`{arg}` wants a value"))?;
            words.flags.push((arg.as_str(), value.as_str()));
        }
        Ok(words)
    }

    /// A flag's value; the last one wins.
    fn flag(&self, name: &str) -> Option<&'a str> {
        self.flags.iter().rev().find(|(flag, _)| *flag == name).map(|(_, value)| *value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &str) -> Vec<String> {
        line.split_whitespace().map(str::to_owned).collect()
    }

    #[test]
    fn flags_take_values_and_leave_words() {
        let args = words("v3-moe --bin a/b v2-lite");
        let found = Words::read(&args, &["--bin"]).unwrap();
        assert_eq!(found.flag("--bin"), Some("a/b"));
        assert_eq!(found.plain, ["v3-moe", "v2-lite"]);
    }

    #[test]
    fn unknown_flags_and_missing_values_are_named() {
        assert!(Words::read(&words("--bni x"), &["--bin"]).unwrap_err().contains("--bni"));
        assert!(Words::read(&words("--bin"), &["--bin"]).unwrap_err().contains("wants a value"));
    }
}
