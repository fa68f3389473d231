//! The SDK's examples, as programs.

use std::path::PathBuf;
use std::process::Command;

use crate::process::binary;

/// The example of this name, built if it is not up to date.
#[must_use]
pub fn example(name: &str) -> PathBuf {
    let profile = binary().parent().expect("a program is in a folder");
    let mut build = Command::new(std::env::var_os("CARGO").unwrap_or("cargo".into()));
    build
        .args(["build", "--quiet", "--locked", "-p", "dreamcatcher-client"])
        .args(["--example", name])
        .current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."))
        .env(
            "CARGO_TARGET_DIR",
            profile.parent().expect("a profile is in target"),
        );
    if profile.ends_with("release") {
        build.arg("--release");
    }
    let status = build.status().unwrap_or_else(|e| panic!("cargo: {e}"));
    assert!(status.success(), "the example {name} does not build");
    profile.join("examples").join(name)
}
