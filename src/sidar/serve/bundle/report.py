"""The evaluation report of the run that made a bundle."""

from __future__ import annotations

import json

from sidar.artifacts import read_manifest
from sidar.serve.bundle.layout import FACTS
from sidar.serve.bundle.reader import Bundle

#: The file, and the stage of a run that writes it.
FILE, STAGE = "report.html", "evaluate"


def report_of(bundle: Bundle) -> str:
    """Return the path of the report that scored the bundle's model; empty where there is none.

    It lies in the stage ``evaluate`` beside the bundle, and counts only where that stage read this
    very model: a report of the training before would tell of another one.
    """
    folder = bundle.folder.resolve().parent / STAGE
    manifest = read_manifest(folder)
    if manifest is None or not (folder / FILE).is_file():
        return ""
    parts = json.loads((bundle.folder / FACTS).read_text())["parts"]
    return str(folder / FILE) if parts["model"] in manifest.inputs.values() else ""
