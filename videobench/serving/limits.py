"""What a request may take, and how it is told that it may not."""

from dataclasses import dataclass

MIB = 1 << 20


@dataclass(frozen=True)
class Limits:
    """What one request, and all of them together, may take.

    Attributes:
        upload_bytes: size of a video file.
        upload_seconds: for the body of a request to come in.
        video_seconds: how long a video may play.
        decode_seconds: for decoding it; the process that does is killed then.
        decode_bytes: memory for decoding it, beyond what an idle decoder has.
        answer_seconds: from the end of an upload to its answer, waiting included.
        requests: how many are worked on or wait, uploads included; the disk holds as many files at most.
    """

    upload_bytes: int = 100 * MIB
    upload_seconds: float = 60.0
    video_seconds: float = 120.0
    decode_seconds: float = 30.0
    decode_bytes: int = 2048 * MIB
    answer_seconds: float = 60.0
    requests: int = 64


class Refusal(Exception):
    """A request that gets an error for an answer.

    Attributes:
        status: of the HTTP response.
        code: a word for programs.
        message: a sentence for people.
    """

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(status, code, message)
        self.status, self.code, self.message = status, code, message

    def __str__(self) -> str:
        return f"{self.status} {self.code}: {self.message}"
