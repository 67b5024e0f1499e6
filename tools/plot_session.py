"""Plots a session over time: a few blendshapes of each participant, and below when each camera's frames came.

docs/session.png is the built-in demo:

    make build setup-test && target/release/youquanti run --record /tmp/demo
    PYTHONPATH=clients/python/src .venv/bin/python tools/plot_session.py /tmp/demo/demo_*.h5 docs/session.png
"""

import argparse
from pathlib import Path

import matplotlib
import numpy as np
import youquanti

matplotlib.use("agg")
import matplotlib.pyplot as plt

STYLE = {
    "figure.facecolor": "#101418",
    "axes.facecolor": "#161b21",
    "axes.edgecolor": "#2b333c",
    "axes.labelcolor": "#c8d1da",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "grid.color": "#242c35",
    "text.color": "#e6edf3",
    "xtick.color": "#8b98a5",
    "ytick.color": "#8b98a5",
    "font.size": 9,
}
COLOURS = ["#4cc9f0", "#ffd166", "#ff78a0", "#80eb96"]
LOST = "#ff5c5c"

#: Seconds after which a face that was not seen counts as away.
AWAY = 0.3


def liveliest(session, count):
    """The blendshapes that differ most over time and between faces, one of each pair of left and right."""
    cameras = session.cameras.values()
    names = next(iter(cameras)).blendshape_names
    low, high = np.percentile(np.concatenate([camera.blendshapes[:] for camera in cameras]), (2, 98), axis=0)
    chosen = {}
    for column in np.argsort(low - high):
        chosen.setdefault(names[column].removesuffix("Left").removesuffix("Right"), int(column))
    return list(chosen.values())[:count]


def plot_participant(axes, session, number, columns):
    """Curves of a participant, from all cameras that saw them; a line breaks where the face was away."""
    for camera in session.cameras.values():
        mine = camera.faces["participant"] == number
        times, values = camera.faces["time"][mine], camera.blendshapes[mine]
        away = np.flatnonzero(np.diff(times) > AWAY) + 1
        times, values = np.insert(times, away, np.nan), np.insert(values, away, np.nan, axis=0)
        for colour, column in zip(COLOURS, columns):
            axes.plot(
                times, values[:, column], color=colour, linewidth=1.3, label=camera.blendshape_names[column]
            )
    seen = [name for name, camera in session.cameras.items() if number in camera.faces["participant"]]
    axes.set_ylabel(
        session.participant_names[number], rotation=0, fontsize=13, weight="bold", labelpad=18, va="center"
    )
    axes.set_title("camera " + ", ".join(seen), loc="right", fontsize=9, color="#8b98a5", pad=3)
    axes.set_ylim(-0.03, 1.03)
    axes.set_yticks([0, 0.5, 1])
    axes.grid(True)


def plot_cameras(axes, session):
    """A row for each camera: a tick for each frame, bright where faces were looked for; gaps in red."""
    for row, camera in enumerate(session.cameras.values()):
        analysed = np.isin(camera.frames["seq"], camera.results["frame_seq"])
        for mask, colour in ((~analysed, "#4a5763"), (analysed, COLOURS[0])):
            axes.vlines(camera.frames["time"][mask], row - 0.2, row + 0.3, colour, linewidth=0.7)
        for gap in session.gaps:
            if gap["source"] == camera.name:
                end = session.duration if gap["end"] is None else gap["end"]
                axes.axvspan(gap["time"], end, color=LOST, alpha=0.5)
        share = f", {analysed.mean():.0%} analysed" if len(analysed) else ""
        text = f"{len(analysed)} frames{share}"
        axes.text(
            1.0, row - 0.25, text, transform=axes.get_yaxis_transform(), ha="right", va="bottom", fontsize=9
        )
    for marker in session.markers:
        axes.axvline(marker["time"], color=COLOURS[1], linewidth=1)
    axes.set_yticks(range(len(session.cameras)), list(session.cameras))
    axes.set_ylim(len(session.cameras) - 0.4, -0.75)
    axes.set_xlabel("seconds since the session started")


def plot(session, output, count):
    numbers = sorted(session.participant_names)
    columns = liveliest(session, count)
    heights = [1.25] * len(numbers) + [0.25 + 0.55 * len(session.cameras)]
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(
            len(heights),
            1,
            sharex=True,
            figsize=(10, sum(heights) + 1.5),
            height_ratios=heights,
            squeeze=False,
        )
        *faces, cameras = axes[:, 0]
        for one, number in zip(faces, numbers):
            plot_participant(one, session, number, columns)
        plot_cameras(cameras, session)
        cameras.set_xlim(0, session.duration)
        title = f"{session.name}: {session.duration:.0f} s, {len(session.cameras)} cameras, {len(numbers)} participants"
        top = 1 - 0.12 / figure.get_figheight()
        figure.text(0.012, top, title, ha="left", va="top", weight="bold", fontsize=12)
        handles, labels = faces[0].get_legend_handles_labels()
        legend = dict(zip(labels, handles))
        below = top - 0.22 / figure.get_figheight()
        figure.legend(
            legend.values(),
            legend,
            loc="upper left",
            bbox_to_anchor=(0.07, below),
            ncols=len(legend),
            frameon=False,
        )
        figure.tight_layout(rect=(0, 0, 1, below - 0.22 / figure.get_figheight()))
        figure.savefig(output, dpi=120)


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("session", type=Path)
    parser.add_argument("output", type=Path, help="a PNG, SVG or PDF file")
    parser.add_argument("--blendshapes", type=int, default=4, help="how many, at most 4", choices=range(1, 5))
    options = parser.parse_args()
    with youquanti.load(options.session) as session:
        if not session.participants:
            parser.error(f"nobody was seen in {options.session}")
        plot(session, options.output, options.blendshapes)


if __name__ == "__main__":
    main()
