"""What the studio relies on in Gradio's frontend files: their folder, and texts they must contain.

static/*.js and theme.css find elements by the names that Gradio's components give them, and static/early.js recognises
a callback by its source. None of this is documented.
"""

PACKAGE = "gradio"
ASSETS = "templates/frontend/assets"
INDEX = "templates/frontend/index.html"
STATIC = "templates/frontend/static"  # files the page requests under /static

# Patterns that the page's scripts and style sheet rely on and that some script in ASSETS must contain, each with what
# would break without it.
TEXTS = {
    r"=>\{[^{}]{0,120}performance\.now\(\)\s*-[^{}]{0,60}(?:1e3|1000)[^{}]{0,60}\}":
        "a sign of loading that left the page would count frames for ever (static/early.js)",
    r"[`\" ]html-container[ `\"]": "views would not be brought up to date between events (static/pulse.js)",
    r"[`\" ]tab-wrapper[ `\"]":
        "which tab is in sight would not be known: neither pulse nor address (static/pulse.js, static/studio.js)",
    r"[`\"]?aria-selected[`\"]": "the address would not follow the open tab (static/studio.js)",
    r"[`\" ]toggle-button[ `\"]": "the sidebar would lie over the page on a narrow screen (static/studio.js)",
    r"[`\" ]sidebar-content[ `\"]": "the sidebar would lose its look (static/theme.css)",
    r"[`\" ]checkbox-container[ `\"]":
        "which fields of the form apply would not be shown (ui/train/form.py, static/theme.css)",
    r"data-testid=.block-info": "the names of library arguments would not stand in the form (ui/train/form.py)",
    r"data-testid=.accordion-content": "folds would lose their look (static/theme.css)",
    r"queue/data": "event streams that were aborted would be reported as errors (static/early.js)",
}  # fmt: skip
# The same for INDEX, the page template of Gradio.
PAGE = {
    r"<head>": "early.js would not come before Gradio's scripts (ui/gradio_compat/early.py)",
    r"<script[\s>]": "Gradio's scripts would get no nonce, and none would run (ui/gradio_compat/gate.py)",
    r"gradio_config = \{\{ config \| toorjson \}\}":
        "what people wrote may stand unescaped in the page, among scripts that get a nonce (ui/gradio_compat/gate.py)",
}  # fmt: skip
