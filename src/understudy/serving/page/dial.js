// The operating points as a chart of cost against certified drop, and the slider on it. It snaps to
// certified points alone. What is asked for is an outline; the filled mark is what the server says.

import { byId, draw, setAttributes, setText } from "./dom.js";
import { amount, figure, percent, points as pointsText, withUnit } from "./format.js";
import { around, ofCosts, ticks } from "./scale.js";

const REACH = 30; // pixels from a point within which a press takes hold of it
const DELAY = 600; // milliseconds from the last key until the server is asked
const DIAMOND = "M0-8L7 0L0 8L-7 0z";
const STEPS = { ArrowRight: 1, ArrowUp: 1, ArrowLeft: -1, ArrowDown: -1, PageUp: 5, PageDown: -5 };

export class Dial {
  // `choose(name)` asks the server and ends when the page shows what it has confirmed.
  constructor(choose) {
    Object.assign(this, { choose, points: [], confirmed: null, wish: null, asking: false, drawn: "" });
    this.svg = byId("frontier");
    this.handle = draw("g", { role: "slider", tabindex: 0, class: "handle", "aria-label": "Operating point" });
    this.ring = draw("path", { d: DIAMOND, class: "wish" });
    this.handle.append(draw("circle", { r: 17, class: "focus" }), this.ring);
    this.mark = draw("path", { d: DIAMOND, class: "c-plan", fill: "currentColor" });
    this.plot = draw("g");
    this.svg.append(this.plot, this.mark, this.handle);
    this.listen();
    new ResizeObserver(() => this.update()).observe(this.svg);
  }

  listen() {
    this.svg.addEventListener("pointerdown", event => this.grip(event));
    this.svg.addEventListener("pointermove", event => this.held && this.drag(event));
    this.svg.addEventListener("pointerup", () => this.held && this.release());
    this.svg.addEventListener("pointercancel", () => this.drop());
    this.handle.addEventListener("keydown", event => this.key(event));
    this.handle.addEventListener("blur", () => this.timer && this.ask());
  }

  show(points, confirmed) {
    this.points = points.filter(point => Number.isFinite(point.cost)).sort((a, b) => a.cost - b.cost || b.max_drop - a.max_drop);
    this.confirmed = this.points.findIndex(point => point.name === confirmed);
    if (this.wish >= this.points.length) this.drop();
    this.update();
  }

  grip(event) {
    const nearest = this.nearest(event);
    if (this.asking || nearest === null || event.button) return;
    event.preventDefault();
    this.held = true;
    this.handle.focus({ preventScroll: true });
    this.svg.setPointerCapture(event.pointerId);
    this.want(nearest);
  }

  drag(event) {
    this.want(this.nearest(event, Infinity));
  }

  release() {
    this.held = false;
    this.ask();
  }

  key(event) {
    if (event.key === "Escape") this.drop();
    else if (event.key === "Enter" && this.timer) this.ask();
    else if (!this.moved(event.key)) return;
    event.preventDefault();
  }

  moved(key) {
    const last = this.points.length - 1;
    const at = this.wish ?? this.confirmed;
    const to = key === "Home" ? 0 : key === "End" ? last : at + STEPS[key];
    if (Number.isNaN(to)) return false;
    if (this.asking) return true;
    this.want(Math.min(Math.max(to, 0), last));
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.ask(), DELAY);
    return true;
  }

  want(index) {
    this.wish = index;
    this.update();
  }

  drop() {
    clearTimeout(this.timer);
    Object.assign(this, { wish: null, held: false, timer: null });
    this.update();
  }

  async ask() {
    clearTimeout(this.timer);
    this.timer = null;
    if (this.asking || this.wish === null) return;
    if (this.wish !== this.confirmed) {
      this.asking = true;
      this.update();
      await this.choose(this.points[this.wish].name);
      this.asking = false;
    }
    this.drop();
  }

  nearest(event, reach = REACH) {
    const box = this.svg.getBoundingClientRect();
    const x = event.clientX - box.left, y = event.clientY - box.top;
    const far = this.points.map(point => Math.hypot(this.x(point) - x, this.y(point) - y));
    const least = Math.min(...far);
    return least <= reach ? far.indexOf(least) : null;
  }

  x(point) {
    return this.left + this.across.pixel(point.cost);
  }

  y(point) {
    return this.top + this.up.length - this.up.pixel(-point.max_drop);
  }

  update() {
    const width = Math.floor(this.svg.getBoundingClientRect().width);
    if (!this.points.length || !width) return;
    const known = JSON.stringify([width, this.points]);
    if (known !== this.drawn) this.redraw(width);
    this.drawn = known;
    this.place(this.mark, this.points[this.confirmed]);
    this.place(this.handle, this.points[this.wish ?? this.confirmed] ?? this.points[0]);
    setAttributes(this.ring, { visibility: this.wish === null ? "hidden" : null });
    this.say();
  }

  place(element, point) {
    setAttributes(element, {
      transform: point ? `translate(${this.x(point).toFixed(1)} ${this.y(point).toFixed(1)})` : null,
      visibility: point ? null : "hidden",
    });
  }

  say() {
    const wish = this.points[this.wish], now = this.points[this.confirmed];
    const state = !wish ? "" : this.asking ? ", asked for, not confirmed yet" : ", not asked for yet";
    setAttributes(this.handle, {
      "aria-valuemin": 1,
      "aria-valuemax": this.points.length,
      "aria-valuenow": (this.wish ?? Math.max(this.confirmed, 0)) + 1,
      "aria-valuetext": wish ? describe(wish) + state : now ? describe(now) : "none of the certified points",
    });
    const asked = byId("asked");
    asked.hidden = !wish || this.wish === this.confirmed;
    setText(asked, wish ? `${describe(wish)}${state}.` : "");
  }

  redraw(width) {
    const unit = this.points[0].unit, height = width < 500 ? 220 : 280;
    Object.assign(this, { left: 46, top: 26 });
    this.across = ofCosts(this.points.map(point => point.cost), width - this.left - 18);
    this.up = around(this.points.map(point => -point.max_drop), height);
    setAttributes(this.svg, { viewBox: `0 0 ${width} ${height + 76}`, width, height: height + 76 });
    this.plot.replaceChildren(...this.frame(unit, width, height), this.line(), ...this.dots());
    this.label(width, height);
  }

  frame(unit, width, height) {
    const bottom = this.top + height, right = width - 18;
    const text = (x, y, words, kind, anchor) => draw("text", { x, y, class: kind, "text-anchor": anchor }, words);
    const line = (x1, y1, x2, y2, kind) => draw("path", { d: `M${x1} ${y1}L${x2} ${y2}`, class: kind, stroke: "currentColor" });
    const levels = ticks(this.up, 36).filter(level => level <= 0).map(level => [level, bottom - this.up.pixel(level)]);
    const costs = ticks(this.across, 76).map(cost => [cost, this.left + this.across.pixel(cost)]);
    return [
      ...levels.flatMap(([level, y]) => [
        line(this.left, y, right, y, "c-grid"), text(this.left - 8, y + 5, figure(-level || 0), "tick", "end"),
      ]),
      line(this.left, bottom, right, bottom, "c-axis"),
      ...costs.flatMap(([cost, x]) => [line(x, bottom, x, bottom + 5, "c-axis"), text(x, bottom + 21, amount(cost, unit), "tick", "middle")]),
      text(0, 13, "points lost at most, certified", "title", "start"),
      text((this.left + right) / 2, bottom + 44, `mean ${unit} per image`, "title", "middle"),
    ];
  }

  line() {
    const places = this.points.map(point => `${this.x(point).toFixed(1)} ${this.y(point).toFixed(1)}`);
    return draw("path", { d: `M${places.join("L")}`, class: "c-faint bar", fill: "none", stroke: "currentColor" });
  }

  dots() {
    return this.points.map(point => draw("circle", { cx: this.x(point), cy: this.y(point), r: 5, class: "c-best", fill: "currentColor" }));
  }

  // Names beside points, the ends first, as far as there is room.
  label(width, height) {
    const last = this.points.length - 1, taken = [];
    const order = [0, last, ...this.points.keys()].filter((at, index, all) => all.indexOf(at) === index);
    const dots = this.points.map(point => new DOMRect(this.x(point) - 6, this.y(point) - 6, 12, 12));
    for (const at of order) {
      const x = this.x(this.points[at]), y = this.y(this.points[at]);
      const free = [[11, 19, "start"], [-11, -9, "end"], [11, -9, "start"], [-11, 19, "end"]].some(([dx, dy, anchor]) => {
        const text = draw("text", { x: x + dx, y: y + dy, class: "label", "text-anchor": anchor }, this.points[at].name);
        this.plot.append(text);
        const box = text.getBBox();
        const fits = box.x >= this.left && box.x + box.width <= width && box.y >= 16 && box.y + box.height <= this.top + height
          && ![...taken, ...dots].some(other => overlap(box, other));
        if (fits) taken.push(box);
        else text.remove();
        return fits;
      });
      if (!free && taken.length > 12) break;
    }
  }
}

function overlap(a, b) {
  return a.x < b.x + b.width && b.x < a.x + a.width && a.y < b.y + b.height && b.y < a.y + a.height;
}

export function describe(point) {
  const lost = point.max_drop === 0 && !point.delta ? "nothing lost" : `at most ${pointsText(point.max_drop)} lost`;
  return `${point.name}: ${lost}, ${withUnit(point.cost, point.unit)} per image, ${percent(point.saving)} saved`;
}
