"""A server of the OpenAI API without a model: ``python openai_stand_in.py PORT MANNER``.

Its manners are those that a client has to tell apart: ``right`` answers at the length asked for,
``short`` ends early, ``babbling`` says something else, ``failing`` refuses all but one-token
questions, and ``broken`` breaks off half-way.
"""

from __future__ import annotations

import json
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class Handler(BaseHTTPRequestHandler):
    manner = "right"

    def do_GET(self) -> None:
        self._whole(200, {"data": [{"id": "stand-in"}]})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        tokens = body["max_tokens"]
        if self.manner == "failing" and tokens > 1:
            self._whole(503, {"error": {"message": "the queue is full"}})
            return
        self.send_response(200)
        self.end_headers()
        word = "other " if self.manner == "babbling" else "word "
        chat = "messages" in body
        for number in range(min(tokens, 2) if self.manner == "short" else tokens):
            if self.manner == "broken" and number == 1:
                self._event({"error": {"message": "the model is gone"}})
                return
            said = {"delta": {"content": word}} if chat else {"text": word}
            self._event({"choices": [said]})
        reason = "stop" if self.manner == "short" and tokens > 2 else "length"
        self._event({"choices": [{"delta": {}, "finish_reason": reason}]})
        self.wfile.write(b"data: [DONE]\n\n")

    def log_message(self, format: str, *arguments: Any) -> None:
        pass

    def _event(self, event: dict[str, Any]) -> None:
        self.wfile.write(f"data: {json.dumps(event)}\n\n".encode())

    def _whole(self, status: int, answer: dict[str, Any]) -> None:
        self.send_response(status)
        self.end_headers()
        self.wfile.write(json.dumps(answer).encode())


if __name__ == "__main__":
    Handler.manner = sys.argv[2]
    ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
