/* Live updates of an open page: a small request every 1.9 seconds while something is running, every three otherwise, answered
   with what changed or with nothing (204). Gradio's own timers would copy every component of the page at each tick.

   Parts are HTML rendered by the server (studio/ui/web/pulse.py) and morphed in here; each carries a mark by which the server
   recognises it. Members that join may add to the request and receive the answer. */
import { children } from "/static/morph.js";

// ms between requests; each request reads the journal, so that a point is shown within 2 s of being logged
const LIVE = 1900, CALM = 3000, HIDDEN = 10000;
const AGAIN = 4000; // ms after which a tab that was woken but did not update is woken again
const EVERYWHERE = ["machine", "now", "studio-notices", "visit"];
const OF = { runs: ["run-head", "run-about", "run-verdict", "differ", "run-samples", "run-log"] };

class Pulse {
  constructor() {
    Object.assign(this, { members: new Set(), wakers: {}, woken: {}, since: "", settled: "", live: true, tab: "" });
    document.addEventListener("visibilitychange", () => { if (!document.hidden) this.soon(); });
    this.soon();
  }

  /* member: {ask(query, tab), hear(answer, tab)}, both optional; hear gets null when nothing changed. */
  join(member) { this.members.add(member); this.soon(); }

  leave(member) { this.members.delete(member); }

  /* Register a callback that makes Gradio refresh a tab when the server's token differs from `shown`. */
  waking(tab, wake, shown) { this.wakers[tab] = { wake, shown }; this.soon(); }

  soon(wait = 30) {
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.beat(), wait);
  }

  async beat() {
    clearTimeout(this.timer);
    if (this.asking) { this.late = true; return; }
    this.asking = true;
    const began = performance.now();
    try { await this.look(); } catch { /* the page itself reports a studio that is gone */ }
    this.asking = false;
    const wait = document.hidden ? HIDDEN : this.live ? LIVE : CALM;
    this.soon(this.late ? 30 : Math.max(30, wait - (performance.now() - began)));
    this.late = false;
  }

  question() {
    const tab = document.hidden ? "" : document.querySelector('#tabs > .tab-wrapper [role="tab"][aria-selected="true"]')?.textContent.trim().toLowerCase() ?? "";
    if (tab !== this.tab) { this.woken = {}; this.tab = tab; }
    const query = new URLSearchParams({ tab });
    if (tab in this.wakers) query.set("shown", this.shown(tab));
    for (const member of this.members) member.ask?.(query, tab);
    for (const id of [...EVERYWHERE, ...(query.has("run") ? OF[tab] ?? [] : [])]) {
      const place = inside(id);
      if (place) query.append("have", `${id}:${place.firstElementChild?.dataset.mark ?? (place.firstChild ? "?" : "")}`);
    }
    return query;
  }

  shown(tab) { return this.wakers[tab].shown?.() ?? this.woken[tab]?.token ?? ""; }

  async look() {
    const query = this.question(), asked = String(query);
    if (asked === this.settled) query.set("since", this.since);
    const answer = await fetch(`/pulse?${query}`, { cache: "no-store" });
    if (!answer.ok) return;
    if (answer.status === 204) { for (const member of this.members) member.hear?.(null, this.tab); return; }
    const changes = await answer.json();
    this.live = changes.live;
    // Something else was opened meanwhile, or Gradio redrew something: this answers an outdated request.
    if (String(this.question()) !== asked) { this.late = true; return; }
    for (const [id, [mark, html]] of Object.entries(changes.parts)) put(id, mark, html);
    for (const member of this.members) member.hear?.(changes, this.tab);
    this.wake(changes);
    [this.settled, this.since] = [changes.since && String(this.question()), changes.since];
  }

  wake({ token }) {
    const tab = this.tab, at = performance.now();
    if (!token || !(tab in this.wakers) || token === this.shown(tab)) return;
    const last = this.woken[tab];
    if (last?.token === token && at - last.at < AGAIN) return;
    this.woken[tab] = { token, at };
    this.wakers[tab].wake();
  }
}

/* The element in which Gradio shows one of our views; null in a closed fold. */
const inside = (id) => document.querySelector(`#${id} .html-container > div`);

function put(id, mark, html) {
  const place = inside(id);
  if (!place) return;
  const fresh = document.createElement("template");
  fresh.innerHTML = html;
  if (fresh.content.firstElementChild) fresh.content.firstElementChild.dataset.mark = mark;
  children(place, fresh.content);
}

export const pulse = new Pulse();
