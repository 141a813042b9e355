"""Smaller sessions: what Gradio stores for every open page and every API call.

Gradio copies the configuration of every component for each session, to build deep links, which this page does not
have: 0.75 MB and 10 ms a session, for up to ten thousand sessions, and sessions of API calls are never closed.
"""

from collections import ChainMap
from types import SimpleNamespace
from typing import Any

from gradio.state_holder import SessionState, StateHolder

RELIES_ON = {
    "gradio.state_holder.SessionState.__init__(self, blocks)": "every session would keep 0.75 MB of what all have",
    "gradio.state_holder.SessionState().blocks_config": "every session would keep 0.75 MB of what all have",
    "gradio.state_holder.StateHolder.__getitem__(self, session_id)": "sessions would be Gradio's own, 0.75 MB each",
    "gradio.state_holder.StateHolder.set_blocks(self, blocks)": "no session could be made",
    "gradio.state_holder.StateHolder().session_data": "sessions would be Gradio's own, 0.75 MB each",
    "gradio.state_holder.StateHolder().capacity": "sessions would be kept for as many as Gradio likes",
    "gradio.blocks.BlocksConfig().blocks": "what one session changes would not be its own",
    "gradio.blocks.BlocksConfig().fns": "what one session changes would not be its own",
    "gradio.Blocks().default_config": "every session would keep 0.75 MB of what all have",
    "gradio.routes.App().state_holder": "the application would go on with sessions of 0.75 MB each",
    "gradio.routes.App().state_holder.blocks": "the application would go on with sessions of 0.75 MB each",
}
MOST = 2000  # sessions; beyond that, the least recently used are dropped


class _Session(SessionState):
    def __init__(self, blocks: Any) -> None:
        everyone = blocks.default_config
        super().__init__(SimpleNamespace(default_config=everyone, blocks={}))
        # Changes of this session go to its own layer, which is looked up before the shared one.
        self.blocks_config.blocks = ChainMap({}, everyone.blocks)
        self.blocks_config.fns = ChainMap({}, everyone.fns)


class Sessions(StateHolder):
    """Gradio's session store without the copies."""

    def __getitem__(self, session_id: str) -> SessionState:
        if session_id not in self.session_data:
            self.session_data[session_id] = _Session(self.blocks)
        return super().__getitem__(session_id)


def use_small_sessions(app: object) -> None:
    """Make a newly created Gradio application store its sessions here."""
    sessions = Sessions()
    sessions.set_blocks(app.state_holder.blocks)  # type: ignore[attr-defined]
    sessions.capacity = MOST
    app.state_holder = sessions  # type: ignore[attr-defined]
