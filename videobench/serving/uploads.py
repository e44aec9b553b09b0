"""The body of a request into a file, piece by piece: a form with a field ``file``, or the bare video."""

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from typing import BinaryIO

import anyio
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.requests import Request

from videobench.serving.limits import MIB, Limits, Refusal

FIELD = "file"
# What a form may have besides its file.
_FORM_BYTES = 64 << 10
# A client that is still sending sees an answer only once it is done: this much of a refused body is read and dropped.
_DROPPED_SECONDS = 10.0


class Body:
    """The body of a request."""

    def __init__(self, request: Request) -> None:
        self._request, self._begun, self._ended = request, False, False

    async def pieces(self) -> AsyncIterator[bytes]:
        """Its bytes as they come in.

        Raises:
            Refusal: when the client goes away.
        """
        self._begun = True
        while not self._ended:
            message = await self._request.receive()
            if message["type"] == "http.disconnect":
                self._ended = True
                raise Refusal(400, "disconnected", "the upload broke off")
            self._ended = not message.get("more_body", False)
            yield message.get("body", b"")

    async def write_to(self, file: BinaryIO, limits: Limits) -> None:
        """Write the video in it to a file.

        Raises:
            Refusal: when it is too large, comes too slowly or is no proper form.
        """
        headers = self._request.headers
        kind, options = parse_options_header(headers.get("content-type"))
        form = kind == b"multipart/form-data"
        most = limits.upload_bytes + form * _FORM_BYTES
        if int(headers.get("content-length", 0)) > most:
            raise _too_large(limits)
        left = limits.upload_bytes

        def write(piece: bytes) -> None:
            nonlocal left
            left -= len(piece)
            if left < 0:
                raise _too_large(limits)
            file.write(piece)

        target = _Form(options.get(b"boundary", b""), write) if form else None
        try:
            with anyio.fail_after(limits.upload_seconds):
                async for piece in self.pieces():
                    most -= len(piece)
                    if most < 0:
                        raise _too_large(limits)
                    target.take(piece) if target else write(piece)
                    # A form of nothing but small fields would keep the server busy for minutes.
                    if left > most:
                        message = f"the form has more than {_FORM_BYTES >> 10} KiB besides its file"
                        raise Refusal(413, "too_large", message)
        except TimeoutError as error:
            self._ended = True  # as far as we are concerned
            raise Refusal(408, "upload_timeout", f"the upload took more than {limits.upload_seconds:g} s") from error
        if target:
            target.finish()

    async def drop(self, limits: Limits) -> None:
        """Read what is left, within bounds; nothing of a body that the client sends only when it is asked to."""
        if not self._begun and "100-continue" in self._request.headers.get("expect", "").lower():
            return
        left = limits.upload_bytes
        with anyio.move_on_after(_DROPPED_SECONDS):
            try:
                async for piece in self.pieces():
                    left -= len(piece)
                    if left < 0:
                        return
            except Refusal:
                return  # the client is gone


class _Form:
    """The field ``file`` of a form, which comes in pieces; other fields are ignored.

    Args:
        boundary: what is between the fields.
        write: takes pieces of the file.
    """

    def __init__(self, boundary: bytes, write: Callable[[bytes], None]) -> None:
        self._write, self._files, self._complete = write, 0, False
        self._header, self._value, self._wanted = b"", b"", False
        callbacks = {
            "on_header_begin": self._begin_header,
            "on_header_field": self._take_header,
            "on_header_value": self._take_value,
            "on_header_end": self._end_header,
            "on_part_data": self._take_data,
            "on_part_end": self._end_part,
            "on_end": self._end,
        }
        with _form_errors():
            self._parser = MultipartParser(boundary, callbacks)

    def take(self, piece: bytes) -> None:
        """The next piece of the body."""
        with _form_errors():
            self._parser.write(piece)

    def finish(self) -> None:
        """The body is over.

        Raises:
            Refusal: when there was no file in it, or the form has no end.
        """
        if not self._complete:
            raise Refusal(400, "bad_form", "the form ends too early")
        if not self._files:
            raise Refusal(400, "bad_form", f"the form has no field {FIELD!r} with a video")

    def _begin_header(self) -> None:
        self._header = self._value = b""

    def _take_header(self, data: bytes, start: int, end: int) -> None:
        self._header += data[start:end]

    def _take_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _end_header(self) -> None:
        if self._header.lower() != b"content-disposition":
            return
        _, options = parse_options_header(self._value)
        self._wanted = options.get(b"name") == FIELD.encode()
        self._files += self._wanted
        if self._files > 1:
            raise Refusal(400, "bad_form", f"the form has more than one field {FIELD!r}; send one video per request")

    def _take_data(self, data: bytes, start: int, end: int) -> None:
        if self._wanted:
            self._write(data[start:end])

    def _end_part(self) -> None:
        self._wanted = False

    def _end(self) -> None:
        self._complete = True


@contextmanager
def _form_errors() -> Iterator[None]:
    try:
        yield
    except FormParserError as error:
        raise Refusal(400, "bad_form", f"the form cannot be read: {error}") from error


def _too_large(limits: Limits) -> Refusal:
    return Refusal(413, "too_large", f"the upload is larger than {limits.upload_bytes / MIB:g} MiB")
