"""What every section of ``sidar.yaml`` shares: strict keys, and sections of plug-ins inside."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from datetime import date
from typing import Any, ClassVar, Self

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator
from pydantic_core import PydanticCustomError

from sidar.extensions import Registry


class Part(BaseModel):
    """A section of the config: unknown keys are errors, because a misspelt option must not be
    ignored.
    """

    model_config = ConfigDict(extra="forbid", validate_assignment=True)


def known(registry: Registry[Any], name: str) -> str:
    """Return ``name``; ``ValueError`` lists the parts of ``registry`` where it is none of them."""
    if name not in registry:
        raise ValueError(registry.unknown(name))
    return name


class Extensible(Part):
    """A section in which plug-ins have sections of their own, as ``sid: {method: mine, mine:
    {...}}``.
    """

    # sections of plug-ins; every other unknown key is refused below
    model_config = ConfigDict(extra="allow")
    registry: ClassVar[Registry[Any]]

    @abstractmethod
    def parts_in_use(self) -> list[str]:
        """Return the names of the parts that the section chooses."""

    @model_validator(mode="after")
    def _read_plugin_sections(self) -> Self:
        """Turn what is said of plug-ins into their options.

        Parts in use get their defaults where nothing is said, so that they are recorded with what
        they make.
        """
        extra = self.__pydantic_extra__
        assert extra is not None  # by extra="allow"
        for name in self.parts_in_use():
            if self.registry.is_external(name) and self.registry.options(name) is not None:
                if name in type(self).model_fields:
                    raise plugin_fault(
                        name, "is an option of Sidar; the plug-in needs another name"
                    )
                extra.setdefault(name, {})
        for key, value in extra.items():
            extra[key] = plugin_options(self.registry, key, value)
        return self

    def section(self, name: str) -> BaseModel | None:
        """Return the options of the part ``name``, built-in or a plug-in's; None
        where it has none.
        """
        value = {**dict(self), **(self.__pydantic_extra__ or {})}.get(name)
        return value if isinstance(value, BaseModel) else None


def plugin_options(registry: Registry[Any], name: str, value: Any) -> BaseModel:
    """Return ``value`` as the options of the plug-in's part ``name``."""
    options = registry.options(name) if registry.is_external(name) else None
    if options is None:
        raise plugin_fault(name, "Extra inputs are not permitted")
    given = value.model_dump() if isinstance(value, BaseModel) else value
    try:
        return options.model_validate(given)
    except ValidationError as error:
        says = "; ".join(fault_line(fault) for fault in error.errors())
        raise plugin_fault(name, says, deeper=True) from error


def plugin_fault(key: str, says: str, deeper: bool = False) -> PydanticCustomError:
    """Return an error of the option ``key`` of a section; ``deeper``: ``says`` begins with a path
    below it.
    """
    return PydanticCustomError(
        "plugin_option", "{says}", {"key": key, "says": says, "deeper": deeper}
    )


def fault_line(error: Mapping[str, Any]) -> str:
    """Return one fault of a config; a value that YAML read as something else than text is to be
    quoted.
    """
    typed = (
        isinstance(error.get("input"), (bool, int, float, date)) and error["type"] == "string_type"
    )
    hint = f"; YAML reads it as {error['input']!r}: quote it" if typed else ""
    if error["type"] == "plugin_option":
        path = ".".join([*map(str, error["loc"]), error["ctx"]["key"]])
        return f"{path}{'.' if error['ctx']['deeper'] else ': '}{error['msg']}"
    return f"{'.'.join(map(str, error['loc'])) or 'config'}: {error['msg']}{hint}"
