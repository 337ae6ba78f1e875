"""The oracle's price, as far as the escrow's fallback asks for it: none is fed to this chain yet."""

from __future__ import annotations

from gpulease.devnet.context import Context
from gpulease.units import Dec


def uakt_price(ctx: Context) -> Dec | None:
    """USD per AKT, None while no source has reported one."""
    found: Dec | None = ctx.state.get("oracle/price", "akt/usd")
    return found
