"""What the engine takes for granted of torch, transformers, TRL, PEFT, bitsandbytes, Liger and llama.cpp still holds.

Each name of studio/engine/compat is checked against the installed version: one that fails says what breaks.
"""

import importlib
import pkgutil
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from studio.engine import compat
from studio.engine.compat import contract
from studio.engine.compat.contract import Name, OfTrainer
from studio.errors import Unavailable
from tests.integration.test_fast import rows, trainer_of

if TYPE_CHECKING:
    from trl import SFTTrainer

pytestmark = pytest.mark.engine
OPTIONAL = {"liger_kernel", "llama_cpp"}
LIBRARIES = sorted({module.name for module in pkgutil.iter_modules(compat.__path__)} - {"contract"})


def relied_on() -> Iterator[Any]:
    for library in LIBRARIES:
        if library in OPTIONAL and not contract.installed(library):
            yield pytest.param(Name(library, ""), marks=pytest.mark.skip(f"{library} is not installed"), id=library)
        else:
            module = importlib.import_module(f"{compat.__name__}.{library}")
            yield from (pytest.param(name, id=name.path) for name in module.RELIES_ON)


@pytest.fixture(scope="module")
def trainer(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> "SFTTrainer":
    """TRL's own trainer on a tiny model, behind its first step and before the point of it."""
    from datasets import Dataset
    from transformers import AutoModelForCausalLM
    from trl import SFTConfig, SFTTrainer

    made = SFTTrainer(
        model=AutoModelForCausalLM.from_pretrained(tiny, dtype="float32"),
        args=SFTConfig(
            output_dir=str(tmp_path_factory.mktemp("trained")), use_cpu=True, bf16=False, max_steps=1, logging_steps=1,
            per_device_train_batch_size=2, report_to="none", save_strategy="no", activation_checkpointing=False,
            disable_tqdm=True, dataset_kwargs={"skip_prepare_dataset": True},
        ),
        train_dataset=Dataset.from_list([{"input_ids": [5, 6, 7], "labels": [5, 6, 7]}] * 2),
    )  # fmt: skip
    made.train()
    return made


@pytest.mark.parametrize("name", relied_on())
def test_what_the_engine_relies_on_holds(name: Name, request: pytest.FixtureRequest) -> None:
    fault = name.fault_in(request.getfixturevalue("trainer")) if isinstance(name, OfTrainer) else name.fault()
    assert not fault, fault


@pytest.mark.parametrize("library", LIBRARIES)
def test_each_room_holds_the_names_of_its_library(library: str) -> None:
    names = importlib.import_module(f"{compat.__name__}.{library}").RELIES_ON
    assert names and {name.library for name in names} == {library}
    assert len({name.path for name in names}) == len(names)


def test_a_name_that_is_gone_is_told_with_what_it_breaks(monkeypatch: pytest.MonkeyPatch) -> None:
    import transformers

    from studio.engine.compat.transformers import RESUME, use_own_resume

    monkeypatch.delattr(transformers.Trainer, "_load_rng_state")
    fault = (
        f"transformers {transformers.__version__}: Trainer._load_rng_state is gone: "
        "resume would start with fresh random numbers (studio/engine/compat/transformers.py)"
    )
    assert [name.fault() for name in RESUME if name.fault()] == [fault]

    def nothing() -> None:
        raise AssertionError

    class Untouched:
        pass

    trainer = Untouched()
    with pytest.raises(Unavailable) as told:
        use_own_resume(trainer, weights=nothing, optimizer=nothing, rng=nothing)
    assert str(told.value) == fault and not vars(trainer)


def test_a_name_that_is_no_longer_called_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    import inspect

    from transformers import Trainer

    from studio.engine.compat.transformers import RESUME

    for name, method in list(vars(Trainer).items()):
        if inspect.isfunction(method) and "_load_rng_state" in inspect.unwrap(method).__code__.co_names:
            monkeypatch.setattr(Trainer, name, lambda *_: None)
    faults = [name.fault() for name in RESUME]
    assert any("Trainer._load_rng_state has changed: resume would start with fresh" in one for one in faults)


def test_a_name_with_other_parameters_is_told() -> None:
    name = Name("inspect.signature", "nothing would be known of a function", takes=("obj", "lately"))
    assert name.fault().startswith("inspect (unknown version): signature no longer takes lately: nothing would")


@pytest.mark.parametrize("engine", ["auto", "trl"])
def test_no_call_of_ours_is_deprecated(tiny: Path, tmp_path: Path, engine: str) -> None:
    """A whole training, of which only what PEFT asks of transformers by itself may be deprecated."""
    values = {"gradient_checkpointing": True, "optim": "adamw_torch", "eval_steps": 1}
    with warnings.catch_warnings(record=True) as told:
        for kind in (DeprecationWarning, PendingDeprecationWarning, FutureWarning):
            warnings.simplefilter("always", kind)
        trainer_of(tiny, tmp_path / engine, engine, rows((40, 20, 30)), (*rows((25,)),), **values).train()
    kinds = DeprecationWarning | PendingDeprecationWarning | FutureWarning
    ours = [str(one.message) for one in told if issubclass(one.category, kinds)]
    theirs = ("`is_gradient_checkpointing` is deprecated",)  # read by peft.get_peft_model
    assert [text for text in ours if not text.startswith(theirs)] == []
