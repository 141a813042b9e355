/* Update `old` to match `fresh`, keeping nodes where possible so that focus, selection and scroll position stay. */
export function morph(old, fresh) {
  if (old.isEqualNode(fresh)) return;
  if (old.nodeName !== fresh.nodeName) { old.replaceWith(fresh); return; }
  if (old.nodeType === Node.TEXT_NODE) { old.data = fresh.data; return; }
  // The user decides whether a fold is open.
  const own = old.nodeName === "DETAILS" ? "open" : "";
  for (const { name } of [...old.attributes]) if (name !== own && !fresh.hasAttribute(name)) old.removeAttribute(name);
  for (const { name, value } of fresh.attributes) if (old.getAttribute(name) !== value) old.setAttribute(name, value);
  children(old, fresh);
}

/* The same for the children of a node. */
export function children(old, fresh) {
  const now = [...old.childNodes], then = [...fresh.childNodes];
  then.forEach((child, at) => { if (now[at]) morph(now[at], child); else old.append(child); });
  for (const extra of now.slice(then.length)) extra.remove();
}
