/* The curves of up to eight runs: requests to the server, and the user's axis, zoom, smoothing and choice of lines.
   A window comes as a whole, downsampled to the width of the page; new points are appended after a cursor. The user's
   settings are kept throughout. */
import { AXES, append, last, nearest, scale } from "/static/curves-maths.js";
import { marks, put, write } from "/static/curves-marks.js";
import { PANELS, Plot } from "/static/curves-plot.js";
import * as figure from "/static/curves-figure.js";
import { pulse } from "/static/pulse.js";

const MOST_NEW = 2000; // points appended before the whole window is requested again
const DASHES = [[], [9, 4], [3, 3], [12, 4, 3, 4], [6, 2], [2, 5], [14, 3], [9, 3, 2, 3, 2, 3]];
const KEPT = "lora-studio-curves";

const FRAME = `
<div class="curve-tools">
  <label>x axis <select class="curve-x">${Object.entries(AXES).map(([key, { label }]) => `<option value="${key}">${label.toLowerCase()}</option>`).join("")}</select></label>
  <label>Smoothing <input class="curve-weight" type="range" min="0" max="0.99" step="0.01"><output class="curve-weight-read"></output></label>
  <span class="curve-logs" role="group" aria-label="Logarithmic axes"><button type="button" class="curve-log" data-log="logx">Log x</button><button type="button" class="curve-log" data-log="log">Log y</button></span>
  <span class="curve-zoom" role="group" aria-label="Zoom"><button type="button" data-zoom="2" aria-label="Zoom out">−</button><button type="button" data-zoom="0.5" aria-label="Zoom in">+</button><button type="button" class="curve-reset">Whole run</button></span>
  <span class="curve-out" role="group" aria-label="Download"><button type="button" data-out="png">PNG</button><button type="button" data-out="svg">SVG</button><a data-out="csv" download>CSV</a><a data-out="zip" download title="All points as a TensorBoard event file">TensorBoard</a></span>
</div>
<div class="curve-head"><span class="curve-runs" role="group" aria-label="Runs"></span><span class="curve-kinds" role="group" aria-label="Lines"></span><output class="curve-read"></output></div>
<p class="curve-wrong" role="alert"></p>
<div class="curve-main" tabindex="0" role="application"></div>
<ul class="curve-marks" aria-label="Events of the run"></ul>
<p class="curve-key"></p>
<div class="curve-grid"></div>`;

class Curves {
  constructor(place) {
    this.place = place;
    this.runs = [];
    this.plots = [];
    this.zoom = this.hover = this.timer = null;
    this.look = { x: "step", weight: 0.6, log: false, logx: false, hidden: new Set(), ...kept() };
    place.innerHTML = FRAME;
    this.read = this.find(".curve-read");
    this.listen();
    pulse.join({ ask: (query, tab) => this.extendQuery(query, tab), hear: (answer, tab) => this.hear(answer, tab) });
    this.eye = new IntersectionObserver((seen) => {
      for (const { target, isIntersecting } of seen) for (const plot of this.plots) if (plot.place === target) plot.see(isIntersecting);
    });
    new ResizeObserver(() => this.fit()).observe(place);
    let dark = document.body.classList.contains("dark");
    new MutationObserver(() => {
      if (dark === document.body.classList.contains("dark")) return;
      dark = !dark;
      this.build();
    }).observe(document.body, { attributes: true, attributeFilter: ["class"] });
  }

  find(selector) { return this.place.querySelector(selector); }

  listen() {
    const weight = this.find(".curve-weight"), axis = this.find(".curve-x");
    [weight.value, axis.value] = [this.look.weight, this.look.x];
    const say = () => { this.find(".curve-weight-read").textContent = Number(weight.value).toFixed(2); };
    say();
    weight.addEventListener("input", () => {
      const turned = (this.look.weight > 0) !== (Number(weight.value) > 0);
      this.look.weight = Number(weight.value);
      say();
      if (turned) this.build();
      this.keep();
      this.askSoon(40);
    });
    axis.addEventListener("change", () => {
      this.look.x = axis.value;
      this.turn();
    });
    for (const log of this.place.querySelectorAll("[data-log]")) {
      const key = log.dataset.log;
      log.setAttribute("aria-pressed", this.look[key]);
      log.addEventListener("click", () => {
        this.look[key] = !this.look[key];
        log.setAttribute("aria-pressed", this.look[key]);
        this.keep();
        if (key === "logx") this.turn();
        this.build();
      });
    }
    this.place.addEventListener("click", (event) => {
      const hit = event.target.closest("[data-zoom], [data-out], [data-line], .curve-reset");
      if (!hit) return;
      if (hit.dataset.zoom) this.zoomBy(Number(hit.dataset.zoom));
      else if (hit.dataset.line) this.toggle(hit.dataset.line);
      else if (hit.dataset.out === "svg") figure.save(new Blob([figure.svg(this)], { type: "image/svg+xml" }), this.name("svg"));
      else if (hit.dataset.out === "png") figure.png(this).then((blob) => figure.save(blob, this.name("png")));
      else if (hit.classList.contains("curve-reset")) this.reset();
    });
    const main = this.find(".curve-main");
    main.addEventListener("keydown", (event) => this.key(event));
    main.addEventListener("focus", () => this.read.setAttribute("aria-live", "polite"));
    main.addEventListener("blur", () => this.read.setAttribute("aria-live", "off"));
    this.place.addEventListener("pointerdown", () => { this.held = true; });
    addEventListener("pointerup", () => { this.held = false; if (this.late) this.draw(); });
    const marks = this.find(".curve-marks");
    marks.addEventListener("pointerover", (event) => { if (event.target.title) this.read.textContent = event.target.title; });
    marks.addEventListener("pointerout", () => this.say());
  }

  /* Another x axis: request everything again. */
  turn() {
    this.zoom = this.hover = null;
    this.keep();
    for (const run of this.runs) run.data = null;
    this.askSoon(0);
  }

  keep() {
    const { x, weight, log, logx } = this.look;
    try { localStorage.setItem(KEPT, JSON.stringify({ x, weight, log, logx })); } catch { /* private window: the settings last for this page only */ }
  }

  name(ending) { return `${(this.runs[0]?.name ?? "curves").replace(/[^\w.-]+/g, "-")}.${ending}`; }

  /* message: {runs: [{id, name, live}]}, the open one first; showing the same again changes nothing. */
  show(message) {
    const before = new Map(this.runs.map((run) => [run.id, run]));
    const same = this.runs.map((run) => run.id + run.name).join() === message.runs.map((run) => run.id + run.name).join();
    if (message.runs[0]?.id !== this.runs[0]?.id) this.zoom = this.hover = null;
    // A run keeps its colour while others come and go.
    const taken = new Set(message.runs.flatMap(({ id }) => before.get(id)?.place ?? []));
    const free = () => { let n = 0; while (taken.has(n)) n += 1; taken.add(n); return n; };
    this.runs = message.runs.map(({ id, name, live }) => {
      const known = before.get(id);
      const n = known?.place ?? free();
      // Keep the same object: requests in progress and the plots refer to it.
      const run = Object.assign(known ?? { data: null }, { id, name, place: n, colour: `--run-${n + 1}`, dash: DASHES[n] });
      if (live && run.data) run.data.live = true; // it was resumed: request new points again
      return run;
    });
    if (!same) {
      for (const run of before.values()) run.asking?.abort();
      this.build();
      this.askSoon(0);
    }
  }

  askSoon(wait) {
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.ask(this.runs), wait);
  }

  /* Request the visible window of some runs at once: the server divides the number of points among them. A later request
     aborts an earlier one. */
  async ask(runs) {
    if (!runs.length) return;
    const asking = new AbortController();
    for (const run of runs) { run.asking?.abort(); run.asking = asking; }
    const { x, weight, logx } = this.look;
    const query = new URLSearchParams({ x, weight, width: this.find(".curve-main").clientWidth || 1000 });
    if (logx) query.set("log", true);
    for (const run of runs) query.append("run", run.id);
    query.set("together", this.runs.length);
    if (this.zoom) { query.set("low", this.zoom[0]); query.set("high", this.zoom[1]); }
    const answer = await this.get("/curves", query, asking);
    for (const run of runs) if (run.asking === asking) run.asking = null;
    for (const [index, data] of (answer?.runs ?? []).entries()) {
      if (data.error) this.find(".curve-wrong").textContent = data.error;
      if (data.error || !this.runs.includes(runs[index])) continue;
      data.axis = x;
      data.added = 0;
      data.toEnd = !this.zoom || this.zoom[1] >= data.extent[1];
      runs[index].data = data;
    }
    if (answer) this.draw();
  }

  async get(address, query, asking) {
    const wrong = this.find(".curve-wrong");
    try {
      const answer = await fetch(`${address}?${query}`, { signal: asking.signal });
      const data = await answer.json();
      wrong.textContent = answer.ok ? "" : data.error;
      return answer.ok ? data : null;
    } catch (error) {
      // The page itself reports a studio that is gone; an aborted request needs no message.
      if (error.name !== "AbortError") wrong.textContent = "The studio is not responding. The curves continue when it does.";
      return null;
    }
  }

  /* Ask the pulse for new points of these runs. */
  extendQuery(query, tab) {
    if (tab !== "runs") return;
    const waiting = this.runs.filter((run) => run.data?.live && !run.asking && run.data.axis === this.look.x);
    if (waiting.length) query.set("x", this.look.x);
    for (const run of waiting) query.append("curve", `${run.id}@${run.data.cursor}`);
  }

  hear(answer, tab) {
    if (tab !== "runs") return;
    this.ask(this.runs.filter((run) => !run.asking && !run.data));
    let drawn = false;
    for (const news of answer?.curves ?? []) {
      const run = this.runs.find((item) => item.id === news.run);
      if (run?.data && !run.asking && run.data.axis === this.look.x) drawn = this.take(run, news) || drawn;
    }
    if (drawn) this.draw();
  }

  /* Append new points; returns whether anything needs drawing. */
  take(run, news) {
    const data = run.data;
    data.live = news.live;
    if (news.again || data.added > MOST_NEW) { this.ask([run]); return false; }
    if (news.cursor <= data.cursor) return false;
    data.cursor = news.cursor;
    data.points = news.points;
    for (const [name, line] of Object.entries(news.lines)) {
      data.added += line.x.length;
      line.x.forEach((x, i) => {
        data.extent = data.points === 1 || !(data.extent[1] > 0) ? [Math.min(x, data.extent[0] || x), x] : [data.extent[0], Math.max(data.extent[1], x)];
        if (data.toEnd && (x > 0 || !this.look.logx)) append(data.lines[name], x, line.y[i], this.look.weight);
      });
    }
    data.marks.push(...news.marks);
    return data.toEnd; // not visible if the user has zoomed elsewhere
  }

  range() {
    if (this.zoom) return this.zoom;
    const visible = this.runs.filter((run) => run.data?.axis === this.look.x && !this.look.hidden.has(run.id));
    const low = Math.min(...visible.map((run) => run.data.extent[0])), high = Math.max(...visible.map((run) => run.data.extent[1]));
    if (!visible.length || !Number.isFinite(low)) return [0, 5];
    // The first few points do not fill the whole width; an axis whose values start near 0 starts at 0.
    const least = { step: 5, tokens: 1000, epoch: 0.01, time: 10 }[this.look.x];
    if (this.look.logx) {
      const first = Math.min(...visible.flatMap(({ data: { lines } }) => [lines.loss, lines.eval_loss].map((line) => line.x[0] ?? Infinity)));
      return Number.isFinite(first) ? [first, Math.max(high, 2 * first)] : [1, 10];
    }
    const from = low < 0.1 * high ? 0 : low;
    return [from, Math.max(high, from + least)];
  }

  zoomed(min, max) {
    if (!(max > min)) { this.plots.forEach((plot) => plot.scale()); return; }
    this.zoom = [min, max];
    this.moved();
  }

  /* The scale of the x axis. */
  get along() { return scale(this.look.logx); }

  zoomBy(factor) {
    const { to, back } = this.along, [low, high] = this.range().map(to);
    const centre = this.hover == null ? (low + high) / 2 : to(this.hover);
    this.zoomed(back(centre - (centre - low) * factor), back(centre + (high - centre) * factor));
  }

  reset() { this.zoom = null; this.moved(); }

  moved() {
    this.publishRange();
    for (const plot of this.plots) plot.scale();
    this.marks();
    this.askSoon(80);
  }

  key(event) {
    const { to, back } = this.along, [low, high] = this.range().map(to);
    const by = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (by && event.shiftKey) this.zoomed(back(low + (by * (high - low)) / 5), back(high + (by * (high - low)) / 5));
    else if (by) this.walk(by);
    else if (event.key === "+" || event.key === "=") this.zoomBy(0.5);
    else if (event.key === "-") this.zoomBy(2);
    else if (event.key === "Escape" || event.key === "0") this.reset();
    else return;
    event.preventDefault();
  }

  /* Move the cursor to the next point of the first visible line. */
  walk(by) {
    const run = this.runs.find((item) => item.data && !this.look.hidden.has(item.id));
    const main = this.plots[0]?.plot;
    const x = run?.data.lines.loss.x ?? [];
    if (!main || !x.length) return;
    const at = this.hover == null ? (by > 0 ? 0 : x.length - 1) : nearest(x, this.hover) + by;
    const to = x[Math.max(0, Math.min(x.length - 1, at))];
    main.setCursor({ left: main.valToPos(to, "x"), top: 10 });
  }

  toggle(line) {
    const { hidden } = this.look;
    if (!hidden.delete(line)) hidden.add(line);
    this.legend();
    this.draw();
  }

  hovered(x) { this.hover = x; this.say(); }

  build() {
    this.eye.disconnect();
    for (const plot of this.plots) plot.destroy();
    this.plots = [];
    const grid = this.find(".curve-grid");
    grid.replaceChildren();
    this.place.classList.toggle("waiting", !this.runs.length);
    if (!this.runs.length) return;
    const sync = `curves-${Math.random()}`;
    for (const panel of PANELS) {
      let place = this.find(".curve-main");
      if (!panel.main) {
        place = document.createElement("figure");
        place.innerHTML = `<figcaption><span>${panel.label}</span><output></output></figcaption>`;
        grid.append(place);
      }
      this.plots.push(new Plot(panel, place, this.runs, this, sync));
      this.eye.observe(place);
    }
    for (const form of ["csv", "zip"]) this.find(`[data-out=${form}]`).href = `/points/${encodeURIComponent(this.runs[0].id)}.${form}`;
    this.legend();
    this.draw();
  }

  legend() {
    const button = (key, name, swatch) => {
      const element = document.createElement("button");
      element.type = "button";
      element.dataset.line = key;
      element.setAttribute("aria-pressed", !this.look.hidden.has(key));
      element.innerHTML = swatch;
      element.append(Object.assign(document.createElement("span"), { textContent: name }), document.createElement("b"));
      return element;
    };
    this.find(".curve-runs").replaceChildren(...this.runs.map((run) => button(run.id, run.name,
      `<svg viewBox="0 0 26 8" aria-hidden="true"><path d="M0 4h26" stroke="var(${run.colour})" stroke-dasharray="${run.dash.join(" ")}"/></svg>`)));
    this.find(".curve-kinds").replaceChildren(button("train", "training", "<svg viewBox=\"0 0 26 8\" aria-hidden=\"true\"><path d=\"M0 4h26\" stroke=\"currentColor\"/></svg>"), button("eval", "evaluation", "<i></i>"));
  }

  draw() {
    // Do not disturb a selection in progress: draw when the pointer is released.
    this.late = this.held;
    if (this.held || !this.plots.length) return;
    let turned = false;
    for (const { panel, place } of this.plots) {
      const empty = !panel.main && !this.runs.some((run) => run.data?.lines[panel.key].y.length || run.data?.lines[panel.evals]?.y.length);
      if (place.hidden === empty) continue;
      place.hidden = empty;
      turned = true;
    }
    // Read sizes only if they may have changed: reading them forces a layout.
    if (turned) this.fit(); else this.margins();
    for (const plot of this.plots) plot.draw();
    this.publishRange();
    this.marks();
    this.say();
  }

  /* Publish the visible range for style sheets, other scripts and tests. */
  publishRange() { this.place.dataset.range = this.range().join(" "); }

  fit() {
    const [main, ...small] = this.plots;
    const width = main?.place.clientWidth;
    if (!width) return;
    main.size(width, width < 500 ? 230 : 310);
    for (const plot of small) if (!plot.place.hidden) plot.size(plot.place.clientWidth || 200, 100);
    this.margins();
  }

  /* Align the marks with the axis. */
  margins() {
    const { left, width } = this.plots[0].plot.bbox;
    Object.assign(this.find(".curve-marks").style, { marginLeft: `${left / devicePixelRatio}px`, width: `${width / devicePixelRatio}px` });
  }

  marks() {
    const data = this.runs[0]?.data, events = data?.axis === this.look.x ? data.marks : [];
    marks(this.find(".curve-marks"), this.find(".curve-key"), events, this.range(), this.look.logx);
  }

  /* Show the values at the cursor, or the newest ones. */
  say() {
    const seen = this.runs.filter((run) => run.data?.axis === this.look.x && !this.look.hidden.has(run.id));
    const at = (line) => {
      if (!line?.x.length) return -1;
      return this.hover == null ? line.x.length - 1 : nearest(line.x, this.hover);
    };
    this.runs.forEach((run, index) => {
      const line = run.data?.lines.loss, i = at(line);
      const value = this.find(".curve-runs").children[index]?.lastChild;
      if (value) write(value, i >= 0 ? PANELS[0].show(line.y[i]) : "");
    });
    const open = seen[0], line = open?.data.lines.loss, i = at(line);
    const axis = AXES[this.look.x];
    const parts = i < 0 ? [] : [`${axis.label.toLowerCase()} ${axis.show(line.x[i])}`, `loss ${PANELS[0].show(line.y[i])}`];
    const evals = open?.data.lines.eval_loss, near = at(evals);
    // Show an evaluation if the cursor is on it; without a cursor, the last one.
    if (near >= 0 && (this.hover == null || Math.abs(evals.x[near] - line?.x[i]) <= (this.range()[1] - this.range()[0]) / 150)) {
      parts.push(`evaluation ${PANELS[0].show(evals.y[near])}`);
    }
    if (open?.data.lost) parts.push(`${open.data.lost} without a finite loss`);
    write(this.read, seen.length || !this.runs.length ? parts.join("  ·  ") : "");
    for (const { panel, place } of this.plots) {
      if (panel.main) continue;
      const small = open?.data.lines[panel.key], j = at(small);
      write(place.querySelector("output"), j >= 0 ? panel.show(small.y[j]) : "–");
    }
    const newest = line && last(line.x) !== undefined ? `, newest ${last(line.y).toFixed(3)} at ${axis.label.toLowerCase()} ${axis.show(last(line.x))}` : ": no points yet";
    put(this.find(".curve-main"), "ariaLabel",
      `Loss of ${this.runs.map((run) => run.name).join(", ")}${newest}. Arrow keys move between points, plus and minus zoom, Escape shows the whole run.`);
  }
}

function kept() {
  try { return JSON.parse(localStorage.getItem(KEPT)) ?? {}; } catch { return {}; }
}

export const start = (element) => new Curves(element.querySelector(".curves"));
