"""Small models with real proportions: several architectures with random weights, created once per folder."""

import json
from pathlib import Path
from typing import Any

_ROPE = {"rope_theta": 10000.0, "rope_type": "default"}

# name -> (configuration class, its arguments): the proportions of the published models, scaled down.
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("LlamaConfig", {
        "hidden_size": 512, "intermediate_size": 1792, "num_hidden_layers": 6, "num_attention_heads": 8,
        "num_key_value_heads": 2, "head_dim": 64, "vocab_size": 32000, "tie_word_embeddings": False}),
    "qwen2": ("Qwen2Config", {
        "hidden_size": 448, "intermediate_size": 2432, "num_hidden_layers": 5, "num_attention_heads": 7,
        "num_key_value_heads": 1, "vocab_size": 50000, "tie_word_embeddings": True}),
    "qwen3": ("Qwen3Config", {
        "hidden_size": 512, "intermediate_size": 1536, "num_hidden_layers": 5, "num_attention_heads": 8,
        "num_key_value_heads": 4, "head_dim": 128, "vocab_size": 50000, "tie_word_embeddings": True}),
    "gemma2": ("Gemma2Config", {
        "hidden_size": 512, "intermediate_size": 2048, "num_hidden_layers": 4, "num_attention_heads": 4,
        "num_key_value_heads": 2, "head_dim": 128, "vocab_size": 48000, "query_pre_attn_scalar": 128}),
    "gemma3": ("Gemma3TextConfig", {
        "hidden_size": 384, "intermediate_size": 2304, "num_hidden_layers": 6, "num_attention_heads": 4,
        "num_key_value_heads": 1, "head_dim": 128, "vocab_size": 50000, "sliding_window": 512}),
    "mistral": ("MistralConfig", {
        "hidden_size": 512, "intermediate_size": 1792, "num_hidden_layers": 6, "num_attention_heads": 8,
        "num_key_value_heads": 2, "head_dim": 64, "vocab_size": 32000, "sliding_window": None}),
    "phi3": ("Phi3Config", {
        "hidden_size": 512, "intermediate_size": 1408, "num_hidden_layers": 6, "num_attention_heads": 8,
        "num_key_value_heads": 8, "vocab_size": 32064, "pad_token_id": 0}),
    "gpt_neox": ("GPTNeoXConfig", {
        "hidden_size": 512, "intermediate_size": 2048, "num_hidden_layers": 6, "num_attention_heads": 8,
        "vocab_size": 50304}),
    "gpt2": ("GPT2Config", {"n_embd": 512, "n_layer": 6, "n_head": 8, "vocab_size": 50257, "n_positions": 1024}),
    "falcon": ("FalconConfig", {
        "hidden_size": 568, "num_hidden_layers": 5, "num_attention_heads": 71 // 8, "multi_query": True,
        "parallel_attn": True, "bias": False, "new_decoder_architecture": False, "vocab_size": 32000}),
}  # fmt: skip


def make(folder: Path, name: str, torch_dtype: str = "bfloat16") -> Path:
    """Write model `name` with random weights and a byte tokenizer into `folder`, if missing; return its folder."""
    import torch
    import transformers

    target = folder / name
    if (target / "model.safetensors").is_file():
        return target
    kind, values = MODELS[name]
    config = getattr(transformers, kind)(**values)
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(config, dtype=getattr(torch, torch_dtype))
    model.save_pretrained(target)
    _tokenizer(target)
    return target


def _tokenizer(target: Path) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers

    alphabet = ["<pad>", "<s>", "</s>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
    tokenizer = Tokenizer(models.BPE(vocab={token: index for index, token in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.save(str(target / "tokenizer.json"))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "pad_token": "<pad>", "bos_token": "<s>",
              "eos_token": "</s>"}  # fmt: skip
    (target / "tokenizer_config.json").write_text(json.dumps(config))
