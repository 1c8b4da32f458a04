"""The whole of ``sidar.yaml``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import Field, field_validator, model_validator

from sidar.config.answer import DecodeConfig, MemoryConfig, RankerConfig
from sidar.config.data import (
    CatalogueConfig,
    DataConfig,
    EventsConfig,
    PrivacyConfig,
    SplitConfig,
    UsersConfig,
)
from sidar.config.embed import DenseConfig, EmbedConfig
from sidar.config.evaluate import EvaluateConfig
from sidar.config.faults import plugin_fault
from sidar.config.progressive import ProgressiveConfig
from sidar.config.section import Part, plugin_options
from sidar.config.serve import ServeConfig
from sidar.config.sid import AlarmsConfig, SidConfig
from sidar.config.training import AlignConfig, LmConfig, PreferenceConfig, SftConfig
from sidar.extensions import CHANNELS, load_plugins


class Config(Part):
    """The whole of ``sidar.yaml``.

    Relative paths are relative to the file's own folder, in overrides as well.
    """

    name: str = Field("run", description="Name of the run; its folder is runs/<name>.")
    seed: int = Field(0, description="Of every random choice.")
    device: str = Field("auto", description="auto, cpu, cuda, cuda:1 …")
    threads: int | None = Field(None, description="CPU threads; null = all cores.")
    runs: str = Field("runs", description="Folder that holds runs/<name>.")
    plugins: list[str] = Field(
        [],
        description="Modules, or .py files, with parts of your own (docs/extending.md).",
    )
    channels: dict[str, Any] = Field(
        {},
        description="Channels of plug-ins that are rows of every table: name -> its options.",
    )
    catalogue: CatalogueConfig = CatalogueConfig()
    events: EventsConfig = EventsConfig()
    users: UsersConfig = UsersConfig()
    privacy: PrivacyConfig = PrivacyConfig()
    data: DataConfig = DataConfig()
    split: SplitConfig = SplitConfig()
    embed: EmbedConfig = EmbedConfig()
    sid: SidConfig = SidConfig()
    lm: LmConfig = LmConfig()
    sft: SftConfig = SftConfig()
    preference: PreferenceConfig = PreferenceConfig()
    progressive: ProgressiveConfig = ProgressiveConfig()
    align: AlignConfig = AlignConfig()
    decode: DecodeConfig = DecodeConfig()
    memory: MemoryConfig = MemoryConfig()
    ranker: RankerConfig = RankerConfig()
    dense: DenseConfig = DenseConfig()
    evaluate: EvaluateConfig = EvaluateConfig()
    alarms: AlarmsConfig = AlarmsConfig()
    serve: ServeConfig = ServeConfig()
    warm_start: str | None = Field(
        None, description="Bundle that the daily refresh starts from (`sidar run --from`)."
    )

    @property
    def run_dir(self) -> Path:
        return Path(self.runs) / self.name

    @property
    def has_log(self) -> bool:
        """Return whether there is a log: a shop with a catalogue alone has none.

        A config that names no files at all describes data that is made elsewhere, with a log.
        Raises ``ValueError`` where a log is described and not named.
        """
        if self.events.path or not self.catalogue.path:
            return True
        if self.events.described:
            raise ValueError(
                f"events.path is empty, but events.{self.events.described[0]} describes a log; "
                "name the events file, folder or glob there, or leave the section out where there "
                "is no log"
            )
        return False

    def resolved(self) -> Config:
        """Return a copy that states what it leaves to defaults in the code: the form to record with
        an artefact.

        A recorded null would take the meaning of whatever version reads it. These stay null or
        `auto`, because a run decides them from its data or machine, and their value is recorded
        with what they make: `sid.codebook_sizes` and `sid.sarq.budget` by the catalogue (shapes of
        the SID folder, and its table); `lm.lora.targets` by the backbone (the model's config.json);
        `precision`, `embed.dtype` and `lm.attention` by the machine (they change rounding and
        speed; the shapes of a training stage name its precision); `events.ts_unit` by the log (its
        dates are in the report); `dense.index` and `dense.lists` by the size of the catalogue, and
        nothing is trained on them. Other nulls mean "none", "never" or "all" and have no value
        behind them.
        """
        return self.model_copy(update={"align": self.align.resolved(self.sft)})

    @model_validator(mode="before")
    @classmethod
    def _load_plugins(cls, raw: Any) -> Any:
        """Import the plug-ins first: sections may name what they register."""
        plugins = raw.get("plugins") if isinstance(raw, dict) else None
        if isinstance(plugins, list):
            load_plugins([plugin for plugin in plugins if isinstance(plugin, str)])
        return raw

    @field_validator("channels")
    @classmethod
    def _channels(cls, value: dict[str, Any]) -> dict[str, Any]:
        """Read the options of each channel; one without options has none."""
        found: dict[str, Any] = {}
        for name, given in value.items():
            if name in CHANNELS.builtin:
                raise plugin_fault(name, "is a row of every table and has no options")
            if name not in CHANNELS:
                raise ValueError(CHANNELS.unknown(name, CHANNELS.external()))
            plain = CHANNELS.options(name) is None and not given
            found[name] = {} if plain else plugin_options(CHANNELS, name, given or {})
        return found

    @model_validator(mode="after")
    def _fits(self) -> Config:
        if self.preference.judge != "log":  # its options are recorded with what it judges
            self.align.rewards.state(self.preference.judge)
        stated = self.sid.codebook_sizes  # a table of others has its own number of levels
        if stated is not None and len(stated) != self.sid.levels and self.sid.method != "table":
            raise ValueError(
                f"sid.codebook_sizes has {len(stated)} entries but sid.levels is {self.sid.levels}"
            )
        return self
