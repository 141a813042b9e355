"""Everything that depends on undocumented internals of Gradio. No other module touches them.

Each module lists what it uses of Gradio in `RELIES_ON`: the dotted name (an instance is written as its class with `()`,
a callable with the parameters it is called with, in order) and what would break without it. Gradio files that are read
as text are listed in frontend.py, its addresses in protocol.py. tests/unit/project/test_contracts.py checks all of it
against the installed Gradio, and tests/unit/project/test_private_names_ui.py keeps the rest of the studio out.
"""
