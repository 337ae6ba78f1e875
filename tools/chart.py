"""What the chart copies from elsewhere: the CRDs, and the README's table of values from values.yaml and its schema.

``python tools/chart.py`` writes both; a unit test holds them against their sources.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[1]
CHART = ROOT / "charts" / "gpulease"
BEGIN, END = "<!-- values: made by make chart-sync -->", "<!-- end of values -->"


def rows(values: Mapping[str, Any], schema: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, str, str]]:
    """Key, default as JSON and description of every value; KeyError for one that the schema does not describe."""
    for key, value in values.items():
        where = f"{path}.{key}" if path else key
        about = schema["properties"][key]
        if isinstance(value, Mapping) and about.get("properties") and "description" not in about:
            yield from rows(value, about, where)
        else:
            yield where, json.dumps(value), about["description"]


def table() -> str:
    """The README's table."""
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    schema = json.loads((CHART / "values.schema.json").read_text())
    lines = ["| value | default | what it is |", "|---|---|---|"]
    lines += [f"| `{key}` | `{default}` | {about} |" for key, default, about in rows(values, schema)]
    return "\n".join(lines)


def readme() -> str:
    """The README with its table as it should be."""
    text = (CHART / "README.md").read_text()
    head, tail = text.split(BEGIN)[0], text.split(END)[1]
    return f"{head}{BEGIN}\n{table()}\n{END}{tail}"


def crds() -> dict[str, str]:
    """File name to content of what belongs into the chart's crds folder."""
    return {path.name: path.read_text() for path in sorted((ROOT / "crds").glob("*.yaml"))}


def main() -> None:
    (CHART / "README.md").write_text(readme())
    for name, text in crds().items():
        (CHART / "crds" / name).write_text(text)


if __name__ == "__main__":
    main()
