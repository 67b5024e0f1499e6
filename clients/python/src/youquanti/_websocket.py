"""The client's half of RFC 6455, as far as it is needed: texts, pings, closing. Nothing but the standard library."""

from __future__ import annotations

import base64
import hashlib
import os
import socket
import struct

_MAGIC = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_LONGEST = 16 << 20
_TEXT, _CLOSE, _PING, _PONG = 1, 8, 9, 10


class WebSocketError(ConnectionError):
    """The other side is no WebSocket, refuses, or has closed."""


class WebSocket:
    """One open WebSocket. `receive` may be left by a time-out at any time without losing anything."""

    def __init__(self, host: str, port: int, path: str, token: str | None, timeout: float) -> None:
        self._socket = socket.create_connection((host, port), timeout)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._bytes = bytearray()
        self._message = bytearray()
        try:
            self._open(f"[{host}]" if ":" in host else host, port, path, token)
        except BaseException:
            self._socket.close()
            raise

    def _open(self, host: str, port: int, path: str, token: str | None) -> None:
        key = base64.b64encode(os.urandom(16))
        lines = [
            f"GET {path} HTTP/1.1",
            f"Host: {host}:{port}",
            "Upgrade: websocket",
            "Connection: Upgrade",
            f"Sec-WebSocket-Key: {key.decode()}",
            "Sec-WebSocket-Version: 13",
            "Sec-WebSocket-Protocol: youquanti.v1",
        ]
        if token is not None:
            lines.append(f"Authorization: Bearer {token}")
        self._socket.sendall("\r\n".join([*lines, "", ""]).encode("ascii"))
        while b"\r\n\r\n" not in self._bytes:
            self._fill()
            if len(self._bytes) > 65536:
                raise WebSocketError("the answer is no HTTP")
        head, _, rest = bytes(self._bytes).partition(b"\r\n\r\n")
        self._bytes = bytearray(rest)
        status, *headers = head.decode("latin-1").split("\r\n")
        if " 101 " not in f"{status} ":
            raise WebSocketError(f"refused: {status} {rest.decode('utf-8', 'replace').strip()}".strip())
        wanted = base64.b64encode(hashlib.sha1(key + _MAGIC).digest()).decode()
        accepts = [line.partition(":")[2].strip() for line in headers if line.lower().startswith("sec-websocket-accept:")]
        if accepts != [wanted]:
            raise WebSocketError("the answer is not one to our request")

    def _fill(self) -> None:
        piece = self._socket.recv(65536)
        if not piece:
            raise WebSocketError("the connection was closed")
        self._bytes += piece

    def _frame(self) -> tuple[int, bool, bytes] | None:
        """The next whole frame of what has come: kind, whether it is a message's last, content."""
        have = self._bytes
        if len(have) < 2:
            return None
        size, start = have[1] & 0x7F, 2
        if have[1] & 0x80:
            raise WebSocketError("a server's frames are not masked")
        if size >= 126:
            start = 4 if size == 126 else 10
            if len(have) < start:
                return None
            (size,) = struct.unpack(">H" if start == 4 else ">Q", have[2:start])
        if size > _LONGEST:
            raise WebSocketError(f"a frame of {size} bytes is longer than any of ours")
        if len(have) < start + size:
            return None
        kind, last, content = have[0] & 0x0F, bool(have[0] & 0x80), bytes(have[start : start + size])
        del have[: start + size]
        return kind, last, content

    def receive(self, timeout: float | None) -> str | None:
        """The next message; None when none has come in time.

        Raises WebSocketError when the other side has closed.
        """
        self._socket.settimeout(timeout)
        while True:
            frame = self._frame()
            if frame is None:
                try:
                    self._fill()
                except (TimeoutError, BlockingIOError):
                    return None
                continue
            kind, last, content = frame
            if kind == _PING:
                self._send(_PONG, content)
            elif kind == _CLOSE:
                raise WebSocketError("the session, or its server, has ended")
            elif kind in (0, _TEXT):
                self._message += content
                if len(self._message) > _LONGEST:
                    raise WebSocketError("a message is longer than any of ours")
                if last:
                    text, self._message = self._message.decode("utf-8"), bytearray()
                    return text

    def send(self, text: str) -> None:
        """Sends a message."""
        self._send(_TEXT, text.encode("utf-8"))

    def _send(self, kind: int, content: bytes) -> None:
        size = len(content)
        head = bytes([0x80 | kind])
        if size < 126:
            head += bytes([0x80 | size])
        elif size < 1 << 16:
            head += struct.pack(">BH", 0x80 | 126, size)
        else:
            head += struct.pack(">BQ", 0x80 | 127, size)
        mask = os.urandom(4)
        masked = bytes(byte ^ mask[place % 4] for place, byte in enumerate(content))
        self._socket.settimeout(10.0)
        self._socket.sendall(head + mask + masked)

    def close(self) -> None:
        """Closes the connection; again is no mistake."""
        try:
            self._send(_CLOSE, b"")
        except OSError:
            pass  # it is closed already
        self._socket.close()
