"use strict";
(() => {
  const SVG = "http://www.w3.org/2000/svg";
  const { exits, budgets } = JSON.parse(document.getElementById("steps-data").textContent);
  const section = document.getElementById("steps");
  const find = (selector) => section.querySelector(selector);
  const slider = find("#step");
  const news = find("#step-news");
  const extent = find(".extent");
  const lost = find(".lost");
  const fields = [...section.querySelectorAll("[data-text]")];
  const markers = [...document.querySelectorAll("svg[data-x]")].map(markerOn);
  let budget = budgets[0];
  let announcement = 0;
  let announced = "";

  function element(tag, kind, ...inside) {
    const made = document.createElement(tag);
    if (kind) made.className = kind;
    made.append(...inside);
    return made;
  }

  /* Where values of an axis lie, in pixels from its low end: "low high length", then "log" or not. */
  function axisOf(text) {
    const [low, high, length, scale] = text.split(" ");
    const flat = scale === "log" ? Math.log10 : Number;
    const start = flat(low);
    const size = Number(length);
    return (value) => (size * (flat(value) - start)) / (flat(high) - start);
  }

  /* A ring at the step, with its 95 % interval; it is hidden where it is out of the frame. */
  function markerOn(chart) {
    const [x, y] = [axisOf(chart.dataset.x), axisOf(chart.dataset.y)];
    const [width, height] = [chart.dataset.x, chart.dataset.y].map((one) => Number(one.split(" ")[2]));
    const group = document.createElementNS(SVG, "g");
    group.setAttribute("class", "here");
    const parts = ["path", "circle", "circle"].map((tag) => document.createElementNS(SVG, tag));
    const [bar, ring, core] = parts;
    bar.setAttribute("class", "bar");
    for (const one of [bar, ring]) one.setAttribute("stroke", "currentColor");
    ring.setAttribute("class", "ring");
    ring.setAttribute("r", "8");
    core.setAttribute("class", "core");
    core.setAttribute("r", "4");
    core.setAttribute("fill", "currentColor");
    group.append(...parts);
    chart.firstElementChild.append(group);
    const inside = (value, size) => Math.min(Math.max(value, 0), size);
    return (step) => {
      const [left, up] = [x(step.cost), y(-step.drop)];
      const [top, bottom] = step.ends.map((end) => inside(y(-end), height) - up);
      const shown = left >= 0 && left <= width && up >= 0 && up <= height;
      group.style.display = shown ? "" : "none";
      group.setAttribute("transform", `translate(${left.toFixed(1)} ${(height - up).toFixed(1)})`);
      bar.setAttribute("d", `M0 ${(-top).toFixed(1)}V${(-bottom).toFixed(1)}`);
      core.style.display = step.proved ? "" : "none";
    };
  }

  function stageRow([exit, rule, , percent]) {
    const { name, tint } = exits[exit];
    const label = element("span", "exit", element("i", `swatch ${tint}`), name);
    return element("li", "", label, " ", element("span", "rule", rule), " ", element("strong", "", percent));
  }

  function stackPart([exit, , share]) {
    const part = element("i", exits[exit].tint);
    part.style.flexGrow = share;
    return part;
  }

  function classRow([name, samples, gap, interval]) {
    const label = element("span", "", name, " ", element("small", "", samples));
    return element("li", "", label, " ", element("strong", "", gap), " ", element("small", "", interval));
  }

  function show() {
    const step = budget.steps[slider.valueAsNumber];
    for (const one of fields) one.textContent = step.texts[one.dataset.text];
    slider.setAttribute("aria-valuetext", step.texts.spoken);
    find(".step").classList.toggle("proved", step.proved);
    find(".stack").replaceChildren(...step.stages.map(stackPart));
    find(".stages").replaceChildren(...step.stages.map(stageRow));
    if (lost) {
      lost.hidden = !step.classes.length;
      lost.querySelector("ul").replaceChildren(...step.classes.map(classRow));
    }
    for (const move of markers) move(step);
    announce(step.texts.proof);
  }

  /* Only a change of the proof is announced, once the slider rests: it says the figures itself. */
  function announce(proof) {
    clearTimeout(announcement);
    announcement = setTimeout(() => {
      if (proof !== announced) news.textContent = announced = proof;
    }, 700);
  }

  function choose(number) {
    budget = budgets[number];
    const last = budget.steps.length - 1;
    slider.max = last;
    slider.value = budget.start;
    section.style.setProperty("--stages", budget.rows);
    if (extent) {
      extent.hidden = !budget.frozen;
      extent.style.setProperty("--proved", last ? Math.max(budget.proved - 0.5, 0) / last : 0);
      extent.classList.toggle("none", !budget.proved);
      extent.classList.toggle("all", budget.proved > last);
    }
    announced = budget.steps[budget.start].texts.proof;
    show();
  }

  slider.addEventListener("input", show);
  for (const one of section.querySelectorAll("[name=budget]")) {
    one.addEventListener("change", () => choose(Number(one.value)));
  }
  section.classList.add("live");
  for (const one of section.querySelectorAll(".slider")) one.hidden = false;
  for (const one of document.querySelectorAll("li.here")) one.hidden = false;
  choose(Number(find("[name=budget]:checked")?.value ?? 0));
})();
