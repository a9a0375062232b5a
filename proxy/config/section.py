"""What every section of the file is: a mapping with known keys, each with its default and its description."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field, model_validator


def key(default: Any, description: str, **bounds: Any) -> Any:
    """A key with its default; lists are copied for every file."""
    if isinstance(default, list | dict):
        shown: dict[str, Any] = {"default": default}
        return Field(default_factory=default.copy, description=description, json_schema_extra=shown, **bounds)
    return Field(default, description=description, **bounds)


def section(cls: type[Section], description: str) -> Any:
    """A key that holds a section; unstated, one with its defaults."""
    return Field(default_factory=cls, description=description)


class Section(BaseModel):
    """A mapping with known keys. One without content (all its lines commented out) is an empty one."""

    # Deferred: of forty classes only two are ever asked to validate by themselves.
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, defer_build=True)

    @model_validator(mode="before")
    @classmethod
    def _empty(cls, data: object) -> object:
        return {} if data is None else data
