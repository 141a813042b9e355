/* The figure as a file: SVG drawn from the data, PNG rendered from that SVG. Both use the page's current theme and zoom. */
import { AXES, scale, short, ticks } from "/static/curves-maths.js";
import { css, tables } from "/static/curves-plot.js";

const WIDE = 1200, MAIN = 380, SMALL = 190, LEFT = 62, TOP = 26, BOTTOM = 26;
const esc = (text) => String(text).replace(/[&<>"']/g, (c) => `&#${c.charCodeAt(0)};`);

export function svg(owner) {
  for (const plot of owner.plots) plot.paint(); // including plots that are currently off-screen
  const runs = owner.runs.filter((run) => !owner.look.hidden.has(run.id));
  const small = owner.plots.filter((plot) => !plot.panel.main && !plot.place.hidden);
  const head = 30 + 20 * Math.ceil(runs.length / 3);
  const rows = Math.ceil(small.length / 3);
  const height = head + MAIN + rows * SMALL + 10;
  const parts = [legend(runs)];
  const main = owner.plots.find((plot) => plot.panel.main);
  parts.push(panel(owner, main, 0, head, WIDE, MAIN));
  small.forEach((plot, index) => {
    parts.push(panel(owner, plot, (index % 3) * (WIDE / 3), head + MAIN + Math.floor(index / 3) * SMALL, WIDE / 3, SMALL));
  });
  return `<svg xmlns="http://www.w3.org/2000/svg" width="${WIDE}" height="${height}" viewBox="0 0 ${WIDE} ${height}" ` +
    `font-family="system-ui, sans-serif" font-size="12"><rect width="100%" height="100%" fill="${css("--surface")}"/>` +
    `${parts.join("")}</svg>`;
}

function legend(runs) {
  return runs.map((run, index) => {
    const x = 20 + (index % 3) * (WIDE / 3), y = 24 + 20 * Math.floor(index / 3);
    return `<path d="M${x} ${y - 4}h26" stroke="${css(run.colour)}" stroke-width="2.4" stroke-dasharray="${run.dash.join(" ")}"/>` +
      `<text x="${x + 34}" y="${y}" fill="${css("--ink")}">${esc(run.name)}</text>`;
  }).join("");
}

function panel(owner, plot, x0, y0, width, height) {
  const { x: sx, y: sy } = plot.plot.scales;
  const { log } = plot;
  if (sx.min == null || sy.min == null) return "";
  const [left, right, top, bottom] = [x0 + LEFT, x0 + width - 18, y0 + TOP, y0 + height - BOTTOM];
  const lift = log ? Math.log : (v) => v;
  const { to } = scale(owner.look.logx), [from, until] = [sx.min, sx.max].map(to);
  const px = (v) => left + ((to(v) - from) / (until - from || 1)) * (right - left);
  const py = (v) => bottom - ((lift(v) - lift(sy.min)) / (lift(sy.max) - lift(sy.min) || 1)) * (bottom - top);
  const ink = css("--ink-2"), tick = plot.panel.tick ?? short;
  const out = [`<text x="${left}" y="${y0 + 15}" fill="${css("--ink")}" font-weight="600">${esc(plot.panel.label)}</text>`];
  for (const v of ticks(sy.min, sy.max, (bottom - top) / 40, log)) {
    out.push(`<path d="M${left} ${py(v).toFixed(1)}H${right}" stroke="${css("--line")}"/>` +
      `<text x="${left - 7}" y="${(py(v) + 4).toFixed(1)}" fill="${ink}" text-anchor="end">${esc(tick(v))}</text>`);
  }
  for (const v of ticks(sx.min, sx.max, (right - left) / 90, owner.look.logx)) {
    out.push(`<text x="${px(v).toFixed(1)}" y="${bottom + 17}" fill="${ink}" text-anchor="middle">${esc(AXES[owner.look.x].tick(v))}</text>`);
  }
  const clip = `clip-${plot.panel.key}`;
  out.push(`<clipPath id="${clip}"><rect x="${left}" y="${top - 4}" width="${right - left}" height="${bottom - top + 8}"/></clipPath>`);
  const drawn = tables(plot.panel, owner.runs).map((table, index) => line(plot, table, index, px, py, log)).join("");
  return `<g>${out.join("")}<g clip-path="url(#${clip})">${drawn}</g></g>`;
}

function line(plot, { run, kind, x, y }, index, px, py, log) {
  const series = plot.plot.series[index + 1];
  if (!series.show || !x.length) return "";
  const points = x.map((v, i) => [v, y[i]]).filter(([, v]) => v != null && (!log || v > 0))
    .map(([a, b]) => `${px(a).toFixed(1)} ${py(b).toFixed(1)}`);
  const stroke = plot.stroke(run, kind);
  const path = `<path d="M${points.join("L")}" fill="none" stroke="${stroke}" stroke-width="${series.width}" ` +
    `opacity="${series.alpha ?? 1}" stroke-dasharray="${(series.dash ?? []).join(" ")}" stroke-linejoin="round"/>`;
  if (kind !== "eval" || !plot.few(run)) return path;
  return path + points.map((at) => {
    const [cx, cy] = at.split(" ");
    return `<circle cx="${cx}" cy="${cy}" r="3.4" fill="${css("--surface")}" stroke="${stroke}" stroke-width="1.8"/>`;
  }).join("");
}

export async function png(owner) {
  const image = new Image();
  image.src = "data:image/svg+xml;charset=utf-8," + encodeURIComponent(svg(owner));
  await image.decode();
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = [2 * image.width, 2 * image.height];
  const brush = canvas.getContext("2d");
  brush.scale(2, 2);
  brush.drawImage(image, 0, 0);
  return new Promise((done) => canvas.toBlob(done, "image/png"));
}

export function save(blob, name) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}
