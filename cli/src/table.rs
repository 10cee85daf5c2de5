//! Columns of text as Kafka's tools print them.

/// Renders rows under headers, each column as wide as its widest cell and followed by `gap`.
pub fn render(headers: &[&str], rows: &[Vec<String>], gap: &str) -> String {
    let width = |column: usize| {
        let cells = rows
            .iter()
            .filter_map(|row| row.get(column))
            .map(|cell| cell.chars().count());
        cells
            .chain([headers[column].chars().count()])
            .max()
            .unwrap_or_default()
    };
    let widths: Vec<usize> = (0..headers.len()).map(width).collect();
    let mut text = String::new();
    let header: Vec<String> = headers.iter().map(|&header| header.to_owned()).collect();
    for row in std::iter::once(&header).chain(rows) {
        for (cell, width) in row.iter().zip(&widths) {
            text.push_str(&format!("{cell:<width$}{gap}"));
        }
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let rows = [
            vec!["1".to_owned(), "abcdef".to_owned()],
            vec!["10".to_owned(), "x".to_owned()],
        ];
        assert_eq!(
            render(&["ID", "NAME"], &rows, "\t"),
            "ID\tNAME  \t\n1 \tabcdef\t\n10\tx     \t\n"
        );
    }
}
