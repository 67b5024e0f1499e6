//! One append-only table of the session file and the rows that wait for it in memory.
//!
//! Rows go to HDF5 in blocks that never cross a chunk, so an append is a copy into memory that was
//! reserved at the start. Never rewrites a row, never holds more than one chunk of rows.

use hdf5::{Dataset, Extent, Group, H5Type, Hyperslab, SimpleExtents, SliceOrIndex};
use ndarray::ArrayViewD;

/// How a table is laid out on disk.
#[derive(Clone, Copy)]
pub(super) struct TableLayout<'a> {
    pub(super) name: &'a str,
    /// Shape of one row; empty for a row that is one element.
    pub(super) row_shape: &'a [usize],
    /// Rows of a chunk, and the most that wait in memory.
    pub(super) chunk_rows: usize,
    /// Whole chunks are shuffled and deflated.
    pub(super) deflate: bool,
}

/// Elements are `T`; a row is `row_len` of them.
pub(super) struct Table<T> {
    dataset: Dataset,
    row_shape: Vec<usize>,
    row_len: usize,
    chunk_rows: usize,
    deflate: bool,
    waiting: Vec<T>,
    written: u64,
}

impl<T: H5Type + Copy> Table<T> {
    /// Makes the empty table in `parent`. Its chunk cache is two chunks: tables only grow at the end.
    pub(super) fn create(parent: &Group, layout: TableLayout<'_>) -> Result<Self, hdf5::Error> {
        let TableLayout { name, row_shape, chunk_rows, deflate } = layout;
        let row_len: usize = row_shape.iter().product();
        let mut extents = vec![Extent::resizable(0)];
        extents.extend(row_shape.iter().map(|&n| Extent::fixed(n)));
        let mut chunk = vec![chunk_rows];
        chunk.extend_from_slice(row_shape);
        let mut builder = parent
            .new_dataset_builder()
            .chunk(chunk)
            .chunk_cache(17, 2 * chunk_rows * row_len * size_of::<T>(), 1.0)
            .obj_track_times(false);
        if deflate {
            builder = builder.shuffle().deflate(1);
        }
        let dataset = builder.empty::<T>().shape(SimpleExtents::from_vec(extents)).create(name)?;
        Ok(Self {
            dataset,
            row_shape: row_shape.to_vec(),
            row_len,
            chunk_rows,
            deflate,
            waiting: Vec::with_capacity(chunk_rows * row_len),
            written: 0,
        })
    }

    /// The table's own handle, for its attributes.
    pub(super) fn dataset(&self) -> &Dataset {
        &self.dataset
    }

    /// Rows in the file and in memory.
    pub(super) fn rows(&self) -> u64 {
        self.written + (self.waiting.len() / self.row_len) as u64
    }

    /// Rows that HDF5 has been given.
    pub(super) fn written(&self) -> u64 {
        self.written
    }

    /// Takes whole rows. Whenever a chunk is complete, it goes to HDF5.
    ///
    /// # Errors
    /// When writing fails: rows that already wait stay, and `write_out` may be tried again.
    pub(super) fn append(&mut self, mut elements: &[T]) -> Result<(), hdf5::Error> {
        while !elements.is_empty() {
            let (now, later) = elements.split_at(elements.len().min(self.room()));
            self.waiting.extend_from_slice(now);
            elements = later;
            if self.room() == 0 {
                self.write_out()?;
            }
        }
        Ok(())
    }

    /// Hands all waiting rows to HDF5.
    pub(super) fn write_out(&mut self) -> Result<(), hdf5::Error> {
        let start = self.written as usize;
        let end = self.rows() as usize;
        if start == end {
            return Ok(());
        }
        let mut shape = vec![end];
        shape.extend_from_slice(&self.row_shape);
        self.dataset.resize(shape.clone())?;
        shape[0] = end - start;
        let mut selection = vec![SliceOrIndex::from(start..end)];
        selection.extend(self.row_shape.iter().map(|_| SliceOrIndex::from(..)));
        let block = ArrayViewD::from_shape(shape, &self.waiting)?;
        self.dataset.write_slice(block, Hyperslab::from(selection))?;
        self.written = end as u64;
        self.waiting.clear();
        Ok(())
    }

    /// Hands over what may go at a flush: a compressed table keeps the rows of an incomplete chunk, since
    /// each rewriting of a compressed chunk leaves the space of the old one unused.
    pub(super) fn write_whole_chunks(&mut self) -> Result<(), hdf5::Error> {
        if self.deflate { Ok(()) } else { self.write_out() }
    }

    /// Elements until the chunk at the table's end is complete.
    fn room(&self) -> usize {
        let chunk = self.chunk_rows as u64;
        let start_in_chunk = (self.written % chunk) as usize * self.row_len;
        self.chunk_rows * self.row_len - start_in_chunk - self.waiting.len()
    }
}
