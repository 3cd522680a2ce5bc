//! Where a model is computed: what was asked for, what there is, and what fits.

use std::fmt;

use super::plan::MemoryPlan;
use crate::backend::cpu::{Cpu, CpuOptions};
use crate::backend::cuda::{self, Cuda, CudaOptions, Device};
use crate::checkpoint::Checkpoint;
use crate::error::{Error, Result};
use crate::limits::Limits;
use crate::model::Model;

/// Where to compute.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum DeviceChoice {
    /// A card where there is one that the model fits, else the processor.
    Auto,
    /// The processor.
    #[default]
    Cpu,
    /// The card of this number.
    Cuda(usize),
}

impl DeviceChoice {
    /// Reads a flag's value.
    ///
    /// # Errors
    /// [`Error::Setting`] for anything else.
    pub fn parse(name: &str) -> Result<Self> {
        let number = |text: &str| text.parse().ok().filter(|_| text.len() <= 4);
        match name {
            "auto" => Some(Self::Auto),
            "cpu" => Some(Self::Cpu),
            "cuda" => Some(Self::Cuda(0)),
            _ => name.strip_prefix("cuda:").and_then(number).map(Self::Cuda),
        }
        .ok_or_else(|| Error::Setting {
            name: "device",
            got: name.into(),
            want: "auto, cpu, cuda or cuda:N".into(),
        })
    }
}

impl fmt::Display for DeviceChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Cpu => f.write_str("cpu"),
            Self::Cuda(ordinal) => write!(f, "cuda:{ordinal}"),
        }
    }
}

/// Where a model goes, and why there.
pub(super) struct Placed {
    pub(super) on: On,
    pub(super) plan: MemoryPlan,
    pub(super) why: String,
}

/// A backend that is ready to load.
pub(super) enum On {
    Cpu(Box<Cpu>),
    Card(Box<Cuda>),
}

/// Decides where a checkpoint goes and what it takes there. A plan that does not fit is refused for a card that was asked
/// for by nobody, and otherwise given back for the caller to check.
///
/// # Errors
/// What the settings, the checkpoint or the card that was asked for refuse.
pub(super) fn place(
    choice: DeviceChoice,
    cpu: &CpuOptions,
    checkpoint: &Checkpoint,
    limits: &Limits,
) -> Result<Placed> {
    let on_cpu = |why: String| -> Result<Placed> {
        let mut cpu = Cpu::new(cpu)?;
        Model::prepare(&mut cpu, checkpoint)?;
        let plan = MemoryPlan::for_cpu(&cpu, checkpoint, limits)?;
        Ok(Placed { on: On::Cpu(Box::new(cpu)), plan, why })
    };
    let options = CudaOptions { quant: cpu.quant, ..CudaOptions::default() };
    let on_card = |ordinal: usize| -> Result<(Cuda, MemoryPlan)> {
        let device = Device::open(ordinal)?;
        let plan = MemoryPlan::for_card(&device, options, checkpoint, limits)?;
        Ok((Cuda::new(device, options), plan))
    };
    match choice {
        DeviceChoice::Cpu => on_cpu("asked for".into()),
        DeviceChoice::Cuda(ordinal) => {
            let (cuda, plan) = on_card(ordinal)?;
            Ok(Placed { on: On::Card(Box::new(cuda)), plan, why: "asked for".into() })
        }
        DeviceChoice::Auto => {
            let n = match cuda::count() {
                Ok(n) => n,
                Err(why) => return on_cpu(why.0),
            };
            let mut problems = Vec::new();
            for ordinal in 0..n {
                let fits = on_card(ordinal).and_then(|(cuda, plan)| {
                    plan.check()?;
                    Ok((cuda, plan))
                });
                match fits {
                    Ok((cuda, plan)) => {
                        let why = "a card that the model fits".to_owned();
                        return Ok(Placed { on: On::Card(Box::new(cuda)), plan, why });
                    }
                    Err(problem @ Error::Device { .. }) => problems.push(problem.to_string()),
                    Err(problem) => problems.push(format!("cuda:{ordinal}: {problem}")),
                }
            }
            on_cpu(problems.join("; "))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_as_they_are_written() {
        for choice in [DeviceChoice::Auto, DeviceChoice::Cpu, DeviceChoice::Cuda(3)] {
            assert_eq!(DeviceChoice::parse(&choice.to_string()).unwrap(), choice);
        }
        assert_eq!(DeviceChoice::parse("cuda").unwrap(), DeviceChoice::Cuda(0));
        for wrong in ["gpu", "cuda:", "cuda:-1", "cuda:99999", "CPU", ""] {
            let error = DeviceChoice::parse(wrong).unwrap_err().to_string();
            assert_eq!(error, format!("`device` is {wrong}, wanted auto, cpu, cuda or cuda:N"));
        }
    }
}
