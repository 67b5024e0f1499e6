"""Writes src/export/nwb/specifications.json: the specifications of NWB that exported files carry with them, as pynwb writes them.

    .venv/bin/python tools/nwb_specifications.py

To take over a newer NWB, install another pynwb first and look at what its release notes say of the types that `nwb.rs` writes.
"""

import json
import tempfile
from datetime import datetime, timezone
from pathlib import Path

import h5py
from pynwb import NWBHDF5IO, NWBFile

OUTPUT = Path(__file__).resolve().parents[1] / "src/export/nwb/specifications.json"


def main():
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "empty.nwb"
        nwb = NWBFile("none", "none", datetime.now(timezone.utc))
        with NWBHDF5IO(path, "w") as io:
            io.write(nwb)
        texts = {}
        with h5py.File(path) as file:
            version = file.attrs["nwb_version"]

            def take(name, node):
                if isinstance(node, h5py.Dataset):
                    # Put together anew: without spaces.
                    texts[name] = json.dumps(json.loads(node[()]), separators=(",", ":"))

            file["specifications"].visititems(take)
    OUTPUT.parent.mkdir(exist_ok=True)
    OUTPUT.write_text(json.dumps({"nwb_version": version, "specifications": texts}, indent=1) + "\n")


if __name__ == "__main__":
    main()
