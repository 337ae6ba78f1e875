"""SDL 2.0 and 2.1: the market's language for what a tenant wants to run (gateway reference §6).

Text → tree with line numbers (``tree``) → schema (``schema``) → Document (``read``) → rules (``check``) → groups for
the chain and a manifest for the provider (``build``). Pure: no files; every refusal is an ``SdlError`` with its line.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from gpulease.errors import ManifestError, SdlError
from gpulease.market.model import GroupSpec
from gpulease.workload import manifest as wire
from gpulease.workload.model import Manifest
from gpulease.workload.sdl import build, check, read, schema, tree
from gpulease.workload.sdl.model import Document
from gpulease.workload.sdl.render import groups_json


@dataclass(frozen=True, slots=True)
class Compiled:
    """What an SDL asks for. ``reclamation_min_window_ns`` None: nothing asked about reclaiming."""

    groups: tuple[GroupSpec, ...]
    manifest: Manifest
    reclamation_min_window_ns: int | None
    document: Document = field(repr=False)

    @property
    def version(self) -> bytes:
        """The deployment's hash: 32 bytes."""
        return wire.manifest_hash(self.manifest)

    def groups_json(self) -> list[dict[str, Any]]:
        return groups_json(self.groups, self.document.placements)


def compile_text(text: str, *, lenient: bool = False) -> Compiled:
    """``SdlError`` says in which line something is wrong, and what to write instead.

    ``lenient`` leaves the schema out and reads what the market's command line client reads: keys below the top that
    are not known are ignored, numbers pass for text, other denominations and versions from 2.1 on are taken.
    """
    root = tree.parse(text)
    if root is not None and not lenient:
        schema.check(root)
    document = read.document(root)
    check.check(document)
    groups, manifest = build.build(document)
    try:
        wire.validate(manifest)
        wire.cross_check(manifest, groups)
    except ManifestError as error:
        raise SdlError(document.deployment_line, f"providers would refuse this: {error}") from error
    return Compiled(groups, manifest, document.reclamation_min_window_ns, document)


__all__ = ["Compiled", "Document", "SdlError", "compile_text"]
