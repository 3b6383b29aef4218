// Elements that are filled again and again: only what differs is touched, so that focus, selection
// and screen readers stay where they are. Texts of users are set as text, never as markup.

const SVG = "http://www.w3.org/2000/svg";

export const byId = id => document.getElementById(id);

export function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

export function setAttributes(element, attributes) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null) element.removeAttribute(name);
    else if (element.getAttribute(name) !== String(value)) element.setAttribute(name, value);
  }
}

export function make(tag, attributes = {}, text = "") {
  const element = document.createElement(tag);
  setAttributes(element, attributes);
  element.textContent = text;
  return element;
}

export function draw(tag, attributes = {}, text = "") {
  const element = document.createElementNS(SVG, tag);
  setAttributes(element, attributes);
  element.textContent = text;
  return element;
}

// As many children as there are items, made where there are too few, each filled with its item.
export function fill(parent, items, create, update) {
  while (parent.children.length > items.length) parent.lastElementChild.remove();
  items.forEach((item, index) => {
    if (index >= parent.children.length) parent.append(create(item));
    update(parent.children[index], item, index);
  });
}

// Rows of a table: every cell is a text, or a function that fills the cell. The first is its head.
export function fillRows(body, rows, classes = []) {
  const create = row => {
    const made = make("tr");
    row.forEach((_, column) => made.append(cell(column, classes[column])));
    return made;
  };
  fill(body, rows, create, (made, row) => row.forEach((content, column) => {
    if (typeof content === "function") content(made.children[column]);
    else setText(made.children[column], content);
  }));
}

function cell(column, kind) {
  const attributes = kind ? { class: kind } : {};
  return column === 0 ? make("th", { scope: "row", ...attributes }) : make("td", attributes);
}

// The name of an exit beside its colour.
export function exitName(element, name, colour) {
  if (!element.firstElementChild) {
    const holder = make("span", { class: "exit" });
    holder.append(make("i", { class: "swatch" }), make("span"));
    element.replaceChildren(holder);
  }
  const [swatch, text] = element.firstElementChild.children;
  setColour(swatch, colour);
  setText(text, name);
}

export function setColour(element, colour) {
  if (element.dataset.colour === colour) return;
  element.dataset.colour = colour;
  element.style.color = colour;
}
