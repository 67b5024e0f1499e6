"""Whether a fatal error on one GPU costs a process the other: `python3 gpu/tests/device/two_contexts.py 0`, or `1`, breaks that one.

Plain calls of the driver, nothing of this project: two primary contexts, memory in each, a kernel that writes to an illegal address
in one, then work in the other. Prints each call with its code; 700 is CUDA_ERROR_ILLEGAL_ADDRESS.
"""
import ctypes
import sys

POKE = b""".version 7.0
.target sm_50
.address_size 64
.visible .entry poke()
{
.reg .b64 %at;
.reg .b32 %v;
mov.u64 %at, 8;
mov.u32 %v, 7;
st.global.u32 [%at], %v;
ret;
}
"""
SIZE = 1 << 20

cuda = ctypes.CDLL("libcuda.so.1")


def say(code, what):
    print(what, code, flush=True)


say(cuda.cuInit(0), "init")
contexts, memory = [], []
for number in (0, 1):
    device, context, at = ctypes.c_int(), ctypes.c_void_p(), ctypes.c_uint64()
    cuda.cuDeviceGet(ctypes.byref(device), number)
    say(cuda.cuDevicePrimaryCtxRetain(ctypes.byref(context), device), f"context of {number}")
    cuda.cuCtxSetCurrent(context)
    say(cuda.cuMemAlloc_v2(ctypes.byref(at), SIZE), f"memory of {number}")
    say(cuda.cuMemsetD8_v2(at, 1, SIZE), f"set on {number}")
    say(cuda.cuCtxSynchronize(), f"wait for {number}")
    contexts.append(context)
    memory.append(at)

broken = int(sys.argv[1])
other = 1 - broken
cuda.cuCtxSetCurrent(contexts[broken])
module, poke = ctypes.c_void_p(), ctypes.c_void_p()
say(cuda.cuModuleLoadData(ctypes.byref(module), POKE), "load")
say(cuda.cuModuleGetFunction(ctypes.byref(poke), module, b"poke"), "find")
say(cuda.cuLaunchKernel(poke, 1, 1, 1, 1, 1, 1, 0, None, None, None), "launch")
say(cuda.cuCtxSynchronize(), f"wait for {broken}, which is broken")
cuda.cuCtxSetCurrent(contexts[other])
say(cuda.cuMemsetD8_v2(memory[other], 2, SIZE), f"set on {other}")
say(cuda.cuCtxSynchronize(), f"wait for {other}")
