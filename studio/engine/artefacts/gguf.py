"""Convert a merged model to GGUF, quantise it, and check it with llama.cpp before it is offered.

    gguf/<name>-<type>.gguf   one file: weights, tokenizer, chat template
    gguf/Modelfile            for Ollama
    gguf/README.md …          card, curve, licence

The converter and llama.cpp run as separate processes (launch/gguf_tools.py). The folder `.work` holds the merged model
and the 16-bit file meanwhile, and is deleted at the end.
"""

import json
import shutil
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from studio.dataset.tokens.encode import Encoder
from studio.dataset.tokens.template import with_system
from studio.engine.artefacts import cards, parity
from studio.engine.artefacts.artefacts import copy_license
from studio.engine.artefacts.cards import license_note
from studio.engine.artefacts.merge import write_merged
from studio.engine.artefacts.modelfile import modelfile
from studio.engine.artefacts.parity import Ask, Seen, template_hash
from studio.engine.artefacts.request import Order, merged_size
from studio.engine.artefacts.run_facts import facts_of, write_curve
from studio.engine.artefacts.verify import STOPPED, Proof
from studio.engine.workers.harness import Worker
from studio.errors import BadInput, StudioError
from studio.evaluation.parity import Parity, fault
from studio.launch import gguf_tools
from studio.recipe import Recipe
from studio.rundir import Exit, free_space_or_raise, whole_folder, write_json, write_text

WORK = ".work"


def export_gguf(work: Worker, order: Order) -> Exit:
    """Export a GGUF of the order's type to `gguf/`."""
    if order.tools is None:
        raise BadInput("export.json does not name the GGUF tools. Start the export again.")
    size = merged_size(order)
    free_space_or_raise(work.run.path, 3 * size, "The GGUF")
    tools = {name: _make(work, order, name) for name in gguf_tools.PACKAGES}
    proof = Proof.take(work, order)
    aside = work.run.path / WORK
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir()
    try:
        write_merged(order, proof.device, aside / "merged", work.phase)
        work.leave_if_asked(STOPPED)
        plain = aside / "F16.gguf"
        convert(work, tools["convert"], aside / "merged", plain)
        shutil.rmtree(aside / "merged")
        with whole_folder(work.run.path / "gguf") as folder:
            file = folder / f"{order.file_name}-{order.quant}.gguf"
            if order.quant == "F16":
                shutil.move(plain, file)
            else:
                _llama(work, tools["llama"], f"Quantising to {order.quant}", "quantise", plain, file, order.quant)
            parity_result = _prove(work, order, proof, tools["llama"], file, plain)
            _companions(order, folder, file, parity_result)
            work.phase("Writing to disk")
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return Exit("completed", f"The GGUF is ready as {file.name}. {parity_result.words}")


def _make(work: Worker, order: Order, name: str) -> Path:
    assert order.tools is not None
    return gguf_tools.make(order.tools, name, order.find_links, _tick(work))


def _tick(work: Worker) -> gguf_tools.Tick:
    def tick(what: str) -> None:
        # Journal only changes: one event per second of waiting would fill the journal.
        work.progress(what, 1, 0) if what != getattr(tick, "last", "") else work.progressed_now()
        tick.last = what  # type: ignore[attr-defined]
        work.leave_if_asked(STOPPED)

    return tick


def convert(work: Worker, tools: Path, merged: Path, target: Path) -> None:
    """Convert a merged model to a GGUF in 16 bits."""
    what = "Converting to GGUF"
    work.phase(what)
    script = next(iter([*tools.glob("convert_hf_to_gguf.py"), *tools.glob("*/convert_hf_to_gguf.py")]), None)
    if script is None:
        raise StudioError(f"The GGUF tools in {tools} have no converter. Delete that folder and export again.")
    command = [sys.executable, str(script), str(merged), "--outfile", str(target), "--outtype", "f16"]
    log = work.run.path / "convert.log"
    status = gguf_tools.run(command, log, _waiting(work), gguf_tools.with_path(tools))
    if status != 0 or not target.is_file():
        raise StudioError(
            f"llama.cpp's converter cannot convert this model: {_last_line(log)} Export a merged model instead."
        )


def _llama(work: Worker, tools: Path, what: str, *arguments: object) -> None:
    """Run a llama.cpp command; raise StudioError with the last line of its log if it fails."""
    work.phase(what)
    log = work.run.path / "llama.log"
    command = [sys.executable, "-m", "studio.engine.artefacts.llama_cpp", *map(str, arguments)]
    status = gguf_tools.run(command, log, _waiting(work), gguf_tools.with_path(tools))
    if status < 0:
        name = signal.Signals(-status).name
        raise StudioError(f"llama.cpp failed ({what[:1].lower()}{what[1:]}): it was killed by {name}.")
    if status != 0:
        raise StudioError(f"llama.cpp failed ({what[:1].lower()}{what[1:]}): {_last_line(log)}")


def _waiting(work: Worker) -> "_Waiting":
    return _Waiting(work)


class _Waiting:
    """Called while a tool runs: records progress, and ends the export if that was requested."""

    def __init__(self, work: Worker) -> None:
        self._work = work

    def __call__(self) -> None:
        self._work.progressed_now()
        self._work.leave_if_asked(STOPPED)


def _last_line(log: Path) -> str:
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return (lines[-1].rstrip(".") if lines else "it gave no reason") + "."


def _prove(work: Worker, order: Order, proof: Proof, tools: Path, file: Path, plain: Path) -> Parity:
    """Compare the file with the model in the chat; if a quantised file fails, check its 16-bit source too."""
    other, own = _read(work, order.recipe, tools, file, proof.asks, proof.live)

    def why() -> str:
        if order.quant == "F16":
            return "The conversion changed the weights: llama.cpp and transformers disagree about this model."
        readings, plain_own = _read(work, order.recipe, tools, plain, proof.asks, proof.live)
        whole = parity.compare("F16", proof.asks, proof.live, readings, plain_own, proof.template)
        if fault(whole):
            return "The 16-bit file differs as well: the conversion changed the weights. Export a merged model instead."
        return f"The 16-bit file is correct, so {order.quant} loses too much of this model: choose Q8_0 or F16."

    return proof.gguf(order.quant, other, own, why)


def _read(
    work: Worker, recipe: Recipe, tools: Path, file: Path, asks: Sequence[Ask], live: Sequence[Seen]
) -> tuple[list[Seen], tuple[str, list[list[int]]]]:
    """Return llama.cpp's reading of a file: logits at the compared positions, template sha256, token ids per prompt."""
    import torch

    chat = recipe.data.template == "chat" or bool(recipe.data.own_chat_template)
    system = recipe.data.system_prompt
    request = {
        "prompts": [
            {"messages": with_system(ask.messages, system), "text": ask.text, "framed": ask.framed, "chat": chat}
            for ask in asks
        ],
        "rows": [{"ids": reading.ids, "start": reading.start} for reading in live],
    }
    request_file, out = work.run.path / WORK / "wanted.json", work.run.path / WORK / "found.npz"
    write_json(request_file, request)
    _llama(work, tools, "Loading it with llama.cpp and comparing", "probe", file, request_file, out)
    with np.load(out, allow_pickle=False) as arrays:
        own = json.loads(str(arrays["told"]))
        readings = [
            Seen(reading.ids, reading.start, reading.answer, torch.from_numpy(arrays[f"logits_{number}"]))
            for number, reading in enumerate(live)
        ]
    template = template_hash(own["template"]) if chat else ""
    return readings, (template, own["ids"])


def _companions(order: Order, folder: Path, file: Path, parity_result: Parity) -> None:
    encoder = Encoder(order.model_folder, order.recipe.data)
    write_text(folder / "Modelfile", modelfile(file.name, encoder, order.recipe.data.system_prompt))
    facts = facts_of(order, parity_result)
    write_curve(facts, folder)
    card = cards.gguf_card(order.name, order.model, order.dataset, order.recipe, file.name, order.quant, facts)
    write_text(folder / "README.md", card)
    copy_license(order.model_folder, folder)
    write_text(folder / "NOTICE", license_note(order.model))
