"""What H.264 parameters say of encoded files, and of what is none."""

import av
import pytest
from video_fixtures import write_clip

from videobench.datasets.h264 import may_hold_fields


@pytest.mark.parametrize(
    ("options", "pix_fmt", "fields"),
    [
        ({}, "yuv420p", False),
        ({"profile": "baseline"}, "yuv420p", False),
        ({"x264-params": "cqm=jvt"}, "yuv420p", False),
        ({"x264-params": "cqm=jvt"}, "yuv444p", False),
        ({}, "yuv420p10le", False),
        ({"x264-params": "interlaced=1"}, "yuv420p", True),
        ({"x264-params": "interlaced=1:cqm=jvt"}, "yuv444p", True),
    ],
)
def test_only_interlaced_files_may_hold_fields(options, pix_fmt, fields, tmp_path):
    path = write_clip(tmp_path / "a.mp4", pix_fmt=pix_fmt, options=options)
    with av.open(str(path)) as container:
        record = container.streams.video[0].codec_context.extradata
    assert may_hold_fields(record) is fields
    assert all(may_hold_fields(record[:end]) for end in range(8 + 4))


def test_what_is_no_record_may_hold_anything():
    assert may_hold_fields(None)
    assert may_hold_fields(b"\0\0\0\1\x67\x64\0\x1f")
    assert may_hold_fields(b"\1\x64\0\x1f\xff\xe0")
