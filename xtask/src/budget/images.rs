//! The images that tests run and the ones that ship are of one text.

use std::path::Path;
use std::process::Command;

use crate::Result;

/// What separates the PTX of two images, for the target that both hold; none where nothing does.
pub(super) fn difference(cuobjdump: &Path, test: &Path, release: &Path) -> Result<Option<String>> {
    let (test, release) = (text(cuobjdump, test)?, text(cuobjdump, release)?);
    let (test, release) = (code(&test), code(&release));
    if test.is_empty() {
        return Ok(Some("no PTX for sm_80".into()));
    }
    let lines = test.iter().zip(&release).position(|(test, release)| test != release);
    Ok(match lines {
        Some(at) => Some(format!("`{}` is tested, `{}` ships", test[at], release[at])),
        None if test.len() == release.len() => None,
        None => Some(format!("{} lines are tested, {} ship", test.len(), release.len())),
    })
}

fn text(cuobjdump: &Path, image: &Path) -> Result<String> {
    let mut command = Command::new(cuobjdump);
    let output = command.args(["-ptx", "-arch", "sm_80"]).arg(image).output();
    let output = output.map_err(|problem| format!("{}: {problem}", cuobjdump.display()))?;
    if !output.status.success() {
        return Err(format!("cuobjdump: {}", String::from_utf8_lossy(&output.stderr).trim()));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// The module without where its lines come from, which test images say and others do not.
fn code(text: &str) -> Vec<&str> {
    let lines = text.lines().map(str::trim).skip_while(|line| !line.starts_with(".version"));
    let module = lines.take_while(|line| !line.starts_with(".section"));
    let is_code =
        |line: &&str| !line.is_empty() && !line.starts_with(".loc") && !line.starts_with(".file");
    module.filter(is_code).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_in_the_source_are_no_code() {
        let test = "arch = sm_80\n.version 9.0\n\n.loc 1 2 3\nadd.s32 %r1;\n.file 1 \"a.cu\"\n.section\t.debug_str\n{\n";
        assert_eq!(code(test), [".version 9.0", "add.s32 %r1;"]);
        assert_eq!(code(test), code(".version 9.0\n\tadd.s32 %r1;\n"));
    }
}
