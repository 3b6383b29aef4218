// The charts of the last five minutes, and the same as a table.

import { Chart, stacked } from "./charts.js";
import { byId, fillRows } from "./dom.js";
import { figure } from "./format.js";
import { of, unitOf } from "./overview.js";

const LATENCIES = [
  { name: "p50", colour: "var(--best)" },
  { name: "p95", colour: "var(--random)", dash: [8, 4] },
  { name: "p99", colour: "var(--plan)", dash: [3, 3] },
];
const TABLE = "The figures are in the table below the charts.";
const scaled = (values, factor) => values.map(value => value === null || value === undefined ? null : factor * value);
const charts = new Map();

function chart(id, options) {
  if (!charts.has(id)) charts.set(id, new Chart(byId(id), options));
  return charts.get(id);
}

export function showLive(status, colours) {
  const { series } = status, empty = !series.t.length;
  byId("live").hidden = empty;
  byId("live-empty").hidden = !empty;
  if (empty) return;
  const unit = unitOf(status), rows = [];
  byId("caption-saving").textContent = `${of(unit)} saved, %`;
  const add = (name, values) => rows.push(summary(name, values));

  const throughput = scaled(series.throughput, 1);
  chart("chart-throughput", { about: `Images per second. ${TABLE}`, text: figure, low: 0 })
    .show(series.t, [{ name: "images per second", colour: "var(--best)" }], [throughput]);
  add("images per second", throughput);

  const latencies = LATENCIES.map(({ name }) => scaled(series[name], 1000));
  chart("chart-latency", { about: `Latency in milliseconds: p50, p95 and p99. ${TABLE}`, text: figure, low: 0 })
    .show(series.t, LATENCIES, latencies);
  LATENCIES.forEach(({ name }, row) => add(`${name}, ms`, latencies[row]));

  const saving = scaled(series.saving, 100);
  chart("chart-saving", { about: `Saving in percent. ${TABLE}`, text: figure })
    .show(series.t, [{ name: `of the ${of(unit)}`, colour: "var(--plan)" }], [saving]);
  add(`${of(unit)} saved, %`, saving);

  showShares(series, colours, add);
  fillRows(byId("live-table"), rows);
}

// The areas are drawn from the highest edge down, each over the one before.
function showShares(series, colours, add) {
  const names = Object.keys(series.exits);
  const [shares, edges] = stacked(names.map(name => series.exits[name]));
  const lines = names.map(name => ({ name, colour: colours.get(name), area: true }));
  chart("chart-exits", { about: `Share of the images that each exit answers, in percent. ${TABLE}`, text: figure, low: 0, high: 100 })
    .show(series.t, lines.toReversed(), edges.toReversed(), shares.toReversed());
  names.forEach((name, row) => add(`${name}, % of the images`, shares[row]));
}

function summary(name, values) {
  const known = values.filter(value => value !== null);
  const mean = known.reduce((sum, value) => sum + value, 0) / known.length;
  const least = known.reduce((a, b) => Math.min(a, b), Infinity), most = known.reduce((a, b) => Math.max(a, b), -Infinity);
  return [name, ...[values.at(-1), least, mean, most].map(value => figure(value))];
}
