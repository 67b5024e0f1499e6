// One participant: the strongest blendshapes as bars, and one of them over the last 30 s.

import { command } from "/ui/api.js";
import { colourOf } from "/ui/camera.js";

const SHOWN = 12;
const SECONDS = 30;

export class Person {
  constructor(id, names, complain) {
    this.id = id;
    this.names = names;
    this.values = null;
    // Time and all values, the oldest first.
    this.past = [];
    this.root = document.createElement("article");
    this.root.className = "person";
    this.root.innerHTML = `<header><h2></h2><form><label>Name <input autocomplete="off"></label><button>Rename</button>
      <span class="quiet"></span></form></header>
      <div class="bars"></div>
      <figure><figcaption><select aria-label="Blendshape in the plot"></select><span class="quiet">last ${SECONDS} s</span></figcaption>
      <canvas></canvas></figure>`;
    this.root.dataset.participant = id;
    this.root.style.borderTopColor = colourOf(id);
    this.canvas = this.root.querySelector("canvas");
    this.select = this.root.querySelector("select");
    // `_neutral` says nothing.
    this.select.append(...names.slice(1).map((name, place) => new Option(name, place + 1)));
    this.select.value = names.indexOf("mouthSmileLeft");
    this.bars = Array.from({ length: SHOWN }, () => {
      const label = document.createElement("span");
      const bar = document.createElement("div");
      bar.className = "bar";
      bar.append(document.createElement("i"));
      this.root.querySelector(".bars").append(label, bar);
      return { label, fill: bar.firstChild };
    });
    this.root.querySelector("form .quiet").textContent =
      `From now on in the recording, with the time of the change; rows before it keep the name of then. LSL streams stay ${id}_…`;
    this.root.querySelector("form").onsubmit = (event) => {
      event.preventDefault();
      const input = this.root.querySelector("input");
      command("rename_participant", { participant: id, name: input.value }).then(() => (input.value = "")).catch(complain);
    };
  }

  take(seconds, values) {
    this.values = values;
    this.past.push([seconds, values]);
    while (this.past.length && this.past[0][0] < seconds - SECONDS) this.past.shift();
  }

  show(name) {
    this.root.querySelector("h2").textContent = name === this.id ? name : `${name} (${this.id})`;
    if (!this.values) return;
    // Sorted by name within the strongest, so that bars stay where they are.
    const order = this.values.map((_, index) => index).slice(1).sort((a, b) => this.values[b] - this.values[a]);
    const shown = order.slice(0, SHOWN).sort((a, b) => a - b);
    shown.forEach((index, place) => {
      const { label, fill } = this.bars[place];
      label.textContent = this.names[index];
      fill.style.width = `${(this.values[index] * 100).toFixed(0)}%`;
      fill.style.background = colourOf(this.id);
    });
    this.plot(Number(this.select.value));
  }

  plot(chosen) {
    const { canvas, past } = this;
    const [width, height, scale] = [canvas.clientWidth, canvas.clientHeight, devicePixelRatio];
    const [across, down] = [width, height].map((pixels) => Math.round(pixels * scale));
    if (canvas.width !== across || canvas.height !== down) [canvas.width, canvas.height] = [across, down];
    const context = canvas.getContext("2d");
    context.setTransform(scale, 0, 0, scale, 0, 0);
    context.clearRect(0, 0, width, height);
    const margin = 6;
    const yOf = (value) => height - margin - value * (height - 2 * margin);
    context.strokeStyle = context.fillStyle = "#888"; // is seen on black and on white
    context.font = "10px system-ui, sans-serif";
    context.lineWidth = 0.5;
    for (const value of [0, 0.5, 1]) {
      context.fillText(value, 0, yOf(value) + 3);
      context.beginPath();
      context.moveTo(18, yOf(value));
      context.lineTo(width, yOf(value));
      context.stroke();
    }
    context.lineWidth = 1.5;
    context.strokeStyle = colourOf(this.id);
    context.beginPath();
    const end = past.length ? past[past.length - 1][0] : 0;
    let before = -Infinity;
    for (const [seconds, values] of past) {
      const x = width - (width - 18) * ((end - seconds) / SECONDS);
      // A gap is a gap.
      if (seconds - before > 1) context.moveTo(x, yOf(values[chosen]));
      else context.lineTo(x, yOf(values[chosen]));
      before = seconds;
    }
    context.stroke();
  }
}
