"""Systems that every table shows beside the generative ones; each turns queries into Hits."""

from sidar.baselines.bm25 import Bm25, Bm25Params
from sidar.baselines.channel import (
    Channel,
    ChannelInputs,
    SidSystem,
    System,
    TextChannel,
    Validation,
    register_channel,
)
from sidar.baselines.dense import Dense
from sidar.baselines.fusion import Fusion, fuse, tune_fusion
from sidar.baselines.live_bm25 import LiveBm25
from sidar.baselines.quantised import QuantisedDense
from sidar.baselines.ranking import DEPTH
from sidar.baselines.simple import Popularity, RandomOrder, topic_oracle
from sidar.restore import reconstruct

__all__ = [
    "DEPTH",
    "Bm25",
    "Bm25Params",
    "Channel",
    "ChannelInputs",
    "Dense",
    "Fusion",
    "LiveBm25",
    "Popularity",
    "QuantisedDense",
    "RandomOrder",
    "SidSystem",
    "System",
    "TextChannel",
    "Validation",
    "fuse",
    "reconstruct",
    "register_channel",
    "topic_oracle",
    "tune_fusion",
]
