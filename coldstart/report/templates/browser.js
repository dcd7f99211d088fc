// The sample browser of a report. It finds what the filters ask for in an index, unpacks only the
// texts that it shows or searches, and draws ten cases at a time. What a model wrote becomes text
// nodes and nothing else. The form is the whole state; the address after `#samples?` repeats it.
"use strict";
(() => {
  const EACH = 10; // cases on a page
  const SLICE = 12; // milliseconds of searching before the page may answer its reader
  const CHANGES = ["missed", "gained", "lost", "kept"]; // by right before × 2 + right after
  const [TEXT, BOX, GAP] = [0, 1, 2]; // roles of a response's pieces

  const byId = (id) => document.getElementById(id);
  const index = JSON.parse(byId("sample-index").textContent);
  const { cases, answers } = index;
  const names = index.checkpoints.map(([name]) => name);
  const right = index.outcomes.indexOf("correct");
  const root = byId("browser");
  const form = root.querySelector("form");
  const all = form.querySelector("button");
  const pager = root.querySelector(".pager");

  const number = (value) => value.toLocaleString("en");
  const words = (text) => text.replaceAll("_", " ");

  // What the filters say

  const defaults = { from: names[0], to: names.at(-1) };

  function filters() {
    const said = new Map([...new FormData(form)].filter(([, value]) => value !== ""));
    return new Map([...Object.entries(defaults), ...said]);
  }

  function address() {
    const said = [...filters()].filter(([name, value]) => defaults[name] !== value);
    return said.length ? `#samples?${new URLSearchParams(said)}` : "#samples";
  }

  function fill(said) {
    form.reset();
    for (const field of form.elements) {
      const value = said.get(field.name) ?? defaults[field.name];
      if (value === undefined || value === null) continue;
      if (field.type === "radio") field.checked = field.value === value;
      else if (field.tagName !== "SELECT") field.value = value;
      else if ([...field.options].some((option) => option.value === value)) field.value = value;
    }
    if (!form.querySelector("[name=change]:checked")) form.querySelector("[name=change]").checked = true;
  }

  // Which cases they mean

  function tests(said) {
    const to = answers[names.indexOf(said.get("to"))];
    const made = [];
    const when = (name, test) => said.has(name) && made.push(test(said.get(name)));
    when("benchmark", (value) => equals(cases.benchmark, index.benchmarks.indexOf(value)));
    when("verdict", (value) => equals(to.outcome, index.outcomes.indexOf(value)));
    when("reflects", (value) => (at) => (to.words[at].length > 0) === (value === "yes"));
    when("matchers", (value) => (at) => to.other[at] >= 0 && MATCHERS[value](to, at));
    index.facets.forEach(([name, values], place) =>
      when(name, (value) => equals(cases.facets[place], values.indexOf(value))));
    return made;
  }

  const equals = (column, value) => (at) => column[at] === value;
  const agree = (of, at) => (of.outcome[at] === right) === (of.other[at] === right);
  const MATCHERS = {
    agree,
    differ: (of, at) => !agree(of, at),
    first: (of, at) => of.outcome[at] === right && of.other[at] !== right,
    second: (of, at) => of.outcome[at] !== right && of.other[at] === right,
  };

  function change(said, at) {
    const [before, after] = ["from", "to"].map((end) => answers[names.indexOf(said.get(end))]);
    return CHANGES[(before.outcome[at] === right) * 2 + (after.outcome[at] === right)];
  }

  // The texts, unpacked when they are needed

  const blocks = new Map();

  function block(place) {
    if (!blocks.has(place)) blocks.set(place, unpacked(byId(`sample-texts-${place}`).textContent));
    return blocks.get(place);
  }

  async function unpacked(packed) {
    const bytes = Uint8Array.from(atob(packed), (letter) => letter.charCodeAt(0));
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
    return JSON.parse(await new Response(stream).text());
  }

  async function texts(at) {
    return (await block(Math.floor(at / index.block)))[at % index.block];
  }

  // Searching them

  const pause = () => new Promise((resolve) => { setTimeout(resolve); });

  async function found(query, candidates, current) {
    if (query.startsWith("id:")) return candidates.filter((at) => cases.id[at] === query.slice(3).trim());
    const pattern = new RegExp(query.replace(/[\\^$.*+?()[\]{}|/]/g, "\\$&"), "iu");
    const made = [];
    let began = performance.now();
    for (const at of candidates) {
      const [[problem, gold, choices], said] = await texts(at);
      const pieces = [problem, gold, ...choices, ...said.flatMap(([parts]) => [parts.map(([text]) => text).join("")])];
      if (pieces.some((text) => pattern.test(text))) made.push(at);
      if (performance.now() - began < SLICE) continue;
      await pause();
      if (!current()) return [];
      began = performance.now();
    }
    return made;
  }

  // Drawing

  function element(tag, attributes = {}, ...content) {
    const made = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
    made.append(...content.filter((part) => part !== ""));
    return made;
  }

  function picture(place, id) {
    const source = byId(`sample-image-${place}`);
    const { width, height } = source.dataset;
    const made = element("img", { alt: `Image of problem ${id}`, width, height });
    if (Math.max(width, height) < 160) made.className = "tiny";
    made.src = source.textContent;
    return made;
  }

  function question(at, [problem, gold, choices, images, missing]) {
    const id = cases.id[at];
    const benchmark = index.benchmarks[cases.benchmark[at]];
    const which = cases.number[at] ? `, response ${cases.number[at] + 1}` : "";
    const link = `#samples?${new URLSearchParams({ benchmark, q: `id:${id}` })}`;
    return element("div", { class: "question" },
      ...images.map((place) => picture(place, id)),
      missing ? element("div", { class: "no-image" },
        `${missing} ${missing === 1 ? "image is" : "images are"} not shown: missing or no room`) : "",
      element("p", {}, problem),
      choices.length ? element("p", { class: "small" }, choices.join(" · ")) : "",
      element("p", { class: "small" }, "Gold answer: ", element("code", {}, gold), element("br"),
        element("a", { href: link }, `${benchmark}, problem ${id}${which}`), facts(at)));
  }

  function facts(at) {
    const said = index.facets.map(([name, values], place) => {
      const value = values[cases.facets[place][at]] ?? "";
      return /^\d/.test(value) ? `${words(name)} ${value}` : value;
    });
    return said.filter(Boolean).map((fact) => ` · ${fact}`).join("");
  }

  function answer(at, place, [parts, extracted]) {
    const of = answers[place];
    const [name, label] = index.checkpoints[place];
    const outcome = of.outcome[at];
    const verdict = outcome === right ? ["verdict-right", "✓ right"]
      : ["verdict-wrong", `✗ ${words(index.outcomes[outcome])}`];
    const reflecting = of.words[at].map((word) => index.words[word]);
    return element("div", { class: `answer c-${name}` },
      element("div", { class: "top" }, element("b", {}, label), element("span", { class: verdict[0] }, verdict[1])),
      element("div", { class: "said", tabindex: "0", role: "region", "aria-label": `Response of ${label}` },
        ...parts.map(piece), parts.some(([text]) => text) ? "" : gap("empty response")),
      element("div", { class: "small" },
        extracted === null ? "no answer found" : "answer read: ",
        extracted === null ? "" : element("code", {}, extracted),
        ` · ${number(of.tokens[at])} tokens${of.truncated[at] ? ", truncated" : ""}`,
        reflecting.length ? ` · reflects: ${reflecting.join(", ")}` : "",
        of.other[at] >= 0 && !agree(of, at)
          ? element("span", { class: "differs" }, ` · ${index.matchers[1]}: ${words(index.outcomes[of.other[at]])}`) : ""));
  }

  const gap = (text) => element("span", { class: "gap" }, text);

  function piece([text, role]) {
    if (role === BOX) return element("mark", {}, text);
    return role === GAP ? gap(`… ${text} …`) : text;
  }

  async function card(at) {
    const [asked, said] = await texts(at);
    return element("article", { class: "case", "aria-label": `Problem ${cases.id[at]}` },
      question(at, asked),
      element("div", { class: "answers" }, ...said.map((given, place) => answer(at, place, given))));
  }

  function count(said, candidates) {
    const counts = { "": candidates.length, missed: 0, gained: 0, lost: 0, kept: 0 };
    for (const at of candidates) counts[change(said, at)] += 1;
    for (const shown of form.querySelectorAll("[data-count]")) {
      shown.textContent = number(counts[shown.dataset.count]);
    }
  }

  let turn = 0; // of several draws that overlap only the latest counts

  async function draw() {
    const mine = ++turn;
    const current = () => mine === turn;
    const said = filters();
    const wanted = tests(said);
    let chosen = cases.id.map((_, at) => at).filter((at) => wanted.every((test) => test(at)));
    const query = (said.get("q") ?? "").trim();
    root.setAttribute("aria-busy", "true");
    const label = index.checkpoints[names.indexOf(said.get("to"))][1];
    for (const place of form.querySelectorAll("[data-to]")) place.textContent = label;
    if (query) {
      byId("found").textContent = "searching…";
      chosen = await found(query, chosen, current);
    }
    if (!current()) return;
    count(said, chosen);
    if (said.has("change")) chosen = chosen.filter((at) => change(said, at) === said.get("change"));
    const pages = Math.max(1, Math.ceil(chosen.length / EACH));
    const page = Math.min(Math.max(1, Number.parseInt(said.get("page") ?? "1", 10) || 1), pages);
    const cards = await Promise.all(chosen.slice((page - 1) * EACH, page * EACH).map(card));
    if (!current()) return;
    byId("found-cases").replaceChildren(...cards);
    byId("found").textContent = chosen.length ? `${number(chosen.length)} of ${number(cases.id.length)} found`
      : "None of the responses fits these filters.";
    all.disabled = address() === "#samples";
    byId("page-number").textContent = `page ${number(page)} of ${number(pages)}`;
    form.elements.page.value = page > 1 ? page : "";
    pager.hidden = pages === 1;
    pager.querySelector("[data-step='-1']").disabled = page === 1;
    pager.querySelector("[data-step='1']").disabled = page === pages;
    root.removeAttribute("aria-busy");
  }

  // What the reader does

  function changed() {
    form.elements.page.value = "";
    history.replaceState(null, "", address());
    draw();
  }

  function followed() {
    if (!location.hash.startsWith("#samples?")) return;
    fill(new URLSearchParams(location.hash.slice("#samples?".length)));
    draw();
    byId("samples").scrollIntoView();
  }

  let typing;
  form.addEventListener("input", (event) => {
    clearTimeout(typing);
    if (event.target.name === "q") typing = setTimeout(changed, 200);
    else changed();
  });
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    clearTimeout(typing);
    changed();
  });
  all.addEventListener("click", () => { fill(new Map()); changed(); });
  pager.addEventListener("click", (event) => {
    const step = Number(event.target.dataset.step);
    if (!step) return;
    form.elements.page.value = (Number(form.elements.page.value) || 1) + step;
    history.replaceState(null, "", address());
    draw().then(() => byId("found-cases").scrollIntoView());
  });
  document.addEventListener("click", (event) => {
    const link = event.target.closest("[data-filter]");
    if (!link) return;
    event.preventDefault();
    location.hash = `samples?${link.dataset.filter}`;
  });
  addEventListener("hashchange", followed);

  root.hidden = false;
  if (!window.DecompressionStream) {
    byId("found").textContent = "This web browser is too old to unpack the samples.";
    return;
  }
  fill(new Map());
  if (location.hash.startsWith("#samples?")) followed();
  else draw();
})();
