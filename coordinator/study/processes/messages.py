"""Flower messages as bytes, by Flower's own Protobuf form."""

from __future__ import annotations

from flwr.app import Message
from flwr.common.serde import message_from_proto, message_to_proto
from flwr.proto.message_pb2 import Message as ProtoMessage


def pack_message(message: Message) -> bytes:
    """Return a message as bytes.

    Raises:
        ValueError: if it is longer than Protobuf's 2 GiB.
    """
    return bytes(message_to_proto(message).SerializeToString())


def unpack_message(data: bytes) -> Message:
    """Return the message that `pack_message` packed."""
    return message_from_proto(ProtoMessage.FromString(data))
