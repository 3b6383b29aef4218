// The live charts: uPlot on the server's series, in the colours of the style sheet.

import { fill, make, setColour, setText } from "./dom.js";
import { resolved } from "./colours.js";

const HEIGHT = 190;
const zone = new Intl.DateTimeFormat("en-GB", { hour: "2-digit", minute: "2-digit", second: "2-digit" });

// A chart of lines over time. `lines` are {name, colour, dash, area}; `text` writes a value.
export class Chart {
  constructor(root, { about, text, low = null, high = null }) {
    Object.assign(this, { root, about, text, low, high, known: "" });
    this.holder = make("div", { class: "canvas", role: "img", "aria-label": about });
    this.legend = make("ul", { class: "legend", "aria-hidden": "true" });
    root.replaceChildren(this.holder, this.legend);
    new ResizeObserver(() => this.resize()).observe(this.holder);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.plot?.redraw(false, true));
  }

  // `drawn` is what the lines are at; `values` what they mean, where that differs (stacks).
  show(times, lines, drawn, values = drawn) {
    const known = JSON.stringify(lines);
    if (known !== this.known) this.make(lines);
    Object.assign(this, { known, lines, values });
    this.plot.setData([times, ...drawn]);
    this.name();
  }

  make(lines) {
    this.plot?.destroy();
    const colours = new Map();
    const colour = name => () => colours.get(name) ?? resolved(name);
    const axis = { stroke: colour("var(--soft)"), font: "12px system-ui, sans-serif", ticks: { show: false } };
    const options = {
      width: this.width(), height: HEIGHT, padding: [8, 26, 0, 0], legend: { show: false },
      cursor: { drag: { x: false, y: false }, sync: { key: "live" }, points: { size: 7 } },
      scales: { y: { range: (_, least, greatest) => this.range(least, greatest) } },
      series: [{}, ...lines.map(line => ({
        stroke: colour(line.colour), width: line.area ? 0 : 2, dash: line.dash,
        fill: line.area ? colour(line.colour) : undefined, points: { show: false }, spanGaps: false,
      }))],
      axes: [
        { ...axis, grid: { show: false }, size: 30, space: 70, values: (_, all) => all.map(one => zone.format(1000 * one)) },
        { ...axis, size: 48, grid: { stroke: colour("var(--grid)"), width: 1 }, values: (_, all) => all.map(one => this.text(one)) },
      ],
      hooks: { setCursor: [() => this.name()] },
    };
    this.plot = new uPlot(options, [[], ...lines.map(() => [])], this.holder);
  }

  range(least, greatest) {
    const low = this.low ?? least ?? 0, high = Math.max(this.high ?? greatest ?? 1, low);
    const room = high > low ? 0.06 * (high - low) : Math.abs(high) || 1;
    return [this.low ?? low - room, this.high ?? high + room];
  }

  // The values under the pointer, else the latest.
  name() {
    const at = this.plot.cursor.idx;
    const lines = this.lines.map((line, row) => ({ ...line, value: (at == null ? this.values[row].at(-1) : this.values[row][at]) ?? null }));
    fill(this.legend, lines, legendEntry, (entry, line) => {
      setColour(entry.children[0], line.colour);
      setText(entry.children[1], line.name);
      setText(entry.children[2], line.value === null ? "–" : this.text(line.value));
    });
  }

  width() {
    return Math.max(this.holder.clientWidth, 120);
  }

  resize() {
    const width = this.width();
    if (this.plot && this.plot.width !== width) this.plot.setSize({ width, height: HEIGHT });
  }
}

function legendEntry() {
  const entry = make("li", { class: "exit" });
  entry.append(make("i", { class: "swatch" }), make("span"), make("strong"));
  return entry;
}

// Shares on top of one another: [shares in percent, upper edges], of what each exit answered.
export function stacked(series) {
  const length = series[0]?.length ?? 0;
  const totals = Array.from({ length }, (_, at) => series.reduce((sum, one) => sum + (one[at] ?? 0), 0));
  const shares = series.map(one => one.map((value, at) => totals[at] > 0 ? 100 * (value ?? 0) / totals[at] : null));
  let below = new Array(length).fill(0);
  const edges = shares.map(one => {
    below = one.map((share, at) => share === null ? null : below[at] + share);
    return below;
  });
  return [shares, edges];
}
