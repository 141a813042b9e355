/* The list of runs: search, filters, order, stars, labels, trash. The server renders the rows; here only what changed is
   updated, so that focus, scroll position and typed text stay through every refresh. */
import { morph } from "/static/morph.js";
import { pulse } from "/static/pulse.js";

const LOOK = 20000; // ms between two refreshes; rows of running runs come with the pulse
const TYPED = 120; // ms after the last key before a search is sent
const PAGE = 50, MOST = 100; // rows per page, and most rows shown; beyond that, pages replace each other
const KEPT = "lora-studio-runs";
const FILTERS = { state: "All states", model: "All models", dataset: "All data", tag: "All tags" };
const COLUMNS = [["state", "State"], ["name", "Name"], ["model", "Model"], ["dataset", "Data"], ["progress", "Progress"], ["loss", "Loss", 1],
  ["eval", "Best eval", 1], ["duration", "Duration", 1], ["disk", "Disk", 1], ["created", "Started"]];
const WORDS = { state: "State", name: "Name", model: "Model", dataset: "Data", progress: "Progress", loss: "Lowest loss", eval: "Lowest evaluation loss", duration: "Longest", disk: "Most disk", created: "Newest" };
const DOWN = new Set(["created", "progress", "duration", "disk"]); // largest first, unless reversed

const FRAME = `
<div class="run-tools" role="search">
  <input type="search" class="run-search" placeholder="Search" aria-label="Search runs" title="Searches names, notes, tags, ids, models and data" maxlength="200" autocomplete="off" spellcheck="false">
  ${Object.entries(FILTERS).map(([key, all]) => `<select data-filter="${key}" aria-label="${all}"><option value="">${all}</option></select>`).join("")}
  <button type="button" class="filter" data-act="starred" aria-pressed="false" title="Only runs with a star">★ Starred</button>
  <select class="run-sort" aria-label="Sort by">${Object.entries(WORDS).map(([key, word]) => `<option value="${key}">${word}</option>`).join("")}</select>
  <button type="button" class="link" data-act="clear">Clear</button>
  <span class="run-count" role="status"></span>
  <button type="button" class="plain-button" data-act="trash" aria-pressed="false">Trash</button>
  <button type="button" class="plain-button lead" data-act="empty">Empty trash…</button>
</div>
<p class="run-said" role="status"></p>
<div class="scroll run-scroll" tabindex="-1"><table class="table runs" aria-label="Runs"><thead><tr><th scope="col" class="beside" aria-label="Curves"></th><th scope="col" class="star-cell" aria-label="Star"></th>${
  COLUMNS.map(([key, label, number]) => `<th scope="col" data-column="${key}"${number ? ' class="num"' : ""}><button type="button" class="link" data-sort="${key}">${label}<i></i></button></th>`).join("")
}</tr></thead><tbody></tbody></table><p class="run-none"></p><p class="run-pages"><button type="button" class="plain-button run-before" data-act="before"></button><button type="button" class="plain-button run-more" data-act="more"></button></p></div>
<dialog class="run-dialog" aria-labelledby="run-dialog-title"><form method="dialog"></form></dialog>`;

const escape = (text) => { const at = document.createElement("i"); at.textContent = text; return at.innerHTML.replaceAll('"', "&quot;"); };

async function ask(path, values) {
  const answer = await fetch(path, values && { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(values) });
  const result = await answer.json();
  if (result.error) throw new Error(result.error);
  return result;
}

class Runs {
  constructor(place, tell) {
    Object.assign(this, { place, tell, rows: new Map(), open: { chosen: "", together: [] }, pageState: {}, sent: 0, last: "" });
    this.look = { search: "", state: "", model: "", dataset: "", tag: "", starred: false, sort: "created", turned: false, trashed: false, limit: PAGE, offset: 0, ...kept() };
    place.innerHTML = FRAME;
    this.body = this.find("tbody");
    this.search = this.find(".run-search");
    this.search.value = this.look.search;
    this.dialog = this.find("dialog");
    this.listen();
    this.load();
    pulse.waking("runs", () => tell({ wake: "1" }, "submit"), () => this.pageState.standing ?? "none");
    pulse.join({ ask: (query, tab) => this.extendQuery(query, tab), hear: (answer, tab) => this.hear(answer, tab) });
  }

  find(selector) { return this.place.querySelector(selector); }

  listen() {
    this.search.addEventListener("input", () => {
      clearTimeout(this.typing);
      this.typing = setTimeout(() => this.set({ search: this.search.value }), TYPED);
    });
    this.place.addEventListener("change", ({ target }) => {
      if (target.dataset.filter) this.set({ [target.dataset.filter]: target.value });
      else if (target.matches(".run-sort")) this.set({ sort: target.value, turned: false });
    });
    this.place.addEventListener("click", (event) => this.click(event));
    // The open run is drawn elsewhere; its star, tags, Edit and trash buttons are handled here.
    document.addEventListener("click", (event) => {
      const hit = event.target.closest?.("#run-about [data-run-act]");
      if (hit) this.act(hit.dataset.runAct, hit.dataset.run, hit);
    });
    this.dialog.addEventListener("click", (event) => { if (event.target === this.dialog) this.dialog.close(); });
  }

  click(event) {
    const hit = event.target.closest("[data-act], [data-sort], [data-run-act], [data-beside], tr[data-id]");
    if (!hit || hit.disabled) return;
    const { act, sort, runAct, beside, id } = hit.dataset;
    if (sort) this.set({ sort, turned: this.look.sort === sort && !this.look.turned });
    else if (runAct) this.act(runAct, hit.dataset.run, hit);
    else if (beside) this.tell({ beside });
    else if (id) this.choose(id);
    else if (act === "starred") this.set({ starred: !this.look.starred });
    else if (act === "trash") this.set({ trashed: !this.look.trashed, state: "", model: "", dataset: "", tag: "", starred: false });
    else if (act === "clear") this.clear();
    else if (act === "more") this.turn(PAGE);
    else if (act === "before") this.turn(-PAGE);
    else if (act === "empty") this.confirm();
  }

  /* Show more rows or, at MOST rows, the next or previous page. */
  turn(by) {
    const { limit, offset } = this.look, grows = by > 0 && limit < MOST;
    this.set(grows ? { limit: limit + by } : { offset: Math.max(0, offset + by) }, true);
    if (!grows) this.find(".run-scroll").scrollTop = 0;
  }

  choose(id) {
    if (getSelection().type === "Range" && this.place.contains(getSelection().anchorNode)) return; // the user is selecting text
    this.open = { ...this.open, chosen: id };
    this.paint();
    this.tell({ id });
    if (matchMedia("(max-width: 768px)").matches) this.reveal = true;
  }

  clear() {
    this.search.value = "";
    this.set({ search: "", state: "", model: "", dataset: "", tag: "", starred: false });
    this.search.focus();
  }

  set(change, stay) {
    clearTimeout(this.typing);
    Object.assign(this.look, { search: this.search.value }, stay ? {} : { limit: PAGE, offset: 0 }, change);
    try { sessionStorage.setItem(KEPT, JSON.stringify({ ...this.look, limit: PAGE, offset: 0 })); } catch { /* private window */ }
    this.say("");
    this.load(!stay);
  }

  /* Ask the pulse for the open run, unless another one is just being opened. */
  extendQuery(query, tab) {
    const { chosen, together, order } = this.pageState;
    if (tab !== "runs" || (chosen ?? "") !== this.open.chosen) return;
    query.set("run", chosen ?? "");
    for (const one of together ?? []) if (one !== chosen) query.append("beside", one);
    if (order && Object.keys(order).length) query.set("order", JSON.stringify(order));
  }

  hear(answer, tab) {
    if (tab !== "runs" || !answer) return;
    for (const [id, html] of answer.rows ?? []) this.renew(id, html);
    const moved = answer.line !== this.line;
    this.line = answer.line;
    if (!this.loading && (moved || performance.now() - this.loaded > LOOK)) this.load();
  }

  /* Update a row, if it is shown. */
  renew(id, html) {
    const row = this.rows.get(id);
    if (!row || row.html === html) return;
    const fresh = drawn(html);
    this.dress(fresh, id);
    morph(row.node, fresh);
    row.html = html;
  }

  /* Load the list; an answer to an outdated request is dropped. */
  async load(top) {
    const { turned, sort, ...rest } = this.look;
    const query = new URLSearchParams(Object.entries({ ...rest, sort, down: DOWN.has(sort) !== turned }).filter(([, value]) => value !== "" && value !== null));
    const turn = ++this.sent;
    this.loaded = performance.now();
    this.loading?.abort();
    const stop = this.loading = new AbortController();
    try {
      const answer = await fetch(`/runs.json?${query}`, { signal: stop.signal });
      const text = await answer.text();
      if (turn !== this.sent) return;
      this.find(".run-tools").classList.remove("lost");
      if (query + text !== this.last) this.show(JSON.parse(text)); // different queries may have the same answer
      this.last = query + text;
      if (top) this.find(".run-scroll").scrollTop = 0;
    } catch (error) {
      if (error.name !== "AbortError") this.find(".run-tools").classList.add("lost"); // it is requested again soon
    } finally {
      if (turn === this.sent) this.loading = null;
    }
  }

  show(listing) {
    if (listing.error) { this.say(listing.error); return; }
    const held = document.activeElement;
    const rows = new Map();
    listing.rows.forEach(([id, html], at) => {
      let row = this.rows.get(id);
      if (row?.html !== html) {
        const fresh = drawn(html);
        this.dress(fresh, id);
        if (row) morph(row.node, fresh);
        row = { node: row?.node ?? fresh, html };
      }
      rows.set(id, row);
      if (this.body.children[at] !== row.node) this.body.insertBefore(row.node, this.body.children[at] ?? null);
    });
    while (this.body.children.length > rows.size) this.body.lastElementChild.remove();
    this.rows = rows;
    this.paint();
    this.frame(listing);
    if (held !== document.activeElement && held?.isConnected && this.place.contains(held)) held.focus({ preventScroll: true });
  }

  /* Mark a row as open or compared. */
  dress(node, id) {
    const { chosen, together, most } = this.open;
    const drawn = id === chosen || together.includes(id), shut = id === chosen || (!drawn && together.length >= most);
    const box = node.querySelector("input"), link = node.querySelector(".link"), pressed = String(id === chosen);
    // Set only what differs: setting the same value again would restyle hundreds of rows.
    if (node.classList.contains("chosen") !== (id === chosen)) node.classList.toggle("chosen");
    if (link && link.getAttribute("aria-pressed") !== pressed) link.setAttribute("aria-pressed", pressed);
    if (!box) return;
    if (box.checked !== drawn) box.checked = drawn;
    if (box.disabled !== shut) box.disabled = shut;
  }

  paint() { for (const [id, { node }] of this.rows) this.dress(node, id); }

  frame({ total, kept: all, trash, facets }) {
    const { trashed, sort, turned, starred } = this.look;
    for (const [key, word] of Object.entries(FILTERS)) {
      const values = { ...facets[key] };
      if (this.look[key] && !(this.look[key] in values)) values[this.look[key]] = 0; // keep the current choice visible
      const options = [["", word], ...Object.entries(values).map(([value, count]) => [value, `${value} (${count})`])];
      const fresh = document.createElement("select");
      for (const [value, text] of options) fresh.append(new Option(text, value));
      const select = this.find(`[data-filter="${key}"]`);
      if ([...select.options].map((one) => one.text).join("\n") !== options.map(([, text]) => text).join("\n")) select.replaceChildren(...fresh.options);
      select.value = this.look[key];
      select.hidden = options.length < 3 && !this.look[key];
    }
    const pressed = (act, on) => this.find(`[data-act="${act}"]`).setAttribute("aria-pressed", String(on));
    pressed("starred", starred);
    pressed("trash", trashed);
    this.find(".run-sort").value = sort;
    for (const head of this.place.querySelectorAll("th[data-column]")) {
      const mine = head.dataset.column === sort, down = DOWN.has(sort) !== turned;
      head.querySelector("i").textContent = mine ? (down ? " ▼" : " ▲") : "";
      if (mine) head.setAttribute("aria-sort", down ? "descending" : "ascending"); else head.removeAttribute("aria-sort");
    }
    const filtered = Boolean(this.look.search || starred || Object.keys(FILTERS).some((key) => this.look[key]));
    const of = trashed ? trash : all, number = (count) => count.toLocaleString("en");
    this.find(".run-count").textContent = `${filtered ? `${number(total)} of ` : ""}${number(of.count)} ${of.count === 1 ? "run" : "runs"}${trashed ? " in the trash" : ""} · ${of.size}`;
    this.find('[data-act="clear"]').hidden = !filtered;
    this.find('[data-act="trash"]').textContent = trashed ? "Back to runs" : trash.count ? `Trash (${number(trash.count)})` : "Trash";
    this.find('[data-act="empty"]').hidden = !trashed || !trash.count;
    this.find(".run-none").textContent = total ? "" : filtered ? "No runs match." : trashed ? "The trash is empty." : "";
    const more = this.find(".run-more"), before = this.find(".run-before"), { offset } = this.look;
    const left = total - offset - this.rows.size, grows = this.look.limit < MOST;
    if (offset && !this.rows.size && total) { this.turn(-PAGE); return; } // the runs of this page no longer exist
    more.hidden = left <= 0;
    more.textContent = grows ? `Show ${Math.min(PAGE, left)} more` : `Next ${Math.min(PAGE, left)} of ${number(total)}`;
    before.hidden = !offset;
    before.textContent = `Previous ${PAGE}`;
    this.place.classList.toggle("bare", !all.count && !trash.count && !trashed);
    this.place.classList.toggle("in-trash", trashed);
  }

  /* The page reports which run is open; on a narrow screen, scroll to it, since it is far below the list. */
  opened(open) {
    this.open = this.pageState = open;
    pulse.soon();
    this.paint();
    if (!this.reveal) return;
    this.reveal = false;
    const calm = matchMedia("(prefers-reduced-motion: reduce)").matches;
    document.getElementById("open-run")?.scrollIntoView({ behavior: calm ? "auto" : "smooth", block: "start" });
  }

  async act(what, id, hit) {
    const wrong = (error) => {
      const near = hit.closest("#run-about")?.querySelector(".run-wrong");
      if (near) near.textContent = error.message; else this.say(error.message, null, true);
    };
    try {
      if (what === "star") {
        const starred = hit.getAttribute("aria-pressed") !== "true";
        hit.setAttribute("aria-pressed", String(starred)); // shown at once; the next refresh corrects it
        hit.textContent = starred ? "★" : "☆";
        await ask(`/runs/${encodeURIComponent(id)}`, { starred });
        this.refresh();
      } else if (what === "edit") await this.edit(id);
      else if (what === "tag") this.set({ tag: hit.dataset.tag, trashed: false });
      else if (what === "trash") await this.throw(id);
      else if (what === "restore") await this.restore(id);
    } catch (error) {
      wrong(error);
      this.load();
    }
  }

  async refresh() {
    this.tell({ again: "1" });
    await this.load();
  }

  async throw(id) {
    const { name } = await ask(`/runs/${encodeURIComponent(id)}`, { trashed: true });
    if (id === this.open.chosen) this.tell({ id: "" });
    await this.load();
    this.say(`${name} was moved to the trash.`, ["Undo", () => this.restore(id)]);
  }

  async restore(id) {
    const { name } = await ask(`/runs/${encodeURIComponent(id)}`, { trashed: false });
    this.tell({ id });
    await this.load();
    this.say(`${name} was restored.`);
  }

  say(text, button, wrong) {
    const place = this.find(".run-said");
    place.textContent = text;
    place.classList.toggle("wrong", Boolean(wrong));
    if (!button) return;
    const act = Object.assign(document.createElement("button"), { type: "button", className: "link", textContent: button[0] });
    act.addEventListener("click", () => button[1]().catch((error) => this.say(error.message, null, true)));
    place.append(" ", act);
    act.focus({ preventScroll: true });
  }

  /* A dialog with a form. If `done` throws, the dialog stays open and shows the error. */
  ask(html, done) {
    const form = this.dialog.querySelector("form");
    form.innerHTML = `${html}<p class="run-wrong" role="alert"></p>`;
    form.onsubmit = async (event) => {
      if (event.submitter?.value === "no") return;
      event.preventDefault();
      try {
        await done(new FormData(form));
        this.dialog.close();
      } catch (error) {
        form.querySelector(".run-wrong").textContent = error.message;
      }
    };
    this.dialog.showModal();
  }

  async edit(id) {
    const run = await ask(`/runs/${encodeURIComponent(id)}.json`);
    this.ask(`<h3 id="run-dialog-title">Edit ${escape(run.name)}</h3>
      <label><span>Name</span><input name="name" value="${escape(run.name)}" autocomplete="off"></label>
      <label><span>Tags, separated by commas</span><input name="tags" value="${escape(run.tags.join(", "))}" autocomplete="off" spellcheck="false"></label>
      <label><span>Note</span><textarea name="notes" rows="5">\n${escape(run.notes)}</textarea></label>
      <p class="run-buttons"><button class="plain-button" value="no" formnovalidate>Cancel</button><button class="plain-button lead" value="yes">Save</button></p>`,
      async (form) => {
        await ask(`/runs/${encodeURIComponent(id)}`, Object.fromEntries(form));
        await this.refresh();
      });
    // Enter in a field saves; by default it would press the first button, Cancel.
    for (const field of this.dialog.querySelectorAll("input")) {
      field.addEventListener("keydown", (event) => {
        if (event.key !== "Enter" || event.isComposing) return;
        event.preventDefault();
        field.form.requestSubmit(field.form.querySelector('[value="yes"]'));
      });
    }
    this.dialog.querySelector("input").focus();
  }

  async confirm() {
    const { runs, size } = await ask("/trash.json");
    const items = runs.map((run) => `<li><span>${escape(run.name)}</span><b>${escape(run.size)}</b></li>`).join("");
    const count = runs.length === 1 ? "this run" : `these ${runs.length.toLocaleString("en")} runs`;
    this.ask(`<h3 id="run-dialog-title">Delete ${count} for good?</h3><p>${runs.length === 1 ? "Its recipe, curves, checkpoints and adapter" : "Their recipes, curves, checkpoints and adapters"} will be deleted. Exports are kept.</p><ul class="run-doomed" tabindex="0">${items}</ul>
      <p class="run-buttons"><button class="plain-button" value="no">Keep</button><button class="plain-button danger" value="yes">Delete, ${escape(size)}</button></p>`,
      async () => {
        const done = await ask("/trash", { runs: runs.map((run) => run.id) });
        this.tell({ again: "1" });
        this.set({ trashed: done.kept.length > 0 });
        this.say([`${done.deleted} ${done.deleted === 1 ? "run" : "runs"} deleted, ${done.freed} freed.`, ...done.kept].join(" "));
      });
  }
}

function drawn(html) {
  const table = document.createElement("template");
  table.innerHTML = `<table><tbody>${html}</tbody></table>`;
  return table.content.querySelector("tr");
}

function kept() {
  try { return JSON.parse(sessionStorage.getItem(KEPT)) ?? {}; } catch { return {}; }
}

export const start = (element, tell) => new Runs(element.querySelector(".run-list"), tell);
