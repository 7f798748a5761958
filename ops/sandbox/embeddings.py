"""An OpenAI-compatible embedding server: hashed bags of words, so that like texts lie near.

Standard library only: it runs in whatever image has Python. `python3 embeddings.py PORT`
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
import re
import struct
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

DIMENSION = 512
WORD = re.compile(r"\w+")


def embedding(text: str, dimension: int = DIMENSION) -> list[float]:
    """A vector of length one; of no words, the first axis."""
    vector = [0.0] * dimension
    for word in WORD.findall(text.lower()):
        number = int.from_bytes(hashlib.blake2b(word.encode(), digest_size=8).digest(), "big")
        vector[number % dimension] += 1.0 if number >> 63 else -1.0
    length = math.sqrt(sum(x * x for x in vector))
    if not length:
        vector[0] = length = 1.0
    return [x / length for x in vector]


class Upstream(BaseHTTPRequestHandler):
    """POST .../embeddings; anything else is 404."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if not self.path.endswith("/embeddings"):
            self._answer(404, {"error": {"message": f"no {self.path} here"}})
            return
        texts = body["input"] if isinstance(body["input"], list) else [body["input"]]
        vectors = [embedding(text, body.get("dimensions") or DIMENSION) for text in texts]
        packed = body.get("encoding_format") == "base64"
        data = [
            {"object": "embedding", "index": i, "embedding": _packed(v) if packed else v}
            for i, v in enumerate(vectors)
        ]
        words = sum(len(WORD.findall(text)) for text in texts)
        usage = {"prompt_tokens": words, "total_tokens": words}
        answer = {"object": "list", "model": body.get("model"), "data": data, "usage": usage}
        self._answer(200, answer)

    def _answer(self, status: int, answer: dict[str, Any]) -> None:
        content = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: the texts are nobody's business."""


def _packed(vector: list[float]) -> str:
    return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()


if __name__ == "__main__":
    ThreadingHTTPServer(("", int(sys.argv[1])), Upstream).serve_forever()
