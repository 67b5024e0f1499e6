"""The kernels on a GPU against the same kernels on the processor, and what each takes.

    python3 gpu/tests/device/kernels.py            # compares, then times
    python3 gpu/tests/device/kernels.py --small    # compares little, for compute-sanitizer
    python3 gpu/tests/device/kernels.py --compile sm_75 sm_90     # compiles, without a warning; needs no GPU

Needs NVRTC (pip install nvidia-cuda-nvrtc), numpy, and to compare a CUDA driver and a C++20 compiler. That the processor's results are those of the CPU back end is
what `cargo test -p youquanti-gpu --test kernels` says. Inputs are random, outputs are poisoned before each run.
"""

import ctypes
import glob
import math
import pathlib
import subprocess
import sys
import tempfile
import time

import numpy as np

GPU = pathlib.Path(__file__).resolve().parents[2]
SOURCES = ["types.cu", "colour.cu", "crop.cu", "shrink.cu", "detect.cu", "faces.cu"]
NO_FRAME = 0xFFFFFFFF
MAX_CANDIDATES, LANDMARKS, BLENDSHAPE_POINTS, CROP = 1024, 478, 146, 256
GATHERED = np.sort(np.random.default_rng(0).choice(LANDMARKS, BLENDSHAPE_POINTS, replace=False)).astype(np.uint32)

FRAME = np.dtype([("bytes", "u8"), ("width", "u4"), ("height", "u4"), ("stride", "u4"), ("format", "u4")])
SLOT = np.dtype([("roi", "f4", 5), ("frame", "u4")])
AXIS = np.dtype([("first", "u8"), ("weights", "u8"), ("taps", "u4"), ("len", "u4")])
TILE = np.dtype([("columns", AXIS), ("rows", AXIS), ("frame", "u4"), ("reserved", "u4")])
DETECTION = np.dtype([("score", "f4"), ("values", "f4", 16), ("place", "u4")])
DETECTIONS = np.dtype([("counts", "u4", 4), ("items", DETECTION, 64)])
DETECTOR_TILE = np.dtype([("source", "f4", 4), ("content", "u4", 2), ("cut", "u4"), ("frame", "u4"), ("index", "u4")])


class Host:
    """The kernels compiled for this processor; memory is numpy's."""

    def __init__(self):
        path = pathlib.Path(tempfile.mkdtemp()) / "kernels.so"
        flags = "-std=c++20 -O2 -shared -fPIC -pthread -ffp-contract=off".split()
        subprocess.run(["c++", *flags, f"-I{GPU}/kernels", f"{GPU}/tests/kernels/host.cpp", "-o", str(path)], check=True)
        self.library, self.kept = ctypes.CDLL(str(path)), {}

    def put(self, array):
        array = np.ascontiguousarray(array).copy()
        self.kept[array.ctypes.data] = array
        return array.ctypes.data

    def get(self, address, dtype, count):
        return self.kept[address].view(np.uint8).reshape(-1)[: np.dtype(dtype).itemsize * count].view(dtype).copy()

    def launch(self, name, grid, threads, arguments):
        three = ctypes.c_uint32 * 3
        self.library[f"launch_{name}"](three(*grid), three(1, 1, 1), pointers(arguments))


class Device:
    """The kernels on the first GPU."""

    def __init__(self):
        self.cuda = ctypes.CDLL("libcuda.so.1")
        self.call("cuInit", 0)
        device, context, self.module, self.stream = (ctypes.c_int(), *(ctypes.c_void_p() for _ in range(3)))
        self.call("cuDeviceGet", ctypes.byref(device), 0)
        self.call("cuDevicePrimaryCtxRetain", ctypes.byref(context), device)
        self.call("cuCtxSetCurrent", context)
        self.call("cuStreamCreate", ctypes.byref(self.stream), 1)
        major, minor = ctypes.c_int(), ctypes.c_int()
        self.call("cuDeviceGetAttribute", ctypes.byref(major), 75, device)
        self.call("cuDeviceGetAttribute", ctypes.byref(minor), 76, device)
        name = ctypes.create_string_buffer(100)
        self.call("cuDeviceGetName", name, 100, device)
        begun = time.monotonic()
        cubin = compile_with_nvrtc(f"sm_{major.value}{minor.value}")
        print(f"{name.value.decode()}, sm_{major.value}{minor.value}, NVRTC {time.monotonic() - begun:.2f} s")
        self.call("cuModuleLoadData", ctypes.byref(self.module), cubin)

    def call(self, name, *arguments):
        code = self.cuda[name](*arguments)
        if code != 0:
            raise RuntimeError(f"{name} failed: {code}")

    def put(self, array):
        array = np.ascontiguousarray(array)
        address = ctypes.c_uint64()
        self.call("cuMemAlloc_v2", ctypes.byref(address), ctypes.c_size_t(max(array.nbytes, 1)))
        self.call("cuMemcpyHtoD_v2", address, ctypes.c_void_p(array.ctypes.data), ctypes.c_size_t(array.nbytes))
        return address.value

    def get(self, address, dtype, count):
        out = np.empty(count, dtype)
        self.call("cuCtxSynchronize")
        self.call("cuMemcpyDtoH_v2", ctypes.c_void_p(out.ctypes.data), ctypes.c_uint64(address), ctypes.c_size_t(out.nbytes))
        return out

    def launch(self, name, grid, threads, arguments):
        function = ctypes.c_void_p()
        self.call("cuModuleGetFunction", ctypes.byref(function), self.module, name.encode())
        self.call("cuLaunchKernel", function, *grid, threads, 1, 1, 0, self.stream, pointers(arguments), None)

    def microseconds(self, launch, repeats=50):
        """The time of one launch among many in a graph, median of 30 replays."""
        graph, executable, first, last = (ctypes.c_void_p() for _ in range(4))
        self.call("cuStreamBeginCapture_v2", self.stream, 2)
        for _ in range(repeats):
            launch()
        self.call("cuStreamEndCapture", self.stream, ctypes.byref(graph))
        self.call("cuGraphInstantiateWithFlags", ctypes.byref(executable), graph, ctypes.c_uint64(0))
        self.call("cuEventCreate", ctypes.byref(first), 0)
        self.call("cuEventCreate", ctypes.byref(last), 0)
        took = []
        for _ in range(33):
            self.call("cuEventRecord", first, self.stream)
            self.call("cuGraphLaunch", executable, self.stream)
            self.call("cuEventRecord", last, self.stream)
            self.call("cuEventSynchronize", last)
            milliseconds = ctypes.c_float()
            elapsed = "cuEventElapsedTime_v2" if hasattr(self.cuda, "cuEventElapsedTime_v2") else "cuEventElapsedTime"
            self.call(elapsed, ctypes.byref(milliseconds), first, last)
            took.append(milliseconds.value * 1000 / repeats)
        return float(np.median(took[3:]))


def pointers(arguments):
    array = (ctypes.c_void_p * len(arguments))()
    for i, argument in enumerate(arguments):
        array[i] = ctypes.addressof(argument)
    return array


def compile_with_nvrtc(architecture):
    places = [f"{path}/nvidia/*/lib/libnvrtc.so.*" for path in sys.path] + ["/usr/local/cuda/lib64/libnvrtc.so.*"]
    found = [path for place in places for path in sorted(glob.glob(place)) if "alt" not in path]
    nvrtc = ctypes.CDLL(found[0] if found else "libnvrtc.so")
    source = "\n".join(f'#line 1 "{name}"\n{(GPU / "kernels" / name).read_text()}' for name in SOURCES)
    program, size = ctypes.c_void_p(), ctypes.c_size_t()
    nvrtc.nvrtcCreateProgram(ctypes.byref(program), source.encode(), b"kernels.cu", 0, None, None)
    options = [f"--gpu-architecture={architecture}".encode(), b"--fmad=false", b"-lineinfo"]
    code = nvrtc.nvrtcCompileProgram(program, len(options), (ctypes.c_char_p * len(options))(*options))
    nvrtc.nvrtcGetProgramLogSize(program, ctypes.byref(size))
    log = ctypes.create_string_buffer(size.value)
    nvrtc.nvrtcGetProgramLog(program, log)
    if code or log.value.strip():
        raise RuntimeError(f"NVRTC {code}: {log.value.decode()}")
    nvrtc.nvrtcGetCUBINSize(program, ctypes.byref(size))
    cubin = ctypes.create_string_buffer(size.value)
    nvrtc.nvrtcGetCUBIN(program, cubin)
    return cubin


def u32(value):
    return ctypes.c_uint32(value)


def u64(value):
    return ctypes.c_uint64(value)


def structure(*addresses):
    return (ctypes.c_uint64 * len(addresses))(*addresses)


def random_frames(random, width, height):
    """One of each format: smooth, with noise, and with a stride of its own."""
    pictures = []
    for code, line, planes in [(0, 2, 1), (1, 1, 1.5), (2, 3, 1), (3, 3, 1), (4, 1, 1)]:
        stride = (width + width % 2) * line + (0 if code == 0 else 16)
        rows = math.ceil(height * planes)
        wave = 128 + 100 * np.sin(np.arange(rows)[:, None] / 37) * np.cos(np.arange(stride)[None, :] / 91)
        pixels = np.clip(wave + random.integers(-20, 20, (rows, stride)), 0, 255).astype(np.uint8)
        pictures.append((pixels, (width, height, stride, code)))
    return pictures


def frame_table(machine, pictures):
    return machine.put(np.array([(machine.put(pixels), *facts) for pixels, facts in pictures], FRAME))


def random_slots(random, count, frames, width, height):
    slots = np.zeros(count, SLOT)
    for i in range(count):
        side = random.uniform(80, 500)
        slots[i] = ((random.uniform(0, width), random.uniform(0, height), side, side * 1.1, random.uniform(-3, 3)), i % frames)
    return slots


def axis(machine, length, side):
    step = side / length
    taps = int(step) + 2 if side > length else 2
    first = np.minimum((np.arange(length) * step).astype(np.uint32), max(side - taps, 0))
    taps = min(taps, side)
    weights = np.full((length, taps), 256 // taps, np.uint16)
    weights[:, 0] += 256 - weights.sum(1).astype(np.uint16)
    return (machine.put(first.astype(np.uint32)), machine.put(weights), taps, length)


class Case:
    """One kernel with its inputs, on one machine after the other."""

    def __init__(self, name, grid, threads, prepare):
        self.name, self.grid, self.threads, self.prepare = name, grid, threads, prepare

    def run(self, machine, grid=None, threads=None):
        arguments, read = self.prepare(machine)
        machine.launch(self.name, grid or self.grid, threads or self.threads, arguments)
        return read(machine)


def output(machine, floats):
    return machine.put(np.full(floats, np.nan, np.float32))


def cases(random, small):
    width, height, faces = (160, 90, 3) if small else (1920, 1080, 16)
    pictures = random_frames(random, width, height)
    slots = random_slots(random, faces, len(pictures), width, height)
    slots[1]["frame"] = NO_FRAME

    def crop(pictures, slots):
        def prepare(machine):
            out = output(machine, len(slots) * 3 * CROP * CROP)
            arguments = [u64(frame_table(machine, pictures)), u64(machine.put(slots)), u32(len(slots)), u64(out)]
            return arguments, lambda machine: [machine.get(out, "f4", len(slots) * 3 * CROP * CROP)]
        return prepare

    yield "crop, 5 formats", Case("crop_faces", (1, 64, len(slots)), 256, crop(pictures, slots))
    one = slots[:1].copy()
    one["frame"] = 0
    for (_, facts), name in zip(pictures, ["YUYV", "NV12", "RGB24", "BGR24", "GREY"]):
        yield f"crop, 1 face, {name}", Case("crop_faces", (1, 256, 1), 256, crop(pictures[facts[3] :][:1], one))

    for size in (128, 192):
        def box(machine, size=size):
            floats = len(pictures) * 3 * size * size
            out = output(machine, floats)
            arguments = [u64(frame_table(machine, pictures)), u32(len(pictures)), u32(size), u64(out)]
            return arguments, lambda machine: [machine.get(out, "f4", floats)]
        yield f"letterbox {size}, 5 formats", Case("letterbox", (1, size, len(pictures)), size, box)

    input_width, input_height = (64, 32) if small else (640, 384)
    content = (input_width - 3, input_height - 4)
    for count in (len(pictures), 1):
        def shrink(machine, count=count):
            columns, rows = axis(machine, content[0], width), axis(machine, content[1], height)
            tiles = np.array([(columns, rows, i, 0) for i in range(count)], TILE)
            floats = count * 3 * input_width * input_height
            out = output(machine, floats)
            arguments = [u64(frame_table(machine, pictures)), u64(machine.put(tiles)), u32(count)]
            arguments += [u32(input_width), u32(input_height), u64(out)]
            return arguments, lambda machine: [machine.get(out, "f4", floats)]
        name = "5 formats" if count > 1 else "YUYV"
        yield f"shrink to {input_width}x{input_height}, {name}", Case("shrink", (math.ceil(input_width / 128), input_height, count), 128, shrink)

    frames = 3
    cells = [(input_width // s) * (input_height // s) for s in (8, 16, 32)]
    outputs = [[random.uniform(low, high, (frames, c, n)).astype(np.float32) for c in cells]
               for low, high, n in [(0, 0.68, 1), (0, 0.68, 1), (-1, 2, 4), (-2, 2, 10)]]
    outputs[2][0][0, 5] = np.nan
    source = (0.0, 0.0, width, height)
    tiles = np.array([(source, content, 4 if i else 0, i, 0) for i in range(frames)], DETECTOR_TILE)

    def lists(machine):
        return structure(machine.put(np.zeros(frames, np.uint32)), machine.put(np.zeros(frames * MAX_CANDIDATES, DETECTION)))

    def by_place(machine, candidates):
        counts = machine.get(candidates[0], "u4", frames)
        items = machine.get(candidates[1], DETECTION, frames * MAX_CANDIDATES).reshape(frames, -1)
        parts = [np.sort(items[i][: min(counts[i], MAX_CANDIDATES)], order="place") for i in range(frames)]
        return [counts] + [part["values"] for part in parts] + [part["score"] for part in parts]

    def decode_yunet(machine):
        candidates = lists(machine)
        pointers = structure(*(machine.put(level) for kind in outputs for level in kind))
        arguments = [pointers, u64(machine.put(tiles)), u32(frames), u32(input_width), u32(input_height)]
        arguments += [ctypes.c_float(0.6), candidates]
        return arguments, lambda machine: by_place(machine, candidates)
    yield "decode_yunet, 3 tiles", Case("decode_yunet", (math.ceil(sum(cells) / 256), 1, frames), 256, decode_yunet)

    anchors = random.uniform(0, 1, (2304, 2)).astype(np.float32)
    regressors = random.uniform(-10, 60, (frames, 2304, 16)).astype(np.float32)
    scores = random.uniform(-5, 1, (frames, 2304)).astype(np.float32)

    def decode_blazeface(machine):
        candidates = lists(machine)
        arguments = [u64(machine.put(regressors)), u64(machine.put(scores)), u64(machine.put(anchors)), u32(2304)]
        arguments += [u64(frame_table(machine, pictures)), u32(frames), u32(192), ctypes.c_float(0.5), candidates]
        return arguments, lambda machine: by_place(machine, candidates)
    yield "decode_blazeface, 3 pictures", Case("decode_blazeface", (9, 1, frames), 256, decode_blazeface)

    for weighted in (0, 1):
        for count in (20, 300):
            items = np.zeros((frames, MAX_CANDIDATES), DETECTION)
            items["score"] = np.round(random.uniform(0.6, 1, items.shape), 2)
            corners = random.uniform(0, 60 * math.sqrt(count), (*items.shape, 2))
            items["values"][..., 0:2] = corners
            items["values"][..., 2:4] = corners + random.uniform(10, 90, corners.shape)
            items["values"][..., 4:] = random.uniform(0, 100, (*items.shape, 12))
            items["place"] = np.arange(MAX_CANDIDATES)

            def suppress(machine, items=items, weighted=weighted, count=count):
                # Timed again and again, it has candidates the first time only: see `times`.
                counts = machine.put(np.full(frames, count, np.uint32))
                candidates = structure(counts, machine.put(items))
                out = machine.put(np.full(frames, 0, DETECTIONS))
                arguments = [candidates, u32(frames), u32(weighted), ctypes.c_float(0.4), u64(out)]
                def read(machine):
                    found = machine.get(out, DETECTIONS, frames)
                    return [found["counts"], found["items"]["values"], found["items"]["score"], machine.get(counts, "u4", frames)]
                return arguments, read
            name = f"suppress {'weighted' if weighted else 'plain'}, 3 of {count}"
            yield name, Case("suppress", (frames, 1, 1), 256, suppress)

    points = random.uniform(-40, 296, (faces, LANDMARKS, 3)).astype(np.float32)
    points[2, 7, 0] = np.nan
    presence = random.uniform(-3, 6, faces).astype(np.float32)

    def face_results(machine):
        sizes = [("u4", 4), (SLOT, faces), ("f4", 5 * faces), ("f4", 3 * LANDMARKS * faces), ("f4", 2 * BLENDSHAPE_POINTS * faces)]
        places = [machine.put(np.full(np.dtype(kind).itemsize * count, 0xA5, np.uint8)) for kind, count in sizes]
        arguments = [u64(machine.put(points)), u64(machine.put(presence)), u64(machine.put(slots)), u32(faces)]
        arguments += [ctypes.c_float(0.5), u64(machine.put(GATHERED)), structure(*places)]
        def read(machine):
            header, following, *others = (machine.get(at, *size) for at, size in zip(places, sizes))
            return [header, following["frame"], following["roi"], *others]
        return arguments, read
    yield f"faces, {faces}", Case("faces", (faces, 1, 1), 256, face_results)

    crops = random.uniform(0, 1, (faces, 3, CROP, CROP)).astype(np.float32)

    def sharpness(machine):
        out = machine.put(np.full(faces, np.nan, np.float32))
        arguments = [u64(machine.put(crops)), u64(machine.put(slots)), u32(faces), u64(out)]
        return arguments, lambda machine: [machine.get(out, "f4", faces)]
    yield f"sharpness, {faces}", Case("sharpness", (faces, 1, 1), 512, sharpness)


def difference(got, expected):
    """How many numbers differ in a bit (those that are none are alike), and the largest difference."""
    if got.dtype.kind == "f":
        same = (got == expected) | (np.isnan(got) & np.isnan(expected))
        return int((~same).sum()), float(np.max(np.abs(got - expected)[~same], initial=0.0))
    return int((got != expected).sum()), float(np.max(np.abs(got.astype(int) - expected.astype(int)), initial=0))


def main():
    if "--compile" in sys.argv:
        for architecture in sys.argv[sys.argv.index("--compile") + 1 :]:
            print(f"{architecture}: {len(compile_with_nvrtc(architecture))} bytes")
        return
    small = "--small" in sys.argv
    host, device = Host(), Device()
    failed = False
    for name, case in cases(np.random.default_rng(7), small):
        expected = case.run(host)
        line = f"{name:34}"
        for grid, threads in [(case.grid, case.threads), ((2, 3, 2), 96), ((1, 1, 1), 1 if small else 1024)]:
            results = [difference(a, b) for a, b in zip(case.run(device, grid, threads), expected)]
            count, worst = sum(r[0] for r in results), max(r[1] for r in results)
            of = sum(part.size for part in expected)
            line += f"  {count}/{of} differ, at most {worst:.2g}" if count else "  same"
            failed |= count > of * 1e-4 or worst > 0.02
        if not small and case.name != "suppress":
            arguments, _ = case.prepare(device)
            line += f"  {device.microseconds(lambda: device.launch(case.name, case.grid, case.threads, arguments)):8.2f} us"
        if not small and case.name == "suppress":
            arguments, _ = case.prepare(device)
            counts = arguments[0][0]
            reset = lambda: device.call("cuMemsetD32Async", u64(counts), u32(int(name.split()[-1])), ctypes.c_size_t(3), device.stream)
            alone = device.microseconds(reset)
            both = device.microseconds(lambda: (reset(), device.launch(case.name, case.grid, case.threads, arguments)))
            line += f"  {both - alone:8.2f} us"
        print(line, flush=True)
    print("FAILED" if failed else "ok")
    sys.exit(failed)


if __name__ == "__main__":
    main()
