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
    this.chosen = names.indexOf("jawOpen");
    // Time and all values, the oldest first.
    this.past = [];
    this.root = document.createElement("article");
    this.root.className = "person";
    this.root.innerHTML = `<header><h2></h2><form><label>Name <input></label><button>Rename</button></form></header>
      <div class="bars"></div><canvas></canvas>`;
    this.root.dataset.participant = id;
    this.root.style.borderTopColor = colourOf(id);
    this.canvas = this.root.querySelector("canvas");
    this.bars = Array.from({ length: SHOWN }, () => {
      const label = document.createElement("button");
      const bar = document.createElement("div");
      bar.className = "bar";
      bar.append(document.createElement("i"));
      this.root.querySelector(".bars").append(label, bar);
      return { label, fill: bar.firstChild };
    });
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
    // `_neutral` says nothing. Sorted by name within the strongest, so that bars stay where they are.
    const order = this.values.map((_, index) => index).slice(1).sort((a, b) => this.values[b] - this.values[a]);
    const shown = order.slice(0, SHOWN).sort((a, b) => a - b);
    shown.forEach((index, place) => {
      const { label, fill } = this.bars[place];
      label.textContent = this.names[index];
      label.ariaPressed = index === this.chosen;
      label.onclick = () => (this.chosen = index);
      fill.style.width = `${(this.values[index] * 100).toFixed(0)}%`;
      fill.style.background = colourOf(this.id);
    });
    this.plot();
  }

  plot() {
    const { canvas, past } = this;
    const [width, height] = [canvas.clientWidth, canvas.clientHeight];
    if (canvas.width !== width || canvas.height !== height) [canvas.width, canvas.height] = [width, height];
    const context = canvas.getContext("2d");
    context.clearRect(0, 0, width, height);
    context.fillStyle = getComputedStyle(canvas).color;
    context.font = "11px system-ui, sans-serif";
    context.fillText(`${this.names[this.chosen]}, last ${SECONDS} s, 0 to 1`, 2, 11);
    context.strokeStyle = colourOf(this.id);
    context.beginPath();
    const end = past.length ? past[past.length - 1][0] : 0;
    let before = -Infinity;
    for (const [seconds, values] of past) {
      const x = width * (1 - (end - seconds) / SECONDS);
      const y = height - 2 - values[this.chosen] * (height - 16);
      // A gap is a gap.
      if (seconds - before > 1) context.moveTo(x, y);
      else context.lineTo(x, y);
      before = seconds;
    }
    context.stroke();
  }
}
