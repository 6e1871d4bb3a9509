"""What settings are made of: numbers within limits, lists without repetitions, strict models."""

from typing import Annotated

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
)

WORDS = r"^\S(.*\S)?$"  # on one line, without white space around them


def once(values: list) -> list:
    """The values themselves, unless one is there twice."""
    if twice := [value for i, value in enumerate(values) if value in values[:i]]:
        raise ValueError(f"{twice[0]} is written twice; remove one")
    return values


def sampled(temperature: float) -> float:
    """The temperature itself, unless it is so small that scores divided by it overflow."""
    if 0 < temperature < 0.01:
        raise ValueError("must be 0 or at least 0.01, for scores are divided by it")
    return temperature


Count = Annotated[int, Field(gt=0, lt=2**31)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]  # what numpy takes
Seeds = Annotated[list[Seed], Field(min_length=1), AfterValidator(once)]
Steps = Annotated[list[Count], Field(min_length=1), AfterValidator(once)]
Names = Annotated[list[str], Field(min_length=1), AfterValidator(once)]
Temperature = Annotated[float, Field(ge=0, le=10), AfterValidator(sampled)]


class Settings(BaseModel):
    """Base of all settings.

    Unknown keys and wrong types are errors, values never change after loading.
    """

    model_config = ConfigDict(
        extra="forbid",
        # nothing is turned into another kind: '5' is no number, and 1 is not true
        strict=True,
        frozen=True,
        allow_inf_nan=False,
        hide_input_in_errors=True,  # what was given may hold a password
    )
