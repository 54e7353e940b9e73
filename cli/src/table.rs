use std::ops::Range;

use comfy_table::{CellAlignment, Row, Table, presets::UTF8_FULL_CONDENSED};

/// A table with a header. The columns `numbers` are aligned to the right.
pub fn with_header(header: impl Into<Row>, numbers: Range<usize>) -> Table {
    let mut table = Table::new();
    table.load_style(UTF8_FULL_CONDENSED);
    table.set_header(header);
    for column in numbers {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table
}
