#!/usr/bin/env python3
"""MediaPipe and this program on the same frames, in turn, on this machine.

    cargo build --release -p youquanti-gpu --example youquanti-peer
    tools/setup.sh --test && .venv/bin/python benches/peers/run.py

Renders one clip of one face and one of four (grid), runs both programs at least five times in turn
(which one goes first alternates) and writes benches/results/peers.json: medians over the repeats,
their spread, and ours / theirs of wall time (median ms a frame) and CPU seconds a frame. Below 1 is faster
than MediaPipe. Compare ratios of one run: absolute times vary with what else the machine does.
"""
from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import make_clip

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
SCENES = {"one_face": (1, "row"), "four_faces": (4, "grid")}
MEASURES = ("median_ms", "p95_ms", "mean_ms", "cpu_s_per_frame", "fps")


def render(path: Path, faces: int, layout: str, frames: int):
    clip = make_clip.make(faces, frames, layout=layout)
    with path.open("wb") as f:
        for k in range(frames):
            f.write(make_clip.render(clip, k).tobytes())


def run(command: list[str], out: Path) -> dict:
    out.unlink(missing_ok=True)
    done = subprocess.run([*command, "--out", str(out)], capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}: exit code {done.returncode}\n{done.stderr[-2000:]}")
    result = json.loads(out.read_text())
    missing = [k for k in (*MEASURES, "frames", "faces_per_frame") if k not in result]
    if missing:
        raise SystemExit(f"{command[0]}: {out} lacks {', '.join(missing)}")
    return result


def summary(runs: list[dict]) -> dict:
    """median of each measure over the repeats, and its lowest and highest value"""
    out = {}
    for k in MEASURES:
        values = [r[k] for r in runs]
        out[k] = round(statistics.median(values), 5)
        out[k + "_spread"] = [round(min(values), 5), round(max(values), 5)]
    out["peer"] = runs[0].get("peer", "youquanti")
    out["frames"] = runs[0]["frames"]
    out["faces_per_frame"] = runs[0]["faces_per_frame"]
    return out


def compare(ours: list[dict], theirs: list[dict]) -> dict:
    a, b = summary(ours), summary(theirs)

    def ratio(key):
        pairs = [x[key] / y[key] for x, y in zip(ours, theirs)]
        return round(a[key] / b[key], 4), [round(min(pairs), 4), round(max(pairs), 4)]
    wall, wall_spread = ratio("median_ms")
    cpu, cpu_spread = ratio("cpu_s_per_frame")
    return dict(wall_ratio=wall, wall_ratio_spread=wall_spread,
                cpu_ratio=cpu, cpu_ratio_spread=cpu_spread, ours=a, mediapipe=b)


def machine() -> dict:
    """a load above 0.3 at the start means that something else takes part"""
    model = next((line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines()
                  if line.startswith("model name")), platform.machine())
    return dict(cpu=model, cores=len(os.sched_getaffinity(0)), kernel=platform.release(),
                load_at_start=round(os.getloadavg()[0], 2))


def main():
    ap = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    ap.add_argument("--ours", type=Path, default=ROOT / "target/release/examples/youquanti-peer")
    ap.add_argument("--repeats", type=int, default=5)
    ap.add_argument("--frames", type=int, default=200)
    ap.add_argument("--warmup", type=int, default=10)
    ap.add_argument("--threads", type=int, default=2, help="worker threads of ours")
    ap.add_argument("--results", type=Path, default=ROOT / "benches" / "results" / "peers.json")
    a = ap.parse_args()
    if not a.ours.is_file():
        raise SystemExit(f"{a.ours} not found: cargo build --release -p youquanti-gpu --example youquanti-peer")
    doc = dict(machine=machine(), repeats=a.repeats, commands={})
    with tempfile.TemporaryDirectory() as tmp:
        tmp = Path(tmp)
        for scene, (faces, layout) in SCENES.items():
            raw = tmp / f"{scene}.rgb"
            render(raw, faces, layout, a.frames)
            common = ["--raw", str(raw), "--width", str(make_clip.W), "--height", str(make_clip.H),
                      "--faces", str(faces), "--warmup", str(a.warmup)]
            commands = {"ours": [str(a.ours), *common, "--threads", str(a.threads)],
                        "mediapipe": [sys.executable, str(HERE / "peer_mediapipe.py"), *common]}
            results = {who: [] for who in commands}
            for rep in range(a.repeats):
                order = ("ours", "mediapipe") if rep % 2 == 0 else ("mediapipe", "ours")
                for who in order:
                    r = run(commands[who], tmp / "out.json")
                    results[who].append(r)
                    print(f"{scene} {rep + 1}/{a.repeats} {who:9s} {r['median_ms']:7.2f} ms "
                          f"{1e3 * r['cpu_s_per_frame']:7.2f} ms CPU", file=sys.stderr, flush=True)
            doc[scene] = compare(results["ours"], results["mediapipe"])
            doc["commands"][scene] = {
                who: " ".join(c).replace(str(tmp), "TMP").replace(str(ROOT) + "/", "")
                for who, c in commands.items()}
            raw.unlink()
    a.results.parent.mkdir(parents=True, exist_ok=True)
    a.results.write_text(json.dumps(doc, indent=1) + "\n")
    print(json.dumps({s: {k: doc[s][k] for k in ("wall_ratio", "cpu_ratio")} for s in SCENES}))


if __name__ == "__main__":
    main()
