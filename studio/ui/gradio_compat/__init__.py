"""The room of Gradio's inside: every touch of what Gradio does not document is here, and nowhere else.

Each module names what it takes from Gradio in `RELIES_ON`: the dotted name (of an instance with `()` behind its class,
with the parameters it is called by in their order), and what would be broken without it. Files of Gradio's that are
read as text are in frontend.py, its addresses in protocol.py. tests/unit/project/test_contracts.py holds the installed
Gradio to all of it, and tests/unit/project/test_private_names_ui.py keeps the rest of the studio out.
"""
