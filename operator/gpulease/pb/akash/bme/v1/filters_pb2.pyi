from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Optional as _Optional

DESCRIPTOR: _descriptor.FileDescriptor

class LedgerRecordFilters(_message.Message):
    __slots__ = ("source", "denom", "to_denom", "status")
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    DENOM_FIELD_NUMBER: _ClassVar[int]
    TO_DENOM_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    source: str
    denom: str
    to_denom: str
    status: str
    def __init__(self, source: _Optional[str] = ..., denom: _Optional[str] = ..., to_denom: _Optional[str] = ..., status: _Optional[str] = ...) -> None: ...
