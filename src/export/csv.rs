//! CSV as RFC 4180 has it, in UTF-8: one file a table. Numbers have as many digits as it takes to read the same number back; what is not
//! known is empty.

use std::io::{self, BufWriter, Write};

use super::tables::{Block, Values};
use super::walk::Progress;
use super::{ExportError, ExportedFile, Source, Targets};

pub(super) fn export(
    source: &Source<'_>,
    targets: &Targets,
    progress: &mut Progress<'_>,
) -> Result<Vec<ExportedFile>, ExportError> {
    let tables: Vec<_> = source.tables().collect();
    let names: Vec<_> = tables.iter().map(|table| format!("{}_csv/{table}.csv", targets.stem)).collect();
    let mut made = Vec::new();
    for (table, target) in tables.into_iter().zip(targets.claim(&names)?) {
        let mut out = BufWriter::new(target.create()?);
        let mut rows = None;
        source.table(table, progress, &mut |block| {
            write_block(&mut out, &block, rows.is_none()).map_err(|source| target.failed(source))?;
            *rows.get_or_insert(0) += block[0].1.len() as u64;
            Ok(())
        })?;
        out.flush().map_err(|source| target.failed(source))?;
        made.push(target.finish(vec![(table.to_owned(), rows.unwrap_or(0))])?);
    }
    Ok(made)
}

fn write_block(out: &mut impl Write, block: &Block, with_header: bool) -> io::Result<()> {
    if with_header {
        for (place, (name, _)) in block.iter().enumerate() {
            write!(out, "{}{}", if place > 0 { "," } else { "" }, quoted(name))?;
        }
        out.write_all(b"\r\n")?;
    }
    for row in 0..block[0].1.len() {
        for (place, (_, values)) in block.iter().enumerate() {
            if place > 0 {
                out.write_all(b",")?;
            }
            match values {
                Values::F64(values) if values[row].is_finite() => write!(out, "{}", values[row])?,
                Values::F32(values) if values[row].is_finite() => write!(out, "{}", values[row])?,
                Values::F64(_) | Values::F32(_) => {}
                Values::Int(values) => write!(out, "{}", values[row])?,
                Values::MaybeInt(values) => {
                    if let Some(value) = values[row] {
                        write!(out, "{value}")?;
                    }
                }
                Values::Text(values) => out.write_all(quoted(&values[row]).as_bytes())?,
            }
        }
        out.write_all(b"\r\n")?;
    }
    Ok(())
}

/// A text as a field; in quotes where it has to be.
fn quoted(text: &str) -> String {
    if text.contains(['"', ',', '\r', '\n']) || text.trim() != text {
        format!("\"{}\"", text.replace('"', "\"\""))
    } else {
        text.to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_as_the_standard_has_them() {
        for (text, field) in [
            ("a b", "a b"),
            ("a,b", "\"a,b\""),
            ("say \"ä\"", "\"say \"\"ä\"\"\""),
            ("a\nb", "\"a\nb\""),
            (" a", "\" a\""),
        ] {
            assert_eq!(quoted(text), field);
        }
        let block = vec![
            ("a".to_owned(), Values::F64(vec![0.1, f64::NAN])),
            ("b".to_owned(), Values::MaybeInt(vec![None, Some(-1)])),
            ("c".to_owned(), Values::F32(vec![0.1, 1e-7])),
        ];
        let mut out = Vec::new();
        write_block(&mut out, &block, true).unwrap();
        assert_eq!(String::from_utf8(out).unwrap(), "a,b,c\r\n0.1,,0.1\r\n,-1,0.0000001\r\n");
    }
}
