"""Message types by URL: what a transaction may carry."""

from __future__ import annotations

import importlib
from typing import Any

from google.protobuf import message_factory, symbol_database
from google.protobuf.any_pb2 import Any as PbAny
from google.protobuf.message import DecodeError, Message

import gpulease.pb  # noqa: F401  (registers cosmos.*)
from gpulease.devnet.errors import sdk

_KNOWN = (
    "cosmos.auth.v1beta1.query_pb2",
    "cosmos.authz.v1beta1.query_pb2",
    "cosmos.authz.v1beta1.tx_pb2",
    "cosmos.bank.v1beta1.authz_pb2",
    "cosmos.bank.v1beta1.query_pb2",
    "cosmos.bank.v1beta1.tx_pb2",
    "cosmos.crypto.secp256k1.keys_pb2",
    "cosmos.feegrant.v1beta1.query_pb2",
    "cosmos.feegrant.v1beta1.tx_pb2",
    "cosmos.params.v1beta1.query_pb2",
    "cosmos.tx.v1beta1.service_pb2",
    "gpulease.pb.akash.audit.v1.service_pb2",
    "gpulease.pb.akash.audit.v1.query_pb2",
    "gpulease.pb.akash.bme.v1.service_pb2",
    "gpulease.pb.akash.bme.v1.query_pb2",
    "gpulease.pb.akash.cert.v1.service_pb2",
    "gpulease.pb.akash.cert.v1.query_pb2",
    "gpulease.pb.akash.deployment.v1beta4.service_pb2",
    "gpulease.pb.akash.deployment.v1beta4.query_pb2",
    "gpulease.pb.akash.escrow.v1.authz_pb2",
    "gpulease.pb.akash.escrow.v1.service_pb2",
    "gpulease.pb.akash.escrow.v1.query_pb2",
    "gpulease.pb.akash.market.v1beta5.service_pb2",
    "gpulease.pb.akash.market.v1beta5.query_pb2",
    "gpulease.pb.akash.oracle.v2.service_pb2",
    "gpulease.pb.akash.oracle.v2.query_pb2",
    "gpulease.pb.akash.provider.v1beta4.service_pb2",
    "gpulease.pb.akash.provider.v1beta4.query_pb2",
)
for _name in _KNOWN:
    # Importing a generated module registers its messages with the process-wide pool.
    importlib.import_module(_name)

_DB = symbol_database.Default()


def message_class(name: str) -> type[Message]:
    """The class of a full message name; ``KeyError`` when nothing here knows it."""
    return message_factory.GetMessageClass(_DB.pool.FindMessageTypeByName(name))


def service_method(service: str, name: str) -> Any:
    """The method descriptor of a service known to the process."""
    return _DB.pool.FindServiceByName(service).methods_by_name[name]


def has_service(name: str) -> bool:
    try:
        _DB.pool.FindServiceByName(name)
    except KeyError:
        return False
    return True


def unpack(packed: Any) -> Message:
    """The message inside an Any; sdk error 2 for what cannot be read."""
    url = str(packed.type_url)
    try:
        cls = message_class(url.removeprefix("/"))
    except KeyError:
        raise sdk(2, f"unable to resolve type URL {url}: tx parse error: tx parse error") from None
    message = cls()
    try:
        message.ParseFromString(packed.value)
    except DecodeError as error:
        raise sdk(2, f"errors decoding {url}: {error}: tx parse error: tx parse error") from error
    return message


def pack(message: Message) -> PbAny:
    return PbAny(type_url="/" + message.DESCRIPTOR.full_name, value=message.SerializeToString(deterministic=True))
