//! JPEG pictures of cameras, decoded on the device by NVIDIA's nvJPEG, which is optional: without it the host decodes.
//!
//! Owns the library's handles and what it reads while a picture is under way. nvJPEG decodes what there is of a picture that is
//! cut off, and says nothing: whole pictures of the announced size alone are shown to it. Never decodes on the host.

#![allow(unsafe_code, reason = "nvJPEG is C, opened at run time")]

use std::ffi::{c_int, c_uint, c_void};
use std::fmt;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::{Mutex, PoisonError};

use cudarc::driver::sys;
use youquanti_models::{Picture, PictureLayout, PipelineError};

use super::device::{CallError, Context, Device, DriverVersion, Severity};
use super::launch::{Event, Stream};
use super::library::{CudaLibrary, Functions, LibraryError};
use super::memory::DevicePtr;
use crate::cpu::colour::{self, ColourError};

/// The decoder's library.
pub static NVJPEG: CudaLibrary = CudaLibrary {
    name: "nvJPEG",
    purpose: "the decoder of JPEG on GPUs",
    file: "libnvjpeg.so",
    variable: "YOUQUANTI_NVJPEG",
    package: "nvidia-nvjpeg",
    folder: "nvjpeg",
};

/// Pictures that may be under way at once: the host's part of one beside the device's part of the one before.
const UNDER_WAY: usize = 2;

/// `nvjpegBackend_t`, most wanted first: Huffman codes on the device; on the host, for what the first does not take.
const BACKENDS: [c_int; 2] = [2, 1];

/// `nvjpegOutputFormat_t`: RGB, three bytes a pixel.
const OUTPUT_RGBI: c_int = 5;

/// Sizes of buffers are rounded up to this many bytes, so that a picture that is a little longer than the one before needs no
/// new ones.
const PADDING: usize = 1 << 20;

/// Why a picture is not decoded.
#[derive(Debug, thiserror::Error)]
pub enum JpegError {
    /// The picture is damaged, cut off, of another size or of a kind that is not decoded. The next one may be fine.
    #[error(transparent)]
    Picture(#[from] ColourError),
    /// nvJPEG refuses, whatever the picture.
    #[error("nvJPEG: {call}: {}", status_text(*status))]
    Library {
        /// Its function.
        call: &'static str,
        /// An `nvjpegStatus_t`.
        status: i32,
    },
    /// The driver refuses, or the device failed.
    #[error("the GPU cannot decode JPEG")]
    Device(#[from] CallError),
}

impl JpegError {
    /// What it means for the device.
    pub fn severity(&self) -> Severity {
        match self {
            Self::Picture(_) | Self::Library { .. } => Severity::Recoverable,
            Self::Device(error) => error.severity(),
        }
    }

    /// What it means for a pipeline that was at `stage`, where it is no [`JpegError::Picture`], which concerns one frame only.
    pub fn in_stage(self, stage: &'static str) -> PipelineError {
        match self {
            Self::Device(error) => error.in_stage(stage),
            other => PipelineError::Stage { stage, source: Box::new(other) },
        }
    }

    fn of(call: &'static str, status: c_int) -> Self {
        match status {
            BAD_JPEG | NOT_SUPPORTED | INCOMPLETE => ColourError::Jpeg(status_text(status)).into(),
            status => Self::Library { call, status },
        }
    }
}

const BAD_JPEG: c_int = 3;
const NOT_SUPPORTED: c_int = 4;
const INCOMPLETE: c_int = 10;

fn status_text(status: c_int) -> String {
    let text = match status {
        1 => "not initialised (NVJPEG_STATUS_NOT_INITIALIZED, 1)",
        2 => "invalid parameter (NVJPEG_STATUS_INVALID_PARAMETER, 2)",
        BAD_JPEG => "it is damaged (NVJPEG_STATUS_BAD_JPEG, 3)",
        NOT_SUPPORTED => "nvJPEG does not decode this kind (NVJPEG_STATUS_JPEG_NOT_SUPPORTED, 4)",
        5 => "no memory (NVJPEG_STATUS_ALLOCATOR_FAILURE, 5)",
        6 => "the device's part failed (NVJPEG_STATUS_EXECUTION_FAILED, 6)",
        7 => "not for this GPU (NVJPEG_STATUS_ARCH_MISMATCH, 7)",
        8 => "internal error (NVJPEG_STATUS_INTERNAL_ERROR, 8)",
        9 => "not possible with this decoder (NVJPEG_STATUS_IMPLEMENTATION_NOT_SUPPORTED, 9)",
        INCOMPLETE => "it is cut off (NVJPEG_STATUS_INCOMPLETE_BITSTREAM, 10)",
        other => return format!("status {other}, which this program does not know"),
    };
    text.to_owned()
}

/// Something of the library's: opaque, and each used as what it was made as.
type Handle = *mut c_void;

/// `nvjpegImage_t`.
#[repr(C)]
struct Image {
    channels: [DevicePtr<u8>; 4],
    /// Bytes from line to line.
    pitches: [usize; 4],
}

const _: () = assert!(size_of::<Image>() == 64 && align_of::<Image>() == 8);

macro_rules! calls {
    ($($field:ident = $name:literal ($($argument:ty),*);)+) => {
        /// Functions of the library, with the types of CUDA 12's and 13's headers. Each gives a status, 0 if all is well.
        #[derive(Clone, Copy)]
        struct Calls {
            $($field: unsafe extern "C" fn($($argument),*) -> c_int,)+
        }

        impl Calls {
            fn of(library: Functions) -> Result<Self, String> {
                // SAFETY: the types are those of the library's header.
                unsafe { Ok(Self { $($field: library.get($name)?,)+ }) }
            }
        }
    };
}

calls! {
    get_property = "nvjpegGetProperty" (c_int, *mut c_int);
    create = "nvjpegCreateEx" (c_int, *const c_void, *const c_void, c_uint, *mut Handle);
    destroy = "nvjpegDestroy" (Handle);
    set_device_padding = "nvjpegSetDeviceMemoryPadding" (usize, Handle);
    set_pinned_padding = "nvjpegSetPinnedMemoryPadding" (usize, Handle);
    params_create = "nvjpegDecodeParamsCreate" (Handle, *mut Handle);
    params_destroy = "nvjpegDecodeParamsDestroy" (Handle);
    set_output = "nvjpegDecodeParamsSetOutputFormat" (Handle, c_int);
    decoder_create = "nvjpegDecoderCreate" (Handle, c_int, *mut Handle);
    decoder_destroy = "nvjpegDecoderDestroy" (Handle);
    state_create = "nvjpegDecoderStateCreate" (Handle, Handle, *mut Handle);
    state_destroy = "nvjpegJpegStateDestroy" (Handle);
    stream_create = "nvjpegJpegStreamCreate" (Handle, *mut Handle);
    stream_destroy = "nvjpegJpegStreamDestroy" (Handle);
    pinned_create = "nvjpegBufferPinnedCreate" (Handle, *const c_void, *mut Handle);
    pinned_destroy = "nvjpegBufferPinnedDestroy" (Handle);
    device_create = "nvjpegBufferDeviceCreate" (Handle, *const c_void, *mut Handle);
    device_destroy = "nvjpegBufferDeviceDestroy" (Handle);
    attach_pinned = "nvjpegStateAttachPinnedBuffer" (Handle, Handle);
    attach_device = "nvjpegStateAttachDeviceBuffer" (Handle, Handle);
    parse = "nvjpegJpegStreamParse" (Handle, *const u8, usize, c_int, c_int, Handle);
    frame_size = "nvjpegJpegStreamGetFrameDimensions" (Handle, *mut c_uint, *mut c_uint);
    supported = "nvjpegDecoderJpegSupported" (Handle, Handle, Handle, *mut c_int);
    decode_host = "nvjpegDecodeJpegHost" (Handle, Handle, Handle, Handle, Handle);
    transfer = "nvjpegDecodeJpegTransferToDevice" (Handle, Handle, Handle, Handle, *mut c_void);
    decode_device = "nvjpegDecodeJpegDevice" (Handle, Handle, Handle, *mut Image, *mut c_void);
}

/// nvJPEG, loaded. Cheap to clone; the library stays loaded until the process ends.
#[derive(Clone)]
pub struct Nvjpeg {
    path: PathBuf,
    version: [c_int; 3],
    calls: Calls,
}

impl Nvjpeg {
    /// Loads nvJPEG, once in a process; later calls return the same. [`CudaLibrary`] says where it is looked for. A machine
    /// without it decodes JPEG on the host.
    ///
    /// # Errors
    /// See [`LibraryError`]. A failure is not remembered.
    pub fn load(driver: DriverVersion) -> Result<Self, LibraryError> {
        static LOADED: Mutex<Option<Nvjpeg>> = Mutex::new(None);

        let mut loaded = LOADED.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(nvjpeg) = &*loaded {
            return Ok(nvjpeg.clone());
        }
        let nvjpeg = NVJPEG.find(driver, Self::open)?;
        tracing::info!(path = %nvjpeg.path.display(), version = nvjpeg.version(), "loaded nvJPEG");
        *loaded = Some(nvjpeg.clone());
        Ok(nvjpeg)
    }

    /// The file that was loaded; the bare library name when the system's loader found it.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its version, `12.4.0`.
    pub fn version(&self) -> String {
        self.version.map(|part| part.to_string()).join(".")
    }

    fn open(path: &Path) -> Result<Self, String> {
        let calls = Calls::of(Functions::open(NVJPEG.name, path)?)?;
        let mut version = [0; 3];
        for (part, value) in (0..).zip(&mut version) {
            // SAFETY: a `libraryPropertyType`, major, minor or patch; the pointer is to an integer.
            match unsafe { (calls.get_property)(part, value) } {
                0 => {}
                status => return Err(format!("nvjpegGetProperty: {}", status_text(status))),
            }
        }
        Ok(Self { path: path.to_owned(), version, calls })
    }
}

impl fmt::Debug for Nvjpeg {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Nvjpeg").field("path", &self.path).field("version", &self.version()).finish()
    }
}

/// Calls nvJPEG, unless the device is lost: then its fatal error is what every call gives.
fn call(context: &Context, name: &'static str, call: impl FnOnce() -> c_int) -> Result<(), JpegError> {
    let mut status = 0;
    context.call(name, || {
        status = call();
        sys::CUresult::CUDA_SUCCESS
    })?;
    if status == 0 { Ok(()) } else { Err(JpegError::of(name, status)) }
}

/// Invariant: `raw` was made by the library, which still has it, and is this one's alone.
struct Owned {
    context: Rc<Context>,
    raw: Handle,
    destroy: (&'static str, unsafe extern "C" fn(Handle) -> c_int),
}

impl Owned {
    fn new(
        context: &Rc<Context>,
        name: &'static str,
        destroy: (&'static str, unsafe extern "C" fn(Handle) -> c_int),
        make: impl FnOnce(*mut Handle) -> c_int,
    ) -> Result<Self, JpegError> {
        let mut raw = std::ptr::null_mut();
        call(context, name, || make(&raw mut raw))?;
        Ok(Self { context: Rc::clone(context), raw, destroy })
    }
}

impl Drop for Owned {
    fn drop(&mut self) {
        let (name, destroy) = self.destroy;
        let mut status = 0;
        self.context.give_back("a part of nvJPEG", name, || {
            // SAFETY: by the invariant, and not used again.
            status = unsafe { destroy(self.raw) };
            sys::CUresult::CUDA_SUCCESS
        });
        if status != 0 {
            tracing::warn!(gpu = self.context.ordinal(), error = status_text(status), "{name} failed");
        }
    }
}

/// What pictures under way have in common.
struct Shared {
    context: Rc<Context>,
    calls: Calls,
    /// One for each of [`BACKENDS`].
    decoders: [Owned; 2],
    params: Owned,
    // Last: the others are parts of it.
    library: Owned,
}

/// A picture under way.
struct Slot {
    /// When the device is past its last picture.
    done: Event,
    /// The picture as the library reads it, until then.
    jpeg: Vec<u8>,
    /// Where the library's parser keeps what it found.
    bitstream: Owned,
    /// One for each of [`BACKENDS`].
    states: [Owned; 2],
    // After the states, which use them.
    _pinned: Owned,
    _memory: Owned,
}

/// Decodes JPEG pictures to RGB on one device, on the thread that has it open. Once it has seen pictures of a size nothing is
/// allocated for more of them. Not to be called while a graph is captured.
pub struct JpegDecoder {
    slots: [Slot; UNDER_WAY],
    /// Which slot is next.
    next: usize,
    // After the slots, which use it.
    shared: Shared,
}

impl JpegDecoder {
    /// A decoder on a device.
    ///
    /// # Errors
    /// [`JpegError::Library`] and [`JpegError::Device`].
    pub fn new(nvjpeg: &Nvjpeg, device: &Device) -> Result<Self, JpegError> {
        let shared = Shared::new(nvjpeg, device.context())?;
        let slots = [Slot::new(&shared, device)?, Slot::new(&shared, device)?];
        Ok(Self { slots, next: 0, shared })
    }

    /// Decodes a camera's JPEG to RGB24 without padding, on a stream. The device's part is done in the stream's order; the
    /// picture's bytes have been copied, and may be used again, when this returns. Waits until the device is past the picture
    /// before the last.
    ///
    /// # Safety
    /// `out` has room for `width × height × 3` bytes of the picture's layout, and lives until the stream is past the work.
    ///
    /// # Errors
    /// See [`JpegError`]; what `out` holds is then meaningless. A picture that ends early is an error; bytes after its end are
    /// not. Bytes that are wrong or missing within it cannot be noticed.
    pub unsafe fn decode(
        &mut self,
        jpeg: &Picture<'_>,
        out: DevicePtr<u8>,
        stream: &Stream,
    ) -> Result<(), JpegError> {
        colour::check(jpeg)?;
        let slot = &mut self.slots[self.next];
        slot.done.synchronize()?;
        colour::copy_whole_jpeg(jpeg, &mut slot.jpeg)?;
        self.next = (self.next + 1) % UNDER_WAY;
        // SAFETY: the caller promised the room for this layout.
        let decoded = unsafe { slot.decode(&self.shared, &jpeg.layout, out, stream) };
        // Also where that failed half way: what has begun reads the slot. If it was the device that failed, this says so.
        stream.record(&slot.done)?;
        decoded
    }
}

impl Shared {
    fn new(nvjpeg: &Nvjpeg, context: &Rc<Context>) -> Result<Self, JpegError> {
        let calls = nvjpeg.calls;
        let none = std::ptr::null();
        let library = Owned::new(context, "nvjpegCreateEx", ("nvjpegDestroy", calls.destroy), |made| {
            // SAFETY: the default backend with the CUDA runtime's allocators and no flags, in the context that is current.
            unsafe { (calls.create)(0, none, none, 0, made) }
        })?;
        let handle = library.raw;
        call(context, "nvjpegSetDeviceMemoryPadding", || {
            // SAFETY: the library was made above.
            unsafe { (calls.set_device_padding)(PADDING, handle) }
        })?;
        call(context, "nvjpegSetPinnedMemoryPadding", || {
            // SAFETY: as above.
            unsafe { (calls.set_pinned_padding)(PADDING, handle) }
        })?;
        let destroy = ("nvjpegDecodeParamsDestroy", calls.params_destroy);
        let params = Owned::new(context, "nvjpegDecodeParamsCreate", destroy, |made| {
            // SAFETY: as above.
            unsafe { (calls.params_create)(handle, made) }
        })?;
        call(context, "nvjpegDecodeParamsSetOutputFormat", || {
            // SAFETY: made above.
            unsafe { (calls.set_output)(params.raw, OUTPUT_RGBI) }
        })?;
        let decoder = |backend| {
            let destroy = ("nvjpegDecoderDestroy", calls.decoder_destroy);
            Owned::new(context, "nvjpegDecoderCreate", destroy, |made| {
                // SAFETY: the library was made above.
                unsafe { (calls.decoder_create)(handle, backend, made) }
            })
        };
        let decoders = [decoder(BACKENDS[0])?, decoder(BACKENDS[1])?];
        Ok(Self { context: Rc::clone(context), calls, decoders, params, library })
    }

    /// Which of the decoders takes a picture that was parsed. The last says itself what it does not take.
    fn decoder_for(&self, bitstream: Handle) -> Result<usize, JpegError> {
        let mut refused = 0;
        call(&self.context, "nvjpegDecoderJpegSupported", || {
            let (decoder, params) = (self.decoders[0].raw, self.params.raw);
            // SAFETY: all of them live, and the bitstream was parsed; the pointer is to an integer.
            unsafe { (self.calls.supported)(decoder, bitstream, params, &raw mut refused) }
        })?;
        Ok(usize::from(refused != 0))
    }
}

impl Slot {
    fn new(shared: &Shared, device: &Device) -> Result<Self, JpegError> {
        let Shared { context, calls, decoders, library, .. } = shared;
        let (library, none) = (library.raw, std::ptr::null());
        let destroy = ("nvjpegBufferPinnedDestroy", calls.pinned_destroy);
        let pinned = Owned::new(context, "nvjpegBufferPinnedCreate", destroy, |made| {
            // SAFETY: the library lives; the allocator is the CUDA runtime's.
            unsafe { (calls.pinned_create)(library, none, made) }
        })?;
        let destroy = ("nvjpegBufferDeviceDestroy", calls.device_destroy);
        let memory = Owned::new(context, "nvjpegBufferDeviceCreate", destroy, |made| {
            // SAFETY: as above.
            unsafe { (calls.device_create)(library, none, made) }
        })?;
        let state = |decoder: &Owned| {
            let destroy = ("nvjpegJpegStateDestroy", calls.state_destroy);
            let state = Owned::new(context, "nvjpegDecoderStateCreate", destroy, |made| {
                // SAFETY: the library and its decoder live.
                unsafe { (calls.state_create)(library, decoder.raw, made) }
            })?;
            call(context, "nvjpegStateAttachPinnedBuffer", || {
                // SAFETY: both live, the buffer longer than the state.
                unsafe { (calls.attach_pinned)(state.raw, pinned.raw) }
            })?;
            call(context, "nvjpegStateAttachDeviceBuffer", || {
                // SAFETY: as above.
                unsafe { (calls.attach_device)(state.raw, memory.raw) }
            })?;
            Ok::<_, JpegError>(state)
        };
        let states = [state(&decoders[0])?, state(&decoders[1])?];
        let destroy = ("nvjpegJpegStreamDestroy", calls.stream_destroy);
        let bitstream = Owned::new(context, "nvjpegJpegStreamCreate", destroy, |made| {
            // SAFETY: the library lives.
            unsafe { (calls.stream_create)(library, made) }
        })?;
        let done = Event::new(device)?;
        Ok(Self { done, jpeg: Vec::new(), bitstream, states, _pinned: pinned, _memory: memory })
    }

    /// Decodes the slot's picture.
    ///
    /// # Safety
    /// The device is past the slot's picture before, and `out` has room for RGB of this layout until the stream is past this.
    unsafe fn decode(
        &mut self,
        shared: &Shared,
        layout: &PictureLayout,
        out: DevicePtr<u8>,
        stream: &Stream,
    ) -> Result<(), JpegError> {
        let Shared { context, calls, decoders, params, library } = shared;
        let (jpeg, bitstream, library) = (&self.jpeg, self.bitstream.raw, library.raw);
        call(context, "nvjpegJpegStreamParse", || {
            // SAFETY: the bytes stay as they are until the device is past the picture: the parser keeps no copy.
            unsafe { (calls.parse)(library, jpeg.as_ptr(), jpeg.len(), 0, 0, bitstream) }
        })?;
        let (mut width, mut height) = (0, 0);
        call(context, "nvjpegJpegStreamGetFrameDimensions", || {
            // SAFETY: the bitstream was parsed; the pointers are to integers.
            unsafe { (calls.frame_size)(bitstream, &raw mut width, &raw mut height) }
        })?;
        // Also a damaged picture, with a frame in it that nobody looked at, is written to no more room than there is.
        if (width, height) != (layout.width, layout.height) {
            let [is, announced] = [(width, height), (layout.width, layout.height)]
                .map(|(width, height)| (width as usize, height as usize));
            return Err(ColourError::JpegSize { is, announced }.into());
        }
        let which = shared.decoder_for(bitstream)?;
        let (decoder, state) = (decoders[which].raw, self.states[which].raw);
        call(context, "nvjpegDecodeJpegHost", || {
            // SAFETY: all of them live, and the device is past what the state was used for before.
            unsafe { (calls.decode_host)(library, decoder, state, params.raw, bitstream) }
        })?;
        call(context, "nvjpegDecodeJpegTransferToDevice", || {
            // SAFETY: as above; the stream is of the context that is current.
            unsafe { (calls.transfer)(library, decoder, state, bitstream, stream.raw()) }
        })?;
        let nothing = DevicePtr::NULL;
        let mut image =
            Image { channels: [out, nothing, nothing, nothing], pitches: [width as usize * 3, 0, 0, 0] };
        call(context, "nvjpegDecodeJpegDevice", || {
            // SAFETY: as above, and the caller promised the room.
            unsafe { (calls.decode_device)(library, decoder, state, &raw mut image, stream.raw()) }
        })
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        if let Err(error) = self.done.synchronize() {
            tracing::warn!(%error, "a JPEG that was being decoded is given up");
        }
    }
}

impl fmt::Debug for JpegDecoder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "JpegDecoder(GPU {})", self.shared.context.ordinal())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DRIVER: DriverVersion = DriverVersion { major: 13, minor: 0 };

    #[test]
    fn who_is_to_blame_for_a_status() {
        for status in [BAD_JPEG, NOT_SUPPORTED, INCOMPLETE] {
            assert!(matches!(JpegError::of("call", status), JpegError::Picture(_)), "{status}");
        }
        for status in [1, 2, 5, 6, 7, 8, 9, 77] {
            let error = JpegError::of("nvjpegDecodeJpegHost", status);
            assert_eq!(error.severity(), Severity::Recoverable);
            let text = error.to_string();
            assert!(text.contains("nvjpegDecodeJpegHost") && text.contains(&status.to_string()), "{text}");
            assert!(matches!(error.in_stage("decode"), PipelineError::Stage { stage: "decode", .. }));
        }
        let lost = JpegError::Device(CallError { call: "cuEventRecord", code: 700 });
        assert_eq!(lost.severity(), Severity::Fatal);
        assert!(matches!(lost.in_stage("decode"), PipelineError::DeviceLost { stage: "decode", .. }));
    }

    #[test]
    fn what_is_missing_is_named_with_the_package_that_has_it() {
        let error = LibraryError::NotFound { library: &NVJPEG, driver: DRIVER, tried: Vec::new() };
        let text = error.to_string();
        for part in ["nvJPEG", "libnvjpeg.so.13", "pip install nvidia-nvjpeg`", "YOUQUANTI_NVJPEG"] {
            assert!(text.contains(part), "{part} is missing in: {text}");
        }
        // A library that is not nvJPEG.
        let error = Nvjpeg::open(Path::new("libm.so.6")).unwrap_err();
        assert_eq!(error, "it is not nvJPEG: it has no nvjpegGetProperty");
    }

    /// Where there is an nvJPEG.
    #[test]
    fn the_library_has_every_function_and_says_its_version() {
        let nvjpeg = match Nvjpeg::load(DRIVER) {
            Ok(nvjpeg) => nvjpeg,
            Err(error) => return println!("not run: {error}"),
        };
        println!("{nvjpeg:?}");
        assert!(nvjpeg.version[0] >= 12, "{nvjpeg:?}");
        let again = Nvjpeg::load(DRIVER).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(again.path(), nvjpeg.path());
    }
}
