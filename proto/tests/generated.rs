//! The checked-in Rust of `dreamcatcher.proto` is what prost makes of it today.
//!
//! `DREAMCATCHER_REGENERATE=1 cargo test -p dreamcatcher-proto --test generated` rewrites it.

use std::path::Path;

const COMMITTED: &str = "src/generated/dreamcatcher.v1.rs";

#[test]
fn the_generated_code_follows_the_proto_file() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let descriptors = protox::compile([root.join("dreamcatcher.proto")], [root])
        .unwrap_or_else(|error| panic!("dreamcatcher.proto does not parse: {error}"));
    let out = std::path::PathBuf::from(env!("CARGO_TARGET_TMPDIR"));
    prost_build::Config::new()
        .out_dir(&out)
        .compile_fds(descriptors)
        .unwrap_or_else(|error| panic!("prost: {error}"));
    let fresh = read(&out.join("dreamcatcher.v1.rs"));
    if std::env::var_os("DREAMCATCHER_REGENERATE").is_some() {
        std::fs::write(root.join(COMMITTED), &fresh)
            .unwrap_or_else(|error| panic!("{COMMITTED}: {error}"));
    }
    assert!(
        fresh == read(&root.join(COMMITTED)),
        "{COMMITTED} is stale: run DREAMCATCHER_REGENERATE=1 cargo test -p dreamcatcher-proto --test generated"
    );
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}
