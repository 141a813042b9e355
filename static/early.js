/* Runs before Gradio's own scripts (studio/ui/gradio_compat/early.py).

   Gradio's loading indicator counts seconds at every animation frame and continues after it has left the page: sixty
   frames a second, forever. That callback is limited to once a second here; all others run as usual. */
(() => {
  "use strict";
  const frame = window.requestAnimationFrame.bind(window);
  const counts = (callback) => {
    const text = String(callback);
    return text.length < 200 && /performance\.now\(\)\s*-/.test(text) && /1e3|1000/.test(text);
  };
  window.requestAnimationFrame = (callback) => (counts(callback) ? setTimeout(callback, 1000) : frame(callback));
})();

/* Gradio's client aborts its event streams while still reading them: after the last event, and when the page is left.
   The pending read then rejects, which the client logs as an AbortError and reports to its events as a broken
   connection. Here an aborted event stream simply ends. */
(() => {
  "use strict";
  const STREAMS = /\/gradio_api\/(queue\/data|heartbeat\/[^/]+)$/;
  const fetchAsItIs = window.fetch.bind(window);

  const endingOnAbort = (response, signal) => {
    const reader = response.body.getReader();
    const body = new ReadableStream({
      async pull(controller) {
        try {
          const { done, value } = await reader.read();
          if (done) controller.close();
          else controller.enqueue(value);
        } catch (error) {
          if (signal.aborted) controller.close();
          else controller.error(error);
        }
      },
      cancel: (reason) => reader.cancel(reason).catch((error) => { if (!signal.aborted) throw error; }),
    });
    return new Response(body, { status: response.status, statusText: response.statusText, headers: response.headers });
  };

  window.fetch = async (input, init) => {
    const url = new URL(input instanceof Request ? input.url : input, location.href);
    if (!STREAMS.test(url.pathname)) return fetchAsItIs(input, init);
    const request = new Request(input, init);
    try {
      const response = await fetchAsItIs(request);
      return response.body ? endingOnAbort(response, request.signal) : response;
    } catch (error) {
      if (!request.signal.aborted) throw error;
      return new Response("", { headers: { "Content-Type": "text/event-stream" } });
    }
  };
})();
