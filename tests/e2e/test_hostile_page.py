"""A hostile page on another port of this machine, in a real browser: it gets nothing and changes nothing.

It has the browser of a person whose studio is open in another tab, and does all a page can do.
"""

import http.server
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, expect

from studio.rundir import read_json
from studio.services.core.keeper import Keeper
from studio.settings import Settings
from tests.e2e.conftest import Served
from tests.unit.services.runs.test_run_list import make

pytestmark = pytest.mark.browser
NAME = "mine-and-nobody-elses"

# Every way a page has to reach another address. Each answers with what it could read, or says how it was kept from it.
ATTACK = """
async ([studio, run]) => {
  const got = [], paths = ['/', '/runs.json', `/runs/${run}.json`, `/points/${run}.csv`, '/config', '/machine',
    '/healthz', '/gradio_api/info', '/gradio_api/queue/data?session_hash=x', '/gradio_api/heartbeat/x'];
  const note = (how, what) => got.push(`${how}: ${String(what).slice(0, 120)}`);
  const bodies = [
    [`/runs/${run}`, JSON.stringify({name: 'taken'})], ['/trash', JSON.stringify({runs: [run]})],
    [`/runs/${run}`, JSON.stringify({trashed: true})],
    ['/gradio_api/queue/join', JSON.stringify({data: [], fn_index: 0, session_hash: 'x'})],
    ['/gradio_api/run/predict', JSON.stringify({data: [], fn_index: 0, session_hash: 'x'})],
  ];
  const limit = () => AbortSignal.timeout(4000);
  for (const mode of ['cors', 'no-cors', 'same-origin', 'navigate'])
    for (const credentials of ['include', 'omit'])
      for (const path of paths) {
        try {
          const answer = await fetch(studio + path, {mode, credentials, signal: limit()});
          const text = await answer.text();
          if (answer.type !== 'opaque' || text) note(`fetch ${mode} ${path}`, text || answer.status);
        } catch {}
      }
  for (const type of ['application/json', 'text/plain', 'application/x-www-form-urlencoded', 'multipart/form-data', ''])
    for (const mode of ['cors', 'no-cors'])
      for (const [path, body] of bodies) {
        try {
          const headers = type ? {'Content-Type': type} : {};
          const data = type ? body : new Blob([body]);
          const answer = await fetch(studio + path, {method: 'POST', mode, headers, body: data, credentials: 'include',
            signal: limit()});
          if (answer.type !== 'opaque') note(`post ${mode} ${type} ${path}`, await answer.text());
        } catch {}
      }
  for (const method of ['PUT', 'DELETE', 'PATCH', 'OPTIONS'])
    for (const [path, body] of bodies) {
      try {
        note(`${method} ${path}`, (await fetch(studio + path, {method, body, signal: limit()})).status);
      } catch {}
    }
  const files = new FormData();
  files.append('files', new File(['planted'], 'planted.txt'));
  try {
    const answer = await fetch(studio + '/gradio_api/upload', {method: 'POST', body: files, mode: 'no-cors'});
    if (answer.type !== 'opaque') note('upload', await answer.text());
  } catch {}
  for (const [path, body] of bodies) navigator.sendBeacon(studio + path, body);
  for (const path of paths) await new Promise((done) => {
    const source = new EventSource(studio + path, {withCredentials: true});
    source.onmessage = (event) => { note(`event stream ${path}`, event.data); source.close(); done(); };
    source.onopen = () => note(`event stream ${path}`, 'open');
    source.onerror = () => { source.close(); done(); };
  });
  for (const path of ['/', '/gradio_api/queue/join', '/ws']) await new Promise((done) => {
    const socket = new WebSocket(studio.replace('http', 'ws') + path);
    socket.onopen = () => { note(`websocket ${path}`, 'open'); done(); };
    socket.onerror = () => done();
  });
  const element = (name, attribute, path) => new Promise((done) => {
    const made = document.createElement(name);
    made.onload = () => { note(`${name} ${path}`, 'loaded'); done(); };
    made.onerror = () => done();
    if (name === 'link') made.rel = 'stylesheet';
    made[attribute] = studio + path;
    document.body.append(made);
  });
  for (const path of ['/static/icon.png', '/favicon.ico', `/points/${run}.csv`]) await element('img', 'src', path);
  for (const path of ['/static/studio.js', '/runs.json', '/static/runs.js']) await element('script', 'src', path);
  await element('link', 'href', '/static/theme.css');
  try { note('import', Object.keys(await import(studio + '/static/machine.js'))); } catch {}
  try { note('worker', new Worker(studio + '/static/runs.js')); } catch {}
  const framed = (name, attribute, path) => new Promise((done) => {
    const made = document.createElement(name);
    const seen = () => {
      let text = '';
      try { text = made.contentDocument?.documentElement?.innerText ?? ''; } catch {}
      if (text) note(`${name} ${path}`, text);
      done();
    };
    made.onload = seen; made.onerror = () => done();
    setTimeout(seen, 3000);
    made[attribute] = studio + path;
    document.body.append(made);
  });
  for (const [name, attribute] of [['iframe', 'src'], ['embed', 'src'], ['object', 'data']])
    await framed(name, attribute, '/');
  for (const encoding of ['application/x-www-form-urlencoded', 'multipart/form-data', 'text/plain'])
    for (const [path, body] of [...bodies, ['/gradio_api/upload', 'x']]) await new Promise((done) => {
      const frame = document.createElement('iframe'), form = document.createElement('form');
      frame.name = `f${Math.random()}`;
      document.body.append(frame, form);
      frame.onload = () => done();
      setTimeout(done, 2000);
      Object.assign(form, {method: 'POST', action: studio + path, target: frame.name, enctype: encoding});
      const field = document.createElement('input');
      Object.assign(field, {name: body.slice(0, -1) + ',"x":"', value: '"}'});
      form.append(field);
      form.submit();
    });
  return got;
}
"""


@pytest.fixture
def elsewhere() -> Iterator[str]:
    """Another server on this machine, with a page of its own."""

    class Page(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.end_headers()
            self.wfile.write(b"<!doctype html><title>elsewhere</title><body>Win a prize.")

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Page) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


def test_a_hostile_page_gets_nothing(
    browser: Browser, start: Callable[[Path], Served], elsewhere: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path / "uploads"))
    with Keeper(Settings(home=tmp_path / "home", offline=True)) as studio:
        run = make(studio, NAME)
    served = start(tmp_path / "home")
    context = browser.new_context()
    own = context.new_page()
    own.goto(f"{served.url}/?tab=runs")
    expect(own.locator("#runs-table")).to_contain_text(NAME)
    about = read_json(run.about)
    for host in ("127.0.0.1", "localhost"):
        page = context.new_page()
        page.goto(elsewhere)
        got = page.evaluate(ATTACK, [f"http://{host}:{served.port}", run.path.name])
        assert got == []
        page.close()
    # In a window of its own the page opens, and tells who opened it nothing.
    page = context.new_page()
    page.goto(elsewhere)
    page.evaluate(f"window.theirs = window.open({served.url!r} + '/')")
    page.wait_for_function("theirs.closed")  # cut off by the opener policy
    context.close()
    assert read_json(run.about) == about
    assert not [path for path in (tmp_path / "uploads").rglob("*") if path.is_file()]
    with Keeper(Settings(home=tmp_path / "home", offline=True)) as reader:
        assert not list(reader.settings.staging.iterdir())
