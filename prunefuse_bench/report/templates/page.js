"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const $ = (id) => document.getElementById(id);
  const all = (selector, within = document) => [...within.querySelectorAll(selector)];
  const root = document.documentElement;

  // ---------------------------------------------------------------- how methods look: colour, marker and dash
  const COLOURS = {
    light: ["#0072b2", "#c14f00", "#00795a", "#a8478a", "#94650a", "#2f83b5", "#222222", "#6f6800"],
    dark: ["#56b4e9", "#ff8f52", "#2fc79b", "#e39bc5", "#e9b03a", "#a9d6f5", "#f2f2f2", "#e8de52"],
  };
  const MARKERS = ["circle", "square", "diamond", "triangle-up", "triangle-down", "cross", "x", "star", "hexagon"];
  const DASHES = ["solid", "dash", "dot", "dashdot", "longdash"];
  const PATTERNS = ["", "/", "", "\\", "x", "", ".", "-", "", "+"];
  const MOST_BANDS = 8;
  const MOST_AT_FIRST = 12;
  const FIRST = 8;
  const MOST_IN_MATRIX = 14;

  const PAPER_WIDTH = 680;
  let onScreen = null; // the theme to go back to, while the page is being printed
  const isDark = () => (root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches);
  const colour = (name) => getComputedStyle(root).getPropertyValue(`--${name}`).trim();
  const styleOf = (number) => ({
    color: COLOURS[isDark() ? "dark" : "light"][number % COLOURS.dark.length],
    symbol: MARKERS[number % MARKERS.length],
    dash: DASHES[Math.floor(number / COLOURS.dark.length) % DASHES.length],
  });

  // ---------------------------------------------------------------- text: Plotly reads its own kind of HTML
  const plain = (text) => String(text).replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");
  const cut = (text, length) => {
    const characters = Array.from(String(text));
    return characters.length <= length ? String(text) : `${characters.slice(0, length - 1).join("")}…`;
  };
  const percent = (share, digits = 2) => (share === null || share === undefined ? "none" : (100 * share).toFixed(digits));
  const signed = (share) => (share === null ? "none" : `${share > 0 ? "+" : ""}${(100 * share).toFixed(2)}`);
  const PREFIXES = [[1e18, "E"], [1e15, "P"], [1e12, "T"], [1e9, "G"], [1e6, "M"], [1e3, "k"]];
  const amount = (value, unit) => {
    if (value === null || value === undefined) return "none";
    if (unit === "s") return `${value.toPrecision(3)} s`;
    const [size, prefix] = PREFIXES.find(([least]) => value >= least) || [1, ""];
    return value ? `${(value / size).toPrecision(3)} ${prefix}${unit.replace("FLOPs", "FLOP")}` : "0";
  };

  // ---------------------------------------------------------------- what is chosen
  const state = { task: "", protocol: "", budget: "", method: "" };
  const boards = {};
  for (const section of all("section.board")) {
    const key = section.dataset.board;
    const board = data.boards[key];
    const order = board.order;
    const references = order.filter((n) => ["random", "al"].includes(board.methods[n]));
    const first = order.length > MOST_AT_FIRST ? new Set([...order.slice(0, FIRST), ...references]) : new Set(order);
    boards[key] = { ...board, key, section, shown: first, zoom: false };
  }
  const fits = (board, number) => !state.method || board.methods[number].toLowerCase().includes(state.method);
  const visible = (board) => board.order.filter((number) => board.shown.has(number) && fits(board, number));
  const position = (board) => {
    const chosen = board.budgets.findIndex((budget) => budget.heading === state.budget);
    return chosen >= 0 ? chosen : board.budgets.length - 1;
  };

  // ---------------------------------------------------------------- axes
  const floorOf = (board, lowest) => (lowest < board.chance ? 0 : board.chance);
  function accuracyAxis(board, values, axis) {
    const known = values.filter((value) => value !== null && value !== undefined);
    const lowest = known.length ? Math.min(...known) : 0;
    const highest = known.length ? Math.max(...known) : 1;
    const floor = floorOf(board, lowest);
    const from = floor === 0 ? "0" : `chance, ${percent(floor, 1)}%`;
    const margin = Math.max(0.005, 0.06 * (highest - lowest));
    const range = board.zoom ? [Math.max(0, lowest - margin), Math.min(1, highest + margin)] : [floor, 1];
    const starts = board.zoom && range[0] > floor;
    return {
      axis: { ...axis, range: range.map((value) => 100 * value), title: { text: `test accuracy, %; axis from ${starts ? `${percent(range[0], 1)}%` : from}`, standoff: 8 } },
      note: starts ? `The accuracy axis starts at ${percent(range[0], 1)}%, not at ${from}: differences look larger than they are.` : "",
    };
  }
  function costAxis(figure, unit, heading, values) {
    if (!figure.log) return { axis: { title: { text: `${heading}; axis from 0`, standoff: 8 }, rangemode: "tozero", exponentformat: "SI", ticksuffix: unit === "s" ? " s" : "" }, at: (value) => value };
    const positive = values.filter((value) => value > 0);
    const least = positive.length ? Math.min(...positive) : 1;
    const edge = 10 ** (Math.floor(Math.log10(least)) - 1);
    const hasZero = values.some((value) => value === 0);
    const powers = [];
    for (let power = Math.floor(Math.log10(least)); power <= Math.ceil(Math.log10(Math.max(...positive, least))); power++) powers.push(power);
    return {
      axis: {
        title: { text: `${heading}; logarithmic axis${hasZero ? ", 0 at its left edge" : ""}`, standoff: 8 },
        type: "log", tickvals: [...(hasZero ? [edge] : []), ...powers.map((power) => 10 ** power)],
        ticktext: [...(hasZero ? ["0"] : []), ...powers.map((power) => amount(10 ** power, unit).replace(/\.0+(?= )/, ""))],
      },
      at: (value) => (value === 0 ? edge : value),
    };
  }

  // ---------------------------------------------------------------- the kinds of chart: each returns traces, layout and a table
  const nameOf = (board, number, length = 60) => plain(cut(board.methods[number], length));
  const rgba = (hex, alpha) => `rgba(${[1, 3, 5].map((at) => parseInt(hex.slice(at, at + 2), 16)).join(",")},${alpha})`;
  const narrow = (element) => element.clientWidth < 520;

  const KINDS = {
    areas(board, figure, element) {
      const rows = visible(board).filter((number) => board.area[number]);
      const values = rows.flatMap((number) => board.area[number]);
      const { axis, note } = accuracyAxis(board, values, {});
      if (narrow(element)) axis.title.text = axis.title.text.replace("; ", "<br>");
      const traces = rows.map((number, place) => {
        const [mean, low, high] = board.area[number];
        const style = styleOf(number);
        return {
          type: "scatter", mode: "markers", x: [100 * mean], y: [place],
          error_x: low === null ? undefined : { type: "data", symmetric: false, array: [100 * (high - mean)], arrayminus: [100 * (mean - low)], thickness: 2, width: 4, color: style.color },
          marker: { color: style.color, size: 10, symbol: board.complete[number] ? style.symbol : `${style.symbol}-open` },
          customdata: [[nameOf(board, number), `${percent(mean)}%${low === null ? "" : ` [${percent(low)}, ${percent(high)}]`}`]],
          hovertemplate: "%{customdata[0]}<br>%{customdata[1]}<extra></extra>",
        };
      });
      return {
        traces, note,
        layout: {
          height: Math.max(300, 90 + 26 * rows.length),
          xaxis: axis,
          yaxis: { tickvals: rows.map((_, place) => place), ticktext: rows.map((number) => nameOf(board, number, narrow(element) ? 14 : 30)), range: [rows.length - 0.5, -0.5], showgrid: false, zeroline: false, automargin: true },
        },
        table: { columns: ["method", "average accuracy, %", "from", "to"], rows: rows.map((n) => [board.methods[n], ...board.area[n].map((value) => percent(value))]) },
      };
    },

    curves(board) {
      const rows = visible(board).filter((number) => board.accuracy[number].mean.some((mean) => mean !== null));
      const labels = board.budgets.map((budget) => budget.labels);
      const values = rows.flatMap((number) => [...board.accuracy[number].mean, ...board.accuracy[number].low, ...board.accuracy[number].high]);
      const { axis, note } = accuracyAxis(board, values, {});
      const bands = rows.length <= MOST_BANDS;
      const traces = [];
      for (const number of bands ? rows : []) {
        const { low, high } = board.accuracy[number];
        const whole = labels.map((_, at) => at).filter((at) => low[at] !== null);
        if (whole.length < 2) continue;
        const back = [...whole].reverse();
        traces.push({
          type: "scatter", mode: "lines", hoverinfo: "skip", fill: "toself", line: { width: 0 }, fillcolor: rgba(styleOf(number).color, 0.13),
          x: [...whole, ...back].map((at) => labels[at]), y: [...whole.map((at) => 100 * high[at]), ...back.map((at) => 100 * low[at])],
        });
      }
      for (const number of rows) {
        const { mean, low, high, count, expected } = board.accuracy[number];
        const style = styleOf(number);
        traces.push({
          type: "scatter", mode: "lines+markers", x: labels, y: mean.map((value) => (value === null ? null : 100 * value)), connectgaps: false,
          line: { color: style.color, dash: style.dash, width: 2 },
          marker: { size: 8, symbol: mean.map((_, at) => (count[at] < expected[at] ? `${style.symbol}-open` : style.symbol)), color: style.color },
          customdata: mean.map((value, at) => [nameOf(board, number), `${percent(value)}%${low[at] === null ? "" : ` [${percent(low[at])}, ${percent(high[at])}]`}`, `${count[at]} of ${expected[at]} cells`, board.budgets[at].heading]),
          hovertemplate: "%{customdata[0]}<br>%{customdata[1]} at %{customdata[3]}<br>%{customdata[2]}<extra></extra>",
        });
      }
      const hint = bands ? "" : `Bands are drawn for up to ${MOST_BANDS} methods at a time: choose fewer above. The table has every interval.`;
      const rowsOfTable = rows.flatMap((n) => board.budgets.map((budget, at) => {
        const found = board.accuracy[n];
        return [board.methods[n], budget.labels, percent(found.mean[at]), percent(found.low[at]), percent(found.high[at]), `${found.count[at]} of ${found.expected[at]}`];
      }));
      return {
        traces, note, hint,
        layout: {
          height: 420, yaxis: axis,
          xaxis: { title: { text: "labels; axis from 0", standoff: 8 }, range: [0, 1.04 * Math.max(...labels)], tickformat: ",d" },
        },
        table: { columns: ["method", "labels", "accuracy, %", "from", "to", "cells"], rows: rowsOfTable },
      };
    },

    cost(board, figure) {
      const heading = figure.column || Object.keys(figure.data.columns)[0];
      const column = figure.data.columns[heading];
      const at = position(board);
      const rows = visible(board).filter((number) => column[number].some((value) => value !== null));
      const spent = rows.flatMap((number) => column[number]).filter((value) => value !== null);
      const { axis: xaxis, at: place } = costAxis(figure, figure.data.unit, heading, spent);
      const values = rows.flatMap((number) => [...board.accuracy[number].mean, board.accuracy[number].low[at], board.accuracy[number].high[at]]);
      const { axis, note } = accuracyAxis(board, values, {});
      const traces = [];
      for (const number of rows) {
        const style = styleOf(number);
        const { mean, low, high } = board.accuracy[number];
        const reached = column[number].map((_, budget) => budget).filter((budget) => column[number][budget] !== null && mean[budget] !== null);
        traces.push({ type: "scatter", mode: "lines+markers", hoverinfo: "skip", opacity: 0.45, x: reached.map((budget) => place(column[number][budget])), y: reached.map((budget) => 100 * mean[budget]), line: { color: style.color, width: 1.2, dash: style.dash }, marker: { size: 4, color: style.color } });
        if (column[number][at] === null || mean[at] === null) continue;
        traces.push({
          type: "scatter", mode: "markers", x: [place(column[number][at])], y: [100 * mean[at]],
          error_y: low[at] === null ? undefined : { type: "data", symmetric: false, array: [100 * (high[at] - mean[at])], arrayminus: [100 * (mean[at] - low[at])], thickness: 1.5, width: 4, color: style.color },
          marker: { size: 12, symbol: style.symbol, color: style.color, line: { width: 1.5, color: colour("raised") } },
          customdata: [[nameOf(board, number), amount(column[number][at], figure.data.unit), `${percent(mean[at])}%`, board.budgets[at].heading]],
          hovertemplate: "%{customdata[0]}<br>%{customdata[2]} at %{customdata[3]}<br>%{customdata[1]}<extra></extra>",
        });
      }
      const points = rows.filter((n) => column[n][at] !== null && board.accuracy[n].mean[at] !== null).map((n) => [column[n][at], board.accuracy[n].mean[at]]);
      points.sort((one, other) => one[0] - other[0] || other[1] - one[1]);
      const front = points.filter((point, index) => points.slice(0, index).every((earlier) => earlier[1] < point[1]));
      if (front.length) {
        const right = Math.max(...spent);
        traces.push({ type: "scatter", mode: "lines", hoverinfo: "skip", x: [...front.map((point) => place(point[0])), place(right)], y: [...front, front[front.length - 1]].map((point) => 100 * point[1]), line: { shape: "hv", dash: "dot", width: 2, color: colour("muted") } });
      }
      return {
        traces, note,
        layout: { height: 420, xaxis, yaxis: axis, annotations: [{ text: `marked: ${plain(board.budgets[at].heading)} of the pool`, showarrow: false, xref: "paper", yref: "paper", x: 1, y: 0.02, xanchor: "right", yanchor: "bottom", font: { color: colour("muted"), size: 12 } }] },
        table: { columns: ["method", "labels", heading, "accuracy, %"], rows: rows.flatMap((n) => board.budgets.map((budget, b) => [board.methods[n], budget.labels, column[n][b] === null ? "none" : column[n][b], percent(board.accuracy[n].mean[b])])) },
      };
    },

    stages(board, figure, element) {
      const rows = visible(board).filter((number) => figure.data.values[number]);
      const used = figure.data.groups.map((_, group) => group).filter((group) => rows.some((number) => figure.data.values[number][group] > 0));
      const colours = COLOURS[isDark() ? "dark" : "light"];
      const traces = used.map((group) => ({
        type: "bar", orientation: "h", name: figure.data.groups[group], x: rows.map((number) => figure.data.values[number][group]), y: rows.map((_, place) => place),
        marker: { color: colours[group % colours.length], pattern: { shape: PATTERNS[group % PATTERNS.length], bgcolor: colours[group % colours.length], fgcolor: colour("raised"), fgopacity: 0.5, size: 7, solidity: 0.16 }, line: { color: colour("raised"), width: 0.5 } },
        customdata: rows.map((number) => nameOf(board, number)),
        hovertemplate: "%{customdata}<br>%{fullData.name}: %{x:.3g} s<extra></extra>",
      }));
      return {
        traces,
        layout: {
          barmode: "stack", bargap: 0.3, height: Math.max(360, 190 + 28 * rows.length + (narrow(element) ? 90 : 0)), showlegend: true,
          legend: { orientation: "h", y: 1.02, yanchor: "bottom", x: 0, xanchor: "left", traceorder: "normal", font: { size: 12 }, itemclick: false, itemdoubleclick: false },
          xaxis: { title: { text: "seconds of a cell; axis from 0", standoff: 8 }, rangemode: "tozero" },
          yaxis: { tickvals: rows.map((_, place) => place), ticktext: rows.map((number) => nameOf(board, number, narrow(element) ? 14 : 30)), range: [rows.length - 0.5, -0.5], showgrid: false, zeroline: false, automargin: true },
        },
        table: { columns: ["method", ...figure.data.groups.map((group) => `${group}, s`)], rows: rows.map((n) => [board.methods[n], ...figure.data.values[n]]) },
      };
    },

    pairs(board, figure, element) {
      const rows = visible(board);
      const found = new Map();
      for (const row of figure.data.rows) {
        const [one, other, difference, low, high, wins, ties, losses, p, signed_rank, adjusted, different] = row;
        found.set(`${one} ${other}`, { difference, low, high, wins, ties, losses, p, adjusted, different });
        const turned = (value) => (value === null ? null : -value);
        found.set(`${other} ${one}`, { difference: turned(difference), low: turned(high), high: turned(low), wins: losses, ties, losses: wins, p, adjusted, different });
      }
      const cell = (row, column) => found.get(`${row} ${column}`);
      const largest = Math.max(0.001, ...[...found.values()].map((pair) => Math.abs(pair.difference || 0)));
      const text = (row, column) => {
        const pair = cell(row, column);
        return !pair || pair.difference === null ? "" : `${signed(pair.difference)}<br>${pair.wins}–${pair.ties}–${pair.losses}`;
      };
      const hover = (row, column) => {
        const pair = cell(row, column);
        if (!pair) return "";
        const interval = pair.low === null ? "no interval" : `95%: ${signed(pair.low)} to ${signed(pair.high)}`;
        return `${nameOf(board, row, 40)} − ${nameOf(board, column, 40)}<br>${signed(pair.difference)} points (${interval})<br>${pair.wins} wins, ${pair.ties} ties, ${pair.losses} losses<br>p by Holm: ${pair.adjusted === null ? "none" : pair.adjusted.toPrecision(2)}${pair.different ? ", told apart" : ", not told apart"}`;
      };
      const small = rows.length > (narrow(element) ? 5 : MOST_IN_MATRIX);
      const frames = rows.flatMap((row, y) => rows.flatMap((column, x) => (cell(row, column) && cell(row, column).different ? [{ type: "rect", x0: x - 0.47, x1: x + 0.47, y0: y - 0.47, y1: y + 0.47, line: { color: colour("ink"), width: 1.5 } }] : [])));
      const names = rows.map((number) => nameOf(board, number, narrow(element) ? 10 : 24));
      return {
        traces: [{
          type: "heatmap", x: rows.map((_, place) => place), y: rows.map((_, place) => place),
          z: rows.map((row) => rows.map((column) => (cell(row, column) && cell(row, column).difference !== null ? 100 * cell(row, column).difference : null))),
          zmin: -100 * largest, zmax: 100 * largest, xgap: 2, ygap: 2, hoverongaps: false,
          colorscale: [[0, colour("low")], [0.5, colour("middle")], [1, colour("high")]],
          colorbar: narrow(element) ? undefined : { title: { text: "points", side: "right" }, thickness: 12, outlinewidth: 0 },
          showscale: !narrow(element),
          text: small ? undefined : rows.map((row) => rows.map((column) => text(row, column))), texttemplate: small ? undefined : "%{text}", textfont: { size: 12 },
          customdata: rows.map((row) => rows.map((column) => hover(row, column))), hovertemplate: "%{customdata}<extra></extra>",
        }],
        layout: {
          height: Math.max(300, 120 + Math.min(52, 1400 / rows.length) * rows.length), margin: { l: 58, r: 14, t: 14, b: 24 }, shapes: frames,
          xaxis: { tickvals: rows.map((_, place) => place), ticktext: names, side: "top", showgrid: false, zeroline: false, tickangle: rows.length > 6 || narrow(element) ? -50 : 0, automargin: true },
          yaxis: { tickvals: rows.map((_, place) => place), ticktext: names, autorange: "reversed", showgrid: false, zeroline: false, automargin: true },
        },
        table: {
          columns: ["method", "less", "difference, points", "from", "to", "wins", "ties", "losses", "p (t)", "p (signed ranks)", "p by Holm", "told apart"],
          rows: figure.data.rows.filter(([one, other]) => rows.includes(one) && rows.includes(other)).map(([one, other, difference, low, high, wins, ties, losses, p, signed_rank, adjusted, different]) => [board.methods[one], board.methods[other], signed(difference), signed(low), signed(high), wins, ties, losses, ...[p, signed_rank, adjusted].map((value) => (value === null ? "none" : value)), different ? "yes" : "no"]),
        },
      };
    },

    convergence(board, figure) {
      const budgets = [...new Set(figure.data.lines.map((line) => line.labels))];
      const wanted = board.budgets[position(board)].labels;
      const labels = budgets.includes(wanted) ? wanted : Math.max(...budgets);
      const lines = figure.data.lines.filter((line) => line.labels === labels && visible(board).includes(line.method));
      const { axis, note } = accuracyAxis(board, lines.flatMap((line) => line.mean), {});
      const traces = lines.map((line) => {
        const style = styleOf(line.method);
        const step = Math.max(1, Math.ceil(line.epoch.length / 12));
        return {
          type: "scatter", mode: "lines+markers", x: line.epoch, y: line.mean.map((value) => 100 * value),
          line: { color: style.color, width: 2, dash: line.start.startsWith("fresh") ? "solid" : "dash" },
          marker: { color: style.color, symbol: style.symbol, size: 7, maxdisplayed: Math.ceil(line.epoch.length / step) },
          customdata: line.epoch.map(() => [nameOf(board, line.method), plain(line.start)]),
          hovertemplate: "%{customdata[0]}, %{customdata[1]}<br>epoch %{x}: %{y:.2f}%<extra></extra>",
        };
      });
      return {
        traces, note,
        layout: { height: 400, yaxis: axis, xaxis: { title: { text: `epoch of the target's training, ${labels.toLocaleString("en")} labels`, standoff: 8 }, rangemode: "tozero" } },
        table: { columns: ["method", "start", "labels", "epoch", "accuracy, %"], rows: lines.flatMap((line) => line.epoch.map((epoch, at) => [board.methods[line.method], line.start, line.labels, epoch, percent(line.mean[at])])) },
      };
    },

    overlap(board, figure, element) {
      const rows = visible(board);
      const budgets = [...new Set(figure.data.rows.map((row) => row[0]))];
      const wanted = board.budgets[position(board)].labels;
      const labels = budgets.includes(wanted) ? wanted : Math.max(...budgets);
      const found = new Map();
      for (const [at, one, other, share, chance, seeds] of figure.data.rows) {
        if (at === labels) for (const pair of [`${one} ${other}`, `${other} ${one}`]) found.set(pair, { share, chance, seeds });
      }
      const cell = (row, column) => found.get(`${row} ${column}`);
      const small = rows.length > (narrow(element) ? 5 : MOST_IN_MATRIX);
      const names = rows.map((number) => nameOf(board, number, narrow(element) ? 10 : 24));
      return {
        traces: [{
          type: "heatmap", x: rows.map((_, place) => place), y: rows.map((_, place) => place), zmin: 0, zmax: 100, xgap: 2, ygap: 2, hoverongaps: false,
          z: rows.map((row) => rows.map((column) => (cell(row, column) ? 100 * cell(row, column).share : null))),
          colorscale: [[0, colour("middle")], [1, colour("high")]], showscale: !narrow(element),
          colorbar: narrow(element) ? undefined : { title: { text: "% in common", side: "right" }, thickness: 12, outlinewidth: 0 },
          text: small ? undefined : rows.map((row) => rows.map((column) => (cell(row, column) ? `${percent(cell(row, column).share, 1)}%<br>lot: ${percent(cell(row, column).chance, 1)}%` : ""))),
          texttemplate: small ? undefined : "%{text}", textfont: { size: 12 },
          customdata: rows.map((row) => rows.map((column) => (cell(row, column) ? `${nameOf(board, row, 40)} and ${nameOf(board, column, 40)}<br>${percent(cell(row, column).share, 1)}% in common, by lot ${percent(cell(row, column).chance, 1)}%<br>${cell(row, column).seeds} seeds` : ""))),
          hovertemplate: "%{customdata}<extra></extra>",
        }],
        layout: {
          height: Math.max(300, 120 + Math.min(52, 1400 / rows.length) * rows.length), margin: { l: 58, r: 14, t: 14, b: 24 },
          xaxis: { tickvals: rows.map((_, place) => place), ticktext: names, side: "top", showgrid: false, zeroline: false, tickangle: rows.length > 6 || narrow(element) ? -50 : 0, automargin: true },
          yaxis: { tickvals: rows.map((_, place) => place), ticktext: names, autorange: "reversed", showgrid: false, zeroline: false, automargin: true },
          annotations: [{ text: `${labels.toLocaleString("en")} labels`, showarrow: false, xref: "paper", yref: "paper", x: 1, y: -0.02, xanchor: "right", yanchor: "top", font: { color: colour("muted"), size: 12 } }],
        },
        table: { columns: ["labels", "method", "and", "in common, %", "by lot, %", "seeds"], rows: figure.data.rows.filter((row) => row[0] === labels).map(([at, one, other, share, chance, seeds]) => [at, board.methods[one], board.methods[other], percent(share), percent(chance), seeds]) },
      };
    },
  };

  // ---------------------------------------------------------------- drawing: only what is in view, unless all is asked for
  const figures = {};
  for (const [key, figure] of Object.entries(data.figures)) figures[key] = { ...figure, key, element: $(key), inView: false, stale: true, log: false, column: "" };
  window.__drawn = { total: Object.keys(figures).length, counts: {}, errors: [] };

  function layoutFor(element, layout) {
    const ink = colour("ink");
    const axis = { gridcolor: colour("grid"), zerolinecolor: colour("strong-line"), linecolor: colour("strong-line"), tickcolor: colour("strong-line"), automargin: true, fixedrange: true };
    return {
      autosize: true, paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", showlegend: false, hovermode: "closest", dragmode: false,
      font: { family: getComputedStyle(document.body).fontFamily, color: ink, size: 13 }, margin: { l: 58, r: 14, t: 14, b: 52 },
      hoverlabel: { bgcolor: colour("raised"), bordercolor: colour("strong-line"), font: { color: ink }, align: "left" },
      ...(onScreen === null ? {} : { autosize: false, width: PAPER_WIDTH }),
      ...layout, xaxis: titled({ ...axis, ...layout.xaxis }), yaxis: titled({ ...axis, ...layout.yaxis }),
    };
  }
  const titled = (axis) => (axis.title ? { ...axis, title: { ...axis.title, font: { size: 12.5, color: colour("muted") } } } : axis);
  function draw(figure) {
    const board = boards[figure.board];
    if (board.section.hidden) return;
    figure.stale = false;
    try {
      const { traces, layout, note, hint } = KINDS[figure.kind](board, figure, figure.element);
      const line = document.querySelector(`[data-note="${figure.key}"]`);
      line.textContent = [note, hint].filter(Boolean).join(" ");
      line.classList.toggle("hint", !note);
      line.hidden = !line.textContent;
      figure.element.style.minHeight = `${layout.height}px`;
      Plotly.react(figure.element, traces, layoutFor(figure.element, layout), { displayModeBar: false, responsive: true });
      window.__drawn.counts[figure.key] = (window.__drawn.counts[figure.key] || 0) + 1;
    } catch (error) {
      window.__drawn.errors.push(`${figure.key}: ${error}`);
      throw error;
    }
  }
  // Charts come after what else a change shows: first the next frame, then one chart at a time.
  let waiting = 0;
  function drawNext() {
    const next = Object.values(figures).find((figure) => figure.stale && figure.inView && !boards[figure.board].section.hidden);
    if (!next) return;
    try {
      draw(next);
    } finally {
      waiting = setTimeout(drawNext);
    }
  }
  const drawAll = () => Object.values(figures).filter((figure) => figure.stale).forEach(draw);
  window.__drawAll = drawAll;
  window.__drawing = () => Object.values(figures).some((figure) => figure.stale && figure.inView && !boards[figure.board].section.hidden);
  function refresh(concerned = () => true) {
    for (const figure of Object.values(figures)) if (concerned(figure)) figure.stale = true;
    clearTimeout(waiting);
    requestAnimationFrame(() => {
      clearTimeout(waiting);
      waiting = setTimeout(() => {
        for (const details of all("details.data[open]")) fillTable(details);
        drawNext();
      });
    });
  }
  const watcher = new IntersectionObserver((entries) => {
    for (const entry of entries) {
      const figure = figures[entry.target.id];
      figure.inView = entry.isIntersecting;
    }
    setTimeout(drawNext);
  }, { rootMargin: "300px" });
  for (const figure of Object.values(figures)) watcher.observe(figure.element);

  // ---------------------------------------------------------------- the data of a chart as a table
  function fillTable(details) {
    const figure = figures[details.dataset.table];
    const { table } = KINDS[figure.kind](boards[figure.board], figure, figure.element);
    const element = document.createElement("table");
    const caption = element.createCaption();
    caption.textContent = `${table.rows.length} rows`;
    const head = element.createTHead().insertRow();
    for (const text of table.columns) {
      const cell = document.createElement("th");
      cell.scope = "col";
      cell.textContent = text;
      head.append(cell);
    }
    const body = element.createTBody();
    for (const row of table.rows) {
      const line = body.insertRow();
      for (const value of row) line.insertCell().textContent = typeof value === "number" ? String(+value.toPrecision(6)) : value;
    }
    details.querySelector(".scroll").replaceChildren(element);
  }
  for (const details of all("details.data")) details.addEventListener("toggle", () => details.open && fillTable(details));

  // ---------------------------------------------------------------- controls of single charts
  function choice(label, options, chosen) {
    const wrap = document.createElement("label");
    const select = document.createElement("select");
    for (const text of options) select.add(new Option(text, text));
    select.addEventListener("change", () => chosen(select.value));
    wrap.append(`${label} `, select);
    return wrap;
  }
  function tick(label, chosen) {
    const wrap = document.createElement("label");
    const box = document.createElement("input");
    box.type = "checkbox";
    box.addEventListener("change", () => chosen(box.checked, box));
    wrap.append(box, ` ${label}`);
    return wrap;
  }
  for (const figure of Object.values(figures)) {
    const controls = document.querySelector(`[data-controls="${figure.key}"]`);
    const board = boards[figure.board];
    if (figure.kind === "cost") {
      controls.append(choice("Cost", Object.keys(figure.data.columns), (column) => { figure.column = column; refresh((other) => other === figure); }));
      controls.append(tick("logarithmic", (log) => { figure.log = log; refresh((other) => other === figure); }));
    }
    if (["areas", "curves", "cost", "convergence"].includes(figure.kind)) {
      controls.append(tick("zoom accuracy to the data", (zoom, box) => {
        board.zoom = zoom;
        for (const other of all("input[data-zoom]", board.section)) other.checked = zoom;
        refresh((other) => other.board === figure.board);
      }));
      controls.lastChild.querySelector("input").dataset.zoom = "";
    }
    const save = document.createElement("button");
    save.type = "button";
    save.className = "quiet";
    save.textContent = "Save as SVG";
    save.addEventListener("click", async () => {
      if (figure.stale) draw(figure);
      const uri = await Plotly.toImage(figure.element, { format: "svg", width: Math.max(700, figure.element.clientWidth), height: figure.element.clientHeight });
      download(`${figure.key}.svg`, decodeURIComponent(uri.slice(uri.indexOf(",") + 1)), "image/svg+xml");
    });
    controls.append(save);
  }

  // ---------------------------------------------------------------- methods of a board: which are drawn
  const SHAPES = {
    circle: "M-4.5,0a4.5,4.5 0 1,0 9,0a4.5,4.5 0 1,0 -9,0", square: "M-4,-4h8v8h-8z", diamond: "M0,-5.5L5.5,0L0,5.5L-5.5,0z",
    "triangle-up": "M0,-5L5,4H-5z", "triangle-down": "M0,5L5,-4H-5z", cross: "M-5,-1.7h3.3v-3.3h3.4v3.3h3.3v3.4h-3.3v3.3h-3.4v-3.3h-3.3z",
    x: "M0,-2.4L2.6,-5L5,-2.6L2.4,0L5,2.6L2.6,5L0,2.4L-2.6,5L-5,2.6L-2.4,0L-5,-2.6L-2.6,-5z",
    star: "M0,-6L1.6,-2L6,-1.9L2.6,0.9L3.7,5.2L0,2.8L-3.7,5.2L-2.6,0.9L-6,-1.9L-1.6,-2z", hexagon: "M-4.5,-2.6L0,-5.2L4.5,-2.6V2.6L0,5.2L-4.5,2.6z",
  };
  const DASHARRAYS = { solid: "", dash: "5 3", dot: "2 2", dashdot: "6 2 2 2", longdash: "8 3" };
  const svg = (name, attributes) => {
    const element = document.createElementNS("http://www.w3.org/2000/svg", name);
    for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
    return element;
  };
  function swatch(number) {
    const style = styleOf(number);
    const picture = svg("svg", { width: 30, height: 14, viewBox: "-15 -7 30 14", "aria-hidden": "true" });
    picture.append(svg("line", { x1: -15, x2: 15, y1: 0, y2: 0, stroke: style.color, "stroke-width": 2, "stroke-dasharray": DASHARRAYS[style.dash] }), svg("path", { d: SHAPES[style.symbol], fill: style.color }));
    return picture;
  }
  function buildLegend(board) {
    const legend = $(`${board.key}-legend`);
    const focused = legend.contains(document.activeElement) ? document.activeElement.dataset.number : null;
    const button = (text, number, act) => {
      const element = document.createElement("button");
      const label = document.createElement("span");
      element.type = "button";
      element.title = text;
      element.dataset.number = number;
      label.textContent = text;
      element.append(label);
      element.addEventListener("click", () => { act(); buildLegend(board); refresh((figure) => figure.board === board.key); });
      return element;
    };
    const buttons = board.order.map((number) => {
      const element = button(board.methods[number], number, () => (board.shown.has(number) ? board.shown.delete(number) : board.shown.add(number)));
      element.prepend(swatch(number));
      element.setAttribute("aria-pressed", String(board.shown.has(number)));
      return element;
    });
    if (board.order.length > 3) {
      for (const [text, methods] of [["all", board.order], ["none", []]]) {
        const element = button(text, text, () => { board.shown = new Set(methods); });
        element.className = "all";
        buttons.push(element);
      }
    }
    const drawn = document.createElement("span");
    drawn.className = "muted";
    drawn.textContent = `Drawn in the charts: ${board.shown.size} of ${board.order.length}`;
    legend.replaceChildren(drawn, ...buttons);
    if (focused !== null) [...legend.querySelectorAll("button")].find((element) => element.dataset.number === focused)?.focus();
  }

  // ---------------------------------------------------------------- sorting
  function sort(button) {
    const heading = button.closest("th");
    const table = heading.closest("table");
    const column = all("thead button.sort", table).indexOf(button);
    const before = heading.getAttribute("aria-sort");
    const text = button.dataset.kind === "text";
    const rising = before ? before === "descending" : text || ["Rank", "Mean rank"].includes(button.firstChild.textContent.trim());
    const key = (row) => {
      const value = row.cells[column].dataset.value;
      return text && Number.isNaN(Number(value)) ? value.toLowerCase() : value === "" || value === undefined ? null : value === "inf" ? Infinity : Number(value);
    };
    const body = table.tBodies[0];
    const rows = [...body.rows].map((row) => ({ row, value: key(row) }));
    rows.sort(({ value: one }, { value: other }) => {
      if (one === null || other === null) return (one === null) - (other === null);
      const order = typeof one === "string" || typeof other === "string" ? String(one).localeCompare(String(other), "en", { numeric: true }) : one - other;
      return rising ? order : -order;
    });
    body.append(...rows.map(({ row }) => row));
    for (const other of all("th[aria-sort]", table)) other.removeAttribute("aria-sort");
    heading.setAttribute("aria-sort", rising ? "ascending" : "descending");
  }
  for (const button of all("button.sort")) button.addEventListener("click", () => sort(button));

  // ---------------------------------------------------------------- filtering
  const named = all("[data-method]").map((element) => ({ element, name: element.dataset.method.toLowerCase(), exhibit: element.classList.contains("exhibit") }));
  const budgeted = all("section.board").map((section) => ({ section, columns: all(".column", section), at: all(".at", section), texts: all(".at-budget", section) }));
  const tasked = all("[data-task]");
  let budgetShown = "";
  function applyBudget() {
    for (const { section, columns, at, texts } of budgeted) {
      const headings = boards[section.dataset.board].budgets.map((budget) => budget.heading);
      const has = headings.includes(state.budget);
      const heading = has ? state.budget : section.dataset.last;
      for (const cell of columns) cell.hidden = has && cell.dataset.heading !== heading;
      for (const cell of at) cell.hidden = cell.dataset.heading !== heading;
      for (const text of texts) text.textContent = text.dataset.text.replace("{}", heading) + (state.budget && !has ? ` (This board has no budget of ${state.budget}.)` : "");
    }
    budgetShown = state.budget;
  }
  function filter() {
    const began = performance.now();
    state.task = $("task").value;
    state.protocol = $("protocol").value;
    state.budget = $("budget").value;
    state.method = $("method").value.trim().toLowerCase();
    for (const element of tasked) element.hidden = (state.task !== "" && element.dataset.task !== state.task) || (state.protocol !== "" && element.dataset.protocol !== state.protocol);
    if (state.budget !== budgetShown) applyBudget();
    for (const { element, name, exhibit } of named) {
      const hidden = state.method !== "" && !name.includes(state.method);
      if (!exhibit) element.hidden = hidden;
      else {
        const heading = headingOf(element);
        element.hidden = hidden || element.dataset.heading !== heading;
      }
    }
    const shown = Object.values(boards).filter((board) => !board.section.hidden);
    $("nothing").hidden = shown.length > 0;
    const methods = new Set(shown.flatMap((board) => board.order.filter((number) => fits(board, number)).map((number) => board.methods[number])));
    const total = new Set(Object.values(boards).flatMap((board) => board.methods));
    $("status").textContent = `${shown.length} of ${Object.keys(boards).length} boards, ${methods.size} of ${total.size} methods`;
    refresh();
    window.__filterMilliseconds = performance.now() - began;
  }
  const headingOf = (element) => {
    const section = element.closest("section.board");
    return boards[section.dataset.board].budgets.some((budget) => budget.heading === state.budget) ? state.budget : section.dataset.last;
  };
  $("filters").addEventListener("submit", (event) => event.preventDefault());
  for (const id of ["task", "protocol", "budget"]) $(id).addEventListener("change", filter);
  $("method").addEventListener("input", filter);

  // ---------------------------------------------------------------- theme, downloads, links, print
  const buttonText = () => {
    $("theme").textContent = isDark() ? "Light" : "Dark";
    $("theme").setAttribute("aria-label", isDark() ? "Switch to light colours" : "Switch to dark colours");
  };
  function recolour() {
    buttonText();
    Object.values(boards).forEach(buildLegend);
    refresh();
  }
  $("theme").removeAttribute("aria-pressed");
  $("theme").addEventListener("click", () => { root.dataset.theme = isDark() ? "light" : "dark"; recolour(); });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", recolour);

  function download(name, content, type) {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([content], { type }));
    link.download = name;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10000);
  }
  function readCsv(text) {
    const rows = [[""]];
    let quoted = false;
    for (let at = 0; at < text.length; at++) {
      const character = text[at];
      const row = rows[rows.length - 1];
      if (quoted && character === '"' && text[at + 1] === '"') { row[row.length - 1] += '"'; at++; }
      else if (character === '"') quoted = !quoted;
      else if (!quoted && character === ",") row.push("");
      else if (!quoted && character === "\n") rows.push([""]);
      else row[row.length - 1] += character;
    }
    const [names, ...lines] = rows.filter((row) => row.length > 1);
    const texts = new Set(["run", "cell", "dataset", "model", "method", "status", "reason"]);
    return lines.map((line) => Object.fromEntries(names.map((name, at) => [name, texts.has(name) ? line[at] : line[at] === "" ? null : Number(line[at])])));
  }
  async function unpack(packed) {
    const bytes = Uint8Array.from(atob(packed), (character) => character.charCodeAt(0));
    return new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"))).text();
  }
  window.__results = (key) => unpack(data.results[key].csv);
  for (const button of all("[data-download]")) {
    button.addEventListener("click", async () => {
      const { name, csv } = data.results[button.dataset.board];
      const text = await unpack(csv);
      const file = name.replace(/[^\w.-]+/g, "-").slice(0, 80) || "results";
      if (button.dataset.download === "csv") download(`${file}.csv`, text, "text/csv;charset=utf-8");
      else download(`${file}.json`, JSON.stringify(readCsv(text), null, 1), "application/json");
    });
  }
  const openTarget = () => {
    const target = location.hash.length > 1 && $(decodeURIComponent(location.hash.slice(1)));
    if (target && target.tagName === "DETAILS") target.open = true;
  };
  addEventListener("hashchange", openTarget);
  addEventListener("beforeprint", () => {
    onScreen = onScreen === null ? root.dataset.theme || "" : onScreen;
    root.dataset.theme = "light";
    recolour();
    drawAll();
  });
  addEventListener("afterprint", () => {
    if (onScreen) root.dataset.theme = onScreen;
    else delete root.dataset.theme;
    onScreen = null;
    recolour();
  });
  if (location.search === "?all") addEventListener("load", drawAll);

  recolour();
  filter();
  openTarget();
})();
