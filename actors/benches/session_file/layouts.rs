//! Filters and chunk sizes for the four tables of faces: what each makes of the same rows. The defaults follow from this.
//!
//! Written as the session file's tables are, without its other tables and without waiting for the disk. One camera with one face
//! at 30 fps, a flush each second: uncompressed rows go out at each flush, compressed ones when their chunk is whole.

use std::path::Path;

use hdf5::{Dataset, Extent, File, H5Type, Hyperslab, SimpleExtents, SliceOrIndex};
use ndarray::ArrayViewD;
use serde_json::json;
use youquanti_actors::session_file::FaceRow;
use youquanti_models::{BLENDSHAPE_COUNT, LANDMARK_COUNT};

use super::measure::{Times, now, own_processor_time, proc_number, show};
use super::rows::{Rows, time_of};

const ROWS: usize = 3000;
const FLUSH_EVERY: usize = 30;
const FILTERS: [Filter; 5] = [
    Filter { name: "none", shuffle: false, deflate: None },
    Filter { name: "deflate 1", shuffle: false, deflate: Some(1) },
    Filter { name: "shuffle, deflate 1", shuffle: true, deflate: Some(1) },
    Filter { name: "shuffle, deflate 4", shuffle: true, deflate: Some(4) },
    Filter { name: "shuffle, deflate 6", shuffle: true, deflate: Some(6) },
];
const CHUNKS: [usize; 5] = [8, 16, 32, 64, 128];

#[derive(Clone, Copy)]
struct Filter {
    name: &'static str,
    shuffle: bool,
    deflate: Option<u8>,
}

pub(crate) fn run(rows: &Rows) {
    println!(
        "{ROWS} {}, a flush every {FLUSH_EVERY}; a step is one row, with the chunk or flush that it completes",
        rows.what
    );
    let folder = tempfile::tempdir().unwrap();
    let mut table = Vec::new();
    for filter in FILTERS {
        for chunk in CHUNKS {
            let path = folder.path().join("layout.h5");
            table.push(measured(&path, rows, filter, chunk));
            std::fs::remove_file(path).unwrap();
        }
    }
    let columns = [
        "filter",
        "rows a chunk",
        "bytes a row",
        "bytes handed to the system a row",
        "processor µs a row",
        "p99 of a step, ms",
        "longest, ms",
        "most s that a row waits",
    ];
    show("layouts", &columns, &table);
}

fn measured(path: &Path, rows: &Rows, filter: Filter, chunk: usize) -> Vec<serde_json::Value> {
    let file = File::with_options().with_fapl(|access| access.libver_v110()).create(path).unwrap();
    let mut faces = Table::<FaceRow>::create(&file, "faces", &[], filter, chunk);
    let mut floats = [
        Table::<f32>::create(&file, "landmarks", &[LANDMARK_COUNT, 3], filter, chunk),
        Table::create(&file, "blendshapes", &[BLENDSHAPE_COUNT], filter, chunk),
        Table::create(&file, "head_pose", &[4, 4], filter, chunk),
    ];
    file.start_swmr().unwrap();
    let mut steps = Vec::with_capacity(ROWS);
    let (used, handed) = (own_processor_time(), proc_number("io", "wchar:"));
    for (row, face) in (1..=ROWS).zip(rows.faces.iter().cycle()) {
        let began = now();
        faces.waiting.push(FaceRow {
            frame_seq: row as u64,
            captured_at_ns: time_of(row as u64).0,
            track: face.track.0,
            participant: 1,
            score: face.score,
            bbox: face.bbox,
            presence: face.presence,
            sharpness: face.sharpness.map_or(f64::NAN, f64::from),
            latency_us: [2000, 3000, 4000, 6000, 10_000, 11_000],
        });
        floats[0].waiting.extend_from_slice(face.landmarks.as_flattened());
        floats[1].waiting.extend_from_slice(&face.blendshapes);
        floats[2].waiting.extend_from_slice(face.head_pose.as_flattened());
        let is_flush = row.is_multiple_of(FLUSH_EVERY) || row == ROWS;
        if row.is_multiple_of(chunk) || row == ROWS || (is_flush && filter.deflate.is_none()) {
            faces.write_out();
            floats.iter_mut().for_each(Table::write_out);
        }
        if is_flush {
            file.flush().unwrap();
        }
        steps.push(now().saturating_since(began));
    }
    let processor = own_processor_time() - used;
    let handed = proc_number("io", "wchar:") - handed;
    drop((faces, floats));
    file.close().unwrap();
    let bytes = std::fs::metadata(path).unwrap().len();
    let times = Times::new(steps);
    let a_row = |total: f64| json!(total / ROWS as f64);
    // Until its chunk is whole and the next flush comes.
    let waits = 1.0 + if filter.deflate.is_some() { chunk as f64 / 30.0 } else { 0.0 };
    vec![
        json!(filter.name),
        json!(chunk),
        a_row(bytes as f64),
        a_row(handed as f64),
        a_row(processor.as_secs_f64() * 1e6),
        json!(times.millis(0.99)),
        json!(times.millis(1.0)),
        json!(waits),
    ]
}

/// A table that grows at its end.
struct Table<T> {
    dataset: Dataset,
    row_shape: Vec<usize>,
    waiting: Vec<T>,
    written: usize,
}

impl<T: H5Type + Copy> Table<T> {
    fn create(file: &File, name: &str, row_shape: &[usize], filter: Filter, chunk: usize) -> Self {
        let row_len: usize = row_shape.iter().product();
        let extents =
            std::iter::once(Extent::resizable(0)).chain(row_shape.iter().map(|&n| Extent::fixed(n)));
        let chunks: Vec<_> = std::iter::once(chunk).chain(row_shape.iter().copied()).collect();
        let cache = 2 * chunk * row_len * size_of::<T>();
        let mut builder = file.new_dataset_builder().chunk(chunks).chunk_cache(17, cache, 1.0);
        if filter.shuffle {
            builder = builder.shuffle();
        }
        if let Some(level) = filter.deflate {
            builder = builder.deflate(level);
        }
        let shape = SimpleExtents::from_vec(extents.collect());
        let dataset = builder.empty::<T>().shape(shape).create(name).unwrap();
        Self { dataset, row_shape: row_shape.to_vec(), waiting: Vec::new(), written: 0 }
    }

    fn write_out(&mut self) {
        let row_len: usize = self.row_shape.iter().product();
        let rows = self.waiting.len() / row_len;
        if rows == 0 {
            return;
        }
        let shape = |rows| std::iter::once(rows).chain(self.row_shape.iter().copied()).collect::<Vec<_>>();
        self.dataset.resize(shape(self.written + rows)).unwrap();
        let block = ArrayViewD::from_shape(shape(rows), &self.waiting).unwrap();
        let mut place = vec![SliceOrIndex::from(self.written..self.written + rows)];
        place.extend(self.row_shape.iter().map(|_| SliceOrIndex::from(..)));
        self.dataset.write_slice(block, Hyperslab::from(place)).unwrap();
        self.written += rows;
        self.waiting.clear();
    }
}
