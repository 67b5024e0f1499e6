"""Live picture, mesh and names of a camera in a Tkinter window: tk_viewer.py [CAMERA [SESSION]]

All that an existing GUI needs is in `refresh`: ask for a new frame, draw it. Nothing waits for this window.
"""

import sys
import tkinter as tk

import numpy as np
from youquanti import shm

MESH, NAME = (0, 255, 120), "#00ff78"


class Viewer:
    def __init__(self, root: tk.Tk, camera: str | None, session: str | None) -> None:
        self.root, self.reader = root, shm.Reader(camera, session)
        self.canvas = tk.Canvas(root, width=960, height=540, bg="black", highlightthickness=0)
        self.canvas.pack()
        self.picture = self.canvas.create_image(0, 0, anchor="nw")
        self.refresh()

    def refresh(self) -> None:
        frame = self.reader.wait(0)  # a copy of the newest frame, None if it has been drawn already
        if frame is not None:
            self.draw(frame)
        self.root.after(10, self.refresh)

    def draw(self, frame: shm.Frame) -> None:
        rgb = np.ascontiguousarray(frame.rgb())
        height, width, _ = rgb.shape
        self.canvas.delete("name")
        for face in [] if frame.faces is None else frame.faces:
            x, y = face["landmarks"][:, :2].round().astype(int).T
            inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
            rgb[y[inside], x[inside]] = MESH
            left, top = face["bbox"][:2]
            text = f"P{face['participant']}" if face["participant"] else "?"
            self.canvas.create_text(left, top - 10, text=text, fill=NAME, anchor="w", tags="name")
        # Tk reads this format without any library for pictures.
        ppm = b"P6 %d %d 255 " % (width, height) + rgb.tobytes()
        self.image = tk.PhotoImage(data=ppm, format="PPM")
        self.canvas.itemconfigure(self.picture, image=self.image)
        self.canvas.configure(width=width, height=height)


if __name__ == "__main__":
    camera, session = (sys.argv[1:] + [None, None])[:2]
    window = tk.Tk()
    window.title(f"YouQuanti: {camera or 'first camera'}")
    Viewer(window, camera, session)
    window.mainloop()
