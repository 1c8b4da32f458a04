import io

import numpy as np
import pytest
import yaml
from rich.console import Console

from sidar.compare.tables import compare
from sidar.config import Config, load_config
from sidar.data import build, toy
from sidar.sid import save_sids
from sidar.types import SemanticIds


def test_tables_stand_side_by_side(tmp_path):
    toy.write_inputs(tmp_path)
    settings = {"catalogue": {"path": "catalogue.parquet"}, "events": {"path": "events.parquet"}}
    (tmp_path / "sidar.yaml").write_text(yaml.safe_dump(settings))
    cfg: Config = load_config(tmp_path / "sidar.yaml")
    build(cfg, cfg.run_dir / "data")
    ids = toy.catalogue().item_ids
    whole = np.arange(64)
    unique = SemanticIds(
        np.stack([whole // 8, whole % 8], 1).astype(np.int32), np.full(64, 2, np.int32), (8, 8)
    )
    one = SemanticIds(np.zeros((64, 1), np.int32), np.ones(64, np.int32), (2,))
    for name, sids in (("unique", unique), ("one", one)):
        save_sids(tmp_path / f"{name}.parquet", ids, sids)
    table = compare(cfg, {name: tmp_path / f"{name}.parquet" for name in ("unique", "one")})
    console = Console(width=120, record=True, file=io.StringIO())
    console.print(table)
    lines = {
        line.split("│")[1].strip(): line.split("│")[2:4]
        for line in console.export_text().splitlines()
        if "│" in line
    }
    assert [float(x) for x in lines["collision_rate"]] == [0, 1]
    assert [float(x) for x in lines["sids"]] == [64, 1]
    assert [float(x) for x in lines["code_bits.per_item"]] == [6, 1]
    with pytest.raises(ValueError, match=r"none\.parquet is no file"):
        compare(cfg, {"none": tmp_path / "none.parquet"})
