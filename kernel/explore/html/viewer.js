"use strict";

// The page shows one story: see type Story in kernel/explore for its shape. There is
// a position for the state before the first step and one after each step that is
// listed; everything on the page follows from the position.

const story = JSON.parse(document.getElementById("story").textContent);
const $ = (id) => document.getElementById(id);

// el makes an element with a class and children, which may be text.
function el(tag, cls, ...children) {
  const e = document.createElement(tag);
  if (cls) e.className = cls;
  e.append(...children.filter((c) => c !== "" && c != null));
  return e;
}

// ---- lanes

const isIRQ = (s) => Boolean(s.irq);
const laneOf = (s) => (s.cpu < 0 ? "device" : `CPU ${s.cpu}${isIRQ(s) ? " irq" : ""}`);

// lanesOf lists the lanes that have steps: each CPU, then its interrupts; devices last.
function lanesOf(steps) {
  const rank = (s) => (s.cpu < 0 ? Infinity : 2 * s.cpu + isIRQ(s));
  const found = new Map();
  for (const s of steps) {
    const name = laneOf(s);
    if (!found.has(name)) found.set(name, { name, rank: rank(s), irq: isIRQ(s), cpu: s.cpu, tasks: new Set() });
    if (s.cpu >= 0 && !isIRQ(s)) found.get(name).tasks.add(s.task);
  }
  return [...found.values()].sort((a, b) => a.rank - b.rank);
}

const laneColor = (cpu) => (cpu < 0 ? "var(--device)" : `var(--lane${cpu % 4})`);

// ---- the state

// stateAt returns the rows after so many of the story's steps: one Map of key -> cells
// for each panel.
function stateAt(steps) {
  const panels = (story.panels || []).map(() => new Map());
  const apply = (changes) => {
    for (const c of changes || []) {
      if (c.c) panels[c.p].set(c.k, c.c);
      else panels[c.p].delete(c.k);
    }
  };
  apply(story.start);
  for (let i = 0; i < steps; i++) apply(story.steps[i].changes);
  return panels;
}

// restless are the rows that some step changes.
const restless = (story.panels || []).map(() => new Set());
for (const s of story.steps) for (const c of s.changes || []) restless[c.p].add(c.k);

// ---- what the reader has chosen

let listed = []; // indices of the steps that are listed
let position = 0; // 0 is before the first of them
let items = []; // their list items

function choose(steps) {
  const at = position > 0 ? listed[position - 1] : -1;
  listed = steps;
  position = steps.filter((i) => i <= at).length;
  $("slider").max = listed.length;
  drawLanes();
  show(position);
}

function drawLanes() {
  const steps = listed.map((i) => story.steps[i]);
  const lanes = lanesOf(steps);
  const at = new Map(lanes.map((l, i) => [l.name, i + 1]));
  const box = $("lanes");
  box.style.setProperty("--columns", lanes.map((l) => `minmax(0, ${l.irq || l.cpu < 0 ? 2 : 3}fr)`).join(" "));
  const heads = el("div", "heads");
  for (const l of lanes) {
    const h = el("span", "", l.name, el("small", "", [...l.tasks].join(", ")));
    h.style.setProperty("--lane", laneColor(l.cpu));
    heads.append(h);
  }
  const list = el("ol", "steps");
  const lastTask = new Map();
  let last = null;
  items = steps.map((s, i) => {
    const lane = laneOf(s);
    const fresh = !last || laneOf(last) !== lane || last.func !== s.func || last.task !== s.task;
    const name = (isIRQ(s) ? `<IRQ> ${s.func}` : s.func) + (s.cpu >= 0 && !isIRQ(s) && lastTask.get(lane) !== s.task ? ` [${s.task}]` : "");
    lastTask.set(lane, s.task);
    const b = el("button", "step",
      fresh ? el("span", "chip", lane) : "",
      fresh ? el("span", "fn", name) : "",
      el("span", "n", `${s.n}`), s.preempts ? el("span", "turn", "*") : "", " ", s.text);
    b.type = "button";
    b.addEventListener("click", () => show(i + 1));
    const item = el("li", isIRQ(s) ? "irq" : "", b);
    item.style.setProperty("--lane", laneColor(s.cpu));
    item.style.setProperty("--at", at.get(lane));
    list.append(item);
    last = s;
    return item;
  });
  box.replaceChildren(heads, list);
}

// ---- panels

const panelBoxes = (story.panels || []).map((p, i) => {
  const note = el("small", ""), body = el("div", "");
  const d = el("details", "panel", el("summary", "", p.title, note), body);
  d.open = true;
  d.dataset.panel = p.id;
  $("panels").append(d);
  return { note, body };
});

function drawPanel(i, now, was) {
  const p = story.panels[i];
  const keys = [...new Set([...now.keys(), ...was.keys()])].sort();
  const visible = keys.filter((k) => $("all").checked || restless[i].has(k));
  const rows = [];
  let news = 0;
  for (const k of visible) {
    const a = was.get(k), b = now.get(k);
    const row = el("tr", !a ? "new" : !b ? "gone" : "");
    row.dataset.key = k;
    const cells = b || a;
    cells.forEach((text, c) => {
      const moved = a && b && a[c] !== b[c];
      const td = el("td", "", ...(moved && a[c] !== "" ? [el("del", "", a[c]), " ", el("ins", "", text)] : [text]));
      td.dataset.col = p.columns[c];
      td.dataset.now = b ? text : "";
      td.classList.toggle("changed", Boolean(moved));
      td.classList.toggle("name", c < p.names);
      td.classList.toggle("stale", text.startsWith("stale"));
      row.append(td);
    });
    if (!a || !b || a.some((t, c) => t !== b[c])) news++;
    rows.push(row);
  }
  const { note, body } = panelBoxes[i];
  note.replaceChildren(news ? el("span", "news", `${news} changed`) : "");
  if (!rows.length) {
    body.replaceChildren(el("p", "none", keys.length ? `${keys.length} rows, none of which ever changes` : "nothing"));
    return;
  }
  const head = el("tr", "", ...p.columns.map((c) => { const th = el("th", "", c); th.scope = "col"; return th; }));
  body.replaceChildren(el("table", "", el("thead", "", head), el("tbody", "", ...rows)));
}

// ---- moving about

function show(pos) {
  position = Math.max(0, Math.min(pos, listed.length));
  const s = position > 0 ? story.steps[listed[position - 1]] : null;
  $("slider").value = position;
  $("slider").setAttribute("aria-valuetext", s ? `step ${s.n}, ${laneOf(s)}, ${s.func}` : "before the first step");
  $("back").disabled = position === 0;
  $("forth").disabled = position === listed.length;
  document.body.dataset.step = s ? s.n : 0;
  if (s) {
    const callers = (s.stack || []).slice(1, 5).filter((f) => f !== s.func);
    $("where").replaceChildren(
      el("b", "", `Step ${s.n} of ${story.steps.length}`), ` ${laneOf(s)}, ${s.task}: `,
      el("b", "", `${s.func}${s.user || s.cpu < 0 ? "" : "()"}`), ` ${s.text}`,
      s.hook ? ` (policy: ${s.hook})` : "",
      callers.length ? el("span", "callers", ` \u2190 ${callers.join(" \u2190 ")}`) : "");
  } else {
    $("where").replaceChildren("Before the first step.");
  }
  items.forEach((it, i) => {
    it.className = (isIRQ(story.steps[listed[i]]) ? "irq" : "") + (i >= position ? " later" : "");
    const b = it.querySelector("button");
    if (i === position - 1) b.setAttribute("aria-current", "step");
    else b.removeAttribute("aria-current");
  });
  scrollTo(items[position - 1]);
  const now = stateAt(position > 0 ? listed[position - 1] + 1 : 0);
  const was = position > 0 ? stateAt(position > 1 ? listed[position - 2] + 1 : 0) : now;
  panelBoxes.forEach((_, i) => drawPanel(i, now[i], was[i]));
  try {
    history.replaceState(null, "", `#${s ? s.n : 0}`);
  } catch (e) { /* some viewers forbid it for files */ }
}

// scrollTo brings an item into view in its box, without moving the page.
function scrollTo(item) {
  const box = $("lanes");
  if (!item) {
    box.scrollTop = 0;
    return;
  }
  const top = item.offsetTop, head = box.querySelector(".heads").offsetHeight;
  if (top - head < box.scrollTop) box.scrollTop = top - head - 8;
  else if (top + item.offsetHeight > box.scrollTop + box.clientHeight) box.scrollTop = top + item.offsetHeight - box.clientHeight + 8;
}

// turn goes to the next step at which somebody else acts, or to the previous one.
function turn(by) {
  let i = position + by;
  const lane = (k) => (k > 0 ? laneOf(story.steps[listed[k - 1]]) : "");
  while (i > 0 && i < listed.length && lane(i) === lane(i - 1)) i += by;
  show(i);
}

$("slider").addEventListener("input", () => show(Number($("slider").value)));
$("back").addEventListener("click", () => show(position - 1));
$("forth").addEventListener("click", () => show(position + 1));
$("all").addEventListener("change", () => show(position));
$("every").addEventListener("change", chosen);

function chosen() {
  choose(story.steps.map((_, i) => i).filter((i) => $("every").checked || story.steps[i].shown));
}

document.addEventListener("keydown", (e) => {
  const move = { ArrowLeft: -1, ArrowRight: 1 }[e.key];
  if (e.ctrlKey || e.metaKey || e.altKey) return;
  if (move && e.shiftKey) turn(move);
  else if (move) show(position + move);
  else if (e.key === "Home") show(0);
  else if (e.key === "End") show(listed.length);
  else return;
  e.preventDefault(); // the slider's own keys too: they would move it twice
});

// ---- the beginning

$("verdict").className = story.verdict === "safe" ? "safe" : "";
$("verdict").append(el("b", "", story.verdict), story.detail ? `: ${story.detail.split("\n")[0]}` : "");
if (story.legend) {
  $("legend").textContent = story.legend;
  $("legend").hidden = false;
}
if (!story.steps.some((s) => s.shown)) $("every").checked = true;
const asked = Number(location.hash.slice(1));
chosen();
show(asked > 0 ? listed.filter((i) => story.steps[i].n <= asked).length : Math.min(1, listed.length));
