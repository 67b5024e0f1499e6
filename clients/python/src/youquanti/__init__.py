"""Opens session files of YouQuanti, and steers and watches sessions that run.

    session = youquanti.load("session.h5")
    left = session.cameras["left"]
    left.blendshapes[:]         # [n, 52], row i belongs to left.faces[i]

    youquanti.Client().mark("stimulus on")

Clock: every `*_ns` is nanoseconds of the recording machine's CLOCK_MONOTONIC; every `time` is seconds
since the session started, and negative for the little that came before.
"""

from .client import Client, CommandError, Event, Face, Live, Missed, Result
from .session import NOT_RUN, Camera, FrameFlags, Rows, Session, SessionError, StampOffset, Synchrony, load
from .tables import TABLES

__all__ = [
    "NOT_RUN",
    "TABLES",
    "Camera",
    "Client",
    "CommandError",
    "Event",
    "Face",
    "FrameFlags",
    "Live",
    "Missed",
    "Result",
    "Rows",
    "Session",
    "SessionError",
    "StampOffset",
    "Synchrony",
    "load",
]
__version__ = "0.1.0"
