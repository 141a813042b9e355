/* What the page does without the server: theme, address, copy buttons, notifications. */
(() => {
  "use strict";
  const THEME = "lora-studio-theme";

  const dark = () => document.body.classList.contains("dark");
  const paint = (theme) => document.body.classList.toggle("dark", theme === "dark");

  const kept = () => {
    try { return localStorage.getItem(THEME); } catch { return null; }
  };
  // Gradio applies the system's theme once at start; restore the saved choice when it does.
  const hold = () => { const theme = kept(); if (theme && dark() !== (theme === "dark")) paint(theme); };
  hold();
  new MutationObserver(hold).observe(document.body, { attributes: true, attributeFilter: ["class"] });

  // Inside a frame the sign-in provider's page cannot be shown, so it opens in a new tab. Deleting asks for confirmation.
  document.addEventListener("click", (event) => {
    const sure = event.target.closest("[data-sure]");
    if (sure && !confirm(sure.dataset.sure)) { event.stopPropagation(); event.preventDefault(); }
    const link = event.target.closest("[data-sign-in]");
    if (link && self !== top) link.target = "_blank";
  }, true);

  const toggle = () => {
    const theme = dark() ? "light" : "dark";
    try { localStorage.setItem(THEME, theme); } catch { /* private window: the choice lasts for this page only */ }
    paint(theme);
  };

  const copy = async (button) => {
    const text = button.parentElement.querySelector("pre").textContent;
    try {
      await navigator.clipboard.writeText(text);
    } catch { // no clipboard without https: select and use the old command
      const range = document.createRange();
      range.selectNodeContents(button.parentElement.querySelector("pre"));
      getSelection().removeAllRanges();
      getSelection().addRange(range);
      document.execCommand("copy");
    }
    button.textContent = "Copied";
    setTimeout(() => { button.textContent = "Copy"; }, 1500);
  };

  // Scroll to the tokens of an example picked from a list; on a narrow screen, to the dataset picked.
  const reveal = (hit) => {
    const calm = matchMedia("(prefers-reduced-motion: reduce)").matches;
    const place = hit.closest("#data-steps") ? "see-controls" : narrow.matches && hit.closest("#data-side") && "data-main";
    if (place) document.getElementById(place)?.scrollIntoView({ behavior: calm ? "auto" : "smooth", block: "start" });
  };

  document.addEventListener("click", (event) => {
    const hit = event.target.closest?.("[data-theme-toggle], [data-copy], [data-row], [data-id]");
    if (!hit) return;
    if (hit.hasAttribute("data-copy")) copy(hit);
    else if (hit.hasAttribute("data-theme-toggle")) toggle();
    else reveal(hit);
  });

  // 1, 2 and 0 vote on the first answers that are waiting for a vote, unless the user is typing.
  document.addEventListener("keydown", (event) => {
    if (!["0", "1", "2"].includes(event.key) || event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.target.closest?.("input, textarea, select, [contenteditable]")) return;
    const ballots = [...document.querySelectorAll(`[data-vote="${event.key}"]`)];
    ballots.find((ballot) => ballot.offsetParent)?.click();
  });

  // Browser notifications for runs that end while the page is open, once per run, if the user allowed them.
  const NOTIFIED = "lora-studio-told";
  const opened = Date.now() / 1000;
  let list = "";
  const news = () => {
    const now = document.querySelector("[data-ended]")?.dataset.ended ?? "";
    if (now === list || !("Notification" in window)) return;
    list = now;
    if (permit() !== "granted" || !now) return;
    for (const run of JSON.parse(now)) {
      const end = `${run.id} ${run.at}`; // a resumed run ends more than once
      if (run.at < opened || notified().includes(end)) continue;
      try { localStorage.setItem(NOTIFIED, JSON.stringify([...notified(), end].slice(-50))); } catch { return; }
      new Notification(`${run.name}: ${run.state}`, { body: run.text, tag: end });
    }
  };
  // The style sheet shows the button until the user has answered. Reading the permission wakes another process: do it rarely.
  const permit = () => document.documentElement.dataset.permission = "Notification" in window ? Notification.permission : "denied";
  permit();
  const notified = () => {
    try { return JSON.parse(localStorage.getItem(NOTIFIED)) ?? []; } catch { return []; }
  };
  document.addEventListener("click", (event) => {
    if (event.target.closest?.("[data-notify]")) Notification.requestPermission().then(() => { list = ""; permit(); news(); });
  });
  import(`${location.origin}/static/pulse.js`).then(({ pulse }) => pulse.join({ hear: news }));

  // On a narrow screen the sidebar starts closed, since it would cover the page.
  const narrow = matchMedia("(max-width: 768px)");
  const fold = (tries) => {
    const button = document.querySelector(".sidebar.open .toggle-button");
    button?.click(); // may run before Gradio listens: retry until it is closed
    if (tries && !document.querySelector(".sidebar:not(.open)")) setTimeout(fold, 150, tries - 1);
  };
  if (narrow.matches) fold(60);

  // Keep the address up to date with what is open, so that a reload or a link shows the same.
  let asked = 0, ready = false;
  const follow = () => {
    asked = 0;
    const tab = document.querySelector('#tabs > .tab-wrapper [role="tab"][aria-selected="true"]');
    if (!tab) return;
    const url = new URL(location.href);
    const wanted = url.searchParams.get("tab") ?? (url.searchParams.has("run") ? "runs" : null);
    const name = tab.textContent.trim().toLowerCase();
    if (!ready && wanted && wanted !== name) return; // the page has not yet opened what the address asks for
    ready = true;
    url.searchParams.set("tab", name);
    for (const key of ["run", "dataset"]) {
      const open = document.querySelector(`[data-open-${key}]`);
      if (open) url.searchParams.set(key, open.getAttribute(`data-open-${key}`));
    }
    if (url.href !== location.href) history.replaceState(history.state, "", url);
  };
  const opens = ({ type, addedNodes }) => type === "attributes" || [...addedNodes].some((node) => node.nodeType === Node.ELEMENT_NODE);
  new MutationObserver((changes) => { if (!asked && changes.some(opens)) asked = setTimeout(follow, 150); }).observe(document.body, {
    subtree: true, childList: true, attributes: true,
    attributeFilter: ["aria-selected", "data-open-run", "data-open-dataset"],
  });
  setTimeout(() => { ready = true; }, 6000);
})();
