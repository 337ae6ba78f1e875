"""The burn-mint engine's status, as far as the escrow's fallback asks for it."""

from __future__ import annotations

from gpulease.devnet.context import Context


def fallback_allowed(ctx: Context) -> bool:
    """Debts may be paid in uakt only while the engine is halted (genesis status: halted)."""
    return True
