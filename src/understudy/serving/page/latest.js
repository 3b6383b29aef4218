// The latest images of each exit. They are fetched every few seconds, and only while in view.

import { byId, fill, make, setColour, setText } from "./dom.js";
import { figure } from "./format.js";
import { latestImage } from "./server.js";

const PERIOD = 5000; // milliseconds
const SHOWN = 6; // per exit: the server has eight, the oldest of which are about to go
let inView = false, last = -Infinity, kept = new Map(), waiting = false;
new IntersectionObserver(entries => { inView = entries.at(-1).isIntersecting; }).observe(byId("latest").parentElement);

export async function showLatest(status, colours, mayAsk) {
  const any = status.latest.length > 0;
  byId("latest-note").hidden = any && mayAsk;
  setText(byId("latest-note"), any ? "The images are shown to who gives the token, above." : "No images yet.");
  if (!any || !mayAsk || !inView || waiting || performance.now() - last < PERIOD) return;
  waiting = true;
  try {
    const groups = status.exits.map(({ name }) => [name, status.latest.filter(one => one.exit === name).slice(0, SHOWN)]);
    kept = await fetched(groups.flatMap(([, all]) => all));
    showGroups(groups, colours);
  } finally {
    last = performance.now();
    waiting = false;
  }
}

// Addresses of the pictures by request; those of before are used again, those gone are freed.
async function fetched(entries) {
  const ids = entries.map(one => one.request_id);
  const urls = await Promise.all(ids.map(id => kept.get(id) ?? address(id)));
  const next = new Map(ids.map((id, at) => [id, urls[at]]));
  for (const [id, url] of kept) if (!next.has(id) && url) URL.revokeObjectURL(url);
  return next;
}

async function address(id) {
  try {
    return URL.createObjectURL(await latestImage(id));
  } catch (error) {
    if (error.status === 401 || error.status === 403) throw error;
    return null; // replaced by a newer one meanwhile
  }
}

function showGroups(groups, colours) {
  const found = groups.map(([name, all]) => [name, all.filter(one => kept.get(one.request_id))]);
  fill(byId("latest"), found.filter(([, all]) => all.length), makeGroup, (group, [name, all]) => {
    const [swatch, text] = group.firstElementChild.children;
    setColour(swatch, colours.get(name));
    setText(text, name);
    fill(group.lastElementChild, all, makePicture, showPicture);
  });
}

function makeGroup() {
  const group = make("div", { class: "exit-images" }), head = make("h3", { class: "exit" });
  head.append(make("i", { class: "swatch" }), make("span"));
  group.append(head, make("ul", { class: "pictures" }));
  return group;
}

function makePicture() {
  const item = make("li");
  item.append(make("img", { width: 96, height: 96 }), make("span"), make("small"));
  return item;
}

function showPicture(item, one) {
  const [image, label, sure] = item.children, name = String(one.class ?? one.prediction);
  const url = kept.get(one.request_id);
  if (image.src !== url) image.src = url;
  image.alt = `classified as ${name}`;
  setText(label, name);
  setText(sure, figure(one.confidence));
}
