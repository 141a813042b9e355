"""Count the sample's held-out messages that base and adapted model answer with the exact JSON keys and types.

    python benchmarks/sample_task.py MODEL_FOLDER ADAPTER_FOLDER [--rows N]

Greedy, in plain transformers and PEFT: it imports nothing from the studio, so the answers are those any user of the
adapter gets. Prints one JSON object: the share in the exact form, and the share correct in each field, for both.
"""

import argparse
import json
import time
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

HELD_OUT = Path(__file__).parents[1] / "data" / "samples" / "tickets_heldout.jsonl"
KEYS = {"product": str, "problem": str, "urgency": str, "wants_refund": bool}


def parsed(text: str) -> dict[str, Any] | None:
    """Parse the ticket in an answer; None unless it is one JSON object with exactly the right keys and types."""
    try:
        value = json.loads(text)
    except ValueError:
        return None
    if not isinstance(value, dict) or list(value) != list(KEYS):
        return None
    valid = all(type(value[key]) is kind for key, kind in KEYS.items()) and value["urgency"] in (
        "low",
        "medium",
        "high",
    )
    return value if valid else None


@torch.inference_mode()
def answers(model: Any, tokenizer: Any, rows: list[dict[str, str]], batch: int = 20) -> list[str]:
    texts = []
    for start in range(0, len(rows), batch):
        chats = [
            [{"role": "user", "content": f"{row['instruction']}\n\n{row['input']}"}]
            for row in rows[start : start + batch]
        ]
        inputs = tokenizer.apply_chat_template(
            chats, add_generation_prompt=True, return_tensors="pt", padding=True, return_dict=True
        )
        output = model.generate(**inputs, max_new_tokens=72, do_sample=False, pad_token_id=tokenizer.pad_token_id)
        texts += tokenizer.batch_decode(output[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    return texts


def score(texts: list[str], rows: list[dict[str, str]]) -> dict[str, float]:
    tickets = [parsed(text.strip()) for text in texts]
    expected = [json.loads(row["output"]) for row in rows]
    shares = {"exact form": sum(ticket is not None for ticket in tickets) / len(rows)}
    for key in KEYS:
        shares[key] = sum(bool(t) and t[key] == w[key] for t, w in zip(tickets, expected, strict=True)) / len(rows)
    return shares


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("model")
    parser.add_argument("adapter")
    parser.add_argument("--rows", type=int, default=60)
    args = parser.parse_args()
    rows = [json.loads(line) for line in HELD_OUT.read_text(encoding="utf-8").splitlines()][: args.rows]
    tokenizer = AutoTokenizer.from_pretrained(args.model, padding_side="left")
    model = AutoModelForCausalLM.from_pretrained(args.model, dtype=torch.bfloat16)
    start = time.perf_counter()
    base = answers(model, tokenizer, rows)
    adapted = answers(PeftModel.from_pretrained(model, args.adapter), tokenizer, rows)
    report = {
        "rows": len(rows), "base": score(base, rows), "adapted": score(adapted, rows),
        "seconds": round(time.perf_counter() - start, 1), "base answers": base[:2], "adapted answers": adapted[:3],
    }  # fmt: skip
    print(json.dumps(report, indent=1, ensure_ascii=False))


if __name__ == "__main__":
    main()
