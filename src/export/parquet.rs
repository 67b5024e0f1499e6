//! Parquet: one file a table, uncompressed (scores and landmarks hardly shrink), texts by dictionary. Written without Arrow, whose
//! crates would double the time of a build and serve nothing here.

use std::fs::File;
use std::sync::Arc;

use ::parquet::basic::{LogicalType, Repetition, Type as Physical};
use ::parquet::data_type::{ByteArray, ByteArrayType, DoubleType, FloatType, Int64Type};
use ::parquet::errors::ParquetError;
use ::parquet::file::properties::WriterProperties;
use ::parquet::file::writer::SerializedFileWriter;
use ::parquet::schema::types::Type;

use super::tables::{Block, Values};
use super::walk::Progress;
use super::{ExportError, ExportedFile, Source, Targets};

/// Values of a group of rows: so many are held in memory.
const GROUP_VALUES: usize = 8 << 20;

pub(super) fn export(
    source: &Source<'_>,
    targets: &Targets,
    progress: &mut Progress<'_>,
) -> Result<Vec<ExportedFile>, ExportError> {
    let tables: Vec<_> = source.tables().collect();
    let names: Vec<_> =
        tables.iter().map(|table| format!("{}_parquet/{table}.parquet", targets.stem)).collect();
    let mut made = Vec::new();
    for (table, target) in tables.into_iter().zip(targets.claim(&names)?) {
        let failed = |source| ExportError::Parquet { path: target.path.clone(), source };
        let mut writer: Option<SerializedFileWriter<File>> = None;
        let mut waiting: Option<Block> = None;
        let mut rows = 0;
        source.table(table, progress, &mut |block| {
            if writer.is_none() {
                writer = Some(create(target.create()?, &block).map_err(failed)?);
            }
            rows += block[0].1.len() as u64;
            let group = match waiting.take() {
                Some(earlier) => joined(earlier, block),
                None => block,
            };
            if group[0].1.len() * group.len() < GROUP_VALUES {
                waiting = Some(group);
            } else if let Some(writer) = &mut writer {
                write_group(writer, &group).map_err(failed)?;
            }
            Ok(())
        })?;
        if let Some(mut writer) = writer {
            if let Some(group) = waiting.filter(|group| group[0].1.len() > 0) {
                write_group(&mut writer, &group).map_err(failed)?;
            }
            writer.close().map_err(failed)?;
        }
        made.push(target.finish(vec![(table.to_owned(), rows)])?);
    }
    Ok(made)
}

fn create(file: File, block: &Block) -> Result<SerializedFileWriter<File>, ParquetError> {
    let fields = block
        .iter()
        .map(|(name, values)| {
            let (physical, repetition) = match values {
                Values::F64(_) => (Physical::DOUBLE, Repetition::REQUIRED),
                Values::F32(_) => (Physical::FLOAT, Repetition::REQUIRED),
                Values::Int(_) => (Physical::INT64, Repetition::REQUIRED),
                Values::MaybeInt(_) => (Physical::INT64, Repetition::OPTIONAL),
                Values::Text(_) => (Physical::BYTE_ARRAY, Repetition::REQUIRED),
            };
            let kind = matches!(values, Values::Text(_)).then_some(LogicalType::String);
            let field = Type::primitive_type_builder(name, physical).with_repetition(repetition);
            Ok(Arc::new(field.with_logical_type(kind).build()?))
        })
        .collect::<Result<Vec<_>, ParquetError>>()?;
    let schema = Arc::new(Type::group_type_builder("schema").with_fields(fields).build()?);
    let properties = block.iter().fold(WriterProperties::builder(), |builder, (name, values)| {
        builder.set_column_dictionary_enabled(name.as_str().into(), matches!(values, Values::Text(_)))
    });
    SerializedFileWriter::new(file, schema, Arc::new(properties.build()))
}

fn write_group(writer: &mut SerializedFileWriter<File>, block: &Block) -> Result<(), ParquetError> {
    let mut group = writer.next_row_group()?;
    for (_, values) in block {
        let Some(mut column) = group.next_column()? else { break };
        match values {
            Values::F64(values) => column.typed::<DoubleType>().write_batch(values, None, None)?,
            Values::F32(values) => column.typed::<FloatType>().write_batch(values, None, None)?,
            Values::Int(values) => column.typed::<Int64Type>().write_batch(values, None, None)?,
            Values::MaybeInt(values) => {
                let known: Vec<i64> = values.iter().copied().flatten().collect();
                let levels: Vec<i16> = values.iter().map(|value| i16::from(value.is_some())).collect();
                column.typed::<Int64Type>().write_batch(&known, Some(&levels), None)?
            }
            Values::Text(values) => {
                let texts: Vec<ByteArray> =
                    values.iter().map(|text| ByteArray::from(text.as_str())).collect();
                column.typed::<ByteArrayType>().write_batch(&texts, None, None)?
            }
        };
        column.close()?;
    }
    group.close()?;
    Ok(())
}

/// Two blocks of the same table as one.
fn joined(mut first: Block, second: Block) -> Block {
    for ((_, values), (_, more)) in first.iter_mut().zip(second) {
        match (values, more) {
            (Values::F64(values), Values::F64(more)) => values.extend(more),
            (Values::F32(values), Values::F32(more)) => values.extend(more),
            (Values::Int(values), Values::Int(more)) => values.extend(more),
            (Values::MaybeInt(values), Values::MaybeInt(more)) => values.extend(more),
            (Values::Text(values), Values::Text(more)) => values.extend(more),
            // A table's columns have one type.
            _ => {}
        }
    }
    first
}
