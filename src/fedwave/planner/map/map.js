"use strict";
// The map: four axes, of which two are rows and columns and two are chosen; a panel about the cell pointed at.

const data = JSON.parse(document.getElementById("data").textContent);
const AXES = ["model", "method", "network", "device"];
const SIGNS = ["✕", "~", "✓", "–"];
const shape = AXES.map((axis) => data.axes[axis].length);
const byId = (id) => document.getElementById(id);

const WIDE = ["margin", "round_s", "energy_j", "up_bits", "down_bits", "memory", "trainable"], NARROW = ["verdict", "delivered", "downlink", "uplink"];
const packed = {};

async function unpack(name, kind) {
  const raw = Uint8Array.from(atob(data[name]), (c) => c.charCodeAt(0));
  const stream = new Blob([raw]).stream().pipeThrough(new DecompressionStream("deflate"));
  packed[name] = new kind(await new Response(stream).arrayBuffer());
}

// Position of a cell in arrays over the first `count` axes.
function place(at, count) {
  let index = 0;
  for (let k = 0; k < count; k++) index = index * shape[k] + at[k];
  return index;
}

function value(name, at, count) {
  const code = packed[name][place(at, count)];
  if (code === 0) return null;
  return code === 1 ? 0 : 10 ** (data.log[0] + (code - 1) * data.log[1]);
}

function si(number, unit) {
  if (number === null) return "–";
  if (number === 0) return `0 ${unit}`;
  const steps = [[1e12, "T"], [1e9, "G"], [1e6, "M"], [1e3, "k"], [1, ""], [1e-3, "m"], [1e-6, "µ"], [0, "n"]];
  const [size, prefix] = steps.find(([least]) => number >= 0.9995 * least);
  const scaled = number / (size || 1e-9);
  return `${scaled.toFixed(scaled >= 99.95 ? 0 : 1)} ${prefix}${unit}`;
}

function duration(seconds) {
  if (seconds === null || seconds < 59.95) return si(seconds, "s");
  const parts = [[86400, "d", 3600, "h"], [3600, "h", 60, "min"], [60, "min", 1, "s"]];
  const [size, name, small, smaller] = parts.find(([least, , step]) => Math.round(seconds / step) * step >= least);
  const steps = Math.round(seconds / small), each = size / small;
  return `${Math.floor(steps / each).toLocaleString("en")} ${name} ${steps % each} ${smaller}`;
}

const times = (margin) => (margin === null ? "–" : margin < 1e4 ? `${Number(margin.toPrecision(3))}×` : "over 10,000×");
const bytes = (bits) => si(bits === null ? null : bits / 8, "B");
const count = (number) => si(number, "").trim();

function look(at) {
  const code = packed.verdict[place(at, 4)];
  const verdict = code >> 5;
  return { verdict, bound: verdict === 3 ? "no such job" : data.bounds[code & 31] };
}

// What a cell can say.
const SAYS = {
  "what binds": (at) => look(at).bound,
  "margin": (at) => times(value("margin", at, 4)),
  "time of a round": (at) => duration(value("round_s", at, 4)),
  "time of all rounds": (at) => { const s = value("round_s", at, 4); return duration(s === null ? null : s * data.rounds); },
  "bytes up": (at) => bytes(value("up_bits", at, 4)),
  "energy": (at) => si(value("energy_j", at, 4), "J"),
  "memory": (at) => si(value("memory", at, 2), "B"),
};

const state = { rows: "model", columns: "network", says: "what binds", find: "", at: [0, 0, 0, 0], cell: null };
const prefer = { method: "lora", device: "phone", network: "5g-umi" };
AXES.forEach((axis, k) => { state.at[k] = Math.max(0, data.axes[axis].indexOf(prefer[axis])); });
if (shape[0] < 2 && shape[1] > 1) state.rows = "method";
if (shape[2] < 2) state.columns = shape[3] > 1 ? "device" : "method";
if (state.rows === state.columns) state.rows = "model";

function chooser(label, options, chosen, changed) {
  const box = document.createElement("label");
  box.textContent = label;
  const select = document.createElement("select");
  for (const [text, key] of options) select.add(new Option(text, key, false, key === chosen));
  select.addEventListener("change", () => changed(select.value));
  box.append(select);
  return box;
}

function choosers() {
  const holder = byId("choosers");
  const names = AXES.map((axis) => [`${axis}s`, axis]);
  const axis = (key, other) => (chosen) => {
    if (chosen === state[other]) state[other] = state[key];
    state[key] = chosen;
    all();
  };
  const boxes = [
    chooser("rows", names, state.rows, axis("rows", "columns")),
    chooser("columns", names, state.columns, axis("columns", "rows")),
  ];
  AXES.forEach((name, k) => {
    if (name === state.rows || name === state.columns) return;
    const options = data.axes[name].map((text, index) => [text, String(index)]);
    boxes.push(chooser(name, options, String(state.at[k]), (chosen) => { state.at[k] = Number(chosen); grid(); }));
  });
  boxes.push(chooser("each cell says", Object.keys(SAYS).map((key) => [key, key]), state.says, (key) => { state.says = key; grid(); }));
  const find = document.createElement("label");
  find.textContent = `find a ${state.rows}`;
  const input = document.createElement("input");
  input.type = "search";
  input.value = state.find;
  input.addEventListener("input", () => { state.find = input.value; grid(); });
  find.append(input);
  holder.replaceChildren(...boxes, find);
}

function heading(axis, index) {
  const th = document.createElement("th");
  th.textContent = data.axes[axis][index];
  if (axis === "model") {
    const small = document.createElement("small");
    small.textContent = count(data.parameters[index]);
    th.append(small);
  }
  if (axis === "method") th.title = data.what[index];
  return th;
}

function grid() {
  const r = AXES.indexOf(state.rows), c = AXES.indexOf(state.columns);
  const head = document.createElement("tr");
  const corner = document.createElement("th");
  corner.textContent = `${state.rows} \\ ${state.columns}`;
  head.append(corner);
  for (let j = 0; j < shape[c]; j++) {
    const th = heading(state.columns, j);
    th.scope = "col";
    head.append(th);
  }
  const body = document.createElement("tbody");
  const counted = [0, 0, 0, 0], wanted = state.find.trim().toLowerCase();
  for (let i = 0; i < shape[r]; i++) {
    if (wanted && !data.axes[state.rows][i].toLowerCase().includes(wanted)) continue;
    const row = document.createElement("tr");
    const th = heading(state.rows, i);
    th.scope = "row";
    row.append(th);
    for (let j = 0; j < shape[c]; j++) {
      const at = [...state.at];
      at[r] = i;
      at[c] = j;
      row.append(cell(at, counted));
    }
    body.append(row);
  }
  const top = document.createElement("thead");
  top.append(head);
  byId("grid").replaceChildren(top, body);
  const first = body.querySelector("td");
  if (first) first.tabIndex = 0;
  const jobs = counted[0] + counted[1] + counted[2];
  byId("share").textContent = jobs
    ? `Of the ${jobs.toLocaleString("en")} cells shown, ${Math.round((100 * counted[2]) / jobs)} % are suitable and ${Math.round((100 * counted[1]) / jobs)} % conditional.`
    : "No job is shown.";
}

function cell(at, counted) {
  const td = document.createElement("td"), { verdict, bound } = look(at);
  counted[verdict]++;
  td.className = `v${verdict}`;
  td.tabIndex = -1;
  td.at = at;
  const sign = document.createElement("i");
  sign.textContent = SIGNS[verdict];
  td.append(sign, verdict === 3 ? "" : SAYS[state.says](at));
  td.setAttribute("aria-label", `${data.verdicts[verdict]}, ${bound}`);
  return td;
}

function quoted(text) {
  return /^[\w./=:-]+$/.test(text) ? text : `'${text.replaceAll("'", "'\\''")}'`;
}

function command(at) {
  const [m, r, n, d] = at;
  const network = data.axes.network[n];
  const parts = [...data.task[m], ...data.overrides[r], ...(network === "job" ? [] : [`network="${network}"`]), `fleet.mix={"${data.axes.device[d]}" = 1.0}`];
  return `fedwave plan ${data.job} ${parts.map(quoted).join(" ")}`;
}

function panel(at) {
  const { verdict, bound } = look(at), names = AXES.map((axis, k) => data.axes[axis][at[k]]);
  const box = byId("says"), title = document.createElement("h2"), line = document.createElement("p");
  title.textContent = `${names[0]} · ${names[1]} · ${names[2]} · ${names[3]}`;
  line.className = "verdict";
  const tag = document.createElement("span");
  tag.textContent = `${SIGNS[verdict]} ${data.verdicts[verdict]}`;
  tag.style.background = `var(--v${verdict})`;
  line.append(tag, verdict === 3 ? "" : ` ${bound} binds`);
  const parts = [title, line];
  if (verdict === 3) {
    const why = document.createElement("p");
    why.textContent = data.refused[`${names[0]}|${names[1]}`] || "";
    parts.push(why);
  } else {
    parts.push(share(at), numbers(at));
    const pre = document.createElement("pre");
    pre.textContent = command(at);
    parts.push(pre);
  }
  box.replaceChildren(...parts);
}

function share(at) {
  const index = place(at, 4), down = packed.downlink[index] / 2, up = packed.uplink[index] / 2;
  const bar = document.createElement("div");
  bar.className = "bar-parts";
  bar.setAttribute("role", "img");
  bar.setAttribute("aria-label", `download ${down} %, computing ${100 - down - up} %, upload ${up} % of the round`);
  for (const [name, width] of [["downlink", down], ["compute", 100 - down - up], ["uplink", up]]) {
    const part = document.createElement("i");
    part.className = `part-${name}`;
    part.style.flexGrow = Math.max(width, 0);
    bar.append(part);
  }
  return bar;
}

function numbers(at) {
  const index = place(at, 4), round_s = value("round_s", at, 4);
  const down = packed.downlink[index] / 2, up = packed.uplink[index] / 2;
  const rows = [
    ["margin", times(value("margin", at, 4))],
    ["a round", duration(round_s)],
    ["down / compute / up", `${Math.round(down)} / ${Math.round(100 - down - up)} / ${Math.round(up)} %`],
    [`${data.rounds} rounds`, duration(round_s === null ? null : round_s * data.rounds)],
    ["payload up", bytes(value("up_bits", at, 4))],
    ["payload down", bytes(value("down_bits", at, 4))],
    ["energy of a client", `${si(value("energy_j", at, 4), "J")} a round`],
    ["memory at the peak", si(value("memory", at, 2), "B")],
    ["updates that count", `${Math.round(packed.delivered[index] / 2)} %`],
    ["trainable", count(value("trainable", at, 2))],
    ["parameters", count(data.parameters[at[0]])],
  ];
  const list = document.createElement("dl");
  for (const [name, text] of rows) {
    const dt = document.createElement("dt"), dd = document.createElement("dd");
    dt.textContent = name;
    dd.textContent = text;
    list.append(dt, dd);
  }
  return list;
}

function point(td) {
  if (!td || !td.at || td === state.cell) return;
  if (state.cell) state.cell.classList.remove("on");
  state.cell = td;
  td.classList.add("on");
  panel(td.at);
}

function walk(event) {
  const td = event.target.closest("td");
  const moves = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0], Home: [0, -1e9], End: [0, 1e9], PageUp: [-10, 0], PageDown: [10, 0] };
  const move = moves[event.key];
  if (!td || !move) return;
  event.preventDefault();
  const rows = byId("grid").tBodies[0].rows, near = (k, most) => Math.min(Math.max(k, 0), most);
  const row = rows[near(td.parentNode.rowIndex - 1 + move[0], rows.length - 1)];
  const next = row.cells[near(td.cellIndex + move[1], row.cells.length - 1) || 1];
  td.tabIndex = -1;
  next.tabIndex = 0;
  next.focus();
}

function all() {
  choosers();
  grid();
}

const table = byId("grid");
table.addEventListener("pointerover", (event) => { if (event.pointerType === "mouse") point(event.target.closest("td")); });
table.addEventListener("click", (event) => { const td = event.target.closest("td"); if (td) { td.focus(); point(td); } });
table.addEventListener("focusin", (event) => point(event.target.closest("td")));
table.addEventListener("keydown", walk);

const root = document.documentElement, dark = matchMedia("(prefers-color-scheme: dark)");
const theme = (name) => { root.dataset.theme = name; };
theme(dark.matches ? "dark" : "light");
dark.addEventListener("change", () => theme(dark.matches ? "dark" : "light"));
byId("theme").addEventListener("click", () => theme(root.dataset.theme === "dark" ? "light" : "dark"));
Promise.all([...WIDE.map((name) => unpack(name, Uint16Array)), ...NARROW.map((name) => unpack(name, Uint8Array))]).then(() => {
  all();
  root.dataset.drawn = "true";
});
