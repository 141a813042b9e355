"""Recipe: the complete description of a run.

Form, tooltips, validation, YAML, command-line flags, database row and worker input all derive from `Recipe`. Every
field (recipe/fields/) states its type, bounds, default, unit, the library argument it becomes and a help text with a
number in it, once. A recipe, a dataset's hash and the library versions reproduce a run.

Whether a model or dataset exists is checked by the services; dataset and engine read them.
"""

import difflib
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self, get_args, get_origin

import yaml
from pydantic import Field, ValidationError, model_validator
from pydantic.fields import FieldInfo

from studio.errors import BadInput
from studio.recipe import yaml_loader
from studio.recipe.fields import Data, Evaluation, Method, Model, Optimizer, Output, Quantization, Schedule, Theme

VERSION = 1

# On a CPU, runs whose longest example has at most this many tokens compute attention as plain matrix products, which
# are faster than the CPU's flash kernel there (benchmarks/RESULTS.md). Shared by engine and estimate, which must agree.
PLAIN_ATTENTION_TOKENS = 256


_LONGEST = 1_000_000  # characters of a recipe file


class Recipe(Theme):
    """What to train and how. `Recipe.load` reads YAML of this version."""

    version: Literal[1] = 1
    name: str = Field(
        "", title="Name", description="Name of the run. Empty: the dataset's name and a number.", max_length=80
    )
    model: Model = Field(default_factory=Model, title="Model")
    data: Data = Field(default_factory=Data, title="Data")
    method: Method = Field(default_factory=Method, title="Method")
    quantization: Quantization = Field(default_factory=Quantization, title="Quantization")
    optimizer: Optimizer = Field(default_factory=Optimizer, title="Optimizer")
    schedule: Schedule = Field(default_factory=Schedule, title="Schedule")
    evaluation: Evaluation = Field(default_factory=Evaluation, title="Evaluation")
    output: Output = Field(default_factory=Output, title="Output")

    @model_validator(mode="after")
    def _goes_together(self) -> Self:
        """Refuse combinations that the libraries do not support; the message names both fields."""
        method, quantization = self.method, self.quantization.quantization
        if method.method == "full" and quantization != "none":
            raise ValueError(f"method full trains every weight, and quantization {quantization} freezes them: use none")
        if method.method == "lora":
            if method.init_lora_weights in ("pissa", "olora") and quantization != "none":
                raise ValueError(
                    f"init_lora_weights {method.init_lora_weights} decomposes the base in full precision, and "
                    f"quantization {quantization} has rounded it: use none, or init_lora_weights loftq"
                )
            if method.init_lora_weights == "loftq" and not self.quantization.four_bit:
                raise ValueError(
                    "init_lora_weights loftq compensates for 4-bit rounding: set quantization to nf4 or fp4"
                )
            if method.loraplus_lr_ratio and self.optimizer.optim != "adamw_torch":
                raise ValueError(f"loraplus_lr_ratio works with optim adamw_torch, not {self.optimizer.optim}")
        if method.method in ("prompt", "prefix") and self.schedule.packing:
            raise ValueError(
                f"packing concatenates examples, and method {method.method} needs its virtual tokens before each one: "
                "turn packing off"
            )
        if method.method == "prefix" and self.schedule.gradient_checkpointing:
            raise ValueError(
                "method prefix stores its keys and values in the cache that gradient_checkpointing drops: "
                "turn gradient_checkpointing off"
            )
        if self.evaluation.early_stopping_patience and not self.evaluation.eval_steps:
            raise ValueError("early_stopping_patience counts evaluations: set eval_steps as well")
        return self

    @property
    def effective_batch(self) -> int:
        """Number of examples per optimizer step."""
        return self.schedule.per_device_train_batch_size * self.schedule.gradient_accumulation_steps

    def total_steps(self, examples: int) -> int:
        """Optimizer steps of a run over `examples` training rows, counted as the Hugging Face trainer counts them."""
        if self.schedule.max_steps > 0:
            return self.schedule.max_steps
        batches = math.ceil(examples / self.schedule.per_device_train_batch_size)
        # transformers counts a last, incomplete accumulation as a full step.
        per_epoch = max(1, math.ceil(batches / self.schedule.gradient_accumulation_steps))
        return max(1, math.ceil(self.schedule.num_train_epochs * per_epoch))

    def get(self, name: str) -> Any:
        """The value of the field called `name`, in whichever section it is."""
        known = find_field(name)
        return getattr(getattr(self, known.theme), known.name)

    def with_values(self, values: Mapping[str, Any]) -> Self:
        """Copy of the recipe with new values for the named fields; raises BadInput that names each wrong field."""
        document = self.model_dump()
        for name, value in values.items():
            if name == "name":
                document["name"] = value
                continue
            known = find_field(name)
            document[known.theme][known.name] = value
        return type(self).parse(document, source="recipe")

    def to_yaml(self) -> str:
        """The whole recipe as YAML, in the order of the form."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False, allow_unicode=True)

    @classmethod
    def parse(cls, document: Any, source: str) -> Self:
        """Validate a document (a mapping) read from `source`; raises BadInput that names each wrong field."""
        if not isinstance(document, Mapping):
            raise BadInput(
                f"{source} is not a recipe: it should be a mapping of settings such as `model:` and `data:`."
            )
        version = document.get("version", VERSION)
        if version != VERSION:
            raise BadInput(f"{source}: version {version!r} is unknown; this studio reads recipes of version {VERSION}.")
        try:
            return cls.model_validate(document)
        except ValidationError as error:
            raise BadInput(f"{source}: " + "; ".join(_plain(item) for item in error.errors())) from None

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read a recipe file; raises BadInput that names the file, the field and the remedy."""
        try:
            with path.open(encoding="utf-8") as file:
                text = file.read(_LONGEST + 1)
            if len(text) > _LONGEST:
                raise BadInput(f"{path} is not a recipe: it is longer than {_LONGEST:,} characters.")
            document = yaml_loader.read(text)
        except FileNotFoundError:
            raise BadInput(f"There is no recipe file {path}.") from None
        except (OSError, UnicodeDecodeError) as error:
            raise BadInput(f"{path} cannot be read as text: {error}.") from None
        except (yaml.YAMLError, RecursionError, ValueError) as error:
            line = yaml_loader.line_of(error)
            where = f" at line {line}" if line else ""
            raise BadInput(f"{path} is not valid YAML{where}. Check its indentation and quotes.") from None
        return cls.parse(document, source=str(path))


@dataclass(frozen=True, slots=True)
class Known:
    """One field of the recipe, with what form, tooltips, CLI and docs show of it."""

    name: str
    theme: str
    info: FieldInfo

    @property
    def label(self) -> str:
        return self.info.title or self.name

    @property
    def help(self) -> str:
        return self.info.description or ""

    @property
    def default(self) -> Any:
        return self.info.default

    @property
    def becomes(self) -> str:
        return str(self._extra["becomes"])

    @property
    def unit(self) -> str | None:
        unit = self._extra["unit"]
        return None if unit is None else str(unit)

    @property
    def methods(self) -> tuple[str, ...]:
        """The training methods the field applies to; empty means all."""
        return tuple(self._extra["methods"])

    @property
    def simple(self) -> bool:
        return bool(self._extra["simple"])

    @property
    def choices(self) -> tuple[str, ...]:
        """Allowed values of a field with a fixed set of them, else empty."""
        annotation = self.info.annotation
        return get_args(annotation) if get_origin(annotation) is Literal else ()

    @property
    def kind(self) -> type:
        """int, float, bool, str or list."""
        if self.choices:
            return str
        annotation = self.info.annotation
        return annotation if isinstance(annotation, type) else list

    @property
    def bounds(self) -> tuple[float | None, float | None]:
        """Lowest and highest allowed value; None where there is no bound."""
        low = high = None
        for rule in self.info.metadata:
            low = getattr(rule, "ge", getattr(rule, "gt", low))
            high = getattr(rule, "le", getattr(rule, "lt", high))
        return low, high

    @property
    def _extra(self) -> dict[str, Any]:
        extra = self.info.json_schema_extra
        assert isinstance(extra, dict)
        return extra


THEMES: dict[str, type[Theme]] = {
    "model": Model,
    "data": Data,
    "method": Method,
    "quantization": Quantization,
    "optimizer": Optimizer,
    "schedule": Schedule,
    "evaluation": Evaluation,
    "output": Output,
}


def all_fields() -> Iterator[Known]:
    """Every field of the recipe, in the order of the form. Their names are unique over all themes."""
    for theme, part in THEMES.items():
        for name, info in part.model_fields.items():
            yield Known(name, theme, info)


_BY_NAME = {known.name: known for known in all_fields()}


def nearest_field(wrong: str) -> Known | None:
    """The field whose name or label is closest to `wrong`, or None."""
    words = {known.label.lower(): known for known in _BY_NAME.values()} | _BY_NAME
    near = difflib.get_close_matches(wrong.lower(), words, n=1, cutoff=0.6)
    return words[near[0]] if near else None


def find_field(name: str) -> Known:
    """The field called `name`; raises BadInput that suggests the nearest name when there is none."""
    if name not in _BY_NAME:
        near = nearest_field(name)
        hint = f" Did you mean {near.name}?" if near else ""
        raise BadInput(f"A recipe has no field {name!r}.{hint}")
    return _BY_NAME[name]


def from_text(name: str, text: str) -> Any:
    """Convert `text` from a command line to a value for field `name`; the recipe checks its bounds."""
    known = find_field(name)
    if known.kind is bool:
        words = {
            "true": True,
            "yes": True,
            "on": True,
            "1": True,
            "false": False,
            "no": False,
            "off": False,
            "0": False,
        }
        if text.lower() not in words:
            raise BadInput(f"{name} is a switch: use true or false, not {text!r}.")
        return words[text.lower()]
    return text


_LOC_NOISE = re.compile(r"^(function-|literal\[|list\[|str$)")


def _plain(error: Mapping[str, Any]) -> str:
    """Format one pydantic error as a sentence that names field, value and remedy."""
    path = [str(part) for part in error["loc"] if not _LOC_NOISE.match(str(part))]
    where = ".".join(path) or "recipe"
    kind, given, context = error["type"], error.get("input"), error.get("ctx", {})
    shown = repr(given) if len(repr(given)) < 60 else repr(given)[:57] + "…"
    if kind == "extra_forbidden":
        near = nearest_field(path[-1])
        hint = f"did you mean {near.theme}.{near.name}?" if near else "remove it"
        return f"{where} is not a recipe field; {hint}"
    limits = {
        "greater_than_equal": ("ge", "at least"),
        "greater_than": ("gt", "more than"),
        "less_than_equal": ("le", "at most"),
        "less_than": ("lt", "less than"),
    }
    if kind in limits:
        key, words = limits[kind]
        return f"{where} must be {words} {context[key]}, not {shown}"
    if kind == "literal_error":
        return f"{where} must be {context['expected']}, not {shown}"
    if kind in ("int_parsing", "int_type", "int_from_float"):
        return f"{where} must be a whole number, not {shown}"
    if kind in ("float_parsing", "float_type", "finite_number"):
        return f"{where} must be a number, not {shown}"
    message = str(error["msg"]).removeprefix("Value error, ")
    return f"{where}: {message} (given: {shown})"
