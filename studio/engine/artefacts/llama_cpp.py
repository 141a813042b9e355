"""Run llama.cpp on a GGUF: quantise a file, or read its logits and tokens for the parity check.

    python -m studio.engine.artefacts.llama_cpp quantise SOURCE TARGET Q8_0
    python -m studio.engine.artefacts.llama_cpp probe GGUF ASKS.json OUT.npz

Runs with llama-cpp-python on PYTHONPATH (launch/gguf_tools.py), in a separate process, because llama.cpp aborts its
process on errors. ASKS.json: {"prompts": [{"messages", "text", "framed"}], "rows": [{"ids", "start"}]}. OUT.npz gets
`logits_N` for each row from its position `start` on, and `told`, a JSON text: {"template", "ids"} with the file's own
chat template and the token ids of each prompt. The comparison is made elsewhere.
"""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

from studio.engine.compat.llama_cpp import use_weights_as_they_lie

_TYPES = {"F16": "MOSTLY_F16", "Q8_0": "MOSTLY_Q8_0", "Q6_K": "MOSTLY_Q6_K", "Q4_K_M": "MOSTLY_Q4_K_M"}


def main(arguments: list[str]) -> int:
    match arguments:
        case ["quantise", source, target, quant]:
            return quantise(Path(source), Path(target), quant)
        case ["probe", file, asks, out]:
            return probe(Path(file), Path(asks), Path(out))
    print("usage: quantise SOURCE TARGET TYPE | probe GGUF ASKS OUT", file=sys.stderr)
    return 2


def quantise(source: Path, target: Path, quant: str) -> int:
    """Quantise `source` to `target`; return llama.cpp's status, 0 for success."""
    import llama_cpp

    params = llama_cpp.llama_model_quantize_default_params()
    params.ftype = getattr(llama_cpp, f"LLAMA_FTYPE_{_TYPES[quant]}")
    status = llama_cpp.llama_model_quantize(str(source).encode(), str(target).encode(), params)
    return int(status)


def probe(file: Path, asks: Path, out: Path) -> int:
    """Load a GGUF and write its logits, template and token ids to `out`."""
    import llama_cpp

    request = json.loads(asks.read_text(encoding="utf-8"))
    use_weights_as_they_lie()
    longest = max(len(row["ids"]) for row in request["rows"])
    model = llama_cpp.Llama(
        str(file), n_ctx=longest + 8, n_batch=longest + 8, n_gpu_layers=0, logits_all=True, verbose=False
    )
    template = str(model.metadata.get("tokenizer.chat_template", ""))
    own = {"template": template, "ids": [_prompt_ids(model, template, prompt) for prompt in request["prompts"]]}
    logits: dict[str, Any] = {}
    for number, row in enumerate(request["rows"]):
        model.reset()
        model.eval(row["ids"])
        logits[f"logits_{number}"] = np.array(model.scores[row["start"] : len(row["ids"])], dtype=np.float32)
        print(json.dumps({"done": number + 1, "of": len(request["rows"])}), flush=True)
    np.savez(out, told=np.array(json.dumps(own)), **logits)
    return 0


def _prompt_ids(model: Any, template: str, prompt: dict[str, Any]) -> list[int]:
    """Return llama.cpp's token ids for a prompt, formatted with the file's own template or as plain text."""
    begin, end = model.token_bos(), model.token_eos()
    text = prompt["text"]
    if prompt["chat"]:
        from llama_cpp.llama_chat_format import Jinja2ChatFormatter

        formatter = Jinja2ChatFormatter(template, _piece(model, end), _piece(model, begin))
        text = formatter(messages=prompt["messages"]).prompt if template else ""
    ids = [int(token) for token in model.tokenize(text.encode(), add_bos=False, special=True)]
    # As llama.cpp's own programs do: add the first token if the file asks for it and the text lacks it.
    adds = str(model.metadata.get("tokenizer.ggml.add_bos_token", "")).lower() == "true"
    return [begin, *ids] if adds and begin >= 0 and ids[:1] != [begin] else ids


def _piece(model: Any, token: int) -> str:
    return model.detokenize([token], special=True).decode("utf-8", "replace") if token >= 0 else ""


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
