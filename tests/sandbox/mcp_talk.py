"""Speaks MCP over standard input and output with a server that it starts, as Claude Code does.

Runs on a developer's machine, with Python's standard library alone: `mcp_talk.py <command...>`;
the calls, [[tool, arguments], ...], come as JSON on standard input. Prints what came of it as JSON.
"""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any


class Server:
    def __init__(self, command: list[str]) -> None:
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.last = 0

    def say(self, method: str, params: dict[str, Any], **more: Any) -> None:
        assert self.process.stdin
        message = {"jsonrpc": "2.0", "method": method, "params": params, **more}
        self.process.stdin.write(json.dumps(message) + "\n")
        self.process.stdin.flush()

    def ask(self, method: str, params: dict[str, Any]) -> Any:
        self.last += 1
        self.say(method, params, id=self.last)
        assert self.process.stdout
        for line in self.process.stdout:
            message = json.loads(line)  # anything else on standard output would break a client
            if message.get("id") == self.last:
                return message.get("result", message.get("error"))
        sys.exit(f"the server ended with {self.process.wait()} before it answered {method}")


def main() -> None:
    calls = json.load(sys.stdin)
    server = Server(sys.argv[1:])
    client = {"name": "test", "version": "1"}
    begun = server.ask(
        "initialize",
        {"protocolVersion": "2024-11-05", "capabilities": {}, "clientInfo": client},
    )
    server.say("notifications/initialized", {})
    tools = [tool["name"] for tool in server.ask("tools/list", {})["tools"]]
    answers = [
        server.ask("tools/call", {"name": name, "arguments": arguments})
        for name, arguments in calls
    ]
    print(json.dumps({"server": begun["serverInfo"]["name"], "tools": tools, "answers": answers}))
    server.process.terminate()


main()
