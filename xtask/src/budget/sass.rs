//! What ptxas made of the kernels, read out of the images by cuobjdump: resources and instructions of every function.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use crate::Result;

/// A kernel for one target.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Function {
    /// Registers a thread.
    pub(super) registers: u32,
    /// Bytes of stack a thread.
    pub(super) stack: u32,
    /// Bytes of shared memory that the kernel declares.
    pub(super) shared: u32,
    /// How often each instruction stands there, modifiers included.
    pub(super) instructions: BTreeMap<String, u32>,
}

impl Function {
    /// How many instructions are `name`, with whatever modifiers.
    pub(super) fn count(&self, name: &str) -> u32 {
        let is = |found: &&String| {
            found.strip_prefix(name).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
        };
        self.instructions.iter().filter(|(found, _)| is(found)).map(|(_, n)| n).sum()
    }
}

/// Kernel and target, such as `sm_90a`.
pub(super) type Functions = BTreeMap<(String, String), Function>;

/// Every function of an image.
pub(super) fn read(cuobjdump: &Path, image: &Path) -> Result<Functions> {
    let ask = |flag: &str| -> Result<String> {
        let output = Command::new(cuobjdump)
            .arg(flag)
            .arg(image)
            .output()
            .map_err(|problem| format!("{}: {problem}", cuobjdump.display()))?;
        if !output.status.success() {
            return Err(format!("cuobjdump: {}", String::from_utf8_lossy(&output.stderr).trim()));
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    };
    let mut functions = resources(&ask("-res-usage")?);
    instructions(&ask("-sass")?, &mut functions);
    Ok(functions)
}

/// The answer to `-res-usage`.
fn resources(text: &str) -> Functions {
    let (mut functions, mut target, mut name) = (Functions::new(), String::new(), None);
    for line in text.lines().map(str::trim) {
        if let Some(arch) = line.strip_prefix("arch = ") {
            arch.clone_into(&mut target);
        } else if let Some(function) = line.strip_prefix("Function ") {
            name = Some(function.trim_end_matches(':').to_owned());
        } else if line.starts_with("REG:")
            && let Some(name) = name.take()
        {
            let number = |key: &str| {
                let found = line.split_whitespace().find_map(|word| word.strip_prefix(key));
                found.and_then(|number| number.parse().ok()).unwrap_or(0)
            };
            let function = Function {
                registers: number("REG:"),
                stack: number("STACK:") + number("LOCAL:"),
                shared: number("SHARED:"),
                instructions: BTreeMap::new(),
            };
            functions.insert((name, target.clone()), function);
        }
    }
    functions
}

/// The answer to `-sass`, counted into the functions it is about.
fn instructions(text: &str, functions: &mut Functions) {
    let (mut target, mut name) = (String::new(), String::new());
    for line in text.lines().map(str::trim) {
        if let Some(arch) = line.strip_prefix("arch = ") {
            arch.clone_into(&mut target);
        } else if let Some(function) = line.strip_prefix("Function : ") {
            function.clone_into(&mut name);
        } else if let Some(word) = mnemonic(line)
            && let Some(function) = functions.get_mut(&(name.clone(), target.clone()))
        {
            *function.instructions.entry(word.to_owned()).or_default() += 1;
        }
    }
}

/// The instruction of a line such as `/*00b0*/  @P0 BRA 0x2d0 ;  /* ... */`.
fn mnemonic(line: &str) -> Option<&str> {
    let (_, rest) = line.strip_prefix("/*")?.split_once("*/")?;
    let mut words = rest.split([' ', ';']).filter(|word| !word.is_empty());
    let first = words.next()?;
    let word = if first.starts_with('@') { words.next()? } else { first };
    word.starts_with(|c: char| c.is_ascii_uppercase()).then_some(word)
}

#[cfg(test)]
mod tests {
    use super::*;

    const RESOURCES: &str = "
Fatbin elf code:
================
arch = sm_90a
Resource usage:
 Common:
  GLOBAL:0
 Function swiglu:
  REG:23 STACK:8 SHARED:32 LOCAL:4 CONSTANT[0]:408 TEXTURE:0 SURFACE:0 SAMPLER:0

Fatbin ptx code:
================
arch = sm_80
";
    const SASS: &str = "
arch = sm_90a
\tcode for sm_90a
\t\tFunction : swiglu
        /*0000*/                   LDG.E.128 R1, [R2] ;      /* 0x00000a00ff017624 */
                                                             /* 0x000fe400078e00ff */
        /*00b0*/               @!P0 LDGSTS.E R2 ;            /* 0x0000021000000947 */
        /*00c0*/                   LDG.E R1, [R2] ;          /* 0x00000a00ff017624 */
";

    #[test]
    fn functions_are_read() {
        let mut functions = resources(RESOURCES);
        instructions(SASS, &mut functions);
        let function = &functions[&("swiglu".to_owned(), "sm_90a".to_owned())];
        assert_eq!((function.registers, function.stack, function.shared), (23, 12, 32));
        assert_eq!(
            (function.count("LDG"), function.count("LDGSTS"), function.count("LD")),
            (2, 1, 0)
        );
        assert_eq!(functions.len(), 1);
    }
}
