from gpulease.pb.akash.market.v1beta5 import bidmsg_pb2 as _bidmsg_pb2
from gpulease.pb.akash.market.v1beta5 import leasemsg_pb2 as _leasemsg_pb2
from gpulease.pb.akash.market.v1beta5 import paramsmsg_pb2 as _paramsmsg_pb2
from google.protobuf import descriptor as _descriptor
from typing import ClassVar as _ClassVar

DESCRIPTOR: _descriptor.FileDescriptor
