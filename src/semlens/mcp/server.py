"""The server: lists the tools, answers calls one at a time, and speaks over stdio."""

from __future__ import annotations

import json
import sys
import traceback
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout, suppress
from typing import Any

import anyio
import anyio.to_thread
from mcp.server.context import ServerRequestContext
from mcp.server.lowlevel import Server
from mcp.server.stdio import stdio_server
from mcp.shared.exceptions import MCPError
from mcp.shared.message import SessionMessage
from mcp.types import (
    INVALID_PARAMS,
    INVALID_REQUEST,
    PARSE_ERROR,
    CallToolRequestParams,
    CallToolResult,
    ErrorData,
    JSONRPCError,
    ListToolsResult,
    PaginatedRequestParams,
    ToolAnnotations,
)
from mcp.types import Tool as ListedTool
from pydantic import ValidationError

from semlens.concept_database import ConceptDatabase
from semlens.errors import SemlensError, ServeError, reason_of
from semlens.lenses.compare.component_sets import database_names
from semlens.mcp.answer import answered, refused
from semlens.mcp.image_access import ImageAccess
from semlens.mcp.progress_relay import Cancelled, ProgressRelay
from semlens.mcp.tool import Call, Tool
from semlens.mcp.tools import tools
from semlens.progress import progress_listener
from semlens.version import __version__

INSTRUCTIONS = """\
semlens answers what a vision model has learned: each component (a channel of a layer, such as \
layer4:17) is described by its strongest example images, which a CLIP-like model has embedded.
Call `overview` first. Then work like an auditor: state a hypothesis, choose the tool whose answer \
could refute it, and give a verdict with its numbers. `search` and `component` show what there is, \
`audit` and `explain` what a class or a prediction relies on; `effect`, `explain` with `ablated`, \
and `contrast` are experiments. A hit below its noise and a p-value above 0.05 are no findings. \
Look at the pictures: labels can be wrong."""


def make_server(
    databases: Sequence[ConceptDatabase], images: ImageAccess | None = None
) -> Server[Any]:
    """Make a server of the tools.

    Parameters
    ----------
    images
        The images that agents may read; by default only samples of the databases.
    """
    named = dict(zip(database_names(databases), databases, strict=True))
    access, offered = images or ImageAccess(), tools()
    turn = anyio.CapacityLimiter(1)  # questions use all cores, and warnings are of the process

    async def list_tools(
        context: ServerRequestContext[Any], params: PaginatedRequestParams | None
    ) -> ListToolsResult:
        return ListToolsResult(tools=[_listed(tool) for tool in offered.values()])

    async def call_tool(
        context: ServerRequestContext[Any], params: CallToolRequestParams
    ) -> CallToolResult:
        if params.name not in offered:
            names = ", ".join(offered)
            message = f"There is no tool '{params.name}'. Expected one of {names}."
            raise MCPError(INVALID_PARAMS, message)
        tool, relay = offered[params.name], ProgressRelay(context.session)

        def work() -> CallToolResult | None:
            with progress_listener(relay):
                return _answer(tool, named, access, params.arguments or {})

        result: CallToolResult | None = None
        async with anyio.create_task_group() as group:
            group.start_soon(relay.send)
            result = await anyio.to_thread.run_sync(work, limiter=turn)
            group.cancel_scope.cancel()
        assert result is not None  # noqa: S101  # it is None only if this task was cancelled
        return result

    return Server(
        "semlens",
        version=__version__,
        title="semlens",
        instructions=INSTRUCTIONS,
        on_list_tools=list_tools,
        on_call_tool=call_tool,
    )


def serve_stdio(server: Server[Any]) -> None:
    """Serve a client over standard input and output until it closes them.

    Whatever else is printed, also by the code of a model, goes to standard error.
    """
    anyio.run(_serve_stdio, server)


async def _serve_stdio(server: Server[Any]) -> None:
    async with stdio_server() as (read, write), anyio.create_task_group() as group:
        sender, messages = anyio.create_memory_object_stream[SessionMessage | Exception]()

        async def relay() -> None:
            async with sender:
                async for message in read:
                    if isinstance(message, Exception):  # the server would leave it unanswered
                        await write.send(SessionMessage(unreadable(message)))
                    else:
                        await sender.send(message)

        with redirect_stdout(sys.stderr):
            group.start_soon(relay)
            await server.run(messages, write, server.create_initialization_options())
            group.cancel_scope.cancel()


def unreadable(error: Exception) -> JSONRPCError:
    """Return the answer to a line that is no message, to the request that it names if it does."""
    problems: list[Any] = list(error.errors()) if isinstance(error, ValidationError) else []
    found = [one["input"] for one in problems]
    is_json = not (len(found) == 1 and isinstance(found[0], str))
    if not is_json:  # for the protocol; the parser of Python accepts more
        with suppress(ValueError, RecursionError):
            found = [json.loads(found[0])]
    names = [one["id"] for one in found if isinstance(one, dict) and "id" in one]
    is_name = bool(names) and type(names[0]) in (int, str) and str(names[0]).isprintable()
    reason = problems[0]["msg"] if problems else reason_of(error)
    return JSONRPCError(
        jsonrpc="2.0",
        id=names[0] if is_name else None,
        error=ErrorData(
            code=INVALID_REQUEST if is_json else PARSE_ERROR,
            message=f"The message cannot be read ({reason}). Expected a message of JSON-RPC 2.0, "
            "whose texts are valid Unicode. Correct it and send it again.",
        ),
    )


def _listed(tool: Tool) -> ListedTool:
    return ListedTool(
        name=tool.name,
        description=tool.description,
        input_schema=tool.schema,
        annotations=ToolAnnotations(read_only_hint=True, open_world_hint=False),
    )


def _answer(
    tool: Tool,
    databases: Mapping[str, ConceptDatabase],
    images: ImageAccess,
    arguments: Mapping[str, Any],
) -> CallToolResult | None:
    """Answer a call; None if it was cancelled."""
    try:
        with _notices() as notices:
            checked = tool.check(arguments)
            result = tool.answer(Call(databases, images, checked))
            return answered(result, checked["rows"], checked["picture"], notices)
    except Cancelled:
        return None
    except SemlensError as error:
        return refused(error)
    except Exception as error:
        traceback.print_exc(file=sys.stderr)
        return refused(
            ServeError(
                f"The tool '{tool.name}' failed ({type(error).__name__}).",
                "This is a bug in semlens.",
                "Report it, with the traceback on the server's standard error.",
            )
        )


@contextmanager
def _notices() -> Iterator[list[str]]:
    """Collect the warnings of semlens; those of other packages are left out."""
    notices: list[str] = []

    def note(message: Warning | str, category: type[Warning], *location: Any) -> None:
        if category.__module__.startswith("semlens"):
            notices.append(str(message))

    with warnings.catch_warnings():
        warnings.showwarning = note
        yield notices
