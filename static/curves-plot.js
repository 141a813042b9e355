/* One plot of the curves: a uPlot with three lines per run (as logged, smoothed, evaluations) and its x range. */
import { AXES, Aligned, padded, short, ticks, whole } from "/static/curves-maths.js";

export const PANELS = [
  { key: "loss", evals: "eval_loss", label: "Loss", show: (v) => v.toFixed(4), log: true, main: true },
  { key: "learning_rate", label: "Learning rate", show: (v) => v.toExponential(2), log: true },
  { key: "grad_norm", label: "Gradient norm", show: (v) => short(v), log: true },
  { key: "token_accuracy", evals: "eval_token_accuracy", label: "Token accuracy", show: (v) => (100 * v).toFixed(1) + "%" },
  { key: "tokens_per_s", label: "Tokens/s", show: whole },
  { key: "step_seconds", label: "Seconds per step", show: (v) => v.toFixed(2) + " s" },
  { key: "memory", label: "Memory", show: (v) => (v / 2 ** 30).toFixed(2) + " GiB", tick: (v) => short(v / 2 ** 30) + "G" },
];
const NONE = { x: [], y: [], sx: [], sy: [] };
const DOTS = 120; // each evaluation has a dot if at most this many are visible

export const css = (name) => getComputedStyle(document.body).getPropertyValue(name).trim();

/* The lines of a panel: [{run, kind, x, y}], in the order of the plot's series. */
export function tables(panel, runs) {
  return runs.flatMap((run) => {
    const line = run.data?.lines[panel.key] ?? NONE, evals = run.data?.lines[panel.evals] ?? NONE;
    return [
      { run, kind: "raw", x: line.x, y: line.y },
      { run, kind: "smooth", x: line.sx, y: line.sy },
      { run, kind: "eval", x: evals.x, y: evals.y },
    ];
  });
}

export class Plot {
  /* owner: range(), zoomed(min, max), hovered(x), reset(), look {x, log, weight, hidden: Set of run ids and kinds} */
  constructor(panel, place, runs, owner, sync) {
    Object.assign(this, { panel, place, runs, owner });
    this.moving = false;
    this.seen = true; // until reported off-screen
    // A log axis cannot show values that are not positive.
    this.aligned = new Aligned(this.log ? (v) => (v > 0 ? v : null) : (v) => v);
    this.plot = new uPlot(this.options(sync), this.columns(), place);
  }

  /* A log axis only for panels whose values span orders of magnitude. */
  get log() { return Boolean(this.owner.look.log && this.panel.log); }

  options(sync) {
    const { panel, owner } = this;
    const log = this.log;
    return {
      width: 300, height: 100, legend: { show: false }, padding: [8, 10, 0, 0],
      series: [{}, ...tables(panel, this.runs).map((table) => this.series(table))],
      axes: this.axes(),
      scales: {
        x: { time: false, distr: owner.look.logx ? 3 : 1, range: (_, min, max) => [min, max] },
        y: { distr: log ? 3 : 1, range: (_, min, max) => padded(min, max, log) },
      },
      cursor: {
        y: false, points: { size: 7, show: true }, drag: { x: true, y: false, dist: 8 },
        sync: { key: sync, setSeries: false, filters: { pub: (type) => type === "mousemove" || type === "mouseleave" } },
        bind: { dblclick: () => () => { owner.reset(); return null; } },
      },
      hooks: {
        setScale: [(u, scale) => {
          if (scale === "x" && !this.moving && this.plot) owner.zoomed(u.scales.x.min, u.scales.x.max);
        }],
        setCursor: [(u) => {
          if (this.plot && panel.main) owner.hovered(u.cursor.left >= 0 ? u.posToVal(u.cursor.left, "x") : null);
        }],
      },
    };
  }

  axes() {
    const { panel, owner } = this;
    const common = { stroke: css("--ink-2"), font: "11px " + css("--font"), ticks: { show: false } };
    const tick = panel.tick ?? short;
    return [
      { ...common, grid: { show: false }, size: 22, gap: 4, space: panel.main ? 76 : 62,
        ...(owner.look.logx ? { splits: (u, _axis, min, max) => ticks(min, max, u.bbox.width / devicePixelRatio / 90, true), filter: (_, values) => values } : {}),
        values: (_, values) => values.map((v) => (v == null ? "" : AXES[owner.look.x].tick(v))) },
      { ...common, grid: { stroke: css("--line"), width: 1 }, gap: 6, size: panel.main ? 46 : 52,
        splits: (u, _axis, min, max) => ticks(min, max, Math.max(2, u.bbox.height / devicePixelRatio / (panel.main ? 42 : 26)), this.log),
        filter: (_, values) => values,
        values: (_, values) => values.map((v) => (v == null ? "" : tick(v))) },
    ];
  }

  series({ run, kind }) {
    const alone = this.runs.length === 1;
    const stroke = this.stroke(run, kind);
    const smoothing = this.owner.look.weight > 0;
    const common = { stroke, spanGaps: true, points: { show: false }, show: this.shown(run, kind) };
    if (kind === "raw") return { ...common, width: smoothing ? 1 : 1.7, alpha: smoothing ? 0.35 : 1, dash: smoothing ? [] : run.dash };
    if (kind === "smooth") return { ...common, width: 2, dash: run.dash };
    return { ...common, width: 1.2, dash: alone ? [2, 4] : run.dash, points: {
      size: 7, width: 1.8, stroke, fill: css("--surface"), show: (_u, _s, from, to) => to - from < 4 * DOTS && this.few(run),
    } };
  }

  stroke(run, kind) { return css(kind === "eval" && this.runs.length === 1 ? "--ink" : run.colour); }

  few(run) {
    const [low, high] = this.owner.range();
    const x = run.data?.lines[this.panel.evals]?.x ?? [];
    return x.filter((v) => v >= low && v <= high).length <= DOTS;
  }

  shown(run, kind) {
    const { hidden, weight } = this.owner.look;
    return !hidden.has(run.id) && !hidden.has(kind === "eval" ? "eval" : "train") && !(kind === "smooth" && !(weight > 0));
  }

  columns() { return this.aligned.of(tables(this.panel, this.runs).map(({ x, y }) => [x, y])); }

  /* Record whether the plot is visible: painting is most of the cost of following a run. */
  see(seen) {
    this.seen = seen;
    if (seen && this.stale) this.draw();
  }

  /* Draw the current points and range, without touching the cursor or a selection in progress. */
  draw() {
    this.stale = !this.seen;
    if (this.stale) return;
    this.paint();
  }

  paint() {
    const [min, max] = this.owner.range();
    this.moving = true;
    this.plot.batch(() => {
      this.plot.setData(this.columns(), false);
      tables(this.panel, this.runs).forEach(({ run, kind }, index) => {
        const show = this.shown(run, kind);
        if (this.plot.series[index + 1].show !== show) this.plot.setSeries(index + 1, { show }, false);
      });
      this.plot.setScale("x", { min, max });
    });
    this.moving = false;
  }

  scale() {
    const [min, max] = this.owner.range();
    this.moving = true;
    this.plot.batch(() => this.plot.setScale("x", { min, max }));
    this.moving = false;
  }

  size(width, height) {
    if (this.plot.width !== width || this.plot.height !== height) this.plot.setSize({ width, height });
  }

  destroy() { this.plot.destroy(); }
}
