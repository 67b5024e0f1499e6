"""A recorder of LSL streams to XDF (https://github.com/sccn/xdf/wiki/Specifications), as small as can be.

Stamps are written as they come, and the clocks' offset is written beside them, as LabRecorder does: correcting is for the reader.
"""

from __future__ import annotations

import struct
import xml.etree.ElementTree as ET
from pathlib import Path

import pylsl

FILE_HEADER, STREAM_HEADER, SAMPLES, CLOCK_OFFSET, STREAM_FOOTER = 1, 2, 3, 4, 6
FORMATS = {pylsl.cf_float32: "f", pylsl.cf_double64: "d"}


def _length(count: int) -> bytes:
    return struct.pack("<BI", 4, count)


class Recorder:
    """Writes what it is given; `pull` everything now and then, `close` at the end."""

    def __init__(self, path: Path, inlets: list[pylsl.StreamInlet]):
        self.file = path.open("wb")
        self.file.write(b"XDF:")
        self._chunk(FILE_HEADER, b"<?xml version='1.0'?><info><version>1.0</version></info>")
        self.inlets = dict(enumerate(inlets, start=1))
        self.infos = {number: inlet.info(60.0) for number, inlet in self.inlets.items()}
        self.counts = dict.fromkeys(self.inlets, 0)
        self.spans: dict[int, tuple[float, float]] = {}
        for number, info in self.infos.items():
            self._chunk(STREAM_HEADER, struct.pack("<I", number) + info.as_xml().encode())
            self.offset(number)

    def offset(self, number: int) -> None:
        correction = self.inlets[number].time_correction(60.0)
        self._chunk(CLOCK_OFFSET, struct.pack("<Idd", number, pylsl.local_clock() - correction, correction))

    def pull(self) -> None:
        for number, inlet in self.inlets.items():
            samples, stamps = inlet.pull_chunk(0.0, max_samples=4096)
            if not stamps:
                continue
            body = bytearray(struct.pack("<I", number) + _length(len(stamps)))
            for sample, stamp in zip(samples, stamps):
                body += struct.pack("<Bd", 8, stamp)
                body += self._values(number, sample)
            self._chunk(SAMPLES, bytes(body))
            self.counts[number] += len(stamps)
            self.spans[number] = (self.spans.get(number, (stamps[0],))[0], stamps[-1])

    def close(self) -> None:
        for number in self.inlets:
            first, last = self.spans.get(number, (0.0, 0.0))
            footer = ET.Element("info")
            for name, value in [("first_timestamp", first), ("last_timestamp", last), ("sample_count", self.counts[number])]:
                ET.SubElement(footer, name).text = str(value)
            self._chunk(STREAM_FOOTER, struct.pack("<I", number) + ET.tostring(footer))
        self.file.close()

    def _values(self, number: int, sample: list) -> bytes:
        info = self.infos[number]
        if info.channel_format() == pylsl.cf_string:
            texts = [text.encode() for text in sample]
            return b"".join(_length(len(text)) + text for text in texts)
        return struct.pack(f"<{len(sample)}{FORMATS[info.channel_format()]}", *sample)

    def _chunk(self, tag: int, body: bytes) -> None:
        self.file.write(_length(len(body) + 2) + struct.pack("<H", tag) + body)
