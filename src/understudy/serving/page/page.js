// The page of a running server: asks for its status once a second and shows what it says.

import { shades } from "./colours.js";
import { Dial, describe } from "./dial.js";
import { byId, fill, fillRows, make, setText } from "./dom.js";
import { amount, clock, figure, percent, points } from "./format.js";
import { showLatest } from "./latest.js";
import { showLive } from "./live.js";
import { chosenBy, showCards, showExits, showSavings, showVerdict } from "./overview.js";
import * as server from "./server.js";
import { showWatch } from "./watch.js";

const PERIOD = 1000; // milliseconds
const page = { status: null, lost: null, failure: null, paused: false, polling: null, timer: null };
const dial = new Dial(choose);

// One question at a time: who asks meanwhile waits for the next answer.
async function poll() {
  clearTimeout(page.timer);
  if (document.hidden) return;
  page.polling ??= ask().finally(() => { page.polling = null; });
  await page.polling;
  clearTimeout(page.timer);
  if (!page.paused) page.timer = setTimeout(poll, PERIOD);
}

async function ask() {
  try {
    page.status = await server.status();
    page.lost = null;
  } catch (error) {
    page.lost ??= { since: Date.now() / 1000 };
    page.lost.why = error instanceof server.Refused ? error.message : "no answer";
  }
  show();
}

// The answer of a poll that began after now.
async function confirmed() {
  await page.polling;
  await poll();
}

function show() {
  const { status } = page;
  showAlarms();
  document.body.classList.toggle("stale", page.lost !== null);
  setText(byId("updated"), page.paused ? "paused" : page.lost ? "not connected" : `as of ${clock(Date.now() / 1000)}`);
  if (!status || page.lost) return;
  const colours = shades(status.exits.map(exit => exit.name));
  showVerdict(status);
  showCards(status);
  showSavings(status);
  showPoints(status);
  showLive(status, colours);
  showExits(status, colours);
  showWatch(status);
  showLatest(status, colours, server.hasToken() || !status.token_required).catch(fail);
}

function showPoints(status) {
  const list = status.operating_points, now = list.find(point => point.name === status.operating_point);
  byId("dial").hidden = !list.length;
  byId("token-form").hidden = !status.token_required;
  dial.show(list, status.operating_point);
  setText(byId("point-text"), now ? `${describe(now)}; ${chosenBy(status)}. Policy: ${status.policy.text}`
    : `${list.length ? "The policy is none of the certified points" : "This cascade has no certified operating points"}; ${chosenBy(status)}. Policy: ${status.policy.text}`);
  fillRows(byId("points"), list.map(point => [
    point.name === status.operating_point ? `${point.name} (in use)` : point.name,
    points(point.max_drop), figure(point.delta), amount(point.cost, point.unit), percent(point.saving), point.policy,
  ]), ["", "", "", "", "", "text"]);
}

// What the watch, the server and the last action have to say; announced when it changes.
function showAlarms() {
  fill(byId("alarms"), alarms(), () => {
    const box = make("p");
    box.append(make("strong"), make("span"));
    return box;
  }, (box, { kind, head, text }) => {
    box.className = kind;
    setText(box.children[0], head);
    setText(box.children[1], ` ${text}`);
  });
}

function alarms() {
  const { status, lost, failure } = page, found = [];
  if (lost) found.push({ kind: "alarm", head: "Server unreachable", text: `since ${clock(lost.since)} (${lost.why}). What is shown is from before.` });
  else if (status && !status.ready) found.push({ kind: "alarm", head: "Draining", text: "The server is about to stop: it still answers for some seconds, and load balancers send it no more." });
  if (status?.watch?.state === "fallen back") found.push({ kind: "alarm", head: "Fallen back", text: lastReason(status) });
  if (status?.watch?.state === "warned") found.push({ kind: "warning", head: "Shift seen", text: lastReason(status) });
  if (failure) found.push({ kind: "alarm", head: failure.head, text: failure.text });
  return found;
}

function lastReason({ watch }) {
  const kind = watch.state === "warned" ? "warning" : "fall-back";
  const last = watch.decisions.findLast(one => one.kind === kind);
  return last ? `${clock(last.time)}: ${last.reason}` : "See the decisions below.";
}

function choose(name) {
  return act(() => server.chooseOperatingPoint(name), `The operating point stays as it is: ${name} was not set.`);
}

// Asks the server to change something, and shows what it is afterwards, never before.
async function act(change, otherwise) {
  page.failure = null;
  try {
    if (page.status?.token_required && !server.hasToken()) throw new server.Refused(401, "this needs its token");
    await change();
  } catch (error) {
    fail(error, otherwise);
    if (error.status === 401) {
      byId("token").focus();
      byId("token").select();
    }
  }
  await confirmed();
}

function fail(error, otherwise = "The images are not shown.") {
  const head = error.status !== 401 ? "Not done" : server.hasToken() ? "Token refused" : "Token needed";
  page.failure = { head, text: `${otherwise} The server says: ${error.message}.` };
  showAlarms();
}

byId("token-form").addEventListener("submit", event => {
  event.preventDefault();
  server.setToken(byId("token").value.trim());
  page.failure = null;
  poll();
});
byId("reset").addEventListener("click", () => act(() => server.resetWatch(byId("to-traffic").checked), "The watch was not reset."));
byId("pause").addEventListener("click", () => {
  page.paused = !page.paused;
  byId("pause").setAttribute("aria-pressed", page.paused);
  if (page.paused) show();
  poll();
});
document.addEventListener("visibilitychange", poll);
poll();
