/* Before Gradio's own scripts (studio/ui/early.py). Its sign that the page is loading counts seconds at every animation frame
   and goes on when it has left the page: sixty frames a second, for ever. That callback comes once a second here; all others
   come as they did. */
(() => {
  "use strict";
  const frame = window.requestAnimationFrame.bind(window);
  const counts = (callback) => {
    const text = String(callback);
    return text.length < 200 && /performance\.now\(\)\s*-/.test(text) && /1e3|1000/.test(text);
  };
  window.requestAnimationFrame = (callback) => (counts(callback) ? setTimeout(callback, 1000) : frame(callback));
})();
