"""The bundled shapes: their sizes are the published ones, and what print says of them comes out."""

import pytest

from studio.errors import NotFound
from studio.memory import catalogue
from studio.memory.estimate import GIB, footprint, trainable_parameters
from studio.memory.structure import block_of
from studio.recipe import Recipe

# The settings of Dettmers et al. 2023: NF4, double quantization, r 64 on all linear layers, batch 1, checkpointing,
# paged AdamW with 32-bit states, 16 batches to a step.
QLORA = Recipe().with_values(
    {
        "quantization": "nf4",
        "r": 64,
        "lora_alpha": 16,
        "lora_dropout": 0.05,
        "gradient_checkpointing": True,
        "optim": "paged_adamw_32bit",
        "per_device_train_batch_size": 1,
        "gradient_accumulation_steps": 16,
        "max_length": 512,
    }
)


@pytest.mark.parametrize("name", catalogue.names())
def test_each_shape_has_the_published_number_of_parameters(name: str) -> None:
    assert catalogue.shape(name).parameters == catalogue.published(name)


@pytest.mark.parametrize("name", catalogue.names())
def test_each_shapes_layers_are_all_found(name: str) -> None:
    shape = catalogue.shape(name)
    block = block_of(shape)
    found = [*block.attention, block.out, *block.mlp, block.down]
    assert None not in found
    assert sum(linear.elements for linear in found if linear) * shape.layers == shape.elements[0]


def test_there_are_enough_and_an_unknown_one_is_said() -> None:
    assert len(catalogue.names()) >= 24
    assert catalogue.shape("llama-3.1-8b").parameters == 8_030_261_248
    assert catalogue.shape("META-LLAMA/Llama-2-7B-hf").parameters == 6_738_415_616
    with pytest.raises(NotFound, match="known models"):
        catalogue.shape("nobody/nothing")


@pytest.mark.parametrize(("name", "card"), [("huggyllama/llama-65b", 48), ("huggyllama/llama-30b", 24)])
def test_qloras_models_fit_where_its_paper_says(name: str, card: int) -> None:
    """65B on a card of 48 GB and 33B on one of 24 GB (Dettmers et al. 2023): the paged states may leave the card."""
    found = footprint(catalogue.shape(name), QLORA, "cuda")
    assert found.total - found.pageable < card * GIB * 0.96  # what such a card has free


def test_trainable_parameters_of_print() -> None:
    """r 64 on all linear layers of Llama 65B: 7 layers of each of 80 blocks."""
    shape = catalogue.shape("huggyllama/llama-65b")
    hidden, inner = 8192, 22016
    assert trainable_parameters(shape, QLORA) == 80 * 64 * (4 * 2 * hidden + 3 * (hidden + inner))


@pytest.mark.parametrize("name", ["meta-llama/Llama-3.1-8B", "Qwen/Qwen3-0.6B", "openai-community/gpt2"])
def test_double_quantization_saves_0_373_bits_a_parameter(name: str) -> None:
    shape = catalogue.shape(name)

    def weights(double: bool) -> int:
        values = {"quantization": "nf4", "bnb_4bit_use_double_quant": double}
        items = footprint(shape, Recipe().with_values(values), "cuda").items
        return next(item.bytes for item in items if item.key == "weights")

    saved = 8 * (weights(False) - weights(True)) / shape.elements[0]
    assert saved == pytest.approx(0.373, abs=0.006)  # the smaller the layers, the more their tables take
