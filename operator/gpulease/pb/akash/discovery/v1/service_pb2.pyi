from gpulease.pb.akash.discovery.v1 import akash_pb2 as _akash_pb2
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Mapping as _Mapping, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class GetInfoRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class GetInfoResponse(_message.Message):
    __slots__ = ("info",)
    INFO_FIELD_NUMBER: _ClassVar[int]
    info: _akash_pb2.Akash
    def __init__(self, info: _Optional[_Union[_akash_pb2.Akash, _Mapping]] = ...) -> None: ...
