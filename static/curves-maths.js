/* Numbers of the curves: formats, ticks, nearest points, the moving average that goes on where the server's ended. */

export const last = (list) => list[list.length - 1];

/* Index of the value in rising `list` that is nearest to x; -1 in an empty one. */
export function nearest(list, x) {
  let low = 0, high = list.length - 1;
  if (high < 0) return -1;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (list[middle] < x) low = middle + 1; else high = middle;
  }
  return low > 0 && x - list[low - 1] < list[low] - x ? low - 1 : low;
}

/* Columns over one rising x for several lines [x, y], as uPlot wants them: undefined where a line has no point. What
   uPlot.join makes with maps, sets and a sort; here lines that rise, as they all do but for a clock that was set back, are
   merged, which leaves the browser a third of the garbage of following a run. */
export function aligned(lines) {
  const at = lines.map(() => 0), xs = [], columns = lines.map(() => []);
  for (;;) {
    let x = Infinity;
    lines.forEach(([own], i) => { if (own[at[i]] < x) x = own[at[i]]; });
    if (x === Infinity) return [xs, ...columns];
    if (x <= xs.at(-1)) return uPlot.join(lines);
    xs.push(x);
    lines.forEach(([own, y], i) => {
      const here = own[at[i]] === x;
      columns[i].push(here ? y[at[i]] : undefined);
      if (here) at[i] += 1;
    });
  }
}

/* One more value for a line: s_t = w·s_{t-1} + (1-w)·v_t, shown as s_t / (1 - w^t); see studio/services/thinning.py. */
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

export function clock(seconds) {
  const whole = Math.max(0, Math.round(seconds));
  const two = (n) => String(n).padStart(2, "0");
  const [h, m, s] = [Math.floor(whole / 3600), Math.floor(whole / 60) % 60, whole % 60];
  return h ? `${h}:${two(m)}:${two(s)}` : `${m}:${two(s)}`;
}

const whole = (v) => Math.round(v).toLocaleString("en");
export const AXES = {
  step: { label: "Step", show: whole, tick: (v) => (Number.isInteger(v) ? v.toLocaleString("en") : "") },
  tokens: { label: "Tokens", show: whole, tick: short },
  epoch: { label: "Epoch", show: (v) => v.toFixed(3), tick: (v) => String(Number(v.toFixed(3))) },
  time: { label: "Time", show: clock, tick: clock },
};

/* Round numbers between min and max, about `count` of them; powers of ten and their 2 and 5 on a log axis. */
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

/* Whether two values differ by no more than rounding does: a first point and its average, say. */
function level(min, max) { return !(max - min > 1e-9 * Math.max(Math.abs(min), Math.abs(max))); }

/* A range with some room; never below nothing where nothing is. */
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
