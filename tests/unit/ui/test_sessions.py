"""What a page that is open costs the studio's memory, whatever Gradio would keep of it."""

import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import pytest

from studio.services.core.keeper import Keeper
from studio.settings import Settings
from studio.ui.gradio_compat import sessions
from studio.ui.web import app as pages
from studio.ui.web.auth import VisitorSessions

A_PAGE = 5_000  # bytes; a copy of the page's configuration is more than a hundred times as much


@pytest.fixture
def held(tmp_path: Path) -> Iterator[sessions.Sessions]:
    with Keeper(Settings(home=tmp_path / "home", offline=True)) as studio:
        holder = sessions.Sessions()
        holder.set_blocks(pages.build(studio, VisitorSessions(studio, "hosted")))
        yield holder


@pytest.mark.slow
def test_a_hundred_pages_cost_little(held: sessions.Sessions) -> None:
    assert held["first"].blocks_config.blocks
    tracemalloc.start()
    try:
        for number in range(100):
            assert held[f"page {number}"].config_values == {}
        grown = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert grown < 100 * A_PAGE


def test_those_used_longest_ago_are_forgotten(held: sessions.Sessions, monkeypatch: pytest.MonkeyPatch) -> None:
    held.capacity = 3
    for name in ("one", "two", "three", "one", "four"):
        assert held[name]
    assert [name for name in ("one", "two", "three", "four") if name in held] == ["one", "three", "four"]


def test_what_one_page_keeps_is_not_anothers(held: sessions.Sessions) -> None:
    states = [key for key, block in held.blocks.blocks.items() if block.stateful]
    held["mine"][states[0]] = "mine"
    assert held["mine"][states[0]] == "mine" and held["yours"][states[0]] != "mine"
    shown = next(key for key, block in held.blocks.blocks.items() if not block.stateful)
    held["mine"].blocks_config.blocks[shown] = mine = object()
    assert held["mine"].blocks_config.blocks[shown] is mine
    assert held["yours"].blocks_config.blocks[shown] is held.blocks.blocks[shown]
