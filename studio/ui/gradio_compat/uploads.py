"""Restricts the page's uploads to files that the same page has uploaded.

An event names a file by its path. In an application that is mounted and not launched, Gradio accepts any path of this
machine, and downloads any URL given as a path; both are blocked here.
"""

from typing import Any

import gradio as gr

from studio.errors import BadInput

RELIES_ON = {
    "gradio.Blocks().has_launched": "an event could have any file of this machine read",
    "gradio.Blocks().blocks": "an event could have any address fetched",
    "gradio.components.Component.async_move_resource_to_block_cache(self, url_or_file_path)":
        "an event could have any address fetched",
}  # fmt: skip


def only_uploads(page: gr.Blocks) -> gr.Blocks:
    """Make the page's components accept only files uploaded to them."""
    page.has_launched = True
    for block in page.blocks.values():
        if isinstance(block, gr.File | gr.UploadButton):
            take = block.async_move_resource_to_block_cache
            block.async_move_resource_to_block_cache = _taking(take)
    return page


def _taking(take: Any) -> Any:
    async def taken(path: Any) -> Any:
        if isinstance(path, str) and "://" in path:
            raise BadInput("Only files can be uploaded here, not addresses.")
        return await take(path)

    return taken
