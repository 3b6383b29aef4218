// The head of the page: the verdict, the cards, what was saved, the exits, the requests.

import { byId, exitName, fill, fillRows, make, setColour, setText } from "./dom.js";
import { amount, count, duration, figure, isTime, milliseconds, money, percent, withUnit } from "./format.js";

export const STATES = {
  watching: "no change seen",
  warned: "shift seen",
  "fallen back": "fallen back",
};
const CHOSEN = { start: "since the start", operator: "chosen by an operator", watch: "chosen by the watch" };

export const unitOf = status => status.operating_points[0]?.unit ?? Object.keys(status.savings)[0] ?? "MACs";

// The unit whose saving leads: that of the operating points, else the first there is.
function leading(status) {
  const unit = unitOf(status);
  return status.savings[unit] ? unit : Object.keys(status.savings)[0];
}

export const of = unit => isTime(unit) ? "time" : unit;

export function showVerdict(status) {
  const answered = imagesAnswered(status), unit = leading(status), saving = status.savings[unit]?.saving;
  const words = !answered ? "No requests yet" : unit === undefined || saving == null ? "No costs are known"
    : saving >= 0 ? `${percent(saving)} of the ${of(unit)} saved` : `${percent(-saving)} more ${of(unit)} than the reference`;
  setText(byId("verdict"), words);
  document.title = `${words} – ${status.model.name}`;
  setText(byId("lead"), answered ? lead(status) : `Send images to POST v2/models/${status.model.name}/infer or to POST classify.`);
  setText(byId("model"), `${status.model.name} ${status.model.version ?? ""} · ${status.model.backend} · up ${duration(status.uptime_s)}`);
}

const imagesAnswered = status => status.exits.reduce((sum, exit) => sum + exit.answered, 0);

function lead(status) {
  const totals = Object.entries(status.savings).filter(([, one]) => one.saved != null)
    .map(([unit, one]) => isTime(unit) ? `${amount(one.saved, unit)} of computing` : withUnit(one.saved, unit));
  if (status.money) totals.push(`${money(status.money.saved)} in money`);
  const saved = totals.length ? `Saved so far: ${totals.join(", ")}. ` : "";
  return `${saved}${count(imagesAnswered(status))} images answered. ${watchSentence(status.watch)}`;
}

export function watchSentence(watch) {
  if (!watch) return "Nothing is watched.";
  return {
    watching: "The watch sees no change.",
    warned: "The watch sees a shift of the images; it now judges the promise on more of them.",
    "fallen back": "The watch judged the promise broken and fell back to a safer operating point.",
  }[watch.state] ?? `The watch is ${watch.state}.`;
}

export function showCards(status) {
  const { watch, requests, latency, series } = status;
  byId("card-watch").dataset.state = watch?.state ?? "none";
  setText(byId("watch-state"), watch ? STATES[watch.state] ?? watch.state : "off");
  setText(byId("watch-under"), watch ? `${percent(watch.shadow_share)} of the images are shadowed` : "nothing is watched");
  setText(byId("point-now"), status.operating_point ?? "not certified");
  setText(byId("point-under"), chosenBy(status));
  setText(byId("throughput-now"), figure(series.throughput.at(-1)));
  setText(byId("throughput-under"), `${count(requests.in_flight)} in flight, at most ${count(requests.max_queue)}`);
  setText(byId("latency-now"), milliseconds(latency.p99));
  setText(byId("latency-under"), `of the last minute; p50 ${milliseconds(latency.p50)}, p95 ${milliseconds(latency.p95)}`);
}

export const chosenBy = status => CHOSEN[status.chosen_by] ?? `chosen by ${status.chosen_by}`;

export function showSavings(status) {
  fillRows(byId("savings"), Object.entries(status.savings).map(([unit, one]) => [
    unit, percent(one.saving), amount(one.mean, unit), amount(one.reference, unit), amount(one.saved, unit),
  ]));
  const price = status.money;
  setText(byId("savings-note"), price
    ? `In money: ${money(price.saved)} saved, at a price of ${figure(price.price)} ${price.unit}.`
    : "Not in money: the server was given no price.");
}

export function showExits(status, colours) {
  const thresholds = new Map(status.policy.stages.map(stage => [stage.exit, stage]));
  fill(byId("stack"), status.exits, () => make("i"), (part, exit) => {
    part.style.flexGrow = exit.share ?? 0;
    part.hidden = !exit.share;
    setColour(part, colours.get(exit.name));
  });
  fillRows(byId("exits"), status.exits.map(exit => [
    cell => exitName(cell, exit.name, colours.get(exit.name)),
    count(exit.answered),
    percent(exit.share),
    acceptance(thresholds.get(exit.name)),
    count(exit.rows),
    exit.rows ? figure(1000 * exit.seconds / exit.rows) : "–",
  ]), ["", "", "", "text", "", ""]);
  showRequests(status.requests, status.shadows);
}

function acceptance(stage) {
  if (!stage) return "not in use";
  return stage.threshold === null ? "all that is left" : `${stage.confidence} ≥ ${typeof stage.threshold === "number" ? figure(stage.threshold, 4) : stage.threshold}`;
}

function showRequests(requests, shadows) {
  const facts = [
    ["requests answered", requests.answered], ["refused, as the queue was full", requests.rejected],
    ["too late", requests.late], ["failed", requests.failed],
    ["given up by the client", requests.cancelled],
    ["shadows", shadows?.answered], ["shadows left out", shadows?.dropped],
  ].filter(([, value]) => value !== undefined);
  fill(byId("requests"), facts, () => {
    const row = make("div");
    row.append(make("dt"), make("dd"));
    return row;
  }, (row, [name, value]) => {
    setText(row.children[0], name);
    setText(row.children[1], count(value));
  });
}
