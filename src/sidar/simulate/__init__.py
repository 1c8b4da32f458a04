"""Traffic with known truth: catalogue-grounded queries and an 8-day log. Everything it writes is
*simulated*.

>>> from sidar.data import sample
>>> from sidar import simulate
>>> config = simulate.load_config("demo")
>>> report = simulate.run(sample.load_catalogue(), config, "shop")  # doctest: +SKIP
>>> marginals = simulate.describe("shop")  # doctest: +SKIP
>>> larger = simulate.grow(sample.load_catalogue(), 50_000)  # doctest: +SKIP

Protocol: ``docs/simulator.md``. Imports numpy and pyarrow, no torch.
"""

from sidar.simulate.config import SimulatorConfig, load_config
from sidar.simulate.describe import describe, marginals
from sidar.simulate.grow import grow, write_grown
from sidar.simulate.run import run

__all__ = ["SimulatorConfig", "describe", "grow", "load_config", "marginals", "run", "write_grown"]
