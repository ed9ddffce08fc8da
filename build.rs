//! Tells the code for which Python it is built, and the package's version as Python spells it.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    let version = std::env::var("CARGO_PKG_VERSION").unwrap_or_default();
    // PEP 440, as maturin does it.
    println!("cargo::rustc-env=PACKAGE_VERSION={}", version.replace("-dev", ".dev").replace("-rc.", "rc"));
    #[cfg(feature = "python")]
    pyo3_build_config::use_pyo3_cfgs();
}
