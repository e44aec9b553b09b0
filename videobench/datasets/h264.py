"""What the parameters of an H.264 stream say (ITU-T H.264, section 7.3.2.1.1)."""

# Profiles whose parameters describe colour sampling and scaling lists.
_HIGH_PROFILES = {44, 83, 86, 100, 110, 118, 122, 128, 134, 135, 138, 139, 244}


def may_hold_fields(extradata: bytes | None) -> bool:
    """Whether pictures may be fields, of which two make a frame and which may come in packets of their own.

    Args:
        extradata: the configuration record of a file (ISO/IEC 14496-15, 5.3.3.1); True for everything else, and for a
            record that breaks off.
    """
    if not extradata or extradata[0] != 1:
        return True
    try:
        count, place = extradata[5] & 31, 6
        for _ in range(count):
            start = place + 2
            place = start + int.from_bytes(extradata[place:start], "big")
            if not _only_frames(extradata[start:place]):
                return True
    except IndexError:
        return True
    return count == 0


class _Bits:
    """Numbers from a string of bits, read one after the other."""

    def __init__(self, content: bytes) -> None:
        self._bits = "".join(f"{byte:08b}" for byte in content)
        self._place = 0

    def bit(self) -> int:
        self._place += 1
        return int(self._bits[self._place - 1])

    def count(self) -> int:
        """An unsigned Exp-Golomb number (section 9.1)."""
        zeros = 0
        while not self.bit():
            zeros += 1
        value = 1
        for _ in range(zeros):
            value = 2 * value + self.bit()
        return value - 1

    def signed(self) -> int:
        """A signed Exp-Golomb number (section 9.1.1)."""
        value = self.count()
        return (value + 1) // 2 if value % 2 else -(value // 2)


def _only_frames(unit: bytes) -> bool:
    """frame_mbs_only_flag of a sequence parameter set."""
    profile = unit[1]
    # A 3 after two zeros is there to keep apart the units of a byte stream.
    bits = _Bits(unit[4:].replace(b"\0\0\3", b"\0\0"))
    bits.count()  # number of the set
    if profile in _HIGH_PROFILES:
        colour = bits.count()
        if colour == 3:
            bits.bit()
        for _ in range(2):
            bits.count()  # bit depths
        bits.bit()
        if bits.bit():
            for place in range(8 if colour != 3 else 12):
                if bits.bit():
                    _skip_scaling_list(bits, 16 if place < 6 else 64)
    bits.count()  # frame numbers
    order = bits.count()
    if order == 0:
        bits.count()
    elif order == 1:
        bits.bit()
        for _ in range(2):
            bits.signed()
        for _ in range(bits.count()):
            bits.signed()
    bits.count()  # reference frames
    bits.bit()
    for _ in range(2):
        bits.count()  # width and height
    return bool(bits.bit())


def _skip_scaling_list(bits: _Bits, size: int) -> None:
    last = following = 8
    for _ in range(size):
        if following:
            following = (last + bits.signed()) % 256
        last = following or last
