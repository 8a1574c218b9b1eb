"use strict";
(() => {
  const byId = (id) => document.getElementById(id);
  const data = JSON.parse(byId("data").textContent);
  const root = document.documentElement;
  const state = { run: 0, metric: null, place: 0, colour: "sinr" };
  const run = () => data.runs[state.run];
  const narrow = () => window.innerWidth < 700;
  const css = (name) => getComputedStyle(root).getPropertyValue(name).trim();

  // Okabe & Ito's colours, told apart with any colour vision; the last of a series differs by its dash too.
  const SERIES = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9"];
  const DASHES = ["solid", "dash", "dot", "dashdot"];
  const seriesColour = (index) => (index === 0 && root.dataset.theme === "dark" ? "#3d9fe0" : SERIES[index % SERIES.length]);
  const seriesDash = (index) => DASHES[Math.floor(index / SERIES.length) % DASHES.length];
  const REASON = {
    deadline: "#d55e00", deadline_rate: "#d55e00", deadline_compute: "#f3a266", deadline_access: "#a04a10", access: "#999933", outage: "#cc79a7", missed_broadcast: "#56b4e9", memory: "#009e73", battery: "#e69f00",
    radio_link_failure: "#8c6bb1", refused: "#0072b2", quorum: "#7f8c99", not_finite: "#b22222",
  };
  const PARTS = [["downlink", "download"], ["compute", "compute"], ["uplink", "upload"], ["server", "server"]];
  const SYMBOLS = ["circle", "square", "diamond", "triangle-up", "pentagon", "star", "cross", "hexagon"];
  const SIGNS = ["●", "■", "◆", "▲", "⬟", "★", "✚", "⬢"];

  // ---- numbers for people -----------------------------------------------------------------------------------------
  const PREFIXES = [[1e12, "T"], [1e9, "G"], [1e6, "M"], [1e3, "k"], [1, ""], [1e-3, "m"], [1e-6, "µ"], [1e-9, "n"]];
  const prefix = (size) => PREFIXES.find(([factor]) => size >= 0.9995 * factor) || PREFIXES[PREFIXES.length - 1];
  const si = (value, unit) => {
    if (value === null || value === undefined) return "–";
    if (value === 0) return `0 ${unit}`;
    const [factor, letter] = prefix(Math.abs(value));
    return `${(value / factor).toPrecision(3)} ${letter}${unit}`;
  };
  const seconds = (value) => {
    if (value === null || value < 60) return si(value, "s");
    const [size, big, small] = value < 3600 ? [60, "min", "s"] : value < 86400 ? [3600, "h", "min"] : [86400, "d", "h"];
    const step = { s: 1, min: 60, h: 3600 }[small];
    const all = Math.round(value / step);
    return `${Math.floor((all * step) / size)} ${big} ${all % (size / step)} ${small}`;
  };
  const grouped = (count) => String(count).replace(/\B(?=(\d{3})+$)/g, "\u202f");
  const largest = (lists) => lists.reduce((most, list) => list.reduce((m, v) => (v > m ? v : m), most), 0);
  const unitScale = (unit) => (most) => { const [factor, letter] = prefix(most || 1); return [factor, letter + unit]; };
  const timeScale = (most) => [[86400, "days"], [3600, "h"], [60, "min"]].find(([size]) => most >= 3 * size) || unitScale("s")(2 * most);
  const words = (name) => name.replace("deadline_", "deadline: ").replaceAll("_", " ");

  // ---- figures ----------------------------------------------------------------------------------------------------
  const axis = (title, more) => ({
    title: { text: title, font: { size: 12 }, standoff: 8 }, gridcolor: css("--line"), zerolinecolor: css("--line"), linecolor: css("--line"),
    tickfont: { size: 11 }, automargin: true, ...more,
  });
  const layout = (more) => ({
    font: { family: getComputedStyle(document.body).fontFamily, color: css("--soft"), size: 12 },
    paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", showlegend: false, margin: { l: 52, r: 14, t: 10, b: 42 },
    hoverlabel: { bgcolor: css("--card"), bordercolor: css("--line"), font: { color: css("--ink"), size: 12 } },
    dragmode: narrow() ? false : "zoom", ...more,
  });
  const config = () => ({
    responsive: true, displaylogo: false, displayModeBar: narrow() ? false : "hover",
    modeBarButtons: [["toImage", "zoom2d", "pan2d", "resetScale2d"]], toImageButtonOptions: { format: "svg", filename: "fedwave" },
  });
  const drawing = [];
  const show = (id, summary, traces, more) => {
    const place = byId(id), figure = place.closest("figure");
    figure.hidden = traces === null;
    if (traces === null) { Plotly.purge(place); return Promise.resolve(); }
    place.setAttribute("role", "img");
    place.setAttribute("aria-label", summary);
    // Once it is known which figures beside it are hidden, so that it fills the room they leave.
    const drawn = Promise.resolve().then(() => Plotly.react(place, traces, layout(more), config()));
    drawing.push(drawn);
    return drawn;
  };
  const legend = (list, entries) => {
    list.replaceChildren(...entries.map(([colour, text, kind]) => {
      const item = document.createElement("li"), sign = document.createElement("i");
      if (kind && kind.length === 1) { sign.className = "sign"; sign.textContent = kind; sign.style.color = colour; }
      else if (kind) { sign.className = "line"; sign.style.borderColor = colour; sign.style.borderTopStyle = { dot: "dotted", dash: "dashed", dashdot: "dashed" }[kind] || "solid"; }
      else sign.style.background = colour;
      item.append(sign, text);
      return item;
    }));
  };
  const legendOf = (name, entries) => legend(document.querySelector(`[data-legend="${name}"]`), entries);

  // ---- learning ---------------------------------------------------------------------------------------------------
  const metrics = [...new Set(data.groups.flatMap((group) => Object.keys(group.curves)))];
  const metricTitle = () => (state.metric === "training loss" ? "training loss" : `held-out ${words(state.metric || "")}`);

  function learning() {
    const groups = data.groups.map((group, index) => ({ ...group, index, curve: group.curves[state.metric] })).filter((g) => g.curve);
    legend(byId("groups"), data.groups.length > 1 ? data.groups.map((g, i) => [seriesColour(i), g.label, seriesDash(i)]) : []);
    document.querySelectorAll(".swatch").forEach((swatch) => { swatch.style.background = seriesColour(Number(swatch.dataset.series)); });
    for (const [id, key, scale, title] of [
      ["f-time", "time", timeScale, "simulated time"], ["f-bytes", "bytes", unitScale("B"), "uplink"], ["f-joules", "joules", unitScale("J"), "energy"],
    ]) {
      const [factor, unit] = scale(largest(groups.map((g) => g.curve[key])));
      const traces = groups.flatMap(({ curve, index, label, seeds }) => {
        const x = curve[key].map((v) => v / factor), colour = seriesColour(index);
        const line = {
          x, y: curve.y, name: label, mode: x.length > 60 ? "lines" : "lines+markers", line: { color: colour, width: 2.2, dash: seriesDash(index) },
          marker: { size: 5 }, customdata: curve.round, hovertemplate: `%{y:.4g} after %{customdata} rounds<br>%{x:.4g} ${unit}<extra>${data.groups.length > 1 ? label : ""}</extra>`,
        };
        if (seeds.length < 2) return [line];
        const band = { x: [...x, ...x.toReversed()], y: [...curve.high, ...curve.low.toReversed()], fill: "toself", fillcolor: colour + "2e", line: { width: 0 }, mode: "lines", hoverinfo: "skip" };
        return [band, line];
      });
      show(id, `${metricTitle()} against ${title}`, groups.length ? traces : null, {
        xaxis: axis(`${title} (${unit})`, { rangemode: "tozero" }), yaxis: axis(key === "time" || narrow() ? metricTitle() : ""),
      });
    }
  }

  function metricButtons() {
    const box = byId("metrics");
    byId("learning-none").hidden = metrics.length > 0;
    state.metric = metrics.includes("accuracy") ? "accuracy" : metrics[0] || null;
    box.replaceChildren(...metrics.map((name) => {
      const button = document.createElement("button");
      button.type = "button"; button.value = name; button.textContent = words(name);
      return button;
    }));
    pressed(box, state.metric);
    box.addEventListener("click", ({ target }) => { if (target.value) { state.metric = target.value; pressed(box, target.value); learning(); } });
  }
  const pressed = (box, value) => box.querySelectorAll("button").forEach((b) => b.setAttribute("aria-pressed", String(b.value === value)));

  // ---- by round ---------------------------------------------------------------------------------------------------
  const binNames = (rounds) => rounds.round.map((first, i) => (rounds.width > 1 ? `rounds ${first}–${rounds.last[i]}` : `round ${first}`));
  const roundAxis = () => {
    const { round } = run().rounds;
    return axis("round", { rangemode: "tozero", tickformat: "d", dtick: round.at(-1) - round[0] < 6 ? 1 : undefined });
  };
  const bars = (rounds, name, colour, y, hover) => ({
    type: "bar", x: rounds.round, y, name, marker: { color: colour, line: { width: 0 } }, width: rounds.round.length > 60 ? rounds.width : undefined,
    customdata: binNames(rounds), hovertemplate: `%{customdata}<br>${hover}<extra>${name}</extra>`,
  });

  function path() {
    const { rounds } = run();
    const ends = rounds.round.map((_, i) => PARTS.reduce((sum, [part]) => sum + rounds.path[part][i], 0));
    const parts = PARTS.filter(([part]) => rounds.path[part].some((v, i) => v > 5e-4 * ends[i]));
    const [factor, unit] = timeScale(largest([ends]));
    byId("path-bins").textContent = rounds.width > 1 ? `(means over ${rounds.width} rounds)` : "";
    legendOf("path", parts.map(([part, name]) => [css(`--${part}`), name]));
    const drawn = show("f-path", "seconds of the critical path by round, by part", parts.length ? parts.map(([part, name]) =>
      bars(rounds, name, css(`--${part}`), rounds.path[part].map((v) => v / factor), `%{y:.4g} ${unit}`)) : null,
    { barmode: "stack", bargap: rounds.round.length > 60 ? 0 : 0.15, xaxis: roundAxis(), yaxis: axis(`round time (${unit})`, { rangemode: "tozero" }) });
    const place = byId("f-path");
    drawn.then(() => {
      if (place.removeAllListeners) place.removeAllListeners("plotly_click");
      if (place.on) place.on("plotly_click", ({ points }) => nearestRound(points[0].x));
    });
  }

  function losses() {
    const { rounds } = run(), reasons = Object.keys(rounds.lost);
    legendOf("lost", reasons.map((name) => [REASON[name] || css("--soft"), words(name)]));
    show("f-lost", "lost updates by round, by reason", reasons.length ? reasons.map((name) =>
      bars(rounds, words(name), REASON[name] || css("--soft"), rounds.lost[name], "%{y} updates")) : null,
    { barmode: "stack", bargap: rounds.round.length > 60 ? 0 : 0.15, xaxis: roundAxis(), yaxis: axis(rounds.width > 1 ? `updates lost in ${rounds.width} rounds` : "updates lost", { rangemode: "tozero" }) });
  }

  function energy() {
    const { rounds } = run();
    const total = Object.values(rounds.energy).reduce((sum, part) => sum + part.at(-1), 0);
    const parts = [["compute", "computing and idling", css("--compute")], ["radio", "radio", css("--radio")], ["server", "server", css("--server")]]
      .filter(([part]) => rounds.energy[part].at(-1) > 5e-4 * total);
    const [factor, unit] = unitScale("J")(total);
    legendOf("energy", parts.map(([, name, colour]) => [colour, name]));
    show("f-energy", "cumulative energy by part", parts.length ? parts.map(([part, name, colour]) => ({
      x: rounds.last, y: rounds.energy[part].map((v) => v / factor), name, stackgroup: "one", line: { width: 0.5, color: colour }, fillcolor: colour + "cc",
      mode: rounds.last.length > 1 ? "lines" : "markers", hovertemplate: `%{y:.4g} ${unit} until round %{x}<extra>${name}</extra>`,
    })) : null, { xaxis: roundAxis(), yaxis: axis(`energy (${unit})`, { rangemode: "tozero" }) });
    const ownMost = rounds.gnb.at(-1), [ownFactor, ownUnit] = unitScale("J")(ownMost);
    show("f-gnb", "cumulative energy of the base stations", ownMost > 0 ? [{
      x: rounds.last, y: rounds.gnb.map((v) => v / ownFactor), mode: rounds.last.length > 1 ? "lines" : "markers", line: { color: css("--server"), width: 2.4 },
      hovertemplate: `%{y:.4g} ${ownUnit} until round %{x}<extra></extra>`,
    }] : null, { xaxis: roundAxis(), yaxis: axis(`energy (${ownUnit})`, { rangemode: "tozero" }) });
    const lines = [["down", "down", css("--downlink"), "dash"], ["up", "up", css("--uplink"), "solid"]];
    const [size, bytes] = unitScale("B")(largest([rounds.up, rounds.down]));
    legendOf("traffic", lines.map(([, name, colour, dash]) => [colour, name, dash]));
    show("f-traffic", "cumulative bytes up and down", lines.map(([key, name, colour, dash]) => ({
      x: rounds.last, y: rounds[key].map((v) => v / size), name, mode: rounds.last.length > 1 ? "lines" : "markers", line: { color: colour, width: 2.4, dash },
      hovertemplate: `%{y:.4g} ${bytes} ${name} until round %{x}<extra></extra>`,
    })), { xaxis: roundAxis(), yaxis: axis(`bytes (${bytes})`, { rangemode: "tozero" }) });
  }

  // ---- the timeline of one round ----------------------------------------------------------------------------------
  function clients() {
    const { timelines: t, statuses, devices } = run(), rows = [];
    const [from, to] = [t.starts[state.place], t.starts[state.place + 1]];
    for (let i = from; i < to; i++) {
      const parts = { downlink: t.downlink_s[i], compute: t.compute_s[i], uplink: t.uplink_s[i] };
      const end = Object.values(parts).reduce((sum, v) => sum + (v || 0), 0);
      rows.push({ id: t.id[i], device: devices[t.device[i]], status: statuses[t.status[i]], sinr: t.sinr_db[i], parts, end, bound: i - from === t.bound[state.place] });
    }
    return rows;
  }

  function says(rows) {
    const { timelines: t } = run(), k = state.place, binder = rows.find((row) => row.bound), size = t.size[k];
    const late = rows.filter((row) => row.status === "deadline").map((row) => row.id);
    const spent = binder && PARTS.slice(0, 3).map(([part, name]) => `${name} ${seconds(binder.parts[part] || 0)}`).join(", ");
    const who = binder ? `Client ${binder.id} (${binder.device}) bound it: ${spent}.`
      : late.length ? `The deadline ended it, while the server waited for ${late.length > 8 ? `${late.length} clients` : `client${late.length > 1 ? "s" : ""} ${late.join(", ")}`}.`
        : "No client bound it: nobody could be waited for.";
    const server = t.server_s[k] > 1e-3 * t.round_s[k] ? ` The server added ${seconds(t.server_s[k])}.` : "";
    const shown = rows.length < size ? ` Shown are ${rows.length} of its ${size} clients: the slowest, and an even sample of the rest.` : "";
    const kept = t.rounds_left_out ? ` ${t.rounds_left_out} of ${t.round.length + t.rounds_left_out} rounds are left out of this page, evenly.` : "";
    return `The round took ${seconds(t.round_s[k])}. ${who}${server}${shown}${kept}`;
  }

  function timeline() {
    const { timelines: t, deadline_s: deadline } = run();
    byId("timeline").hidden = !t.round.length;
    if (!t.round.length) return;
    state.place = Math.min(state.place, t.round.length - 1);
    const slider = byId("slider");
    slider.max = String(t.round.length - 1); slider.value = String(state.place);
    byId("round-name").textContent = String(t.round[state.place]);
    slider.setAttribute("aria-valuetext", `round ${t.round[state.place]}`);
    const rows = clients(), round = t.round_s[state.place];
    byId("round-says").textContent = says(rows);
    const waiting = rows.map((row) => (row.status === "delivered" ? Math.max(round - row.end, 0) : 0));
    const most = Math.max(round, deadline && rows.some((r) => r.status === "deadline") ? deadline : 0);
    const [factor, unit] = timeScale(most), y = rows.map((_, i) => i), starts = rows.map(() => 0);
    const bar = (name, colour, values, line) => {
      const trace = {
        type: "bar", orientation: "h", y, x: values.map((v) => (v || 0) / factor), base: starts.map((s) => s / factor), name, marker: { color: colour, line: { width: 0 }, ...line },
        customdata: rows.map((r, i) => [`client ${r.id}, ${r.device}`, seconds(values[i] || 0), r.sinr === null ? "" : `<br>SINR ${r.sinr} dB`]),
        hovertemplate: `%{customdata[0]}<br>${name} %{customdata[1]}%{customdata[2]}<extra></extra>`,
      };
      values.forEach((v, i) => { starts[i] += v || 0; });
      return trace;
    };
    const traces = PARTS.slice(0, 3).map(([part, name]) => bar(name, css(`--${part}`), rows.map((r) => r.parts[part])));
    traces.push(bar("wait", css("--wait"), waiting));
    const gone = rows.map((row, i) => ({ ...row, i })).filter((row) => row.status !== "delivered");
    traces.push({
      type: "scatter", mode: "markers+text", x: gone.map((r) => r.end / factor), y: gone.map((r) => r.i), text: gone.map((r) => " " + words(r.status)), textposition: "middle right",
      textfont: { size: 10, color: css("--ink") }, marker: { symbol: "x", size: 7, color: gone.map((r) => REASON[r.status] || css("--missing")) }, cliponaxis: false,
      hovertemplate: gone.map((r) => `client ${r.id}, ${r.device}<br>${words(r.status)}: ${data.reasons[r.status] || ""}<extra></extra>`),
    });
    const step = rows.length > 60 ? 10 : rows.length > 25 ? 14 : 22, every = step < 12 ? 2 : 1, ticks = y.filter((i) => i % every === 0);
    const binder = rows.findIndex((row) => row.bound), edge = gone.length ? (narrow() ? 1.3 : 1.1) : 1.03;
    const upright = (x, dash, colour) => ({ type: "line", x0: x / factor, x1: x / factor, yref: "paper", y0: 0, y1: 1, line: { color: colour, width: 1.6, dash } });
    const near = deadline && deadline <= 1.25 * most, ended = deadline && Math.abs(deadline - round) < 0.01 * round;
    const shapes = ended ? [] : [upright(round, "solid", css("--ink"))];
    if (near) shapes.push(upright(deadline, "dash", css("--missing")));
    if (binder >= 0) {
      shapes.push({ type: "rect", xref: "paper", x0: 0, x1: 1, y0: binder - 0.5, y1: binder + 0.5, line: { color: css("--ink"), width: 1.6 } });
    }
    const name = ({ id, device, bound }) => { const text = narrow() ? `${id}` : `${id} ${device}`; return bound ? `<b>${text}</b>` : text; };
    const place = byId("f-timeline");
    place.style.height = `${Math.max(170, rows.length * step + (narrow() ? 64 : 84))}px`;
    legendOf("timeline", [...PARTS.slice(0, 3).map(([part, text]) => [css(`--${part}`), text]), [css("--wait"), "wait"],
      ...(gone.length ? [[css("--missing"), "lost", "✖"]] : []), ...(binder >= 0 ? [[css("--ink"), "bound the round", "▭"]] : []), ...(ended ? [] : [[css("--ink"), "end of the round", "solid"]]), ...(near ? [[css("--missing"), "deadline", "dash"]] : [])]);
    show("f-timeline", says(rows), traces, {
      barmode: "overlay", bargap: 0.18, shapes, margin: { l: 52, r: 14, t: narrow() ? 6 : 26, b: 42 },
      xaxis: axis(`since the round began (${unit})`, { range: [0, (Math.max(most, near ? deadline : 0) * edge) / factor] }),
      yaxis: axis("", { autorange: false, range: [rows.length - 0.4, -0.6], tickvals: ticks, ticktext: ticks.map((i) => name(rows[i])), showgrid: false, zeroline: false, tickfont: { size: step < 14 ? 9 : 10 } }),
    });
  }

  function nearestRound(number) {
    const { round } = run().timelines;
    if (!round.length) return;
    state.place = round.reduce((best, r, i) => (Math.abs(r - number) < Math.abs(round[best] - number) ? i : best), 0);
    timeline();
    byId("timeline").scrollIntoView({ block: "nearest" });
  }

  // ---- the radio --------------------------------------------------------------------------------------------------
  const radio = radioFigures({ byId, css, axis, show, legendOf, si, grouped, narrow, largest, run, state, bars, roundAxis, seriesColour, seriesDash, SYMBOLS, SIGNS });

  // ---- the page ---------------------------------------------------------------------------------------------------
  async function drawRun() {
    document.querySelectorAll("[data-run]").forEach((block) => { block.hidden = Number(block.dataset.run) !== state.run; });
    path(); timeline(); radio.draw(); energy(); losses();
  }
  async function drawAll() {
    drawing.length = 0;
    learning();
    await drawRun();
    await Promise.all(drawing);
    root.dataset.drawn = "true";
  }
  function theme(name) { root.dataset.theme = name; drawAll(); }
  function move(step) {
    const last = run().timelines.round.length - 1;
    state.place = Math.min(Math.max(state.place + step, 0), last);
    timeline();
  }

  const dark = window.matchMedia("(prefers-color-scheme: dark)");
  root.dataset.theme = dark.matches ? "dark" : "light";
  dark.addEventListener("change", () => theme(dark.matches ? "dark" : "light"));
  byId("theme").addEventListener("click", () => theme(root.dataset.theme === "dark" ? "light" : "dark"));
  byId("slider").addEventListener("input", ({ target }) => { state.place = Number(target.value); timeline(); });
  byId("previous").addEventListener("click", () => move(-1));
  byId("next").addEventListener("click", () => move(1));
  byId("colours").addEventListener("click", ({ target }) => { if (target.value) { state.colour = target.value; pressed(byId("colours"), target.value); radio.map(); } });
  if (byId("run")) byId("run").addEventListener("change", ({ target }) => { state.run = Number(target.value); state.place = 0; drawRun(); });
  let before = root.dataset.theme, wide = narrow();
  window.addEventListener("beforeprint", () => { before = root.dataset.theme; theme("light"); });
  window.addEventListener("afterprint", () => theme(before));
  window.addEventListener("resize", () => { if (wide !== narrow()) { wide = narrow(); drawAll(); } });
  metricButtons();
  drawAll();
})();
