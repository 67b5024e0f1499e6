#!/usr/bin/env python3
"""Rewrite three networks so that ONNX Runtime's CPU provider runs them faster, and check them.

Only exact algebra on the graph: same inputs, outputs and weights, plain ONNX opset 17, dynamic batch.
Reads face_landmarks_478.onnx, yunet.onnx and face_blendshapes_52.onnx; writes the `_v2` files beside
them. Never changes the originals. Needs numpy, onnx, onnxruntime and pillow (requirements.txt).

    optimise_landmarks.py                  rebuild, check, and print errors and speed
    optimise_landmarks.py --variants       the other float rewrites and session options too
    optimise_landmarks.py --int8           static quantisation too (minutes)
    optimise_landmarks.py --verify         rebuild in memory, compare with the files, write nothing

Times are CPU time of the calling thread (one intra-op thread), all variants interleaved in one run:
what counts is the ratio, the median over repeats of (variant / baseline of the same repeat).
"""
from __future__ import annotations

import argparse
import hashlib
import math
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
from onnx import helper, numpy_helper
from PIL import Image, ImageFilter, ImageOps

from convert import FACES, SUBSET_146

HERE = Path(__file__).resolve().parent
TOKENS = 97      # of the blendshape mixer: 96 groups of points and the class token


# ---- a graph being rewritten ---------------------------------------------------------------

class Graph:
    """The nodes of one model, with producers, consumers and constants at hand.

    `emit` collects the new node list in order; `finish` drops what no output needs.
    """

    def __init__(self, path: Path):
        self.model = onnx.load(str(path))
        self.constants = {i.name: numpy_helper.to_array(i) for i in self.model.graph.initializer}
        self.nodes = list(self.model.graph.node)
        self.producer = {o: n for n in self.nodes for o in n.output}
        self.consumers: dict[str, list] = {}
        for n in self.nodes:
            for i in n.input:
                self.consumers.setdefault(i, []).append(n)
        self.out: list = []
        self.count = 0

    def constant(self, values, hint: str) -> str:
        self.count += 1
        name = f"{hint}_v2_{self.count}"
        self.constants[name] = np.ascontiguousarray(values)
        return name

    def emit(self, op: str, inputs, outputs=None, **attributes) -> str:
        self.count += 1
        outputs = outputs or [f"{op.lower()}_v2_{self.count}"]
        self.out.append(helper.make_node(op, inputs, outputs, name=outputs[0], **attributes))
        return outputs[0]

    def conv(self, x: str, weight, bias=None, output=None, **attributes) -> str:
        inputs = [x, self.constant(weight.astype(np.float32), "w")]
        if bias is not None:
            inputs.append(self.constant(bias.astype(np.float32), "b"))
        return self.emit("Conv", inputs, [output] if output else None,
                         kernel_shape=list(weight.shape[2:]), **attributes)

    def per_channel(self, x: str, factor) -> str:
        """x times one factor for each channel: a 1x1 depthwise convolution keeps the blocked layout"""
        return self.conv(x, factor.reshape(-1, 1, 1, 1), group=factor.size)

    def constant_input(self, node) -> np.ndarray:
        return next(self.constants[i] for i in node.input if i in self.constants)

    def constant_name(self, node) -> str:
        return next(i for i in node.input if i in self.constants)

    def other_input(self, node, name: str) -> str:
        return next(i for i in node.input if i != name)

    def finish(self) -> bytes:
        g = self.model.graph
        needed, kept = {o.name for o in g.output}, []
        for n in reversed(self.out):
            if any(o in needed for o in n.output):
                kept.append(n)
                needed.update(n.input)
        del g.node[:], g.value_info[:], g.initializer[:]
        g.node.extend(reversed(kept))
        g.initializer.extend(numpy_helper.from_array(v, k)
                             for k, v in self.constants.items() if k in needed)
        onnx.checker.check_model(self.model, full_check=True)
        return self.model.SerializeToString(deterministic=True)


def attributes(node) -> dict:
    return {a.name: helper.get_attribute_value(a) for a in node.attribute}


# ---- landmarks -----------------------------------------------------------------------------

def rewrite_landmarks(path: Path, inner="two", block="two", widen="split") -> bytes:
    """PRelu without leaving the blocked layout, in two passes over the tensor.

    With slope a and y = -x:  prelu(x) = x + (1 - a) relu(-x),   -prelu(x) = y + (a - 1) relu(y).

    - inner PRelu (1x1 convolution before, depthwise after): the first convolution gives y by negated
      weights, the depthwise one undoes the sign. Left are a Relu and a 1x1 depthwise convolution, whose
      runtime kernel adds y as it writes.
    - block PRelu (its result is also the skip connection): relu(-x) is one depthwise convolution with
      fused Relu, the rest as before.

    Where a skip widens the channels by zeros (Pad), the lower half of the sum is the convolution alone:
    two convolutions and a Concat, instead of a Pad outside the blocked layout.
    Other forms, for comparison: "three" passes, "doubled" channels (relu(x), relu(-x)) for inner;
    widen "keep", "expand" (identity 1x1 convolution) or "concat" (skip as input channels).
    """
    g = Graph(path)

    def is_inner(n) -> bool:
        after = g.consumers[n.output[0]]
        return (n.op_type == "PRelu" and len(after) == 1 and after[0].op_type == "Conv"
                and attributes(after[0])["group"] > 1)

    negated: set[str] = set()       # tensors that hold minus what they held before
    doubled: dict[str, str] = {}    # tensor -> its two halves (positive part, negative part) in one
    pending: dict[str, tuple] = {}  # convolutions that are written where their sum is
    for n in g.nodes:
        out = n.output[0]
        if n.op_type == "Conv":
            x, w, b = n.input[0], g.constants[n.input[1]], g.constants[n.input[2]]
            attr = {k: v for k, v in attributes(n).items() if k != "kernel_shape"}
            after = g.consumers[out][0]
            if x in negated:
                w = -w
            if x in doubled and attr["group"] > 1:          # depthwise, slopes folded into its weights
                slope = g.constants[g.producer[x].input[1]].reshape(-1, 1, 1, 1)
                attr["group"] *= 2
                doubled[out] = g.conv(doubled[x], np.concatenate([w, -slope * w]),
                                      np.concatenate([b, 0 * b]), **attr)
                continue
            if x in doubled:
                w, x = np.concatenate([w, w], 1), doubled[x]
            if is_inner(after) and inner == "two":
                w, b = -w, -b
                negated.add(out)
            if is_inner(after) and inner == "doubled":
                pair = g.conv(x, np.concatenate([w, -w]), np.concatenate([b, -b]), **attr)
                doubled[after.output[0]] = g.emit("Relu", [pair])
                continue
            skip = g.producer.get(g.other_input(after, out)) if after.op_type == "Add" else None
            if skip is not None and skip.op_type == "Pad" and widen != "keep":
                pending[out] = (x, w, b)
                continue
            g.conv(x, w, b, out, **attr)
        elif n.op_type == "PRelu":
            if out in doubled:
                continue
            x, a = n.input[0], g.constants[n.input[1]].reshape(-1)
            form = inner if is_inner(n) else block
            if form == "three":
                linear = g.per_channel(x, a)
                g.emit("Add", [linear, g.per_channel(g.emit("Relu", [x]), 1 - a)], [out])
            elif is_inner(n):
                g.emit("Add", [x, g.per_channel(g.emit("Relu", [x]), a - 1)], [out])
                negated.add(out)
            else:
                below = g.emit("Relu", [g.per_channel(x, -np.ones_like(a))])
                g.emit("Add", [x, g.per_channel(below, 1 - a)], [out])
        elif n.op_type == "Add" and any(i in pending for i in n.input):
            name = next(i for i in n.input if i in pending)
            x, w, b = pending[name]
            skip = g.producer[g.other_input(n, name)].input[0]
            extra = int(g.constants[g.producer[g.other_input(n, name)].input[1]][5])
            half = w.shape[0] - extra
            identity = np.eye(w.shape[0], half, dtype=np.float32)[:, :, None, None]
            if widen == "split":
                upper = g.emit("Add", [skip, g.conv(x, w[:half], b[:half])])
                g.emit("Concat", [upper, g.conv(x, w[half:], b[half:])], [out], axis=1)
            elif widen == "expand":
                g.emit("Add", [g.conv(skip, identity), g.conv(x, w, b)], [out])
            else:
                g.conv(g.emit("Concat", [x, skip], axis=1), np.concatenate([w, identity], 1), b, out)
        else:
            g.out.append(n)
    return g.finish()


# ---- YuNet ---------------------------------------------------------------------------------

def rewrite_yunet(path: Path) -> bytes:
    """The four heads of a stride (1 + 1 + 4 + 10 channels) as one pair of convolutions with 16.

    Each alone is padded to whole blocks of channels or, for the 10, leaves the blocked layout.
    """
    g = Graph(path)
    heads: dict[str, dict] = {}
    replaced = set()
    for o in g.model.graph.output:
        kind, stride = o.name.split("_")
        n = g.producer[o.name]
        while n.op_type != "Conv":                          # Reshape, Transpose, perhaps Sigmoid
            replaced.add(n.output[0])
            n = g.producer[n.input[0]]
        pointwise = g.producer[n.input[0]]
        replaced.update([n.output[0], pointwise.output[0]])
        heads.setdefault(stride, {})[kind] = (pointwise, n)
    g.out = [n for n in g.nodes if n.output[0] not in replaced]
    rows, sizes = (g.constant(np.array(v, np.int64), "shape") for v in ([0, -1, 16], [1, 1, 4, 10]))
    for stride, parts in heads.items():
        point, depth = zip(*(parts[k] for k in ("cls", "obj", "bbox", "kps")))

        def joined(nodes, k):
            return np.concatenate([g.constants[n.input[k]] for n in nodes])
        x = g.conv(point[0].input[0], joined(point, 1), joined(point, 2))
        x = g.conv(x, joined(depth, 1), joined(depth, 2), group=16, pads=[1, 1, 1, 1])
        x = g.emit("Reshape", [g.emit("Transpose", [x], perm=[0, 2, 3, 1]), rows])
        logits = [f"cls_{stride}_logit", f"obj_{stride}_logit"]
        g.emit("Split", [x, sizes], [*logits, f"bbox_{stride}", f"kps_{stride}"], axis=2)
        for logit in logits:
            g.emit("Sigmoid", [logit], [logit.removesuffix("_logit")])
    return g.finish()


# ---- blendshapes ---------------------------------------------------------------------------

def rewrite_blendshapes(path: Path) -> bytes:
    """Layer normalisation as one node; the two-layer networks as convolutions over the tokens and Gemm
    over the channels, so that bias and Relu are part of the product and the transposes go."""
    g = Graph(path)
    replace: dict[str, object] = {}

    def only(name):
        return g.consumers[name][0]

    def normalise(neg):
        scaled = only(neg.output[0])                        # -mean * (gamma / deviation)
        scale = g.producer[g.other_input(scaled, neg.output[0])]
        inverse = g.producer[g.other_input(scale, g.constant_name(scale))]
        variance = g.producer[g.producer[inverse.input[0]].input[0]]
        x, out = g.producer[neg.input[0]].input[0], only(scaled.output[0]).output[0]
        replace[out] = lambda: g.emit("LayerNormalization", [x, g.constant_name(scale)], [out], axis=-1,
                                      epsilon=float(g.constant_input(variance).reshape(-1)[0]))

    def mix(first):
        bias1 = only(first.output[0])
        second = only(only(bias1.output[0]).output[0])
        bias2 = only(second.output[0])
        w1, w2 = g.constants[first.input[1]], g.constants[second.input[1]]
        b1, b2 = g.constant_name(bias1), g.constant_name(bias2)
        x = first.input[0]
        if g.producer[x].op_type == "Transpose":            # along the tokens
            tokens, x, out = w1.shape[0], g.producer[x].input[0], only(bias2.output[0]).output[0]

            def write():
                t = g.emit("Reshape", [x, g.constant(np.array([0, tokens, 1, -1]), "shape")])
                t = g.emit("Relu", [g.conv(t, w1.T[:, :, None, None], g.constants[b1])])
                t = g.conv(t, w2.T[:, :, None, None], g.constants[b2])
                g.emit("Reshape", [t, g.constant(np.array([0, 1, tokens, -1]), "shape")], [out])
            replace[out] = write
        else:                                               # along the channels
            channels, out = w1.shape[0], bias2.output[0]

            def write():
                t = g.emit("Reshape", [x, g.constant(np.array([-1, channels]), "shape")])
                t = g.emit("Relu", [g.emit("Gemm", [t, first.input[1], b1])])
                t = g.emit("Gemm", [t, second.input[1], b2])
                g.emit("Reshape", [t, g.constant(np.array([-1, 1, TOKENS, channels]), "shape")], [out])
            replace[out] = write

    for n in g.nodes:
        if n.op_type == "Neg":
            normalise(n)
        elif n.op_type == "MatMul" and only(only(n.output[0]).output[0]).op_type == "Relu":
            mix(n)
    for n in g.nodes:
        write = replace.get(n.output[0])
        if write is not None:
            write()
        else:
            g.out.append(n)
    return g.finish()


# ---- sessions, pictures --------------------------------------------------------------------

def session(model, level=ort.GraphOptimizationLevel.ORT_ENABLE_ALL, entries=(), **options):
    so = ort.SessionOptions()
    so.intra_op_num_threads = so.inter_op_num_threads = 1
    so.log_severity_level = 3
    so.graph_optimization_level = level
    so.add_session_config_entry("session.intra_op.allow_spinning", "0")
    for key, value in entries:
        so.add_session_config_entry(key, value)
    for key, value in options.items():
        setattr(so, key, value)
    return ort.InferenceSession(model if isinstance(model, bytes) else str(model), so,
                                providers=["CPUExecutionProvider"])


def crop(img: Image.Image, roi, size=256) -> Image.Image:
    """square ROI (centre, side in pixels, angle in radians) onto size x size, corner to corner"""
    cx, cy, side, angle = roi
    c, s, h = math.cos(angle) * side / size, math.sin(angle) * side / size, size / 2
    return img.transform((size, size), Image.Transform.AFFINE,
                         (c, -s, cx - c * h + s * h, s, c, cy - s * h - c * h), Image.Resampling.BILINEAR)


def nchw(img) -> np.ndarray:
    return np.ascontiguousarray((np.asarray(img, np.float32) / 255).transpose(2, 0, 1))


def face_rois(portraits: Path, net):
    """both portraits and their mirror images, each with the ROI that the landmarks themselves ask for"""
    found = []
    for name, (cx, cy, size) in FACES.items():
        file = {"astronaut": "astronaut.png", "hopper": "grace_hopper.jpg"}[name]
        picture = Image.open(portraits / file).convert("RGB")
        for img, x in ((picture, cx), (ImageOps.mirror(picture), picture.width - cx)):
            roi = (x, cy, 1.5 * size, 0.0)
            for _ in range(3):
                p = net.run(["landmarks"], {"image": nchw(crop(img, roi))[None]})[0][0, :, :2] / 256 - 0.5
                c, s, side = math.cos(roi[3]), math.sin(roi[3]), roi[2]
                p = p @ np.array([[c, s], [-s, c]]) * side + roi[:2]
                lo, hi = p.min(0), p.max(0)
                eyes = p[263] - p[33]
                roi = (*((lo + hi) / 2), 1.5 * (hi - lo).max(), math.atan2(eyes[1], eyes[0]))
            found.append((img, roi))
    return found


def face_crops(rois, n: int, seed: int) -> np.ndarray:
    """n crops [n,3,256,256]: shift, scale, rotation, small faces, gamma, brightness, tint, blur, noise"""
    rng = np.random.default_rng(seed)
    out = []
    for k in range(n):
        img, (x, y, side, angle) = rois[k % len(rois)]
        if k < len(rois):
            out.append(nchw(crop(img, (x, y, side, angle))))
            continue
        dx, dy = rng.normal(0, 0.03, 2) * side
        roi = (x + dx, y + dy, side * math.exp(rng.normal(0, 0.08)), angle + rng.uniform(-0.5, 0.5))
        size = 256 if rng.random() < 0.5 else int(rng.uniform(80, 220))
        c = crop(img, roi, size).resize((256, 256), Image.Resampling.BILINEAR)
        if rng.random() < 0.3:
            c = c.filter(ImageFilter.GaussianBlur(rng.uniform(0.5, 2.5)))
        f = (np.asarray(c, np.float64) / 255) ** math.exp(rng.normal(0, 0.35))
        f = f * np.exp(rng.normal(0, 0.2) + rng.normal(0, 0.05, 3)) + rng.normal(0, 0.04)
        if rng.random() < 0.4:
            f += rng.normal(0, rng.uniform(0.004, 0.04), f.shape)
        out.append(nchw(np.rint(np.clip(f, 0, 1) * 255)))
    return np.stack(out)


# ---- errors --------------------------------------------------------------------------------

def one_by_one(net, key, batch):
    runs = [net.run(None, {key: x[None]}) for x in batch]
    return [np.concatenate(o) for o in zip(*runs)]


def probability(logit):
    return 1 / (1 + np.exp(-np.clip(logit.astype(np.float64), -60, 60)))


def landmark_errors(reference, got, blendshapes) -> dict:
    """pixels on a face 200 px wide (xy distance), presence as probability, blendshapes from the points"""
    (p, presence, _), (q, presence_got, _) = reference, got
    width = np.ptp(p[:, :, 0], axis=1)
    scale = (200 / width)[:, None]
    xy = np.linalg.norm((p - q)[:, :, :2], axis=2) * scale
    scores = [blendshapes.run(None, {"points": v[:, SUBSET_146, :2]})[0] for v in (p, q)]
    shift = np.abs(scores[0] - scores[1])
    return {"px mean": xy.mean(), "px p99": np.percentile(xy, 99), "px max": xy.max(),
            "z px mean": (np.abs(p - q)[:, :, 2] * scale).mean(),
            "presence max": np.abs(probability(presence) - probability(presence_got)).max(),
            "blendshape median": np.median(shift), "blendshape max": shift.max()}


def check_batch(name, model, key, batch, tolerance):
    """a batch must give what its members give alone"""
    net = session(model)
    alone, together = one_by_one(net, key, batch), net.run(None, {key: batch})
    worst = max(float(np.abs(a - b).max()) for a, b in zip(alone, together))
    if worst > tolerance:
        sys.exit(f"{name}: batch of {len(batch)} differs by {worst:.2g}")


# ---- speed ---------------------------------------------------------------------------------

def compare_speed(nets: dict, feed: dict, repeats: int) -> dict:
    """name -> (CPU ms: min, median; ratio of the minima; median of the paired ratios); the first is the base"""
    spent: dict[str, list] = {name: [] for name in nets}
    for k in range(repeats + 3):
        for name, net in nets.items():
            start = time.thread_time_ns()
            net.run(None, feed)
            if k >= 3:
                spent[name].append((time.thread_time_ns() - start) / 1e6)
    base = np.array(next(iter(spent.values())))
    return {name: (min(v), float(np.median(v)), min(v) / base.min(), float(np.median(np.array(v) / base)))
            for name, v in spent.items()}


def print_speed(title: str, rows: dict):
    print(f"\n{title}\n{'':36}{'min ms':>8}{'median':>8}{'ratio of minima':>17}{'paired median':>15}")
    for name, (low, mid, of_min, paired) in rows.items():
        print(f"{name:36}{low:8.3f}{mid:8.3f}{of_min:17.3f}{paired:15.3f}")


def variants(src: Path, v2: bytes) -> dict:
    level = ort.GraphOptimizationLevel
    named = {"PRelu kept (original file)": session(src)}
    for inner, block, widen in (("three", "three", "split"), ("three", "three", "expand"),
                                ("three", "three", "concat"), ("two", "three", "split"),
                                ("two", "two", "keep"), ("two", "two", "expand"),
                                ("two", "two", "concat"), ("doubled", "two", "split")):
        named[f"inner {inner}, block {block}, {widen}"] = session(rewrite_landmarks(src, inner, block, widen))
    named["v2, level EXTENDED (no NCHWc)"] = session(v2, level.ORT_ENABLE_EXTENDED)
    named["v2, denormals as zero"] = session(v2, entries=[("session.set_denormal_as_zero", "1")])
    named["v2, no memory pattern"] = session(v2, enable_mem_pattern=False)
    named["v2, no arena"] = session(v2, enable_cpu_mem_arena=False)
    named["v2, no prepacking"] = session(v2, entries=[("session.disable_prepacking", "1")])
    named["v2, priority order"] = session(v2, execution_order=ort.ExecutionOrder.PRIORITY_BASED)
    with tempfile.TemporaryDirectory() as tmp:
        saved = str(Path(tmp) / "optimised.onnx")
        session(v2, optimized_model_filepath=saved)
        named["v2, saved after optimisation"] = session(saved)
    return named


def quantised(src: Path, calibration: np.ndarray):
    """name -> int8 model file's session; first convolution and heads stay float"""
    from onnxruntime import quantization as q
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(q.CalibrationDataReader):
        def __init__(self):
            self.rest = iter(calibration)

        def get_next(self):
            x = next(self.rest, None)
            return None if x is None else {"image": x[None]}

    with tempfile.TemporaryDirectory() as tmp:
        raw, ready = Path(tmp) / "raw.onnx", Path(tmp) / "ready.onnx"
        raw.write_bytes(rewrite_landmarks(src, widen="expand"))
        quant_pre_process(str(raw), str(ready), skip_symbolic_shape=True)
        convs = [n.name for n in onnx.load(str(ready)).graph.node if n.op_type == "Conv"]
        for name, form, method, reduced in (
                ("QOperator, min-max, 7-bit weights", q.QuantFormat.QOperator, q.CalibrationMethod.MinMax, True),
                ("QDQ, min-max, 7-bit weights", q.QuantFormat.QDQ, q.CalibrationMethod.MinMax, True),
                ("QDQ, 99.999 %, 7-bit weights", q.QuantFormat.QDQ, q.CalibrationMethod.Percentile, True),
                ("QDQ, min-max, 8-bit weights", q.QuantFormat.QDQ, q.CalibrationMethod.MinMax, False)):
            target = str(Path(tmp) / "int8.onnx")
            q.quantize_static(str(ready), target, Reader(), quant_format=form, per_channel=True,
                              activation_type=q.QuantType.QUInt8, weight_type=q.QuantType.QInt8,
                              reduce_range=reduced, calibrate_method=method,
                              nodes_to_exclude=[convs[0], *convs[-3:]])
            yield name, session(target)


# ---- main ----------------------------------------------------------------------------------

IDS = {"face_landmarks_478_cpu_v2.onnx": ("face_landmarks_cpu_v2", "face_landmarks"),
       "yunet_v2.onnx": ("face_detect_multi_v2", "face_detect_multi"),
       "face_blendshapes_52_v2.onnx": ("face_blendshapes_v2", "face_blendshapes")}


def manifest(built):
    """the list of the rewritten files; shapes, meaning and licence are those of the network in models.toml"""
    lines = ["# Written by models/tools/optimise_landmarks.py, which rebuilds every file here from those in models.toml."]
    for name, blob in built.items():
        model, source = IDS[name]
        lines += ["", "[[model]]", f'id = "{model}"', f'rewritten_from = "{source}"', f'file = "{name}"',
                  f'sha256 = "{hashlib.sha256(blob).hexdigest()}"', f"bytes = {len(blob)}"]
    return "\n".join(lines) + "\n"


def main():
    ap = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    ap.add_argument("--models", type=Path, default=HERE.parent / "onnx")
    ap.add_argument("--portraits", type=Path, default=HERE.parent / "portraits")
    ap.add_argument("--repeats", type=int, default=100)
    ap.add_argument("--crops", type=int, default=160)
    ap.add_argument("--variants", action="store_true")
    ap.add_argument("--int8", action="store_true")
    ap.add_argument("--verify", action="store_true")
    a = ap.parse_args()
    original, cpu = a.models / "face_landmarks_478.onnx", a.models / "face_landmarks_478_cpu.onnx"
    yunet, shapes = a.models / "yunet.onnx", a.models / "face_blendshapes_52.onnx"
    built = {"face_landmarks_478_cpu_v2.onnx": rewrite_landmarks(original),
             "yunet_v2.onnx": rewrite_yunet(yunet),
             "face_blendshapes_52_v2.onnx": rewrite_blendshapes(shapes)}
    for name, blob in built.items():
        if a.verify and (a.models / name).read_bytes() != blob:
            sys.exit(f"{name} is not what this script builds")
        print(f"{hashlib.sha256(blob).hexdigest()}  {len(blob):8d}  {name}")
    landmarks_v2, yunet_v2, shapes_v2 = built.values()

    reference, blendshapes = session(original), session(shapes)
    rois = face_rois(a.portraits, reference)
    crops = face_crops(rois, a.crops, seed=2)
    truth = one_by_one(reference, "image", crops)
    print(f"\n{len(crops)} crops, lowest presence {probability(truth[1]).min():.3f}")
    candidates = {"_cpu (baseline)": session(cpu), "_cpu_v2": session(landmarks_v2)}
    if a.variants:
        candidates |= variants(original, landmarks_v2)
    if a.int8:
        candidates |= {f"int8 {n}": s for n, s in quantised(original, face_crops(rois, 96, seed=1))}
    for name, net in candidates.items():
        errors = landmark_errors(truth, one_by_one(net, "image", crops), blendshapes)
        print(f"{name:36} " + "  ".join(f"{k} {v:.2g}" for k, v in errors.items()), flush=True)
        if name == "_cpu_v2" and errors["px mean"] > 0.01:
            sys.exit("the rewritten landmark network is not exact")

    pixels = np.stack([np.asarray(crop(img, (*r[:2], 2.4 * r[2], 0.0), 640).crop((0, 128, 640, 512)), np.float32)
                       [..., ::-1].transpose(2, 0, 1) for img, r in rois])
    points = truth[0][:8, SUBSET_146, :2]
    for name, old, new, key, batch in (("yunet_v2", yunet, yunet_v2, "image", pixels),
                                       ("yunet_v2, 96x32", yunet, yunet_v2, "image", pixels[:, :, :96, :32].copy()),
                                       ("face_blendshapes_52_v2", shapes, shapes_v2, "points", points)):
        got, want = (one_by_one(session(m), key, batch) for m in (new, old))
        worst = max(float(np.abs(x - y).max()) for x, y in zip(got, want))
        print(f"{name:36}largest difference of any output {worst:.2g}")
        if worst > 1e-4:
            sys.exit(f"{name} is not exact")
    check_batch("landmarks", landmarks_v2, "image", crops[:8], 1e-3)
    check_batch("yunet", yunet_v2, "image", pixels, 1e-4)
    check_batch("blendshapes", shapes_v2, "points", points, 1e-4)
    if not a.verify:
        for name, blob in built.items():
            (a.models / name).write_bytes(blob)
        (a.models / "rewritten.toml").write_text(manifest(built))

    print(f"\nONNX Runtime {ort.__version__}, one thread, batch 1 unless said, {a.repeats} repeats")
    print_speed("landmarks", compare_speed(candidates, {"image": crops[:1]}, a.repeats))
    few = {"_cpu (baseline)": session(cpu), "_cpu_v2": session(landmarks_v2)}
    print_speed("landmarks, batch 4", compare_speed(few, {"image": crops[:4]}, a.repeats // 2))
    print_speed("YuNet 640x384", compare_speed({"yunet": session(yunet), "yunet_v2": session(yunet_v2)},
                                               {"image": pixels[:1]}, a.repeats))
    print_speed("blendshapes", compare_speed({"face_blendshapes_52": session(shapes), "_v2": session(shapes_v2)},
                                             {"points": points[:1]}, 3 * a.repeats))


if __name__ == "__main__":
    main()
