"""Prints a short summary of a session file: `python -m youquanti session.h5`."""

from __future__ import annotations

import argparse
import sys

import numpy as np

from .session import Camera, Row, Session, SessionError, load


def main(arguments: list[str] | None = None) -> int:
    """Returns the exit code: 0, or 2 if the file cannot be read."""
    parser = argparse.ArgumentParser(prog="python -m youquanti", description=__doc__)
    parser.add_argument("session", help="a session file, closed or still being written")
    path = parser.parse_args(arguments).session
    try:
        with load(path) as session:
            print("\n".join(summary(session)))
    except (OSError, SessionError) as error:
        print(f"youquanti: {error}", file=sys.stderr)
        return 2
    return 0


def summary(session: Session) -> list[str]:
    """The lines of the summary."""
    return [
        f'session "{session.name}" ({session.session_id})',
        f"  {session.utc_start:%Y-%m-%d %H:%M:%S} UTC, {session.duration:.1f} s, {_state(session)}",
        f"  {session.software}, {session.backend} on {session.backend_device}",
        *(_camera_line(camera) for camera in session.cameras.values()),
        *(_participant_line(session, number, name) for number, name in session.participant_names.items()),
        *_validity_lines(session),
        f"  {len(session.events)} events, {len(session.markers)} markers, {len(session.gaps)} gaps",
        *(_gap_line(gap) for gap in session.gaps),
        *_loss_lines(session),
    ]


def _gap_line(gap: Row) -> str:
    until = "on, still away" if gap["end"] is None else f"to {gap['end']:.3f} s"
    return f"  gap in {gap['source']} from {gap['time']:.3f} s {until}: {gap['cause']}"


def _loss_lines(session: Session) -> list[str]:
    """What was lost; what the driver lost is in the ledger of every consumer, and said once."""
    lines: dict[str, None] = {}
    for row in session.ledger:
        if row["count"] and row["item"] == "driver_lost":
            lines[f"  camera {row['camera']}: {row['count']} frames lost by the driver"] = None
        elif row["count"] and row["item"].startswith("dropped:"):
            reason = row["item"].removeprefix("dropped:")
            lines[f"  camera {row['camera']}: {row['count']} frames not for {row['consumer']}: {reason}"] = (
                None
            )
    return list(lines)


def _state(session: Session) -> str:
    if session.stop is None:
        return "still running, or its program was killed"
    verdict = session.stop["data"]
    return f"ended {verdict['state']}" if isinstance(verdict, dict) and "state" in verdict else "ended"


def _camera_line(camera: Camera) -> str:
    times = camera.frames["time"]
    rate = (
        f"{(len(times) - 1) / np.ptp(times):.1f} fps" if len(times) > 1 and np.ptp(times) > 0 else "no rate"
    )
    size = f"{camera.width}x{camera.height} {camera.pixel_format}"
    counts = f"{len(times)} frames, {len(camera.results)} analysed, {len(camera.faces)} faces"
    return f"  camera {camera.name}: {size}, {rate}, {counts}"


def _participant_line(session: Session, number: int, name: str) -> str:
    seen = {
        camera.name: int(np.count_nonzero(camera.faces["participant"] == number))
        for camera in session.cameras.values()
    }
    places = ", ".join(f"{count} in {camera}" for camera, count in seen.items() if count)
    return f"  P{number} {name}: faces {places or 'none'}"


def _validity_lines(session: Session) -> list[str]:
    """What each minute of each participant is worth."""
    return [
        f"  P{row['participant']} in {row['camera']} to {row['time']:.1f} s: present {row['presence']:.1%}, "
        f"{row['face_size_p50_px']:.0f} px, noise {row['noise_px']:.2f} px"
        for row in session.validity
    ]


if __name__ == "__main__":
    sys.exit(main())
