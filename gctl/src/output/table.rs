//! Columns of text as kubectl aligns them: each as wide as its widest cell and three spaces.

const PADDING: usize = 3;

/// Aligns rows under each other; widths only grow, so that rows which arrive later line up with those already shown.
#[derive(Clone, Debug, Default)]
pub struct Columns {
    widths: Vec<usize>,
}

impl Columns {
    /// The rows as lines, each ended by a newline.
    pub fn render(&mut self, rows: &[Vec<String>]) -> String {
        for row in rows {
            for (index, cell) in row.iter().enumerate() {
                let width = cell.chars().count();
                match self.widths.get_mut(index) {
                    Some(known) => *known = width.max(*known),
                    None => self.widths.push(width),
                }
            }
        }
        let mut text = String::new();
        for row in rows {
            let start = text.len();
            for (index, cell) in row.iter().enumerate() {
                text.push_str(cell);
                if index + 1 < row.len() {
                    let pad = self.widths[index] + PADDING - cell.chars().count();
                    text.extend(std::iter::repeat_n(' ', pad));
                }
            }
            text.truncate(start + text[start..].trim_end().len());
            text.push('\n');
        }
        text
    }
}

/// Rows as aligned lines, once.
pub fn render(rows: &[Vec<String>]) -> String {
    Columns::default().render(rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(cells: &[&str]) -> Vec<String> {
        cells.iter().map(|&cell| cell.to_owned()).collect()
    }

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let text = render(&[
            row(&["NAME", "PHASE", "NODE"]),
            row(&["train-large", "Running", "n1"]),
            row(&["x", "Pending", ""]),
        ]);
        insta::assert_snapshot!(text, @r"
        NAME          PHASE     NODE
        train-large   Running   n1
        x             Pending
        ");
    }

    #[test]
    fn later_rows_keep_the_widths_of_earlier_ones() {
        let mut columns = Columns::default();
        columns.render(&[row(&["a-long-name", "x"])]);
        assert_eq!(columns.render(&[row(&["b", "y"])]), "b             y\n");
    }
}
