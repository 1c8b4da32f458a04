"""What every section of ``sidar.yaml`` shares: strict keys, and sections of plug-ins inside."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, Self

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from sidar.config.faults import fault_lines, no_option, plugin_fault
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
            if not self.registry.is_external(key):
                raise plugin_fault(key, no_option(key, self._sections()))
            extra[key] = plugin_options(self.registry, key, value)
        return self

    def _sections(self) -> list[str]:
        """Return the names of the options, and of the plug-ins' parts that have some."""
        parts = [name for name in self.registry.external() if self.registry.options(name)]
        return [*type(self).model_fields, *parts]

    def section(self, name: str) -> BaseModel | None:
        """Return the options of the part ``name``, built-in or a plug-in's; None
        where it has none.
        """
        value = {**dict(self), **(self.__pydantic_extra__ or {})}.get(name)
        return value if isinstance(value, BaseModel) else None


def plugin_options(registry: Registry[Any], name: str, value: Any) -> BaseModel:
    """Return ``value`` as the options of the plug-in's part ``name``, which has some."""
    options = registry.options(name) if registry.is_external(name) else None
    if options is None:
        raise plugin_fault(name, "this part has no options of its own")
    given = value.model_dump() if isinstance(value, BaseModel) else value
    if not isinstance(given, Mapping):
        raise plugin_fault(name, f"want a mapping of option: value, got {given!r}")
    for key in unread_options(options, given):
        says = no_option(str(key), options.model_fields)
        raise plugin_fault(name, f"{key}: {says}", deeper=True)
    try:
        return options.model_validate(given)
    except ValidationError as error:
        says = "; ".join(fault_lines(error.errors(), options))
        raise plugin_fault(name, says, deeper=True) from error


def unread_options(options: type[BaseModel], given: Mapping[str, Any]) -> list[str]:
    """Return the keys of ``given`` that the model does not read.

    pydantic drops them in silence unless the author of the part wrote ``extra="forbid"``; here a
    misspelt option must not be ignored, whatever the author wrote.
    """
    fields = options.model_fields
    renamed = any(field.validation_alias is not None for field in fields.values())
    if renamed or options.model_config.get("extra") == "allow":
        return []
    return [key for key in given if key not in fields]
