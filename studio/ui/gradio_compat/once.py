"""A choice that is asked for once.

Gradio (6.31) tells of one choice in a dropdown twice, one behind the other. The second answer, where it is late, would
come over what was done meanwhile: a number typed behind a preset, a question asked of a side just chosen.
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
    """A component without looks, whose `click` comes once for each choice in one of the boxes."""
    chosen = gr.HTML(js_on_load=_ON_TOLD % name, elem_id=f"{name}-chosen", apply_default_css=False)
    for box in boxes:
        box.input(None, js=_TELLS % {"name": name}, show_progress="hidden", queue=False, api_visibility=PRIVATE)
    return chosen
