"""What tools/serve.py does per second: python benchmarks/serving.py [ID ...].

Clients in threads send made-up videos of ten seconds (340x256, H.264) to a server on the same machine, each its next
one as soon as the last is answered. Weights are random, which costs the same. `demo` is the network of `make demo`;
every other name is a published row. CPU seconds are those of all processes of the server. For comparison, the same
videos one after the other through `videobench.Predictor`.
"""

import argparse
import http.client
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import av
import numpy as np
import torch
from clock import usable_device
from record import facts, read_results, write_results

import videobench

ROOT = Path(__file__).resolve().parents[1]
RESULTS = Path(__file__).parent / "results/serving.json"
DEMO = ROOT / "configs/demo/uniformer_tiny.yaml"


def write_video(path: Path, seed: int) -> None:
    """Ten seconds of a texture that moves, 340x256, 30 frames per second."""
    rng = np.random.default_rng(seed)
    texture = np.kron(rng.integers(0, 256, (64, 85, 3), np.uint8), np.ones((4, 4, 1), np.uint8))
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=30, options={"preset": "veryfast", "threads": "1"})
        stream.height, stream.width = texture.shape[:2]
        stream.pix_fmt = "yuv420p"
        for number in range(300):
            picture = np.roll(texture, (number, 2 * number), (0, 1))
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())


def write_weights(name: str, path: Path) -> str:
    """Random weights; what they are loaded with as `--model`."""
    model = videobench.build_model(videobench.load_config(DEMO)) if name == "demo" else videobench.create_model(name)
    torch.save({"model_state": model.state_dict()}, path)
    return str(DEMO) if name == "demo" else name


@contextmanager
def server(options: list[str]) -> Iterator[tuple[int, int]]:
    """A server on a free port; its port, and the number of its process group."""
    command = [sys.executable, str(ROOT / "tools/serve.py"), *options, "--port", "0"]
    # The last of many clients may wait for long.
    command += ["--timeout", "1200"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True)  # noqa: S603
    said = []
    for line in process.stderr:
        said.append(line)
        if found := re.search(r"running on http://127\.0\.0\.1:(\d+)", line):
            break
    else:
        raise SystemExit(f"the server did not start:\n{''.join(said)}")
    try:
        yield int(found[1]), process.pid
    finally:
        process.terminate()
        process.wait()
        process.stderr.close()


def send(port: int, video: bytes) -> float:
    """Seconds until the answer."""
    start = time.perf_counter()
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=600)
    connection.request("POST", "/predict", video)
    reply = connection.getresponse()
    content = reply.read()
    connection.close()
    if reply.status != 200:
        raise RuntimeError(f"{reply.status}: {content.decode()}")
    return time.perf_counter() - start


def batches(port: int) -> tuple[float, float]:
    """Videos scored so far, and in how many batches."""
    connection = http.client.HTTPConnection("127.0.0.1", port)
    connection.request("GET", "/metrics")
    text = connection.getresponse().read().decode()
    return tuple(float(re.search(rf"videobench_batch_videos_{what} (\S+)", text)[1]) for what in ("sum", "count"))


def cpu_seconds(group: int) -> float:
    """What the processes of a group have used."""
    ticks = 0
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            # The name, in brackets, may hold anything.
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:  # it has ended
            continue
        if int(fields[2]) == group:
            ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def load(port: int, group: int, videos: list[bytes], clients: int, requests: int) -> dict[str, float]:
    """Requests per second, latencies and batches with so many clients at the same time."""
    videos_before, batches_before = batches(port)
    cpu = cpu_seconds(group)
    start = time.perf_counter()
    with ThreadPoolExecutor(clients) as threads:
        seconds = sorted(threads.map(lambda i: send(port, videos[i % len(videos)]), range(requests)))
    wall = time.perf_counter() - start
    scored, passes = batches(port)
    return {
        "requests": requests,
        "per_second": round(requests / wall, 2),
        "cpu_s": round((cpu_seconds(group) - cpu) / requests, 4),
        "median_s": round(statistics.median(seconds), 3),
        "p95_s": round(seconds[int(0.95 * (len(seconds) - 1))], 3),
        "videos_per_batch": round((scored - videos_before) / (passes - batches_before), 2),
    }


def one_by_one(
    weights: Path, model: str, paths: list[Path], requests: int, batch: int, device: str
) -> dict[str, float]:
    """Videos per second through a Predictor, and CPU seconds of each."""
    predictor = videobench.Predictor(weights, model, device=device, batch_size=batch)
    predictor.predict(paths[0])
    start, cpu = time.perf_counter(), time.process_time()
    for number in range(requests):
        predictor.predict(paths[number % len(paths)])
    wall, cpu = time.perf_counter() - start, time.process_time() - cpu
    return {"requests": requests, "per_second": round(requests / wall, 2), "cpu_s": round(cpu / requests, 4)}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", default=["demo", "movinet_a0_base_k600"], help="demo, or published rows")
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 8, 50], help="at the same time")
    parser.add_argument(
        "--requests", type=int, default=100, help="per number of clients, at least one each (default: %(default)s)"
    )
    parser.add_argument("--batch", type=int, default=1, help="views at a time (default: %(default)s)")
    parser.add_argument("--device", type=usable_device, default="cpu", help="cpu or cuda (default: %(default)s)")
    args = parser.parse_args()
    device = args.device.type
    results = read_results(RESULTS)
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder) / f"{number}.mp4" for number in range(4)]
        for number, path in enumerate(paths):
            write_video(path, number)
        videos = [path.read_bytes() for path in paths]
        for name in args.names:
            weights = Path(folder) / "weights.pth"
            model = write_weights(name, weights)
            figures = {"predictor": one_by_one(weights, model, paths, max(4, args.requests // 4), args.batch, device)}
            options = ["--weights", str(weights), "--model", model, "--batch", str(args.batch), "--device", device]
            with server(options) as (port, group):
                for video in videos:
                    send(port, video)
                for clients in args.clients:
                    figures[f"{clients} clients"] = load(port, group, videos, clients, max(clients, args.requests))
            row = f"{name}, batch {args.batch}" + (", cuda" if device == "cuda" else "")
            results[row] = facts(args.device) | {"load": os.getloadavg()[2], "bytes": len(videos[0]), **figures}
            print(row, json.dumps(results[row], indent=1), flush=True)
            write_results(RESULTS, results)
    return 0


if __name__ == "__main__":
    sys.exit(main())
