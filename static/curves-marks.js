/* Events of the open run: a thin line of marks below the axis. */
import { grouped, scale } from "/static/curves-maths.js";

const ICONS = { checkpoint: "◆", eval: "○", resumed: "▲", sample: "■", note: "●", stopping: "✕" };
const WORDS = { checkpoint: "checkpoint", eval: "evaluation", resumed: "resumed", sample: "samples", note: "note", stopping: "stop" };

/* events: [[x, step, kind, text, count]]; range: the visible x range; log: whether the axis is logarithmic. */
export function marks(place, key, events, range, log) {
  const to = scale(log).to, [low, high] = range.map(to);
  const seen = events.filter(([x]) => x >= range[0] && x <= range[1]);
  const nodes = [...place.children];
  seen.forEach(([x, step, kind, text, count], at) => {
    const mark = nodes[at] ?? place.appendChild(document.createElement("li"));
    put(mark, "className", `mark-${kind}`);
    mark.style.left = `${(100 * (to(x) - low)) / (high - low || 1)}%`;
    write(mark, ICONS[kind] ?? "●");
    put(mark, "title", count > 1 ? text : `Step ${grouped(step)}: ${text}`);
  });
  for (const extra of nodes.slice(seen.length)) extra.remove();
  const kinds = [...new Set(seen.map(([, , kind]) => kind))];
  write(key, kinds.map((kind) => `${ICONS[kind] ?? "●"} ${WORDS[kind] ?? kind}`).join("   "));
}

/* Assign only if the value differs: any assignment makes the browser restyle and lay out the page. */
export function put(node, name, value) { if (node[name] !== value) node[name] = value; }

/* Set the text of a node, keeping its text node. */
export function write(node, text) {
  if (node.firstChild?.nodeType === Node.TEXT_NODE && text) put(node.firstChild, "data", text);
  else put(node, "textContent", text);
}
