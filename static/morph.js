/* Make `old` like `fresh` and keep every node that need not go: focus, selection and scroll stay. */
export function morph(old, fresh) {
  if (old.isEqualNode(fresh)) return;
  if (old.nodeName !== fresh.nodeName) { old.replaceWith(fresh); return; }
  if (old.nodeType === Node.TEXT_NODE) { old.data = fresh.data; return; }
  // Whether a fold is open is the reader's to say.
  const own = old.nodeName === "DETAILS" ? "open" : "";
  for (const { name } of [...old.attributes]) if (name !== own && !fresh.hasAttribute(name)) old.removeAttribute(name);
  for (const { name, value } of fresh.attributes) if (old.getAttribute(name) !== value) old.setAttribute(name, value);
  children(old, fresh);
}

/* The same for what is inside. */
export function children(old, fresh) {
  const now = [...old.childNodes], then = [...fresh.childNodes];
  then.forEach((child, at) => { if (now[at]) morph(now[at], child); else old.append(child); });
  for (const extra of now.slice(then.length)) extra.remove();
}
