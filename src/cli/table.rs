//! Tables for people: columns as wide as they need to be, numbers to the right.

/// Renders rows under a header; the first column stands to the left, all others to the right.
pub(crate) fn render(header: &[&str], rows: &[Vec<String>]) -> String {
    let columns = header.len();
    let cell = |row: &Vec<String>, column: usize| row.get(column).map_or(0, |text| text.chars().count());
    let widths: Vec<usize> = (0..columns)
        .map(|column| {
            let widest = rows.iter().map(|row| cell(row, column)).max().unwrap_or(0);
            widest.max(header[column].chars().count())
        })
        .collect();
    let line = |cells: &mut dyn Iterator<Item = &str>| {
        let mut text = String::new();
        for (column, (content, width)) in cells.zip(&widths).enumerate() {
            text.push_str("  ");
            let padding = " ".repeat(width - content.chars().count());
            text.push_str(&if column == 0 {
                format!("{content}{padding}")
            } else {
                format!("{padding}{content}")
            });
        }
        format!("{}\n", text.trim_end())
    };
    let mut out = line(&mut header.iter().copied());
    for row in rows {
        out.push_str(&line(&mut row.iter().map(String::as_str)));
    }
    out
}

/// A size in the unit that people would use.
pub(crate) fn bytes(size: u64) -> String {
    match size {
        0..1_000 => format!("{size} B"),
        1_000..1_000_000 => format!("{:.1} kB", size as f64 / 1e3),
        1_000_000..1_000_000_000 => format!("{:.1} MB", size as f64 / 1e6),
        _ => format!("{:.2} GB", size as f64 / 1e9),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up() {
        let rows = [vec!["left".to_owned(), "7".to_owned()], vec!["r".to_owned(), "1024".to_owned()]];
        assert_eq!(render(&["camera", "n"], &rows), "  camera     n\n  left       7\n  r       1024\n");
    }

    #[test]
    fn sizes_in_the_unit_that_people_use() {
        for (size, text) in
            [(999, "999 B"), (1_500, "1.5 kB"), (2_340_000, "2.3 MB"), (5_000_000_000, "5.00 GB")]
        {
            assert_eq!(bytes(size), text);
        }
    }
}
