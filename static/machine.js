/* This machine over the last hour: one small chart per figure, with gaps where there are no samples, and a bar of memory by
   process. Requests new samples about every five seconds, on the page's pulse and only while visible. */
import { css } from "/static/curves-plot.js";
import { pulse } from "/static/pulse.js";

const HOUR = 3600;
const GiB = 2 ** 30;
const size = (bytes) => bytes < GiB / 10 ? `${Math.ceil(1024 * bytes / GiB)} MiB` : `${(bytes / GiB).toFixed(bytes >= 100 * GiB ? 0 : 1)} GiB`;
const share = (part) => `${Math.round(100 * part)} %`;
const PANELS = [
  { key: "gpu_used", total: "gpu_total", label: "GPU memory", of: size },
  { key: "gpu_busy", label: "GPU in use", of: share },
  { key: "memory_used", total: "memory_total", label: "Memory", of: size },
  { key: "cpu", label: "Processor", of: share },
  { key: "disk_used", total: "disk_total", label: "Disk", of: size },
];
const NAMES = { trainer: "Training", chat: "Chat", child: "Studio", studio: "Studio", other: "Other programs" };
const FRAME = `<p class="machine-said" role="status"></p>
<section class="holders" aria-label="Memory by process"><h3>Memory by process</h3><div class="holder-bar" aria-hidden="true"></div><ul></ul></section>
<div class="curve-grid machine-grid"></div>`;

class Machine {
  constructor(place) {
    this.place = place;
    this.samples = null;
    this.plots = new Map();
    place.innerHTML = FRAME;
    pulse.join(this);
    new ResizeObserver(() => { this.fit(); this.look(); }).observe(place); // refresh at once when the fold opens
    this.theme();
    this.look();
  }

  theme() {
    let dark = document.body.classList.contains("dark");
    new MutationObserver(() => {
      if (dark === document.body.classList.contains("dark")) return;
      dark = !dark;
      for (const plot of this.plots.values()) plot.destroy();
      this.plots.clear();
      this.place.querySelector(".machine-grid").replaceChildren();
      this.draw();
    }).observe(document.body, { attributes: true, attributeFilter: ["class"] });
  }

  hear() { this.look(); }

  async look() {
    if (!this.place.isConnected) { pulse.leave(this); return; }
    if (document.hidden || !this.place.offsetParent || this.asking || !window.uPlot) return;
    if (this.asked && performance.now() - this.asked < 1000 * (this.every ?? 0)) return;
    this.asking = true;
    try {
      const last = this.samples?.time.at(-1) ?? 0;
      const answer = await fetch(`/machine?after=${last}`);
      this.asked = performance.now();
      if (answer.ok) this.take(await answer.json());
    } catch { /* the page itself reports a studio that is gone */ }
    this.asking = false;
  }

  take(answer) {
    this.every = answer.every;
    const had = this.samples;
    this.samples = had ? Object.fromEntries(Object.entries(answer.samples).map(([key, values]) => [key, [...had[key], ...values]])) : answer.samples;
    const old = this.samples.time.findIndex((time) => time > Date.now() / 1000 - HOUR);
    if (old > 0) for (const values of Object.values(this.samples)) values.splice(0, old);
    const none = this.samples.time.length ? "" : answer.keeping ? "The first measurements arrive in a few seconds." : "The charts are in the studio that manages this home; this page is read-only.";
    this.place.querySelector(".machine-said").textContent = none;
    this.holders(answer.holders);
    this.draw();
  }

  holders(list) {
    const bar = this.place.querySelector(".holder-bar"), rows = this.place.querySelector(".holders ul");
    const total = this.samples.memory_total.at(-1) ?? list.reduce((sum, holder) => sum + holder.memory, 0);
    bar.replaceChildren(...list.map((holder) => {
      const part = document.createElement("i");
      part.className = `holder-${holder.kind}`;
      part.style.width = `${(100 * holder.memory) / total}%`;
      return part;
    }));
    rows.replaceChildren(...list.map((holder) => {
      const row = document.createElement("li");
      row.className = `holder-${holder.kind}`;
      const name = Object.assign(document.createElement("span"), { textContent: holder.kind === "trainer" ? `${NAMES.trainer}: ${holder.name}` : holder.name[0].toUpperCase() + holder.name.slice(1) });
      const gpu = holder.gpu == null ? "" : `, GPU ${size(holder.gpu)}`;
      row.append(document.createElement("i"), name, Object.assign(document.createElement("b"), { textContent: size(holder.memory) + gpu }));
      return row;
    }));
  }

  /* The samples of a panel, with a gap where more than two are missing. */
  columns(key) {
    const { time } = this.samples, x = [], y = [];
    time.forEach((moment, i) => {
      if (i && moment - time[i - 1] > 2.5 * this.every) { x.push((moment + time[i - 1]) / 2); y.push(null); }
      x.push(moment);
      y.push(this.samples[key][i]);
    });
    return [x, y];
  }

  draw() {
    if (!this.samples?.time.length) return;
    const grid = this.place.querySelector(".machine-grid");
    for (const panel of PANELS) {
      const newest = this.samples[panel.key].at(-1);
      if (newest == null) continue;
      const total = panel.total ? this.samples[panel.total].at(-1) : 1;
      if (!this.plots.has(panel.key)) {
        const figure = document.createElement("figure");
        figure.innerHTML = `<figcaption><span>${panel.label}</span><output></output></figcaption>`;
        grid.append(figure);
        this.plots.set(panel.key, new uPlot(this.options(panel), this.columns(panel.key), figure));
      }
      const plot = this.plots.get(panel.key);
      plot.total = total;
      plot.setData(this.columns(panel.key));
      const words = panel.total ? `${panel.of(newest)} of ${panel.of(total)}` : panel.of(newest);
      plot.root.parentElement.querySelector("output").textContent = words;
      plot.root.parentElement.setAttribute("aria-label", `${panel.label}: ${words}`);
    }
    this.fit();
  }

  options(panel) {
    const common = { stroke: css("--ink-2"), font: "11px " + css("--font"), ticks: { show: false } };
    const ago = (seconds) => (seconds < 30 ? "now" : `${Math.round(seconds / 60)} min`);
    const end = () => this.samples.time.at(-1);
    return {
      width: 200, height: 92, legend: { show: false }, padding: [8, 12, 0, 0], cursor: { show: false },
      series: [{}, { stroke: css("--adapted"), fill: css("--adapted-soft"), width: 1.6, points: { show: false }, spanGaps: false }],
      scales: {
        x: { time: false, range: () => [end() - Math.min(HOUR, Math.max(300, end() - this.samples.time[0])), end()] },
        y: { range: (u) => [0, u.total ?? 1] },
      },
      axes: [
        { ...common, grid: { show: false }, size: 20, gap: 4, splits: (u) => { const { min, max } = u.scales.x; return [min, (min + max) / 2, max]; },
          values: (_, values) => values.map((v) => ago(end() - v)) },
        { ...common, grid: { stroke: css("--line"), width: 1 }, size: 46, gap: 6, splits: (u) => [0, (u.total ?? 1) / 2, u.total ?? 1],
          values: (_, values) => values.map((v) => (panel.total ? `${Number((v / GiB).toPrecision(3))}G` : share(v))) },
      ],
    };
  }

  fit() {
    for (const plot of this.plots.values()) {
      const width = plot.root.parentElement.clientWidth;
      if (width && plot.width !== width) plot.setSize({ width, height: 92 });
    }
  }
}

export const start = (element) => new Machine(element.querySelector(".machine-view"));
