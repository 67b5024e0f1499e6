"""The begin-frame-end structure of a PsychoPy component, for a Code component or a script.

In Builder, paste the class into "Before Experiment", and into the other tabs of the Code component:

    Begin Experiment:  faces = FaceRecording(expInfo["participant"])
    Begin Routine:     faces.on_flip(win, f"{routine_name} begins")
    Each Frame:        happy = faces.newest("mouthSmileLeft")
    End Experiment:    faces.end()

Run as a script, it shows ten words in a window of PsychoPy, or, without PsychoPy, runs the same without a window.
"""

from __future__ import annotations

import sys
import time
from typing import Any

import youquanti


class FaceRecording:
    """Records faces while an experiment runs, marks what it shows, and tells what faces do."""

    def __init__(self, participant: str, port: int = youquanti.client.USUAL_PORT) -> None:
        self.session = youquanti.Client(port=port)
        self.session.wait_until_running()
        self.file = self.session.start_recording(f"{participant}_{time.strftime('%Y%m%dT%H%M%S')}", by="PsychoPy")
        self.live = self.session.live(events=False, results=True, rate=60, head_pose=False)
        self.values: dict[str, float] = {}

    def on_flip(self, window: Any, text: str) -> None:
        """Sets a marker at the moment at which the window next changes."""
        window.callOnFlip(lambda: self.session.mark(text, lsl_time=time.monotonic()))

    def newest(self, blendshape: str) -> float | None:
        """A blendshape of P1, 0 to 1, in the newest result; None before there is one. Never waits."""
        while (message := self.live.receive(timeout=0)) is not None:
            if isinstance(message, youquanti.Result):
                for face in message.faces:
                    if face.participant == "P1" and face.blendshapes is not None:
                        self.values = dict(zip(self.live.blendshape_names, face.blendshapes.tolist(), strict=True))
        return self.values.get(blendshape)

    def end(self) -> None:
        """Closes the file; the session goes on."""
        self.live.close()
        self.session.stop_recording()
        self.session.close()


class NoWindow:
    """In place of PsychoPy's window, where there is none: flips 60 times a second."""

    def __init__(self) -> None:
        self.waiting: list[Any] = []

    def callOnFlip(self, call: Any) -> None:
        self.waiting.append(call)

    def flip(self) -> None:
        time.sleep(1 / 60)
        waiting, self.waiting = self.waiting, []
        for call in waiting:
            call()


def main(port: int) -> None:
    try:
        from psychopy import visual
    except ImportError:
        window, words = NoWindow(), None
    else:
        window = visual.Window(fullscr=False)
        words = visual.TextStim(window)
    faces = FaceRecording("P001", port)
    try:
        for word in "ten words are shown and each one has a marker".split():
            faces.on_flip(window, f"word {word}")
            for _ in range(30):
                if words is not None:
                    words.text = word
                    words.draw()
                window.flip()
                smile = faces.newest("mouthSmileLeft")
            print(word, "-" if smile is None else f"{smile:.2f}")
    finally:
        faces.end()
    print(faces.file)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else youquanti.client.USUAL_PORT)
