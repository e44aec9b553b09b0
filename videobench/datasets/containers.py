"""Opening video files: only what is one, without ever waiting, and one error for everything that can be wrong."""

import io
import os
import stat
from pathlib import Path

import av
from av.container import InputContainer
from av.stream import Discard, Disposition
from av.video.stream import VideoStream

# FFmpeg's names of what it may take a file for. Left out are texts and playlists: these open other files and wait.
_FORMATS = (
    "3gp,aac,apng,asf,av1,avi,dv,flac,flv,gif,h264,hevc,ivf,live_flv,m4v,matroska,mjpeg,mov,mp3,mp4,mpeg,mpegts,"
    "mpegvideo,mxf,nut,obu,ogg,rm,wav,webm,wtv,yuv4mpegpipe"
)
# Before its version 19 PyAV refuses a file for a title that is not UTF-8, unless told otherwise.
ANY_METADATA = {"metadata_errors": "replace"} if int(av.__version__.split(".")[0]) < 19 else {}


class VideoError(Exception):
    """A video that cannot give what was asked of it.

    Attributes:
        path: the file.
        cause: what is wrong, without the file's name.
    """

    def __init__(self, path: str, cause: str) -> None:
        super().__init__(path, cause)
        self.path, self.cause = path, cause

    def __str__(self) -> str:
        return f"{self.path}: {self.cause}"


def name_of(source: str | Path | bytes) -> str:
    """What to call a source in messages: its path, or its size."""
    return f"<{len(source)} bytes>" if isinstance(source, bytes) else os.fspath(source)


def cause_of(error: BaseException) -> str:
    """What an exception says, without error numbers and file names."""
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


def open_video(source: str | Path | bytes) -> tuple[InputContainer, VideoStream]:
    """The container and its first video stream that is not a cover picture, set to decode in one thread.

    Raises:
        VideoError: for a source that is no regular file or holds no video.
    """
    name = name_of(source)
    if isinstance(source, bytes):
        if not source:
            raise VideoError(name, "empty file")
        file = io.BytesIO(source)
    else:
        _check_file(name)
        # The prefix keeps FFmpeg from reading a colon in a name as a protocol.
        file = f"file:{name}"
    options = {"format_whitelist": _FORMATS, "protocol_whitelist": "file"}
    try:
        container = av.open(file, container_options=options, **ANY_METADATA)
    except (av.InvalidDataError, av.ArgumentError, av.EOFError) as error:
        raise VideoError(name, "not a video, or its header is missing") from error
    except (av.FFmpegError, OSError) as error:
        raise VideoError(name, cause_of(error)) from error
    streams = [s for s in container.streams.video if not s.disposition & Disposition.attached_pic]
    kinds = sorted({"cover picture" if s.type == "video" else str(s.type) for s in container.streams})
    if not streams or streams[0].codec_context is None:
        container.close()
        missing = f"video stream, only {' and '.join(kinds) or 'a header'}" if not streams else "decoder for its codec"
        raise VideoError(name, f"no {missing}")
    for stream in container.streams:
        if stream is not streams[0]:
            stream.discard = Discard.all
    streams[0].codec_context.thread_count = 1
    return container, streams[0]


def _check_file(path: str) -> None:
    """Fail at once for what cannot be a video file; opening some of these would wait for ever."""
    try:
        status = os.stat(path)
    except FileNotFoundError as error:
        raise VideoError(path, "no such file") from error
    except OSError as error:
        raise VideoError(path, cause_of(error)) from error
    except ValueError as error:
        raise VideoError(path, "a null byte in its name") from error
    if stat.S_ISDIR(status.st_mode):
        raise VideoError(path, "is a directory")
    if not stat.S_ISREG(status.st_mode):
        raise VideoError(path, "not a regular file")
    if not status.st_size:
        raise VideoError(path, "empty file")
