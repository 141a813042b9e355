"""Inserts our script at the very start of the page; Gradio adds its `head` argument only when it runs."""

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from studio.ui.parts.templates import render

_HEAD = b"<head>"


class Early:
    """Middleware that puts static/early.js before all other scripts of the page."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app
        self.head = _HEAD + render("gradio_compat/early.html").encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] != "/":
            await self.app(scope, receive, send)
            return
        begin: Message | None = None
        body = b""

        async def altered(message: Message) -> None:
            nonlocal begin, body
            if message["type"] == "http.response.start" and _is_page(message):
                begin = message
            elif begin is None or message["type"] != "http.response.body":
                await send(message)
            else:
                body += message.get("body", b"")
                if message.get("more_body", False):
                    return
                body = body.replace(_HEAD, self.head, 1)
                others = [(name, value) for name, value in begin["headers"] if name.lower() != b"content-length"]
                await send({**begin, "headers": [*others, (b"content-length", str(len(body)).encode())]})
                await send({"type": "http.response.body", "body": body})

        await self.app(scope, receive, altered)


def _is_page(message: Message) -> bool:
    headers = {name.lower(): value for name, value in message["headers"]}
    return headers.get(b"content-type", b"").startswith(b"text/html") and b"content-encoding" not in headers
