"""One event per choice in a dropdown.

Gradio (6.31) fires two events for one choice, in sequence. If the second answer is late, it would overwrite what the
user did meanwhile: a number typed after choosing a preset, a question asked of a side just chosen.
"""

import gradio as gr

from studio.ui.parts.handlers import PRIVATE

_TELLS = """() => {
    const waiting = window.loraStudioChosen ??= {};
    clearTimeout(waiting['%(name)s']);
    waiting['%(name)s'] = setTimeout(() => document.dispatchEvent(new Event('studio-%(name)s')), 50);
}"""
_ON_TOLD = "document.addEventListener('studio-%s', () => trigger('click'));"


def choice(name: str, *boxes: gr.Dropdown) -> gr.HTML:
    """An invisible component whose `click` fires once for each choice in any of the dropdowns."""
    chosen = gr.HTML(js_on_load=_ON_TOLD % name, elem_id=f"{name}-chosen", apply_default_css=False)
    for box in boxes:
        box.input(None, js=_TELLS % {"name": name}, show_progress="hidden", queue=False, api_visibility=PRIVATE)
    return chosen
