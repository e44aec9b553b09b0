"""The path that older command lines name; the script is tools/run_with_submitit.py."""

import runpy
from pathlib import Path

runpy.run_path(str(Path(__file__).with_name("tools") / "run_with_submitit.py"), run_name="__main__")
