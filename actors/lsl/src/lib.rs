//! Lab Streaming Layer for YouQuanti: a thin safe layer over liblsl, which is opened at run time.
//!
//! Owns every call of liblsl. Offers what this project needs: declaring streams with a description ([`StreamInfo`],
//! [`Element`]), sending ([`Outlet`]), finding ([`Resolver`]) and receiving ([`Inlet`]). Never touches a stamp: what is pushed
//! and pulled are the sender's, seconds of `lsl_local_clock()`, which is `CLOCK_MONOTONIC`.
//!
//! A liblsl object may be used from one thread at a time and from any: liblsl keeps nothing by thread but the text of the
//! last error. So handles are `Send`, and not `Sync`.

#![allow(unsafe_code, reason = "calls a C library")]

mod find;
mod raw;

use std::cell::Cell;
use std::ffi::{CStr, CString, c_char, c_ulong};
use std::marker::PhantomData;
use std::path::Path;
use std::ptr;
use std::sync::Once;
use std::time::Duration;

pub use find::{LIBRARY_VARIABLE, LoadError, Tried};
use raw::{Api, Handle};

/// Most samples of one [`Inlet::pull`].
const CHUNK: usize = 512;

/// `transp_bufsize_samples`: buffers are counted in samples.
const BUFFER_IN_SAMPLES: i32 = 1;

const LOST: i32 = -2;
const TIMED_OUT: i32 = -1;

/// Why a call of liblsl did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum LslError {
    /// liblsl failed.
    #[error("{call} failed: {reason}")]
    Failed {
        /// The function.
        call: &'static str,
        /// What liblsl says of it.
        reason: String,
    },
    /// A sample does not fit its stream.
    #[error("a sample of {values} {got} does not fit a stream of {channels} {declared:?}")]
    Misfit {
        /// Values of the sample.
        values: usize,
        /// Their type.
        got: &'static str,
        /// Channels of the stream.
        channels: usize,
        /// Format of the stream.
        declared: Format,
    },
    /// A text contains a zero byte, which no name can.
    #[error("{0:?} contains a zero byte")]
    Text(String),
    /// The stream's sender is gone.
    #[error("the stream is lost: its sender is gone")]
    Lost,
    /// Nothing came in time.
    #[error("{call} took longer than {patience:?}")]
    TimedOut {
        /// The function.
        call: &'static str,
        /// How long it was given.
        patience: Duration,
    },
}

/// liblsl, loaded. Cheap to copy; the library stays loaded until the process ends.
#[derive(Clone, Copy)]
pub struct Lsl {
    loaded: &'static find::Loaded,
}

impl Lsl {
    /// Loads liblsl, once in a process; later calls return the same.
    ///
    /// Looked for in this order:
    /// 1. the file named by `YOUQUANTI_LIBLSL`, which rules out the rest;
    /// 2. the executable's folder, and `../lib` from there;
    /// 3. the package `pylsl` of the Python environments `$VIRTUAL_ENV`, `.venv` of the current folder and of each above it,
    ///    and of each folder above the executable;
    /// 4. the system's loader.
    ///
    /// # Errors
    /// See [`LoadError`]. A failure is not remembered: a later call looks again.
    pub fn load() -> Result<Self, LoadError> {
        find::load().map(|loaded| Self { loaded })
    }

    /// Sets liblsl's own configuration, in the form of its `lsl_api.cfg`, in place of the files that it would look for. Of
    /// effect only before anything else was asked of liblsl in this process, and once.
    pub fn configure(self, content: &str) {
        static ONCE: Once = Once::new();
        let Ok(content) = CString::new(content) else { return };
        // SAFETY: liblsl copies the text, which lives until after the call.
        ONCE.call_once(|| unsafe { (self.api().lsl_set_config_content)(content.as_ptr()) });
    }

    /// The file that was loaded; the bare library name when the system's loader found it.
    pub fn path(&self) -> &Path {
        &self.loaded.path
    }

    /// Its version, e.g. `1.18`.
    pub fn version(self) -> String {
        let version = version_of(self.api());
        format!("{}.{}", version / 100, version % 100)
    }

    /// liblsl's clock, seconds.
    pub fn local_clock(self) -> f64 {
        // SAFETY: takes nothing and has no requirements.
        unsafe { (self.api().lsl_local_clock)() }
    }

    fn api(self) -> &'static Api {
        &self.loaded.api
    }

    /// The error of the call that this thread has just made.
    fn failed(self, call: &'static str) -> LslError {
        // SAFETY: the text is this thread's own and lives until its next call of liblsl.
        let reason = unsafe { text((self.api().lsl_last_error)()) };
        LslError::Failed {
            call,
            reason: if reason.is_empty() { "no reason given".to_owned() } else { reason },
        }
    }

    fn check(self, call: &'static str, code: i32, patience: Duration) -> Result<(), LslError> {
        match code {
            0 => Ok(()),
            LOST => Err(LslError::Lost),
            TIMED_OUT => Err(LslError::TimedOut { call, patience }),
            _ => Err(self.failed(call)),
        }
    }
}

fn version_of(api: &Api) -> i32 {
    // SAFETY: takes nothing and has no requirements.
    unsafe { (api.lsl_library_version)() }
}

/// A copy of a C string, with what is not UTF-8 replaced.
///
/// # Safety
/// `text` is null or a string that ends with a zero byte and lives during the call.
unsafe fn text(text: *const c_char) -> String {
    if text.is_null() {
        return String::new();
    }
    // SAFETY: not null, and by this function's contract a string that lives.
    unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned()
}

fn c_text(text: &str) -> Result<CString, LslError> {
    CString::new(text).map_err(|_| LslError::Text(text.to_owned()))
}

/// Type of a stream's values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// 32-bit floating point.
    Float32,
    /// 64-bit floating point.
    Double64,
    /// Texts of any length.
    Text,
    /// Whole numbers or anything else that others send; received as numbers.
    Other(i32),
}

impl Format {
    /// As liblsl numbers them.
    fn code(self) -> i32 {
        match self {
            Format::Float32 => 1,
            Format::Double64 => 2,
            Format::Text => 3,
            Format::Other(code) => code,
        }
    }

    fn from_code(code: i32) -> Self {
        match code {
            1 => Format::Float32,
            2 => Format::Double64,
            3 => Format::Text,
            other => Format::Other(other),
        }
    }
}

/// An element of a stream's description: XML without attributes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Element {
    /// Its name.
    pub name: String,
    /// Its text; empty where it has children.
    pub text: String,
    /// Its children, in order.
    pub children: Vec<Element>,
}

impl Element {
    /// An element that holds a text.
    pub fn text(name: &str, text: impl ToString) -> Self {
        Self { name: name.to_owned(), text: text.to_string(), children: Vec::new() }
    }

    /// An element that holds others.
    pub fn tree(name: &str, children: Vec<Element>) -> Self {
        Self { name: name.to_owned(), text: String::new(), children }
    }
}

/// What a stream is.
#[derive(Clone, Debug, PartialEq)]
pub struct Declaration {
    /// Name of the stream.
    pub name: String,
    /// Type of its content, e.g. `Markers`.
    pub kind: String,
    /// Values of a sample.
    pub channels: usize,
    /// Samples a second; 0 for a stream without a rate.
    pub rate: f64,
    /// Type of the values.
    pub format: Format,
    /// Identifies the sender over its restarts; unique on the network.
    pub source_id: String,
    /// What stands below `<desc>`.
    pub desc: Vec<Element>,
}

/// A stream's declaration as liblsl holds it. Invariant: `raw` is live until drop, and nobody else has it.
pub struct StreamInfo {
    lsl: Lsl,
    raw: Handle,
}

// SAFETY: liblsl's stream info is plain data without ties to a thread (see the crate's header).
unsafe impl Send for StreamInfo {}

impl StreamInfo {
    /// Declares a stream.
    ///
    /// # Errors
    /// A text with a zero byte, or liblsl refuses it, e.g. an empty name.
    pub fn new(lsl: Lsl, declaration: &Declaration) -> Result<Self, LslError> {
        let [name, kind, source_id] =
            [&declaration.name, &declaration.kind, &declaration.source_id].map(|text| c_text(text));
        let (name, kind, source_id) = (name?, kind?, source_id?);
        let channels = i32::try_from(declaration.channels).unwrap_or(i32::MAX);
        let (rate, format) = (declaration.rate, declaration.format.code());
        // SAFETY: three strings that live until after the call, which copies them.
        let raw = unsafe {
            (lsl.api().lsl_create_streaminfo)(
                name.as_ptr(),
                kind.as_ptr(),
                channels,
                rate,
                format,
                source_id.as_ptr(),
            )
        };
        if raw.is_null() {
            return Err(lsl.failed("lsl_create_streaminfo"));
        }
        let info = Self { lsl, raw };
        // SAFETY: `raw` is live; the element belongs to it.
        let desc = unsafe { (lsl.api().lsl_get_desc)(info.raw) };
        for element in &declaration.desc {
            // SAFETY: `desc` is an element of `info`, which lives.
            unsafe { append(lsl, desc, element) }?;
        }
        Ok(info)
    }

    /// Name of the stream.
    pub fn name(&self) -> String {
        self.text(self.lsl.api().lsl_get_name)
    }

    /// Type of its content.
    pub fn kind(&self) -> String {
        self.text(self.lsl.api().lsl_get_type)
    }

    /// Identifies the sender over its restarts; may be empty.
    pub fn source_id(&self) -> String {
        self.text(self.lsl.api().lsl_get_source_id)
    }

    /// The machine that it comes from.
    pub fn hostname(&self) -> String {
        self.text(self.lsl.api().lsl_get_hostname)
    }

    /// Of this life of the stream: a restarted one has another.
    pub fn uid(&self) -> String {
        self.text(self.lsl.api().lsl_get_uid)
    }

    /// Values of a sample.
    pub fn channels(&self) -> usize {
        // SAFETY: `raw` is live by the invariant.
        usize::try_from(unsafe { (self.lsl.api().lsl_get_channel_count)(self.raw) }).unwrap_or(0)
    }

    /// Type of the values.
    pub fn format(&self) -> Format {
        // SAFETY: `raw` is live by the invariant.
        Format::from_code(unsafe { (self.lsl.api().lsl_get_channel_format)(self.raw) })
    }

    /// Samples a second; 0 for a stream without a rate.
    pub fn rate(&self) -> f64 {
        // SAFETY: `raw` is live by the invariant.
        unsafe { (self.lsl.api().lsl_get_nominal_srate)(self.raw) }
    }

    fn text(&self, get: unsafe extern "C" fn(Handle) -> *const c_char) -> String {
        // SAFETY: `raw` is live by the invariant, and the string belongs to it and is copied at once.
        unsafe { text(get(self.raw)) }
    }
}

impl Drop for StreamInfo {
    fn drop(&mut self) {
        // SAFETY: `raw` is live by the invariant, and used no more.
        unsafe { (self.lsl.api().lsl_destroy_streaminfo)(self.raw) }
    }
}

/// Appends an element and all below it.
///
/// # Safety
/// `parent` is an element of a stream info that lives.
unsafe fn append(lsl: Lsl, parent: Handle, element: &Element) -> Result<(), LslError> {
    let (name, value) = (c_text(&element.name)?, c_text(&element.text)?);
    if element.children.is_empty() {
        // SAFETY: `parent` by this function's contract; both strings live until after the call, which copies them.
        unsafe { (lsl.api().lsl_append_child_value)(parent, name.as_ptr(), value.as_ptr()) };
        return Ok(());
    }
    // SAFETY: as above.
    let child = unsafe { (lsl.api().lsl_append_child)(parent, name.as_ptr()) };
    for element in &element.children {
        // SAFETY: `child` is an element of the same stream info.
        unsafe { append(lsl, child, element) }?;
    }
    Ok(())
}

/// A stream that is sent. It is found on the network from its making to its drop. Pushing never waits for a receiver: one
/// that does not read loses its oldest samples. Invariant: `raw` is live until drop, and nobody else has it.
pub struct Outlet {
    lsl: Lsl,
    raw: Handle,
    channels: usize,
    format: Format,
    _not_sync: PhantomData<Cell<()>>,
}

// SAFETY: liblsl's outlet locks for itself and has no ties to a thread (see the crate's header).
unsafe impl Send for Outlet {}

impl Outlet {
    /// Makes the stream known; up to `buffered` samples wait for each receiver.
    ///
    /// # Errors
    /// liblsl cannot open a port.
    pub fn new(info: &StreamInfo, buffered: u32) -> Result<Self, LslError> {
        let lsl = info.lsl;
        let buffered = i32::try_from(buffered).unwrap_or(i32::MAX);
        // SAFETY: `info` is live by its invariant; the outlet copies it.
        let raw = unsafe { (lsl.api().lsl_create_outlet_ex)(info.raw, 0, buffered, BUFFER_IN_SAMPLES) };
        if raw.is_null() {
            return Err(lsl.failed("lsl_create_outlet_ex"));
        }
        Ok(Self { lsl, raw, channels: info.channels(), format: info.format(), _not_sync: PhantomData })
    }

    /// Sends one sample, stamped `at` seconds.
    ///
    /// # Errors
    /// It does not fit the stream, or liblsl refuses it.
    pub fn push_f32(&self, values: &[f32], at: f64) -> Result<(), LslError> {
        self.fits(Format::Float32, "float32", values.len())?;
        // SAFETY: `raw` is live by the invariant; liblsl reads as many values as the stream has channels, which was checked.
        let code = unsafe { (self.lsl.api().lsl_push_sample_ft)(self.raw, values.as_ptr(), at) };
        self.lsl.check("lsl_push_sample_ft", code, Duration::ZERO)
    }

    /// The same for a stream of doubles.
    ///
    /// # Errors
    /// As [`push_f32`](Self::push_f32).
    pub fn push_f64(&self, values: &[f64], at: f64) -> Result<(), LslError> {
        self.fits(Format::Double64, "double64", values.len())?;
        // SAFETY: as in `push_f32`.
        let code = unsafe { (self.lsl.api().lsl_push_sample_dt)(self.raw, values.as_ptr(), at) };
        self.lsl.check("lsl_push_sample_dt", code, Duration::ZERO)
    }

    /// The same for a stream of one text.
    ///
    /// # Errors
    /// As [`push_f32`](Self::push_f32).
    pub fn push_text(&self, text: &str, at: f64) -> Result<(), LslError> {
        self.fits(Format::Text, "text", 1)?;
        let (start, length) = (text.as_ptr().cast::<c_char>(), u32::try_from(text.len()).unwrap_or(u32::MAX));
        // SAFETY: `raw` is live by the invariant; one start and one length for the stream's one channel, and the text has
        // at least so many bytes.
        let code = unsafe {
            (self.lsl.api().lsl_push_sample_buft)(self.raw, &raw const start, &raw const length, at)
        };
        self.lsl.check("lsl_push_sample_buft", code, Duration::ZERO)
    }

    /// Whether anybody receives the stream now.
    pub fn has_consumers(&self) -> bool {
        // SAFETY: `raw` is live by the invariant.
        unsafe { (self.lsl.api().lsl_have_consumers)(self.raw) != 0 }
    }

    fn fits(&self, format: Format, got: &'static str, values: usize) -> Result<(), LslError> {
        if (self.format, self.channels) == (format, values) {
            return Ok(());
        }
        Err(LslError::Misfit { values, got, channels: self.channels, declared: self.format })
    }
}

impl Drop for Outlet {
    fn drop(&mut self) {
        // SAFETY: `raw` is live by the invariant, and used no more.
        unsafe { (self.lsl.api().lsl_destroy_outlet)(self.raw) }
    }
}

/// Looks for streams in the background, for as long as it lives. Invariant: `raw` is live until drop, and nobody else has it.
pub struct Resolver {
    lsl: Lsl,
    raw: Handle,
    _not_sync: PhantomData<Cell<()>>,
}

// SAFETY: liblsl's resolver locks for itself and has no ties to a thread (see the crate's header).
unsafe impl Send for Resolver {}

/// Most streams that one look at a [`Resolver`] gives.
const MOST_FOUND: usize = 1024;

impl Resolver {
    /// Looks for all streams that `predicate` holds for, XPath 1.0 over the stream's `<info>`, such as `nominal_srate=0`. A stream
    /// is forgotten so long after it was last seen.
    ///
    /// # Errors
    /// liblsl cannot open a socket.
    pub fn new(lsl: Lsl, predicate: &str, forget_after: Duration) -> Result<Self, LslError> {
        let predicate = c_text(predicate)?;
        let forget_after = forget_after.as_secs_f64();
        // SAFETY: the string lives until after the call, which copies it.
        let raw =
            unsafe { (lsl.api().lsl_create_continuous_resolver_bypred)(predicate.as_ptr(), forget_after) };
        if raw.is_null() {
            return Err(lsl.failed("lsl_create_continuous_resolver_bypred"));
        }
        Ok(Self { lsl, raw, _not_sync: PhantomData })
    }

    /// The streams that are known now, without their descriptions; at most 1024.
    pub fn found(&self) -> Vec<StreamInfo> {
        let mut raw: [Handle; MOST_FOUND] = [ptr::null_mut(); MOST_FOUND];
        // SAFETY: `raw` is live by the invariant; the buffer has room for as many as it is said to have.
        let count =
            unsafe { (self.lsl.api().lsl_resolver_results)(self.raw, raw.as_mut_ptr(), MOST_FOUND as u32) };
        let found = raw.into_iter().take(usize::try_from(count).unwrap_or(0)).filter(|raw| !raw.is_null());
        // Each is ours from now on.
        found.map(|raw| StreamInfo { lsl: self.lsl, raw }).collect()
    }
}

impl Drop for Resolver {
    fn drop(&mut self) {
        // SAFETY: `raw` is live by the invariant, and used no more.
        unsafe { (self.lsl.api().lsl_destroy_continuous_resolver)(self.raw) }
    }
}

/// Values of a sample that was received.
#[derive(Clone, Debug, PartialEq)]
pub enum Values {
    /// Of a stream of texts, with what is not UTF-8 replaced.
    Texts(Vec<String>),
    /// Of any other.
    Numbers(Vec<f64>),
}

/// A sample that was received.
#[derive(Clone, Debug, PartialEq)]
pub struct Sample {
    /// The sender's stamp, seconds of the sender's clock.
    pub at: f64,
    /// One for each channel.
    pub values: Values,
}

/// Estimate of what must be added to a sender's stamps to have this machine's.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Correction {
    /// Seconds.
    pub offset: f64,
    /// Round trip that it was found with, seconds: an upper bound of the error.
    pub uncertainty: f64,
}

/// A stream that is received. Invariant: `raw` is live until drop, and nobody else has it.
pub struct Inlet {
    lsl: Lsl,
    raw: Handle,
    channels: usize,
    is_text: bool,
    stamps: Vec<f64>,
    numbers: Vec<f64>,
    _not_sync: PhantomData<Cell<()>>,
}

// SAFETY: liblsl's inlet locks for itself and has no ties to a thread (see the crate's header).
unsafe impl Send for Inlet {}

impl Inlet {
    /// Connects to a stream that was found; up to `buffered` samples wait to be pulled. One with a `source_id` is followed over
    /// its sender's restarts, in the background; any other is lost when its sender is gone.
    ///
    /// # Errors
    /// The sender does not answer within `patience`, or is gone.
    pub fn open(info: &StreamInfo, buffered: u32, patience: Duration) -> Result<Self, LslError> {
        let lsl = info.lsl;
        let buffered = i32::try_from(buffered).unwrap_or(i32::MAX);
        let recover = i32::from(!info.source_id().is_empty());
        // SAFETY: `info` is live by its invariant; the inlet copies it.
        let raw =
            unsafe { (lsl.api().lsl_create_inlet_ex)(info.raw, buffered, 0, recover, BUFFER_IN_SAMPLES) };
        if raw.is_null() {
            return Err(lsl.failed("lsl_create_inlet_ex"));
        }
        let channels = info.channels().max(1);
        let is_text = info.format() == Format::Text;
        let samples = (CHUNK / channels).max(1);
        let inlet = Self {
            lsl,
            raw,
            channels,
            is_text,
            stamps: vec![0.0; samples],
            numbers: vec![0.0; if is_text { 0 } else { samples * channels }],
            _not_sync: PhantomData,
        };
        let mut code = 0;
        // SAFETY: `raw` is live; the code has a place.
        unsafe { (lsl.api().lsl_open_stream)(inlet.raw, patience.as_secs_f64(), &raw mut code) };
        lsl.check("lsl_open_stream", code, patience)?;
        // The first pull asks the sender for this, and without limit: it would wait for ever for one that is gone by then.
        // SAFETY: as above; what comes back is a stream info of our own.
        let full = unsafe { (lsl.api().lsl_get_fullinfo)(inlet.raw, patience.as_secs_f64(), &raw mut code) };
        if !full.is_null() {
            drop(StreamInfo { lsl, raw: full });
        }
        lsl.check("lsl_get_fullinfo", code, patience)?;
        Ok(inlet)
    }

    /// What must be added to the sender's stamps. The first estimate takes a moment; later ones are kept up in the background.
    ///
    /// # Errors
    /// No estimate within `patience`, or the sender is gone.
    pub fn correction(&self, patience: Duration) -> Result<Correction, LslError> {
        let (mut remote, mut uncertainty, mut code) = (0.0, 0.0, 0);
        // SAFETY: `raw` is live by the invariant; each result has a place.
        let offset = unsafe {
            (self.lsl.api().lsl_time_correction_ex)(
                self.raw,
                &raw mut remote,
                &raw mut uncertainty,
                patience.as_secs_f64(),
                &raw mut code,
            )
        };
        self.lsl.check("lsl_time_correction_ex", code, patience)?;
        Ok(Correction { offset, uncertainty })
    }

    /// What has come, oldest first, at most 512 values. Never waits: liblsl forgets what it has given while it waits for
    /// more, should the sender go meanwhile.
    ///
    /// # Errors
    /// [`LslError::Lost`] when the sender is gone for good.
    pub fn pull(&mut self) -> Result<Vec<Sample>, LslError> {
        if self.is_text { self.pull_texts() } else { self.pull_numbers() }
    }

    fn pull_numbers(&mut self) -> Result<Vec<Sample>, LslError> {
        let mut code = 0;
        // SAFETY: `raw` is live by the invariant; both buffers have room for as many values as they are said to have.
        let written = unsafe {
            (self.lsl.api().lsl_pull_chunk_d)(
                self.raw,
                self.numbers.as_mut_ptr(),
                self.stamps.as_mut_ptr(),
                self.numbers.len() as c_ulong,
                self.stamps.len() as c_ulong,
                0.0,
                &raw mut code,
            )
        };
        self.lsl.check("lsl_pull_chunk_d", code, Duration::ZERO)?;
        let rows = self.numbers[..written as usize].chunks_exact(self.channels);
        let sample = |(values, &at): (&[f64], &f64)| Sample { at, values: Values::Numbers(values.to_vec()) };
        Ok(rows.zip(&self.stamps).map(sample).collect())
    }

    fn pull_texts(&mut self) -> Result<Vec<Sample>, LslError> {
        let elements = self.stamps.len() * self.channels;
        let mut starts: Vec<*mut c_char> = vec![ptr::null_mut(); elements];
        let mut lengths = vec![0_u32; elements];
        let mut code = 0;
        // SAFETY: `raw` is live by the invariant; the three buffers have room for as many as they are said to have.
        let written = unsafe {
            (self.lsl.api().lsl_pull_chunk_buf)(
                self.raw,
                starts.as_mut_ptr(),
                lengths.as_mut_ptr(),
                self.stamps.as_mut_ptr(),
                elements as c_ulong,
                self.stamps.len() as c_ulong,
                0.0,
                &raw mut code,
            )
        };
        let handed_over = starts.iter().zip(&lengths).take(written as usize);
        let texts: Vec<String> = handed_over.map(|(&start, &length)| self.take(start, length)).collect();
        self.lsl.check("lsl_pull_chunk_buf", code, Duration::ZERO)?;
        let rows = texts.chunks_exact(self.channels);
        let sample = |(texts, &at): (&[String], &f64)| Sample { at, values: Values::Texts(texts.to_vec()) };
        Ok(rows.zip(&self.stamps).map(sample).collect())
    }

    /// A text that liblsl has handed over.
    fn take(&self, start: *mut c_char, length: u32) -> String {
        if start.is_null() {
            return String::new();
        }
        // SAFETY: liblsl has written `length` bytes at `start`, and hands them over.
        let bytes = unsafe { std::slice::from_raw_parts(start.cast::<u8>(), length as usize) };
        let text = String::from_utf8_lossy(bytes).into_owned();
        // SAFETY: liblsl allocated it, and nobody reads it any more.
        unsafe { (self.lsl.api().lsl_destroy_string)(start) };
        text
    }
}

impl Drop for Inlet {
    fn drop(&mut self) {
        // SAFETY: `raw` is live by the invariant, and used no more.
        unsafe { (self.lsl.api().lsl_destroy_inlet)(self.raw) }
    }
}
