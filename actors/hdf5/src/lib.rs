//! Where a chunk of a dataset lies in its file: a question that the bindings answer only by walking through all chunks.
//!
//! Owns that one call. Never reads or changes a file by itself.
#![allow(unsafe_code, reason = "calls a C function")]

use hdf5::Dataset;
use hdf5_sys::h5d::H5Dget_chunk_info_by_coord;

/// Place in the file and bytes of the chunk with the element at these coordinates, one for each dimension. `None` where there is no
/// such chunk, or it has not been given a place yet. Takes the same time however many chunks there are.
///
/// # Errors
/// When the dataset is not chunked, `at` has another number of dimensions, or HDF5 cannot tell.
pub fn chunk_place(dataset: &Dataset, at: &[u64]) -> Result<Option<(u64, u64)>, hdf5::Error> {
    if !dataset.is_chunked() || at.len() != dataset.ndim() {
        return Err(hdf5::Error::from("not the coordinates of a chunk"));
    }
    let (mut filters, mut address, mut bytes) = (0, u64::MAX, 0);
    // SAFETY: `dataset` is open for as long as it is borrowed, `at` has a value for each of its dimensions, and the three results
    // outlive the call. HDF5 is called under its lock.
    let status = hdf5::sync::sync(|| unsafe {
        H5Dget_chunk_info_by_coord(dataset.id(), at.as_ptr(), &mut filters, &mut address, &mut bytes)
    });
    if status < 0 {
        let (Ok(error) | Err(error)) = hdf5::Error::query();
        return Err(error);
    }
    Ok((address != u64::MAX).then_some((address, bytes)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chunk_has_the_place_that_a_walk_finds() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = hdf5::File::create(folder.path().join("x.h5")).expect("a file");
        let made = file.new_dataset::<u32>().chunk([16, 3]).shape([64.., 3..]).create("x");
        let dataset = made.expect("a dataset");
        dataset.write_raw(&[1_u32; 64 * 3]).expect("written");
        file.flush().expect("flushed");
        for chunk in 0..4 {
            let walked = dataset.chunk_info(chunk).expect("a chunk");
            let place = chunk_place(&dataset, &[16 * chunk as u64 + 5, 0]).expect("told");
            assert_eq!(place, Some((walked.addr, walked.size)));
        }
        assert_eq!(chunk_place(&dataset, &[64, 0]).ok().flatten(), None);
        assert!(chunk_place(&dataset, &[0]).is_err());
    }
}
