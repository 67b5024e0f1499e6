//! Memory that a GPU reads and writes: buffers on the device, page-locked buffers on the host, and page-locked rings.
//!
//! Everything is made at start, from a plan whose total is held against the device's free memory first; nothing is allocated
//! afterwards. Once the device is lost nothing is given back: what it might still write to stays where it is, for good.

#![allow(unsafe_code, reason = "the driver is C, and the device writes host memory")]

use std::collections::BTreeSet;
use std::ffi::c_void;
use std::fmt::{self, Write as _};
use std::marker::PhantomData;
use std::mem::ManuallyDrop;
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;
use std::rc::Rc;
use std::sync::{Mutex, PoisonError};

use cudarc::driver::sys;
use youquanti_frames::RingMemory;

use super::device::{CallError, Context, Device};

/// Host addresses of rings that are registered in this process, or were when their device was lost.
static REGISTERED: Mutex<BTreeSet<usize>> = Mutex::new(BTreeSet::new());

/// Why memory is not to be had.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MemoryError {
    /// The device has less free memory than the plan needs.
    #[error("GPU {ordinal} has {} free and {} are needed ({items}): {remedy}", mebibytes(*have), mebibytes(*need))]
    TooLittle {
        /// Which device.
        ordinal: usize,
        /// Bytes.
        need: u64,
        /// Bytes.
        have: u64,
        /// What needs how much, the most first.
        items: String,
        /// What to do.
        remedy: &'static str,
    },
    /// The driver refuses memory.
    #[error("{} for {what} cannot be had", mebibytes(*bytes))]
    Refused {
        /// What for.
        what: &'static str,
        /// How much.
        bytes: u64,
        /// What the driver says.
        source: CallError,
    },
    /// A ring is page-locked once only.
    #[error("this ring is page-locked already, by a device of this process that is open or was lost")]
    Registered,
    /// A buffer was taken twice, or from another plan's buffers.
    #[error("a buffer was taken that is not there")]
    NotPlanned,
    /// The driver refuses a call.
    #[error("device memory cannot be reached")]
    Call(#[from] CallError),
}

fn mebibytes(bytes: u64) -> String {
    format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20))
}

/// Numbers, and structs of numbers, that may lie in device memory.
///
/// # Safety
/// All bits zero are a value, and so is whatever the device writes; there are no references in it.
pub unsafe trait Plain: Copy + 'static {}

// SAFETY: plain numbers.
unsafe impl Plain for u8 {}
// SAFETY: as above.
unsafe impl Plain for u16 {}
// SAFETY: as above.
unsafe impl Plain for u32 {}
// SAFETY: as above.
unsafe impl Plain for u64 {}
// SAFETY: as above.
unsafe impl Plain for f32 {}

/// An address in device memory, as kernels take it.
#[repr(transparent)]
pub struct DevicePtr<T>(u64, PhantomData<*mut T>);

impl<T> DevicePtr<T> {
    /// What no kernel may follow.
    pub const NULL: Self = Self::new(0);

    /// From the driver's or a runtime's address.
    pub const fn new(address: u64) -> Self {
        Self(address, PhantomData)
    }

    /// As the driver takes it.
    pub const fn address(self) -> u64 {
        self.0
    }

    /// The same place, as another type.
    pub const fn cast<U>(self) -> DevicePtr<U> {
        DevicePtr::new(self.0)
    }

    /// `count` values further on.
    pub const fn add(self, count: usize) -> Self {
        Self::new(self.0 + (count * size_of::<T>()) as u64)
    }
}

impl<T> Clone for DevicePtr<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for DevicePtr<T> {}

impl<T> PartialEq for DevicePtr<T> {
    fn eq(&self, other: &Self) -> bool {
        self.0 == other.0
    }
}

impl<T> fmt::Debug for DevicePtr<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}", self.0)
    }
}

// SAFETY: a number to the host; only kernels follow it.
unsafe impl<T: 'static> Plain for DevicePtr<T> {}

/// The device buffers of a pipeline, before any of them is made.
#[derive(Debug, Default)]
pub struct DevicePlan {
    items: Vec<Item>,
}

#[derive(Debug)]
struct Item {
    what: &'static str,
    bytes: u64,
    /// Counted only: somebody else allocates it.
    is_reserve: bool,
}

/// A buffer of a plan, to be taken from what [`DevicePlan::allocate`] gives.
#[derive(Debug)]
pub struct Planned<T> {
    at: usize,
    len: usize,
    _values: PhantomData<T>,
}

/// The buffers of a plan.
#[derive(Debug)]
pub struct Allocation {
    blocks: Vec<Option<Block>>,
}

impl DevicePlan {
    /// A buffer of `len` values, for what its name says.
    pub fn add<T: Plain>(&mut self, what: &'static str, len: usize) -> Planned<T> {
        let bytes = (len * size_of::<T>()) as u64;
        self.items.push(Item { what, bytes, is_reserve: false });
        Planned { at: self.items.len() - 1, len, _values: PhantomData }
    }

    /// Memory that somebody else will allocate, e.g. a runtime for its networks.
    pub fn reserve(&mut self, what: &'static str, bytes: u64) {
        self.items.push(Item { what, bytes, is_reserve: true });
    }

    /// Bytes of everything.
    pub fn total(&self) -> u64 {
        self.items.iter().map(|item| item.bytes).sum()
    }

    /// Makes all buffers, filled with zeros, if everything will have room; `remedy` says what to lower if not.
    ///
    /// # Errors
    /// [`MemoryError::TooLittle`] before anything is made; [`MemoryError::Refused`].
    pub fn allocate(&self, device: &Device, remedy: &'static str) -> Result<Allocation, MemoryError> {
        self.check(device.info().ordinal, device.memory()?.free, remedy)?;
        let block = |item: &Item| match item.is_reserve {
            true => Ok(None),
            false => Block::new(device.context(), item.what, item.bytes).map(Some),
        };
        Ok(Allocation { blocks: self.items.iter().map(block).collect::<Result<_, _>>()? })
    }

    fn check(&self, ordinal: usize, have: u64, remedy: &'static str) -> Result<(), MemoryError> {
        let need = self.total();
        if need <= have {
            return Ok(());
        }
        let mut largest: Vec<_> = self.items.iter().collect();
        largest.sort_by_key(|item| std::cmp::Reverse(item.bytes));
        let mut items = String::new();
        for (at, Item { what, bytes, .. }) in largest.iter().take(4).enumerate() {
            let comma = if at == 0 { "" } else { ", " };
            // Writing to a string does not fail.
            write!(items, "{comma}{what} {}", mebibytes(*bytes)).unwrap_or_default();
        }
        Err(MemoryError::TooLittle { ordinal, need, have, items, remedy })
    }
}

impl Allocation {
    /// The buffer that was planned.
    ///
    /// # Errors
    /// [`MemoryError::NotPlanned`] if `planned` is of another plan.
    pub fn take<T: Plain>(&mut self, planned: Planned<T>) -> Result<DeviceBuffer<T>, MemoryError> {
        let block = self.blocks.get_mut(planned.at).ok_or(MemoryError::NotPlanned)?;
        let block = block.take_if(|block| block.bytes == planned.bytes()).ok_or(MemoryError::NotPlanned)?;
        Ok(DeviceBuffer { block, len: planned.len, _values: PhantomData })
    }
}

impl<T> Planned<T> {
    fn bytes(&self) -> usize {
        self.len * size_of::<T>()
    }
}

/// Invariant: `bytes` bytes of device memory at `address`, this one's alone.
struct Block {
    context: Rc<Context>,
    address: sys::CUdeviceptr,
    bytes: usize,
}

impl Block {
    fn new(context: &Rc<Context>, what: &'static str, bytes: u64) -> Result<Self, MemoryError> {
        let refused = |source| MemoryError::Refused { what, bytes, source };
        let (mut address, len) = (0, bytes as usize);
        // SAFETY: the context is current. The driver allocates no empty block.
        let allocate = || unsafe { sys::cuMemAlloc_v2(&raw mut address, len.max(1)) };
        context.call("cuMemAlloc_v2", allocate).map_err(refused)?;
        let block = Self { context: Rc::clone(context), address, bytes: len };
        // SAFETY: the block was just made, this large.
        let clear = || unsafe { sys::cuMemsetD8_v2(address, 0, len) };
        block.context.call("cuMemsetD8_v2", clear).map_err(refused)?;
        wait(context).map_err(refused)?;
        Ok(block)
    }
}

/// Waits for everything on the device. Plain copies and fills may be under way when their calls return, and streams of this
/// device do not wait for them, nor they for streams.
fn wait(context: &Context) -> Result<(), CallError> {
    // SAFETY: the context is current.
    context.call("cuCtxSynchronize", || unsafe { sys::cuCtxSynchronize() })
}

impl Drop for Block {
    fn drop(&mut self) {
        let address = self.address;
        // SAFETY: this one's alone, by the invariant; the driver waits for what still uses it.
        self.context.give_back("a device buffer", "cuMemFree_v2", || unsafe { sys::cuMemFree_v2(address) });
    }
}

impl fmt::Debug for Block {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes at {:#x}", self.bytes, self.address)
    }
}

/// Values in device memory.
pub struct DeviceBuffer<T: Plain> {
    block: Block,
    len: usize,
    _values: PhantomData<T>,
}

impl<T: Plain> DeviceBuffer<T> {
    /// One buffer of zeros, outside of any plan.
    ///
    /// # Errors
    /// [`MemoryError::Refused`].
    pub fn new(device: &Device, what: &'static str, len: usize) -> Result<Self, MemoryError> {
        let block = Block::new(device.context(), what, (len * size_of::<T>()) as u64)?;
        Ok(Self { block, len, _values: PhantomData })
    }

    /// Values that it holds.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether it holds none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Where it begins.
    pub fn ptr(&self) -> DevicePtr<T> {
        DevicePtr::new(self.block.address)
    }

    /// Writes its first values, and waits until that, and everything that the device was given before, is done. Not for
    /// every frame.
    ///
    /// # Errors
    /// What the driver says, also of what ran on the device before.
    ///
    /// # Panics
    /// If there are more than it holds.
    pub fn write(&mut self, values: &[T]) -> Result<(), CallError> {
        assert!(values.len() <= self.len);
        let (to, bytes) = (self.block.address, size_of_val(values));
        // SAFETY: the buffer is at least as long; the driver returns when the values were read.
        let copy = || unsafe { sys::cuMemcpyHtoD_v2(to, values.as_ptr().cast(), bytes) };
        self.block.context.call("cuMemcpyHtoD_v2", copy)?;
        wait(&self.block.context)
    }

    /// Reads its first values, after everything that the device was given before. Not for every frame.
    ///
    /// # Errors
    /// What the driver says, also of what ran on the device before; `values` are then meaningless.
    ///
    /// # Panics
    /// If more are wanted than it holds.
    pub fn read(&self, values: &mut [T]) -> Result<(), CallError> {
        assert!(values.len() <= self.len);
        wait(&self.block.context)?;
        let (from, bytes) = (self.block.address, size_of_val(values));
        // SAFETY: the buffer is at least as long; all that a device writes is a value, by `Plain`.
        self.block.context.call("cuMemcpyDtoH_v2", || unsafe {
            sys::cuMemcpyDtoH_v2(values.as_mut_ptr().cast(), from, bytes)
        })
    }
}

impl<T: Plain> fmt::Debug for DeviceBuffer<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("DeviceBuffer").field(&self.block).finish()
    }
}

/// Page-locked values on the host, which the device copies to and from directly. Not write-combined: the host reads it
/// fast. What a stream was told to write into it is there once the stream, or an event behind it, was waited for.
pub struct PinnedBuffer<T: Plain> {
    context: Rc<Context>,
    /// Invariant: `len` values, page-locked, this one's alone.
    start: NonNull<T>,
    len: usize,
}

impl<T: Plain> PinnedBuffer<T> {
    /// Zeros.
    ///
    /// # Errors
    /// [`MemoryError::Refused`].
    pub fn new(device: &Device, what: &'static str, len: usize) -> Result<Self, MemoryError> {
        let bytes = len * size_of::<T>();
        let refused = |source| MemoryError::Refused { what, bytes: bytes as u64, source };
        let mut start = std::ptr::null_mut();
        let context = Rc::clone(device.context());
        // SAFETY: the context is current. The driver allocates no empty block.
        let allocate = || unsafe { sys::cuMemHostAlloc(&raw mut start, bytes.max(1), 0) };
        context.call("cuMemHostAlloc", allocate).map_err(refused)?;
        let Some(start) = NonNull::new(start.cast::<T>()) else {
            return Err(refused(CallError { call: "cuMemHostAlloc", code: 2 }));
        };
        // SAFETY: the block is this long, aligned to a page, and nobody knows it yet.
        unsafe { start.write_bytes(0, len) };
        Ok(Self { context, start, len })
    }
}

impl<T: Plain> Deref for PinnedBuffer<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        // SAFETY: by the invariant; zeros, and whatever the device wrote, are values by `Plain`. Whoever told the
        // device to write promised to wait first.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.len) }
    }
}

impl<T: Plain> DerefMut for PinnedBuffer<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        // SAFETY: as for `deref`, and borrowed mutably.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.len) }
    }
}

impl<T: Plain> Drop for PinnedBuffer<T> {
    fn drop(&mut self) {
        let start = self.start.as_ptr().cast::<c_void>();
        // SAFETY: this one's alone, by the invariant; the driver waits for what still uses it.
        self.context
            .give_back("a page-locked buffer", "cuMemFreeHost", || unsafe { sys::cuMemFreeHost(start) });
    }
}

impl<T: Plain> fmt::Debug for PinnedBuffer<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PinnedBuffer({} values at {:p})", self.len, self.start)
    }
}

/// A camera's ring, page-locked for a device for as long as this lives: uploads read its slots directly. Keeps the ring's
/// memory where it is. Once the device is lost, the memory stays for good, and is never registered again.
pub struct RegisteredRing {
    context: Rc<Context>,
    /// Unregistered before it can be unmapped.
    memory: ManuallyDrop<RingMemory>,
}

impl RegisteredRing {
    /// Page-locks all of a ring's memory.
    ///
    /// # Errors
    /// [`MemoryError::Registered`], or [`MemoryError::Refused`], e.g. where `ulimit -l` is too low.
    pub fn new(device: &Device, memory: RingMemory) -> Result<Self, MemoryError> {
        let (start, bytes) = extent(&memory);
        let mut registered = REGISTERED.lock().unwrap_or_else(PoisonError::into_inner);
        if registered.contains(&start.addr()) {
            return Err(MemoryError::Registered);
        }
        let context = Rc::clone(device.context());
        // SAFETY: the memory is mapped, this long and page-aligned, and stays until it is unregistered.
        let register = || unsafe { sys::cuMemHostRegister_v2(start, bytes, 0) };
        context.call("cuMemHostRegister_v2", register).map_err(|source| MemoryError::Refused {
            what: "page-locking a camera's ring (see `ulimit -l`)",
            bytes: bytes as u64,
            source,
        })?;
        registered.insert(start.addr());
        Ok(Self { context, memory: ManuallyDrop::new(memory) })
    }

    /// Whether these bytes lie in the ring, so that a copy of them to the device is direct.
    pub fn contains(&self, bytes: &[u8]) -> bool {
        let (start, len) = extent(&self.memory);
        let range = bytes.as_ptr_range();
        range.start.addr() >= start.addr() && range.end.addr() <= start.addr() + len
    }
}

fn extent(memory: &RingMemory) -> (*mut c_void, usize) {
    let bytes = memory.bytes();
    (bytes.as_ptr().cast(), bytes.len())
}

impl Drop for RegisteredRing {
    fn drop(&mut self) {
        let (start, _) = extent(&self.memory);
        // SAFETY: registered when this was made, and still mapped; the driver waits for what still reads it.
        let given_back =
            self.context.give_back("a camera's page-locked ring", "cuMemHostUnregister", || unsafe {
                sys::cuMemHostUnregister(start)
            });
        if given_back {
            REGISTERED.lock().unwrap_or_else(PoisonError::into_inner).remove(&start.addr());
            // SAFETY: dropped here and nowhere else.
            unsafe { ManuallyDrop::drop(&mut self.memory) };
        }
    }
}

impl fmt::Debug for RegisteredRing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RegisteredRing(GPU {}, {:?})", self.context.ordinal(), *self.memory)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plan_adds_up_and_says_what_is_too_much() {
        let mut plan = DevicePlan::default();
        let crops = plan.add::<f32>("crops", 16 * 3 * 256 * 256);
        plan.add::<u8>("frames", 1 << 20);
        plan.reserve("the networks", 3 << 30);
        let total = 4 * 16 * 3 * 256 * 256 + (1 << 20) + (3 << 30);
        assert_eq!(plan.total(), total);
        assert_eq!(crops.bytes(), 4 * 16 * 3 * 256 * 256);
        assert_eq!(plan.check(0, total, "-"), Ok(()));
        let error =
            plan.check(1, total - 1, "lower `faces.max` or place cameras on another GPU").unwrap_err();
        assert_eq!(
            error.to_string(),
            "GPU 1 has 3085.0 MiB free and 3085.0 MiB are needed (the networks 3072.0 MiB, crops 12.0 MiB, \
             frames 1.0 MiB): lower `faces.max` or place cameras on another GPU"
        );
    }

    #[test]
    fn pointers_count_in_values() {
        let start = DevicePtr::<f32>::new(0x1000);
        assert_eq!(start.add(3).address(), 0x100c);
        assert_eq!(start.add(1).cast::<u8>(), DevicePtr::new(0x1004));
        assert_eq!(size_of::<DevicePtr<f32>>(), 8);
    }

    #[test]
    fn refusals_say_what_for() {
        let source = CallError { call: "cuMemAlloc_v2", code: 2 };
        let error = MemoryError::Refused { what: "crops", bytes: 3 << 19, source };
        assert_eq!(error.to_string(), "1.5 MiB for crops cannot be had");
    }
}
