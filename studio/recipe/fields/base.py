"""What every part of a recipe is made of."""

from typing import Any

from pydantic import BaseModel, ConfigDict, Field


def knob(
    default: Any,
    *,
    label: str,
    becomes: str,
    help: str,
    unit: str | None = None,
    simple: bool = False,
    methods: tuple[str, ...] = (),
    **bounds: Any,
) -> Any:
    """A recipe field: what a person sees (`label`, `help`, `unit`) and the library argument it `becomes`.

    methods: those it means something for; empty for all.
    """
    return Field(
        default,
        title=label,
        description=help,
        json_schema_extra={"becomes": becomes, "unit": unit, "simple": simple, "methods": list(methods)},
        **bounds,
    )


class Theme(BaseModel):
    """Base of the recipe's parts: unknown names are refused, values are checked on every change."""

    model_config = ConfigDict(extra="forbid", validate_assignment=True, allow_inf_nan=False)
