"""A stimulus loop that records itself: one file a run, one marker for each stimulus, faces at each marker.

    youquanti run config/examples/demo.toml --no-record        # in another terminal
    python stimulus_loop.py --trials 5
"""

from __future__ import annotations

import argparse
import random
import time

import youquanti


def show(stimulus: str) -> float:
    """Shows a stimulus; returns when, in seconds of the monotonic clock, which is the session's."""
    print(f"\r\x1b[K{stimulus}", end="", flush=True)
    return time.monotonic()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=youquanti.client.USUAL_PORT)
    parser.add_argument("--trials", type=int, default=10)
    parser.add_argument("--seconds", type=float, default=1.0, help="how long a stimulus lasts")
    parser.add_argument("--participant", default="P001", help="names the file")
    arguments = parser.parse_args()
    stimuli = ["happy", "neutral", "angry"]
    with youquanti.Client(arguments.host, arguments.port) as session:
        session.wait_until_running()
        name = f"{arguments.participant}/stimuli_{time.strftime('%Y%m%dT%H%M%S')}"
        file = session.start_recording(name, notes="stimulus loop", by="stimulus_loop.py")
        try:
            for trial in range(arguments.trials):
                stimulus = random.choice(stimuli)
                # Stamped before it is sent: how long sending takes does not matter.
                session.mark(f"trial {trial}: {stimulus}", lsl_time=show(stimulus))
                time.sleep(arguments.seconds)
        finally:
            summary = session.stop_recording()
    print(f"\r\x1b[K{file}: {summary['frames']} frames, {summary['faces']} faces")


if __name__ == "__main__":
    main()
