"""Convert a GGUF file to a model folder: `python -m studio.engine.workers.prepare --gguf FILE --out FOLDER`.

Dequantises the weights to bfloat16 and saves them as safetensors, with a config without quantisation fields and a
tokenizer that splits text as the original does. Progress goes to stdout as JSON lines {"doing", "done", "of"}, then
{"folder"} or {"error"}. Nothing is downloaded.
"""

import argparse
import json
import os
import sys
from pathlib import Path
from typing import Any

from studio.errors import BadInput, StudioError
from studio.rundir import free_space_or_raise, read_json, whole_folder, write_json

STEPS = 5
# Pre-tokenizers (`tokenizer.ggml.pre`) that transformers converts correctly.
SPLITS_ALREADY_RIGHT = {"gpt-2", "default"}


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Convert a GGUF file to a model folder.")
    parser.add_argument("--gguf", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args(argv)
    # stdout carries only our JSON lines; library output goes to stderr.
    lines = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)

    def say(value: dict[str, Any]) -> None:
        print(json.dumps(value), file=lines, flush=True)

    def report(what: str, done: int) -> None:
        say({"doing": what, "done": done, "of": STEPS})

    try:
        prepare(options.gguf.resolve(), options.out.resolve(), report)
    except StudioError as error:
        say({"error": str(error)})
        return error.exit_status
    say({"folder": str(options.out)})
    return 0


def prepare(gguf: Path, out: Path, tell: Any) -> None:
    """Write the model in `gguf` to the folder `out`, which appears complete or not at all."""
    tell("Reading the GGUF file", 0)
    metadata = read_metadata(gguf)
    out.parent.mkdir(parents=True, exist_ok=True)
    # From 4 bits or more to 16 bits per weight: at most four times the file, plus 16 MiB for the tokenizer.
    free_space_or_raise(out.parent, gguf.stat().st_size * 4 + 2**24, "Preparing this model")
    tell("Loading the libraries", 1)
    with whole_folder(out) as folder:
        tell("Dequantising the weights", 2)
        save_model(gguf, folder)
        tell("Converting the tokenizer", 3)
        save_tokenizer(gguf, folder, metadata)
        tell("Checking the files", 4)
        check(folder)
    tell("Ready", STEPS)


def read_metadata(gguf: Path) -> dict[str, Any]:
    """Read the GGUF fields that the conversion needs."""
    from gguf import GGUFReader

    try:
        reader = GGUFReader(str(gguf))
    except FileNotFoundError:
        raise BadInput(f"There is no file {gguf}.") from None
    except (ValueError, IndexError) as error:
        raise BadInput(f"{gguf.name} is not a readable GGUF file: {error}.") from None
    names = (
        "general.architecture",
        "tokenizer.ggml.pre",
        "tokenizer.ggml.eos_token_id",
        "tokenizer.ggml.eot_token_id",
        "tokenizer.ggml.padding_token_id",
        "tokenizer.ggml.bos_token_id",
    )
    return {name: field.contents() for name in names if (field := reader.get_field(name)) is not None}


def save_model(gguf: Path, folder: Path) -> None:
    """Save the weights as bfloat16 safetensors, and a config without quantisation or source paths."""
    import torch
    from transformers import AutoModelForCausalLM, GenerationConfig, GgufConfig
    from transformers.utils import logging

    logging.disable_progress_bar()
    model = AutoModelForCausalLM.from_pretrained(
        str(gguf.parent),
        gguf_file=gguf.name,
        dtype=torch.bfloat16,
        local_files_only=True,
        quantization_config=GgufConfig(dequantize=True),
    )
    config = model.config
    model.generation_config = GenerationConfig(
        bos_token_id=config.bos_token_id, eos_token_id=config.eos_token_id, pad_token_id=config.pad_token_id
    )
    model.save_pretrained(str(folder), max_shard_size="5GB")
    path = folder / "config.json"
    written = read_json(path) or {}
    for name in ("quantization_config", "_model_name_or_path", "_name_or_path"):
        written.pop(name, None)
    write_json(path, written)
    for file in folder.iterdir():
        file.chmod(0o644)  # safetensors writes files that only the owner can read


def save_tokenizer(gguf: Path, folder: Path, metadata: dict[str, Any]) -> None:
    """Save the tokenizer's files so that it splits text as the original tokenizer does."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(str(gguf.parent), gguf_file=gguf.name, local_files_only=True)
    tokenizer.save_pretrained(str(folder))
    split = metadata.get("tokenizer.ggml.pre")
    if split == "smollm":
        split_digits(folder / "tokenizer.json")
    elif split is not None and split not in SPLITS_ALREADY_RIGHT:
        print(
            f"warning: unknown pre-tokenizer {split!r}: numbers and spaces may be split into other tokens than by the "
            "original model. Prefer its safetensors version.",
            file=sys.stderr,
        )
    config = read_json(folder / "tokenizer_config.json") or {}
    for name in ("is_local", "local_files_only", "backend"):
        config.pop(name, None)
    # A class that every version of transformers has, not the one of the installed version.
    config["tokenizer_class"] = "PreTrainedTokenizerFast"
    config["clean_up_tokenization_spaces"] = False
    limit = (read_json(folder / "config.json") or {}).get("max_position_embeddings")
    if limit:
        config["model_max_length"] = limit
    write_json(folder / "tokenizer_config.json", config)


def split_digits(path: Path) -> None:
    """Set SmolLM's pre-tokenizer, which splits numbers into single digits; the GGUF conversion loses it.

    Source: the pre_tokenizer in HuggingFaceTB/SmolLM2-135M-Instruct's tokenizer.json.
    """
    document = json.loads(path.read_text(encoding="utf-8"))
    document["pre_tokenizer"] = {
        "type": "Sequence",
        "pretokenizers": [
            {"type": "Digits", "individual_digits": True},
            {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True},
        ],
    }
    path.write_text(json.dumps(document, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")


def check(folder: Path) -> None:
    """Check that transformers tokenises as tokenizer.json itself does, and that an end-of-answer token is set.

    Raises StudioError or BadInput.
    """
    from tokenizers import Tokenizer
    from transformers import AutoTokenizer

    text = "Total: 48/2 = 24.5 €\n\n  <|im_start|>user\nHi there, it's 2024!"
    loaded = AutoTokenizer.from_pretrained(str(folder), local_files_only=True)
    plain = Tokenizer.from_file(str(folder / "tokenizer.json"))
    if loaded(text, add_special_tokens=False)["input_ids"] != plain.encode(text, add_special_tokens=False).ids:
        raise StudioError(
            "The tokenizer of this GGUF file cannot be converted faithfully. Use the model's safetensors version."
        )
    if loaded.eos_token_id is None:
        raise BadInput(
            "This GGUF file does not say which token ends an answer, so a model trained from it would "
            "not know when to stop. Use the model's safetensors version."
        )


if __name__ == "__main__":
    raise SystemExit(main())
