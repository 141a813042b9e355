"""Sources to export, made in a moment: a run directory with a random adapter on the tiny model, without training."""

import json
import shutil
from pathlib import Path
from typing import Any

from studio.recipe import Recipe
from studio.rundir import Exit, Journal, RunDir, whole_folder, write_json


def adapter_run(folder: Path, model: Path, /, seed: int = 0, **values: Any) -> RunDir:
    """A run that is over. values: of its recipe; the adapter is random and large enough to change every answer."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    recipe = Recipe().with_values(
        {"model": "tiny", "dataset": "little", "name": folder.name, "dtype": "float32", "r": 4, **values}
    )
    (folder / "control").mkdir(parents=True)
    run = RunDir(folder)
    run.recipe.write_text(recipe.to_yaml())
    write_json(run.path / "model.json", {"id": "tiny", "path": str(model)})
    write_json(run.dataset, {"id": "0", "name": "little", "sha256": "ab" * 32, "path": str(folder / "none")})
    write_json(run.about, {"name": folder.name, "owner": "local", "created": 1.0})
    torch.manual_seed(seed)
    base = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    config = LoraConfig(
        r=recipe.method.r, lora_alpha=2 * recipe.method.r, target_modules="all-linear", task_type="CAUSAL_LM",
        use_rslora=recipe.method.use_rslora,
    )  # fmt: skip
    adapted = get_peft_model(base, config)
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.05)
    with whole_folder(run.adapter) as aside:
        adapted.save_pretrained(str(aside))
        told = json.loads((aside / "adapter_config.json").read_text())
        told["base_model_name_or_path"] = str(model)
        (aside / "adapter_config.json").write_text(json.dumps(told))
    with Journal(run.events) as journal:
        for step in range(1, 13):
            journal.write("metric", step=step, loss=3.0 / step)
        journal.write("eval", step=12, eval_loss=0.5)
    Exit("completed", "Completed.").write(run)
    return run


def order(folder: Path, run: RunDir, model: Path, kind: str, **more: Any) -> RunDir:
    """An export's directory with its order."""
    folder.mkdir()
    value = {"kind": kind, "run": str(run.path), "source": str(run.trained), "name": "sums 1",
             "model": {"id": "me/tiny", "path": str(model)}, **more}  # fmt: skip
    write_json(folder / "export.json", value)
    return RunDir(folder)


def real_words(folder: Path, model: Path) -> Path:
    """A tiny random model with the tokenizer of a real one: converters know tokenizers by name."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=49152, hidden_size=64, intermediate_size=256, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=1024, tie_word_embeddings=True, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    torch.manual_seed(0)
    LlamaForCausalLM(config).save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json", "generation_config.json", "chat_template.jinja",
                 "special_tokens_map.json"):  # fmt: skip
        if (model / name).is_file():
            shutil.copyfile(model / name, folder / name)
    return folder
