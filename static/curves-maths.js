/* Number helpers of the curves: formats, ticks, nearest points, and the moving average continued from the server's. */

export const last = (list) => list[list.length - 1];

/* Index of the value nearest to x in an ascending `list`; -1 if it is empty. */
export function nearest(list, x) {
  let low = 0, high = list.length - 1;
  if (high < 0) return -1;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (list[middle] < x) low = middle + 1; else high = middle;
  }
  return low > 0 && x - list[low - 1] < list[low] - x ? low - 1 : low;
}

/* Columns over a common ascending x for several lines [x, y], as uPlot expects them: undefined where a line has no point.
   uPlot.join does this with maps, sets and a sort. Here ascending lines (all lines are, unless a clock was set back) are
   merged, and points added since the last call are appended. */
export class Aligned {
  /* value: maps a value to what is drawn, undefined for nothing */
  constructor(value) { this.value = value; }

  of(lines) {
    const grown = this.lines?.length === lines.length && lines.every(([x, y], i) => x === this.lines[i][0] && y === this.lines[i][1] && x.length >= this.at[i]);
    if (!grown || !this.merge()) {
      Object.assign(this, { lines, at: lines.map(() => 0), columns: [[], ...lines.map(() => [])] });
      if (!this.merge()) this.joined();
    }
    return this.columns;
  }

  /* False if a line has points before the end of those already aligned. */
  merge() {
    const { lines, at, value } = this, [xs, ...columns] = this.columns;
    for (;;) {
      let x = Infinity;
      for (let i = 0; i < lines.length; i++) if (lines[i][0][at[i]] < x) x = lines[i][0][at[i]];
      if (x === Infinity) return true;
      if (x < xs[xs.length - 1]) return false;
      const fresh = x !== xs[xs.length - 1];
      if (fresh) xs.push(x);
      for (let i = 0; i < lines.length; i++) {
        const [own, y] = lines[i];
        if (own[at[i]] !== x) { if (fresh) columns[i].push(undefined); continue; }
        columns[i][xs.length - 1] = value(y[at[i]]);
        at[i] += 1;
      }
    }
  }

  joined() {
    this.columns = uPlot.join(this.lines.map(([x, y]) => [x, y.map(this.value)]));
    this.lines = null;
  }
}

/* Append a value to a line: s_t = w·s_{t-1} + (1-w)·v_t, shown as s_t / (1 - w^t); see studio/services/curves/downsample.py. */
export function append(line, x, y, weight) {
  line.x.push(x);
  line.y.push(y);
  line.count += 1;
  if (!(weight > 0)) return;
  line.state = weight * line.state + (1 - weight) * y;
  line.sx.push(x);
  line.sy.push(line.state / (1 - weight ** line.count));
}

export function short(v) {
  if (v === 0) return "0";
  const size = Math.abs(v);
  if (size < 1e-3) return v.toExponential(Math.abs(v / 10 ** Math.floor(Math.log10(size)) % 1) < 1e-6 ? 0 : 1);
  if (size >= 1e6) return Number((v / 1e6).toPrecision(3)) + "M";
  if (size >= 1e4) return Number((v / 1e3).toPrecision(3)) + "k";
  return String(Number(v.toPrecision(3)));
}

/* A linear or logarithmic axis: value to axis position and back. */
const LINEAR = { to: (v) => v, back: (v) => v }, LOG = { to: Math.log, back: Math.exp };
export const scale = (log) => (log ? LOG : LINEAR);

export function clock(seconds) {
  const whole = Math.max(0, Math.round(seconds));
  const two = (n) => String(n).padStart(2, "0");
  const [h, m, s] = [Math.floor(whole / 3600), Math.floor(whole / 60) % 60, whole % 60];
  return h ? `${h}:${two(m)}:${two(s)}` : `${m}:${two(s)}`;
}

const english = new Intl.NumberFormat("en"); // toLocaleString would create one at every call
export const grouped = (v) => english.format(v);
export const whole = (v) => grouped(Math.round(v));
export const AXES = {
  step: { label: "Step", show: whole, tick: (v) => (Number.isInteger(v) ? grouped(v) : "") },
  tokens: { label: "Tokens", show: whole, tick: short },
  epoch: { label: "Epoch", show: (v) => v.toFixed(3), tick: (v) => String(Number(v.toFixed(3))) },
  time: { label: "Time", show: clock, tick: clock },
};

/* About `count` round numbers between min and max; on a log axis, powers of ten and their multiples by 2 and 5. */
export function ticks(min, max, count, log) {
  if (log && min > 0) {
    const found = [];
    for (let e = Math.floor(Math.log10(min)); e <= Math.log10(max); e++) {
      for (const m of [1, 2, 5]) found.push(Number((m * 10 ** e).toPrecision(3)));
    }
    const seen = found.filter((v) => v >= min && v <= max);
    if (seen.length > 1) return seen.length > 2 * count ? seen.filter((v) => /^1(e|$|0*$)|^0\.0*1$/.test(String(v))) : seen;
  }
  if (level(min, max)) return [min];
  const raw = (max - min) / count;
  const power = 10 ** Math.floor(Math.log10(raw));
  const by = power * ([1, 2, 5, 10].find((m) => m * power >= raw) ?? 10);
  const found = [];
  for (let i = Math.ceil(min / by); i * by <= max + by * 1e-9; i++) found.push(Number((i * by).toPrecision(12)));
  return found;
}

/* Whether two values differ by no more than rounding, such as a first point and its average. */
function level(min, max) { return !(max - min > 1e-9 * Math.max(Math.abs(min), Math.abs(max))); }

/* A range with some margin; not below zero if no value is. */
export function padded(min, max, log) {
  if (min == null) return log ? [0.1, 1] : [0, 1];
  if (log) {
    const room = (max / min) ** 0.08 * (max === min ? 1.3 : 1);
    return [min / room, max * room];
  }
  const room = level(min, max) ? Math.abs(max) * 0.1 || 1 : (max - min) * 0.08;
  const low = min - room;
  return [min >= 0 && low < 0 ? 0 : low, max + room];
}
