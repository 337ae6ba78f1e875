from google.protobuf import any_pb2 as _any_pb2
from google.protobuf import duration_pb2 as _duration_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Iterable as _Iterable, Mapping as _Mapping, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Params(_message.Message):
    __slots__ = ("sources", "min_price_sources", "max_price_staleness_period", "twap_window", "max_price_deviation_bps", "feed_contracts_params", "price_retention", "prune_epoch", "max_prune_per_epoch", "max_future_time_drift")
    SOURCES_FIELD_NUMBER: _ClassVar[int]
    MIN_PRICE_SOURCES_FIELD_NUMBER: _ClassVar[int]
    MAX_PRICE_STALENESS_PERIOD_FIELD_NUMBER: _ClassVar[int]
    TWAP_WINDOW_FIELD_NUMBER: _ClassVar[int]
    MAX_PRICE_DEVIATION_BPS_FIELD_NUMBER: _ClassVar[int]
    FEED_CONTRACTS_PARAMS_FIELD_NUMBER: _ClassVar[int]
    PRICE_RETENTION_FIELD_NUMBER: _ClassVar[int]
    PRUNE_EPOCH_FIELD_NUMBER: _ClassVar[int]
    MAX_PRUNE_PER_EPOCH_FIELD_NUMBER: _ClassVar[int]
    MAX_FUTURE_TIME_DRIFT_FIELD_NUMBER: _ClassVar[int]
    sources: _containers.RepeatedScalarFieldContainer[str]
    min_price_sources: int
    max_price_staleness_period: _duration_pb2.Duration
    twap_window: _duration_pb2.Duration
    max_price_deviation_bps: int
    feed_contracts_params: _containers.RepeatedCompositeFieldContainer[_any_pb2.Any]
    price_retention: _duration_pb2.Duration
    prune_epoch: str
    max_prune_per_epoch: int
    max_future_time_drift: _duration_pb2.Duration
    def __init__(self, sources: _Optional[_Iterable[str]] = ..., min_price_sources: _Optional[int] = ..., max_price_staleness_period: _Optional[_Union[_duration_pb2.Duration, _Mapping]] = ..., twap_window: _Optional[_Union[_duration_pb2.Duration, _Mapping]] = ..., max_price_deviation_bps: _Optional[int] = ..., feed_contracts_params: _Optional[_Iterable[_Union[_any_pb2.Any, _Mapping]]] = ..., price_retention: _Optional[_Union[_duration_pb2.Duration, _Mapping]] = ..., prune_epoch: _Optional[str] = ..., max_prune_per_epoch: _Optional[int] = ..., max_future_time_drift: _Optional[_Union[_duration_pb2.Duration, _Mapping]] = ...) -> None: ...
