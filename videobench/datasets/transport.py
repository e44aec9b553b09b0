"""Items from a loader process to its owner: the tensors through memory that both see, the rest by pickle."""

import io
import mmap
import pickle
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

# Tensors begin at multiples of this many bytes.
_ALIGNED = 64


def shared_memory(size: int) -> mmap.mmap:
    """Zeroed memory that processes forked later share; pages exist from when they are first written.

    It is no file, so the size of /dev/shm, which containers keep small, does not limit it.

    Raises:
        MemoryError: when the address space that this process may use (ulimit -v) does not hold it.
    """
    # Left out of Python before 3.12.
    no_reserve = getattr(mmap, "MAP_NORESERVE", 0x4000)
    try:
        return mmap.mmap(-1, size, flags=mmap.MAP_SHARED | mmap.MAP_ANONYMOUS | no_reserve)
    except OSError as error:
        raise MemoryError(
            f"no address space for {size >> 20} MiB of batches in preparation ({error.strerror}); raise ulimit -v or "
            "lower DATA_LOADER.PREFETCH or DATA_LOADER.NUM_WORKERS"
        ) from error


def pack(item: Any, memory: memoryview) -> bytes | tuple[bytes, list[tuple[int, int]]]:
    """An item as what `unpack` takes; its tensors are written to ``memory``, or travel along where it is too small."""
    buffers: list[pickle.PickleBuffer] = []
    file = io.BytesIO()
    _Pickler(file, protocol=5, buffer_callback=buffers.append).dump(item)
    places, end = [], 0
    for buffer in buffers:
        content = buffer.raw()
        places.append((end, content.nbytes))
        end += -(-content.nbytes // _ALIGNED) * _ALIGNED
    if end > len(memory):
        file = io.BytesIO()
        _Pickler(file, protocol=5).dump(item)
        return file.getvalue()
    for buffer, (start, size) in zip(buffers, places, strict=True):
        memory[start : start + size] = buffer.raw()
    return file.getvalue(), places


def unpack(packed: bytes | tuple[bytes, list[tuple[int, int]]], memory: memoryview, *, copy: bool = True) -> Any:
    """The item; without ``copy``, its tensors are valid for as long as nothing else is packed into ``memory``."""
    if isinstance(packed, bytes):
        return pickle.loads(packed)  # noqa: S301 (from our own process)
    content, places = packed
    buffers = [memory[start : start + size] for start, size in places]
    return pickle.loads(content, buffers=[np.array(part) for part in buffers] if copy else buffers)  # noqa: S301


class _Pickler(pickle.Pickler):
    def reducer_override(self, value: Any) -> Any:
        if not isinstance(value, Tensor) or not value.numel():
            return NotImplemented
        # Strides stay as they are (channels may be innermost); gaps between elements do not.
        tensor = torch.empty_like(value).copy_(value) if value.untyped_storage().nbytes() != value.nbytes else value
        elements = tensor.as_strided((tensor.numel(),), (1,), 0).view(torch.uint8).numpy()
        return _tensor, (pickle.PickleBuffer(elements), tensor.dtype, tuple(tensor.shape), tensor.stride())


def _tensor(content: Any, dtype: torch.dtype, shape: Sequence[int], stride: Sequence[int]) -> Tensor:
    # torch would warn of memory that must not be written to; what came inside the pickle is.
    elements = np.frombuffer(content if not memoryview(content).readonly else bytearray(content), np.uint8)
    return torch.from_numpy(elements).view(dtype).as_strided(shape, stride)
