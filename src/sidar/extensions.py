"""Parts that users may add, by name: tokenizers, objectives, rewards, channels, metrics, filters.

A part is one class or function in one file, registered with one decorator. Sidar finds it in two
ways: ``plugins: [my_module]`` in ``sidar.yaml`` imports the file, and an installed package names it
under an entry point such as ``sidar.tokenizers``. Built-in parts are registered in the same way.
Nothing is imported before its name is asked for.
"""

from __future__ import annotations

import difflib
import hashlib
import importlib
import importlib.util
import inspect
import sys
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from pydantic import BaseModel

if TYPE_CHECKING:
    from sidar.align.registry import Objective
    from sidar.baselines.channel import Channel
    from sidar.evaluate.measures.plugin_metrics import Metric
    from sidar.filters.condition import Condition
    from sidar.rewards.interface import Reward
    from sidar.sid.tokenizer import Tokenizer

T = TypeVar("T")
#: How the module of a plug-in's file is called.
_PREFIX = "sidar_plugin_"


@dataclass(frozen=True)
class Registered(Generic[T]):
    """A part, the module that brings it, and the pydantic model of its options (None = it has
    none).
    """

    part: T
    module: str
    options: type[BaseModel] | None = None


class Registry(Generic[T]):
    """The parts of one kind, by name.

    ``key`` is the option that names a part, such as ``sid.method``; ``group`` is the entry point
    group of installed packages; ``builtin`` maps the names that Sidar brings to their modules.
    """

    def __init__(self, key: str, group: str, builtin: Mapping[str, str]) -> None:
        self.key = key
        self.group = group
        self.builtin = dict(builtin)
        self._parts: dict[str, Registered[T]] = {}

    @cached_property
    def _installed(self) -> dict[str, EntryPoint]:
        """Entry points of installed packages, by name."""
        return {point.name: point for point in entry_points(group=self.group)}

    def add(self, name: str, part: T, module: str, options: type[BaseModel] | None = None) -> None:
        """Register ``part``, which ``module`` brings, as ``name``.

        Raises ``ValueError`` where another module has the name: the config would not say which part
        it means; ``TypeError`` where the options are no pydantic model.
        """
        if options is not None and not _is_subclass(options, BaseModel):
            raise TypeError(f"the options of {name!r} must be a subclass of pydantic.BaseModel")
        taken = self._parts[name].module if name in self._parts else self.builtin.get(name, module)
        if taken != module:
            raise ValueError(
                f"{self.key}: {name!r} of {_place(module)} has the name of a part of "
                f"{_place(taken)}; rename one of them"
            )
        self._parts[name] = Registered(part, module, options)

    def names(self) -> list[str]:
        """Return every known name: built-in, registered by a plug-in, or of an entry point."""
        return sorted(self.builtin.keys() | self._parts.keys() | self._installed.keys())

    def __contains__(self, name: object) -> bool:
        return name in self.names()

    def __getitem__(self, name: str) -> T:
        """Return the part called ``name``; ``ValueError`` lists those that there are."""
        return self.find(name).part

    def find(self, name: str) -> Registered[T]:
        """Return the part called ``name`` with its options, and import its module if need be."""
        if name not in self._parts and name in self.builtin:
            importlib.import_module(self.builtin[name])
        if name not in self._parts and name in self._installed:
            self._installed[name].load()
        if name not in self._parts:
            raise ValueError(f"{self.key} {self.unknown(name)}")
        return self._parts[name]

    def unknown(self, name: str, names: Sequence[str] | None = None) -> str:
        """Return what to tell where ``name`` is none of ``names`` (default: of all parts)."""
        names = self.names() if names is None else names
        known = f"is not one of {', '.join(names)}" if names else "is not known: there is none yet"
        near = difflib.get_close_matches(name, names, n=1)
        more = f"did you mean {near[0]}? A" if near else "a"
        return (
            f"{name!r} {known}; {more} part of your own needs its module under `plugins:` or its "
            "package installed"
        )

    def modules(self) -> set[str]:
        """Return the modules outside Sidar that have registered a part."""
        return {part.module for name, part in self._parts.items() if name not in self.builtin}

    def options(self, name: str) -> type[BaseModel] | None:
        """Return the options of a part that a plug-in brings; None where it has none.

        Built-in parts have sections in :mod:`sidar.config` and are not imported for this.
        """
        return None if name in self.builtin else self.find(name).options

    def file(self, name: str) -> Path | None:
        """Return the file of a part that a plug-in brings; None where it is built in."""
        if name in self.builtin:
            return None
        file = sys.modules[self.find(name).module].__file__
        return None if file is None else Path(file)

    def is_external(self, name: str) -> bool:
        """Return whether a plug-in or an entry point has added ``name``."""
        return name not in self.builtin and (name in self._parts or name in self._installed)

    def external(self) -> list[str]:
        """Return the names that plug-ins and entry points have added."""
        return [name for name in self.names() if name not in self.builtin]


#: Tokenizers, named by ``sid.method``.
TOKENIZERS: Registry[type[Tokenizer]] = Registry(
    "sid.method",
    "sidar.tokenizers",
    {
        "acrq": "sidar.sid.tokenizers.acrq",
        "cqsid": "sidar.sid.tokenizers.cqsid",
        "random": "sidar.sid.tokenizers.random_ids",
        "rqkmeans": "sidar.sid.tokenizers.rqkmeans",
        "rqvae": "sidar.sid.tokenizers.rqvae",
        "sarq": "sidar.sid.tokenizers.sarq",
        "table": "sidar.sid.tokenizers.imported",
    },
)

_PAIRWISE = ("dpo", "sdpo", "dmpo", "simpo", "orpo")
#: Objectives of a group of rollouts that have no likelihood term of their own.
_GROUPWISE = ("grpo", "drgrpo", "dapo", "gspo", "minionerec", "eggrpo", "recast")
_WITH_SFT = (*_PAIRWISE, *_GROUPWISE)

#: Objectives of the alignment stage, named by ``align.objective``; ``+sft`` adds eq. 1 of RAD-DPO
#: to a baseline.
OBJECTIVES: Registry[Objective] = Registry(
    "align.objective",
    "sidar.objectives",
    dict.fromkeys(
        (
            *("raddpo", "raddpo-paper", "sft", "adagrpo"),
            *_WITH_SFT,
            *(f"{name}+sft" for name in _WITH_SFT),
        ),
        "sidar.align.registry",
    ),
)

#: Rewards of reinforcement, named by ``align.reward``; a part is a class, or a function made one.
REWARDS: Registry[type[Reward]] = Registry(
    "align.reward",
    "sidar.rewards",
    {
        "graded": "sidar.rewards.logged",
        "rule": "sidar.rewards.logged",
        "ranking": "sidar.rewards.logged",
        "url": "sidar.rewards.url",
        "ranker": "sidar.rewards.ranker",
    },
)

#: Retrieval channels: built-in ones are rows of every table, others those that ``channels`` names.
CHANNELS: Registry[type[Channel]] = Registry(
    "channels",
    "sidar.channels",
    dict.fromkeys(("bm25", "popularity"), "sidar.baselines.built_in"),
)

#: Metrics beside those that every table has, named by ``evaluate.metrics``.
METRICS: Registry[Metric] = Registry("evaluate.metrics", "sidar.metrics", {})

#: Conditions of request filters, named by the field that a condition's JSON object has.
FILTERS: Registry[type[Condition]] = Registry(
    "filter",
    "sidar.filters",
    dict.fromkeys(
        ("match", "range", "datetime_range", "is_null", "is_empty", "has_id"),
        "sidar.filters.conditions",
    ),
)

#: Every kind of part.
REGISTRIES: tuple[Registry[Any], ...] = (
    *(TOKENIZERS, OBJECTIVES, REWARDS),
    *(CHANNELS, METRICS, FILTERS),
)


def check_class(part: Any, base: type, decorator: str) -> None:
    """Raise ``TypeError`` unless ``part`` is a subclass of ``base`` that lacks nothing.

    The decorator runs when the file is imported, long before a run calls the part.
    """
    if not _is_subclass(part, base):
        raise TypeError(
            f"@{decorator} wants a class made of sidar's {base.__name__}: class X({base.__name__})"
        )
    if inspect.isabstract(part):
        missing = " and ".join(sorted(part.__abstractmethods__))
        raise TypeError(f"{part.__name__} lacks {missing}")


def check_name(name: object, decorator: str) -> None:
    """Raise ``TypeError`` where a decorator was written without its name."""
    if not isinstance(name, str):
        raise TypeError(f'@{decorator} wants the name of the part: @{decorator}("mine")')


def check_function(part: Callable[..., Any], *arguments: str) -> None:
    """Raise ``TypeError`` where ``part`` cannot be called with ``arguments``."""
    try:
        inspect.signature(part).bind(*arguments)
    except TypeError:
        name, wanted = getattr(part, "__name__", part), ", ".join(arguments)
        raise TypeError(
            f"{name} must take ({wanted}); options is None where none are registered"
        ) from None


def _is_subclass(part: object, base: type) -> bool:
    return isinstance(part, type) and issubclass(part, base)


def checked_options(
    model: type[BaseModel] | None, options: BaseModel | Mapping[str, Any] | None
) -> BaseModel | None:
    """Return ``options`` as an instance of a part's ``model``; None where the part has none."""
    if model is None:
        return None
    given = options.model_dump() if isinstance(options, BaseModel) else options or {}
    return model.model_validate(given)


def load_plugins(plugins: Iterable[str], base: Path | None = None) -> None:
    """Import each plug-in: a module name, or a path that ends in ``.py`` (relative to ``base``).

    Importing runs the decorators that register its parts. A module or file that was imported
    before is not imported again. ``ValueError`` names the plug-in, what went wrong and the line.
    """
    for plugin in plugins:
        parts: set[str] | None = None
        try:
            if plugin.endswith(".py"):
                before = _modules()
                name = _load_file(plugin, base)
                now = _modules()
                parts = (now - before) | (now & {name})
            else:
                importlib.import_module(plugin)
        except Exception as error:  # a plug-in may raise whatever it likes
            at = _line(error)
            raise ValueError(
                f"plugins: {plugin!r} cannot be imported ({type(error).__name__}: {error}); "
                + (f"see {at}" if at else _wanted(plugin))
            ) from error
        if parts is not None and not parts:
            raise ValueError(
                f"plugins: {plugin!r} registers nothing; put @register_tokenizer, "
                "@register_objective, @register_reward, @register_channel, @register_metric or "
                "@register_filter before its class or function"
            )


def _wanted(plugin: str) -> str:
    """Return what to write instead of a plug-in of which there is neither module nor file."""
    if plugin.endswith(".py"):
        return "a path is relative to sidar.yaml, or to the folder you are in with --plugin"
    return f"want an installed module, or the path of a .py file, such as {plugin}.py"


def _modules() -> set[str]:
    """Return the modules outside Sidar that have registered a part of any kind."""
    return set().union(*(registry.modules() for registry in REGISTRIES))


def _line(error: Exception) -> str | None:
    """Return file and line where the code of a plug-in failed; None where no code of it ran."""
    if isinstance(error, SyntaxError):
        return f"{error.filename}, line {error.lineno}"
    lines = [
        f"{frame.filename}, line {frame.lineno}"
        for frame in traceback.extract_tb(error.__traceback__)
        if frame.filename not in (__file__, importlib.__file__)
        and not frame.filename.startswith("<frozen")
    ]
    outside = [line for line in lines if not line.startswith(str(Path(__file__).parent))]
    return outside[-1] if outside else None


def _place(module: str) -> str:
    """Return the path of a plug-in's file for messages, the name of any other module."""
    loaded = sys.modules.get(module)
    file = None if loaded is None else loaded.__file__
    return file if file and module.startswith(_PREFIX) else module


def _load_file(plugin: str, base: Path | None) -> str:
    """Import a file under a module name made of its path, so that equal names do not meet; return
    that name.
    """
    path = ((base or Path.cwd()) / plugin).resolve()
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist")
    name = f"{_PREFIX}{hashlib.sha256(str(path).encode()).hexdigest()[:8]}_{path.stem}"
    if name in sys.modules:
        return name
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} is no Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return name
