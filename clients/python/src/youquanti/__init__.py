"""Opens session files of YouQuanti.

    session = youquanti.load("session.h5")
    left = session.cameras["left"]
    left.blendshapes[:]         # [n, 52], row i belongs to left.faces[i]

Clock: every `*_ns` is nanoseconds of the recording machine's CLOCK_MONOTONIC; every `time` is seconds
since the session started, and negative for the little that came before.
"""

from .session import NOT_RUN, Camera, FrameFlags, Rows, Session, SessionError, StampOffset, Synchrony, load
from .tables import TABLES

__all__ = [
    "NOT_RUN",
    "TABLES",
    "Camera",
    "FrameFlags",
    "Rows",
    "Session",
    "SessionError",
    "StampOffset",
    "Synchrony",
    "load",
]
__version__ = "0.1.0"
