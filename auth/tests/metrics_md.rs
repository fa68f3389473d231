//! The table of auth in docs/metrics.md is that of the code.
//!
//! `DREAMCATCHER_REGENERATE=1 cargo test -p dreamcatcher-auth --test metrics_md` rewrites it.
#![expect(clippy::unwrap_used, reason = "a failed step fails the test")]

use std::path::Path;

use dreamcatcher_auth::metrics::{Kind, TABLE};

#[test]
fn the_page_lists_every_metric_of_auth_with_its_kind_and_meaning() {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/metrics.md");
    let text = std::fs::read_to_string(&page).unwrap();
    let (before, after) = text.split_once("| auth metric |").unwrap();
    let end = after.find("\n\n").unwrap_or(after.trim_end().len());
    let found = format!("| auth metric |{}", &after[..end]);
    if std::env::var_os("DREAMCATCHER_REGENERATE").is_some() {
        std::fs::write(&page, format!("{before}{}{}", table(), &after[end..])).unwrap();
    } else {
        assert_eq!(found, table(), "docs/metrics.md is stale");
    }
}

fn table() -> String {
    let mut lines = vec![
        "| auth metric | kind | meaning |".to_owned(),
        "|---|---|---|".to_owned(),
    ];
    for metric in TABLE {
        let kind = match metric.kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
        };
        lines.push(format!("| `{}` | {kind} | {} |", metric.name, metric.help));
    }
    lines.join("\n")
}
