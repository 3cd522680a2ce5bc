//! The library calls itself libcuda.so: once it is open, a later `dlopen("libcuda.so")` in the same process finds it.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rustc-cdylib-link-arg=-Wl,-soname,libcuda.so");
}
