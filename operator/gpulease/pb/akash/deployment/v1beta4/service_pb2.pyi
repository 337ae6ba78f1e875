from gpulease.pb.akash.deployment.v1beta4 import deploymentmsg_pb2 as _deploymentmsg_pb2
from gpulease.pb.akash.deployment.v1beta4 import groupmsg_pb2 as _groupmsg_pb2
from gpulease.pb.akash.deployment.v1beta4 import paramsmsg_pb2 as _paramsmsg_pb2
from google.protobuf import descriptor as _descriptor
from typing import ClassVar as _ClassVar

DESCRIPTOR: _descriptor.FileDescriptor
