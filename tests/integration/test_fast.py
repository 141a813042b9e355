"""The fast path against the reference, through the same trainer: losses, gradients, rows that see only themselves."""

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from studio.dataset.tokens.encode import Example
from studio.dataset.tokens.training_set import Encoded
from studio.engine.workers.harness import Worker
from studio.engine.workers.inputs import Inputs
from studio.machine import compiling, cpu
from studio.recipe import Recipe
from studio.rundir import Identity, Journal, RunDir
from tests.tiny import byte_tokenizer

if TYPE_CHECKING:
    from studio.engine.fast.ops.torch_ops import Arithmetic

pytestmark = pytest.mark.engine

SHAPE = {
    "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 16, "vocab_size": 259, "max_position_embeddings": 1024,
    "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
FAMILIES = {
    "llama": {},
    "mistral": {"sliding_window": 40},
    "qwen2": {"use_sliding_window": False},
    "qwen3": {},
    "gemma": {"hidden_activation": "gelu_pytorch_tanh"},
    "phi3": {"tie_word_embeddings": False},
}
# Of several blocks of queries, of one, and shorter than any piece.
LENGTHS = (300, 33, 150, 7)


@pytest.fixture(scope="session")
def family(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The folder of a small random model of a family."""
    made: dict[str, Path] = {}

    def make(kind: str) -> Path:
        if kind not in made:
            import torch
            from transformers import AutoConfig, AutoModelForCausalLM

            torch.manual_seed(1)
            made[kind] = tmp_path_factory.mktemp("families") / kind
            config = AutoConfig.for_model(kind, **{**SHAPE, **FAMILIES[kind]})
            AutoModelForCausalLM.from_config(config, dtype=torch.float32).save_pretrained(made[kind])
            byte_tokenizer().save(str(made[kind] / "tokenizer.json"))
            told = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|im_end|>",
                    "pad_token": "<|endoftext|>"}  # fmt: skip
            (made[kind] / "tokenizer_config.json").write_text(json.dumps(told))
        return made[kind]

    return make


def rows(lengths: tuple[int, ...] = LENGTHS, seed: int = 0) -> list[Example]:
    import random

    drawn = random.Random(seed)
    made = []
    for number, length in enumerate(lengths):
        ids = [drawn.randrange(3, 259) for _ in range(length)]
        labels = [-100] * (length // 3) + ids[length // 3 :]
        made.append(Example(number, ids, labels))
    return made


def alike(seed: int = 0) -> list[Example]:
    """Rows that begin alike: all of them trained, so that one token has several to tell, but for the end of one."""
    drawn = [row.input_ids for row in rows((300, 300, 60, 400, 60, 60), seed)]
    ids = [drawn[0], drawn[0][:200] + drawn[1][200:], drawn[0][:20] + drawn[2][20:]]
    ids += [ids[1][:170] + drawn[3][170:], ids[0][:5] + drawn[4][5:]]
    ids.append(ids[-1])
    return [Example(number, one, one[:300] + [-100] * (len(one) - 300)) for number, one in enumerate(ids)]


def trainer_of(
    folder: Path,
    place: Path,
    engine: str,
    examples: list[Example],
    held_out: tuple[Example, ...] = (),
    **values: object,
) -> Any:
    """The trainer of a run, as its worker builds it."""
    from studio.engine.inference import loading
    from studio.engine.workers import train

    recipe = Recipe().with_values(
        {
            "model": folder.name, "dataset": "rows", "dtype": "float32", "r": 4, "lora_dropout": 0.0, "held_out": 0,
            "per_device_train_batch_size": 4, "max_steps": 3, "lr_scheduler_type": "constant", "warmup_ratio": 0,
            "learning_rate": 1e-3, "engine": engine, **values,
        }
    )  # fmt: skip
    place.mkdir()
    run = RunDir(place)
    work = Worker(run, Journal(run.events), Identity(os.getpid(), time.time(), "", "", ""))
    inputs = Inputs(recipe, folder.name, folder, "rows", place)
    trainer, conductor = train.build_trainer(work, inputs, Encoded(examples, list(held_out)), loading.pick_device())
    plan = conductor.listeners["recorder"]._plan
    assert plan["engine"] == ("fast" if engine == "auto" else "trl"), plan["engine_why"]
    return trainer


def awake(trainer: Any) -> Any:
    """With numbers in B, so that A has gradients too."""
    import torch

    torch.manual_seed(2)
    for name, parameter in trainer.model.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_(std=0.05)
    return trainer


def first_gradient(trainer: Any) -> tuple[float, Any]:
    """The loss of the first batch, and all its gradients in one row."""
    import torch

    trainer.create_optimizer()
    trainer.current_gradient_accumulation_steps = 1
    trainer.model.train()
    batch = trainer.data_collator(list(trainer.train_dataset))
    count = trainer._get_num_items_in_batch([batch], trainer.args.device)
    loss = trainer.training_step(trainer.model, batch, count)
    found = [one.grad.flatten().double() for one in trainer.model.parameters() if one.requires_grad]
    return float(loss), torch.cat(found)


def likeness(one: Any, other: Any) -> float:
    return float(one @ other / one.norm() / other.norm())


@pytest.fixture(params=["bf16", "no bf16"])
def products(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """A processor that multiplies bfloat16 in hardware, or one that does not: what is computed follows from it."""
    laid_out = cpu.lays_out()  # oneDNN lays out only what the real processor multiplies
    monkeypatch.setattr(cpu, "multiplies_bf16", lambda: request.param == "bf16")
    monkeypatch.setattr(cpu, "lays_out", lambda: laid_out)
    return str(request.param)


@pytest.fixture(params=["compiled", "torch"])
def beside_products(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> "Arithmetic":
    """Who computes what is no product: the compiled library, or torch where there is no compiler."""
    from studio.engine.fast import kernels, trainer
    from studio.engine.fast.ops import torch_ops

    if request.param == "compiled" and not compiling.found():
        pytest.skip("no C++ compiler here")
    by, why_not = kernels.kernels() if request.param == "compiled" else (torch_ops.Arithmetic(), "")
    assert not why_not
    assert isinstance(by, kernels.Kernels) == (request.param == "compiled")
    monkeypatch.setattr(trainer, "kernels", lambda: (by, ""))
    return by


@pytest.mark.parametrize("kind", FAMILIES)
@pytest.mark.usefixtures("beside_products")
def test_loss_and_gradients_are_those_of_the_reference(
    family: Callable[[str], Path], tmp_path: Path, kind: str
) -> None:
    agree(family(kind), tmp_path, "float32", 1e-5, 0.99999)


@pytest.mark.parametrize("kind", FAMILIES)
@pytest.mark.usefixtures("beside_products")
def test_loss_and_gradients_in_16_bits_are_those_of_the_reference(
    family: Callable[[str], Path], tmp_path: Path, kind: str, products: str
) -> None:
    agree(family(kind), tmp_path, "bfloat16", 5e-3, 0.999)


def agree(folder: Path, tmp_path: Path, dtype: str, near: float, alike: float) -> None:
    found = {
        engine: first_gradient(awake(trainer_of(folder, tmp_path / engine, engine, rows(), dtype=dtype)))
        for engine in ("auto", "trl")
    }
    (mine, gradient), (theirs, other) = found["auto"], found["trl"]
    assert mine == pytest.approx(theirs, rel=near)
    assert likeness(gradient, other) > alike
    assert float(gradient.norm()) == pytest.approx(float(other.norm()), rel=10 * near)


@pytest.mark.parametrize("values", [
    {"gradient_checkpointing": True},
    {"packing": True, "max_length": 512},
    {"quantization": "nf4", "dtype": "bfloat16"},
    {"quantization": "nf4", "dtype": "bfloat16", "target_modules": ["q_proj", "v_proj"]},
    {"dtype": "bfloat16", "target_modules": ["q_proj", "v_proj"], "gradient_checkpointing": True},
    {"quantization": "nf4", "dtype": "float32", "bnb_4bit_use_double_quant": False},
    {"target_modules": ["q_proj", "v_proj"], "use_rslora": True},
    {"init_lora_weights": "pissa"},
], ids=str)  # fmt: skip
@pytest.mark.usefixtures("beside_products")
def test_other_recipes_give_the_reference_s_gradients(
    family: Callable[[str], Path], tmp_path: Path, values: dict[str, object], products: str
) -> None:
    found = {
        engine: first_gradient(awake(trainer_of(family("llama"), tmp_path / engine, engine, rows(), **values)))
        for engine in ("auto", "trl")
    }
    (mine, gradient), (theirs, other) = found["auto"], found["trl"]
    # Over a quantized base the reference multiplies by A and B in bfloat16, whatever the base's own type.
    exact = 1e-4 if "quantization" in values else 1e-5
    assert mine == pytest.approx(theirs, rel=5e-3 if values.get("dtype") == "bfloat16" else exact)
    assert likeness(gradient, other) > 0.999


@pytest.mark.parametrize(("kind", "values"), [
    *((kind, {"lora_dropout": 0.3}) for kind in FAMILIES),
    ("llama", {"lora_dropout": 0.3, "gradient_checkpointing": True}),
    ("llama", {"dtype": "bfloat16"}),
    ("qwen3", {"dtype": "bfloat16", "quantization": "nf4", "lora_dropout": 0.3}),
    ("gemma", {"target_modules": ["k_proj", "down_proj"]}),
], ids=str)  # fmt: skip
@pytest.mark.usefixtures("beside_products")
def test_what_is_not_kept_is_made_again_to_the_bit(
    family: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, values: dict[str, object]
) -> None:
    """The inputs of adapted layers that a norm or a gate made: the same gradients as if they were kept, in less."""
    import torch
    from torch.autograd.graph import saved_tensors_hooks

    from studio.engine.fast.patch import Batch

    monkeypatch.setattr(cpu, "multiplies_bf16", lambda: False)
    found = {}
    for way in ("again", "kept"):
        if way == "kept":
            monkeypatch.setattr(Batch, "source", lambda *_: None)
        trainer = awake(trainer_of(family(kind), tmp_path / way, "auto", rows(), **values))
        held: dict[int, int] = {}

        def hold(one: Any, held: dict[int, int] = held) -> Any:
            held[one.untyped_storage().data_ptr()] = one.untyped_storage().nbytes()
            return one

        torch.manual_seed(4)
        with saved_tensors_hooks(hold, lambda one: one):
            found[way] = (*first_gradient(trainer), sum(held.values()))
    (loss, gradient, less), (its, other, all_of_it) = found["again"], found["kept"]
    assert loss == its and torch.equal(gradient, other) and float(gradient.norm()) > 0
    computed = sum(LENGTHS) - len(LENGTHS)  # not the last of a row: nobody asks what follows it
    trained = sum(length - length // 3 for length in LENGTHS)  # of the last of two layers nothing else
    products = (computed + trained) * SHAPE["intermediate_size"] * 4
    norm = computed * SHAPE["hidden_size"] * 4  # of those behind the embedding, which needs no gradient
    # With a checkpoint a layer at a time, nothing but its input is kept for long, either way.
    if "gradient_checkpointing" not in values:
        assert all_of_it - less >= products + (1 if "target_modules" in values else 2) * norm


def test_a_base_in_4_bits_loses_no_small_update(family: Callable[[str], Path], tmp_path: Path, products: str) -> None:
    """What an adapter adds far below the last bit of the base's answer arrives on average, as in the reference."""
    import torch

    slopes = {}
    for engine in ("auto", "trl"):
        values = {"quantization": "nf4", "dtype": "bfloat16"}
        trainer = trainer_of(family("llama"), tmp_path / engine, engine, rows(), **values)
        layer = trainer.model.get_base_model().model.layers[0].mlp.gate_proj
        torch.manual_seed(3)
        with torch.autocast("cpu", torch.bfloat16, enabled=engine == "trl"):
            x = torch.randn(4096, layer.in_features).bfloat16().float()
            layer.lora_B["default"].weight.data.zero_()
            before = layer.train()(x).float()
            layer.lora_B["default"].weight.data.normal_(std=2e-5)
            with torch.autocast("cpu", torch.bfloat16):
                added = layer.lora_B["default"](layer.lora_A["default"](x)).float() * layer.scaling["default"]
            found = layer(x).float() - before
        assert float(added.abs().mean()) < float(before.abs().mean()) / 500
        slopes[engine] = round(float((found * added).sum() / (added * added).sum()), 3)
    assert slopes == pytest.approx({"auto": 1, "trl": 1}, abs=0.1)


def test_weights_of_16_bits_are_widened_as_they_are_used_and_stay_16_bits(
    family: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a processor without bfloat16 arithmetic, where torch's products in it take many times as long."""
    import torch
    from torch.utils._python_dispatch import TorchDispatchMode

    multiplied: set[torch.dtype] = set()

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            if any(word in str(function) for word in ("aten.mm", "aten.addmm", "aten.bmm", "linear")):
                multiplied.update(one.dtype for one in args if isinstance(one, torch.Tensor))
            return function(*args, **(kwargs or {}))

    monkeypatch.setattr(cpu, "multiplies_bf16", lambda: False)
    trainer = trainer_of(family("qwen2"), tmp_path / "run", "auto", rows(), dtype="bfloat16", target_modules=["q_proj"])
    held = {name: one.dtype for name, one in trainer.model.named_parameters()}
    with Watch():
        first_gradient(trainer)
    assert multiplied == {torch.float32}
    assert {name: one.dtype for name, one in trainer.model.named_parameters()} == held
    assert {kind for name, kind in held.items() if "lora" not in name} == {torch.bfloat16}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_whole_run_has_the_reference_s_losses(family: Callable[[str], Path], tmp_path: Path, dtype: str) -> None:
    """Rows of unequal length, an incomplete last batch, accumulation and clipping."""
    values = {"dtype": dtype, "max_steps": 12, "per_device_train_batch_size": 2, "gradient_accumulation_steps": 2,
              "learning_rate": 5e-3, "max_grad_norm": 0.5}  # fmt: skip
    losses = {}
    for engine in ("auto", "trl"):
        trainer = trainer_of(family("llama"), tmp_path / engine, engine, rows((90, 33, 150, 7, 61, 80, 12)), **values)
        trainer.train()
        losses[engine] = [line["loss"] for line in trainer.state.log_history if "loss" in line]
    assert losses["trl"][-1] < losses["trl"][0]
    assert losses["auto"] == pytest.approx(losses["trl"], rel=1e-4 if dtype == "float32" else 5e-3)


# Where rows begin alike, the one whose beginning the others take is the one that changes behind it.
@pytest.mark.parametrize(("examples", "number", "place"), [(rows(), 1, 0), (alike(), 0, 200)], ids=["apart", "alike"])
def test_no_row_sees_another(
    family: Callable[[str], Path], tmp_path: Path, examples: list[Example], number: int, place: int
) -> None:
    import torch

    trainer = awake(trainer_of(family("llama"), tmp_path / "run", "auto", examples))
    causal = trainer.model.get_base_model()
    trainer.model.train()
    given = list(trainer.train_dataset)
    changed = [dict(row) for row in given]
    ids = given[number]["input_ids"]
    changed[number] |= {"input_ids": ids[:place] + [3 + token % 200 for token in ids[place:]]}

    def hidden(of: list[dict[str, Any]]) -> Any:
        batch = trainer.data_collator(of)
        del batch["labels"]
        found = causal.base_model(**batch, use_cache=False).last_hidden_state[0].detach()
        return found.split([len(row["input_ids"]) for row in of])

    for row, (one, other) in enumerate(zip(hidden(given), hidden(changed), strict=True)):
        assert torch.equal(one, other) == (row != number)


@pytest.mark.usefixtures("beside_products")
@pytest.mark.parametrize("kind", ["llama", "mistral"])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_what_nobody_asks_for_is_not_computed_and_what_several_do_once(
    family: Callable[[str], Path], tmp_path: Path, kind: str, checkpointing: bool
) -> None:
    """The reference's losses and gradients from fewer tokens; apart, as a run tries its longest batch, from all."""
    from studio.engine.fast.collator import sparing_nothing

    found, computed = {}, {}
    for engine in ("auto", "trl"):
        values = {"gradient_checkpointing": checkpointing}
        trainer = awake(trainer_of(family(kind), tmp_path / engine, engine, alike(), tuple(alike(1)), **values))
        norm = trainer.model.get_base_model().base_model.norm
        norm.register_forward_hook(lambda _module, args, _answer: computed.update(tokens=args[0].numel() // 64))
        found[engine] = first_gradient(trainer)
        computed[engine] = computed.pop("tokens")
        found[engine] += (trainer.evaluate()["eval_loss"],)
        if engine == "auto":
            trainer.data_collator = sparing_nothing(trainer.data_collator)
            apart = first_gradient(trainer)
            computed["apart"] = computed.pop("tokens")
    assert found["auto"][0] == pytest.approx(found["trl"][0], rel=1e-5)
    assert found["auto"][2] == pytest.approx(found["trl"][2], rel=1e-5)
    assert likeness(found["auto"][1], found["trl"][1]) > 0.999999
    assert likeness(apart[1], found["trl"][1]) > 0.999999
    every = sum(len(row.input_ids) for row in alike())
    assert computed["apart"] == every + 4 == 1184  # to the next number that is quickly multiplied with
    # The second row has 200 tokens in common with the first, the third 20 with either, the fourth 170 with the second,
    # the last two too few with any and all but one. Nobody asks what follows on a row's last token, nor, in the fourth
    # row, on one behind the last that is trained.
    assert computed["auto"] == every - (200 + 20 + 170 + 58) - (5 + 101) + 6 == 632


@pytest.mark.parametrize("kind", FAMILIES)
def test_in_the_last_layer_only_what_is_read_goes_on(family: Callable[[str], Path], tmp_path: Path, kind: str) -> None:
    """A third of each row is not trained: the first layer hands it on to those that look at it, the last to nobody."""
    trainer = awake(trainer_of(family(kind), tmp_path / "run", "auto", rows()))
    seen = []
    for layer in trainer.model.get_base_model().base_model.layers:
        gate = layer.mlp.gate_up_proj if kind == "phi3" else layer.mlp.gate_proj
        gate.register_forward_hook(lambda _module, args, _answer: seen.append(args[0].shape[1]))
    first_gradient(trainer)
    assert seen == [sum(LENGTHS) - len(LENGTHS), sum(length - length // 3 for length in LENGTHS)]


def test_a_row_s_beginning_is_looked_for_in_all_before_it() -> None:
    from studio.engine.fast.prefixes import shared_prefixes

    system, other = list(range(20)), list(range(40, 60))
    asked = [*system, *other]
    given = [[*system, 1, 2], [*other, 1], [*asked, 7, 8], [*other, 2], asked, [*system[:5], 9], asked]
    assert shared_prefixes(given) == [(-1, 0), (-1, 0), (0, 20), (1, 20), (2, 39), (-1, 0), (4, 39)]
    assert shared_prefixes([]) == []


@pytest.mark.parametrize(("dtype", "quantization"), [("float32", "none"), ("bfloat16", "none"), ("bfloat16", "nf4")])
def test_held_out_rows_are_evaluated_as_by_the_reference(
    family: Callable[[str], Path], tmp_path: Path, dtype: str, quantization: str
) -> None:
    """The last batch is incomplete, and dropout would be noticed."""
    found = {}
    for engine in ("auto", "trl"):
        values = {"dtype": dtype, "lora_dropout": 0.5, "per_device_eval_batch_size": 3, "quantization": quantization}
        trainer = awake(trainer_of(family("llama"), tmp_path / engine, engine, rows(), tuple(rows(seed=1)), **values))
        found[engine] = trainer.evaluate()
    for name in ("eval_loss", "eval_mean_token_accuracy"):
        assert found["auto"][name] == pytest.approx(found["trl"][name], rel=1e-5 if dtype == "float32" else 1e-3)


@pytest.mark.parametrize("window", [None, 40])
def test_a_gpu_s_kernel_is_asked_for_the_same_attention(monkeypatch: pytest.MonkeyPatch, window: int | None) -> None:
    """The kernel itself runs on a GPU only (tests/gpu): here its documented meaning stands in for it."""
    import torch
    from torch.nn.attention import varlen

    from studio.engine.fast.layout import Rows
    from studio.engine.fast.ops.attention import RowAttention, flash
    from studio.engine.fast.ops.torch_ops import Arithmetic

    def as_documented(
        query: Any, key: Any, value: Any, cu_seq_q: Any, cu_seq_k: Any, max_q: int, max_k: int,
        *, scale: float, window_size: tuple[int, int], enable_gqa: bool,
    ) -> Any:  # fmt: skip
        assert torch.equal(cu_seq_q, cu_seq_k) and cu_seq_q.dtype == torch.int32
        assert max_q == max_k == int(cu_seq_q.diff().max())
        answers = []
        for first, end in zip(cu_seq_q.tolist(), cu_seq_q[1:].tolist(), strict=False):
            back = torch.arange(end - first)[:, None] - torch.arange(end - first)[None]
            before, after = (end if size < 0 else size for size in window_size)
            q, k, v = (one[None, first:end].transpose(1, 2) for one in (query, key, value))
            seen = torch.nn.functional.scaled_dot_product_attention(
                q, k, v, attn_mask=(back <= before) & (-back <= after), scale=scale, enable_gqa=enable_gqa
            )
            answers.append(seen[0].transpose(0, 1))
        return torch.cat(answers)

    monkeypatch.setattr(varlen, "varlen_attn", as_documented)
    torch.manual_seed(0)
    tokens = sum(LENGTHS)
    query, key, value = (torch.randn(heads, tokens, 16, requires_grad=True) for heads in (4, 2, 2))
    found = {}
    for name, attention in (("flash", flash), ("rows", RowAttention.apply)):
        more = () if name == "flash" else (Arithmetic(),)
        answer = attention(query, key, value, Rows(list(LENGTHS)), 0.25, window, *more)
        gradients = torch.autograd.grad((answer * torch.linspace(-1, 1, 16)).sum(), (query, key, value))
        found[name] = (answer, *gradients)
    for mine, its in zip(found["flash"], found["rows"], strict=True):
        assert torch.allclose(mine, its, atol=1e-5)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_dropout_drops_its_share_anew_each_time(dtype: str) -> None:
    import torch

    from studio.engine.fast.ops.dropout import Pool

    x = torch.ones(2000, 64, dtype=getattr(torch, dtype))
    torch.manual_seed(0)
    pool = Pool(0.05, x, x.numel())
    places = [pool.place(x.numel()) for _ in range(3)]
    dropped = [pool.drop(x, place) for place in places]
    for one in dropped:
        assert set(one.unique().tolist()) == {0.0, 1.0}
        assert float((one == 0).double().mean()) == pytest.approx(0.05, rel=0.05)
        assert float((one == 0).double().mean(1).std()) == pytest.approx((0.05 * 0.95 / 64) ** 0.5, rel=0.1)
    assert not torch.equal(dropped[0], dropped[1]) and torch.equal(pool.drop(x, places[0]), dropped[0])


def test_the_head_holds_one_stretch_of_scores_at_a_time(
    monkeypatch: pytest.MonkeyPatch, beside_products: "Arithmetic"
) -> None:
    import torch

    from studio.engine.fast.ops import lm_head, prepacked, torch_ops
    from studio.engine.training import peak_memory

    monkeypatch.setattr(torch_ops, "SCORES", 2**20)
    monkeypatch.setattr(torch_ops, "SCORES_PIECE", 2**14)
    torch.manual_seed(0)
    hidden, weight, labels = torch.randn(4000, 16), torch.randn(1024, 16), torch.randint(1024, (4000,))
    with peak_memory.peak_of(0, False) as peak:
        words = prepacked.Weight(lambda: weight)
        chances, best = lm_head.TokenScores.apply(hidden.requires_grad_(), words, labels, beside_products)
    wanted = -torch.nn.functional.cross_entropy(hidden @ weight.t(), labels, reduction="none")
    assert torch.allclose(chances, wanted, atol=1e-4)
    assert torch.equal(best, (hidden @ weight.t()).argmax(-1) == labels)
    assert peak.bytes < 1.5 * 2**20 * 4


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_weights_laid_out_for_products_change_no_bit(
    family: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dtype: str
) -> None:
    import torch

    from studio.engine.fast.ops import matmul as products
    from studio.engine.fast.ops import prepacked

    if dtype == "bfloat16" and not cpu.multiplies_bf16():
        pytest.skip("this processor does not multiply bfloat16: nothing of it is laid out")
    monkeypatch.setattr(products, "_better_than_mkl", lambda: True)  # whoever multiplies what is not laid out
    lay_out, laid_out = prepacked.laid_out, list[torch.Tensor]()

    def watched(weight: torch.Tensor, tokens: int) -> torch.Tensor:
        laid_out.append(weight)
        return lay_out(weight, tokens)

    monkeypatch.setattr(prepacked, "laid_out", watched)

    def found(*types: str) -> tuple[float, torch.Tensor]:
        monkeypatch.setattr(cpu, "lays_out", lambda: frozenset(types))
        values = {"dtype": dtype, "target_modules": ["q_proj", "down_proj"]}
        trainer = awake(trainer_of(family("qwen2"), tmp_path / f"laid-{len(types)}", "auto", rows(), **values))
        first_gradient(trainer)
        return first_gradient(trainer)  # they are laid out behind the first step

    loss, gradient = found()
    assert not laid_out
    other_loss, other = found(dtype)
    # Of both layers and the head, one way or both.
    assert len(laid_out) == (2 * 7 + 1) * (2 if dtype == "bfloat16" else 1)
    assert other_loss == loss and torch.equal(other, gradient)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("count", [1, 2, 7, 336])
def test_a_weight_laid_out_multiplies_as_before_whatever_the_number(
    monkeypatch: pytest.MonkeyPatch, dtype: str, count: int
) -> None:
    """A run that goes on takes its first step by weights as they lie, one that was never cut has them laid out."""
    import torch

    from studio.engine.fast.ops import matmul as products
    from studio.engine.fast.ops.prepacked import Prepacked, PrepackedBothWays, Weight

    if dtype == "bfloat16" and not cpu.multiplies_bf16():
        pytest.skip("this processor does not multiply bfloat16: nothing of it is laid out")
    monkeypatch.setattr(products, "_better_than_mkl", lambda: True)
    torch.manual_seed(0)
    compute = getattr(torch, dtype)
    held, bias, x, grad, to = (
        torch.randn(*size).to(compute) for size in ((192, 576), (192,), (count, 576), (count, 192), (count, 576))
    )
    plain = Weight(lambda: held)
    laid_out = (Prepacked if dtype == "float32" else PrepackedBothWays)(lambda: held)
    laid_out.lay_out()
    assert torch.equal(laid_out.through(x), plain.through(x))
    assert torch.equal(laid_out.through(x, bias), plain.through(x, bias))
    assert torch.equal(laid_out.back(grad), plain.back(grad))
    assert torch.equal(laid_out.add_back(to.clone(), grad), plain.add_back(to.clone(), grad))


# Rows, tokens each begins with as the one before does, heads, key heads, numbers of a head, window.
ATTENTION = [
    ((130, 1, 65, 200), (0, 0, 1, 60), 4, 2, 16, None),
    ((130, 1, 65, 200), (0, 0, 1, 60), 4, 2, 16, 40),
    ((90, 70), (0, 69), 3, 3, 80, 7),
    ((333,), (0,), 6, 1, 64, None),
    ((64, 128, 3), (0, 64, 0), 2, 2, 32, 64),
]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(("lengths", "shared", "heads", "kv_heads", "width", "window"), ATTENTION)
def test_compiled_attention_is_attention(
    dtype: str, lengths: tuple[int, ...], shared: tuple[int, ...], heads: int, kv_heads: int, width: int, window: int
) -> None:
    """Beside torch's own in float64, row by row under a mask; and to the bit the same each time."""
    import torch

    from studio.engine.fast.kernels import Kernels, kernels
    from studio.engine.fast.layout import Rows
    from studio.engine.fast.ops.attention import attend

    if not compiling.found():
        pytest.skip("no C++ compiler here")
    by, why_not = kernels()
    assert isinstance(by, Kernels), why_not
    kind = getattr(torch, dtype)
    rows = Rows(list(lengths), [(number - 1, count) for number, count in enumerate(shared)])
    tokens = sum(lengths) - sum(shared)
    torch.manual_seed(0)
    # As they come: queries and keys by heads, values by tokens.
    given = [torch.randn(heads, tokens, width), torch.randn(kv_heads, tokens, width)]
    given = [one.to(kind) for one in (*given, torch.randn(tokens, kv_heads, width).transpose(0, 1))]
    if dtype == "bfloat16" and "avx512_bf16" not in cpu.features():
        pytest.skip("nothing is compiled for bfloat16 on a processor without AVX512-BF16")
    assert by.attends(*given)
    pull = torch.randn(tokens, heads, width).to(kind)

    def found() -> list[torch.Tensor]:
        leaves = [one.clone().requires_grad_() for one in given]
        leaves[2] = given[2].detach().requires_grad_()
        query, key, value = leaves
        answer = attend(query, key, value, rows, width**-0.5, window, by)
        return [answer.detach(), *torch.autograd.grad(answer, leaves, pull)]

    def wanted() -> list[torch.Tensor]:
        leaves = [one.double().requires_grad_() for one in given]
        places, starts, _ = rows.table()
        answer = torch.zeros(tokens, heads, width, dtype=torch.float64)
        for first, end, count in zip(starts, starts[1:], shared, strict=False):
            here = places[first:end]
            query, key, value = (one[:, here].repeat_interleave(heads // len(one), 0) for one in leaves)
            behind = torch.arange(len(here))[:, None] - torch.arange(len(here))
            seen = (behind >= 0) & (behind < (window or len(here)))
            chances = (query @ key.mT * width**-0.5).masked_fill(~seen, float("-inf")).softmax(-1)
            answer = answer.index_put((here[count:],), (chances @ value).transpose(0, 1)[count:])
        return [answer.detach(), *torch.autograd.grad(answer, leaves, pull.double())]

    mine = found()
    for one, other in zip(mine, wanted(), strict=True):
        assert float((one - other).norm() / other.norm()) < (1e-6 if dtype == "float32" else 5e-3)
    assert all(torch.equal(one, other) for one, other in zip(mine, found(), strict=True))


@pytest.mark.parametrize("width", [16, 64, 128])
def test_the_estimate_knows_what_compiled_attention_works_in(width: int) -> None:
    import ctypes

    from studio.engine.fast.kernels import Kernels, kernels
    from studio.recipe.fast_path import attention_bytes

    if not compiling.found():
        pytest.skip("no C++ compiler here")
    by, why_not = kernels()
    assert isinstance(by, Kernels), why_not
    for longest in (30, 250, 2000):
        sizes = (ctypes.c_int64 * 13)(4, 2, width, 1, 0, longest, 1)
        for name, numbers in (("float32", 4), ("bfloat16", 2)):
            space = getattr(by._library, f"attention_space_{name}", None)
            if space:  # else none is compiled for these numbers
                assert space(sizes) == pytest.approx(attention_bytes(longest, width, numbers), rel=0.02)


def test_types_that_nothing_is_compiled_for_are_torch_s(beside_products: "Arithmetic") -> None:
    import torch

    from studio.engine.fast.ops.torch_ops import Arithmetic

    torch.manual_seed(0)
    x, half = torch.randn(5, 64), torch.randn(64).half()
    for weight, grad in ((half, x), (half.float(), x.half()), (half.bfloat16(), x.half())):
        mine, its = (
            [
                *by.norm(x, weight, 1e-5, torch.float16),
                by.norm(x, weight, 1e-5, torch.float32)[0],
                by.norm_backward(grad, x, weight, torch.ones(5, 1)),
            ]
            for by in (beside_products, Arithmetic())
        )
        for one, other in zip(mine, its, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("amd", [True, False])
def test_products_are_torch_s_whoever_multiplies(monkeypatch: pytest.MonkeyPatch, dtype: str, amd: bool) -> None:
    import torch

    from studio.engine.fast.ops import matmul as products

    monkeypatch.setattr(cpu, "made_by_amd", lambda: amd)
    products._better_than_mkl.cache_clear()
    try:
        torch.manual_seed(0)
        width = getattr(torch, dtype)
        a, b, bias, to = (torch.randn(*size).to(width) for size in ((70, 33), (20, 33), (20,), (70, 20)))
        wanted = a.double() @ b.double().t()
        near = {"rtol": 1e-2, "atol": 0.1} if dtype == "bfloat16" else {"rtol": 1e-4, "atol": 1e-4}
        torch.testing.assert_close(products.product(a, b.t()).double(), wanted, **near)
        torch.testing.assert_close(products.product(a, b.t().contiguous()).double(), wanted, **near)
        torch.testing.assert_close(products.product(a, b.t(), bias).double(), wanted + bias, **near)
        torch.testing.assert_close(products.product(b, a.t()).double(), wanted.t(), **near)
        added = products.add_product_(to.clone(), a, b.t(), 0.5)
        torch.testing.assert_close(added.double(), to + 0.5 * wanted, **near)
    finally:
        products._better_than_mkl.cache_clear()


@pytest.mark.parametrize(("values", "why"), [
    ({"engine": "trl"}, "engine trl"),
    ({"use_dora": True}, "use_dora"),
    ({"bias": "all"}, "bias"),
    ({"method": "ia3"}, "ia3"),
    ({"neftune_noise_alpha": 5}, "neftune"),
    ({"quantization": "int8"}, "int8"),
    ({"quantization": "nf4", "dtype": "bfloat16", "bnb_4bit_compute_dtype": "float32"}, "bnb_4bit_compute_dtype"),
])  # fmt: skip
def test_what_it_does_not_know_trains_on_the_reference_and_says_why(
    family: Callable[[str], Path], values: dict[str, object], why: str
) -> None:
    from transformers import AutoModelForCausalLM

    from studio.engine import fast
    from studio.engine.fast.kernels import Kernels, kernels

    model = AutoModelForCausalLM.from_pretrained(family("llama"))
    plain = {"dtype": "float32"}
    assert fast.choose(Recipe().with_values(plain), model, False).fast
    choice = fast.choose(Recipe().with_values(plain | values), model, False)
    assert not choice.fast and why in choice.why
    by, _ = kernels()
    said = fast.choose(Recipe().with_values(plain), model, False, alike()[:4]).why
    assert ("Attention, norms and gates are compiled" in said) == isinstance(by, Kernels)
    model.config.head_dim = 24  # attention is not compiled for such heads
    assert "Attention, norms and gates are compiled" not in fast.choose(Recipe().with_values(plain), model, False).why
    assert "The first 20 tokens are the same in every example and are computed once" in said
    one_by_one = plain | {"per_device_train_batch_size": 1}
    for values, examples in ((plain, rows()), (plain, alike()[:1]), (one_by_one, alike()[:4])):
        assert "the same in every example" not in fast.choose(Recipe().with_values(values), model, False, examples).why
    model.config.model_type = "gpt2"
    assert "gpt2" in fast.choose(Recipe().with_values(plain), model, False).why
