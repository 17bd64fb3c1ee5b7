"""A hospital's process: it answers messages with the ClientApp, one after another, until the coordinator closes.

The ClientApp is loaded by its name: the cloud's code does not import a hospital's. The process knows one folder, that
of its hospital.
"""

from __future__ import annotations

import importlib
import socket
import traceback
from collections.abc import Mapping
from typing import Any

from flwr.app import Context, Error, Message, RecordDict
from flwr.common.constant import ErrorCode
from flwr.supercore.task_identity import TaskIdentity

from coordinator.study.processes.frames import FrameError, receive_frame, send_frame
from coordinator.study.processes.messages import pack_message, unpack_message

#: Flower's number of a run, of which there is one.
RUN_ID = 1


def load_client_app(name: str) -> Any:
    """Return the ClientApp named as "module:attribute"."""
    module, _, attribute = name.partition(":")
    return getattr(importlib.import_module(module), attribute)


def serve_messages(channel: socket.socket, app: Any, node: int, node_config: Mapping[str, Any]) -> None:
    """Answer messages until the other side closes.

    Args:
        channel: where messages come from and replies go to.
        app: the ClientApp.
        node: the number of the Flower node.
        node_config: Flower's configuration of the node.
    """
    TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = 1, RUN_ID, node
    context = Context(
        run_id=RUN_ID, node_id=node, node_config=dict(node_config), state=RecordDict(), run_config={}
    )
    while True:
        try:
            message = unpack_message(receive_frame(channel))
        except FrameError:
            return
        try:
            reply = app(message, context)
            if context.state:
                # The process may make place for another hospital's. What is lost must not be lost silently.
                raise RuntimeError("the app keeps a state in its Context, which this engine would lose")
        except Exception as error:
            # As Flower's own engines do: an error is the answer, and the process goes on.
            traceback.print_exc()
            reason = f"{type(error)}:<'{error}'>"
            reply = Message(
                Error(code=ErrorCode.CLIENT_APP_RAISED_EXCEPTION, reason=reason), reply_to=message
            )
        try:
            send_frame(channel, pack_message(reply))
        except FrameError:
            return
        del message, reply
