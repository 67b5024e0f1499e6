// One camera: its picture, what was found in exactly that picture, its state and its buttons.

import { command, picture, renew, since } from "/ui/api.js";

// As MediaPipe's canonical face model numbers its points.
const OVAL = [10, 338, 297, 332, 284, 251, 389, 356, 454, 323, 361, 288, 397, 365, 379, 378, 400, 377, 152, 148, 176, 149, 150, 136, 172, 58, 132, 93, 234, 127, 162, 21, 54, 103, 67, 109];
const LIPS = [61, 146, 91, 181, 84, 17, 314, 405, 321, 375, 291, 409, 270, 269, 267, 0, 37, 39, 40, 185];
const LEFT_EYE = [263, 249, 390, 373, 374, 380, 381, 382, 362, 398, 384, 385, 386, 387, 388, 466];
const RIGHT_EYE = [33, 7, 163, 144, 145, 153, 154, 155, 133, 173, 157, 158, 159, 160, 161, 246];
const CONTOURS = [OVAL, LIPS, LEFT_EYE, RIGHT_EYE];
const NOSE_TIP = 1;
// The head pose is reckoned with a camera of this vertical field of view.
const FIELD_OF_VIEW = (63 * Math.PI) / 180;
const AXIS_METRES = 0.1;
const MOST_DELAYS = 1000;
const AXES = ["#ff6b5e", "#6bdc7f", "#6ea8fe"];
export const COLOURS = ["#57b894", "#e0a642", "#7aa7f0", "#d67fd0", "#e5675a", "#9cc653", "#53c3cf", "#b39ddb"];

/** A person's colour, the same everywhere. */
export const colourOf = (participant) =>
  participant ? COLOURS[(Number(participant.slice(1)) - 1) % COLOURS.length] : "#c9ced3";

export class Camera {
  constructor(name, overlay, complain) {
    this.name = name;
    this.overlay = overlay;
    this.hasPreview = true;
    // Of the newest pictures: milliseconds from capture until this page had them, and until they were drawn.
    this.delays = [];
    this.root = document.createElement("article");
    this.root.className = "camera";
    this.root.innerHTML = `<header><h2></h2><span class="badge"></span><span class="quiet"></span>
      <span class="buttons"><button data-command="pause_camera">Pause</button><button data-command="resume_camera">Resume</button>
      <button data-command="restart_camera">Restart</button></span></header><canvas width="16" height="9"></canvas>`;
    this.root.dataset.camera = name;
    this.root.camera = this;
    this.root.querySelector("h2").textContent = name;
    this.canvas = this.root.querySelector("canvas");
    for (const button of this.root.querySelectorAll("button")) {
      button.setAttribute("aria-label", `${button.textContent} ${name}`);
      button.onclick = () => command(button.dataset.command, { camera: name }).catch(complain);
    }
    this.pull();
  }

  /** Asks for pictures one by one, the next while the one before is drawn: never more than this browser takes. */
  async pull() {
    let next = null;
    for (;;) {
      if (document.hidden) {
        await new Promise((resume) => document.addEventListener("visibilitychange", resume, { once: true }));
        next = null; // that one is old
      }
      try {
        const { frame, bitmap, received } = await (next ?? this.ask(-1));
        next = this.ask(frame.seq);
        next.catch(() => {}); // it is waited for above
        await new Promise(requestAnimationFrame);
        this.draw(frame, bitmap);
        bitmap.close();
        this.note(received, since(frame.captured_at_s));
      } catch (error) {
        next = null;
        if (error.status === 404) {
          this.hasPreview = false;
          renew();
          return;
        }
        await new Promise((resume) => setTimeout(resume, 1000));
      }
    }
  }

  /** A newer picture than number `after`, as soon as there is one, decoded. */
  async ask(after) {
    const { frame, jpeg } = await picture(this.name, after);
    const received = since(frame.captured_at_s);
    const bitmap = await createImageBitmap(new Blob([jpeg], { type: "image/jpeg" }));
    return { frame, bitmap, received };
  }

  note(received, drawn) {
    if (!received || !drawn) return;
    this.delays.push({ received_ms: received.ms, drawn_ms: drawn.ms, error_ms: drawn.error });
    if (this.delays.length > MOST_DELAYS) this.delays.shift();
  }

  draw(frame, bitmap) {
    const { canvas } = this;
    if (canvas.width !== frame.width || canvas.height !== frame.height) {
      [canvas.width, canvas.height] = [frame.width, frame.height];
    }
    const context = canvas.getContext("2d");
    if (bitmap) context.drawImage(bitmap, 0, 0);
    else context.clearRect(0, 0, canvas.width, canvas.height);
    canvas.dataset.seq = frame.seq;
    for (const face of frame.faces) this.drawFace(context, face);
  }

  drawFace(context, face) {
    const show = this.overlay();
    const colour = colourOf(face.participant);
    // The picture may be shown smaller than it is; lines and letters should not be.
    const scale = Math.max(1, context.canvas.width / (context.canvas.clientWidth || Infinity));
    context.strokeStyle = colour;
    context.fillStyle = colour;
    context.lineWidth = 1.5 * scale;
    if (show.mesh && face.landmarks) {
      for (const [x, y] of face.landmarks) context.fillRect(x - 0.5, y - 0.5, 1.2 * scale, 1.2 * scale);
      for (const contour of CONTOURS) {
        context.beginPath();
        contour.forEach((point) => context.lineTo(face.landmarks[point][0], face.landmarks[point][1]));
        context.closePath();
        context.stroke();
      }
    }
    if (show.boxes) {
      // Whole pixels: sharp lines, of this colour and no mixture.
      const [x0, y0, x1, y1] = face.bbox.map(Math.round);
      context.lineWidth = 2 * Math.round(scale);
      context.strokeRect(x0, y0, x1 - x0, y1 - y0);
      const label = face.name ?? "nobody";
      context.font = `600 ${14 * scale}px system-ui, sans-serif`;
      context.fillRect(x0, y0 - 19 * scale, context.measureText(label).width + 10 * scale, 19 * scale);
      context.fillStyle = "#000";
      context.fillText(label, x0 + 5 * scale, y0 - 5 * scale);
    }
    if (show.axes && face.head_pose && face.landmarks) this.drawAxes(context, face, scale);
  }

  drawAxes(context, { head_pose: pose, landmarks }, scale) {
    const focal = context.canvas.height / 2 / Math.tan(FIELD_OF_VIEW / 2);
    const length = (AXIS_METRES * focal) / -pose[2][3];
    const [x, y] = landmarks[NOSE_TIP];
    for (const axis of [0, 1, 2]) {
      context.strokeStyle = AXES[axis];
      context.lineWidth = 2.5 * scale;
      context.beginPath();
      context.moveTo(x, y);
      context.lineTo(x + pose[0][axis] * length, y - pose[1][axis] * length);
      context.stroke();
    }
  }

  /** Takes a result of the WebSocket, where there are no previews. */
  result(result, size) {
    if (!this.hasPreview && size) {
      this.draw({ seq: result.seq, width: size[0], height: size[1], faces: result.faces }, null);
    }
  }

  show(facts, fps, now) {
    const badge = this.root.querySelector(".badge");
    badge.textContent = facts.state;
    this.root.dataset.state = badge.dataset.state = facts.state;
    const parts = [`${facts.width}×${facts.height} ${facts.format}`];
    if (facts.state === "running") {
      parts.push(`${fps.toFixed(0)} fps`, `${facts.faces} ${facts.faces === 1 ? "face" : "faces"}`);
      const drawn = this.delays.slice(-60).map(({ drawn_ms }) => drawn_ms).sort((a, b) => a - b);
      if (drawn.length) parts.push(`drawn after ${drawn[drawn.length >> 1].toFixed(0)} ms`);
    } else if (facts.last_frame_s) {
      parts.push(`no frames for ${Math.max(0, now - facts.last_frame_s).toFixed(0)} s`);
    }
    if (facts.restarts) parts.push(`${facts.restarts} ${facts.restarts === 1 ? "restart" : "restarts"}`);
    this.root.querySelector(".quiet").textContent = parts.join(", ");
    for (const button of this.root.querySelectorAll("button")) {
      const isPaused = facts.state === "paused";
      button.disabled = button.dataset.command === "resume_camera" ? !isPaused : isPaused || facts.state === "ended";
    }
  }
}
