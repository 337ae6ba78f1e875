"""``python -m tools.dashboards [FOLDER]`` writes every dashboard's JSON."""

from __future__ import annotations

import sys
from pathlib import Path

from tools.dashboards import gpus, lease, operator, provider
from tools.dashboards.board import Board, render

FOLDER = Path(__file__).resolve().parents[2] / "charts" / "gpulease" / "dashboards"
BOARDS: tuple[Board, ...] = (provider.BOARD, lease.BOARD, gpus.BOARD, operator.BOARD)


def main(folder: Path = FOLDER) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for board in BOARDS:
        path = folder / f"{board.uid}.json"
        path.write_text(render(board))
        print(path)


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:2]))
