"use strict";
// The figures of the radio section, with the tools of report.js: map, SINR and rates, resource blocks, analog symbols.
const radioFigures = (tools) => {
  const { byId, css, axis, show, legendOf, si, grouped, narrow, largest, run, state, bars, roundAxis, seriesColour, seriesDash, SYMBOLS, SIGNS } = tools;
  const MARKS = [[0.05, "p5"], [0.5, "p50"], [0.95, "p95"]];
  const decibels = (value) => `${value.toFixed(1).replace("-", "−")} dB`;

  // ---- the map ----------------------------------------------------------------------------------------------------
  const inMuchTrouble = (c, i) => 2 * c.lost[i] >= c.called[i];

  function says(c, i) {
    const { devices, layout } = run(), lines = [`client ${c.id[i]}, ${devices[c.device[i]]}`];
    if (c.sinr.length && c.sinr[i] !== null) lines.push(`mean SINR ${decibels(c.sinr[i])}`);
    if (layout.sites.length > 1 || layout.sectors > 1) {
      if (c.cell[i] >= 0) lines.push(`served by cell ${c.cell[i]} of site ${Math.floor(c.cell[i] / layout.sectors)}`);
    }
    if (layout.sites.length === 1) lines.push(`${Math.hypot(c.x[i], c.y[i]).toFixed(0)} m away`);
    return [...lines, `lost ${c.lost[i]} of ${c.called[i]}`].join("<br>");
  }

  function map() {
    const { cell: c, devices, radius_m: radius, layout } = run(), several = layout.sites.length > 1;
    const bySinr = state.colour === "sinr" && c.sinr && c.sinr.length;
    const met = devices.map((_, d) => d).filter((d) => c.id.length && c.device.includes(d));
    const troubled = c.id.some((_, i) => inMuchTrouble(c, i)), many = c.id.length > 1000, ink = css("--ink");
    legendOf("cell", [...met.map((d) => [css("--soft"), devices[d], SIGNS[d % SIGNS.length]]),
      ...(troubled && !many ? [[css("--missing"), "lost half of its turns or more", "○"]] : []), [ink, several ? "sites" : "site", "✛"],
      ...(layout.x.length ? [[many ? ink : css("--soft"), "borders of cells", "solid"]] : [])]);
    const values = bySinr ? c.sinr : c.id.map((_, i) => (100 * c.lost[i]) / c.called[i]);
    const traces = met.map((d, order) => {
      const own = c.id.map((_, i) => i).filter((i) => c.device[i] === d), size = (many ? 4.5 : c.id.length > 400 ? 7 : 9) - (narrow() ? (many ? 1.5 : 2.5) : 0);
      return {
        x: own.map((i) => c.x[i]), y: own.map((i) => c.y[i]), mode: "markers", name: devices[d],
        marker: {
          symbol: SYMBOLS[d % SYMBOLS.length], size, opacity: 0.9, color: own.map((i) => values[i]), coloraxis: "coloraxis",
          line: { width: many ? 0 : own.map((i) => (inMuchTrouble(c, i) ? 1.8 : 0.6)), color: own.map((i) => (inMuchTrouble(c, i) ? css("--missing") : css("--card"))) },
        },
        text: own.map((i) => says(c, i)), hovertemplate: "%{text}<extra></extra>", order,
      };
    });
    const borders = { x: layout.x, y: layout.y, mode: "lines", line: { color: many ? ink : css("--soft"), width: 1 }, opacity: many ? 0.55 : 0.7, hoverinfo: "skip" };
    if (layout.x.length) traces[many ? "push" : "unshift"](borders); // over a crowd, else below
    traces.push({
      x: layout.sites.map(([x]) => x), y: layout.sites.map(([, y]) => y), mode: "markers", customdata: layout.sites.map((_, i) => (several ? `site ${i}` : "site")),
      marker: { symbol: "cross-thin", size: several ? 10 : 15, line: { width: several ? 2 : 3, color: ink } }, hovertemplate: "%{customdata}<extra></extra>",
    });
    const ring = (r, dash) => ({ type: "circle", x0: -r, x1: r, y0: -r, y1: r, line: { color: css("--soft"), width: 1, dash }, layer: "below" });
    const far = largest([c.id.map((_, i) => Math.max(Math.abs(c.x[i]), Math.abs(c.y[i]))), layout.x.map(Math.abs), layout.y.map(Math.abs)]);
    const most = several ? far : radius || largest([c.id.map((_, i) => Math.hypot(c.x[i], c.y[i]))]);
    const all = c.id.length + (c.left_out || 0);
    byId("cell-says").textContent = (c.left_out ? `A sample of ${grouped(c.id.length)} of the ${grouped(all)} devices that took part, evenly spaced by id.` : `${grouped(all)} devices took part.`)
      + ` Colour: ${bySinr ? "a device's mean uplink SINR" : "share of a device's updates that were lost"}.${several ? "" : ` Circles: thirds of ${most.toFixed(0)} m.`}`;
    byId("map-title").textContent = bySinr ? "Map of the devices by uplink SINR" : "Map of the devices by share lost";
    const unit = bySinr ? "SINR (dB)" : "lost (%)", flat = narrow() ? { orientation: "h", y: -0.2, yanchor: "top", title: { text: unit, side: "bottom" } } : {};
    show("f-cell", "map of the cells with their devices", c.id.length ? traces : null, {
      coloraxis: { colorscale: bySinr ? "Viridis" : "Cividis", cmin: bySinr ? undefined : 0, cmax: bySinr ? undefined : 100, colorbar: { title: { text: unit, side: narrow() ? "bottom" : "right" }, thickness: 11, outlinewidth: 0, tickfont: { size: 11 }, len: 0.9, ...flat } },
      shapes: several ? [] : [ring(most / 3, "dot"), ring((2 * most) / 3, "dot"), ring(most, "solid")], margin: { l: 52, r: 6, t: 10, b: 42 }, height: narrow() ? 400 : undefined,
      xaxis: axis("x (m)", { range: [-1.06 * most, 1.06 * most], constrain: "domain", zeroline: false, showgrid: !several }),
      yaxis: axis("y (m)", { range: [-1.06 * most, 1.06 * most], scaleanchor: "x", constrain: "domain", zeroline: false, showgrid: !several }),
    });
  }

  function signal() {
    const { signal: s } = run();
    legendOf("signal", [[css("--heard"), "counted"], [css("--missing"), "lost"]]);
    const middles = s.edges.slice(1).map((edge) => edge - 1.5);
    const stack = (y, name, colour) => ({ type: "bar", x: middles, y, width: 3, name, marker: { color: colour, line: { width: 1, color: css("--card") } }, hovertemplate: `%{y} ${name}, SINR %{x} ± 1.5 dB<extra></extra>` });
    show("f-signal", "updates by uplink SINR, counted and lost", s.edges.length ? [stack(s.heard, "counted", css("--heard")), stack(s.lost, "lost", css("--missing"))] : null,
      { barmode: "stack", xaxis: axis("uplink SINR (dB)", { tick0: s.edges[0], dtick: 3 * Math.ceil(s.edges.length / (narrow() ? 7 : 11)) }), yaxis: axis("updates", { rangemode: "tozero" }) });
  }

  // ---- distributions ----------------------------------------------------------------------------------------------
  // A step function from 0: at x it is the share of turns with at most x. `drawn` says which values an axis can show.
  function steps(curve, drawn) {
    const at = curve.x.map((_, k) => k).filter((k) => drawn(curve.x[k]));
    if (!at.length) return null;
    const below = at[0] ? curve.share[at[0] - 1] : 0;
    return { ...curve, x: [curve.x[at[0]], ...at.map((k) => curve.x[k])], share: [below, ...at.map((k) => curve.share[k])] };
  }

  // Labels stand above their point on the left, where no distribution has its curve; below it on the right where the left has no room.
  function labels(marks, curves, text, log) {
    const along = log ? Math.log10 : (v) => v, ends = curves.flatMap(({ x }) => [along(x[0]), along(x.at(-1))]);
    const low = Math.min(...ends), width = Math.max(...ends) - low || 1;
    const room = narrow() ? window.innerWidth - 110 : Math.min(window.innerWidth, 1680) / 2 - 130; // pixels between the axis and the end
    return marks.map(([value, share, name]) => {
      const label = `${name}: ${text(value)}`, left = ((along(value) - low) / width) * room > 7 * label.length + 6, lowest = share < 0.1;
      return {
        x: along(value), y: share, text: label, showarrow: false, xanchor: left ? "right" : "left", xshift: left ? -6 : 8,
        yanchor: left ? "bottom" : lowest ? "middle" : "top", yshift: left ? 1 : lowest ? 0 : -1, bgcolor: css("--card") + (left ? "b0" : "ff"), borderpad: 0, font: { color: css("--ink"), size: 11.5 },
      };
    });
  }

  function distribution(id, name, curves, text, xaxis, drawn) {
    const colour = (i) => (i ? seriesColour(i - 1) : css("--ink")), dash = (i) => (i ? seriesDash(i - 1) : "solid"), log = xaxis.type === "log";
    const kept = curves.map((curve, i) => ({ i, ...steps(curve, drawn) })).filter((curve) => curve.x);
    legendOf(id, curves.length > 1 ? kept.map((curve) => [colour(curve.i), curve.name, dash(curve.i)]) : []);
    const lines = kept.map((curve) => ({
      x: curve.x, y: curve.share, mode: "lines", line: { shape: "hv", color: colour(curve.i), width: curve.i ? 1.6 : 2.6, dash: dash(curve.i) },
      customdata: curve.x.map(text), hovertemplate: `%{y:.0%} of turns at or below %{customdata}<extra>${curve.name}</extra>`,
    })).toReversed();
    const marks = curves.length ? curves[0].marks.map((value, k) => [value, ...MARKS[k]]).filter(([value]) => drawn(value)) : [];
    lines.push({
      x: marks.map(([value]) => value), y: marks.map(([, share]) => share), mode: "markers", marker: { size: 8, color: css("--ink"), line: { color: css("--card"), width: 1.5 } }, cliponaxis: false,
      customdata: marks.map(([value, share]) => `${100 * share} % of all turns at or below ${text(value)}`), hovertemplate: "%{customdata}<extra></extra>",
    });
    show(`f-${id}`, `cumulative distribution of the ${name}`, kept.length ? lines : null, {
      xaxis, yaxis: axis("share of turns", { range: [0, 1.09], tickvals: [0, 0.2, 0.4, 0.6, 0.8, 1], tickformat: ".0%" }), annotations: kept.length ? labels(marks, kept, text, log) : [],
      shapes: MARKS.map(([share]) => ({ type: "line", xref: "paper", x0: 0, x1: 1, y0: share, y1: share, line: { color: css("--soft"), width: 1, dash: "dot" }, layer: "below" })),
    });
  }

  function distributions() {
    const { distributions: d } = run();
    distribution("sinr", "uplink SINR", d.sinr_db, decibels, axis("uplink SINR (dB)"), (v) => v !== null);
    distribution("rate", "uplink rate", d.up_bps, (v) => si(v, "bit/s"), axis("uplink rate (bit/s)", { type: "log", exponentformat: "SI", dtick: narrow() ? 1 : "D2" }), (v) => v > 0);
    const over = (curves) => (curves.length ? `${grouped(curves[0].turns)} turns, one per round and client.` : "");
    byId("sinr-says").textContent = over(d.sinr_db);
    const none = d.up_bps.length ? d.up_bps[0].none : 0;
    byId("rate-says").textContent = `Goodput with the whole carrier to itself. ${over(d.up_bps)}${none ? ` ${(100 * none).toFixed(1)} % of them have no link; the curve begins above these.` : ""}`;
  }

  // ---- resource blocks --------------------------------------------------------------------------------------------
  function blocks() {
    const { rounds, blocks: b } = run(), used = rounds.prb.map((v) => (v === null ? null : 100 * v));
    show("f-prb", "share of the uplink resource blocks used, by round", used.length ? [bars(rounds, "uplink blocks", css("--uplink"), used, "%{y:.3g} % of the blocks")] : null,
      { bargap: used.length > 60 ? 0 : 0.15, xaxis: roundAxis(), yaxis: axis("of the blocks in cells with clients (%)", { rangemode: "tozero" }) });
    const all = b.cell.length ? b.block_s.reduce((sum, v) => sum + v, 0) : 0, { sectors } = run().layout;
    show("f-blocks", "uplink resource blocks by cell", all > 0 ? [{
      type: "bar", x: b.cell.map(String), y: b.block_s.map((v) => (100 * v) / all), marker: { color: css("--uplink"), line: { width: 0 } },
      customdata: b.cell.map((cell, i) => `cell ${cell} of site ${Math.floor(cell / sectors)}<br>${si(b.block_s[i], "block·s")}, ${b.turns[i]} turns${b.sinr[i] === null ? "" : `<br>mean SINR ${decibels(b.sinr[i])}`}`),
      hovertemplate: "%{customdata}<br>%{y:.3g} % of all<extra></extra>",
    }] : null, { bargap: 0.15, xaxis: axis("cell", { type: "category", nticks: narrow() ? 12 : 24 }), yaxis: axis("share of all block-seconds (%)", { rangemode: "tozero" }) });
  }

  function symbols() {
    const { rounds } = run();
    show("f-symbols", "analog uplink symbols by round", rounds.symbols.length ? [bars(rounds, "analog symbols", css("--uplink"), rounds.symbols, "%{y:.4s} symbols")] : null,
      { bargap: rounds.round.length > 60 ? 0 : 0.15, xaxis: roundAxis(), yaxis: axis(rounds.width > 1 ? `symbols in ${rounds.width} rounds` : "symbols", { rangemode: "tozero", tickformat: "~s" }) });
  }

  function draw() {
    const { cell: c, signal: s, distributions: d, rounds, blocks: b } = run();
    const any = c.id.length || s.edges.length || d.sinr_db.length || d.up_bps.length || rounds.prb.length || b.cell.length || rounds.symbols.length;
    byId("cell").hidden = !any;
    byId("colours").hidden = !(c.sinr && c.sinr.length);
    map(); signal(); distributions(); blocks(); symbols();
  }
  return { draw, map };
};
