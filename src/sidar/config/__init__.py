"""``sidar.yaml``: one file, checked by pydantic; a module per part of it."""

from sidar.config.answer import DcnConfig, DecodeConfig, MemoryConfig, RankerConfig
from sidar.config.data import (
    CatalogueConfig,
    DataConfig,
    EventsConfig,
    HeldOutConfig,
    PrivacyConfig,
    SplitConfig,
    UsersConfig,
)
from sidar.config.embed import DenseConfig, EmbedConfig
from sidar.config.evaluate import EvalSetConfig, EvaluateConfig
from sidar.config.load import BUILT_IN, load_config
from sidar.config.progressive import ProgressiveConfig
from sidar.config.reinforce import (
    GRPO_DEFAULTS,
    AdaGrpoConfig,
    EgGrpoConfig,
    GrpoConfig,
    RecastConfig,
    resolved_grpo,
)
from sidar.config.rollouts import GradedConfig, RewardsConfig, RolloutConfig, UrlConfig
from sidar.config.section import Extensible, Part
from sidar.config.serve import ServeConfig
from sidar.config.sid import (
    AcrqConfig,
    AlarmsConfig,
    CqSidConfig,
    RqVaeConfig,
    SarqConfig,
    SidConfig,
    TableConfig,
)
from sidar.config.training import (
    OBJECTIVE_DEFAULTS,
    AlignConfig,
    LmConfig,
    LoraConfig,
    OptimConfig,
    PreferenceConfig,
    SftConfig,
)
from sidar.config.whole import Config

__all__ = [
    "BUILT_IN",
    "GRPO_DEFAULTS",
    "OBJECTIVE_DEFAULTS",
    "AcrqConfig",
    "AdaGrpoConfig",
    "AlarmsConfig",
    "AlignConfig",
    "CatalogueConfig",
    "Config",
    "CqSidConfig",
    "DataConfig",
    "DcnConfig",
    "DecodeConfig",
    "DenseConfig",
    "EgGrpoConfig",
    "EmbedConfig",
    "EvalSetConfig",
    "EvaluateConfig",
    "EventsConfig",
    "Extensible",
    "GradedConfig",
    "GrpoConfig",
    "HeldOutConfig",
    "LmConfig",
    "LoraConfig",
    "MemoryConfig",
    "OptimConfig",
    "Part",
    "PreferenceConfig",
    "PrivacyConfig",
    "ProgressiveConfig",
    "RankerConfig",
    "RecastConfig",
    "RewardsConfig",
    "RolloutConfig",
    "RqVaeConfig",
    "SarqConfig",
    "ServeConfig",
    "SftConfig",
    "SidConfig",
    "SplitConfig",
    "TableConfig",
    "UrlConfig",
    "UsersConfig",
    "load_config",
    "resolved_grpo",
]
