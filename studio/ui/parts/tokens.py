"""The token view of an example: its tokens, which are trained, and where it is cut."""

from markupsafe import Markup

from studio.services.data.examples import ExampleView
from studio.ui.parts.templates import render


def strip(view: ExampleView, max_length: int) -> Markup:
    """The token strip with its key and counts."""
    return render("tokens.html", view=view, max_length=max_length)
