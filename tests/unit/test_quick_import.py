"""Gradio is imported without the type stubs that it would write beside its sources, and is whole all the same."""

import json
import subprocess
import sys

SCRIPT = """
import gc, json, sys
looked = []
sys.addaudithook(lambda event, given: event == "open" and str(given[0]).endswith(".pyi") and looked.append(given[0]))
from studio.ui.quick_import import importing
finders = list(sys.meta_path)
with importing():
    import gradio as gr
with gr.Blocks() as page:
    box = gr.Textbox()
    box.change(lambda text: text.upper(), box, box)
print(json.dumps({
    "looked": looked, "collects": gc.isenabled(), "finders": sys.meta_path == finders,
    "events": [str(event) for event in gr.Textbox.EVENTS], "answers": page.fns[0].fn("a"),
}))
"""


def test_no_stub_is_read_or_written() -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True, timeout=120)
    told = json.loads(done.stdout)
    assert told.pop("events")[0] == "change"
    assert told == {"looked": [], "collects": True, "finders": True, "answers": "A"}
