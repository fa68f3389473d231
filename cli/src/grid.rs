//! Columns for people, as wide as what stands in them.

/// Lines of cells under their headings. The last column is as long as it likes.
pub(crate) fn grid<const N: usize>(
    headings: [&str; N],
    rows: impl IntoIterator<Item = [String; N]>,
) -> String {
    let mut lines = vec![headings.map(str::to_owned)];
    lines.extend(rows);
    let width = |column: usize| {
        let cells = lines.iter().map(|line| line[column].chars().count());
        cells.max().unwrap_or_default()
    };
    let widths: [usize; N] = std::array::from_fn(width);
    let mut text = String::new();
    for line in &lines {
        let cells = line.iter().zip(widths);
        let cells: Vec<String> = cells
            .map(|(cell, width)| format!("{cell:<width$}"))
            .collect();
        text += cells.join("  ").trim_end();
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let row = |name: &str, count: &str| [name.to_owned(), count.to_owned()];
        let text = grid(["NAME", "COUNT"], [row("é", "1"), row("relay-1-0", "")]);
        assert_eq!(text, "NAME       COUNT\né          1\nrelay-1-0\n");
    }
}
