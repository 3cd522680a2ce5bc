//! The simulator on kernels that nvcc compiled: results against plain arithmetic, every planted defect, layouts against
//! the manual's words. The PTX lies beside its source, so that no test needs nvcc; one test holds the two together.

mod card;
mod defects;
mod drift;
mod fragments;
mod scalar;
mod tensor;
