"""Shapes from headers, and the estimate's arithmetic."""

import json
import struct
from pathlib import Path

import pytest

from studio.errors import BadInput
from studio.machine.cpu import Processor
from studio.memory.estimate import footprint, nf4_bytes, trainable_parameters
from studio.memory.shapes import read_shape
from studio.recipe import Recipe
from tests.tiny import HIDDEN, INNER, LAYERS, tiny_model

KEY_VALUE = HIDDEN // 2


def test_linear_layers_are_found_in_the_header(tiny: Path) -> None:
    shape = read_shape(tiny)
    assert shape.modules == {name: LAYERS for name in
                             ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")}  # fmt: skip
    assert shape.parameters == sum(tensor.elements for tensor in shape.tensors)


def test_trainable_parameters_by_hand(tiny: Path) -> None:
    shape = read_shape(tiny)
    square, narrow, wide = HIDDEN + HIDDEN, HIDDEN + KEY_VALUE, HIDDEN + INNER
    assert trainable_parameters(shape, Recipe().with_values({"r": 4})) == LAYERS * 4 * (
        2 * square + 2 * narrow + 3 * wide
    )
    attention = Recipe().with_values({"r": 4, "target_modules": ["q_proj", "v_proj"]})
    assert trainable_parameters(shape, attention) == LAYERS * 4 * (square + narrow)


def test_double_quantization_saves_0_373_bits_a_parameter() -> None:
    elements = 64 * 256 * 100
    assert 8 * (nf4_bytes(elements, False) - nf4_bytes(elements, True)) / elements == pytest.approx(0.373, abs=5e-4)


def test_every_lever_moves_the_estimate_the_right_way(tiny: Path) -> None:
    shape, base = read_shape(tiny), Recipe()

    def total(**values: object) -> int:
        return footprint(shape, base.with_values(values), "cpu").total

    usual = total()
    assert total(r=32) > usual
    assert total(max_length=512) < usual
    assert total(per_device_train_batch_size=8) > usual
    assert total(gradient_checkpointing=True) < usual
    assert total(dtype="float32") > usual
    assert total(target_modules=["q_proj"]) < usual
    items = {item.key: item.bytes for item in footprint(shape, base, "cpu").items}
    assert items["weights"] == 2 * shape.parameters
    few = footprint(shape, base, "cpu", trained_share=0.1)
    assert few.total < usual
    trained = trainable_parameters(shape, base)
    # An adapter's gradients come while activations go; with accumulation they wait from batch to batch.
    assert items["gradients"] == 0
    waiting = footprint(shape, base.with_values({"gradient_accumulation_steps": 2}), "cpu")
    assert next(item.bytes for item in waiting.items if item.key == "gradients") == 4 * trained
    assert items["optimizer"] == 8 * trained


def test_a_processor_without_bfloat16_holds_the_base_in_16_bits_and_computes_in_32(tiny: Path) -> None:
    shape, base = read_shape(tiny), Recipe()
    usual, wide, exact = (
        {
            item.key: item.bytes
            for item in footprint(shape, base.with_values({"dtype": dtype}), "cpu", processor=Processor(bf16)).items
        }
        for dtype, bf16 in (("bfloat16", True), ("bfloat16", False), ("float32", False))
    )
    assert wide["weights"] == usual["weights"] == exact["weights"] / 2
    assert wide["activations"] == pytest.approx(exact["activations"], rel=0.05)
    assert wide["activations"] > 1.7 * usual["activations"]
    # The reference path computes as ever.
    trl = base.with_values({"engine": "trl"})
    assert footprint(shape, trl, "cpu", processor=Processor(bf16=False)) == footprint(shape, trl, "cpu")


def test_weights_laid_out_for_products_count_where_they_are_laid_out(tiny: Path) -> None:
    """At most a sixteenth of the memory goes into it, and nothing where others multiply or the base is in 4 bits."""
    shape, both = read_shape(tiny), frozenset({"bfloat16", "float32"})
    multiplied = shape.parameters - sum(tensor.elements for tensor in shape.tensors if "norm" in tensor.name)
    assert shape.tied

    def more(memory: int, lays_out: frozenset[str] = both, device: str = "cpu", **values: object) -> int:
        recipe = Recipe().with_values(values)
        here = Processor(memory=memory, lays_out=lays_out)
        found, plain = (footprint(shape, recipe, device, processor=one) for one in (here, Processor()))
        assert ("prepacked" in found.items[0].note) == (found.total > plain.total)
        return found.total - plain.total

    most = 16 * 4 * multiplied
    assert more(most) == more(most, dtype="float32") == 4 * multiplied
    assert more(most - 16) == 0
    assert more(most, frozenset({"bfloat16"}), dtype="float32") == 0
    for values in ({"quantization": "nf4"}, {"engine": "trl"}, {"use_dora": True}):
        assert more(most, **values) == 0
    assert more(most, device="cuda", engine="fast") == 0


def _spoil(folder: Path, how: str) -> None:
    weights = folder / "model.safetensors"
    if how == "none":
        weights.unlink()
    elif how == "pickle":
        weights.rename(folder / "pytorch_model.bin")
    elif how == "pickle by another name":
        weights.write_bytes(b"\x80\x04\x95" + bytes(200))
    elif how == "cut":
        weights.write_bytes(weights.read_bytes()[:-1000])
    elif how == "huge header":
        weights.write_bytes(struct.pack("<Q", 2**62) + b"{}")
    elif how == "shard missing":
        index = {"weight_map": {"a": "model.safetensors", "b": "model-00002-of-00002.safetensors"}}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    elif how == "no config":
        (folder / "config.json").unlink()


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("none", "has no weights"),
        ("pickle", "a pickle: opening one can run foreign code"),
        ("pickle by another name", "is not a safetensors file"),
        ("cut", "was cut short"),
        ("huge header", "is not a safetensors file"),
        ("shard missing", "model-00002-of-00002.safetensors, and that file is missing"),
        ("no config", "no readable config.json"),
    ],
)
def test_a_model_folder_that_is_not_whole_is_refused_with_the_reason(tmp_path: Path, how: str, said: str) -> None:
    folder = tiny_model(tmp_path / "model")
    _spoil(folder, how)
    with pytest.raises(BadInput) as error:
        read_shape(folder)
    assert said in str(error.value)
