"""A whole but tiny model, made without torch: a two-layer Llama with random weights, a byte tokenizer, ChatML.

Everything that reads a model folder works on it, training included, in seconds instead of minutes.
"""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

HIDDEN, INNER, LAYERS, HEADS, KV_HEADS = 32, 64, 2, 4, 2
CHATML = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)


def byte_tokenizer() -> Tokenizer:
    """256 bytes and three special tokens, no merges."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    vocabulary = {token: index for index, token in enumerate([*special, *alphabet])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in special])
    return tokenizer


def tiny_model(folder: Path, template: str | None = CHATML, seed: int = 0) -> Path:
    """Write the model into `folder` and return it."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = byte_tokenizer()
    tokenizer.save(str(folder / "tokenizer.json"))
    vocabulary = tokenizer.get_vocab_size()
    head = HIDDEN // HEADS
    config = {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": HIDDEN,
        "intermediate_size": INNER, "num_hidden_layers": LAYERS, "num_attention_heads": HEADS,
        "num_key_value_heads": KV_HEADS, "head_dim": head, "vocab_size": vocabulary, "max_position_embeddings": 1024,
        "rms_norm_eps": 1e-5, "tie_word_embeddings": True, "hidden_act": "silu", "bos_token_id": 1, "eos_token_id": 2,
        "pad_token_id": 0, "dtype": "float32",
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "generation_config.json").write_text(
        json.dumps({"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0})
    )
    told = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<|im_start|>", "eos_token": "<|im_end|>",
            "pad_token": "<|endoftext|>"}  # fmt: skip
    (folder / "tokenizer_config.json").write_text(json.dumps(told))
    if template is not None:
        (folder / "chat_template.jinja").write_text(template)
    random = np.random.default_rng(seed)

    def matrix(*shape: int) -> np.ndarray:
        return random.normal(0, 0.05, shape).astype(np.float32)

    tensors = {
        "model.embed_tokens.weight": matrix(vocabulary, HIDDEN),
        "model.norm.weight": np.ones(HIDDEN, np.float32),
    }
    for layer in range(LAYERS):
        prefix = f"model.layers.{layer}"
        tensors |= {
            f"{prefix}.self_attn.q_proj.weight": matrix(HIDDEN, HIDDEN),
            f"{prefix}.self_attn.k_proj.weight": matrix(KV_HEADS * head, HIDDEN),
            f"{prefix}.self_attn.v_proj.weight": matrix(KV_HEADS * head, HIDDEN),
            f"{prefix}.self_attn.o_proj.weight": matrix(HIDDEN, HIDDEN),
            f"{prefix}.mlp.gate_proj.weight": matrix(INNER, HIDDEN),
            f"{prefix}.mlp.up_proj.weight": matrix(INNER, HIDDEN),
            f"{prefix}.mlp.down_proj.weight": matrix(HIDDEN, INNER),
            f"{prefix}.input_layernorm.weight": np.ones(HIDDEN, np.float32),
            f"{prefix}.post_attention_layernorm.weight": np.ones(HIDDEN, np.float32),
        }
    save_file(tensors, str(folder / "model.safetensors"), metadata={"format": "pt"})
    return folder


def saying(folder: Path, texts: Sequence[str]) -> Path:
    """A model that answers all these texts, one token each and in their order, whatever it is asked.

    Attention and MLP add nothing, so a token leads to the next by the embedding alone: each text has a dimension of its
    own, all other tokens share the first.
    """
    width, others = 64, len(byte_tokenizer().get_vocab())
    assert len(texts) < width
    tiny_model(folder)
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    spelled = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    for place, text in enumerate(texts):
        ((token, _),) = spelled.pre_tokenize_str(text)
        tokenizer["model"]["vocab"][token] = others + place
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    size = others + len(texts)
    embedded, head = np.zeros((size, width), np.float32), np.zeros((size, width), np.float32)
    embedded[:others, 0] = 1
    for place in range(len(texts)):
        embedded[others + place, place + 1] = 1
        head[others + place, place] = 50
    head[2, len(texts)] = 50  # the end
    told = json.loads((folder / "config.json").read_text())
    told |= {"vocab_size": size, "hidden_size": width, "head_dim": width // HEADS, "num_hidden_layers": 1,
             "tie_word_embeddings": False}  # fmt: skip
    (folder / "config.json").write_text(json.dumps(told))

    def nothing(*shape: int) -> np.ndarray:
        return np.zeros(shape, np.float32)

    layer, keys = "model.layers.0", KV_HEADS * width // HEADS
    tensors = {
        "model.embed_tokens.weight": embedded, "lm_head.weight": head, "model.norm.weight": np.ones(width, np.float32),
        f"{layer}.self_attn.q_proj.weight": nothing(width, width),
        f"{layer}.self_attn.k_proj.weight": nothing(keys, width),
        f"{layer}.self_attn.v_proj.weight": nothing(keys, width),
        f"{layer}.self_attn.o_proj.weight": nothing(width, width),
        f"{layer}.mlp.gate_proj.weight": nothing(INNER, width), f"{layer}.mlp.up_proj.weight": nothing(INNER, width),
        f"{layer}.mlp.down_proj.weight": nothing(width, INNER),
        f"{layer}.input_layernorm.weight": np.ones(width, np.float32),
        f"{layer}.post_attention_layernorm.weight": np.ones(width, np.float32),
    }  # fmt: skip
    save_file(tensors, str(folder / "model.safetensors"), metadata={"format": "pt"})
    return folder
