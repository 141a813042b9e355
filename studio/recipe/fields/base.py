"""Building blocks of recipe fields: the base class of a theme and `knob`, which declares one field."""

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
    """Declare a recipe field: what the form shows (`label`, `help`, `unit`) and the library argument it `becomes`.

    methods: the training methods the field applies to; empty means all.
    """
    return Field(
        default,
        title=label,
        description=help,
        json_schema_extra={"becomes": becomes, "unit": unit, "simple": simple, "methods": list(methods)},
        **bounds,
    )


class Theme(BaseModel):
    """Base class of the recipe's sections. Unknown names are refused; values are validated on every assignment."""

    model_config = ConfigDict(extra="forbid", validate_assignment=True, allow_inf_nan=False)
