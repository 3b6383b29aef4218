// The watch: its evidence against the thresholds, what shadowed requests showed, what it decided.

import { Chart } from "./charts.js";
import { byId, draw, fillRows, make, setAttributes, setText } from "./dom.js";
import { count, dateTime, figure, percent, points } from "./format.js";
import { watchSentence } from "./overview.js";
import { around, ticks } from "./scale.js";

const SHOWN = 100; // decisions
let evidence = null;

export function showWatch({ watch, model }) {
  byId("watch").hidden = !watch;
  setText(byId("watch-text"), watchSentence(watch));
  if (!watch) return;
  setText(byId("alpha"), watch.alpha == null ? "α" : figure(watch.alpha));
  fillRows(byId("evidence"), streams(watch).map(row), ["", "", "", "", "meter"]);
  showEvidence(watch.shift);
  showAgreement(watch.agreement);
  setText(byId("labels-text"), labelsText(watch.labels));
  showPairs(watch.agreement?.pairs ?? [], model.classes);
  showDecisions(watch.decisions);
}

function streams({ requests, shift, agreement, labels }) {
  const stages = shift.stages.filter(stage => stage.requests > 0).map(stage => [`confidences of ${stage.exit}`, stage.requests, stage.evidence, shift.threshold]);
  return [
    ["shift, all stages", requests, shift.evidence, shift.threshold],
    ...stages,
    ...(agreement ? [["agreement of shadowed images", agreement.shadowed, agreement.evidence, agreement.threshold]] : []),
    ...(labels?.threshold ? [["drop on labels that came", labels.compared, labels.evidence, labels.threshold]] : []),
  ];
}

function row([name, samples, found, threshold]) {
  return [name, count(samples), figure(found), figure(threshold), cell => meter(cell, found, threshold)];
}

function meter(cell, found, threshold) {
  if (!cell.firstElementChild) cell.append(make("i"));
  const bar = cell.firstElementChild, share = Math.min(Math.max(found / threshold, 0), 1) || 0;
  bar.style.width = `${100 * share}%`;
  bar.classList.toggle("over", found >= threshold);
}

function showEvidence({ series, threshold }) {
  const holder = byId("chart-evidence");
  holder.parentElement.hidden = !series?.t.length;
  if (!series?.t.length) return;
  evidence ??= new Chart(holder, { about: "Evidence of a shift over time, and its threshold. The figures are in the table above.", text: value => figure(value) });
  const lines = [{ name: "evidence", colour: "var(--best)" }, { name: "threshold", colour: "var(--alarm)", dash: [6, 4] }];
  evidence.show(series.t, lines, [series.evidence, series.t.map(() => threshold)]);
}

function showAgreement(agreement) {
  const words = agreementText(agreement);
  setText(byId("agreement-text"), words);
  const svg = byId("agreement"), width = Math.floor(svg.getBoundingClientRect().width);
  const key = JSON.stringify([width, agreement]);
  if (!width || svg.dataset.drawn === key) return;
  svg.dataset.drawn = key;
  setAttributes(svg, { "aria-label": words, viewBox: `0 0 ${width} 150`, width, height: 150 });
  svg.replaceChildren(...(agreement ? agreementMarks(agreement, width) : []));
}

function agreementText(agreement) {
  if (!agreement) return "The reference itself answers: there is nothing to compare.";
  const { shadowed, disagreements, rate, interval, baseline, budget } = agreement;
  const allowed = `On the certify samples it was ${percent(baseline)}; at most ${percent(budget)} is allowed.`;
  if (!shadowed) return `No shadowed images yet. ${allowed}`;
  return `${count(disagreements)} of ${count(shadowed)} shadowed images have another answer than the reference's: ${percent(rate)}, `
    + `95 % interval ${percent(interval[0])} to ${percent(interval[1])}. ${allowed}`;
}

function labelsText(labels) {
  if (!labels) return "No labels have come: send them to POST feedback, and the drop itself is watched too.";
  const all = `${count(labels.labelled)} labels have come: ${percent(labels.accuracy)} of those images were answered rightly.`;
  if (!labels.compared) return all;
  return `${all} On the ${count(labels.compared)} of them that were shadowed, the reference's accuracy is higher by ${points(100 * labels.gap)}; `
    + `the certificate allows ${points(100 * labels.budget)}.`;
}

function showPairs(pairs, classes) {
  byId("pairs").hidden = !pairs.length;
  const name = number => String(classes?.[number] ?? number);
  fillRows(byId("pairs-table"), pairs.map(one => [name(one.answer), name(one.reference), count(one.count)]), ["", "text", ""]);
}

// The interval as a bar with the rate on it, beside lines for what was before and what is allowed.
function agreementMarks({ shadowed, rate, interval, baseline, budget }, width) {
  const values = [0, baseline, budget, ...(shadowed ? [rate, ...(interval ?? [])] : [])].filter(Number.isFinite);
  const scale = around(values.map(value => 100 * value), width - 24), x = share => 12 + scale.pixel(100 * share);
  const line = (x1, y1, x2, y2, kind) => draw("path", { d: `M${x1} ${y1}L${x2} ${y2}`, class: kind, stroke: "currentColor" });
  const named = (share, name, kind, y) => Number.isFinite(share) ? [
    line(x(share), 34, x(share), 112, kind),
    draw("text", { x: Math.min(Math.max(x(share), 40), width - 40), y, class: "label", "text-anchor": "middle" }, name),
  ] : [];
  const found = shadowed && interval ? [
    line(x(interval[0]), 74, x(interval[1]), 74, "c-best bar wide"),
    draw("circle", { cx: x(rate), cy: 74, r: 5.5, class: "c-best", fill: "currentColor" }),
  ] : [];
  return [
    line(12, 112, width - 12, 112, "c-axis"),
    ...ticks(scale, 44).filter(value => value >= 0).map(value => draw("text", { x: 12 + scale.pixel(value), y: 132, class: "tick", "text-anchor": "middle" }, figure(value))),
    ...named(baseline, "before", "c-single dashed", 14), ...named(budget, "allowed", "c-plan dashed", 30), ...found,
  ];
}

function showDecisions(decisions) {
  const rows = decisions.slice(-SHOWN).reverse().map(one => [
    dateTime(one.time), one.kind, one.from ?? "–", one.to ?? "–", one.reason ?? "",
  ]);
  fillRows(byId("decisions"), rows.length ? rows : [["none yet", "", "", "", ""]], ["time", "text", "text", "text", "text long"]);
}
