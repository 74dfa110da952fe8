"use strict";

const DATA = JSON.parse(document.getElementById("data").textContent);
const COLORS = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8d6e9f",
  "#7a7a00", "#994455", "#44aa99"];
const state = {
  hidden: new Set(), split: Object.keys(DATA.splits)[0] ?? null, metric: null, eyes: "",
  cell: null, sort: null, descending: true,
};
const $ = id => document.getElementById(id);
const colorOf = run => COLORS[DATA.runs.indexOf(run) % COLORS.length];
const shown = () => DATA.runs.filter(run => !state.hidden.has(run.name));
const percent = share => share == null ? "" : (100 * share).toFixed(1) + " %";
const scoreName = () => DATA.runs.some(run => run.results[state.split]?.miou != null)
  ? "miou" : "accuracy";
const scoreOf = run => run.results[state.split]?.[scoreName()];

/** An element with attributes and children; text is never read as HTML. */
function el(name, attributes = {}, ...children) {
  const svg = ["svg", "path", "circle", "line", "text", "title"].includes(name);
  const node = svg ? document.createElementNS("http://www.w3.org/2000/svg", name)
    : document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (key.startsWith("on")) node.addEventListener(key.slice(2), value);
    else if (value != null) node.setAttribute(key, value);
  }
  node.append(...children.filter(child => child != null));
  return node;
}

function tip(event, text) {
  $("tip").hidden = !text;
  $("tip").textContent = text ?? "";
  if (!text) return;
  $("tip").style.left = Math.min(event.clientX + 14, innerWidth - 260) + "px";
  $("tip").style.top = event.clientY + 14 + "px";
}
const hints = text => ({ onmousemove: event => tip(event, text), onmouseleave: e => tip(e, null) });

// the table

function columns() {
  const names = Object.keys(DATA.splits);
  const label = { miou: "mIoU", accuracy: "accuracy" };
  return [
    ["run", run => run.name, run => run.name],
    ["model", run => run.model, run => run.model],
    ["weights", run => run.weights, run => run.weights?.toLocaleString("en")],
    ["best epoch", run => run.best, run => run.best == null ? "" : `${run.best} of ${run.epochs}`],
    ["time", run => run.seconds, run => run.seconds == null ? "" : duration(run.seconds)],
    ...names.flatMap(name => ["miou", "accuracy"]
      .filter(key => DATA.runs.some(run => run.results[name]?.[key] != null))
      .map(key => [`${name}: ${label[key]}`, run => run.results[name]?.[key],
        run => percent(run.results[name]?.[key])])),
  ];
}

function duration(seconds) {
  const minutes = Math.floor(seconds / 60);
  return minutes ? `${minutes} min ${Math.round(seconds % 60)} s` : `${seconds.toFixed(1)} s`;
}

function drawTable() {
  const all = columns();
  const rows = [...DATA.runs];
  if (state.sort != null) {
    const value = all[state.sort][1];
    rows.sort((a, b) => {
      const [x, y] = [value(a), value(b)];
      if (x == null || y == null) return (x == null) - (y == null);
      return (state.descending ? -1 : 1) * (x < y ? -1 : x > y ? 1 : 0);
    });
  }
  const sortBy = index => () => {
    state.descending = state.sort === index ? !state.descending : true;
    state.sort = index;
    drawTable();
  };
  const arrow = index => index !== state.sort ? "" : state.descending ? " ↓" : " ↑";
  const head = el("tr", {}, ...all.map(([name], index) =>
    el("th", { onclick: sortBy(index), scope: "col" }, name + arrow(index))));
  const body = rows.map(run => {
    const toggle = () => {
      if (!state.hidden.delete(run.name)) state.hidden.add(run.name);
      draw();
    };
    const options = Object.entries(run.options).map(([k, v]) => `${k}=${v}`).join(", ");
    const cells = all.map(([name, , text]) => {
      const mark = name === "run" ? el("b", { style: `background: ${colorOf(run)}` }) : null;
      return el("td", name === "model" && options ? hints(options) : {}, mark, text(run) ?? "");
    });
    const hidden = state.hidden.has(run.name) ? "hidden" : null;
    return el("tr", { onclick: toggle, class: hidden, "data-run": run.name }, ...cells);
  });
  $("runs").replaceChildren(el("thead", {}, head), el("tbody", {}, ...body));
}

// charts

function ticks(low, high) {
  const step = 10 ** Math.floor(Math.log10((high - low) / 2 || 1));
  const wide = [1, 2, 5, 10].map(k => k * step).find(size => (high - low) / size <= 6) ?? step;
  const first = Math.ceil(low / wide - 1e-9);
  const count = Math.floor(high / wide + 1e-9) - first;
  return Array.from({ length: count + 1 }, (_, i) => +((first + i) * wide).toPrecision(12));
}

/** An SVG with axes; returns it and the two scales. */
function chart({ x, y, width, height, xLabel, yLabel, log = false, share = false }) {
  const pad = { left: 62, right: 16, top: 30, bottom: 42 };
  const scale = (values, from, to, logarithmic) => {
    const f = logarithmic ? Math.log10 : v => v;
    let [low, high] = [Math.min(...values), Math.max(...values)].map(f);
    const room = (high - low) * 0.06 || Math.abs(high) * 0.05 || 1;
    [low, high] = [low - room, high + room];
    const map = v => from + (f(v) - low) / (high - low) * (to - from);
    map.ends = [low, high];
    return map;
  };
  const across = scale(x, pad.left, width - pad.right, log);
  const up = scale(y, height - pad.bottom, pad.top, false);
  const svg = el("svg", { viewBox: `0 0 ${width} ${height}`, width, height, role: "img",
    "aria-label": `${yLabel} against ${xLabel}` });
  const number = v => share ? +(100 * v).toFixed(6) + " %" : String(v);
  for (const v of ticks(...up.ends)) {
    svg.append(el("line", { class: "axis", x1: pad.left, x2: width - pad.right, y1: up(v),
      y2: up(v) }), el("text", { x: pad.left - 8, y: up(v) + 4, "text-anchor": "end" }, number(v)));
  }
  const short = v => v >= 1e6 ? v / 1e6 + " M" : v >= 1e4 ? v / 1e3 + " k" : String(v);
  const below = log ? decades(...across.ends) : ticks(...across.ends).filter(Number.isInteger);
  for (const v of below) {
    svg.append(el("text", { x: across(v), y: height - pad.bottom + 18, "text-anchor": "middle" },
      short(v)));
  }
  svg.append(el("text", { x: (pad.left + width) / 2, y: height - 6, "text-anchor": "middle" },
    xLabel), el("text", { x: 4, y: 12 }, yLabel));
  return { svg, across, up };
}

function decades(low, high) {
  const values = [];
  for (let power = Math.floor(low); power <= Math.ceil(high); power++) {
    for (const k of [1, 2, 5]) values.push(+(k * 10 ** power).toPrecision(3));
  }
  const inside = v => Math.log10(v) >= low && Math.log10(v) <= high;
  if (values.filter(inside).length > 2) return values.filter(inside);
  const unit = 10 ** Math.floor(low);  // within one decade
  return ticks(10 ** low, 10 ** high).filter(v => inside(v) && v > unit / 10);
}

function drawCurves() {
  const key = state.metric;
  const runs = shown().filter(run => run.curves[key]);
  const curve = run => run.curves[key].map((y, i) => [run.curves.epoch[i], y])
    .filter(([, y]) => y != null);
  const points = runs.flatMap(curve);
  if (!points.length) return $("curves").replaceChildren(el("p", {}, "Nothing to draw."));
  const share = /accuracy|iou|top\d/.test(key);
  const { svg, across, up } = chart({ x: points.map(p => p[0]), y: points.map(p => p[1]),
    width: 1080, height: 360, xLabel: "epoch", yLabel: key, share });
  for (const run of runs) {
    const line = curve(run);
    const path = line.map(([x, y], i) => `${i ? "L" : "M"}${across(x)},${up(y)}`).join("");
    svg.append(el("path", { d: path, fill: "none", stroke: colorOf(run), "stroke-width": 2,
      "data-run": run.name }));
    for (const [x, y] of line) {
      const text = `${run.name}, epoch ${x}: ${share ? percent(y) : y}`;
      svg.append(el("circle", { cx: across(x), cy: up(y), r: x === run.best ? 5 : 2.5,
        fill: colorOf(run), ...hints(x === run.best ? text + " (best)" : text) }));
    }
  }
  $("curves").replaceChildren(svg);
}

function drawCosts() {
  const label = `${state.split}: ${scoreName() === "miou" ? "mIoU" : "accuracy"}`;
  const charts = [["weights", run => run.weights], ["training time, s", run => run.seconds]]
    .map(([name, cost]) => {
      const runs = shown().filter(run => cost(run) > 0 && scoreOf(run) != null);
      if (!runs.length) return null;
      const { svg, across, up } = chart({ x: runs.map(cost), y: runs.map(scoreOf), width: 520,
        height: 330, xLabel: name, yLabel: label, log: true, share: true });
      for (const run of runs) {
        const text = `${run.name}: ${percent(scoreOf(run))}, ${cost(run).toLocaleString("en")}`;
        svg.append(el("circle", { cx: across(cost(run)), cy: up(scoreOf(run)), r: 6,
          fill: colorOf(run), "data-run": run.name, ...hints(text) }));
      }
      return svg;
    }).filter(Boolean);
  $("costs").replaceChildren(...(charts.length ? charts : [el("p", {}, "No test results yet.")]));
}

// confusion

function drawConfusion() {
  const runs = shown().filter(run => run.results[state.split]?.confusion);
  $("confusion").replaceChildren(...runs.map(run => {
    const { confusion, classes } = run.results[state.split];
    const small = classes.length > 16 ? " small" : "";
    const rows = confusion.map((counts, i) => {
      const total = counts.reduce((a, b) => a + b, 0);
      const cells = counts.map((count, j) => {
        const share = total ? count / total : 0;
        const base = i === j ? "0, 114, 178" : "213, 94, 0";
        const text = `${classes[i]} taken for ${classes[j]}: ${count} of ${total}`;
        const ink = share > 0.55 ? "; color: #fff" : "";
        const chosen = state.cell && state.cell.run === run.name
          && state.cell.label === classes[i] && state.cell.guess === classes[j];
        return el("td", { style: `background: rgba(${base}, ${share ? 0.08 + 0.85 * share : 0})${ink}`,
          class: chosen ? "chosen" : null, "data-cell": `${i},${j}`, ...hints(text),
          onclick: () => {
            state.cell = chosen ? null : { run: run.name, label: classes[i], guess: classes[j] };
            state.eyes = run.name;
            draw();
          } }, count ? String(count) : "");
      });
      return el("tr", {}, el("th", { scope: "row" }, classes[i]), ...cells);
    });
    const heads = classes.map(name => el("th", { scope: "col" }, el("span", {}, name)));
    const title = el("figcaption", { style: `color: ${colorOf(run)}` }, run.name);
    return el("figure", { "data-run": run.name }, title,
      el("table", { class: "matrix" + small },
        el("thead", {}, el("tr", {}, el("td", {}), ...heads)), el("tbody", {}, ...rows)));
  }));
}

// samples

function bytes(text) {
  return Uint8Array.from(atob(text), letter => letter.charCodeAt(0));
}

const HOME = { azimuth: -58 * Math.PI / 180, elevation: 24 * Math.PI / 180, zoom: 1 };

/** Draws a cloud as seen from a direction, far points first; colors are bytes, three a point. */
function drawCloud(canvas, points, colors, view) {
  const size = canvas.width;
  const context = canvas.getContext("2d");
  context.clearRect(0, 0, size, size);
  const [sa, ca] = [Math.sin(view.azimuth), Math.cos(view.azimuth)];
  const [se, ce] = [Math.sin(view.elevation), Math.cos(view.elevation)];
  const count = points.length / 3;
  const seen = new Array(count);
  for (let i = 0; i < count; i++) {
    const [x, y, z] = [points[3 * i] / 16384, points[3 * i + 1] / 16384, points[3 * i + 2] / 16384];
    const near = x * ce * ca + y * ce * sa + z * se;
    const k = view.zoom * 6 / Math.max(6 - near, 1) * size * 0.42;
    seen[i] = [size / 2 + (y * ca - x * sa) * k,
      size / 2 - (z * ce - se * (x * ca + y * sa)) * k, near, i];
  }
  seen.sort((a, b) => a[2] - b[2]);
  const radius = size / 400 * Math.min(5, Math.max(2, 60 / Math.sqrt(count))) * Math.sqrt(view.zoom);
  for (const [x, y, near, i] of seen) {
    if (colors) {
      context.fillStyle = `rgb(${colors[3 * i]}, ${colors[3 * i + 1]}, ${colors[3 * i + 2]})`;
    } else {
      const t = Math.min(1, Math.max(0, near / 2 + 0.5));
      context.fillStyle = `rgb(${190 - 179 * t}, ${214 - 140 * t}, ${232 - 115 * t})`;
    }
    context.beginPath();
    context.arc(x, y, radius, 0, 2 * Math.PI);
    context.fill();
  }
}

function cloudCanvas(sample, name) {
  const canvas = el("canvas", { width: 400, height: 400, tabindex: 0, role: "img",
    "aria-label": `point cloud ${name}` });
  const points = new Int16Array(bytes(sample.points).buffer);
  const parts = sample.truth && bytes(sample.parts[state.eyes] ?? sample.truth);
  const colors = parts && Array.from(parts, part => DATA.colors[part]).flat();
  const view = { ...HOME };
  const redraw = () => drawCloud(canvas, points, colors, view);
  const turn = (across, up) => {
    view.azimuth -= across;
    view.elevation = Math.min(1.5, Math.max(-1.5, view.elevation + up));
    redraw();
  };
  canvas.addEventListener("pointerdown", event => canvas.setPointerCapture(event.pointerId));
  canvas.addEventListener("pointermove", event => {
    if (event.buttons & 1) turn(event.movementX / 90, event.movementY / 90);
  });
  canvas.addEventListener("wheel", event => {
    event.preventDefault();
    view.zoom = Math.min(8, Math.max(0.4, view.zoom * Math.exp(-event.deltaY / 500)));
    redraw();
  }, { passive: false });
  canvas.addEventListener("dblclick", () => { Object.assign(view, HOME); redraw(); });
  canvas.addEventListener("keydown", event => {
    const step = { ArrowLeft: [-0.15, 0], ArrowRight: [0.15, 0], ArrowUp: [0, -0.15],
      ArrowDown: [0, 0.15] }[event.key];
    if (!step) return;
    event.preventDefault();
    turn(...step);
  });
  redraw();
  return canvas;
}

function imageCanvas(sample, name) {
  const [width, height] = sample.size;
  const canvas = el("canvas", { width, height, class: "image", role: "img",
    "aria-label": `image ${name}` });
  const pixels = bytes(sample.pixels);
  const image = new ImageData(width, height);
  for (let i = 0; i < width * height; i++) {
    image.data.set([pixels[3 * i], pixels[3 * i + 1], pixels[3 * i + 2], 255], 4 * i);
  }
  canvas.getContext("2d").putImageData(image, 0, 0);
  return canvas;
}

function drawSamples() {
  const names = shown().map(run => run.name);
  if (!names.includes(state.eyes)) state.eyes = "";
  let samples = DATA.splits[state.split] ?? [];
  const wrong = sample => {
    const eyes = state.eyes ? [state.eyes] : names;
    const verdicts = eyes.map(name => sample.runs[name]).filter(Boolean);
    return verdicts.reduce((sum, v) => sum + 1 - v.right, 0) / (verdicts.length || 1);
  };
  if (state.cell) {
    samples = samples.filter(s => s.label === state.cell.label
      && s.runs[state.cell.run]?.guess === state.cell.guess);
  }
  samples = [...samples].sort((a, b) => wrong(b) - wrong(a));
  $("all").hidden = !state.cell;
  const kept = DATA.splits[state.split]?.length ?? 0;
  $("found").textContent = state.cell
    ? `${samples.length} of ${kept} kept samples are ${state.cell.label}, taken for `
      + `${state.cell.guess} by ${state.cell.run}`
    : `${samples.length} samples`;
  $("samples").replaceChildren(...samples.map(sample => {
    const short = sample.name.split("/").pop();
    const picture = sample.points ? cloudCanvas(sample, short) : imageCanvas(sample, short);
    const lines = names.filter(name => sample.runs[name]).map(name => {
      const { right, guess, sure } = sample.runs[name];
      const text = sample.label ? `${guess} (${sure.toFixed(2)})` : guess;
      return el("p", { class: right > 0.999 ? "right" : "wrong" }, `${name}: ${text}`);
    });
    const painted = sample.truth
      ? (sample.parts[state.eyes] ? `, parts as ${state.eyes} sees them` : ", true parts") : "";
    return el("div", { class: wrong(sample) > 1e-3 ? "sample wrong" : "sample",
      "data-name": sample.name }, picture,
      el("p", {}, (sample.label ? `${short}, true: ${sample.label}` : short) + painted), ...lines);
  }));
}

// all of it

function fill(select, values, chosen) {
  select.replaceChildren(...values.map(([value, text]) =>
    el("option", { value, ...(value === chosen ? { selected: "" } : {}) }, text)));
}

function draw() {
  fill($("eyes"), [["", "all shown runs"], ...shown().map(run => [run.name, run.name])],
    state.eyes);
  drawTable();
  drawCurves();
  drawCosts();
  drawConfusion();
  drawSamples();
}

function start() {
  const metrics = [...new Set(DATA.runs.flatMap(run => Object.keys(run.curves)))]
    .filter(key => key !== "epoch");
  const first = ["val_miou", "val_accuracy", "train_loss"].find(key => metrics.includes(key));
  state.metric = first ?? metrics[0];
  fill($("metric"), metrics.map(key => [key, key]), state.metric);
  fill($("split"), Object.keys(DATA.splits).map(name => [name, name]), state.split);
  const follow = (id, key) => $(id).addEventListener("change", event => {
    state[key] = event.target.value;
    if (key !== "metric") state.cell = null;
    draw();
  });
  follow("metric", "metric");
  follow("split", "split");
  follow("eyes", "eyes");
  $("all").addEventListener("click", () => { state.cell = null; draw(); });
  draw();
}

start();
