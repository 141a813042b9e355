/* The curves of one run: loss large with evaluations as dots, four small ones below, one x axis for all.
   They are fed with deltas and keep the reader's zoom; a gap between two deltas asks for everything again. */
(() => {
  "use strict";
  const SMALL = [
    { key: "learning_rate", label: "Learning rate", show: (v) => v.toExponential(2) },
    { key: "grad_norm", label: "Gradient norm", show: (v) => v.toFixed(3) },
    { key: "tokens_per_s", label: "Tokens/s", show: (v) => Math.round(v).toLocaleString("en") },
    { key: "memory", label: "Memory", show: (v) => (v / 2 ** 30).toFixed(2) + " GiB" },
  ];
  const SMOOTH = 60; // points from which a smoothed line is drawn over the raw one
  const css = (name) => getComputedStyle(document.body).getPropertyValue(name).trim();
  const last = (list) => list[list.length - 1];

  function smoothed(values) {
    let mean = null;
    const weight = 1 - 1 / Math.min(50, Math.max(5, values.length / 30));
    return values.map((v) => (v == null ? null : (mean = mean == null ? v : weight * mean + (1 - weight) * v)));
  }

  class Curves {
    constructor(element, gap) {
      this.place = element.querySelector(".curves");
      this.gap = gap;
      this.zoom = null;
      this.clear();
      this.place.innerHTML =
        '<div class="curve-head"><span class="key key-loss">loss</span><span class="key key-smooth">smoothed</span>' +
        '<span class="key key-eval">evaluation</span><output class="curve-read"></output>' +
        '<button type="button" class="link curve-reset" hidden>Reset zoom</button></div>' +
        '<div class="curve-main" role="img"></div><div class="curve-marks"></div><div class="curve-grid"></div>';
      this.read = this.place.querySelector(".curve-read");
      this.reset = this.place.querySelector(".curve-reset");
      this.reset.addEventListener("click", () => this.unzoom());
      new ResizeObserver(() => this.fit()).observe(this.place);
      let dark = document.body.classList.contains("dark");
      new MutationObserver(() => {
        if (dark !== document.body.classList.contains("dark")) {
          dark = !dark;
          this.build();
        }
      }).observe(document.body, { attributes: true, attributeFilter: ["class"] });
    }

    clear() {
      this.run = "";
      this.cursor = 0;
      this.total = 0;
      this.columns = { step: [], loss: [], learning_rate: [], grad_norm: [], tokens_per_s: [], memory: [] };
      this.evals = [];
      this.marks = [];
    }

    add(delta) {
      if (!delta.run) { this.clear(); this.destroy(); return; }
      if (delta.from === 0) {
        const other = delta.run !== this.run;
        this.clear();
        this.run = delta.run;
        if (other) this.zoom = null;
      } else if (delta.run !== this.run || delta.from !== this.cursor) {
        this.gap();
        return;
      }
      this.cursor = delta.after;
      this.total = delta.total;
      for (const key in this.columns) this.columns[key].push(...delta.metrics[key]);
      this.evals.push(...delta.evals);
      this.marks.push(...delta.marks);
      this.draw();
    }

    data() {
      // Evaluations may fall on steps that have no point of their own: the x axis is the union of both.
      const { step, loss } = this.columns;
      const smooth = step.length >= SMOOTH ? smoothed(loss) : loss.map(() => null);
      const rows = new Map(step.map((s, i) => [s, [loss[i], smooth[i], null]]));
      for (const [s, value] of this.evals) rows.has(s) ? (rows.get(s)[2] = value) : rows.set(s, [null, null, value]);
      const xs = [...rows.keys()].sort((a, b) => a - b);
      return [xs, ...[0, 1, 2].map((k) => xs.map((x) => rows.get(x)[k]))];
    }

    draw() {
      if (!this.main) this.build();
      this.place.classList.toggle("waiting", this.columns.step.length === 0);
      this.main.setData(this.data(), false);
      for (const { key, plot } of this.small) plot.setData([this.columns.step, this.columns[key]], false);
      for (const { key, plot } of this.small) plot.root.parentElement.hidden = !this.columns[key].some((v) => v != null);
      this.place.classList.toggle("smoothing", this.columns.step.length >= SMOOTH);
      this.scale();
      this.events();
      const at = last(this.columns.step);
      const now = last(this.columns.loss);
      this.place.querySelector(".curve-main").setAttribute("aria-label",
        at === undefined ? "Loss: no points yet" : `Loss ${now == null ? "unknown" : now.toFixed(3)} at step ${at}`);
      if (this.hover == null) this.say(this.columns.step.length - 1);
    }

    events() {
      const [low, high] = this.range();
      this.place.querySelector(".curve-marks").replaceChildren(...this.marks.filter(([s]) => s >= low && s <= high)
        .map(([s, text]) => {
          const mark = document.createElement("i");
          mark.style.left = `${(100 * (s - low)) / (high - low || 1)}%`;
          mark.title = `Step ${s}: ${text}`;
          return mark;
        }));
    }

    range() {
      return this.zoom ?? [Math.min(0, this.main.data[0][0] ?? 0), Math.max(last(this.main.data[0]) ?? 0, 5)];
    }

    scale() {
      const [min, max] = this.range();
      this.moving = true;
      for (const plot of this.plots()) plot.setScale("x", { min, max });
      this.moving = false;
      this.reset.hidden = !this.zoom;
    }

    unzoom() { this.zoom = null; this.scale(); this.events(); }

    plots() { return [this.main, ...this.small.map((one) => one.plot)]; }

    destroy() {
      if (this.main) for (const plot of this.plots()) plot.destroy();
      this.main = null;
      this.place.querySelector(".curve-grid").replaceChildren();
      this.read.textContent = "";
    }

    axes(size, show, small) {
      const line = css("--line"), ink = css("--ink-2");
      const font = "11px " + css("--font");
      const common = { stroke: ink, font, grid: { stroke: line, width: 1 }, ticks: { show: false } };
      return [
        { ...common, grid: { show: false }, size: 22, space: small ? 60 : 70, gap: 4,
          values: (_, v) => v.map((x) => (Number.isInteger(x) ? x.toLocaleString("en") : "")) },
        { ...common, size, space: small ? 26 : 36, gap: 6, values: (_, v) => v.map((x) => (x == null ? "" : show(x))) },
      ];
    }

    options(width, height, series, axes, key) {
      const self = this;
      return {
        width, height, series, axes,
        legend: { show: false },
        scales: { x: { time: false, range: (_, min, max) => [min, max] }, y: { range: (u, min, max) => padded(min, max) } },
        cursor: { y: false, sync: { key, setSeries: false }, drag: { x: true, y: false, uni: 20 }, points: { size: 7 },
          bind: { dblclick: () => () => { self.unzoom(); return null; } } },
        hooks: {
          setScale: [(u, scale) => {
            if (scale !== "x" || self.moving || !u.scales.x || u.scales.x.min == null) return;
            const { min, max } = u.scales.x;
            const [low, high] = self.main === u || self.small.some((one) => one.plot === u) ? self.range() : [min, max];
            if (min === low && max === high) return;
            self.zoom = [min, max];
            self.scale();
            self.events();
          }],
          setCursor: [(u) => {
            if (!self.main || u !== self.main) return;
            const at = u.cursor.idx;
            self.hover = at ?? null;
            self.say(at == null ? self.columns.step.length - 1 : at, at != null);
          }],
        },
        padding: [8, 10, 0, 0],
      };
    }

    say(index, hovered) {
      const step = hovered ? this.main.data[0][index] : this.columns.step[index];
      if (step === undefined) { this.read.textContent = ""; return; }
      const row = this.columns.step.indexOf(step);
      const parts = [`step ${step.toLocaleString("en")}`];
      if (row >= 0 && this.columns.loss[row] != null) parts.push(`loss ${this.columns.loss[row].toFixed(4)}`);
      const evaluated = this.evals.find(([s]) => s === step);
      if (evaluated && evaluated[1] != null) parts.push(`evaluation ${evaluated[1].toFixed(4)}`);
      this.read.textContent = parts.join("  ·  ");
      for (const one of this.small) {
        const value = row >= 0 ? this.columns[one.key][row] : null;
        one.value.textContent = value == null ? "–" : one.show(value);
      }
    }

    build() {
      this.destroy();
      const accent = css("--adapted"), base = css("--base"), ink = css("--ink");
      const key = `curves-${Math.random()}`;
      const width = this.wide() || 600;
      const eager = { spanGaps: true };
      this.small = [];
      this.main = new uPlot(this.options(width, 300, [
        {},
        { label: "loss", stroke: accent, width: 1.6, points: { show: false }, ...eager, alpha: 1 },
        { label: "smoothed", stroke: accent, width: 2.2, points: { show: false }, ...eager },
        { label: "evaluation", stroke: ink, paths: () => null,
          points: { show: true, size: 8, width: 2, stroke: ink, fill: css("--surface") } },
      ], this.axes(46, (v) => short(v)), key), [[], [], [], []], this.place.querySelector(".curve-main"));
      const grid = this.place.querySelector(".curve-grid");
      this.small = SMALL.map((one) => {
        const box = document.createElement("figure");
        box.innerHTML = `<figcaption><span>${one.label}</span><output></output></figcaption>`;
        grid.append(box);
        const plot = new uPlot(this.options(200, 96, [
          {}, { label: one.label, stroke: base, width: 1.5, points: { show: false }, ...eager },
        ], this.axes(52, (v) => (one.key === "memory" ? one.show(v).replace(" GiB", " G") : short(v)), true), key),
        [[], []], box);
        return { ...one, plot, value: box.querySelector("output") };
      });
      this.fit();
      if (this.columns.step.length || this.evals.length) this.draw();
    }

    wide() { return this.place.querySelector(".curve-main").clientWidth; }

    fit() {
      if (!this.main) return;
      const width = this.wide();
      if (!width) return;
      const raw = this.main.series[1];
      raw.alpha = this.columns.step.length >= SMOOTH ? 0.35 : 1;
      this.main.setSize({ width, height: width < 500 ? 220 : 300 });
      for (const { plot } of this.small) {
        const box = plot.root.parentElement;
        plot.setSize({ width: box.clientWidth || 200, height: 96 });
      }
    }
  }

  function padded(min, max) {
    if (min == null) return [0, 1];
    const room = (max - min) * 0.08 || Math.abs(max) * 0.1 || 1;
    const low = min - room;
    return [min >= 0 && low < 0 ? 0 : low, max + room];
  }

  function short(v) {
    if (v === 0) return "0";
    const size = Math.abs(v);
    if (size < 1e-3) return v.toExponential(0);
    if (size >= 1e6) return (v / 1e6).toFixed(1) + "M";
    if (size >= 1e4) return (v / 1e3).toFixed(0) + "k";
    return String(Number(v.toPrecision(3)));
  }

  window.studioCurves = (element, gap) => new Curves(element, gap);
})();
