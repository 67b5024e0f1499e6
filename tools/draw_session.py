"""Draws one frame of a session over its picture: mesh, box, participant, head pose and strongest blendshapes.

The pictures are those that the session's `file` camera played, in the order of their names. docs/faces.png:

    make build setup-test && mkdir -p /tmp/faces/pictures && cp tests/golden/grid4.png /tmp/faces/pictures
    target/release/youquanti run docs/faces.toml --record /tmp/faces
    PYTHONPATH=clients/python/src .venv/bin/python tools/draw_session.py \
        /tmp/faces/faces_*.h5 /tmp/faces/pictures docs/faces.png
"""

import argparse
import math
from pathlib import Path

import cv2
import numpy as np
import youquanti

# Colours are BGR.
PARTICIPANT_COLOURS = [(240, 201, 76), (102, 209, 255), (160, 120, 255), (150, 235, 128)]
AXIS_COLOURS = [(80, 80, 255), (90, 220, 90), (255, 150, 60)]  # x, y, z
INK = (26, 22, 20)
WHITE = (245, 245, 245)

#: Everything is drawn this many times larger than the camera's picture.
SCALE = 2
#: Vertical field of view that head poses assume, degrees.
FIELD_OF_VIEW = 63.0
#: How long the axes of the head are, metres.
AXIS_LENGTH = 0.065
#: Steps of brightness where no face is.
LEVEL = 4
NOSE_TIP = 1
IRISES = 468  # the first landmark of the irises; those before are the mesh
PANEL_WIDTH, ROW_HEIGHT, PADDING = 172, 22, 8

FACE_OVAL = [
    10, 338, 297, 332, 284, 251, 389, 356, 454, 323, 361, 288, 397, 365, 379, 378, 400, 377,
    152, 148, 176, 149, 150, 136, 172, 58, 132, 93, 234, 127, 162, 21, 54, 103, 67, 109,
]  # fmt: skip
LIPS = [61, 146, 91, 181, 84, 17, 314, 405, 321, 375, 291, 409, 270, 269, 267, 0, 37, 39, 40, 185]
MOUTH = [78, 95, 88, 178, 87, 14, 317, 402, 318, 324, 308, 415, 310, 311, 312, 13, 82, 81, 80, 191]
LEFT_EYE = [263, 249, 390, 373, 374, 380, 381, 382, 362, 398, 384, 385, 386, 387, 388, 466]
RIGHT_EYE = [33, 7, 163, 144, 145, 153, 154, 155, 133, 173, 157, 158, 159, 160, 161, 246]
CONTOURS = [FACE_OVAL, LIPS, MOUTH, LEFT_EYE, RIGHT_EYE, range(469, 473), range(474, 478)]


class Canvas:
    """The picture, enlarged. All coordinates are pixels of the camera's picture."""

    def __init__(self, picture):
        self.height, self.width = picture.shape[:2]
        self.image = cv2.resize(picture, None, fx=SCALE, fy=SCALE, interpolation=cv2.INTER_CUBIC)
        self.font = cv2.FontFace("sans")

    def points(self, xy):
        """Fixed-point coordinates with four fractional bits, as OpenCV takes them."""
        return np.round(((np.asarray(xy) + 0.5) * SCALE - 0.5) * 16).astype(np.int32)

    def lines(self, strips, colour, width, closed=False):
        strips = [self.points(strip).reshape(-1, 1, 2) for strip in strips]
        cv2.polylines(self.image, strips, closed, colour, round(width * SCALE), cv2.LINE_AA, 4)

    def dot(self, xy, radius, colour):
        centre = tuple(map(int, self.points(xy)))
        cv2.circle(self.image, centre, round(radius * SCALE * 16), colour, -1, cv2.LINE_AA, 4)

    def arrow(self, start, end, colour, width):
        start, end = (tuple(map(int, np.round(np.asarray(xy) * SCALE))) for xy in (start, end))
        cv2.arrowedLine(self.image, start, end, colour, round(width * SCALE), cv2.LINE_AA, tipLength=0.18)

    def box(self, x0, y0, x1, y1, colour, opacity=1.0):
        rows, columns = (slice(max(0, round(a * SCALE)), round(b * SCALE)) for a, b in ((y0, y1), (x0, x1)))
        area = self.image[rows, columns]
        area[:] = area * (1 - opacity) + np.array(colour) * opacity

    def text(self, text, x, y, colour, size, weight=400, right=False):
        """Text on the baseline y, from x on or up to x."""
        if right:
            x -= self.text_width(text, size, weight)
        place = (round(x * SCALE), round(y * SCALE))
        cv2.putText(self.image, text, place, colour, self.font, round(size * SCALE), weight)

    def text_width(self, text, size, weight):
        return cv2.getTextSize((0, 0), text, (0, 0), self.font, round(size * SCALE), weight)[2] / SCALE

    def blend(self, draw, opacity):
        """Lays what `draw` draws over the picture."""
        below = self.image.copy()
        draw()
        self.image = cv2.addWeighted(self.image, opacity, below, 1 - opacity, 0)


def dim(picture, landmarks):
    """The picture, darker and with less colour and detail where no face is: for the eye, and for a small file."""
    mask = np.zeros(picture.shape[:2], np.float32)
    for points in landmarks:
        cv2.fillPoly(mask, [np.round(points[FACE_OVAL, :2]).astype(np.int32)], 1.0)
    mask = cv2.GaussianBlur(cv2.dilate(mask, np.ones((15, 15))), (0, 0), 9)[..., None]
    grey = cv2.cvtColor(cv2.cvtColor(picture, cv2.COLOR_BGR2GRAY), cv2.COLOR_GRAY2BGR)
    dark = 0.55 * (0.6 * picture + 0.4 * grey)
    dark = np.round(cv2.GaussianBlur(dark, (0, 0), 1.5) / LEVEL) * LEVEL
    return np.clip(mask * picture * 0.92 + (1 - mask) * dark, 0, 255).astype(np.uint8)


def draw_mesh(canvas, points, colour):
    plane = points[:, :2]
    low, high = plane.min(axis=0) - 2, plane.max(axis=0) + 2
    triangles = cv2.Subdiv2D((*map(int, low), *map(int, np.ceil(high - low) + 1)))
    triangles.insert(np.ascontiguousarray(plane[:IRISES], np.float32))
    # The first edges lead to a triangle around everything.
    edges = np.array(triangles.getEdgeList()).reshape(-1, 2, 2)
    edges = edges[((edges >= low) & (edges <= high)).all(axis=(1, 2))]
    canvas.blend(lambda: canvas.lines(edges, WHITE, 0.5), 0.3)

    nearness = -points[:IRISES, 2]
    shade = ((nearness - nearness.min()) / np.ptp(nearness) * 200 + 55).astype(np.uint8)
    shades = cv2.applyColorMap(shade, cv2.COLORMAP_PLASMA).reshape(-1, 3)
    for xy, shade in zip(plane, shades.tolist()):
        canvas.dot(xy, 0.9, shade)
    canvas.blend(lambda: canvas.lines([plane[list(c)] for c in CONTOURS], colour, 1, closed=True), 0.8)


def draw_axes(canvas, pose, nose):
    """Axes of the head at the tip of the nose: x red, y green, z (out of the face) blue; without perspective."""
    focal = canvas.height / 2 / math.tan(math.radians(FIELD_OF_VIEW / 2))
    length = AXIS_LENGTH * focal / -pose[2, 3]
    # From the far one to the near one.
    for axis in np.argsort(pose[2, :3]):
        direction = pose[:2, axis] * (length, -length)
        canvas.arrow(nose, nose + direction, AXIS_COLOURS[axis], 1.5)


def draw_box(canvas, box, label, colour):
    """Corners of the box, and a tag with who it is."""
    x0, y0, x1, y1 = box
    arm = 0.14 * (x1 - x0)
    for x, y, dx, dy in ((x0, y0, 1, 1), (x1, y0, -1, 1), (x1, y1, -1, -1), (x0, y1, 1, -1)):
        canvas.lines([[(x + dx * arm, y), (x, y), (x, y + dy * arm)]], colour, 2)
    canvas.box(x0, y0 - 21, x0 + canvas.text_width(label, 13, 700) + 14, y0 - 3, colour)
    canvas.text(label, x0 + 7, y0 - 7.5, INK, 13, 700)


def draw_bars(canvas, corner, bars, colour):
    x, y = corner
    canvas.box(x, y, x + PANEL_WIDTH, y + panel_height(bars), INK, 0.72)
    canvas.box(x, y, x + 3, y + panel_height(bars), colour)
    left, right = x + PADDING + 4, x + PANEL_WIDTH - PADDING
    for row, (name, value) in enumerate(bars):
        base = y + PADDING + row * ROW_HEIGHT + 10
        canvas.text(name, left, base, WHITE, 11)
        canvas.text(f"{value:.2f}", right, base, WHITE, 11, right=True)
        canvas.box(left, base + 4, right, base + 7, (90, 84, 80))
        canvas.box(left, base + 4, left + (right - left) * value, base + 7, colour)


def panel_height(bars):
    return 2 * PADDING + len(bars) * ROW_HEIGHT - 4


def free_place(canvas, box, height, taken):
    """Corner of a panel beside the box where it covers the least of what is taken."""
    x0, y0, x1, y1 = box
    y = (y0 + y1 - height) / 2
    places = [(x1 + 16, y), (x0 - 16 - PANEL_WIDTH, y), (x0, y1 + 12), (x0, y0 - 40 - height)]

    def cost(place):
        x, y = place
        left, top, right, bottom = x, y, x + PANEL_WIDTH, y + height
        outside = left < 4 or top < 4 or right > canvas.width - 4 or bottom > canvas.height - 4
        covered = sum(
            max(0, min(right, b[2]) - max(left, b[0])) * max(0, min(bottom, b[3]) - max(top, b[1]))
            for b in taken
        )
        return covered + outside * 1e9

    return min(places, key=cost)


def draw(session, camera, seq, picture, bar_count):
    """The picture with all that the session holds about frame `seq`."""
    rows = np.flatnonzero(camera.faces["frame_seq"] == seq)
    faces, landmarks = camera.faces[rows], camera.landmarks[rows]
    blendshapes, poses = camera.blendshapes[rows], camera.head_pose[rows]
    boxes = [
        (*(points[:IRISES, :2].min(axis=0) - 10), *(points[:IRISES, :2].max(axis=0) + 10))
        for points in landmarks
    ]
    canvas = Canvas(dim(picture, landmarks))
    taken = [(x0, y0 - 21, x1, y1) for x0, y0, x1, y1 in boxes]
    for face, points, shapes, pose, box in zip(faces, landmarks, blendshapes, poses, boxes):
        who = int(face["participant"])
        colour = PARTICIPANT_COLOURS[(who - 1) % len(PARTICIPANT_COLOURS)]
        draw_mesh(canvas, points, colour)
        draw_axes(canvas, pose, points[NOSE_TIP, :2])
        name = session.participant_names.get(who, f"track {face['track']}")
        draw_box(canvas, box, f"{name}  {face['score']:.2f}", colour)
        strongest = [i for i in np.argsort(-shapes) if camera.blendshape_names[i] != "_neutral"][:bar_count]
        bars = [(camera.blendshape_names[i], float(shapes[i])) for i in strongest]
        corner = free_place(canvas, box, panel_height(bars), taken)
        taken.append((*corner, corner[0] + PANEL_WIDTH, corner[1] + panel_height(bars)))
        draw_bars(canvas, corner, bars, colour)
    return canvas.image


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("session", type=Path)
    parser.add_argument("pictures", type=Path, help="the folder that the camera played")
    parser.add_argument("output", type=Path, help="a PNG file")
    parser.add_argument("--camera", help="its name; the first one without it")
    parser.add_argument("--frame", type=int, default=0, help="its seq")
    parser.add_argument("--bars", type=int, default=5, help="blendshapes for each face")
    parser.add_argument("--width", type=int, default=1120, help="of the drawing, pixels")
    options = parser.parse_args()

    files = sorted(path for path in options.pictures.iterdir() if path.is_file())
    picture = cv2.imread(str(files[options.frame % len(files)]))
    with youquanti.load(options.session) as session:
        camera = session.cameras[options.camera or next(iter(session.cameras))]
        if picture is None or picture.shape[:2] != (camera.height, camera.width):
            parser.error(f"{options.pictures} does not hold the pictures of camera {camera.name}")
        image = draw(session, camera, options.frame, picture, options.bars)
    size = (options.width, round(options.width * camera.height / camera.width))
    image = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    image &= 0xFE  # a bit that nobody sees, and a fifth of the file
    cv2.imwrite(str(options.output), image, [cv2.IMWRITE_PNG_COMPRESSION, 9, cv2.IMWRITE_PNG_STRATEGY, 1])


if __name__ == "__main__":
    main()
