from gpulease.pb.akash.provider.v1 import status_pb2 as _status_pb2
from gpulease.pb.akash.provider.v1 import validation_pb2 as _validation_pb2
from google.protobuf import empty_pb2 as _empty_pb2
from google.protobuf import descriptor as _descriptor
from typing import ClassVar as _ClassVar

DESCRIPTOR: _descriptor.FileDescriptor
