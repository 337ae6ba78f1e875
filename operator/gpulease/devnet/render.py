"""Protobuf messages as the chain writes them in JSON: REST answers and typed event attributes.

Field names stay snake_case, defaults are written, 64-bit integers are text, bytes are base64, an unset message is
null. Custom types differ from their wire form: decimals have 18 places, resource values are decimal text.
"""

from __future__ import annotations

import base64
from datetime import UTC, datetime
from typing import Any

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

from gpulease.units import Dec

DEC_FIELDS = frozenset(
    {
        "cosmos.base.v1beta1.DecCoin.amount",
        "akash.escrow.types.v1.Balance.amount",
        "akash.oracle.v2.PriceDataState.price",
        "akash.oracle.v2.EventPriceData.price",
        "akash.oracle.v2.MsgAddPriceEntry.price",
        "akash.oracle.v2.AggregatedPrice.twap",
        "akash.oracle.v2.AggregatedPrice.median_price",
        "akash.oracle.v2.AggregatedPrice.min_price",
        "akash.oracle.v2.AggregatedPrice.max_price",
        "akash.bme.v1.EventMintStatusChange.collateral_ratio",
        "akash.bme.v1.CoinPrice.price",
        "akash.bme.v1.CollateralRatio.ratio",
        "akash.bme.v1.CollateralRatio.reference_price",
        "akash.bme.v1.QueryStatusResponse.collateral_ratio",
        "akash.bme.v1.QueryStatusResponse.warn_threshold",
        "akash.bme.v1.QueryStatusResponse.halt_threshold",
    }
)
TEXT_BYTES = frozenset({"akash.base.resources.v1beta4.ResourceValue.val"})
NULL_WHEN_EMPTY = frozenset({"cosmos.base.query.v1beta1.PageResponse.next_key"})
_INT64 = frozenset(
    {
        FieldDescriptor.TYPE_INT64,
        FieldDescriptor.TYPE_UINT64,
        FieldDescriptor.TYPE_SINT64,
        FieldDescriptor.TYPE_FIXED64,
        FieldDescriptor.TYPE_SFIXED64,
    }
)


def dec_text(raw: str) -> str:
    """A LegacyDec's wire text (times 10^18) as JSON shows it."""
    return str(Dec(int(raw or "0")))


def duration_text(seconds: int, nanos: int) -> str:
    if nanos == 0:
        return f"{seconds}s"
    digits = f"{nanos:09d}"
    while digits.endswith("000"):
        digits = digits[:-3]
    return f"{seconds}.{digits}s"


def timestamp_text(seconds: int, nanos: int) -> str:
    """RFC 3339 with the fewest fraction digits out of 0, 3, 6 and 9 that keep the value."""
    text = datetime.fromtimestamp(seconds, tz=UTC).strftime("%Y-%m-%dT%H:%M:%S")
    if nanos == 0:
        return text + "Z"
    digits = f"{nanos:09d}"
    while digits.endswith("000"):
        digits = digits[:-3]
    return f"{text}.{digits}Z"


def to_json(message: Message) -> Any:
    """One message as JSON data."""
    name = message.DESCRIPTOR.full_name
    if name == "google.protobuf.Duration":
        return duration_text(message.seconds, message.nanos)  # type: ignore[attr-defined]
    if name == "google.protobuf.Timestamp":
        return timestamp_text(message.seconds, message.nanos)  # type: ignore[attr-defined]
    if name == "google.protobuf.Any":
        return _any(message)
    return {field.name: _field(message, field) for field in message.DESCRIPTOR.fields if not _hidden(message, field)}


def _hidden(message: Message, field: FieldDescriptor) -> bool:
    return field.containing_oneof is not None and not message.HasField(field.name)


def _any(message: Message) -> dict[str, Any] | None:
    from gpulease.devnet.registry import unpack

    url = message.type_url  # type: ignore[attr-defined]
    if not url:
        return None
    inner = unpack(message)
    return {"@type": url, **to_json(inner)}


def _field(message: Message, field: FieldDescriptor) -> Any:
    value = getattr(message, field.name)
    if field.label == FieldDescriptor.LABEL_REPEATED:
        return [_value(field, item) for item in value]
    if field.type == FieldDescriptor.TYPE_MESSAGE and not message.HasField(field.name):
        return None
    return _value(field, value)


def _value(field: FieldDescriptor, value: Any) -> Any:
    if field.type == FieldDescriptor.TYPE_MESSAGE:
        return to_json(value)
    if field.type == FieldDescriptor.TYPE_ENUM:
        entry = field.enum_type.values_by_number.get(value)
        return entry.name if entry is not None else value
    if field.full_name in DEC_FIELDS:
        return dec_text(value)
    if field.type == FieldDescriptor.TYPE_BYTES:
        if field.full_name in NULL_WHEN_EMPTY and not value:
            return None
        return bytes(value).decode() if field.full_name in TEXT_BYTES else base64.b64encode(value).decode()
    if field.type in _INT64:
        return str(value)
    return value
